"""What becomes of a message by its gateway's answer: a row, as `messages.accept` and `messages.settle` take it. Pure.

Beside their columns: its `permit`, the gateway it was `asked` of, and the `answer` where there was one.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dispatch.gate.clearance import Permit
from dispatch.gateways import Misconfigured, Refused, Result, SendError, Throttled, Unreachable
from dispatch.messages.reasons import Reason

KEPT_CHARS = 500  # of an id or a code: Postgres can index that, and an event has room for it


def answered(
    permit: Permit,
    answer: Result | SendError,
    at: datetime,
    until: datetime | None,
    *,
    echoes_reference: bool,
) -> dict[str, Any]:
    """`at`: when its submit began; `until`: when what has not left may be tried again."""
    match answer:
        case Result(outcome="rejected") if permit.again:  # of the repeat, as below; whom it says to be out is out
            return outcome(permit, "unknown", handed_off_at=at) | {"answer": answer}
        case Result():
            row = outcome(permit, answer.outcome, code=answer.code, handed_off_at=at)
            return row | _named(answer, echoes_reference=echoes_reference) | {"answer": answer}
        case SendError() if permit.again:  # not even Refused: that is of the repeat, and the first may have arrived
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
        case _:  # Unanswered, and whatever else we do not know
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
    """Of a message whose answer was lost (`message_id`, `subject_id`, `partition`, `gateway`)."""
    return {
        "asked": row.gateway,
        "partition": row.partition,
        "message_id": row.message_id,
        "decided_at": None,  # by whichever decision it went
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
    """Of a message that was left `sending`, a row of the ledger: it may have been handed off, and is not once more."""
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


def _named(result: Result, *, echoes_reference: bool) -> dict[str, str | None]:
    """What the gateway calls the message; `known_as` where its receipts will name nothing else. No name where it cannot
    be kept: whatever it is called, the message is what it is, and inbound-svc takes no receipt of such an id."""
    name = result.gateway_message_id if _can_be_kept(result.gateway_message_id) else None
    return {"gateway_message_id": name, "known_as": None if echoes_reference else name}


def _code(said: str | None) -> str | None:
    """As much as the ledger can take: what stands in it may be all that is ever said of why."""
    return said and "".join(each if each.isprintable() else " " for each in said)[:KEPT_CHARS]


def _can_be_kept(said: str | None) -> bool:
    """No NUL, no half of a surrogate pair, not too long. What the ledger cannot take would be tried for ever, and all
    that it was submitted with would wait."""
    return said is None or (len(said) <= KEPT_CHARS and said.isprintable())


def is_a_second(outcome: Mapping[str, Any], row: Any, *, idempotent: bool) -> bool:
    """Did what was accepted here leave besides what its row (`store.left_already`) has of it? A gateway that takes a
    repeat for the same SMS says so by the same id. Where it says another we believe the ids: perhaps it only counts
    anew, and perhaps it did not know the first any more, and that a person has to find out."""
    if row.handed_off_at == outcome["handed_off_at"]:
        return False  # it is what its row has
    if not idempotent or row.gateway != outcome["gateway"] or row.status not in ("accepted", "sending", "unknown"):
        return True
    names = row.gateway_message_id, outcome["gateway_message_id"]
    return None not in names and names[0] != names[1]


def went_as_it_should(outcome: Mapping[str, Any]) -> bool:
    """Accepted, with nothing else to say, and we know what stands in its row."""
    return (
        outcome["status"] == "accepted"
        and outcome["code"] is None
        and "permit" in outcome
        and bool(outcome["permit"].row)
    )
