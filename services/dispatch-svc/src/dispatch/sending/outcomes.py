"""The outcome of a message from its gateway's answer: rows for `messages.accept` and `messages.settle`. Pure.

Beside the ledger's columns, a row holds the message's `permit`, the gateway the submit `asked`, and the `answer`, if
the gateway gave any.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dispatch.gate.clearance import Permit
from dispatch.gateways import Misconfigured, Refused, Result, SendError, Throttled, Unreachable
from dispatch.messages.reasons import Reason

KEPT_CHARS = 500  # of an id or a code: Postgres can index so many characters, and an event has room for them


def answered(
    permit: Permit,
    answer: Result | SendError,
    at: datetime,
    until: datetime | None,
    *,
    echoes_reference: bool,
) -> dict[str, Any]:
    """Return the outcome row for a gateway's answer to a submit.

    `at`: when the submit began. `until`: when a message which has not left may be tried again. A resubmit
    (`permit.again`) becomes `accepted` or `unknown`: the first submit may have arrived.
    """
    match answer:
        # of the resubmit, as below; an opt-out in the answer still counts
        case Result(outcome="rejected") if permit.again:
            return outcome(permit, "unknown", handed_off_at=at) | {"answer": answer}
        case Result():
            row = outcome(permit, answer.outcome, code=answer.code, handed_off_at=at)
            return row | _named(answer, echoes_reference=echoes_reference) | {"answer": answer}
        # Refused too: the refusal is of the resubmit, and the first submit may have arrived
        case SendError() if permit.again:
            return outcome(permit, "unknown", handed_off_at=at)
        case Refused():
            return outcome(permit, "rejected", code=answer.code, handed_off_at=at)
        case Throttled():
            return outcome(permit, "deferred", (Reason.GATEWAY_THROTTLED,), until)
        case Unreachable():
            return outcome(permit, "deferred", (Reason.GATEWAY_UNREACHABLE,), until)
        case Misconfigured():
            reasons = (Reason.GATEWAY_NEEDS_SOMEBODY,)
            return outcome(permit, "deferred", reasons, until, code=answer.code)
        case _:  # Unanswered, and any error class not listed above
            return outcome(permit, "unknown", handed_off_at=at)


def outcome(
    permit: Permit,
    status: str,
    reasons: tuple[Reason, ...] = (),
    due_at: datetime | None = None,
    *,
    code: str | None = None,
    handed_off_at: datetime | None = None,
) -> dict[str, Any]:
    return {
        "permit": permit,
        "asked": permit.gateway,
        "partition": permit.candidate.partition,
        "message_id": permit.candidate.message_id,
        "decided_at": permit.row.get("decided_at"),
        "subject_id": permit.candidate.subject_id,
        "status": status,
        "reasons": reasons,
        "due_at": due_at,
        "gateway": permit.gateway,
        "gateway_message_id": None,
        "known_as": None,
        "code": _code(code),
        "handed_off_at": handed_off_at,
    }


def looked_up(row: Any, result: Result, *, echoes_reference: bool) -> dict[str, Any]:
    """Return the outcome row of a message whose answer was lost, from the gateway's look-up result.

    `row` has `message_id`, `subject_id`, `partition` and `gateway`.
    """
    return {
        "asked": row.gateway,
        "partition": row.partition,
        "message_id": row.message_id,
        "decided_at": None,  # any decision: the outcome holds for each
        "subject_id": row.subject_id,
        "status": result.outcome,
        "reasons": (),
        "due_at": None,
        "gateway": row.gateway,
        "code": _code(result.code),
        "handed_off_at": None,
        "answer": result,
        **_named(result, echoes_reference=echoes_reference),
    }


def nobody_knows(row: Any) -> dict[str, Any]:
    """Return an `unknown` outcome for a ledger row left `sending`.

    The message may have been handed off, so dispatch does not hand the message off again.
    """
    return {
        "message_id": row.message_id,
        "decided_at": row.decided_at,
        "status": "unknown",
        "reasons": tuple(row.reasons),
        "due_at": None,
        "gateway": row.gateway,
        "gateway_message_id": None,
        "known_as": None,
        "code": None,
        "handed_off_at": None,
    }


def never_left(row: Any, at: datetime) -> dict[str, Any]:
    """Return a `deferred` outcome, due `at` once, for a ledger row left `sending` whose submit never began.

    The gate decides on the message afresh, as on a message handed back at a planned stop.
    """
    reasons = (Reason.SERVICE_STOPPING,)
    return {**nobody_knows(row), "status": "deferred", "reasons": reasons, "due_at": at, "gateway": None}


def _named(result: Result, *, echoes_reference: bool) -> dict[str, str | None]:
    """Return the provider reference columns: the gateway's message id, and `known_as` where DLRs name only that id.

    An id the ledger cannot store becomes None: the outcome still counts, and inbound-svc takes no DLR with such an id.
    """
    name = result.gateway_message_id if _can_be_kept(result.gateway_message_id) else None
    return {"gateway_message_id": name, "known_as": None if echoes_reference else name}


def _code(said: str | None) -> str | None:
    """Return the code cut and cleaned to fit the ledger.

    A code may be the only explanation ever given of a failure, so the ledger keeps as much as fits.
    """
    return said and "".join(each if each.isprintable() else " " for each in said)[:KEPT_CHARS]


def _can_be_kept(said: str | None) -> bool:
    """Return whether the ledger can store the id: printable (no NUL, no half surrogate pair) and not too long.

    The writer would retry an unstorable id for ever, with every outcome of the same submit.
    """
    return said is None or (len(said) <= KEPT_CHARS and said.isprintable())


def is_a_second(outcome: Mapping[str, Any], row: Any, *, idempotent: bool) -> bool:
    """Return whether an accepted outcome is a second SMS beside the hand-off in its row (`store.left_already`).

    An idempotent gateway answers a resubmit with the id of the first SMS. Where the gateway answers with another id,
    the ids are believed: the gateway may only count anew, or may have forgotten the first submit, and a person has to
    find out.
    """
    if row.handed_off_at == outcome["handed_off_at"]:
        return False  # the row already holds this very hand-off
    if not idempotent or row.gateway != outcome["gateway"] or row.status not in ("accepted", "sending", "unknown"):
        return True
    names = row.gateway_message_id, outcome["gateway_message_id"]
    return None not in names and names[0] != names[1]


def went_as_it_should(outcome: Mapping[str, Any]) -> bool:
    """Return whether `messages.accept` can store the outcome: accepted, no code, and a permit with its decision row."""
    return (
        outcome["status"] == "accepted"
        and outcome["code"] is None
        and "permit" in outcome
        and bool(outcome["permit"].row)
    )
