"""Publish a checksum of all subject states, for the services which keep a projection (ADR-0043).

The timer reads all rows from one snapshot of each shard: memory stays constant, and no writer waits.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from sqlalchemy import Column, DateTime, SmallInteger, Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import SUMS
from common.contracts.consent import StatesSummed
from common.db.database import may_idle
from common.db.shards import Shards
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.sms.subject_id import key_id_of
from consent.ledger import rules as ledger
from consent.ledger.rules import SubjectState
from consent.proof import checksums as sums
from consent.proof import store
from consent.proof.checksums import Sums
from consent.schema import metadata

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
PAGE = 1_000
SUMMER = "placet.sums"  # advisory lock

Table(
    "states_sum",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("begun_at", DateTime(timezone=True), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Summing:
    """The timer, of the shard of partition 0, over all shards.

    Of several processes, only one sums at a time, once in `every_s`.
    """

    shards: Shards
    every_s: float

    def workers(self) -> list[Worker]:
        """Return the timer, in the shard that sums."""
        if self.shards.own is not self.shards.first:
            return []
        timer = Timer("sums", self.sum_up, min(LOOK_EVERY_S, self.every_s), self.shards.own.database)
        return [Worker(timer.name, timer.run)]

    async def sum_up(self) -> bool:
        async with self.shards.first.database.begin() as tx:
            if not await _is_due(tx, datetime.now(UTC) - timedelta(seconds=self.every_s)):
                return False
            await may_idle(tx)  # keeps the lock while the other transaction reads
            summed = await self._of_a_snapshot()
            await outbox.append(tx, SUMS, [summed])
            await tx.execute(
                text(
                    "INSERT INTO states_sum (id, begun_at) VALUES (1, :at)"
                    " ON CONFLICT (id) DO UPDATE SET begun_at = excluded.begun_at"
                ),
                {"at": summed.begun_at},
            )
        log.info(
            "the checksums of all states are published",
            extra={"subjects": sum(many for many, _ in summed.sums.values())},
        )
        return False

    async def _of_a_snapshot(self) -> StatesSummed:
        begun_at = datetime.now(UTC)
        found: Sums = {}
        outer_key = ""
        async with AsyncExitStack() as open_:
            each = [await open_.enter_async_context(shard.database.begin()) for shard in self.shards.each]
            for tx in each:
                await tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
                if self.shards.divided:
                    await may_idle(tx)  # while the others are summed
                await tx.execute(text("SELECT FROM subject LIMIT 1"))  # takes the snapshot
            seen_until = datetime.now(UTC)
            for tx in each:
                async for page in store.told_states(tx, PAGE):
                    outer_key = outer_key or key_id_of(page[0][0])
                    await asyncio.to_thread(_add, found, page)
        return StatesSummed(
            sum_id=str(uuid4()), begun_at=begun_at, seen_until=seen_until, sums=found, outer_key=outer_key
        )


async def _is_due(tx: AsyncConnection, before: datetime) -> bool:
    """Take the lock; return whether a checksum is due and no other process sums."""
    if not await tx.scalar(text("SELECT pg_try_advisory_xact_lock(hashtext(:summer))"), {"summer": SUMMER}):
        return False
    begun_at: datetime | None = await tx.scalar(text("SELECT begun_at FROM states_sum"))
    return begun_at is None or begun_at <= before


def _add(found: Sums, page: Sequence[tuple[str, int, SubjectState, bool]]) -> None:
    for subject_id, version, state, erased in page:
        told = sums.digest(subject_id, version, ledger.consents(state), ledger.suppressions(state), erased=erased)
        sums.add(found, subject_id, told)
