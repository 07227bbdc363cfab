"""Outbox, relay, broker and consumer under random crashes: a projection never goes back, at any moment of the run.

Relays die between Kafka's acknowledgement and their DELETE, so old versions are published again, behind newer ones;
consumers die in the middle of a batch. Most broken designs end in the right state and are wrong on the way there: for a
while somebody who said STOP is opted in again. So each version is looked at as it is applied, by Postgres itself.
"""

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES
from common.contracts.consent import ConsentStateChanged
from common.kafka import outbox
from common.kafka.subscription import After, Received
from tests.service.common.pipeline import Pipeline, going, pipeline, states_of
from tests.support.eventually import eventually
from tests.support.running import Surroundings

# a relay that dies while its client connects leaves that connection to the collector, as a dead process does to the OS
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed AIOKafka:ResourceWarning")

SUBJECTS = [f"t1-{n:032x}" for n in range(10)]
WRITERS = 4
SEED = 20260106
WRITES = 40  # of each writer, at least
MOST_WRITES = 600
CUTS = 8  # relays that die with everything acknowledged and nothing deleted; written is until then, if it can be
FEWEST_CUTS = 3  # on a machine so slow that writers come to their end first
WATCHED = """
CREATE TABLE aggregate (subject_id text PRIMARY KEY, version integer NOT NULL);
CREATE TABLE step (id bigint GENERATED ALWAYS AS IDENTITY, subject_id text, before integer, after integer);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO step (subject_id, before, after) VALUES (NEW.subject_id, OLD.version, NEW.version);
  RETURN NEW;
END $$;
CREATE TRIGGER watched AFTER UPDATE ON projection FOR EACH ROW EXECUTE FUNCTION watch();
"""


@dataclass
class _Deaths:
    cuts: int = 0


async def _write(pipe: Pipeline, seed: int, deaths: _Deaths) -> None:
    """As consent's recorder does: lock the subjects, take their next versions, append, all in one transaction. Goes on
    until enough relays have died, however fast the machine."""
    dice = random.Random(seed)
    for turn in range(MOST_WRITES):
        if turn >= WRITES and deaths.cuts >= CUTS:
            return
        async with pipe.database.begin() as tx:
            states: list[ConsentStateChanged] = []
            for subject in sorted(dice.sample(SUBJECTS, 2)):  # in one order, or two writers wait for each other
                states += states_of(subject, await tx.scalar(text(NEXT_VERSION), {"subject": subject}))
            await outbox.append(tx, STATES, states)


NEXT_VERSION = "UPDATE aggregate SET version = version + 1 WHERE subject_id = :subject RETURNING version"


@asynccontextmanager
async def _relays_that_die(pipe: Pipeline, seed: int) -> AsyncIterator[_Deaths]:
    """Two at a time, for the lock to choose. One dies wherever it is, or has its connection cut where it hurts: with
    everything acknowledged and the DELETE still to come."""
    dice = random.Random(seed)
    stop = asyncio.Event()
    deaths = _Deaths()

    async def live_and_die() -> None:
        while not stop.is_set():
            relay = pipe.relay(relay_batch=dice.randint(1, 40), watermark_every_s=0.05)
            living = asyncio.ensure_future(relay.run(stop))
            await asyncio.wait((living,), timeout=dice.uniform(0.05, 0.6))
            living.cancel()
            with suppress(asyncio.CancelledError):
                await living

    async def cut() -> None:
        async with pipe.sql() as sql:
            while not stop.is_set():
                row = sql.transaction()
                await row.start()
                # of the oldest, which each relay begins with: it may be far behind the newest where writers are fast
                await sql.execute(
                    "SELECT FROM outbox ORDER BY id LIMIT 1 OFFSET $1 FOR UPDATE SKIP LOCKED", dice.randrange(10)
                )
                await asyncio.wait((asyncio.ensure_future(stop.wait()),), timeout=dice.uniform(0.05, 0.2))
                deaths.cuts += len(await sql.fetch(CUT_WHO_DELETES))
                await row.rollback()

    running = [asyncio.ensure_future(run()) for run in (live_and_die, live_and_die, cut)]
    try:
        yield deaths
    finally:
        stop.set()
        await asyncio.gather(*running)


CUT_WHO_DELETES = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM outbox%'
"""


class _Handle:
    """Applies each event of a batch; now and then it dies half-way. `guarded`: by version, as our projections are."""

    def __init__(self, dice: random.Random, *, guarded: bool) -> None:
        self._guard = "WHERE projection.version < excluded.version" if guarded else ""
        self._dice = dice

    async def __call__(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        dies_at = self._dice.randrange(len(batch)) if self._dice.random() < 0.2 else None
        for at, received in enumerate(batch):
            assert isinstance(received.event, ConsentStateChanged)
            await tx.execute(
                text(
                    "INSERT INTO projection (subject_id, version) VALUES (:subject, :version)"
                    f" ON CONFLICT (subject_id) DO UPDATE SET version = excluded.version {self._guard}"
                ),
                {"subject": received.event.subject_id, "version": received.event.version},
            )
            if at == dies_at:
                raise RuntimeError("killed half-way")
        return None


async def _run(pipe: Pipeline, seed: int, *, guarded: bool) -> int:
    """Everything written, relayed and applied; returns how often a projection went back meanwhile."""
    async with pipe.sql() as sql:
        await sql.execute(WATCHED)
        await sql.executemany("INSERT INTO aggregate VALUES ($1, 0)", [(s,) for s in SUBJECTS])
    consumer = pipe.consumer(_Handle(random.Random(seed), guarded=guarded))
    async with going(consumer.run):
        await asyncio.wait_for(consumer.assigned.wait(), 60)
        async with _relays_that_die(pipe, seed) as deaths:
            await asyncio.gather(*(_write(pipe, seed * 100 + writer, deaths) for writer in range(WRITERS)))
        assert deaths.cuts >= FEWEST_CUTS, "too few died: little was tried"
        async with going(pipe.relay().run):
            await eventually(pipe.drained, within_s=40)
        await eventually(lambda: _read_to_the_end(pipe), within_s=40)
    gc.collect()  # what the dead left open is theirs, not the next test's
    return int(await pipe.scalar("SELECT count(*) FROM step WHERE after < before"))


async def _read_to_the_end(pipe: Pipeline) -> bool:
    ends: dict[int, int] = {}
    for record in await pipe.log():
        if isinstance(record.event, ConsentStateChanged):
            ends[record.partition] = record.offset + 1
    for partition, end in ends.items():
        assert (await pipe.next_offset(partition) or 0) >= end
    return True


async def test_a_projection_never_goes_back_whoever_dies(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe:
        assert await _run(pipe, SEED, guarded=True) == 0
        last = {str(subject): int(v) for subject, v in await pipe.rows("SELECT subject_id, version FROM aggregate")}
        assert dict(await pipe.rows("SELECT subject_id, version FROM projection")) == last
        published = [(state.subject_id, state.version) for state in await pipe.states()]
        assert set(published) == {(subject, v + 1) for subject in SUBJECTS for v in range(last[subject])}
        assert len(published) > len(set(published)), "nothing was published twice: nothing was tried"


async def test_without_the_version_guard_the_same_run_goes_back(surroundings: Surroundings) -> None:
    async with pipeline(surroundings) as pipe:
        assert await _run(pipe, SEED, guarded=False) > 0
