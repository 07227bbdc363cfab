"""The values of a decision: the message to decide on, the permit, and the decision with its row and its charge."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec
from asyncpg.pgproto import pgproto

from common.contracts.campaign import Category, MessageRequested, MessagesRequested, Request
from dispatch.gate.rules import Verdict
from dispatch.lane import Lane, lane_of
from dispatch.messages.row import MessageRow
from dispatch.messages.status import Status
from dispatch.quotas.budget import Purse


class Candidate(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message to decide on. `number` and `text` are encrypted."""

    message_id: UUID
    campaign_id: str | None
    sender_id: str
    purpose: str | None
    category: Category
    subject_id: str
    partition: int
    number: str
    text: str
    requested_at: datetime
    send_before: datetime
    gateway: str | None = None  # of the last decision
    region: str | None = None
    template: str | None = None  # only of a request over HTTP
    version: int = 0  # of the row; 0: no row yet
    reasons: tuple[str, ...] = ()  # of the row
    decided_at: datetime | None = None  # of the row
    charged: bool = False  # by an earlier verdict, or with the answer over HTTP

    @property
    def lane(self) -> Lane:
        return lane_of(self.category)

    @property
    def is_on_consent(self) -> bool:
        """Return whether the person's words may forbid the message: marketing, or a question (`ON_CONSENT`)."""
        return self.category == "marketing" or (self.category == "service" and self.purpose is not None)

    @property
    def is_limited(self) -> bool:
        """Return whether the limits hold at the gate: of a campaign or its test. Requests over HTTP come accepted."""
        return self.category == "marketing" and self.template is None


def requested(event: MessageRequested, partition: int) -> Candidate:
    """Return the candidate of a request. Raise ValueError for an id that is no UUID."""
    return Candidate(
        message_id=pgproto.UUID(event.message_id),  # asyncpg's UUID takes a tenth of the time
        campaign_id=event.campaign_id,
        sender_id=event.sender_id,
        purpose=event.purpose,
        category=event.category,
        subject_id=event.subject_id,
        partition=partition,
        number=event.number,
        text=event.text,
        requested_at=event.requested_at,
        send_before=event.send_before,
        region=event.region,
    )


def requested_together(event: MessagesRequested, request: Request, partition: int) -> Candidate:
    """Return the candidate of one request of an event. Raise ValueError for an id that is no UUID."""
    return Candidate(
        message_id=pgproto.UUID(request.message_id),
        campaign_id=event.campaign_id,
        sender_id=event.sender_id,
        purpose=event.purpose,
        category="marketing",
        subject_id=request.subject_id,
        partition=partition,
        number=request.number,
        text=request.text,
        requested_at=event.requested_at,
        send_before=event.send_before,
        region=request.region,
    )


def undecided(candidate: Candidate, now: datetime) -> MessageRow:
    """Return the row of a request that waits in the ledger for its first decision."""
    return MessageRow(
        message_id=candidate.message_id,
        status=Status.PENDING,
        reasons=(),
        campaign_id=candidate.campaign_id,
        sender_id=candidate.sender_id,
        purpose=candidate.purpose,
        category=candidate.category,
        subject_id=candidate.subject_id,
        partition=candidate.partition,
        number=candidate.number,
        text=candidate.text,
        requested_at=candidate.requested_at,
        send_before=candidate.send_before,
        version=1,
        policy_version="",
        due_at=now,
        region=candidate.region,
        charged=False,
    )


def stored(row: MessageRow) -> Candidate:
    return Candidate(**{name: getattr(row, name) for name in Candidate.__struct_fields__})


class Permit(msgspec.Struct, frozen=True, gc=False):
    """An allowed message, decrypted, with the sender's particulars.

    A hand-off begins before `until` (`uptime_s`), or the message is decided again. `again`: the gateway may have had
    the message before, so the message goes by the same gateway or not at all, and is never `deferred`.
    """

    candidate: Candidate
    number: str
    text: str
    oadc: str
    stop_code: str
    gateway: str
    until: float
    row: MessageRow
    deliver_by: datetime | None = None  # see `Submit`
    again: bool = False
    lacks_stop: bool = False  # the gateway has to add the STOP mention
    to_stopped: bool = False  # the person had stopped the sender, or its controller

    @property
    def decided_at(self) -> datetime:
        assert self.row.decided_at is not None, "a permit is of a decision"
        return self.row.decided_at

    def __repr__(self) -> str:  # omits number and text
        return f"Permit({self.candidate.message_id})"


class Decision(msgspec.Struct, frozen=True, gc=False):
    candidate: Candidate
    verdict: Verdict
    row: MessageRow
    permit: Permit | None
    charged: tuple[Purse, int] | None  # the purse and the cost to return if the ledger refuses the row
    shared: str  # the part of the decision record behind `row.shared_id`


def shared_of(decisions: Iterable[Decision]) -> dict[UUID, str]:
    """Return the shared parts of the decision records, for the ledger."""
    return {d.row.shared_id: d.shared for d in decisions if d.row.shared_id is not None}
