"""What dispatch-svc publishes: each message's state as it changes, each opt-out once it is enforced, and whether
marketing is held."""

from typing import ClassVar, Literal

from common.contracts.campaign import Category
from common.contracts.envelope import Event, Instant
from common.contracts.inbound import ReceiptState

Status = Literal["pending", "denied", "deferred", "sending", "accepted", "rejected", "unknown", "expired"]


class MessageChanged(Event, frozen=True, kw_only=True):
    """A message as it now stands: verdict, outcome and receipt. `version` grows with each change."""

    type: ClassVar[str] = "dispatch.message_changed.v1"

    message_id: str
    campaign_id: str | None
    sender_id: str
    subject_id: str
    category: Category
    version: int
    status: Status
    reasons: tuple[str, ...]
    until: Instant | None  # when a deferred message is decided again
    policy_version: str
    consent_version: int | None
    as_of: Instant | None  # the watermark it was decided on
    decided_at: Instant | None
    gateway: str | None
    gateway_message_id: str | None
    receipt: ReceiptState | None
    code: str | None  # the gateway's or operator's own code
    receipt_at: Instant | None = None  # the receipt's time at source
    number: str | None = None  # sealed; only with a receipt `opted_out`: consent may never have seen this person
    purpose: str | None = None  # what the consent it stood on is for; of marketing
    handed_off_at: Instant | None = None  # when its submit began; None: none did, or nobody lived to tell

    @property
    def key(self) -> str:
        return self.subject_id


class OptOutEnforced(Event, frozen=True, kw_only=True):
    """From `enforced_at` on, no hand-off that this opt-out forbids ever begins."""

    type: ClassVar[str] = "dispatch.opt_out_enforced.v1"

    subject_id: str
    consent_version: int
    source: str
    reference: str | None  # the MO's, where it was one
    received_at: Instant  # webhook or API
    enforced_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class HoldChanged(Event, frozen=True, kw_only=True):
    """Marketing is held: for some time none has gone to some people, or to all, as what the gate knows of their
    consents is older than it may be. It goes on by itself; `ended_at` then says since when. The newest `version`
    counts."""

    type: ClassVar[str] = "dispatch.hold_changed.v1"

    category: Literal["marketing"]
    version: int
    since: Instant
    consents_as_of: Instant | None  # what was known of consents, where that is oldest, as this was told; None: nothing
    ended_at: Instant | None

    @property
    def key(self) -> str:
        return self.category
