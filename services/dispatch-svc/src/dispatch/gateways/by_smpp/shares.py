"""How the binds that an operator allows are shared between processes. Pure.

A part of the binds is for the processes that send codes and answers: a process of campaigns alone never holds it. Then
each process gets its next bind in turn, the oldest first, so that a new process takes none from one that is stopping.
"""

from collections.abc import Sequence
from typing import NamedTuple

CODES_PART = 5  # a fifth of the binds, at least one of several


class Claim(NamedTuple):
    """What a process wants of an account. `codes`: the process sends codes and answers. `holds`: binds held now."""

    holder: str
    codes: bool
    wants: int
    holds: int


def shares(claims: Sequence[Claim], allowed: int) -> dict[str, int]:
    """Return the binds of each process, oldest first in `claims`."""
    given = {claim.holder: 0 for claim in claims}
    kept = max(1, allowed // CODES_PART) if allowed > 1 else 0
    _deal([claim for claim in claims if claim.codes], max(1, kept), given)
    others = [claim for claim in claims if not claim.codes]
    while sum(given.values()) < allowed:
        able = [claim for claim in claims if given[claim.holder] < claim.wants]
        if sum(given[claim.holder] for claim in others) >= allowed - kept:
            able = [claim for claim in able if claim.codes]
        if not able:
            break
        given[min(able, key=lambda claim: given[claim.holder]).holder] += 1
    return given


def granted(holder: str, claims: Sequence[Claim], allowed: int) -> int:
    """Return how many binds a process may hold now: its share, less where others still hold theirs."""
    held = sum(claim.holds for claim in claims if claim.holder != holder)
    return max(0, min(shares(claims, allowed).get(holder, 0), allowed - held))


def _deal(claims: Sequence[Claim], many: int, given: dict[str, int]) -> None:
    while sum(given.values()) < many:
        able = [claim for claim in claims if given[claim.holder] < claim.wants]
        if not able:
            return
        given[min(able, key=lambda claim: given[claim.holder]).holder] += 1
