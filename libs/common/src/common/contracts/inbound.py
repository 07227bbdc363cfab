"""What inbound-svc publishes: every MO with what it means, and every delivery receipt, normalised."""

from typing import ClassVar, Literal

from common.contracts.envelope import Event, Instant

Intent = Literal["stop", "start", "confirm", "contact", "erase", "review", "none"]
ReceiptState = Literal["queued", "sent", "delivered", "failed", "expired", "opted_out", "unknown"]


class MessageReceived(Event, frozen=True, kw_only=True):
    """An MO: a text from a person's phone. `number` and `text` are sealed fields (`common.privacy.keyring`).

    One understood as `review` is published again once a person has read it: the same `mo_id`, the next `revision`, the
    intent that was meant, and who said so when. The highest revision is what the MO means.
    """

    type: ClassVar[str] = "inbound.message_received.v1"

    mo_id: str  # ours; derived from (provider, account, provider message id)
    subject_id: str
    provider: str
    account: str
    provider_message_id: str
    number: str  # sealed, context "number:<subject_id>"
    short_code: str  # the code or number it was sent to
    text: str  # sealed, context "text:<mo_id>"
    intent: Intent
    rule: str  # id of the rule that found the intent
    score: float  # 1.0 exact, less for a likeness
    occurred_at: Instant  # provider's time; where it gives none received_at, and of a start the earliest it may be of
    received_at: Instant
    revision: int = 0
    decided_by: str | None = None  # the reviewer, as their token names them
    decided_at: Instant | None = None
    everyone: bool = False  # of a stop: it names every brand
    named: str = ""  # of a stop: the other words said, a brand perhaps; sealed, context "named:<mo_id>"; "": none
    answered: bool = False  # of a stop: the provider confirms it to the person itself
    erasure: bool = False  # of a stop: it asks for all that is held of the person to be erased
    behind_start: bool = (
        False  # of a stop: it came after a start that its provider's clock puts later; a person reads it
    )

    @property
    def key(self) -> str:
        return self.subject_id

    @property
    def reference(self) -> str:
        """How a provider's support and our evidence name this MO."""
        return f"{self.provider}/{self.account}/{self.provider_message_id}"

    @property
    def clock(self) -> str:
        """Whose clock `occurred_at` is by."""
        return f"{self.provider}/{self.account}"


class ReceiptReceived(Event, frozen=True, kw_only=True):
    """A delivery receipt (DLR). `reference` is our message id where the provider echoes it. `blocked`: the provider
    will not deliver to this number, and its code does not say whether the person asked for that (DOMAIN 4.3)."""

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
