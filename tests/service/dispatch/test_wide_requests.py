"""Requests in more partitions than people have (ADR-0114): each is decided under the lock and the watermark of its
person's partition, where the opt-outs stay. So no STOP is overtaken, nothing is lost, and nothing leaves twice."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from common.contracts import CAMPAIGN_REQUESTS, DISPATCH_MESSAGES, STATES
from common.contracts.campaign import MessageRequested
from common.kafka import broker as kafka
from common.kafka import widening
from common.kafka.broker import partition_of
from common.settings import ServiceSettings
from tests.service.dispatch.test_dispatch import (
    APPLY_WHAT_THE_OTHER_SAID,
    SOMEBODY_WAITS_FOR_A_PARTITION,
    Dispatch,
    dispatch,
    known,
)
from tests.support.builders import now, opted_in, opted_out, requested, subject, together
from tests.support.eventually import eventually
from tests.support.operators.http import Operator, operator
from tests.support.publish import all_read, heartbeat, publish
from tests.support.running import Surroundings

FEW, MANY = 3, 6
PEOPLE = range(1, 19)
NEW = [n for n in PEOPLE if partition_of(subject(n), MANY) >= FEW]
STOPPING = NEW[:4]
ROUNDS = 8
WITHIN_S = 90.0


@pytest.fixture(autouse=True)
def counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widening, "_counts", {})


@asynccontextmanager
async def wide(surroundings: Surroundings, op: Operator, *, watermarks: bool = True) -> AsyncIterator[Dispatch]:
    """dispatch-svc with more partitions for its work. Its topics have them: somebody else adds those of requests."""
    told = await surroundings.settings("dispatch", work_partitions=MANY)
    await kafka.ensure_topics(ServiceSettings(**told), [CAMPAIGN_REQUESTS, DISPATCH_MESSAGES])
    async with dispatch(surroundings, op, watermarks=watermarks, work_partitions=MANY) as d:
        yield d


def more(surroundings: Surroundings) -> Surroundings:
    """Where campaign-svc publishes once it has more partitions."""
    return replace(surroundings, partitions=MANY)


async def test_no_stop_is_overtaken_while_requests_go_to_more_partitions(surroundings: Surroundings) -> None:
    """Some rounds of requests to everybody, from the third on in more partitions, and a STOP in each of the last."""
    asked: dict[str, tuple[int, datetime]] = {}  # by message: the person, and when

    async def ask(where: Surroundings) -> None:
        requests = [requested(n) for n in PEOPLE]
        at = now()
        asked.update({each.message_id: (n, at) for n, each in zip(PEOPLE, requests, strict=True)})
        await publish(where, CAMPAIGN_REQUESTS, together(requests, where.partitions))

    async with operator() as op, wide(surroundings, op) as d:
        await d.publish_states(*map(opted_in, PEOPLE))
        await eventually(lambda: known(surroundings, len(PEOPLE)))
        stops = iter(STOPPING)
        for turn in range(ROUNDS):
            asking = ask(surroundings if turn < 2 else more(surroundings))
            stopping = [] if turn < ROUNDS - len(STOPPING) else [opted_out(next(stops))]
            await asyncio.gather(asking, publish(surroundings, STATES, stopping))
        await eventually(lambda: enforced_of(d), within_s=WITHIN_S)
        await ask(more(surroundings))
        await eventually(lambda: settled(d, len(asked)), within_s=WITHIN_S)
        enforced = await enforced_of(d)
        async with surroundings.sql("dispatch") as sql:
            rows = await sql.fetch("SELECT message_id::text, status, reasons FROM message")
        status = {row["message_id"]: (row["status"], row["reasons"]) for row in rows}
        sent = {each["reference"]: each["at"] for each in op.messages}
    assert len(op.messages) == len(sent), "nothing leaves twice"
    assert status.keys() == asked.keys(), "nothing is lost"
    assert sent.keys() == {identity for identity, (is_, _) in status.items() if is_ == "accepted"}
    of: dict[int, list[str]] = defaultdict(list)
    for identity, (n, at) in asked.items():
        of[n].append(status[identity][0])
        if n in STOPPING:
            assert identity not in sent or sent[identity] <= enforced[subject(n)], "after an enforced STOP"
            assert at < enforced[subject(n)] or status[identity][0] == "denied"
    assert all(of[n] == ["accepted"] * (ROUNDS + 1) for n in PEOPLE if n not in STOPPING)


async def enforced_of(d: Dispatch) -> dict[str, datetime]:
    async with d.surroundings.sql("dispatch") as sql:
        rows = await sql.fetch("SELECT subject_id, enforced_at FROM enforcement WHERE enforced_at IS NOT NULL")
    found = {row["subject_id"]: row["enforced_at"] for row in rows}
    assert found.keys() == set(map(subject, STOPPING))
    return found


async def settled(d: Dispatch, many: int) -> bool:
    async with d.surroundings.sql("dispatch") as sql:
        rows = await sql.fetch("SELECT status FROM message WHERE status IN ('accepted', 'denied')")
        letters = await sql.fetchval("SELECT count(*) FROM dead_letter")
    assert (len(rows), letters) == (many, 0)
    return True


async def test_a_decision_in_a_new_partition_waits_for_an_opt_out_that_is_being_applied(
    surroundings: Surroundings,
) -> None:
    who, other = NEW[0], NEW[1]
    async with operator() as op, wide(surroundings, op) as d:
        await d.publish_states(opted_in(who), opted_out(other))
        await eventually(lambda: known(surroundings, 2))
        async with surroundings.sql("dispatch") as sql, sql.transaction():
            partition = partition_of(subject(who), FEW)
            await sql.execute("SELECT pg_advisory_xact_lock(hashtext('placet.partition'), $1)", partition)
            await sql.execute(APPLY_WHAT_THE_OTHER_SAID, subject(who), subject(other))
            await all_read(surroundings, "dispatch", STATES)
            await publish(more(surroundings), CAMPAIGN_REQUESTS, [wanted := requested(who)])
            await eventually(lambda: sql.fetchval(SOMEBODY_WAITS_FOR_A_PARTITION))
        assert "opted_out" in (await eventually(d.becomes(wanted.message_id, "denied")))["reasons"]
        assert op.messages == []


async def test_a_new_partition_is_held_while_the_consents_of_its_people_are_stale(surroundings: Surroundings) -> None:
    async with operator() as op, wide(surroundings, op, watermarks=False) as d:
        who, place = NEW[0], partition_of(subject(NEW[0]), FEW)
        other = next(n for n in NEW if partition_of(subject(n), FEW) != place)
        await publish(surroundings, STATES, [opted_in(who), opted_in(other)], as_of=now() - timedelta(seconds=60))
        await eventually(lambda: known(surroundings, 2))
        async with heartbeat(surroundings, STATES, partitions=[each for each in range(FEW) if each != place]):
            await publish(more(surroundings), CAMPAIGN_REQUESTS, [wanted := requested(who)])
            await eventually(lambda: place_of(d, partition_of(subject(who), MANY)))
            for _ in range(3):  # meanwhile the other partition is read and decided, again and again
                await publish(more(surroundings), CAMPAIGN_REQUESTS, [fresh := requested(other)])
                await eventually(d.becomes(fresh.message_id, "accepted"), within_s=WITHIN_S)
            assert not await recorded(d, wanted)
        async with heartbeat(surroundings, STATES):
            await eventually(d.becomes(wanted.message_id, "accepted"), within_s=WITHIN_S)
        assert op.references[-1] == wanted.message_id


async def place_of(d: Dispatch, partition: int) -> bool:
    """The partition is read, and its record is not stepped over."""
    query = "SELECT next_offset FROM consumer_offset WHERE topic = $1 AND partition = $2"
    async with d.surroundings.sql("dispatch") as sql:
        assert await sql.fetchval(query, CAMPAIGN_REQUESTS.name, partition) == 0
    return True


async def recorded(d: Dispatch, wanted: MessageRequested) -> bool:
    async with d.surroundings.sql("dispatch") as sql:
        return bool(await sql.fetchval("SELECT count(*) FROM message WHERE message_id::text = $1", wanted.message_id))
