"""What campaign-svc knows of consents: the newest state of each person, as consent-svc publishes it.

For counting before a campaign leaves, and opt-outs after it, and for nothing else: whether a message may go is the
gate's to decide, on knowledge that is never older than two seconds. What cannot be read makes its person unreadable
until something can.
"""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import opt_outs, store
from campaign.audience.reach import Standing
from common.contracts import STATES
from common.contracts.consent import ConsentStateChanged
from common.kafka.consumer import After, Received, Subscription, applied_watermark

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
    """Of whom nobody can tell, nothing is known here: they are counted as before."""
    if key is not None:
        await store.mark_unreadable(tx, key)


async def as_of(tx: AsyncConnection, partitions: int) -> datetime | None:
    """All that was acknowledged before is known here; None while it is being read for the first time."""
    return await applied_watermark(tx, GROUP, STATES, partitions)


def _standing(event: ConsentStateChanged) -> Standing:
    return Standing(
        consents=event.consents,
        suppressions=event.suppressions,
        erased=event.erased,
        held=event.held_since is not None,
    )
