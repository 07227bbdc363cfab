"""Erase a person's data in one service, and acknowledge the erasure.

The consumer stores an erasure in the table `erasing`; from then on every writer of personal data can see it
(`asked_of`). A timer erases several people at a time and acknowledges in the same transaction.

First the timer waits for every transaction open when the erasure was stored: an import that began earlier did not see
it. The first poll notes a transaction id, and the erasure begins after every transaction up to this id has ended. A
writer must have written a row before reading `asked_of`, so that its transaction has an id. (Ids belong to the whole
server: a long migration in any of its databases delays erasures.)
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Column, DateTime, Index, MetaData, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import ERASURE_ACKS, ERASURES
from common.contracts.rights import ErasureAcknowledged, ErasureLifted, ErasureRequested
from common.db.database import Database, fetch_many
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.kafka.subscription import After, Received, Subscription
from common.telemetry import counter

log = logging.getLogger(__name__)

KEPT = "erasure_kept"  # NOTIFY channel: erasures are waiting
LOOK_EVERY_S = 0.5
BATCH = 100  # erasures
READY = (  # whose earlier transactions have all ended
    "SELECT erasure_id, subject_id, requested_at FROM erasing WHERE erased_at IS NULL"
    " AND after_xid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
)

ERASED = counter("sms_erasures_total", "Erasures done by this service.")

Erased = Mapping[str, int]  # count by kind
Erase = Callable[[AsyncConnection, Mapping[str, datetime]], Awaitable[Mapping[str, Erased]]]


def define(metadata: MetaData) -> Table:
    """Define the requested erasures.

    Rows stay for ever: data that arrives late must find its erasure. `after_xid`: the last transaction to wait for.
    """
    return Table(
        "erasing",
        metadata,
        Column("erasure_id", Text, primary_key=True),
        Column("subject_id", Text, nullable=False),
        Column("requested_at", DateTime(timezone=True), nullable=False),
        Column("after_xid", BigInteger, nullable=True),
        Column("erased_at", DateTime(timezone=True), nullable=True),
        Column("lifted_at", DateTime(timezone=True), nullable=True),
        Index("erasing_subject_ix", "subject_id"),
        Index("erasing_open_ix", "requested_at", postgresql_where=text("erased_at IS NULL")),
    )


@dataclass(frozen=True, slots=True)
class Eraser:
    """A service's worker for erasures.

    `erase(tx, asked)` erases the people in `asked`, mapped to the time of their request, and returns the counts for
    each completed person; an absent person has data in use, and the timer tries again. `lock_of`: a transaction erases
    only people with the same value, so that it never holds a lock of one group while waiting for another's.
    """

    service: str
    database: Database
    erase: Erase
    lock_of: Callable[[str], Hashable] = lambda subject_id: None

    def subscription(self) -> Subscription:
        return Subscription(f"{self.service}.erasures", ERASURES, keep)

    def worker(self) -> Worker:
        timer = Timer("erase", self.erase_kept, LOOK_EVERY_S, self.database, KEPT)
        return Worker(timer.name, timer.run)

    async def erase_kept(self) -> bool:
        """Erase the people waiting longest; return whether the poll did any work."""
        async with self.database.begin() as tx:
            noted = await tx.execute(
                text(
                    "UPDATE erasing SET after_xid = CAST(CAST(pg_current_xact_id() AS text) AS bigint)"
                    " WHERE erased_at IS NULL AND after_xid IS NULL"
                )
            )
        async with self.database.begin() as tx:
            rows = await tx.execute(text(f"{READY} ORDER BY requested_at LIMIT :batch"), {"batch": BATCH})
            together: dict[Hashable, list[str]] = {}
            for row in rows:
                together.setdefault(self.lock_of(row.subject_id), []).append(row.erasure_id)
        done = [await self._erase(erasure_ids) for erasure_ids in together.values()]
        return any(done) if done else noted.rowcount > 0

    async def _erase(self, erasure_ids: Sequence[str]) -> bool:
        """Erase, skipping erasures locked elsewhere; return whether any was completed."""
        async with self.database.begin() as tx:
            claim = f"{READY} AND erasure_id = ANY(CAST(:ids AS text[])) ORDER BY requested_at FOR UPDATE SKIP LOCKED"
            rows = (await tx.execute(text(claim), {"ids": list(erasure_ids)})).all()
            if not rows:
                return False
            done = await self.erase(tx, {row.subject_id: row.requested_at for row in rows})
            now = datetime.now(UTC)
            acknowledged = [
                ErasureAcknowledged(
                    erasure_id=row.erasure_id,
                    subject_id=row.subject_id,
                    service=self.service,
                    erased_at=now,
                    erased=dict(done[row.subject_id]),
                )
                for row in rows
                if row.subject_id in done
            ]
            await tx.execute(
                text("UPDATE erasing SET erased_at = :now WHERE erasure_id = ANY(CAST(:ids AS text[]))"),
                {"now": now, "ids": [each.erasure_id for each in acknowledged]},
            )
            await outbox.append(tx, ERASURE_ACKS, acknowledged)
        for each in acknowledged:
            log.info(
                "erased", extra={"erasure_id": each.erasure_id, "subject_id": each.subject_id, "erased": each.erased}
            )
        ERASED.inc(len(acknowledged))
        return bool(acknowledged)


async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """Store a batch's erasures, and lift those of people who have returned."""
    for received in batch:
        match received.event:
            case ErasureRequested() as asked:
                await put(tx, asked)
            case ErasureLifted() as lifted:
                await lift(tx, lifted.subject_id, lifted.lifted_at)
    return None


async def put(tx: AsyncConnection, *asked: ErasureRequested) -> None:
    """Store erasures; at least one, each id once.

    A repeated request repeats the erasure, as the acknowledgement may be lost, unless the person has returned.
    """
    await tx.execute(
        text(
            "INSERT INTO erasing AS e (erasure_id, subject_id, requested_at)"
            " SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:subjects AS text[]), CAST(:ats AS timestamptz[]))"
            " ON CONFLICT (erasure_id) DO UPDATE SET after_xid = NULL, erased_at = NULL"
            " WHERE e.erased_at IS NOT NULL AND e.lifted_at IS NULL"
        ),
        {
            "ids": [each.erasure_id for each in asked],
            "subjects": [each.subject_id for each in asked],
            "ats": [each.requested_at for each in asked],
        },
    )
    await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": KEPT})


async def lift(tx: AsyncConnection, subject_id: str, at: datetime) -> None:
    """Mark the person's earlier erasures as lifted: the service may hold data again. A pending erasure still runs."""
    await tx.execute(
        text(
            "UPDATE erasing SET lifted_at = :at"
            " WHERE subject_id = :subject_id AND requested_at <= :at AND lifted_at IS NULL"
        ),
        {"subject_id": subject_id, "at": at},
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A person's latest erasure. `lifted`: the person has returned."""

    at: datetime
    lifted: bool


async def be_waited_for(tx: AsyncConnection) -> None:
    """Give the transaction an id, so that later erasures wait for it.

    A caller without a write so far must call this before `asked_of`.
    """
    await fetch_many(tx, "SELECT pg_current_xact_id()")


async def asked_of(tx: AsyncConnection, subject_ids: Collection[str]) -> dict[str, Asked]:
    """Return the erasures of these people, whose older data the caller must not store. Call after a first write."""
    rows = await fetch_many(
        tx,
        "SELECT subject_id, max(requested_at), bool_and(lifted_at IS NOT NULL) FROM erasing"
        " WHERE subject_id = ANY(string_to_array($1, ' ')) GROUP BY subject_id",
        " ".join(subject_ids),
    )
    return {subject_id: Asked(at, lifted) for subject_id, at, lifted in rows}
