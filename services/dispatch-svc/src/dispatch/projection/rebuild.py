"""`python -m dispatch rebuild`: what dispatch knows of consents, made anew from the log while the old one serves
(ADR-0043).

A second generation of the table grows beside the first, from the oldest record on, up to where the projection has come
by then. A run that dies is gone on with by the next one. Then, with `subject` locked against everybody, what has come
meanwhile is read too, and the two change places: decisions and opt-outs wait for that as long as for a large batch.
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
from common.kafka.completeness import Seen
from common.kafka.consumer import Stopped
from common.kafka.replaying import BEGINNING, Batch, Replaying
from common.settings import ServiceSettings
from dispatch import store
from dispatch.projection import apply as projection

log = logging.getLogger(__name__)

AT_ONCE = 2_000  # records
NEAR = 1_000  # records that may be left when the generations change: they are read while everybody waits
WAITS_S = 0.5  # for the lock, which others then wait behind: longer, and it lets them go on and tries again
READS_S = 2.0  # what is left of the log, while they wait
AGAIN_S = 2.0
TRIES = 30
OVER_GAPS = "--over-gaps"
REBUILDER = "placet.rebuild"  # advisory lock: one that rebuilds
ANOTHERS = "another has gone on with this rebuild, or finished it: run it again if none does"


class NotNow(RuntimeError):
    """Another is at it, or the generations could not change places."""


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """`over_gaps`: a person says that consent-svc has published again what the log has lost."""

    database: Database
    settings: ServiceSettings
    tell: Callable[[str], None]
    over_gaps: bool = False

    async def run(self) -> None:
        """Raises NotNow; Stopped where a state's subject cannot be read, or the log has lost records."""
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
                    await may_idle(tx)  # the log may be slow; nobody waits for this one
                    until = await store.projected_up_to(tx)
                    async for batch in log_again.read(reached, until, AT_ONCE):
                        self._look_for_a_gap(batch)
                        await _step(tx, batch, begun_at, reached)
                    kept = await store.keep_newer(tx)  # of a moment up to which the log is read: none of it comes after
                    await tx.execute(text("ANALYZE subject_next"))  # else its first decisions read all of it
            except (DBAPIError, asyncpg.SerializationError) as error:
                if _was_overtaken(error):
                    raise NotNow(ANOTHERS) from None
                raise
            if kept:
                self.tell(f"{kept} people are kept as they are: newer than what the log holds")
            await self._change(log_again, begun_at, reached)

    def _look_for_a_gap(self, batch: Batch) -> None:
        """A table made from a log that has lost records would not be whole. Raises Stopped."""
        if (gap := batch.reading.gap) is None:
            return
        lost = f"the log of partition {batch.partition} has lost records before offset {gap.offset}"
        if not self.over_gaps:
            raise Stopped(
                f"{lost}: run `python -m consent republish --partition {batch.partition}`, and then"
                " `python -m dispatch rebuild --over-gaps`"
            )
        self.tell(f"{lost}, and a person says that they were published again")

    async def _change(self, log_again: Replaying, begun_at: datetime, reached: Mapping[int, Seen]) -> None:
        for _ in range(TRIES):
            try:
                async with self.database.begin() as tx:
                    await store.lock_generation(tx, WAITS_S)
                    async with asyncio.timeout(READS_S):
                        until = await store.projected_up_to(tx)  # to stay so: whoever would write it waits for us
                        read_on = dict(reached)
                        async for batch in log_again.read(read_on, until, AT_ONCE):
                            self._look_for_a_gap(batch)
                            await _apply(tx, batch)
                            read_on[batch.partition] = batch.reading.seen
                    if not await store.change_generations(tx, begun_at, reached):
                        raise NotNow(ANOTHERS)
                return
            except (TimeoutError, DBAPIError) as error:
                log.warning("the generations could not change places yet", extra={"why": type(error).__name__})
                await asyncio.sleep(AGAIN_S)
        raise NotNow("the generations could not change places: run it again, it goes on from here")

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self.database.engine.connect() as connection:
            if not await connection.scalar(text("SELECT pg_try_advisory_lock(hashtext(:name))"), {"name": REBUILDER}):
                raise NotNow("another rebuild is running")
            await connection.commit()  # the lock is the connection's, and no transaction stays open
            try:
                yield
            finally:
                with contextlib.suppress(DBAPIError):  # a connection that was lost holds no lock
                    await connection.execute(text("SELECT pg_advisory_unlock_all()"))


def _was_overtaken(error: Exception) -> bool:
    """What it was to write, another has written since it began to read."""
    cause = error.orig and error.orig.__cause__ if isinstance(error, DBAPIError) else error
    return isinstance(cause, asyncpg.SerializationError)


async def _step(tx: AsyncConnection, batch: Batch, begun_at: datetime, reached: dict[int, Seen]) -> None:
    """Raises NotNow where another has gone on with it. The lock is held by a connection, and one that is idle for hours
    may be lost unnoticed; this cannot."""
    await _apply(tx, batch)
    since = reached.get(batch.partition, BEGINNING)
    if not await store.step_rebuild(tx, begun_at, batch.partition, since, batch.reading.seen):
        raise NotNow(ANOTHERS)
    reached[batch.partition] = batch.reading.seen


async def _apply(tx: AsyncConnection, batch: Batch) -> None:
    """As the projection does, but for what only the first time is to be done."""
    unreadable: dict[str, int] = {}  # and where, the last time
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
    """0 once the new generation serves, 1 where it does not."""
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
