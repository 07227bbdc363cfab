"""Report over HTTP the consents to a sender that end soon, by month and singly, to win people back in time.

The report is no permission.
"""

from datetime import UTC, date, datetime
from functools import partial
from heapq import merge
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from common.db import everywhere
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.web.auth import Caller, require
from common.web.edge_id import ControllerIds
from common.web.fields import Storable
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position, subject_of
from consent.ledger import retention
from consent.ledger.term_store import Due
from consent.retention import store

router = APIRouter(prefix="/v1/senders/{sender_id}/endings")

MONTHS = 36
Held = Annotated[Resources[ServiceSettings], Depends(resources)]
Reads = Annotated[Caller, Depends(require("consent:read"))]
Months = Annotated[int, Query(ge=1, le=MONTHS, description="So many months, the present month first.")]


class EndingMonth(BaseModel):
    """The consents for a purpose that end in a month (UTC), unless the people are in touch before."""

    month: date = Field(description="The month's first day.")
    purpose: str
    consents: int = Field(description="Consents that end in the month.")
    asked: int = Field(description="People among them with a renewal question.")


class EndingMonths(BaseModel):
    """The endings by month."""

    items: list[EndingMonth] = Field(description="A line for each month and purpose with endings, the earliest first.")


class Ending(BaseModel):
    """A consent that ends soon. `subject_id`: the person's id with the sender's controller."""

    subject_id: str
    purpose: str
    last_contact: datetime = Field(
        description="The last act of the person towards the sender, from which the retention counts (CNIL)."
    )
    ends_at: datetime = Field(description="The end of the consent, unless the person is in touch before.")
    asked_at: datetime | None = Field(description="The time of the renewal question; null without a question.")


@router.get("/months", operation_id="endings.count")
async def count_endings(sender_id: Storable, caller: Reads, held: Held, months: Months = 6) -> EndingMonths:
    """Count the endings of `months` months, the present month first."""
    now = datetime.now(UTC)
    begins = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    await caller.may_use(sender_id)
    until = retention.after_months(begins, months)
    of_each = await everywhere.of_each(held.shards, lambda tx: store.endings_by_month(tx, sender_id, begins, until))
    found = everywhere.added(of_each, keyed_by=2) if held.shards.divided else of_each[0]
    return EndingMonths(items=[EndingMonth(**month._asdict()) for month in sorted(found)])


@router.get("", operation_id="endings.list")
async def list_endings(
    sender_id: Storable,
    caller: Reads,
    held: Held,
    months: Months = 1,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Ending]:
    """List the consents that end within `months` months, the soonest first."""
    await caller.may_use(sender_id)
    ids = held.edge_ids.of(await caller.controller_of(sender_id))
    until = retention.after_months(datetime.now(UTC), months)
    after = _after(cursor, ids)
    of_each = await everywhere.of_each(held.shards, lambda tx: store.endings(tx, sender_id, after, until, limit))
    found = list(islice(merge(*of_each, key=partial(store.order_of, sender_id)), limit))
    items = [_ending(row, ids) for row in found]
    return Page[Ending](items=items, next=next_of(found, limit, partial(_place, ids)))


def _ending(row: Due, ids: ControllerIds) -> Ending:
    return Ending(
        subject_id=ids.shown(row.subject_id),
        purpose=row.term.purpose,
        last_contact=row.term.last_contact,
        ends_at=row.term.expires_at,
        asked_at=row.question.asked_at if row.question else None,
    )


def _place(ids: ControllerIds, row: Due) -> tuple[datetime, str, str]:
    return row.term.expires_at, ids.shown(row.subject_id), row.term.purpose


def _after(cursor: str | None, ids: ControllerIds) -> tuple[datetime, str, str] | None:
    """Return the place behind a cursor. Raises Invalid."""
    after = position(cursor, tuple[datetime, str, str])
    if after is None:
        return None
    ends_at, who, purpose = after
    return ends_at, subject_of(who, ids), purpose
