"""The outcome of a message from its gateway's answer, for `messages.accept` and `messages.settle`. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from msgspec.structs import replace

from dispatch.gate.candidate import Permit
from dispatch.gateways import Misconfigured, Refused, Result, SendError, Throttled, Unanswered, Unreachable
from dispatch.messages.reasons import Reason
from dispatch.messages.row import MessageRow, Outcome
from dispatch.messages.status import Status

KEPT_CHARS = 500  # of an id or a code: fits an index in Postgres, and an event


LEFT = frozenset((Status.ACCEPTED, Status.SENDING, Status.UNKNOWN))  # perhaps left


class LostAnswer(NamedTuple):
    """An `unknown` message, for a look-up by its gateway."""

    message_id: UUID
    subject_id: str
    partition: int
    gateway: str
    unknown_since: datetime


class HandedOff(NamedTuple):
    """The hand-off recorded in a message's row."""

    message_id: UUID
    status: Status
    gateway: str | None
    gateway_message_id: str | None
    handed_off_at: datetime


def answered(
    permit: Permit,
    answer: Result | SendError,
    at: datetime,
    until: datetime | None,
    *,
    echoes_reference: bool,
) -> Outcome:
    """Return the outcome of a gateway's answer to a submit that began `at`.

    `until`: when the message may be tried again. A resubmit (`permit.again`) becomes `accepted` or `unknown`: the first
    submit may have arrived.
    """
    match answer:
        # of the resubmit, as below; an opt-out in the answer still counts
        case Result(outcome="rejected") if permit.again:
            found = outcome(permit, Status.UNKNOWN, handed_off_at=at)
            return replace(found, opted_out=answer.opted_out, blocked=answer.blocked)
        case Result():
            name = _name(answer)
            return outcome(
                permit,
                Status(answer.outcome),
                code=answer.code,
                handed_off_at=at,
                gateway_message_id=name,
                known_as=None if echoes_reference else name,
                opted_out=answer.opted_out,
                blocked=answer.blocked,
            )
        # Refused too: the refusal is of the resubmit
        case SendError() if permit.again:
            return outcome(permit, Status.UNKNOWN, handed_off_at=at)
        case Refused():
            return outcome(permit, Status.REJECTED, code=answer.code, handed_off_at=at)
        case Throttled():
            return outcome(permit, Status.DEFERRED, (Reason.GATEWAY_THROTTLED,), until)
        case Unreachable():
            return outcome(permit, Status.DEFERRED, (Reason.GATEWAY_UNREACHABLE,), until)
        case Misconfigured():
            reasons = (Reason.GATEWAY_NEEDS_SOMEBODY,)
            return outcome(permit, Status.DEFERRED, reasons, until, code=answer.code)
        case Unanswered(code=code):
            return outcome(permit, Status.UNKNOWN, code=code, handed_off_at=at)
        case _:  # any error class not listed above
            return outcome(permit, Status.UNKNOWN, handed_off_at=at)


def outcome(
    permit: Permit,
    status: Status,
    reasons: tuple[Reason, ...] = (),
    due_at: datetime | None = None,
    *,
    code: str | None = None,
    handed_off_at: datetime | None = None,
    gateway_message_id: str | None = None,
    known_as: str | None = None,
    opted_out: bool = False,
    blocked: bool = False,
) -> Outcome:
    return Outcome(
        message_id=permit.candidate.message_id,
        subject_id=permit.candidate.subject_id,
        status=status,
        decided_at=permit.row.decided_at,
        gateway=permit.gateway,
        asked=permit.gateway,
        reasons=reasons,
        due_at=due_at,
        gateway_message_id=gateway_message_id,
        known_as=known_as,
        code=_code(code),
        handed_off_at=handed_off_at,
        decision=permit.row,
        opted_out=opted_out,
        blocked=blocked,
    )


def looked_up(row: LostAnswer, result: Result, *, echoes_reference: bool) -> Outcome:
    """Return the outcome of a lost answer, from the gateway's look-up."""
    name = _name(result)
    return Outcome(
        message_id=row.message_id,
        subject_id=row.subject_id,
        status=Status(result.outcome),
        decided_at=None,  # any decision
        gateway=row.gateway,
        asked=row.gateway,
        gateway_message_id=name,
        known_as=None if echoes_reference else name,
        code=_code(result.code),
        opted_out=result.opted_out,
        blocked=result.blocked,
    )


def nobody_knows(row: MessageRow) -> Outcome:
    """Return an `unknown` outcome for a row left `sending`: the message may have left."""
    return Outcome(
        message_id=row.message_id,
        subject_id=row.subject_id,
        status=Status.UNKNOWN,
        decided_at=row.decided_at,
        gateway=row.gateway,
        reasons=row.reasons,
    )


def never_left(row: MessageRow, at: datetime) -> Outcome:
    """Return a `deferred` outcome for a row left `sending` whose submit never began."""
    reasons = (Reason.SERVICE_STOPPING,)
    return replace(nobody_knows(row), status=Status.DEFERRED, reasons=reasons, due_at=at, gateway=None)


def _name(result: Result) -> str | None:
    """Return the gateway's message id, or None where the ledger cannot store the id.

    The outcome still counts, and inbound-svc takes no DLR with such an id.
    """
    return result.gateway_message_id if _can_be_kept(result.gateway_message_id) else None


def _code(said: str | None) -> str | None:
    """Return the code cut and cleaned to fit the ledger."""
    return said and "".join(each if each.isprintable() else " " for each in said)[:KEPT_CHARS]


def _can_be_kept(said: str | None) -> bool:
    """Return whether the ledger can store the id: printable (no NUL, no half surrogate pair) and not too long.

    The writer would retry an unstorable id for ever.
    """
    return said is None or (len(said) <= KEPT_CHARS and said.isprintable())


def is_a_second(outcome: Outcome, row: HandedOff, *, idempotent: bool) -> bool:
    """Return whether an accepted outcome is a second SMS beside the hand-off in its row (`store.left_already`).

    An idempotent gateway answers a resubmit with the id of the first SMS. Another id counts as a second SMS: the
    gateway may have forgotten the first submit, and a person has to find out.
    """
    if row.handed_off_at == outcome.handed_off_at:
        return False  # this very hand-off
    if not idempotent or row.gateway != outcome.gateway or row.status not in LEFT:
        return True
    names = row.gateway_message_id, outcome.gateway_message_id
    return None not in names and names[0] != names[1]


def usual(outcomes: Sequence[Outcome]) -> list[tuple[Outcome, MessageRow]]:
    """Return the outcomes that `messages.accept` can store, with the row of the decision."""
    return [
        (o, o.decision) for o in outcomes if o.status is Status.ACCEPTED and o.code is None and o.decision is not None
    ]


def is_no_answer(result: Result | SendError) -> bool:
    """Return whether the circuit breaker counts the result as no answer."""
    if isinstance(result, Misconfigured):
        return not result.of_sender
    return isinstance(result, (Unreachable, Unanswered))
