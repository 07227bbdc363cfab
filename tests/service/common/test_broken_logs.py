"""A log that lost its tail, or is another one under the same name: no watermark of it is believed over what is missing,
nothing of another log is read, STOPs go on being applied, and only a person ends it."""

from datetime import datetime
from functools import partial

import pytest

from common.audit.writer import AuditWriters
from common.contracts import STATES
from common.db.shards import Shards
from common.kafka.consumer import Consumer
from common.kafka.reading import broken_logs, log_watch
from common.kafka.reading.broken_logs import Broken, Fault
from common.service import _Running
from tests.service.common.pipeline import GROUP, Pipeline, going, pipeline, states_of
from tests.support.eventually import eventually
from tests.support.running import Surroundings

SUBJECT, OTHER = f"t1-{1:032x}", f"t1-{2:032x}"
PLACE = f"{GROUP}:{STATES.name}/0"


async def as_of(pipe: Pipeline) -> datetime | None:
    found: datetime | None = await pipe.scalar("SELECT as_of FROM consumer_offset WHERE partition = 0")
    return found


async def read_to(pipe: Pipeline, version: int) -> None:
    """Until this version is applied, and a watermark that came after it."""

    async def there() -> bool:
        assert (SUBJECT, version) in await pipe.applied()
        return await as_of(pipe) is not None and await pipe.scalar("SELECT last_number FROM consumer_offset") == version

    await eventually(there)


async def grown_past(pipe: Pipeline, offset: int) -> None:
    async def grown() -> bool:
        return len(await pipe.log()) > offset

    await eventually(grown)


async def stood_at(pipe: Pipeline, *, keep: int) -> int:
    """Where a projection stood that read four states. Then the log keeps the first `keep` records, a STOP (version 5)
    is written behind them, and watermarks grow the log past where the projection stood."""
    async with going(pipe.relay(watermark_every_s=0.01).run, pipe.consumer().run):
        await pipe.append(*states_of(SUBJECT, 1, 2, 3, 4))
        await read_to(pipe, 4)
    offset = await pipe.next_offset()
    assert offset is not None
    assert offset > keep
    await pipe.make_anew(keep)
    async with going(pipe.relay(watermark_every_s=0.01).run):
        await pipe.append(*states_of(SUBJECT, 5))
        await grown_past(pipe, offset + 2)
    return offset


async def ids_forgotten(pipe: Pipeline) -> None:
    """As of a broker that tells no ids, or whose log lost its tail and kept them."""
    await pipe.scalar("UPDATE consumer_offset SET topic_id = NULL, cluster_id = NULL RETURNING 1")


async def test_a_log_that_lost_its_tail_and_grew_past_the_reader_is_never_fresh_again(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The projection stood at 32, the log ends at 24, the STOP is written at 24, watermarks grow it past 32, and the
    projection reads on from 32."""
    monkeypatch.setattr(log_watch, "WATCH_INTERVAL_S", 0.05)
    async with pipeline(surroundings, partitions=1) as pipe:
        stood = await stood_at(pipe, keep=4)
        await ids_forgotten(pipe)
        known = await as_of(pipe)
        for _ in range(2):  # a restart forgets nothing
            consumer = pipe.consumer()
            async with going(pipe.relay(watermark_every_s=0.01).run, consumer.run):
                at = await pipe.next_offset()
                assert at is not None

                async def read_on(at: int = at) -> bool:
                    return (await pipe.next_offset() or 0) > at + 3

                await eventually(read_on)
                assert await as_of(pipe) == known, "a watermark was believed over a STOP that was missed"
                await eventually(partial(_is_broken, consumer))
                [why] = [
                    line
                    for line in _Running(
                        AuditWriters(Shards.undivided(pipe.database, 1)), consumers=[consumer]
                    ).not_ready()
                    if "broken" in line
                ]
                assert why.endswith("Follow LogBroken in the runbook.")
        [broken] = await pipe.broken()
        assert broken.fault == "records_missing"
        assert broken.at >= stood
        assert (await pipe.applied())[-1] == (SUBJECT, 4)

        async with going(pipe.relay(watermark_every_s=0.01).run, pipe.consumer().run):
            await pipe.append(*states_of(SUBJECT, 6))  # events are applied all the same
            await eventually(lambda: _applied(pipe, 6))
            assert await as_of(pipe) == known
            await pipe.append(*states_of(SUBJECT, 5))  # published again
            await eventually(lambda: _applied(pipe, 5))
            assert await command(pipe, "clear", f"{PLACE}@{broken.at + 1}") == 1
            assert await as_of(pipe) == known
            assert await command(pipe, "clear", broken.place) == 0
            await eventually(lambda: _later(pipe, known))
        assert f"cleared\t{broken.place}" in capsys.readouterr().out
        assert await command(pipe, "list") == 0
        assert capsys.readouterr().out == ""


async def test_of_a_topic_made_anew_nothing_is_read_until_a_person_says_so(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the new log has grown past the stored offset. Then all of it is read, whichever number it begins with."""
    monkeypatch.setattr(log_watch, "WATCH_INTERVAL_S", 0.05)
    async with pipeline(surroundings, partitions=1) as pipe:
        stood = await stood_at(pipe, keep=0)
        for _ in range(2):
            consumer = pipe.consumer()
            async with going(consumer.run):
                await eventually(partial(_is_broken, consumer))
        [broken] = await pipe.broken()
        assert (broken.fault, broken.at) == ("other_log", stood)
        assert "the topic id was" in broken.why
        assert await pipe.next_offset() == stood
        known = await as_of(pipe)
        async with going(pipe.relay(watermark_every_s=0.01).run, pipe.consumer().run):
            await eventually(lambda: _stopped(pipe))
            assert await command(pipe, "clear", broken.place) == 0
            await eventually(lambda: _applied(pipe, 5))
            await eventually(lambda: _later(pipe, known))
        assert await pipe.broken() == []


async def test_a_topic_made_anew_under_a_running_reader_stops_it(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_watch, "WATCH_INTERVAL_S", 0.05)
    async with pipeline(surroundings, partitions=1) as pipe, going(pipe.consumer().run):
        async with going(pipe.relay(watermark_every_s=0.01).run):
            await pipe.append(*states_of(SUBJECT, 1, 2))
            await read_to(pipe, 2)
        await pipe.make_anew()
        await eventually(lambda: _stopped(pipe))


async def test_the_worse_of_two_faults_is_kept_with_the_time_of_the_first(surroundings: Surroundings) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.consumer().offsets.start_of(0)
        kept: list[Broken] = []
        faults: list[tuple[Fault, int]] = [("records_missing", 3), ("other_log", 5), ("records_missing", 7)]
        for fault, at in faults:
            async with pipe.database.begin() as tx:
                await broken_logs.note(tx, GROUP, STATES, 0, fault, at, f"at {at}")
            kept += await pipe.broken()
        assert [(each.fault, each.at) for each in kept] == [("records_missing", 3), ("other_log", 5), ("other_log", 7)]
        assert len({each.since for each in kept}) == 1


async def command(pipe: Pipeline, *arguments: str) -> int:
    return await broken_logs.command("dispatch", pipe.settings.database_url, arguments)


async def _is_broken(consumer: Consumer) -> bool:
    return bool(consumer.broken)


async def _stopped(pipe: Pipeline) -> bool:
    return [broken.fault for broken in await pipe.broken()] == ["other_log"]


async def _applied(pipe: Pipeline, version: int) -> bool:
    return (SUBJECT, version) in await pipe.applied()


async def _later(pipe: Pipeline, than: datetime | None) -> bool:
    now = await as_of(pipe)
    return now is not None and than is not None and now > than
