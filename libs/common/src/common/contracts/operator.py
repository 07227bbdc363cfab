"""What an operator that integrates by Kafka reads and writes: we write `operator.<name>.submits.v1`, it writes
`operator.<name>.messages.v1` and `operator.<name>.receipts.v1`.

None of our keys is theirs: numbers and texts are in clear here, as they are in a webhook or a submit, and nowhere else.
Who may write to and read from these topics is for the broker's ACL to say: one principal each.

Keyed by the operator's message id, a submit by our reference, never by a number. Binary-mode CloudEvents, as
everything else.
"""

from typing import ClassVar

from common.contracts.campaign import Category
from common.contracts.envelope import Event, Instant
from common.contracts.inbound import ReceiptState


class MessageSubmitted(Event, frozen=True, kw_only=True):
    """A message that we hand to the operator: it is to be sent at once, once. The same reference again is the same
    message. Its receipts should name the reference."""

    type: ClassVar[str] = "operator.message_submitted.v1"

    reference: str  # ours
    recipient: str  # the person's number, E.164
    sender: str  # the name it comes from
    short_code: str  # what people answer to
    category: Category
    text: str

    @property
    def key(self) -> str:
        return self.reference


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
