"""Seal the ledger in batches, beside the hot path (`seals.py` defines a seal).

A recording transaction takes no lock for the seal. A seal covers settled ordinals, so that no entry slips in between.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Column, DateTime, Integer, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.db.timer import Timer, Worker
from common.telemetry import counter, gauge
from consent.proof import seals, store
from consent.proof.seals import Seal
from consent.proof.settling import Settling
from consent.schema import metadata

log = logging.getLogger(__name__)

AT_ONCE = 10_000
SEALER = "placet.seals"  # advisory lock

SEALED = counter("sms_consent_sealed_entries_total", "Ledger entries sealed.")
WAITING = gauge("sms_consent_unsealed_age_seconds", "Age of the oldest unsealed ledger entry; 0 without one.")

Table(
    "seal",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("previous", Text, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("root", Text, nullable=False),
    Column("sealed_at", DateTime(timezone=True), nullable=False),
    Column("hash", Text, nullable=False),
)

_SEAL = ", ".join(Seal.__slots__)


@dataclass(frozen=True, slots=True)
class Sealing:
    """The timer which seals. Of several processes, only one seals at a time."""

    database: Database
    every_s: float
    settling: Settling

    def worker(self) -> Worker:
        timer = Timer("seals", self.seal_settled, self.every_s, self.database)
        return Worker(timer.name, timer.run)

    async def seal_settled(self) -> bool:
        """Seal the settled entries; return whether more wait."""
        async with self.database.begin() as tx:
            before = await newest(tx)
        settled = await self.settling.up_to(before.last if before else 0)
        async with self.database.begin() as tx:
            seal = await put_seal(tx, settled, datetime.now(UTC))
        async with self.database.begin() as tx:
            WAITING.set(await _oldest_unsealed_s(tx, seal or before))
        if seal is None:
            return False
        SEALED.inc(seal.entries)
        # a pin, out of reach of an attacker of the database
        log.info("the ledger is sealed", extra={"seal": seal.number, "entries": seal.entries, "hash": seal.hash})
        return seal.last < settled


async def put_seal(tx: AsyncConnection, up_to: int, now: datetime) -> Seal | None:
    """Seal the entries after the newest seal, at most AT_ONCE, up to the settled ordinal `up_to`.

    Returns None without entries, or while another process seals.
    """
    if not await tx.scalar(text("SELECT pg_try_advisory_xact_lock(hashtext(:sealer))"), {"sealer": SEALER}):
        return None
    previous = await newest(tx)
    rows = await tx.execute(
        text(
            "SELECT ordinal, hash FROM evidence WHERE ordinal > :after AND ordinal <= :up_to"
            " UNION ALL SELECT ordinal, hash FROM moved_entry WHERE ordinal > :after AND ordinal <= :up_to"
            " ORDER BY ordinal LIMIT :limit"
        ),
        {"after": previous.last if previous else 0, "up_to": up_to, "limit": AT_ONCE},
    )
    entries = [(row.ordinal, row.hash) for row in rows]
    if not entries:
        return None
    seal = await asyncio.to_thread(seals.over, entries, previous, now)
    await tx.execute(
        text(
            "INSERT INTO seal (number, previous, entries, first, last, root, sealed_at, hash)"
            " VALUES (:number, :previous, :entries, :first, :last, :root, :sealed_at, :hash)"
        ),
        {name: getattr(seal, name) for name in Seal.__slots__},
    )
    return seal


async def newest(tx: AsyncConnection) -> Seal | None:
    rows = await tx.execute(text(f"SELECT {_SEAL} FROM seal ORDER BY number DESC LIMIT 1"))
    row = rows.one_or_none()
    return Seal(**row._mapping) if row else None


async def page(tx: AsyncConnection, after: int, limit: int) -> list[Seal]:
    """Return seals by number, after `after`."""
    rows = await tx.execute(
        text(f"SELECT {_SEAL} FROM seal WHERE number > :after ORDER BY number LIMIT :limit"),
        {"after": after, "limit": limit},
    )
    return [Seal(**row._mapping) for row in rows]


def all_seals(tx: AsyncConnection) -> AsyncIterator[Seal]:
    """Yield every seal, by number."""
    return store.streamed(tx, f"SELECT {_SEAL} FROM seal ORDER BY number", Seal)


async def _oldest_unsealed_s(tx: AsyncConnection, seal: Seal | None) -> float:
    age = await tx.scalar(
        text(
            "SELECT extract(epoch FROM now() - recorded_at) FROM evidence WHERE ordinal > :last"
            " ORDER BY ordinal LIMIT 1"
        ),
        {"last": seal.last if seal else 0},
    )
    return float(age or 0)
