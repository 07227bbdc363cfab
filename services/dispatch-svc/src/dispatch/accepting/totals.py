"""HTTP: the totals of senders by day or by week, with the real cost."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from common.db import everywhere
from common.service import Resources, resources
from common.sms.prices import euros
from common.web.auth import Caller, require
from common.web.pagination import OfSender
from common.web.problems import Invalid, Reason
from common.web.span import Since, Until, span
from dispatch.accepting import store

router = APIRouter(prefix="/v1", tags=["dispatch"])

Held = Annotated[Resources[Any], Depends(resources)]
Reads = Annotated[Caller, Depends(require("message:read"))]


class Total(BaseModel):
    """The messages of a sender and lane requested in a day or a week.

    `messages` is the sum of pending, denied, deferred, expired, accepted, rejected and unknown.
    """

    begins: date = Field(description="The day, or the Monday of the week, in the time zone of the report.")
    sender_id: str
    category: str
    messages: int = Field(description="Messages requested in the day or the week.")
    pending: int = Field(description="Messages in a hand-off included.")
    denied: int
    deferred: int
    expired: int
    accepted: int
    rejected: int
    unknown: int
    delivered: int
    undelivered: int
    segments: int = Field(description="The SMS of the accepted and unknown messages, as sent.")
    cost: Decimal | None = Field(
        description="In euros, of the accepted and unknown messages with a price, at the price in force when each was"
        " sent; null if none of them has a price."
    )
    unpriced: int = Field(description="Accepted and unknown messages without a price: their cost is unknown.")


class Totals(BaseModel):
    """The messages of senders by day or week."""

    since: datetime = Field(description="The beginning of the time asked about.")
    until: datetime = Field(description="The end of the time asked about; the end itself is not included.")
    time_zone: str = Field(description="The time zone of days and weeks, as in the IANA database.")
    items: list[Total] = Field(description="The earliest first. A day or a week without messages has no item.")


@router.get("/reports/totals", operation_id="reports.totals")
async def report_totals(
    held: Held,
    caller: Reads,
    sender_id: OfSender = None,
    by: Annotated[Literal["day", "week"], Query(description="The length of the time that a line sums.")] = "day",
    time_zone: Annotated[str, Query(max_length=64, description="Of days and weeks, as in the IANA database.")] = "UTC",
    since: Since = None,
    until: Until = None,
) -> Totals:
    """Sum the messages requested in a time by day or by week, sender and lane, with status, DLR and real cost.

    The first and the last day or week hold only messages of the time asked about.
    """
    if time_zone not in available_timezones():
        raise Invalid("`time_zone` is not in the IANA database", reasons=[Reason("time_zone", "unknown_time_zone")])
    begin, end = span(since, until, datetime.now(UTC))
    senders = await caller.covered(sender_id)
    of_each = await everywhere.of_each(held.shards, lambda tx: store.totals(tx, begin, end, senders, by, time_zone))
    found = sorted(everywhere.added(of_each, keyed_by=3))
    items = [
        Total.model_validate(each._asdict() | {"cost": None if each.cost is None else euros(each.cost)})
        for each in found
    ]
    return Totals(since=begin, until=end, time_zone=time_zone, items=items)
