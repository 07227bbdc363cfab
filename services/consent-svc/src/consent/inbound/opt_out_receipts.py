"""Store the marketing messages that left, and turn an `opted_out` DLR into an opt-out from the sender.

The person told the operator, or its blacklist, to stop (DOMAIN 4.3). The opt-out counts from the time of the DLR.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged, MessagesChanged, changes_in
from common.kafka.subscription import GATHER_S, After, Received, Subscription
from common.keyring import FieldKeys, SubjectKeys, Unreadable, owner_of
from consent.answers import answers
from consent.answers.answers import HandOff
from consent.inbound import shared_codes
from consent.inbound.shared_codes import LAST_MESSAGE_DAYS, Overtaken
from consent.ledger import recorder
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence
from consent.proof import store as proof_store
from consent.proof.store import HandedOff

log = logging.getLogger(__name__)

GROUP = "consent.receipts"
CHANGES_AT_ONCE = 500  # a transaction of many people holds up STOPs (`shared_codes.lock_hand_offs`)
SOURCE = "receipt"
NOT_ARRIVED = ("failed", "expired")  # receipts: the person may never have read the message
HANDED_OFF = ("accepted", "rejected", "unknown")  # once its submit began (README, promise 4)


@dataclass(frozen=True, slots=True)
class Receipts:
    field_keys: FieldKeys
    subject_keys: SubjectKeys
    last_message_days: int = LAST_MESSAGE_DAYS

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
        """Store each message that left and record each opt-out, once. An outcome known late may widen a STOP."""
        published = list(changes(batch))
        statements = [self._attributed(statement) for statement in opt_outs(published)]
        left, questions = list(handed_off(published)), list(asked(published))
        if left or questions:
            people = {message.subject_id for message in left} | {question.subject_id for question in questions}
            await shared_codes.lock_hand_offs(tx, people)
            news = await proof_store.add_handed_off(tx, left)
            missed = await answers.handed_off(tx, questions)
            again = await shared_codes.overtaken(tx, news, missed, self.last_message_days)
            statements += map(widened, again)
        if statements:
            await recorder.record(tx, self.subject_keys.inner, statements, datetime.now(UTC))
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


class Published(NamedTuple):
    """A change of a message, with the time of its record."""

    message: MessageChanged
    at: datetime


def changes(batch: Sequence[Received]) -> Iterator[Published]:
    for received in batch:
        if isinstance(received.event, MessagesChanged):
            for message in received.event.changes:
                yield Published(message, received.published_at)


def handed_off(published: Sequence[Published]) -> Iterator[HandedOff]:
    """Yield the marketing messages that left; others need no consent."""
    for message, published_at in published:
        if message.status not in HANDED_OFF or message.category != "marketing" or message.purpose is None:
            continue
        yield HandedOff(
            message_id=message.message_id,
            subject_id=message.subject_id,
            sender_id=message.sender_id,
            purpose=message.purpose,
            campaign_id=message.campaign_id,
            # a crash may lose the time of hand-off: at most permit_ttl after the decision
            handed_off_at=message.handed_off_at or message.decided_at or published_at,
            status="unknown" if message.receipt in NOT_ARRIVED else message.status,
            version=message.version,
        )


def asked(published: Sequence[Published]) -> Iterator[HandOff]:
    """Yield the messages that may be questions of ours and that the operator accepted."""
    for message, published_at in published:
        if message.category == "service" and message.status == "accepted":
            at = message.handed_off_at or message.decided_at or published_at
            yield HandOff(
                message.subject_id,
                message.message_id,
                None if message.receipt in NOT_ARRIVED else at,
                message.version,
            )


def widened(overtaken: Overtaken) -> Statement:
    """Return the opt-out of another sender of the code, with the STOP's evidence."""
    stop = overtaken.stop
    return Statement(stop.subject_id, None, stop.opt_out(overtaken.sender_id), to_review=stop.behind_start)


def opt_outs(published: Sequence[Published]) -> Iterator[Statement]:
    """Yield the opt-outs that DLRs tell of."""
    for message, published_at in published:
        if message.receipt != "opted_out":
            continue
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
        yield Statement(message.subject_id, message.number, evidence)
