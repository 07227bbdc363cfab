"""`python -m dispatch rebuild`: rebuild the consent table from the log beside the serving table (ADR-0043).

A later run resumes a dead run. The table swap locks `subject` against every reader and writer, and reads the records
published meanwhile.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import ConsentStateChanged
from common.db.database import Database, may_idle
from common.kafka.reading.completeness import Seen
from common.kafka.replaying import BEGINNING, Batch, Replaying
from common.kafka.subscription import Stopped
from common.settings import ServiceSettings
from dispatch.projection import apply as projection
from dispatch.projection import store

log = logging.getLogger(__name__)

AT_ONCE = 2_000  # records
NEAR = 1_000  # records that may be left at the table swap
WAITS_S = 0.5  # longest wait for the lock, since others queue behind the wait
READS_S = 2.0  # longest read, while others wait
AGAIN_S = 2.0
TRIES = 30
OVER_GAPS = "--over-gaps"
REBUILDER = "placet.rebuild"  # advisory lock
ANOTHERS = "another has gone on with this rebuild, or finished it: run it again if none does"


class NotNow(RuntimeError):
    """Another rebuild is running, or the swap failed."""


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """A rebuild. `over_gaps`: a person confirms that consent-svc has published the lost records again."""

    database: Database
    settings: ServiceSettings
    tell: Callable[[str], None]
    over_gaps: bool = False

    async def run(self) -> None:
        """Rebuild and swap the tables.

        Raise NotNow. Raise Stopped when a state's subject is unreadable, or the log has lost records.
        """
        [subscription] = [s for s in projection.subscriptions() if s.group == store.CONSENTS_GROUP]
        async with self._alone(), Replaying(subscription, self.settings) as log_again:
            async with self.database.begin() as tx:
                begun_at, reached = await store.begin_rebuild(tx, datetime.now(UTC))
            while True:
                async with self.database.begin() as tx:
                    until = await store.rebuild_until(tx)
                async for batch in log_again.read(reached, until, AT_ONCE):
                    self._look_for_a_gap(batch)
                    async with self.database.begin() as tx:
                        await _step(tx, batch, begun_at, reached)
                self.tell(f"{sum(seen.next_offset for seen in reached.values())} records read")
                async with self.database.begin() as tx:
                    ahead = await store.projected_up_to(tx)
                if sum(ahead[partition] - reached.get(partition, BEGINNING).next_offset for partition in ahead) <= NEAR:
                    break
            try:
                async with self.database.begin() as tx:
                    await tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
                    await may_idle(tx)  # the log may be slow; no transaction waits for this one
                    until = await store.projected_up_to(tx)
                    async for batch in log_again.read(reached, until, AT_ONCE):
                        self._look_for_a_gap(batch)
                        await _step(tx, batch, begun_at, reached)
                    # the log is read up to this snapshot: a newer row is in no record
                    kept = await store.keep_newer(tx)
                    await tx.execute(text("ANALYZE subject_next"))  # else the first decisions scan the table
            except (DBAPIError, asyncpg.SerializationError) as error:
                if _was_overtaken(error):
                    raise NotNow(ANOTHERS) from None
                raise
            if kept:
                self.tell(f"{kept} people keep their state: newer than the log's")
            await self._change(log_again, begun_at, reached)

    def _look_for_a_gap(self, batch: Batch) -> None:
        """Raise Stopped when the log has lost records."""
        if (gap := batch.reading.gap) is None:
            return
        lost = f"the log of partition {batch.partition} has lost records before offset {gap.offset}"
        if not self.over_gaps:
            raise Stopped(
                f"{lost}: run `python -m consent republish --partition {batch.partition}`, and then"
                " `python -m dispatch rebuild --over-gaps`"
            )
        self.tell(f"{lost}: --over-gaps says that the states were published again")

    async def _change(self, log_again: Replaying, begun_at: datetime, reached: Mapping[int, Seen]) -> None:
        for _ in range(TRIES):
            try:
                async with self.database.begin() as tx:
                    await store.lock_generation(tx, WAITS_S)
                    async with asyncio.timeout(READS_S):
                        until = await store.projected_up_to(tx)  # final
                        read_on = dict(reached)
                        async for batch in log_again.read(read_on, until, AT_ONCE):
                            self._look_for_a_gap(batch)
                            await _apply(tx, batch)
                            read_on[batch.partition] = batch.reading.seen
                    if not await store.change_generations(tx, begun_at, reached):
                        raise NotNow(ANOTHERS)
                return
            except (TimeoutError, DBAPIError) as error:
                log.warning("the table swap failed, trying again", extra={"why": type(error).__name__})
                await asyncio.sleep(AGAIN_S)
        raise NotNow("the generations could not change places: run it again, it goes on from here")

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self.database.engine.connect() as connection:
            if not await connection.scalar(text("SELECT pg_try_advisory_lock(hashtext(:name))"), {"name": REBUILDER}):
                raise NotNow("another rebuild is running")
            await connection.commit()  # the lock belongs to the connection
            try:
                yield
            finally:
                with contextlib.suppress(DBAPIError):  # a lost connection holds no lock
                    await connection.execute(text("SELECT pg_advisory_unlock_all()"))


def _was_overtaken(error: Exception) -> bool:
    """Return whether another transaction has written the same rows meanwhile."""
    cause = error.orig and error.orig.__cause__ if isinstance(error, DBAPIError) else error
    return isinstance(cause, asyncpg.SerializationError)


async def _step(tx: AsyncConnection, batch: Batch, begun_at: datetime, reached: dict[int, Seen]) -> None:
    """Apply a batch and advance the rebuild. Raise NotNow when another process has.

    The advisory lock may be lost unnoticed with an idle connection; this check cannot.
    """
    await _apply(tx, batch)
    since = reached.get(batch.partition, BEGINNING)
    if not await store.step_rebuild(tx, begun_at, batch.partition, since, batch.reading.seen):
        raise NotNow(ANOTHERS)
    reached[batch.partition] = batch.reading.seen


async def _apply(tx: AsyncConnection, batch: Batch) -> None:
    """Apply a batch as the projection does, but enforce no opt-out and wake no message."""
    unreadable: dict[str, int] = {}  # subject to its last offset
    for offset, key in batch.poisoned:
        if key is None:
            raise Stopped(f"partition {batch.partition} holds a state whose subject cannot be read")
        unreadable[key] = offset
    for key, offset in unreadable.items():
        await store.mark_unreadable(tx, key, offset, generation="subject_next")
    states = [r.event for r in batch.received if isinstance(r.event, ConsentStateChanged)]
    if states:
        known = await store.known_subjects(tx, [state.subject_id for state in states], generation="subject_next")
        fresh, published = projection.newer(states, known), projection.published(batch.received)
        await projection.put_states(tx, fresh, known, published, generation="subject_next")


def run(settings: ServiceSettings, arguments: Sequence[str]) -> int:
    """Return the exit code: 0 once the new table serves, 1 if not, 2 for wrong arguments."""
    if arguments not in ([], [OVER_GAPS]):
        sys.stderr.write(f"usage: python -m dispatch rebuild [{OVER_GAPS}]\n")
        return 2
    return asyncio.run(_run(settings, over_gaps=bool(arguments)))


async def _run(settings: ServiceSettings, *, over_gaps: bool) -> int:
    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    database = Database(settings.database_url, pool_size=2, name="dispatch-rebuild")
    try:
        await Rebuilding(database, settings, tell, over_gaps).run()
    except (NotNow, Stopped) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        await database.close()
    tell("the new generation serves")
    return 0
