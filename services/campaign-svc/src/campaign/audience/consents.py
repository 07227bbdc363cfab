"""Keep each subject's newest consent state, as published by consent-svc.

The states serve counts and opt-outs; the gate alone decides whether a message may leave. After a poison record its
subject is unreadable until a newer record.
"""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import opt_outs, store
from campaign.audience.reach import Standing
from common.contracts import STATES
from common.contracts.consent import ConsentStateChanged
from common.kafka.reading.offsets import applied_watermark
from common.kafka.subscription import After, Received, Subscription

GROUP = "campaign.consents"


def subscription() -> Subscription:
    return Subscription(GROUP, STATES, apply, on_poison=mark_unreadable)


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    newest: dict[str, ConsentStateChanged] = {}
    for received in batch:
        event = received.event
        if isinstance(event, ConsentStateChanged):
            known = newest.get(event.subject_id)
            if known is None or known.version < event.version:
                newest[event.subject_id] = event
    await opt_outs.keep(tx, (r.event for r in batch if isinstance(r.event, ConsentStateChanged)))
    if newest:
        await store.put_standings(tx, {i: (event.version, _standing(event)) for i, event in newest.items()})
    return None


async def mark_unreadable(tx: AsyncConnection, key: str | None, partition: int, offset: int) -> None:
    """Mark the subject of a poison record unreadable, if the record has a key."""
    if key is not None:
        await store.mark_unreadable(tx, key)


async def as_of(tx: AsyncConnection, partitions: int) -> datetime | None:
    """Return the time up to which every consent change is applied; `None` during the first reading."""
    return await applied_watermark(tx, GROUP, STATES, partitions)


def _standing(event: ConsentStateChanged) -> Standing:
    return Standing(
        consents=event.consents,
        suppressions=event.suppressions,
        erased=event.erased,
        held=event.held_since is not None,
    )
