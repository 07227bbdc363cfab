"""Turn a person's contact with a sender into evidence, and decide whether the evidence is worth a ledger line.

The ledger keeps one contact per day, person and sender, and none about strangers to the sender.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from common.sms.subject_id import Inner
from consent.ledger import retention
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence
from consent.ledger.store import Standing


def contact(
    inner: Inner, subject_id: str, sender_id: str, occurred_at: datetime, received_at: datetime, **proof: Any
) -> Statement:
    """Return a contact, with an id per person, sender and UTC day. `proof`: fields of Evidence."""
    day = retention.day(min(occurred_at, received_at))
    evidence = Evidence(
        evidence_id=evidence_id("contact", inner(subject_id), sender_id, day),
        kind="contact",
        sender_id=sender_id,
        purpose=None,
        occurred_at=occurred_at,
        received_at=received_at,
        **proof,
    )
    return Statement(subject_id, None, evidence)


async def worth_keeping(tx: AsyncConnection, statements: Mapping[int, Statement]) -> dict[int, Statement]:
    """Return the contacts of people known to the sender that move the clock to another day."""
    standing = await ledger_store.standing_of(tx, [statement.subject_id for statement in statements.values()])
    worth = {}
    for index, statement in statements.items():
        state, sender_id = standing.get(statement.subject_id, Standing()).state, statement.evidence.sender_id
        met = any(mark.sender_id == sender_id for mark in state.marks)
        if sender_id and met and retention.worth_keeping(state, sender_id, statement.evidence.at):
            worth[index] = statement
    return worth
