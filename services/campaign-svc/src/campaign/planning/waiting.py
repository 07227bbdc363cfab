"""Say what a campaign waits for. Pure.

Every unended campaign has a wait; without a wait, no action would follow. A planner step which stays in the list is a
fault.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from campaign.schedule.lifecycle import Status

Reason = Literal[
    "scheduling",
    "approval",
    "resumption",
    "series",
    "start",
    "other_campaign",
    "retry",
    "audience",
    "consents",
    "window",
    "hour",
    "pace",
    "winner",
    "requests",
    "denials",
    "outcomes",
    "reports",
    "end",
]


class Waiting(BaseModel):
    """A wait of a campaign."""

    model_config = ConfigDict(frozen=True)

    reason: Reason = Field(
        description="Waits for a person: `scheduling` of a draft, `approval` by another person, `resumption` after a"
        " pause (see `paused_because`), `series`: the resumption of the recurring campaign. Waits for a time:"
        " the `start`, the `window` of hand-offs to the sender's country, the `hour` of the next recipients,"
        " the `pace`, the choice of the `winner`, the `retry` of a failed step (see `failing`). Waits for"
        " other work: `other_campaign` of the sender, which has ended and still has recipients to deny;"
        " `consents`, while consent is too old (see `sending_waits`); `outcomes` of the requested messages;"
        " late `reports` of dispatch-svc, whose messages are requested again, at `until` at the latest."
        " Waits for campaign-svc, for seconds: the selection of the `audience`, `requests` for recipients,"
        " `denials` of recipients without a request, the `end`."
    )
    until: datetime | None = Field(None, description="The latest end of the wait; null: unknown.")
    campaign_id: str | None = Field(None, description="The id of `other_campaign`.")


@dataclass(frozen=True, slots=True)
class Stage:
    """A campaign's progress.

    `repeat_at`: when repeated requests are repeated once more. `settles_first`: the sender's campaign to settle before.
    """

    status: Status
    begun: bool
    expanded: bool
    undecided: int
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    opens_at: datetime | None = None
    retry_at: datetime | None = None
    next_slot: datetime | None = None
    next_hour: datetime | None = None
    chosen_at: datetime | None = None
    repeat_at: datetime | None = None
    approval_missing: bool = False
    with_series: bool = False
    marketing_held: bool = False
    settles_first: str | None = None


def waits(stage: Stage, now: datetime) -> list[Waiting]:
    """Return the waits in order, `retry` first."""
    found = _OF[stage.status](stage, now)
    if stage.retry_at is not None and stage.retry_at > now:
        found.insert(0, Waiting(reason="retry", until=stage.retry_at))
    return found


def _draft(stage: Stage, now: datetime) -> list[Waiting]:
    found = [Waiting(reason="scheduling")]
    return [Waiting(reason="approval"), *found] if stage.approval_missing else found


def _scheduled(stage: Stage, now: datetime) -> list[Waiting]:
    assert stage.starts_at is not None, "a campaign is scheduled for a time"
    if stage.starts_at > now:
        return [Waiting(reason="start", until=stage.starts_at)]
    if stage.settles_first is not None:
        return [Waiting(reason="other_campaign", campaign_id=stage.settles_first)]
    return [Waiting(reason="audience")]


def _running(stage: Stage, now: datetime) -> list[Waiting]:
    found = []
    if stage.marketing_held:
        found.append(Waiting(reason="consents"))
    if stage.opens_at is not None and stage.opens_at > now:
        found.append(Waiting(reason="window", until=stage.opens_at))
    if not stage.expanded:
        hours: tuple[tuple[Reason, datetime | None], ...] = (
            ("hour", stage.next_hour),
            ("pace", stage.next_slot),
            ("winner", stage.chosen_at),
        )
        waited = [Waiting(reason=reason, until=at) for reason, at in hours if at is not None and at > now]
        found += waited or [Waiting(reason="requests")]
    return found + _rest(stage)


def _paused(stage: Stage, now: datetime) -> list[Waiting]:
    over = stage.ends_at is not None and stage.ends_at <= now
    if stage.begun and over and not stage.expanded:
        return [Waiting(reason="denials")]
    if stage.begun and stage.expanded and (over or not stage.undecided):
        return _rest(stage)
    return [Waiting(reason="series" if stage.with_series else "resumption")]


def _cancelled(stage: Stage, now: datetime) -> list[Waiting]:
    if not stage.expanded:
        return [Waiting(reason="denials")]
    return _outcomes(stage)


def _finished(stage: Stage, now: datetime) -> list[Waiting]:
    return []


def _rest(stage: Stage) -> list[Waiting]:
    """Return the waits after the last request."""
    if not stage.expanded:
        return []
    return _outcomes(stage) or [Waiting(reason="end")]


def _outcomes(stage: Stage) -> list[Waiting]:
    if not stage.undecided:
        return []
    late = [] if stage.repeat_at is None else [Waiting(reason="reports", until=stage.repeat_at)]
    return [Waiting(reason="outcomes"), *late]


_OF = {
    Status.DRAFT: _draft,
    Status.SCHEDULED: _scheduled,
    Status.RUNNING: _running,
    Status.PAUSED: _paused,
    Status.FINISHED: _finished,
    Status.CANCELLED: _cancelled,
}
