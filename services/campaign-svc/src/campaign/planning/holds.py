"""Store whether dispatch-svc holds marketing, to show with running campaigns."""

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.planning import store
from common.contracts import DISPATCH_HOLDS
from common.contracts.dispatch import HoldChanged
from common.kafka.subscription import After, Received, Subscription

WAIT_MS = 1_000  # dispatch-svc publishes a hold after seconds; a second more does no harm


def subscription() -> Subscription:
    return Subscription("campaign.holds", DISPATCH_HOLDS, apply, wait_ms=WAIT_MS, skips_unknown=True)


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    for received in batch:
        if isinstance(received.event, HoldChanged):
            await store.put_hold(tx, received.event)
    return None
