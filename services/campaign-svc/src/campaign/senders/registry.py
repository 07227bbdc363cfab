"""Keep a copy of the sender registry published by consent-svc."""

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.senders import store
from campaign.senders.store import Sender
from common.contracts import SENDERS
from common.contracts.consent import SenderChanged
from common.db.database import Database
from common.kafka.subscription import After, Received, Subscription
from common.web.auth import Caller
from common.web.problems import NotFound, Reason

ARRIVE_WITHIN_S = 2.0  # a sender registered a moment ago is still on the topic


def subscription() -> Subscription:
    # the group name came with the OADC column: a new group reads the topic from its start
    return Subscription("campaign.registry", SENDERS, apply)


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    for received in batch:
        if isinstance(received.event, SenderChanged):
            await store.put_sender(tx, received.event)
    return None


async def known(database: Database, caller: Caller, sender_id: str) -> Sender:
    """Return a sender that the caller may use, after a wait for a new registration. Raises Forbidden, NotFound."""
    await caller.may_use(sender_id)
    async with database.begin() as tx:
        found = await store.find_sender(tx, sender_id)
    if found is None:
        raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
    return found
