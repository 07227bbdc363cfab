"""Define the events of dispatch-svc: message changes, enforced opt-outs, and the marketing hold."""

from typing import Annotated, ClassVar, Literal

import msgspec

from common.contracts.campaign import Category
from common.contracts.envelope import Event, Instant
from common.contracts.inbound import ReceiptState

READ_AT_ONCE = 5_000  # changes in a transaction of a reader; the bytes of a fetch are the usual limit
BYTES_OF_A_CHANGE = 512  # with an outcome; a denial has two thirds of these
Status = Literal["pending", "denied", "deferred", "sending", "accepted", "rejected", "unknown", "expired"]
CHARGED: tuple[Status, ...] = ("accepted", "unknown")  # an operator charges no message that it rejects


class MessageChanged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The current state of a message: verdict, outcome and DLR. `version` grows with each change."""

    message_id: str
    campaign_id: str | None = None
    sender_id: str
    subject_id: str
    category: Category
    version: int
    status: Status
    reasons: tuple[str, ...] = ()
    until: Instant | None = None  # next decision on a deferred message
    policy_version: str
    consent_version: int | None = None
    as_of: Instant | None = None  # the watermark behind the decision
    decided_at: Instant | None = None
    gateway: str | None = None
    gateway_message_id: str | None = None
    receipt: ReceiptState | None = None
    code: str | None = None  # the gateway's or operator's own error code
    receipt_at: Instant | None = None  # the DLR's time at source
    number: str | None = None  # encrypted; only with a DLR `opted_out`: the person may be new to consent-svc
    purpose: str | None = None  # marketing only: the purpose of the consent behind the decision
    handed_off_at: Instant | None = None  # start of the submit; `None`: no submit began, or a crash lost its start
    segments: int | None = None  # of the text as sent; only `accepted` and `unknown`, as the next
    cost: int | None = None  # in ten-thousandths of a euro; `None`: the price is unknown, or no operator charges


class MessagesChanged(Event, frozen=True, kw_only=True):
    """The changes of a transaction to messages of one partition, in their order: a message may occur several times.

    Empty fields are not on the wire.
    """

    type: ClassVar[str] = "dispatch.messages_changed.v1"

    changes: Annotated[tuple[MessageChanged, ...], msgspec.Meta(min_length=1)]

    @property
    def key(self) -> str:
        return self.changes[0].subject_id


def changes_in(value: bytes) -> int:
    """Return about how many changes a record holds, by its bytes: to count them takes a sixth of their decoding."""
    return len(value) // BYTES_OF_A_CHANGE


class OptOutEnforced(Event, frozen=True, kw_only=True):
    """An opt-out is enforced: from `enforced_at` on, no hand-off forbidden by the opt-out begins."""

    type: ClassVar[str] = "dispatch.opt_out_enforced.v1"

    subject_id: str
    consent_version: int
    source: str
    reference: str | None  # the MO's id, where the opt-out came by MO
    received_at: Instant  # first held by Placet, over webhook or API
    enforced_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class HoldChanged(Event, frozen=True, kw_only=True):
    """The marketing hold began or ended: consent data of some partition is older than the gate's limit.

    While the hold lasts, some subjects, or all, receive no marketing. The hold ends by itself; `ended_at` then says
    since when. The newest `version` counts.
    """

    type: ClassVar[str] = "dispatch.hold_changed.v1"

    category: Literal["marketing"]
    version: int
    since: Instant
    consents_as_of: Instant | None  # oldest watermark at publication; `None`: a partition lacks a watermark
    ended_at: Instant | None

    @property
    def key(self) -> str:
        return self.category
