"""Store the marketing messages that left, and turn an `opted_out` DLR into an opt-out from the sender.

The person told the operator, or its blacklist, to stop (DOMAIN 4.3). The opt-out counts from the time of the DLR.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged, MessagesChanged, Status, changes_in
from common.db.database import once_committed
from common.kafka.subscription import GATHER_S, After, Received, Subscription
from common.keyring import FieldKeys, SubjectKeys, Unreadable, owner_of
from consent.answers import answers
from consent.answers.answers import HandOff
from consent.inbound import shared_codes
from consent.inbound.elsewhere import NOWHERE, Elsewhere
from consent.inbound.recent import Recent, State
from consent.inbound.shared_codes import LAST_MESSAGE_DAYS, Overtaken
from consent.ledger import recorder
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence
from consent.proof import store as proof_store
from consent.proof.store import HandedOff

log = logging.getLogger(__name__)

GROUP = "consent.receipts"
CHANGES_AT_ONCE = 2_000
SOURCE = "receipt"
NOT_ARRIVED = ("failed", "expired")  # receipts: the person may never have read the message
HANDED_OFF = ("accepted", "rejected", "unknown")  # once its submit began (README, promise 4)


@dataclass(frozen=True, slots=True)
class Receipts:
    field_keys: FieldKeys
    subject_keys: SubjectKeys
    last_message_days: int = LAST_MESSAGE_DAYS
    elsewhere: Elsewhere = NOWHERE
    recent: Recent = field(default_factory=Recent)

    def subscription(self) -> Subscription:
        return Subscription(
            GROUP,
            DISPATCH_MESSAGES,
            self.apply,
            max_records=CHANGES_AT_ONCE,
            weigh=changes_in,
            gather_s=GATHER_S,
            together=True,
        )

    async def apply(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """Store each message that left and record each opt-out, once. An outcome known late may widen a STOP.

        The locks come behind the rows of the messages, so that STOPs wait for no COPY, and before the look at STOPs.
        """
        told = read(batch, self.recent.states)
        statements = [self._attributed(statement) for statement in told.opt_outs]
        inner, now = self.subject_keys.inner, datetime.now(UTC)
        for database, theirs in self.elsewhere.parts(statements, attrgetter("subject_id")).items():
            statements = [each for each in statements if each not in theirs]
            async with database.begin() as of_others:
                await recorder.record(of_others, inner, theirs, now)
        news = await proof_store.add_handed_off(tx, list(told.left.values()), told.begun)
        missed = await answers.handed_off(tx, told.asked)
        if news or missed:
            people = {message.subject_id for message in news}.union(missed)
            await shared_codes.lock_hand_offs(tx, people)
            again = await shared_codes.overtaken(tx, news, missed, self.last_message_days)
            statements += map(widened, again)
        if statements:
            await recorder.record(tx, inner, statements, datetime.now(UTC))
        once_committed(tx, partial(self.recent.add, told.states()))
        return None

    def _attributed(self, statement: Statement) -> Statement:
        """Return the opt-out with the subject of its number."""
        try:
            owner = owner_of(statement.number or "", statement.subject_id, self.field_keys, self.subject_keys)
        except Unreadable:
            return statement  # an opt-out counts in doubt
        if owner.subject_id == statement.subject_id:
            return statement
        log.error(
            "subject_mismatch: a receipt has another subject id than its number; the opt-out counts for the number",
            extra={"subject_id": owner.subject_id, "reference": statement.evidence.reference},
        )
        number = self.field_keys.seal(owner.e164, f"number:{owner.subject_id}")
        return replace(statement, subject_id=owner.subject_id, number=number)


@dataclass(frozen=True, slots=True)
class Told:
    """The changes of a batch, by message id.

    `left`: the newest state of each marketing message that left, unless nothing changes. `begun`: messages of `left`
    whose hand-off the batch tells first, and that are not remembered. `unchanged`: the newest state of each message
    without a change. `asked`: accepted messages that may be questions of ours.
    """

    left: dict[str, HandedOff] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    unchanged: dict[str, State] = field(default_factory=dict)
    asked: list[HandOff] = field(default_factory=list)
    opt_outs: list[Statement] = field(default_factory=list)

    def states(self) -> dict[str, State]:
        """Return the states to remember."""
        left = {each.message_id: (each.version, each.status, each.handed_off_at) for each in self.left.values()}
        return self.unchanged | left

    def add_left(self, message: MessageChanged, at: datetime, recent: Mapping[str, State]) -> None:
        """Add a state of a marketing message that left."""
        message_id, version = message.message_id, message.version
        status: Status = "unknown" if message.receipt in NOT_ARRIVED else message.status
        if (newest := self.left.get(message_id)) is not None:
            if newest.version >= version:
                return
        elif (known := self.unchanged.get(message_id) or recent.get(message_id)) is None:
            if message.receipt is None:
                self.begun.add(message_id)
        elif known == (version - 1, status, at):
            self.unchanged[message_id] = version, status, at
            return
        self.left[message_id] = HandedOff(
            message_id=message_id,
            subject_id=message.subject_id,
            sender_id=message.sender_id,
            purpose=message.purpose or "",
            campaign_id=message.campaign_id,
            handed_off_at=at,
            status=status,
            version=version,
        )


def read(batch: Sequence[Received], recent: Mapping[str, State]) -> Told:
    """Return the changes of a batch. Marketing stands on a consent, and names the purpose.

    A crash may lose the time of hand-off, which then is at most permit_ttl after the decision.
    """
    told = Told()
    for received in batch:
        event, published_at = received.event, received.published_at
        if not isinstance(event, MessagesChanged):
            continue
        for message in event.changes:
            if message.receipt == "opted_out":
                told.opt_outs.append(opt_out(message, published_at))
            if message.status not in HANDED_OFF:
                continue
            if message.category == "marketing":
                if message.purpose is not None:
                    told.add_left(message, message.handed_off_at or message.decided_at or published_at, recent)
            elif message.category == "service" and message.status == "accepted":
                told.asked.append(hand_off(message, published_at))
    return told


def hand_off(message: MessageChanged, published_at: datetime) -> HandOff:
    """Return the hand-off of a message that may be a question of ours."""
    at = message.handed_off_at or message.decided_at or published_at
    return HandOff(
        message.subject_id, message.message_id, None if message.receipt in NOT_ARRIVED else at, message.version
    )


def widened(overtaken: Overtaken) -> Statement:
    """Return the opt-out of another sender of the code, with the STOP's evidence."""
    stop = overtaken.stop
    return Statement(stop.subject_id, None, stop.opt_out(overtaken.sender_id), to_review=stop.behind_start)


def opt_out(message: MessageChanged, published_at: datetime) -> Statement:
    """Return the opt-out that a DLR tells of."""
    evidence = Evidence(
        evidence_id=evidence_id(SOURCE, message.message_id),
        kind="opt_out",
        sender_id=message.sender_id,
        purpose=None,
        source=SOURCE,
        reference=f"{message.gateway}/{message.gateway_message_id or message.message_id}",
        occurred_at=message.receipt_at or published_at,
        received_at=published_at,
    )
    return Statement(message.subject_id, message.number, evidence)
