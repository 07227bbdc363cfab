"""The enforcement of opt-outs: the table, and its statements."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Identity, Index, Integer, SmallInteger, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import OptOutEnforced
from common.db.database import Database, fetch_many, once_committed
from common.kafka import outbox
from common.telemetry import histogram, tracing
from dispatch.messages.by_day import hashes_of
from dispatch.messages.store import ON_CONSENT
from dispatch.schema import by_column, instant, metadata

ENFORCED = histogram(
    "sms_dispatch_enforcement_seconds",
    "Time from the webhook or API call of an opt-out to its enforcement.",
    buckets=(0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0),
)

enforcement = Table(
    "enforcement",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("consent_version", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("reference", Text),
    instant("received_at", nullable=False),
    instant("applied_at", nullable=False),
    instant("enforced_at"),
    Index("enforcement_subject_ix", "subject_id"),
    Index("enforcement_open_ix", "subject_id", postgresql_where=text("enforced_at IS NULL")),
    Index("enforcement_enforced_ix", "enforced_at", postgresql_where=text("enforced_at IS NOT NULL")),
)


class OptOut(NamedTuple):
    """An opt-out just applied. `reference`: the MO's id, if any."""

    subject_id: str
    partition: int
    consent_version: int
    source: str
    reference: str | None
    received_at: datetime
    applied_at: datetime


async def open_enforcements(tx: AsyncConnection, rows: Sequence[OptOut]) -> None:
    """Store opt-outs just applied, open until `enforce` closes them."""
    columns = {
        "subject_id": "text",
        "partition": "smallint",
        "consent_version": "integer",
        "source": "text",
        "reference": "text",
        "received_at": "timestamptz",
        "applied_at": "timestamptz",
    }
    arrays = ", ".join(f"CAST(:{c} AS {kind}[])" for c, kind in columns.items())
    await tx.execute(
        text(f"INSERT INTO enforcement ({', '.join(columns)}) SELECT * FROM unnest({arrays})"),
        by_column(rows, columns),
    )


async def any_open(database: Database, subject_ids: Sequence[str]) -> bool:
    """Return whether an opt-out of these subjects is open, in one round trip: of a campaign's people hardly ever."""
    rows = await database.read(
        "SELECT 1 FROM enforcement WHERE enforced_at IS NULL AND subject_id = ANY(string_to_array($1, ' ')) LIMIT 1",
        " ".join(subject_ids),
    )
    return bool(rows)


async def enforce(tx: AsyncConnection, subject_ids: Sequence[str]) -> list[OptOutEnforced]:
    """Enforce the open opt-outs of these subjects, publish each enforcement, and return the events.

    An opt-out stays open while marketing, or the question of a double opt-in (category `service`, with a purpose), is
    `sending`.

    The opt-out must be committed, or the caller holds the partition's lock exclusive and has just applied the opt-out:
    then the gate allows no further forbidden message. Only opt-outs read by the first statement are enforced: a later
    opt-out may have seen a message `sending` whose decision the second statement has not seen. The clock is read after
    both statements, so that every ended hand-off began before `enforced_at`.
    """
    waiting = await fetch_many(
        tx,
        "SELECT id, partition, subject_id FROM enforcement"
        " WHERE enforced_at IS NULL AND subject_id = ANY(string_to_array($1, ' '))",
        " ".join(subject_ids),
    )
    if not waiting:
        return []
    held_back = await fetch_many(
        tx,
        # lateral, so that no plan kept from a small ledger reads a large one for a join
        "SELECT m.subject_id FROM sending AS s CROSS JOIN unnest(s.message_ids, s.people) AS b(message_id, person)"
        " CROSS JOIN LATERAL (SELECT m.subject_id FROM message AS m WHERE m.message_id = b.message_id"
        " AND m.status = 'sending' AND m.subject_id = ANY($2::text[])"
        f" AND {ON_CONSENT} OFFSET 0) AS m"
        f" WHERE s.partition = ANY($1::smallint[]) AND b.person = ANY({hashes_of('$2::text[]')})",
        list({partition for _, partition, _ in waiting}),
        list({subject_id for _, _, subject_id in waiting}),
    )
    now, kept = datetime.now(UTC), {who for (who,) in held_back}
    rows = await tx.execute(
        text(
            "UPDATE enforcement AS e SET enforced_at = :now FROM (SELECT id FROM enforcement WHERE enforced_at IS NULL"
            " AND id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE) AS f"
            " WHERE e.id = f.id RETURNING e.*"
        ),
        {"ids": [id_ for id_, _, subject_id in waiting if subject_id not in kept], "now": now},
    )
    events = [
        OptOutEnforced(
            subject_id=row.subject_id,
            consent_version=row.consent_version,
            source=row.source,
            reference=row.reference,
            received_at=row.received_at,
            enforced_at=row.enforced_at,
        )
        for row in rows
    ]
    await outbox.append(tx, DISPATCH_MESSAGES, events)
    if events:
        once_committed(tx, partial(tracing.mark, "dispatch", "opt-outs enforced", len(events)))
    for event in events:
        once_committed(tx, partial(ENFORCED.observe, (event.enforced_at - event.received_at).total_seconds()))
    return events


async def empty_enforcements(tx: AsyncConnection, subject_ids: Sequence[str]) -> None:
    """Erase the reference to the text behind each opt-out of these subjects."""
    await tx.execute(
        text(
            "UPDATE enforcement SET reference = NULL"
            " WHERE subject_id = ANY(CAST(:ids AS text[])) AND reference IS NOT NULL"
        ),
        {"ids": list(subject_ids)},
    )
