"""A check: a name, the reason, what to do; and its finding. The run of many, side by side, bounded in time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Generic, Literal, TypeVar

import aiohttp

from placet_client import PlacetError

S = TypeVar("S")
T = TypeVar("T")

Outcome = Literal["holds", "broken", "not seen"]
POLL_S = 0.02


class Broken(Exception):
    """The subject does not do what the check demands; the message says what was seen."""


class NotSeen(Exception):
    """The check could not be made; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Check(Generic[S]):
    """One demand. `look` returns what was seen, and raises Broken or NotSeen.

    `turn`: checks of a turn run side by side, after those of lower turns.
    """

    name: str
    why: str
    remedy: str
    look: Callable[[S], Awaitable[str]] = field(repr=False)
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a check."""

    name: str
    outcome: Outcome
    seen: str
    why: str
    remedy: str


async def findings(checks: Sequence[Check[S]], subject: S, within_s: float) -> list[Finding]:
    """Make the checks, and return their findings in the order given. No check takes longer than `within_s`."""
    found: dict[str, Finding] = {}
    for _, turn in groupby(sorted(checks, key=lambda each: each.turn), key=lambda each: each.turn):
        for finding in await asyncio.gather(*(_finding(each, subject, within_s) for each in turn)):
            found[finding.name] = finding
    return [found[each.name] for each in checks]


async def _finding(check: Check[S], subject: S, within_s: float) -> Finding:
    outcome: Outcome
    try:
        async with asyncio.timeout(within_s):
            outcome, seen = "holds", await check.look(subject)
    except Broken as broken:
        outcome, seen = "broken", str(broken)
    except NotSeen as not_seen:
        outcome, seen = "not seen", str(not_seen)
    except TimeoutError:
        outcome, seen = "broken", f"not done within {within_s:.0f} s"
    except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError) as error:
        outcome, seen = "broken", f"the connection failed: {type(error).__name__}"
    except PlacetError as error:
        outcome, seen = "broken", f"Placet's API: {error}"
    return Finding(check.name, outcome, seen, check.why, check.remedy)


async def until(look: Callable[[], Awaitable[T | None]], within_s: float, otherwise: str, poll_s: float = POLL_S) -> T:
    """Return the first result of `look` that is not None. Raises Broken(`otherwise`) after `within_s`."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + within_s
    while (seen := await look()) is None:
        if loop.time() > until_s:
            raise Broken(otherwise)
        await asyncio.sleep(poll_s)
    return seen
