"""Read the opt-outs that reach a sender, by the time of their record. The table is the ledger's."""

from datetime import datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import NEWEST_FIRST, Direction
from consent.ledger.rules import SubjectState


class Place(NamedTuple):
    """The place of an opt-out in the list."""

    recorded_at: datetime
    subject_id: str
    sender_id: str
    purpose: str


class OptOut(NamedTuple):
    """An opt-out of a sender, of its controller by a sister sender, or of every sender. `state`: the person's now."""

    subject_id: str
    evidence_id: str
    sender_id: str | None
    controller: str | None
    purpose: str | None
    source: str
    occurred_at: datetime
    recorded_at: datetime
    state: SubjectState

    @property
    def place(self) -> Place:
        return Place(self.recorded_at, self.subject_id, self.sender_id or "", self.purpose or "")


class Asked(NamedTuple):
    """The opt-outs wanted: of a sender, recorded within [`since`, `until`). `purpose`: only opt-outs that close it."""

    sender_id: str
    controller: str
    purpose: str | None = None
    since: datetime | None = None
    until: datetime | None = None


_state = msgspec.json.Decoder(SubjectState)

# Each branch reads one index from one end. A person who stopped every sender is told of only to a sender with a
# line of the person (ADR-0067).
_REACHING = (
    "e.sender_id = :sender_id",
    "e.controller = :controller AND e.sender_id <> :sender_id",
    "e.sender_id IS NULL AND EXISTS (SELECT FROM evidence AS own WHERE own.subject_id = e.subject_id"
    " AND own.sender_id = :sender_id)",
)
_COLUMNS = ("e.recorded_at", "e.subject_id", "coalesce(e.sender_id, '')", "coalesce(e.purpose, '')")
_PLACE = ", ".join(_COLUMNS)
_BRANCH = (
    "(SELECT e.* FROM evidence AS e WHERE e.kind = 'opt_out' AND {reaching}"
    " AND (CAST(:purpose AS text) IS NULL OR e.purpose IS NULL OR e.purpose = :purpose)"
    " AND e.recorded_at >= coalesce(CAST(:since AS timestamptz), '-infinity')"
    " AND e.recorded_at < coalesce(CAST(:until AS timestamptz), 'infinity')"
    " AND e.recorded_at {direction.beyond}= coalesce(CAST(:at AS timestamptz), '{direction.start}')"
    f" AND (CAST(:at AS timestamptz) IS NULL OR ({_PLACE})"
    " {direction.beyond} (:at, :subject_id, :of_sender, :of_purpose))"
    " ORDER BY {ordered} LIMIT :limit)"
)


async def page(
    tx: AsyncConnection, asked: Asked, after: Place | None, limit: int, direction: Direction = NEWEST_FIRST
) -> list[OptOut]:
    """Return the opt-outs behind `after` in the list."""
    ordered = ", ".join(f"{column} {direction.order}" for column in _COLUMNS)
    branches = " UNION ALL ".join(
        _BRANCH.format(reaching=reaching, direction=direction, ordered=ordered) for reaching in _REACHING
    )
    rows = await tx.execute(
        text(
            "SELECT e.subject_id, e.evidence_id, e.sender_id, e.controller, e.purpose, e.source, e.occurred_at,"
            f" e.recorded_at, s.state::text AS state FROM ({branches}) AS e JOIN subject AS s USING (subject_id)"
            f" ORDER BY {ordered} LIMIT :limit"
        ),
        {
            **asked._asdict(),
            "at": after.recorded_at if after else None,
            "subject_id": after.subject_id if after else "",
            "of_sender": after.sender_id if after else "",
            "of_purpose": after.purpose if after else "",
            "limit": limit,
        },
    )
    return [OptOut(**row._asdict() | {"state": _state.decode(row.state)}) for row in rows]
