"""Find the campaign of a request, for a token that covers its sender."""

import logging
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.campaigns import store
from campaign.campaigns.campaign import Campaign, Progress
from common.web.auth import Caller
from common.web.problems import Conflict, NotFound, Reason

log = logging.getLogger(__name__)

P = TypeVar("P", bound=Progress)


class CampaignUnreadable(Conflict):
    slug, title = "campaign-unreadable", "This version cannot read the campaign's stored content"


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
