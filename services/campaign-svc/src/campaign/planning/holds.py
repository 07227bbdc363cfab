"""Whether dispatch-svc holds marketing, as it tells: shown with campaigns that are running."""

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.planning import store
from common.contracts import DISPATCH_HOLDS
from common.contracts.dispatch import HoldChanged
from common.kafka.consumer import After, Received, Subscription

WAIT_MS = 1_000  # what is told once it has lasted for seconds may be a second late


def subscription() -> Subscription:
    return Subscription("campaign.holds", DISPATCH_HOLDS, apply, wait_ms=WAIT_MS, skips_unknown=True)


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    for received in batch:
        if isinstance(received.event, HoldChanged):
            await store.put_hold(tx, received.event)
    return None
