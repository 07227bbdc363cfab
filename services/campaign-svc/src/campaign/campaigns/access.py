"""Find the campaign of a request, for a token that covers its sender."""

import logging
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.campaigns import store
from campaign.campaigns.campaign import Campaign, Owner, Progress
from common.web.auth import Caller
from common.web.problems import Conflict, NotFound, PastItsTime, Reason

log = logging.getLogger(__name__)

C = TypeVar("C", Progress, Owner)


class CampaignUnreadable(Conflict):
    """The stored content of the campaign cannot be read by this version of Placet; a campaign that runs is held.

    Pause or cancel the campaign, which both work, and tell the platform's operator.
    """

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
    """Return a campaign of a sender that the token covers. Raises NotFound, CampaignUnreadable.

    The owner is read first: the content of a stranger's campaign would take time to read, and tell of the campaign.
    """
    await covered(tx, caller, await store.find_owner(tx, campaign_id))
    try:
        return await store.read_campaign(tx, campaign_id, lock=lock)
    except store.UNREADABLE as error:
        log.exception("a campaign cannot be read", extra={"campaign_id": campaign_id})
        raise CampaignUnreadable(
            f"campaign {campaign_id} cannot be read by this version: pause or cancel the campaign, and write another",
            reasons=[Reason("campaign_id", "unreadable")],
        ) from error


async def covered(tx: AsyncConnection, caller: Caller, campaign: C | None) -> C:
    """Return a campaign of a sender that the token covers. Raises NotFound, also for a stranger's campaign."""
    missing = NotFound("no such campaign", reasons=[Reason("campaign_id", "unknown_campaign")])
    return await caller.theirs(tx, campaign, missing)
