"""Serve the opt-outs that reach a sender over HTTP: by pages, and as CSV.

A list needs one sender: the same STOP may be in force for one sender, and taken back for another.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime, BaseModel, Field

from common.db import everywhere
from common.db.shards import Shards
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.spreadsheet import ENCODING, cell, lines
from common.web.auth import Caller, require
from common.web.edge_id import ControllerIds
from common.web.fields import Storable
from common.web.pagination import LIMIT, SORTED, Cursor, Limit, Order, Page, Sort, next_of, position, subject_of
from common.web.streaming import Streamed
from consent.bodies import Reach
from consent.ledger import rules as ledger
from consent.opt_outs import store
from consent.opt_outs.store import Asked, Place
from consent.proof.retold import about_all

router = APIRouter(prefix="/v1")

PAGE = 2000  # lines of a page of the CSV
Held = Annotated[Resources[ServiceSettings], Depends(resources)]
Reads = Annotated[Caller, Depends(require("consent:read"))]
Sender = Annotated[Storable, Query(min_length=1, max_length=200)]
Purpose = Annotated[
    Storable | None,
    Query(max_length=200, description="Only opt-outs that close this purpose, wider opt-outs included."),
]
Since = Annotated[AwareDatetime | None, Query(description="Only opt-outs on record at this instant or later.")]
Until = Annotated[AwareDatetime | None, Query(description="Only opt-outs on record before this instant.")]


class OptOut(BaseModel):
    """An opt-out that reaches a sender. `subject_id`: the person's id with the sender's controller.

    An opt-out of every sender has no `source`, and the name of the controller's bundles as `evidence_id`. Such an
    opt-out is listed once the sender has a line of the person.
    """

    subject_id: str
    evidence_id: str
    reach: Reach = Field(description="The purpose, the sender, every sender of the controller, or everyone.")
    sender_id: str | None = Field(description="The sender that the person stopped, perhaps a sister; null: everyone.")
    purpose: str | None = Field(description="The purpose that the person left; null: every purpose.")
    source: str | None = Field(
        description="The channel: the caller's own, or one that Placet writes, such as `mo` or `preference_page`;"
        " null for an opt-out of every sender."
    )
    occurred_at: datetime = Field(description="Time at source.")
    recorded_at: datetime
    in_force: bool = Field(description="False once a newer opt-in has opened the purpose, or a purpose of the sender.")


COLUMNS = tuple(OptOut.model_fields)
CSV = {
    "schema": {"type": "string", "format": "binary"},
    "example": ",".join(COLUMNS) + "\r\nsub_5f2b8c0d,ev-00a1,sender,maison-lune,,mo,2026-03-02T14:05:00+00:00\r\n",
}


@router.get("/opt-outs", operation_id="opt_outs.list")
async def list_opt_outs(
    sender_id: Sender,
    caller: Reads,
    held: Held,
    purpose: Purpose = None,
    since: Since = None,
    until: Until = None,
    sort: Sort = "newest",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[OptOut]:
    """List the opt-outs that reach a sender, by the time of their record.

    Each STOP is a line, so a person may have several. `GET /v1/events` tells new ones as they come.
    """
    listed = await _listed(caller, held, sender_id, purpose, since, until)
    after = _after(cursor, listed.ids)
    found = await _page(held.shards, listed.asked, after, limit, sort)
    return Page[OptOut](items=[listed.shown(each) for each in found], next=next_of(found, limit, listed.cursor))


@router.get(
    "/opt-outs.csv",
    operation_id="opt_outs.export",
    response_class=Streamed,
    responses={200: {"content": {"text/csv": CSV}}},
)
async def export_opt_outs(
    sender_id: Sender,
    caller: Reads,
    held: Held,
    purpose: Purpose = None,
    since: Since = None,
    until: Until = None,
) -> Streamed:
    """Return the opt-outs that reach a sender as CSV, a line each, without numbers, the newest pages first.

    The export reads page after page: `in_force` is as at the time of reading.
    """
    listed = await _listed(caller, held, sender_id, purpose, since, until)
    name = f"attachment; filename=opt-outs-{sender_id}.csv"
    return Streamed(listed.file(held.shards), media_type="text/csv", headers={"Content-Disposition": name})


@dataclass(frozen=True, slots=True)
class _Listed:
    """A list for a caller. `ids`: of people with the sender's controller. `whole`: the caller operates the platform."""

    asked: Asked
    ids: ControllerIds
    whole: bool

    def shown(self, found: store.OptOut) -> OptOut:
        who, fact = self.ids.shown(found.subject_id), found.sender_id is None and not self.whole
        return OptOut(
            subject_id=who,
            evidence_id=about_all(found.evidence_id, who) if fact else found.evidence_id,
            reach=_reach(found),
            sender_id=found.sender_id,
            purpose=found.purpose,
            source=None if fact else found.source,
            occurred_at=found.occurred_at,
            recorded_at=found.recorded_at,
            in_force=self._in_force(found),
        )

    def cursor(self, found: store.OptOut) -> Place:
        return found.place._replace(subject_id=self.ids.shown(found.subject_id))

    def _in_force(self, found: store.OptOut) -> bool:
        sender_id, controller, purpose, *_ = self.asked
        if (closed := found.purpose or purpose) is not None:
            return ledger.standing_stop(found.state, sender_id, closed, controller) is not None
        return ledger.standing(found.state, sender_id, None) != "opted_in"

    async def file(self, shards: Shards) -> AsyncIterator[bytes]:
        """Yield the CSV file. The lines of a page stand in the order of the ids shown (ADR-0071)."""
        yield lines([COLUMNS]).encode(ENCODING)
        after: Place | None = None
        while True:
            page = await _page(shards, self.asked, after, PAGE, "newest")
            told = sorted((self.shown(each) for each in page), key=lambda each: each.subject_id)
            yield lines([cell(value) for value in dict(each).values()] for each in told).encode()
            if len(page) < PAGE:
                return
            after = page[-1].place


async def _page(shards: Shards, asked: Asked, after: Place | None, limit: int, sort: Order) -> Sequence[store.OptOut]:
    """Return the opt-outs behind `after`, merged of every shard's."""
    of_each = await everywhere.of_each(shards, lambda tx: store.page(tx, asked, after, limit, SORTED[sort]))
    return list(islice(merge(*of_each, key=attrgetter("place"), reverse=sort == "newest"), limit))


async def _listed(
    caller: Caller,
    held: Resources[Any],
    sender_id: str,
    purpose: str | None,
    since: datetime | None,
    until: datetime | None,
) -> _Listed:
    """Return the list for a sender that the caller may use. Raises Forbidden, NotFound."""
    await caller.may_use(sender_id)
    controller = await caller.controller_of(sender_id)
    return _Listed(Asked(sender_id, controller, purpose, since, until), held.edge_ids.of(controller), caller.everywhere)


def _reach(found: store.OptOut) -> Reach:
    if found.sender_id is None:
        return "everyone"
    if found.controller is not None:
        return "controller"
    return "sender" if found.purpose is None else "purpose"


def _after(cursor: str | None, ids: ControllerIds) -> Place | None:
    """Return the place behind a cursor. Raises Invalid."""
    after = position(cursor, Place)
    return None if after is None else after._replace(subject_id=subject_of(after.subject_id, ids))
