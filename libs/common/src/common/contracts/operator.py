"""What an operator that integrates by Kafka writes: `operator.<name>.messages.v1` and `operator.<name>.receipts.v1`.

The operator is the producer, and none of our keys is theirs: numbers and texts are in clear here, as they are in a
webhook, and nowhere after. Who may write to and read from these topics is for the broker's ACL to say: one principal
each.

Keyed by the operator's message id, never by a number. Binary-mode CloudEvents, as everything else.
"""

from typing import ClassVar

from common.contracts.envelope import Event, Instant
from common.contracts.inbound import ReceiptState


class MessageDelivered(Event, frozen=True, kw_only=True):
    """An MO: a text from a person's phone."""

    type: ClassVar[str] = "operator.message_delivered.v1"

    message_id: str  # the operator's; the same again is the same MO
    sender: str  # the person's number
    recipient: str  # the short code or number it was sent to
    text: str
    sent_at: Instant | None = None

    @property
    def key(self) -> str:
        return self.message_id


class ReceiptDelivered(Event, frozen=True, kw_only=True):
    """A delivery receipt. `blocked`: refused for a reason that may be the person's wish, or not."""

    type: ClassVar[str] = "operator.receipt_delivered.v1"

    message_id: str  # the operator's, as the submit was answered
    state: ReceiptState
    reference: str | None = None  # ours, as submitted
    code: str | None = None
    at: Instant | None = None
    blocked: bool = False

    @property
    def key(self) -> str:
        return self.message_id
