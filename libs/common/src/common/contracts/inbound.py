"""Define the events of inbound-svc: every MO with its intent, and every DLR, normalised."""

from typing import Annotated, ClassVar, Literal

import msgspec

from common.contracts.envelope import Event, Instant

Intent = Literal["stop", "start", "confirm", "contact", "erase", "review", "none"]
# why a text is in review: its meaning is in doubt, its language is unknown, or a right is asked for
Concern = Literal["doubt", "unread", "erasure", "access", "source", "wrong_number", "return"]
ReceiptState = Literal["queued", "sent", "delivered", "failed", "expired", "opted_out", "unknown"]


class MessageReceived(Event, frozen=True, kw_only=True):
    """An MO: a text from a person's phone. `number` and `text` are encrypted fields (`common.keyring`).

    inbound-svc publishes an MO with the intent `review` again after a reviewer's decision: same `mo_id`, next
    `revision`, the decided intent, the reviewer and the time. The highest revision is authoritative.
    """

    type: ClassVar[str] = "inbound.message_received.v1"

    mo_id: str  # our id, derived from (provider, account, provider message id)
    subject_id: str
    provider: str
    account: str
    provider_message_id: str
    number: str  # encrypted, context "number:<subject_id>"
    short_code: str  # the addressed short code or number
    text: str  # encrypted, context "text:<mo_id>"
    intent: Intent
    rule: str  # id of the deciding rule
    score: float  # 1.0 for an exact match, less for a resemblance
    occurred_at: Instant  # provider's time; without a time: `received_at`, for a start the earliest possible time
    received_at: Instant
    revision: int = 0
    decided_by: str | None = None  # the reviewer, as named in the reviewer's token
    decided_at: Instant | None = None
    everyone: bool = False  # stop only: the text names every brand
    named: str = ""  # stop only: other words, perhaps a brand; encrypted, context "named:<mo_id>"; "": no words
    answered: bool = False  # stop only: the provider sends the confirmation to the person
    erasure: bool = False  # stop only: the person asks for erasure
    behind_start: bool = False  # stop only: arrived after a start with a later provider time; a reviewer decides
    concern: Concern = "doubt"  # review only; an event from before the field was a doubt
    no_sender: bool = False  # stop only: to a code that no sender has, as far as inbound-svc knows; a reviewer decides

    @property
    def key(self) -> str:
        return self.subject_id

    @property
    def reference(self) -> str:
        """Return the MO's name for the provider's support and for our evidence."""
        return f"{self.provider}/{self.account}/{self.provider_message_id}"

    @property
    def clock(self) -> str:
        """Return the name of the clock behind `occurred_at`."""
        return f"{self.provider}/{self.account}"


class ReceiptReceived(Event, frozen=True, kw_only=True):
    """A delivery receipt (DLR).

    `reference` is our message id where the provider echoes the id. `blocked`: the provider refuses delivery to this
    number, and its code does not say whether the person asked for the block (DOMAIN 4.3).
    """

    type: ClassVar[str] = "inbound.receipt_received.v1"

    provider: str
    account: str
    provider_message_id: str
    reference: str | None
    state: ReceiptState
    code: str | None  # the provider's own error code
    occurred_at: Instant
    received_at: Instant
    blocked: bool = False

    @property
    def key(self) -> str:
        return self.provider_message_id


class ReceiptsReceived(Event, frozen=True, kw_only=True):
    """The DLRs of one journal transaction, in the order of their arrival; a DLR of one message may follow another.

    Readers also take a DLR as a record of its own (`ReceiptReceived`).
    """

    type: ClassVar[str] = "inbound.receipts_received.v1"

    receipts: Annotated[tuple[ReceiptReceived, ...], msgspec.Meta(min_length=1)]

    @property
    def key(self) -> str:
        return self.receipts[0].provider_message_id
