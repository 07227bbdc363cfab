"""Define the statuses of a message, and which status may follow which, with the cause. Pure.

    a new message is              pending (over HTTP, or no gateway has a free slot), or as decided:
                                  sending, deferred, denied, expired
    pending, deferred             decided once due; denied by the erasure of the person
    sending ── outcome ──▶        accepted, rejected, unknown; deferred where no submit had begun
    sending ── decision ──▶       deferred, denied, expired: the permit lapsed before a submit
    unknown ── outcome ──▶        accepted, rejected: the late answer, or the look-up; deferred, see below
    unknown ── decision ──▶       sending, deferred, denied, expired: recovery took the owner for dead too early, and
                                  no submit had begun
    unknown ── receipt ──▶        accepted: the operator had the message
    accepted, rejected, denied, expired     final

A statement may always leave the status as it is.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import get_args

from common.contracts import dispatch as contract


class Status(StrEnum):
    """The status of a message; `accepted`, `rejected`, `denied` and `expired` are final."""

    PENDING = "pending"
    DENIED = "denied"
    DEFERRED = "deferred"
    SENDING = "sending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    EXPIRED = "expired"


class Cause(StrEnum):
    DECISION = "decision"  # a verdict of the gate
    OUTCOME = "outcome"  # the end of a hand-off, or its recovery
    RECEIPT = "receipt"
    ERASURE = "erasure"


WAITING = frozenset((Status.PENDING, Status.DEFERRED))  # `due_at` says until when
HANDED_OFF = frozenset((Status.SENDING, Status.ACCEPTED, Status.REJECTED, Status.UNKNOWN))  # perhaps; a DLR may come
CHARGED = frozenset(map(Status, contract.CHARGED))
FIRST = frozenset((Status.PENDING, Status.DEFERRED, Status.SENDING, Status.DENIED, Status.EXPIRED))

_ENDS = frozenset((Status.DENIED, Status.EXPIRED))  # of a decision without a hand-off

STEPS: Mapping[tuple[Status, Cause], frozenset[Status]] = {
    (Status.PENDING, Cause.DECISION): _ENDS | {Status.SENDING, Status.DEFERRED},
    (Status.DEFERRED, Cause.DECISION): _ENDS | {Status.SENDING, Status.PENDING},
    (Status.SENDING, Cause.DECISION): _ENDS | {Status.DEFERRED},
    (Status.UNKNOWN, Cause.DECISION): _ENDS | {Status.SENDING, Status.DEFERRED},
    (Status.SENDING, Cause.OUTCOME): frozenset(
        (Status.ACCEPTED, Status.REJECTED, Status.UNKNOWN, Status.DEFERRED)  # accepted also: `unknown`, with a DLR
    ),
    (Status.UNKNOWN, Cause.OUTCOME): frozenset((Status.ACCEPTED, Status.REJECTED, Status.DEFERRED)),
    (Status.UNKNOWN, Cause.RECEIPT): frozenset((Status.ACCEPTED,)),
    (Status.PENDING, Cause.ERASURE): frozenset((Status.DENIED,)),
    (Status.DEFERRED, Cause.ERASURE): frozenset((Status.DENIED,)),
}


def may_follow(status: Status, cause: Cause) -> frozenset[Status]:
    """Return the statuses to which this cause may change a message."""
    return STEPS.get((status, cause), frozenset())


TOLD: Mapping[Status, contract.Status] = {Status(name): name for name in get_args(contract.Status)}
