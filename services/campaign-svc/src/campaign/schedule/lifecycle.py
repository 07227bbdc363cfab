"""Define the states of a campaign, the allowed transitions, and the control the gate is told. Pure.

    draft ── schedule ──▶ scheduled ── start ──▶ running ◀── pause / resume ──▶ paused
                              ▲                     └────────── finish ─────────┴──▶ finished
                              └─ pause / resume ──▶ paused, before its start: may be edited and rescheduled too
    a recurring campaign stays `scheduled` while each occurrence, a campaign of its own, runs through these states;
    after the last occurrence the recurring campaign is `finished`
    edit leads from any campaign not yet started to `draft`
    cancel leads from every state but `finished` to `cancelled`
    archive leaves the state as it is, of a draft or an ended campaign

Asking for the current state changes nothing, so a caller may retry every action.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from common.contracts.campaign import Control
from common.sms import message_id
from common.sms.subject_id import InnerId

KEPT = timedelta(days=3)  # long enough for a long weekend
FURTHEST = timedelta(days=2 * 366)  # dates near the years 1 and 9999 overflow
EVER = datetime.max.replace(tzinfo=UTC)
ONLY_STEP = "0"  # one message per recipient


class Status(StrEnum):
    """The state of a campaign; `finished` and `cancelled` are final."""

    DRAFT = "draft"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class Action(StrEnum):
    EDIT = "edit"
    SCHEDULE = "schedule"
    START = "start"  # by the planner
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    FINISH = "finish"  # by the planner
    ARCHIVE = "archive"


class Priority(StrEnum):
    """A campaign's share of the planner while several send at once.

    A priority weighs a campaign's turns and never blocks another campaign.
    """

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def cost(self) -> int:
        """Return the turns charged per recipient."""
        return {Priority.HIGH: 1, Priority.NORMAL: 4, Priority.LOW: 16}[self]


@dataclass(frozen=True, slots=True)
class Step:
    """The state an action leads to. `control`: the value published to the gate, if any."""

    status: Status
    control: Control | None = None


class NotPossible(ValueError):
    """The campaign's status does not allow the action."""

    def __init__(self, status: Status, action: Action) -> None:
        super().__init__(f"a {status} campaign cannot {action}")
        self.status = status
        self.action = action


_STEPS: dict[tuple[Status, Action], Step] = {
    (Status.DRAFT, Action.EDIT): Step(Status.DRAFT),
    (Status.SCHEDULED, Action.EDIT): Step(Status.DRAFT),
    (Status.DRAFT, Action.SCHEDULE): Step(Status.SCHEDULED),
    (Status.SCHEDULED, Action.SCHEDULE): Step(Status.SCHEDULED),
    (Status.SCHEDULED, Action.START): Step(Status.RUNNING, "running"),
    (Status.SCHEDULED, Action.FINISH): Step(Status.FINISHED),  # a recurring campaign, after its last occurrence
    (Status.SCHEDULED, Action.PAUSE): Step(Status.PAUSED, "paused"),
    (Status.RUNNING, Action.PAUSE): Step(Status.PAUSED, "paused"),
    (Status.PAUSED, Action.RESUME): Step(Status.RUNNING, "running"),
    (Status.RUNNING, Action.FINISH): Step(Status.FINISHED),
    (Status.PAUSED, Action.FINISH): Step(Status.FINISHED),
    **{
        (status, Action.CANCEL): Step(Status.CANCELLED, "cancelled")
        for status in (Status.DRAFT, Status.SCHEDULED, Status.RUNNING, Status.PAUSED)
    },
    **{(status, Action.ARCHIVE): Step(status) for status in (Status.DRAFT, Status.FINISHED, Status.CANCELLED)},
    # repeated actions
    (Status.PAUSED, Action.PAUSE): Step(Status.PAUSED),
    (Status.SCHEDULED, Action.RESUME): Step(Status.SCHEDULED),
    (Status.RUNNING, Action.RESUME): Step(Status.RUNNING),
    (Status.CANCELLED, Action.CANCEL): Step(Status.CANCELLED),
}
# Paused before the start: the gate hears `running` only when the campaign starts.
_UNBEGUN: dict[tuple[Status, Action], Step] = {
    (Status.PAUSED, Action.EDIT): Step(Status.DRAFT),
    (Status.PAUSED, Action.SCHEDULE): Step(Status.SCHEDULED),
    (Status.PAUSED, Action.RESUME): Step(Status.SCHEDULED),
}


def step(status: Status, action: Action, *, begun: bool) -> Step:
    """Return the transition for an action. Raises NotPossible."""
    try:
        return (_STEPS if begun else _STEPS | _UNBEGUN)[status, action]
    except KeyError:
        raise NotPossible(status, action) from None


def message_of(campaign_id: str, starts_at: datetime, inner: InnerId) -> str:
    """Return the id of a campaign's only message to a person.

    The id never changes: a repeated request is a duplicate, not a second message.
    """
    return messages_of(campaign_id, starts_at)(inner)


def messages_of(campaign_id: str, starts_at: datetime) -> Callable[[InnerId], str]:
    """Return `message_of` as a function of the inner id."""
    return message_id.written_around(starts_at, (campaign_id,), (ONLY_STEP,))


def ends_by(starts_at: datetime, send_before: datetime | None) -> datetime:
    """Return when the campaign's messages expire."""
    return send_before or later(starts_at, KEPT)


def later(at: datetime, by: timedelta) -> datetime:
    """Return `at + by`, or EVER beyond the calendar."""
    return at + by if at < EVER - by else EVER
