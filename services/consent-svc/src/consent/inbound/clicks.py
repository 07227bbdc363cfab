"""That people followed a link of a campaign: contact from them with its sender (CNIL: a click counts, an opening does
not; DOMAIN 1.4). campaign-svc tells of people and not of machines; what is worth a line is decided here."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import CLICKS
from common.contracts.campaign import LinkClicked
from common.kafka.consumer import After, Received, Subscription
from consent.ledger import recorder
from consent.retention.contacts import contact, worth_keeping

GROUP = "consent.clicks"
SOURCE = "click"


async def apply(tx: AsyncConnection, batch: list[Received]) -> After | None:
    told = {
        place: contact(
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
        await recorder.record(tx, list(worth.values()), datetime.now(UTC))
    return None


subscription = Subscription(GROUP, CLICKS, apply, skips_unknown=True)
