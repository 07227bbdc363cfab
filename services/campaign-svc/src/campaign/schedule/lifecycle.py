"""The life of a campaign: what may follow what, and what the gate is told. Pure.

    draft ── schedule ──▶ scheduled ── start ──▶ running ◀── pause / resume ──▶ paused
                              ▲                     └────────── finish ─────────┴──▶ finished
                              └─ pause / resume ──▶ paused, before its start: it may be edited and scheduled anew too
    one that recurs stays `scheduled` while each of its occurrences, a campaign of its own, is led through this,
    and then is `finished`
    edit leads from whatever has not started to `draft`
    cancel leads from anywhere but `finished` to `cancelled`

Asking for what already is changes nothing, so every action may be retried.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from common.contracts.campaign import Control
from common.sms import message_id

KEPT = timedelta(days=3)  # when the author names no end: over a long weekend, and no offer lasts for ever
FURTHEST = timedelta(days=2 * 366)  # from now: nobody plans for longer, and reckoning ends with the years 1 and 9999
EVER = datetime.max.replace(tzinfo=UTC)
ONLY_STEP = "0"  # one message a recipient; a series would count on


class Status(StrEnum):
    DRAFT = "draft"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class Action(StrEnum):
    EDIT = "edit"  # what was scheduled is so no more
    SCHEDULE = "schedule"
    START = "start"  # the planner's, once due
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    FINISH = "finish"  # ours, once nothing is pending or deferred


class Priority(StrEnum):
    """Whose recipients are asked for first, among campaigns that go on at once. Everyone gets on: this is a share."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def cost(self) -> int:
        """Of one recipient, in turns: four of `high` are asked for beside one of `normal`."""
        return {Priority.HIGH: 1, Priority.NORMAL: 4, Priority.LOW: 16}[self]


@dataclass(frozen=True, slots=True)
class Step:
    """Where an action leads. `control`: what the gate is told, if anything changes for it."""

    status: Status
    control: Control | None = None


class NotPossible(ValueError):
    """The campaign is past it, or not there yet."""

    def __init__(self, status: Status, action: Action) -> None:
        super().__init__(f"a {status} campaign cannot {action}")
        self.status = status
        self.action = action


_STEPS: dict[tuple[Status, Action], Step] = {
    (Status.DRAFT, Action.EDIT): Step(Status.DRAFT),
    (Status.SCHEDULED, Action.EDIT): Step(Status.DRAFT),
    (Status.DRAFT, Action.SCHEDULE): Step(Status.SCHEDULED),
    (Status.SCHEDULED, Action.SCHEDULE): Step(Status.SCHEDULED),  # at another time
    (Status.SCHEDULED, Action.START): Step(Status.RUNNING, "running"),
    (Status.SCHEDULED, Action.FINISH): Step(Status.FINISHED),  # of one that recurs, after its last occurrence
    (Status.SCHEDULED, Action.PAUSE): Step(Status.PAUSED, "paused"),
    (Status.RUNNING, Action.PAUSE): Step(Status.PAUSED, "paused"),
    (Status.PAUSED, Action.RESUME): Step(Status.RUNNING, "running"),
    (Status.RUNNING, Action.FINISH): Step(Status.FINISHED),
    (Status.PAUSED, Action.FINISH): Step(Status.FINISHED),
    **{
        (status, Action.CANCEL): Step(Status.CANCELLED, "cancelled")
        for status in (Status.DRAFT, Status.SCHEDULED, Status.RUNNING, Status.PAUSED)
    },
    # already so
    (Status.PAUSED, Action.PAUSE): Step(Status.PAUSED),
    (Status.SCHEDULED, Action.RESUME): Step(Status.SCHEDULED),
    (Status.RUNNING, Action.RESUME): Step(Status.RUNNING),
    (Status.CANCELLED, Action.CANCEL): Step(Status.CANCELLED),
}
# of one that was paused before its start: the gate hears `running` when it starts, and not before
_UNBEGUN: dict[tuple[Status, Action], Step] = {
    (Status.PAUSED, Action.EDIT): Step(Status.DRAFT),
    (Status.PAUSED, Action.SCHEDULE): Step(Status.SCHEDULED),
    (Status.PAUSED, Action.RESUME): Step(Status.SCHEDULED),
}


def step(status: Status, action: Action, *, begun: bool) -> Step:
    """`begun`: it has started. Raises NotPossible."""
    try:
        return (_STEPS if begun else _STEPS | _UNBEGUN)[status, action]
    except KeyError:
        raise NotPossible(status, action) from None


def message_of(campaign_id: str, starts_at: datetime, subject_id: str) -> str:
    """The one message of a campaign to a person: the same id whoever derives it, and however often."""
    return messages_of(campaign_id, starts_at)(subject_id)


def messages_of(campaign_id: str, starts_at: datetime) -> Callable[[str], str]:
    """`message_of` by subject id, for many of one campaign."""
    return message_id.written_around(starts_at, (campaign_id,), (ONLY_STEP,))


def ends_by(starts_at: datetime, send_before: datetime | None) -> datetime:
    """The instant from which its messages are of no use any more."""
    return send_before or later(starts_at, KEPT)


def later(at: datetime, by: timedelta) -> datetime:
    """What was scheduled before there was FURTHEST may be too late for any calendar."""
    return at + by if at < EVER - by else EVER
