"""Find the campaign of a request, for a token that covers its sender."""

import logging
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.campaigns import store
from campaign.campaigns.campaign import Campaign, Progress
from common.web.auth import Caller
from common.web.problems import Conflict, NotFound, PastItsTime, Reason

log = logging.getLogger(__name__)

P = TypeVar("P", bound=Progress)


class CampaignUnreadable(Conflict):
    slug, title = "campaign-unreadable", "This version cannot read the campaign's stored content"


async def with_recipients(
    tx: AsyncConnection, caller: Caller, campaign_id: str, kept: timedelta, now: datetime
) -> Campaign:
    """Return a campaign whose recipients are still `kept` since its end. Raises PastItsTime, and as `found`."""
    campaign = await found(tx, caller, campaign_id)
    if campaign.ended_at is not None and campaign.ended_at < now - kept:
        raise PastItsTime(
            f"recipients are kept for {kept.days} days after the end", reasons=[Reason("campaign_id", "past")]
        )
    return campaign


async def found(tx: AsyncConnection, caller: Caller, campaign_id: str, *, lock: bool = False) -> Campaign:
    """Return a campaign of a sender that the token covers. Raises NotFound, Forbidden, CampaignUnreadable."""
    try:
        return covered(caller, await store.find_campaign(tx, campaign_id, lock=lock))
    except store.UNREADABLE as error:
        for progress in await store.progress_of(tx, "WHERE c.campaign_id = :id", {"id": campaign_id}):
            covered(caller, progress)
        log.exception("a campaign cannot be read", extra={"campaign_id": campaign_id})
        raise CampaignUnreadable(
            f"campaign {campaign_id} cannot be read by this version: pause or cancel the campaign, and write another",
            reasons=[Reason("campaign_id", "unreadable")],
        ) from error


def covered(caller: Caller, campaign: P | None) -> P:
    """Return a campaign of a sender that the token covers. Raises NotFound, Forbidden."""
    if campaign is None:
        raise NotFound("no such campaign", reasons=[Reason("campaign_id", "unknown_campaign")])
    caller.may_use(campaign.sender_id)
    return campaign
