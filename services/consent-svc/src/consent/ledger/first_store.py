"""Write first consents, as lines of COPY, into the ledger's tables, and their events into the outbox."""

from collections.abc import Iterable
from datetime import datetime

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES
from common.contracts.consent import ConsentStateChanged
from common.db.database import copy_lines, escaped
from common.kafka import outbox
from consent.ledger.chain import instant
from consent.ledger.first_consents import ENTRY, NULL, SUBJECT, TERM, Written
from consent.ledger.store import Subject


async def add_subjects(tx: AsyncConnection, first: Written, others: Iterable[Subject], now: datetime) -> bool:
    """Insert the new subjects of `first`, and `others`, in locking order; False, and none, if another writer has one.

    COPY waits for the other writer, as an insert does, and takes a third of the work of an insert with ON CONFLICT.
    """
    lines = first.subjects | {subject.subject_id: _line(subject, now) for subject in others}
    try:
        async with tx.begin_nested():
            await copy_lines(tx, "subject", SUBJECT, [lines[subject_id] for subject_id in sorted(lines)])
    except asyncpg.UniqueViolationError:
        return False
    return True


async def append(tx: AsyncConnection, first: Written, partitions: int | None) -> None:
    """Append the entries, the terms and the events of `first`. The subjects must be locked.

    `partitions`: of the topic; the events then share rows of the outbox.
    """
    await copy_lines(tx, "retention_due", TERM, first.terms)
    await copy_lines(tx, "evidence", ENTRY, first.entries)
    type_ = ConsentStateChanged.type
    if partitions is None:
        await outbox.append_records(tx, STATES.name, first.keys, [type_] * len(first.keys), first.events)
    else:
        await outbox.append_encoded(tx, STATES, type_, first.keys, first.events, partitions)


def _line(subject: Subject, now: datetime) -> str:
    state = msgspec.json.encode(subject.state).decode()
    fields = {
        "version": str(subject.version),
        "entries": str(subject.entries),
        "held_since": _instant(subject.held_since),
        "erased_at": _instant(subject.erased_at),
        "updated_at": instant(now),
        "subject_id": escaped(subject.subject_id),
        "number": NULL if subject.number is None else escaped(subject.number),
        "head": subject.head,
        "state": escaped(state),
    }
    return "\t".join([fields[name] for name in SUBJECT]) + "\n"


def _instant(at: datetime | None) -> str:
    return NULL if at is None else instant(at)
