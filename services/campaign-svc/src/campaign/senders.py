"""What campaign-svc knows of senders: the registry as consent-svc publishes it."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign import store
from campaign.store import Sender
from common.contracts import SENDERS
from common.contracts.consent import SenderChanged
from common.db.database import Database
from common.kafka.consumer import After, Received, Subscription
from common.web.problems import NotFound, Reason

ARRIVES_WITHIN_S = 2.0  # a sender registered a moment ago is still on its way here
LOOK_EVERY_S = 0.05


def subscription() -> Subscription:
    # a name of its own since senders are kept with their OADC: a new group reads all of them from the beginning
    return Subscription("campaign.registry", SENDERS, apply)


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    for received in batch:
        if isinstance(received.event, SenderChanged):
            await store.put_sender(tx, received.event)
    return None


async def known(database: Database, sender_id: str) -> Sender:
    """Raises NotFound, once a sender registered just before had time to arrive."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ARRIVES_WITHIN_S
    while True:
        async with database.begin() as tx:
            found = await store.find_sender(tx, sender_id)
        if found is not None:
            return found
        if loop.time() >= deadline:
            raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
        await asyncio.sleep(LOOK_EVERY_S)
