"""Define the events exchanged with an operator integrated by Kafka.

dispatch-svc writes `operator.<name>.submits.v1`; the operator writes `operator.<name>.messages.v1` and
`operator.<name>.receipts.v1`.

Operators share no key with Placet: numbers and texts stand in clear here, as in a webhook or a submit, and nowhere
else. The broker's ACL must restrict these topics to one principal per operator.

An MO and a DLR are keyed by the operator's message id, a submit by our reference; a number is never a key. Events are
binary-mode CloudEvents, as on every topic.
"""

from typing import ClassVar

import msgspec

from common.contracts.campaign import Category
from common.contracts.envelope import Event, Instant
from common.contracts.inbound import ReceiptState


class MessageSubmitted(Event, frozen=True, kw_only=True):
    """A message handed to the operator, to be sent at once and once.

    A repeated reference denotes the same message. The operator's DLRs should name the reference.
    """

    type: ClassVar[str] = "operator.message_submitted.v1"

    reference: str  # our id
    recipient: str  # the person's number, E.164
    sender: str  # OADC shown to the person
    short_code: str  # number for people's replies
    category: Category
    text: str
    deliver_by: Instant | None = None  # when the hours of marketing end: not to be delivered from then on

    @property
    def key(self) -> str:
        return self.reference


class MessagePart(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a part in a long MO, from 1. `reference` is the same in all parts."""

    reference: str
    number: int
    total: int


class MessageDelivered(Event, frozen=True, kw_only=True):
    """An MO: a text from a person's phone."""

    type: ClassVar[str] = "operator.message_delivered.v1"

    message_id: str  # the operator's id; a repeated id denotes the same MO
    sender: str  # the person's number
    recipient: str  # the addressed short code or number
    text: str
    sent_at: Instant | None = None
    part: MessagePart | None = None  # of a long MO whose parts come alone
    repeats: str | None = None  # id of an MO that this one may be again: both are one, but a STOP counts each time

    @property
    def key(self) -> str:
        return self.message_id


class ReceiptDelivered(Event, frozen=True, kw_only=True):
    """A DLR. `blocked`: the operator refused delivery, perhaps at the person's wish."""

    type: ClassVar[str] = "operator.receipt_delivered.v1"

    message_id: str  # the operator's id of the submitted message
    state: ReceiptState
    reference: str | None = None  # our id, as submitted
    code: str | None = None
    at: Instant | None = None
    blocked: bool = False

    @property
    def key(self) -> str:
        return self.message_id
