"""Show campaigns with status, waits and tallies."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.api.bodies import Campaign, Failing, SendingWaits, Statistics
from campaign.campaigns import store as campaigns
from campaign.campaigns.campaign import Campaign as Stored
from campaign.campaigns.tallies import reasons_of
from campaign.message.variants import OWN
from campaign.message.writing import costly, length_of
from campaign.planning import control
from campaign.planning import store as planning
from campaign.planning.waiting import Stage, waits
from campaign.preflight import checks
from campaign.schedule.lifecycle import Status, ends_by
from campaign.schedule.timing import Timetable
from campaign.senders import store as senders
from campaign.senders.store import Sender
from common.law import Policy, at_hand_off
from common.service import Resources


async def shown(tx: AsyncConnection, held: Resources[Any], page: Sequence[Stored]) -> list[Campaign]:
    reasons = await reasons_of(tx, [each.campaign_id for each in page])
    hold = await planning.hold_of_marketing(tx)
    held_up = SendingWaits(since=hold.since, consents_as_of=hold.consents_as_of) if hold else None
    policy, now = held.settings.policy, datetime.now(UTC)
    hours = await planning.first_hours(
        tx, [each.campaign_id for each in page if each.status is Status.RUNNING and not each.expanded]
    )
    settled = await planning.being_settled(
        tx,
        sorted({each.sender_id for each in page if each.status is Status.SCHEDULED and each.scheduled_start <= now}),
        now,
    )
    found = []
    for campaign in page:
        sender = await senders.find_sender(tx, campaign.sender_id)
        assert sender is not None
        wording = campaign.wordings[OWN]
        template = wording.templates[wording.language]
        paused_because = sorted(reasons.get((campaign.campaign_id, "paused"), {}))
        opens_at = table(campaign, sender, policy).opens_at(sender.country) if campaign.starts_at else None
        ends_at = ends_by(campaign.starts_at, campaign.send_before) if campaign.starts_at else None
        choice, tallies = campaign.choice, campaign.tallies
        draft, running = campaign.status is Status.DRAFT, campaign.status is Status.RUNNING
        stage = Stage(
            status=campaign.status,
            begun=campaign.begun,
            expanded=campaign.expanded,
            undecided=tallies.undecided,
            starts_at=campaign.starts_at,
            ends_at=ends_at,
            opens_at=opens_at,
            retry_at=campaign.retry_at,
            next_slot=campaign.next_slot,
            next_hour=hours.get(campaign.campaign_id),
            chosen_at=choice.at if choice is not None and campaign.winner is None else None,
            approval_missing=draft and await checks.lacks_approval(tx, campaign, sender),
            with_series=control.SERIES_PAUSED in paused_because,
            marketing_held=hold is not None,
            repeat_at=campaign.repeat_at if campaign.repeats else None,
            settles_first=settled.get(campaign.sender_id),
        )
        found.append(
            Campaign(
                campaign_id=campaign.campaign_id,
                sender_id=campaign.sender_id,
                name=campaign.name,
                purpose=campaign.purpose,
                text=campaign.text,
                language=campaign.language,
                translations=dict(campaign.translations),
                folding=campaign.folding,
                sectors=list(campaign.sectors),
                audience=msgspec.to_builtins(campaign.selection),
                rest_days=campaign.rest_days,
                status=campaign.status,
                sent_back=campaign.sent_back,
                created_at=campaign.created_at,
                timing=campaign.timing,
                recurring=campaign.recurring,
                series_id=campaign.series_id,
                trial=campaign.trial,
                winner=campaign.winner,
                choice=choice,
                missed=campaign.missed,
                priority=campaign.priority,
                at=campaign.at,
                starts_at=campaign.starts_at,
                opens_at=opens_at,
                started_at=campaign.started_at,
                ended_at=campaign.ended_at,
                archived_at=campaign.archived_at,
                send_before=ends_at or campaign.send_before,
                length=length_of(template.sample(sender.stop_code) + sender.stop_added),
                costly=costly(campaign.text),
                paused_because=paused_because,
                sending_waits=held_up if running else None,
                failing=_failing(campaign),
                waiting_for=waits(stage, now),
                statistics=Statistics(
                    **asdict(tallies),
                    handed_off=tallies.handed_off,
                    excluded=reasons.get((campaign.campaign_id, "excluded"), {}),
                    denied_reasons=reasons.get((campaign.campaign_id, "denied"), {}),
                ),
            )
        )
    return found


def _failing(campaign: Stored) -> Failing | None:
    if campaign.failures <= campaigns.PASSING_FAILURES:
        return None
    assert campaign.retry_at is not None, "a failure sets the next attempt"
    return Failing(attempts=campaign.failures, again_at=campaign.retry_at)


def table(campaign: Stored, sender: Sender, policy: Policy) -> Timetable:
    """Build the timetable of a campaign with a start."""
    starts_at = campaign.scheduled_start
    ends = ends_by(starts_at, campaign.send_before)
    return Timetable(campaign.timing, sender.country, starts_at, campaign.at, ends, at_hand_off(policy))
