"""Own a campaign's status: check the step, write the status, publish to the gate and to the feed in one transaction.

A transaction holding an occurrence's lock never waits for the series': locking the series first cannot deadlock.
"""

from collections import Counter
from datetime import datetime
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.campaigns import store as campaigns
from campaign.campaigns import tallies
from campaign.campaigns.campaign import Progress
from campaign.planning import store
from campaign.schedule import lifecycle
from campaign.schedule.lifecycle import Action, Status
from common.contracts import CAMPAIGN_NOTICES, CONTROLS
from common.contracts.campaign import CampaignControlled, StatusChanged
from common.kafka import outbox

SERIES_PAUSED = "series_paused"  # an occurrence's reason
# the steps of the event feed; a resumption of a campaign not yet started leads to `scheduled`
TOLD: dict[tuple[Action, Status], Literal["start", "pause", "resume", "finish", "cancel"]] = {
    (Action.START, Status.RUNNING): "start",
    (Action.PAUSE, Status.PAUSED): "pause",
    (Action.RESUME, Status.RUNNING): "resume",
    (Action.FINISH, Status.FINISHED): "finish",
    (Action.CANCEL, Status.CANCELLED): "cancel",
}


async def take(tx: AsyncConnection, campaign: Progress, action: Action, now: datetime) -> None:
    """Take a step. The caller has locked the campaign. Raises NotPossible before any write.

    The step is short at any size, because messages leave until the gate knows.
    """
    found = lifecycle.step(campaign.status, action, begun=campaign.begun)
    await tallies.forget_reasons(tx, campaign.campaign_id, "paused")
    nothing_new = found.status is campaign.status and found.control is None
    if nothing_new and action is not Action.SCHEDULE:  # perhaps at another time
        return
    version = await campaigns.set_status(
        tx, campaign.campaign_id, found.status, controlled=found.control is not None, now=now
    )
    if found.control is not None:
        event = CampaignControlled(
            campaign_id=campaign.campaign_id, sender_id=campaign.sender_id, control=found.control, version=version
        )
        await outbox.append(tx, CONTROLS, [event])
    if (told := TOLD.get((action, found.status))) is not None:
        notice = StatusChanged(
            notice_id=campaign.campaign_id, sender_id=campaign.sender_id, action=told, changed_at=now
        )
        await outbox.append(tx, CAMPAIGN_NOTICES, [notice])


async def pause_occurrences(tx: AsyncConnection, series: Progress, now: datetime) -> None:
    """Pause a series' scheduled and running occurrences. The caller has locked the series."""
    for each in await store.lock_occurrences(tx, series.campaign_id):
        await take(tx, each, Action.PAUSE, now)
        await tallies.add_reasons(tx, "paused", {each.campaign_id: Counter({SERIES_PAUSED: 1})})


async def resume_occurrences(tx: AsyncConnection, series: Progress, now: datetime) -> None:
    """Resume occurrences paused with their series.

    An unstarted occurrence past its end is cancelled: no message could leave.
    """
    for each in await store.lock_occurrences(tx, series.campaign_id, paused_because=SERIES_PAUSED):
        too_late = not each.begun and lifecycle.ends_by(each.scheduled_start, each.send_before) <= now
        await take(tx, each, Action.CANCEL if too_late else Action.RESUME, now)


async def cancel_occurrences(tx: AsyncConnection, series: Progress, now: datetime) -> None:
    """Cancel occurrences paused with their series: no resumption would reach them."""
    for each in await store.lock_occurrences(tx, series.campaign_id, paused_because=SERIES_PAUSED):
        await take(tx, each, Action.CANCEL, now)
