"""Count the first hand-offs of messages requested over HTTP, and how long codes waited for theirs."""

from collections.abc import Sequence

from common.telemetry import counter, histogram, tracing
from dispatch.gate.candidate import Permit
from dispatch.messages.row import Outcome

REQUESTED = counter(
    "sms_dispatch_requested_total",
    "Hand-offs of messages requested over HTTP, by lane, sender, and state: the person had stopped the sender, or not.",
    ["lane", "sender", "state"],
)
CODES = histogram(
    "sms_dispatch_code_handoff_seconds",
    "Time from the request of a transactional message over HTTP to its first hand-off.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60),
)


def count_first_hand_offs(permits: Sequence[Permit], done: Sequence[Outcome]) -> None:
    """Count the first hand-offs among the outcomes of a submit."""
    for permit, outcome in zip(permits, done, strict=True):
        asked = permit.candidate
        if asked.template is not None and not permit.again and outcome.handed_off_at is not None:
            REQUESTED.labels(asked.category, asked.sender_id, "stopped" if permit.to_stopped else "open").inc()
            if asked.category == "transactional":
                waited_s = (outcome.handed_off_at - asked.requested_at).total_seconds()
                CODES.observe(waited_s, tracing.exemplar_of(asked.message_id))
