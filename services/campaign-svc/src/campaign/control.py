"""The one door to a campaign's status: the step it may take, written, and told to the gate in the same transaction."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign import lifecycle, store
from campaign.lifecycle import Action, Status
from common import outbox
from common.contracts import CONTROLS
from common.contracts.campaign import CampaignControlled


async def take(tx: AsyncConnection, row: Row[Any], action: Action, now: datetime) -> None:
    """`row` is the campaign, locked by the caller. Raises NotPossible with nothing written.

    Short, whatever the size of a campaign, for what is on its way leaves until the gate has been told: of a cancelled
    one the gate denies who was asked for, and the planner everybody else, afterwards.
    """
    found = lifecycle.step(Status(row.status), action)
    if found.status is row.status and found.control is None:
        return
    await store.forget_reasons(tx, row.campaign_id, "paused")  # whyever it was
    version = await store.set_status(tx, row.campaign_id, found.status, controlled=found.control is not None, now=now)
    if found.control is not None:
        event = CampaignControlled(
            campaign_id=row.campaign_id, sender_id=row.sender_id, control=found.control, version=version
        )
        await outbox.append(tx, CONTROLS, [event])
