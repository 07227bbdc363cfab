"""Hold the messages of a request over HTTP against the limits: place, number, day and month.

The counts of a number are those of the ledger, under a lock of the number. Nothing is written for a refused message.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.campaign import Category
from common.sms.prices import Prices
from common.sms.sms_length import segments
from common.web.auth import Caller
from common.web.auth.rates import REFUSED
from dispatch.accepting import rules, store
from dispatch.quotas.budget import Purse


class Message(NamedTuple):
    """The parts of a message that limits and prices depend on."""

    category: Category
    sender_id: str
    subject_id: str
    territory: str
    text: str


class Refused(NamedTuple):
    """A refusal: the limit, and until when it refuses; `None`: until the operator changes the limits."""

    field: str | None
    name: str
    limit: str
    detail: str
    until: datetime | None


def _counts_numbers(caller: Caller) -> bool:
    limits = caller.granted.organisation
    return limits.per_number_hour is not None or limits.per_number_day is not None


async def lock(tx: AsyncConnection, caller: Caller, wanted: Collection[tuple[Category, str]], key: str | None) -> None:
    """Let no other request of the organisation take the last place of these numbers until the transaction ends.

    A concurrent repeat under `key` waits too, and finds the messages on record: a repeat needs no place.
    """
    if key is not None:
        await store.lock_key(tx, caller.account, key)
    locked = {subject_id for category, subject_id in wanted if category != "marketing" and _counts_numbers(caller)}
    if locked:
        await store.lock_counts(tx, caller.organisation, locked)


def _cost(message: Message, prices: Prices, now: datetime) -> int | None:
    many = max(1, segments(message.text))
    return prices.cost(message.territory, many, at=now, category=message.category, sender_id=message.sender_id)


async def charge(
    tx: AsyncConnection, purse: Purse, caller: Caller, messages: Sequence[Message], prices: Prices, now: datetime
) -> list[Refused | None]:
    """Charge each message, in order; return the refusal, if any.

    The caller holds the locks of the numbers (`lock`). The payments are given back if `tx` fails.
    """
    limits = caller.granted.organisation
    costs = [_cost(each, prices, now) if purse.spends else 0 for each in messages]
    for cost in costs:
        purse.expect(cost)
    numbers = {each.subject_id for each in messages if each.category != "marketing"}
    counts: dict[str, rules.Had] = {}
    if numbers and _counts_numbers(caller):
        counts = await store.had(tx, caller.organisation, numbers, now - rules.HOUR, now - rules.DAY)
    purse.undo_with(tx)
    await purse.stock()
    results: list[Refused | None] = []
    for each, cost in zip(messages, costs, strict=True):
        had = counts.get(each.subject_id, rules.Had())
        counted = each.category != "marketing"
        if not limits.allow(each.territory):
            REFUSED.labels("places").inc()
            detail = f"the limits do not allow messages to {each.territory}: ask the platform's operator to allow them"
            results.append(Refused("to", "place_not_allowed", each.territory, detail, None))
        elif counted and (reached := rules.reached(had, limits, now)) is not None:
            REFUSED.labels(reached.name).inc()
            detail = f"the number has had {reached.limit} messages: send the next one after {reached.until.isoformat()}"
            results.append(Refused("to", reached.name, str(reached.limit), detail, reached.until))
        elif (over := await purse.pay(cost)) is not None:
            again = f"send again after {over.until.isoformat()}" if over.until else "ask the platform's operator"
            results.append(Refused(None, over.name, over.limit, f"{over.name}: {over.limit}; {again}", over.until))
        else:
            results.append(None)
            counts[each.subject_id] = had.and_one(now) if counted else had
    return results
