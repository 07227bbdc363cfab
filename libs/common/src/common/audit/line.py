"""The lines of the audit log, and their chain. Pure.

A line has the account and the organisation, the route by its template, the scope, the person and the verdict of a call.
The person stands there by the id known to the caller (`common/web/edge_id.py`). No line has a number, a text, or a
value of a request.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal, get_args

import msgspec

from common.audit.chain import hashed, instant

Kind = Literal["read", "export", "proof", "decision", "call"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ALLOWED = "allowed"  # the verdict; else the reason of the refusal


class Line(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A call. `subject_id`: of the only person in the answer, as the caller knows the person.

    `people`: how many people the answer shows; `None` for an export, whose line is older than its content.
    """

    at: datetime
    organisation: str
    caller: str
    scope: str
    method: str
    route: str
    kind: Kind
    subject_id: str | None
    people: int | None
    verdict: str
    trace_id: str | None


class Kept(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A line in its place of the chain."""

    position: int
    line: Line
    previous: str
    hash: str


def link(previous: str, position: int, line: Line) -> str:
    """Return the hash of a line in its place."""
    written = {"at": instant(line.at), "caller": line.caller, "kind": line.kind, "method": line.method}
    told = {"organisation": line.organisation, "people": line.people, "position": position, "route": line.route}
    rest = {"scope": line.scope, "subject_id": line.subject_id, "trace_id": line.trace_id, "verdict": line.verdict}
    return hashed(previous, {**written, **told, **rest})


def chained(previous: str, position: int, lines: Iterable[Line]) -> Iterator[Kept]:
    """Yield the lines that follow the line at `position`, each in its place."""
    for place, line in enumerate(lines, start=position + 1):
        made = link(previous, place, line)
        yield Kept(position=place, line=line, previous=previous, hash=made)
        previous = made


def follows(before: Kept | None, kept: Kept) -> bool:
    """Return whether a line has its hash, and follows the line before; `None`: retention took the line before."""
    if before is not None and (before.position + 1, before.hash) != (kept.position, kept.previous):
        return False
    return kept.hash == link(kept.previous, kept.position, kept.line)
