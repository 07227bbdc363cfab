"""A service's part in an erasure: it hears of it, erases what it holds of the person, and says so.

First the erasure is kept (table `erasing`), in the transaction that steps the consumer's offset; from that commit on,
whoever writes anything of a person can see it (`asked_of`). Then a timer erases, several at once, with the
acknowledgement in the outbox of that same transaction: a crash anywhere repeats nothing and forgets nothing.

In between it waits for the transactions that were writing when the erasure was kept: an import that has been reading
its file for a minute did not see it. The first look notes a transaction id; the erasing begins once every transaction
up to that id has ended. Nobody on the way in takes a lock for this. It asks one thing of them: to have written
something before they look at `erasing`, so that they have an id. (Ids are of the whole server: where the databases
share one, a long migration in any of them makes erasures wait.)
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
from common.db.timer import Timer
from common.kafka import outbox
from common.kafka.consumer import After, Received, Subscription
from common.service import Worker
from common.telemetry import counter

log = logging.getLogger(__name__)

KEPT = "erasure_kept"  # NOTIFY channel: there is something to erase
LOOK_EVERY_S = 0.5
BATCH = 100  # erasures
READY = (  # all that was being written when they were kept has been
    "SELECT erasure_id, subject_id, requested_at FROM erasing WHERE erased_at IS NULL"
    " AND after_xid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
)

ERASED = counter("sms_erasures_total", "Erasures done by this service.")

Erased = Mapping[str, int]  # how many of what
Erase = Callable[[AsyncConnection, Mapping[str, datetime]], Awaitable[Mapping[str, Erased]]]


def define(metadata: MetaData) -> Table:
    """The erasures that one service was asked for. They stay: what is late must find them. `after_xid`: all that was
    written up to this transaction id is to be seen before it is erased. `lifted_at`: the person has come back."""
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
    """`erase(tx, asked)` erases what the service holds of these people, who asked then, and says how much, for each
    with whom it is done. Who is absent is tried again: something of theirs is in use at this moment. `lock_of`: in one
    transaction are people of whom it says the same, so that none holds one's lock while it waits for another's."""

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
        """Those that have waited for the longest. Was anything done?"""
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
        """In one transaction, but those that another process has. Was anything done?"""
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
    """What one partition's batch asks for, or takes back."""
    for received in batch:
        match received.event:
            case ErasureRequested() as asked:
                await put(tx, asked)
            case ErasureLifted() as lifted:
                await lift(tx, lifted.subject_id, lifted.lifted_at)
    return None


async def put(tx: AsyncConnection, *asked: ErasureRequested) -> None:
    """One at least, each once. One that was done and is asked for again is done again, and acknowledged again, unless
    the person is back: what answers it may have been lost."""
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
    """What was asked for before is done all the same; what is held from now on is not refused because of it."""
    await tx.execute(
        text(
            "UPDATE erasing SET lifted_at = :at"
            " WHERE subject_id = :subject_id AND requested_at <= :at AND lifted_at IS NULL"
        ),
        {"subject_id": subject_id, "at": at},
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A person's erasure, the last one. `lifted`: they have come back since."""

    at: datetime
    lifted: bool


async def be_waited_for(tx: AsyncConnection) -> None:
    """By the erasures that are kept from now on. Who has not written anything yet calls this before `asked_of`."""
    await fetch_many(tx, "SELECT pg_current_xact_id()")


async def asked_of(tx: AsyncConnection, subject_ids: Collection[str]) -> dict[str, Asked]:
    """Of those people whose erasure was asked for: what is of before is not to be kept. To be called after the
    transaction has written something."""
    rows = await fetch_many(
        tx,
        "SELECT subject_id, max(requested_at), bool_and(lifted_at IS NOT NULL) FROM erasing"
        " WHERE subject_id = ANY(string_to_array($1, ' ')) GROUP BY subject_id",
        " ".join(subject_ids),
    )
    return {subject_id: Asked(at, lifted) for subject_id, at, lifted in rows}
