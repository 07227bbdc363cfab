"""Show campaigns with status, waits and tallies."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign import accounts
from campaign.api.bodies import Campaign, Failing, SendingWaits, Statistics
from campaign.campaigns import store as campaigns
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

_DECODED = ("audience", "translations", "timing", "recurring", "trial", "choice")  # stored as JSON, decoded one by one


async def shown(tx: AsyncConnection, held: Resources[Any], rows: Sequence[Row[Any]]) -> list[Campaign]:
    reasons = await campaigns.reasons_of(tx, [row.campaign_id for row in rows])
    hold = await planning.hold_of_marketing(tx)
    held_up = SendingWaits(since=hold.since, consents_as_of=hold.consents_as_of) if hold else None
    policy, now = held.settings.policy, datetime.now(UTC)
    hours = await planning.first_hours(
        tx, [r.campaign_id for r in rows if r.status == Status.RUNNING and not r.expanded]
    )
    settled = await planning.being_settled(
        tx, sorted({r.sender_id for r in rows if r.status == Status.SCHEDULED and r.starts_at <= now}), now
    )
    found = []
    for row in rows:
        sender = await senders.find_sender(tx, row.sender_id)
        assert sender is not None
        wording = campaigns.wording_of(row)
        template = wording.templates[wording.language]
        fields = dict(row._mapping)
        paused_because = sorted(reasons.get((row.campaign_id, "paused"), {}))
        opens_at = table(row, sender, policy).opens_at(sender.country) if row.starts_at else None
        choice = campaigns.choice_of(row)
        draft = row.status == Status.DRAFT
        stage = Stage(
            status=Status(row.status),
            begun=row.started_at is not None,
            expanded=row.expanded,
            undecided=row.pending + row.deferred,
            starts_at=row.starts_at,
            ends_at=ends_by(row.starts_at, row.send_before) if row.starts_at else None,
            opens_at=opens_at,
            retry_at=row.retry_at,
            next_slot=row.next_slot,
            next_hour=hours.get(row.campaign_id),
            chosen_at=choice.at if choice is not None and row.winner is None else None,
            approval_missing=draft and await checks.lacks_approval(tx, row, sender),
            with_series=control.SERIES_PAUSED in paused_because,
            marketing_held=hold is not None,
            settles_first=settled.get(row.sender_id),
        )
        found.append(
            Campaign(
                **{name: fields[name] for name in Campaign.model_fields if name in fields and name not in _DECODED}
                | {"send_before": ends_by(row.starts_at, row.send_before) if row.starts_at else row.send_before},
                translations=msgspec.json.decode(row.translations),
                audience=msgspec.json.decode(row.selection),
                timing=campaigns.timing_of(row),
                recurring=campaigns.recurring_of(row),
                trial=campaigns.trial_of(row),
                choice=choice,
                opens_at=opens_at,
                length=length_of(template.sample(sender.stop_code) + sender.stop_added),
                costly=costly(row.text),
                paused_because=paused_because,
                sending_waits=held_up if row.status == Status.RUNNING else None,
                failing=Failing(attempts=row.failures, again_at=row.retry_at)
                if row.failures > campaigns.PASSING_FAILURES
                else None,
                waiting_for=waits(stage, now),
                statistics=Statistics(
                    audience=row.audience,
                    **{name: fields[name] for name in accounts.COUNTS},
                    handed_off=sum(fields[name] for name in accounts.OUTCOMES),
                    excluded=reasons.get((row.campaign_id, "excluded"), {}),
                    denied_reasons=reasons.get((row.campaign_id, "denied"), {}),
                ),
            )
        )
    return found


def table(row: Row[Any], sender: Sender, policy: Policy) -> Timetable:
    """Build the timetable of a campaign with a start."""
    ends = ends_by(row.starts_at, row.send_before)
    return Timetable(campaigns.timing_of(row), sender.country, row.starts_at, row.at, ends, at_hand_off(policy))
