"""What dispatch reports of each message: where its recipient stands, and the accounts that follow from it.

The newest version of each message counts; the campaign's counters move by the difference, in the same transaction, so
that they are exact at every instant, whatever comes twice or late.
"""

from collections import Counter, defaultdict
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign import store
from campaign.accounts import Standing, moved
from common.consumer import After, Received, Subscription
from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged
from common.telemetry import counter

REPORTED = counter("sms_campaign_recipients_total", "Recipients' changes as dispatch reported them.", ["status"])


def subscription() -> Subscription:
    return Subscription("campaign.progress", DISPATCH_MESSAGES, apply)


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    newest: dict[tuple[str, str], MessageChanged] = {}
    for received in batch:
        event = received.event
        if isinstance(event, MessageChanged) and event.campaign_id is not None:
            place = (event.campaign_id, event.subject_id)
            if place not in newest or newest[place].version < event.version:
                newest[place] = event
    if not newest:
        return None
    before = await store.lock_older(tx, list(newest.values()))
    if not before:
        return None
    events = [newest[place] for place in before]
    await store.update_recipients(tx, events)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    denials: dict[str, Counter[str]] = defaultdict(Counter)
    for (campaign_id, subject_id), old in before.items():
        event = newest[campaign_id, subject_id]
        new = Standing(event.status, event.reasons, event.receipt)
        counts[campaign_id].update(moved(old.counts, new.counts))
        denials[campaign_id].update(moved(old.denials, new.denials))
    await store.add_counts(tx, counts)
    await store.add_reasons(tx, "denied", denials)
    await store.finish_done(tx, datetime.now(UTC), sorted(counts))

    async def count() -> None:
        for event in events:
            REPORTED.labels(event.status).inc()

    return count
