"""Records a click on a campaign link as a contact with the sender, if the contact is worth an entry.

A click counts as a contact, an opening does not (CNIL; DOMAIN 1.4).
"""

from datetime import UTC, datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import CLICKS
from common.contracts.campaign import LinkClicked
from common.kafka.subscription import After, Received, Subscription
from common.sms.subject_id import Inner
from consent.ledger import recorder
from consent.retention.contacts import contact, worth_keeping

GROUP = "consent.clicks"
SOURCE = "click"


async def apply(inner: Inner, tx: AsyncConnection, batch: list[Received]) -> After | None:
    told = {
        place: contact(
            inner,
            received.event.subject_id,
            received.event.sender_id,
            occurred_at=received.event.clicked_at,
            received_at=received.published_at,
            source=SOURCE,
            reference=f"{received.event.campaign_id}/{received.event.message_id}",
        )
        for place, received in enumerate(batch)
        if isinstance(received.event, LinkClicked)
    }
    if worth := await worth_keeping(tx, told):
        await recorder.record(tx, inner, list(worth.values()), datetime.now(UTC))
    return None


def subscription(inner: Inner) -> Subscription:
    return Subscription(GROUP, CLICKS, partial(apply, inner), skips_unknown=True)
