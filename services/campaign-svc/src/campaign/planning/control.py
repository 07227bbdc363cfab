"""The one door to a campaign's status: the step it may take, written, and told to the gate in the same transaction.

Of one that recurs, its occurrences that go on or are about to are paused with it, and go on with it. Who holds the row
of an occurrence never waits for that of its series, so the other way round nobody waits for ever.
"""

from collections import Counter
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.campaigns import store as campaigns
from campaign.planning import store
from campaign.schedule import lifecycle
from campaign.schedule.lifecycle import Action, Status
from common.contracts import CONTROLS
from common.contracts.campaign import CampaignControlled
from common.kafka import outbox

SERIES_PAUSED = "series_paused"  # why an occurrence was paused


async def take(tx: AsyncConnection, row: Row[Any], action: Action, now: datetime) -> None:
    """`row` is the campaign, locked by the caller. Raises NotPossible with nothing written.

    Short, whatever the size of a campaign, for what is on its way leaves until the gate has been told: of a cancelled
    one the gate denies who was asked for, and the planner everybody else, afterwards.
    """
    found = lifecycle.step(Status(row.status), action, begun=row.started_at is not None)
    await campaigns.forget_reasons(tx, row.campaign_id, "paused")  # whyever it was
    nothing_new = found.status == row.status and found.control is None
    if nothing_new and action is not Action.SCHEDULE:  # at another time
        return
    version = await campaigns.set_status(
        tx, row.campaign_id, found.status, controlled=found.control is not None, now=now
    )
    if found.control is not None:
        event = CampaignControlled(
            campaign_id=row.campaign_id, sender_id=row.sender_id, control=found.control, version=version
        )
        await outbox.append(tx, CONTROLS, [event])


async def pause_occurrences(tx: AsyncConnection, row: Row[Any], now: datetime) -> None:
    """`row` recurs, and is locked."""
    for each in await store.lock_occurrences(tx, row.campaign_id):
        await take(tx, each, Action.PAUSE, now)
        await campaigns.add_reasons(tx, "paused", {each.campaign_id: Counter({SERIES_PAUSED: 1})})


async def resume_occurrences(tx: AsyncConnection, row: Row[Any], now: datetime) -> None:
    """Those that were paused with it, and that nobody has resumed since. One that has not started and whose end has
    come is cancelled: nobody would get it."""
    for each in await store.lock_occurrences(tx, row.campaign_id, paused_because=SERIES_PAUSED):
        too_late = each.started_at is None and lifecycle.ends_by(each.starts_at, each.send_before) <= now
        await take(tx, each, Action.CANCEL if too_late else Action.RESUME, now)


async def cancel_occurrences(tx: AsyncConnection, row: Row[Any], now: datetime) -> None:
    """Those that were paused with it: nothing would resume them any more."""
    for each in await store.lock_occurrences(tx, row.campaign_id, paused_because=SERIES_PAUSED):
        await take(tx, each, Action.CANCEL, now)
