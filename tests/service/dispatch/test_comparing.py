"""What dispatch knows is compared with what consent-svc has: the same sums on both sides, from two databases that have
nothing in common, and a difference found where there is one, and only there."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import text

from common.contracts.consent import SLICE, ConsentStateChanged, StatesSummed
from common.db.database import Database
from common.db.shards import Shards
from consent.ledger.recorder import Statement, record
from consent.ledger.rules import Evidence
from consent.proof.summing import Summing
from dispatch.projection import checksum_store
from dispatch.projection import store as projection
from dispatch.projection.checksum import COMPARED, Comparing
from dispatch.projection.freshness import STALENESS, STALENESS_OF, Freshness
from dispatch.projection.limits import Limits
from tests.property.test_ledger_properties import anything
from tests.support.builders import inner, now, opted_in, opted_out, subject
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.unit.consent.evidences import NOW

pytestmark = pytest.mark.brokerless


@dataclass
class Both:
    """consent-svc's database and dispatch-svc's."""

    consent: Database
    dispatch: Database

    async def say(self, statements: list[Statement]) -> None:
        async with self.consent.begin() as tx:
            await record(tx, inner, statements, NOW)

    async def told(self) -> list[ConsentStateChanged]:
        return [msgspec.json.decode(p, type=ConsentStateChanged) for p in await self._outbox("consent.states.v1")]

    async def summed(self) -> StatesSummed:
        """As consent-svc publishes it."""
        async with self.consent.begin() as tx:
            await tx.execute(text("TRUNCATE states_sum"))
        await Summing(Shards.undivided(self.consent, 3), 1.0).sum_up()
        return msgspec.json.decode((await self._outbox("consent.sums.v1"))[-1], type=StatesSummed)

    async def _outbox(self, topic: str) -> list[bytes]:
        async with self.consent.begin() as tx:
            rows = await tx.execute(
                text("SELECT payload FROM outbox WHERE topic = :topic ORDER BY id"), {"topic": topic}
            )
            return [row.payload for row in rows]

    async def project(self, states: list[ConsentStateChanged], *, ago: timedelta = timedelta(hours=1)) -> None:
        newest = {state.subject_id: state for state in sorted(states, key=lambda s: s.version)}
        published = {
            (s.subject_id, s.version): projection.Published(now() - ago, n) for n, s in enumerate(newest.values())
        }
        async with self.dispatch.begin() as tx:
            await projection.put_subjects(tx, list(newest.values()), published)

    async def compare(self, summed: StatesSummed, *, watermark: timedelta = timedelta(0)) -> Any:
        async with self.dispatch.begin() as tx:
            await checksum_store.put_sums(tx, summed, msgspec.json.encode(summed).decode())
            await tx.execute(
                text(
                    "INSERT INTO consumer_offset VALUES ('dispatch.consents', 'consent.states.v1', 0, 1, :as_of)"
                    " ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET as_of = excluded.as_of"
                ),
                {"as_of": summed.seen_until + watermark},
            )
        await Comparing(Shards.undivided(self.dispatch, 1), "t1").compare()
        async with self.dispatch.begin() as tx:
            return await checksum_store.compared(tx)

    async def dispatch_sql(self, statement: str, **given: Any) -> None:
        async with self.dispatch.begin() as tx:
            await tx.execute(text(statement), given)


def test_whatever_was_recorded_both_sides_add_up_to_the_same(
    runner: asyncio.Runner, postgres: Postgres, unique: str
) -> None:
    """consent-svc from the folded state of its ledger, dispatch by SQL from what it was told."""
    both = Both(
        Database(runner.run(postgres.clone("consent", f"consent_{unique}"))),
        Database(runner.run(postgres.clone("dispatch", f"dispatch_{unique}"))),
    )
    said = 0

    @settings(max_examples=20, deadline=None, phases=[Phase.generate])
    @given(batch=st.lists(st.tuples(st.integers(0, 5), anything), min_size=1, max_size=5))
    def adds_up(batch: list[tuple[int, Evidence]]) -> None:
        nonlocal said
        statements = []
        for person, evidence in batch:
            said += 1
            statements.append(Statement(subject(person), "sealed", replace(evidence, evidence_id=f"ev-{said}")))
        runner.run(both.say(statements))
        runner.run(both.project(runner.run(both.told())))
        result = runner.run(both.compare(runner.run(both.summed())))
        assert (result.differing, result.moving) == ([], 0)

    try:
        adds_up()
        assert said > 0
    finally:
        runner.run(both.consent.close())
        runner.run(both.dispatch.close())


@pytest.fixture
async def both(postgres: Postgres, unique: str) -> AsyncIterator[Both]:
    opened = Both(
        Database(await postgres.clone("consent", f"consent_{unique}")),
        Database(await postgres.clone("dispatch", f"dispatch_{unique}")),
    )
    yield opened
    await opened.consent.close()
    await opened.dispatch.close()


OUT = json.dumps([{"sender_id": "maison-lune", "purpose": "promotions", "state": "opted_out"}])
CORRUPTIONS = {
    "a consent": ("UPDATE subject SET consents = CAST(:value AS jsonb) WHERE subject_id = :id", OUT),
    "a suppression": ("UPDATE subject SET suppressions = CAST(:value AS jsonb) WHERE subject_id = :id", "[{}]"),
    "a version": ("UPDATE subject SET version = version + CAST(:value AS integer) WHERE subject_id = :id", 1),
    "an erasure": ("UPDATE subject SET erased = CAST(:value AS boolean) WHERE subject_id = :id", True),
    "a person who is missing": ("DELETE FROM subject WHERE subject_id = :id AND CAST(:value AS text) IS NULL", None),
}


@pytest.mark.parametrize("what", CORRUPTIONS)
async def test_what_is_not_as_consent_svc_has_it_is_found_by_its_slice(both: Both, what: str) -> None:
    statement, value = CORRUPTIONS[what]
    told = [opted_in(n) for n in range(1, 6)]
    await both.project(told)
    same = await _as_dispatch_has_it(both)
    assert (await both.compare(same)).differing == []
    await both.dispatch_sql(statement, id=subject(2), value=value)
    result = await both.compare(replace(same, begun_at=same.begun_at + timedelta(seconds=1)))
    assert result.differing == [subject(2)[-3:]]


async def test_who_was_told_of_since_is_no_difference_and_is_left_out(both: Both) -> None:
    await both.project([opted_in(1), opted_in(2)])
    before = await _as_dispatch_has_it(both)
    await both.project([opted_out(1, version=2)], ago=timedelta(seconds=-1))
    result = await both.compare(before)
    assert (result.differing, result.moving, result.compared) == ([], 1, 1)


async def test_nothing_is_compared_before_all_that_was_summed_is_here(both: Both) -> None:
    await both.project([opted_in(1)])
    theirs = await _as_dispatch_has_it(both)
    await both.project([opted_in(2)])  # which consent-svc does not have
    result = await both.compare(theirs, watermark=timedelta(seconds=-1))
    assert (result.compared_at, result.differing) == (None, [])
    assert (await both.compare(theirs)).differing == [subject(2)[-3:]]


async def test_how_long_nothing_has_been_compared_is_told_also_where_nothing_ever_was(both: Both) -> None:
    begun = now() - timedelta(days=2)
    await Comparing(Shards.undivided(both.dispatch, 1), "t1", begun).compare()
    [metric] = COMPARED.collect()
    assert metric.samples[0].value >= timedelta(days=2).total_seconds()
    await both.project([opted_in(1)])
    comparing = Comparing(Shards.undivided(both.dispatch, 1), "t1", begun)
    theirs = await _as_dispatch_has_it(both)
    await both.compare(theirs, watermark=timedelta(seconds=-1))
    await comparing.compare()
    [metric] = COMPARED.collect()
    assert metric.samples[0].value >= timedelta(days=2).total_seconds(), "sums that wait are not compared"
    await both.compare(theirs)
    await comparing.compare()
    [metric] = COMPARED.collect()
    assert metric.samples[0].value < timedelta(days=1).total_seconds()


async def test_older_sums_replace_no_newer_ones(both: Both) -> None:
    await both.project([opted_in(1)])
    newer = await _as_dispatch_has_it(both)
    await both.compare(newer)
    older = replace(newer, begun_at=newer.begun_at - timedelta(hours=1), sums={})
    result = await both.compare(older)
    assert (result.differing, result.begun_at) == ([], newer.begun_at)


async def test_the_staleness_of_each_partition_is_told_and_none_is_infinite(both: Both) -> None:
    await both.dispatch_sql(
        "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of) VALUES"
        " ('dispatch.consents', 'consent.states.v1', 0, 1, now() - interval '90 seconds'),"
        " ('dispatch.consents', 'consent.states.v1', 1, 1, NULL)"
    )
    await Freshness(Shards.undivided(both.dispatch, 3), Limits(), timedelta(minutes=1)).look()
    of_each = [STALENESS_OF.labels(partition)._value.get() for partition in range(3)]
    assert 90 <= of_each[0] < 120
    assert of_each[1:] == [math.inf, math.inf]
    assert STALENESS._value.get() == math.inf


async def _as_dispatch_has_it(both: Both) -> StatesSummed:
    async with both.dispatch.begin() as tx:
        ours = await checksum_store.sums(tx, now())
    sums = {name: (many, total) for name, (many, total, _) in ours.items()}
    return StatesSummed(sum_id="s", begun_at=now(), seen_until=now(), sums=sums)


async def test_sums_under_another_outer_key_wait_for_sums_of_ours(both: Both) -> None:
    """One side has moved its ids already: no slice would be the same."""
    await both.project([opted_in(1), opted_out(2, version=2)])
    theirs = await _as_dispatch_has_it(both)
    result = await both.compare(msgspec.structs.replace(theirs, sums={"f" * SLICE: (2, 7)}, outer_key="t2"))
    assert result.compared_at is None
    result = await both.compare(msgspec.structs.replace(theirs, begun_at=now(), outer_key="t1"))
    assert result.compared_at is not None
    assert result.differing == []


async def test_sums_stand_still_for_as_long_as_reading_all_states_takes(postgres: Postgres, unique: str) -> None:
    url = await postgres.clone("consent", f"consent_{unique}")
    consent, sql, keeping = Database(url, idle_s=0.2), await asyncpg.connect(url), await asyncpg.connect(url)
    seen = False

    async def stood_still_or_ended() -> bool:
        nonlocal seen
        stood_still = await sql.fetchval(
            "SELECT max(now() - state_change) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'idle in transaction' AND pid <> $1",
            keeping.get_server_pid(),
        )
        ended = seen and stood_still is None
        seen = seen or stood_still is not None
        return ended or (stood_still is not None and stood_still > timedelta(seconds=1))

    try:
        await keeping.execute("BEGIN; LOCK TABLE subject")
        summing = asyncio.create_task(Summing(Shards.undivided(consent, 3), 1.0).sum_up())
        await eventually(stood_still_or_ended)
        await keeping.execute("COMMIT")
        await summing
        assert await sql.fetchval("SELECT count(*) FROM outbox") == 1
    finally:
        await sql.close()
        await keeping.close()
        await consent.close()
