"""Report over HTTP the consents to a sender that end soon, by month and singly, to win people back in time.

The report is no permission.
"""

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from common.service import Resources, resources
from common.settings import ServiceSettings
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import NotFound, Reason
from consent.ledger import retention
from consent.ledger.term_store import Due
from consent.retention import store
from consent.senders import store as senders_store

router = APIRouter(prefix="/v1/senders/{sender_id}/endings")

MONTHS = 36
Held = Annotated[Resources[ServiceSettings], Depends(resources)]
Reads = Annotated[Caller, Depends(require("consent:read"))]


class EndingMonth(BaseModel):
    """The consents for a purpose that end in a month (UTC), unless the people are in touch before."""

    month: date = Field(description="The month's first day.")
    purpose: str
    consents: int
    asked: int = Field(description="People among them with a renewal question.")


class EndingMonths(BaseModel):
    items: list[EndingMonth]


class Ending(BaseModel):
    """A consent that ends soon. `asked_at`: when the person was asked to renew."""

    subject_id: str
    purpose: str
    last_contact: datetime
    ends_at: datetime
    asked_at: datetime | None


@router.get("/months")
async def count_endings(
    sender_id: Storable, caller: Reads, held: Held, months: Annotated[int, Query(ge=1, le=MONTHS)] = 6
) -> EndingMonths:
    """Count the endings of `months` months, the present month first."""
    now = datetime.now(UTC)
    begins = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    await _known(caller, held, sender_id)
    async with held.database.begin() as tx:
        found = await store.endings_by_month(tx, sender_id, begins, retention.after_months(begins, months))
    return EndingMonths(
        items=[EndingMonth(month=month, purpose=purpose, consents=n, asked=asked) for month, purpose, n, asked in found]
    )


@router.get("")
async def list_endings(
    sender_id: Storable,
    caller: Reads,
    held: Held,
    months: Annotated[int, Query(ge=1, le=MONTHS)] = 1,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Ending]:
    """List the consents that end within `months` months, the soonest first."""
    await _known(caller, held, sender_id)
    until = retention.after_months(datetime.now(UTC), months)
    async with held.database.begin() as tx:
        found = await store.endings(tx, sender_id, position(cursor, tuple[datetime, str, str]), until, limit)
    return Page[Ending](items=[_ending(row) for row in found], next=next_of(found, limit, _place))


async def _known(caller: Caller, held: Resources[ServiceSettings], sender_id: str) -> None:
    """Raises Forbidden or NotFound."""
    caller.may_use(sender_id)
    async with held.database.begin() as tx:
        if await senders_store.find_sender(tx, sender_id) is None:
            raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])


def _ending(row: Due) -> Ending:
    return Ending(
        subject_id=row.subject_id,
        purpose=row.term.purpose,
        last_contact=row.term.last_contact,
        ends_at=row.term.expires_at,
        asked_at=row.question.asked_at if row.question else None,
    )


def _place(row: Due) -> tuple[datetime, str, str]:
    return row.term.expires_at, row.subject_id, row.term.purpose
