"""Stores which marketing messages left, and on which consent; turns an `opted_out` DLR into an opt-out from the sender.

The person told the operator, or its blacklist, to stop (DOMAIN 4.3). The opt-out counts from the time of the DLR.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged
from common.kafka.subscription import After, Received, Subscription
from common.keyring import FieldKeys, SubjectKeys, Unreadable, owner_of
from consent.ledger import recorder
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence
from consent.proof import store as proof_store
from consent.proof.store import HandedOff

log = logging.getLogger(__name__)

GROUP = "consent.receipts"
SOURCE = "receipt"
HANDED_OFF = ("accepted", "rejected", "unknown")  # once its submit began (README, promise 4)


@dataclass(frozen=True, slots=True)
class Receipts:
    field_keys: FieldKeys
    subject_keys: SubjectKeys

    def subscription(self) -> Subscription:
        return Subscription(GROUP, DISPATCH_MESSAGES, self.apply)

    async def apply(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        """Store each message that left and record each opt-out, once."""
        if left := list(handed_off(batch)):
            await proof_store.add_handed_off(tx, left)
        if statements := [self._attributed(statement) for statement in opt_outs(batch)]:
            await recorder.record(tx, statements, datetime.now(UTC))
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


def handed_off(batch: Sequence[Received]) -> Iterator[HandedOff]:
    """Yield the marketing messages that left; others need no consent."""
    for received in batch:
        message = received.event
        if not isinstance(message, MessageChanged) or message.status not in HANDED_OFF:
            continue
        if message.category != "marketing" or message.purpose is None:
            continue
        yield HandedOff(
            message_id=message.message_id,
            subject_id=message.subject_id,
            sender_id=message.sender_id,
            purpose=message.purpose,
            campaign_id=message.campaign_id,
            # a crash may lose the time of hand-off: at most permit_ttl after the decision
            handed_off_at=message.handed_off_at or message.decided_at or received.published_at,
            consent_version=message.consent_version,
        )


def opt_outs(batch: Sequence[Received]) -> Iterator[Statement]:
    for received in batch:
        message = received.event
        if not isinstance(message, MessageChanged) or message.receipt != "opted_out":
            continue
        evidence = Evidence(
            evidence_id=evidence_id(SOURCE, message.message_id),
            kind="opt_out",
            sender_id=message.sender_id,
            purpose=None,
            source=SOURCE,
            reference=f"{message.gateway}/{message.gateway_message_id or message.message_id}",
            occurred_at=message.receipt_at or received.published_at,
            received_at=received.published_at,
        )
        yield Statement(message.subject_id, message.number, evidence)
