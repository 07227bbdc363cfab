"""consent-svc, wired: its routes, its subscriptions, and what its watermark stands on."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.consumer import applied_watermark
from common.contracts import INBOUND_MESSAGES
from common.service import Background, Service
from common.settings import ServiceSettings
from consent import api, checks, intake, receipts, reconciliations, store

BATCH_BYTES = 4 * 1024 * 1024  # a thousand opt-ins, each with the text that was shown


class Settings(ServiceSettings):
    """Nothing beyond what all four services share."""


def build(settings: Settings | None = None) -> Service[Settings]:
    """The watermark's ceiling: consent knows no more of an instant than it has applied of the operators' messages up
    to it, in every partition. By its own clock alone, a STOP still on its way to it would count as read (ADR-0004)."""
    settings = settings or Settings()
    partitions = settings.partitions

    async def ceiling(tx: AsyncConnection) -> datetime | None:
        return await applied_watermark(tx, intake.GROUP, INBOUND_MESSAGES, partitions)

    return Service(
        name="consent",
        settings=settings,
        metadata=store.metadata,
        routers=[api.router, checks.router, reconciliations.router],
        background=lambda _: Background(subscriptions=[intake.inbound_messages, receipts.dispatch_messages]),
        ceiling=ceiling,
        body_limits={"/v1/consents/batch": BATCH_BYTES},
    )
