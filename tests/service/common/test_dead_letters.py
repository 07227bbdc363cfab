"""A record that was stepped over is listed with every value covered, and handled again when somebody asks: once, as the
consumer would have, or it says why not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES
from common.contracts.consent import ConsentStateChanged
from common.db.database import new_metadata
from common.kafka import dead_letters
from common.kafka import retrying as replays
from common.kafka.dead_letters import DeadLetter
from common.kafka.retrying import Retrying, Unread
from common.kafka.subscription import After, Hold, Poison, Received, Subscription
from common.service import Service
from tests.service.common.pipeline import GROUP, Pipeline, pipeline, project, states_of
from tests.support.running import Surroundings, bearer, running

SUBJECT = f"t1-{1:032x}"


async def all_but_two(tx: AsyncConnection, batch: list[Received]) -> After | None:
    if any(isinstance(r.event, ConsentStateChanged) and r.event.version == 2 for r in batch):
        raise Poison("two is not handled")
    return await project(tx, batch)


def retrying(pipe: Pipeline, handle: Any = project) -> Retrying:
    return Retrying(pipe.database, pipe.settings, [Subscription(GROUP, STATES, handle)])


@asynccontextmanager
async def stepped_over(surroundings: Surroundings) -> AsyncIterator[tuple[Pipeline, httpx.AsyncClient]]:
    """One record of three was, and the service's API answers about it."""
    async with pipeline(surroundings, partitions=1, roles="api") as pipe:
        await pipe.publish(*states_of(SUBJECT, 1, 2, 3))
        await pipe.hand(pipe.consumer(all_but_two))
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 3)]
        service: Service[Any] = Service(name="dispatch", settings=pipe.settings, metadata=new_metadata())
        async with running(service) as client:
            yield pipe, client


async def listed(client: httpx.AsyncClient, state: str) -> list[dict[str, Any]]:
    answer = await client.get("/v1/dead-letters", params={"state": state})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_what_was_mended_is_handled_again_and_once(surroundings: Surroundings) -> None:
    async with stepped_over(surroundings) as (pipe, client):
        [letter] = await listed(client, "open")
        assert (letter["topic"], letter["offset"], letter["reason"]) == (STATES.name, 1, "two is not handled")
        assert letter["shape"]["subject_id"] == f"text of {len(SUBJECT)}"
        assert SUBJECT not in str(letter)
        path = f"/v1/dead-letters/{letter['id']}"
        assert (await client.post(f"{path}/replay")).json()["state"] == "asked"
        assert (await client.post(f"{path}/replay")).json()["state"] == "asked"
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 3)], "asking handles nothing"
        await asyncio.gather(*(retrying(pipe).tick() for _ in range(3)))
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 3), (SUBJECT, 2)]
        assert await pipe.scalar("SELECT version FROM projection") == 3, "what it says had been superseded"
        [done] = await listed(client, "replayed")
        assert done["decided_by"] == "tester"
        refused = await client.post(f"{path}/discard")
        assert (refused.status_code, refused.json()["reasons"][0]["reason"]) == (409, "replayed")
        assert not await retrying(pipe).tick()


async def test_what_still_fails_is_open_again_with_why_and_nothing_of_it_done(surroundings: Surroundings) -> None:
    async def dies(tx: AsyncConnection, batch: list[Received]) -> After | None:
        await project(tx, batch)
        raise ConnectionError("of a number that nobody is to read")

    async with stepped_over(surroundings) as (pipe, client):
        [letter] = await listed(client, "open")
        for handle, why in ((all_but_two, "two is not handled"), (dies, "the replay failed: ConnectionError")):
            await client.post(f"/v1/dead-letters/{letter['id']}/replay")
            assert await retrying(pipe, handle).tick()
            [still] = await listed(client, "open")
            assert still["reason"] == why
        async with pipe.sql() as sql:  # what is handled and cannot be said to be, is not handled
            await sql.execute("ALTER TABLE dead_letter ADD CONSTRAINT never CHECK (state <> 'replayed')")
        await client.post(f"/v1/dead-letters/{letter['id']}/replay")
        assert await retrying(pipe).tick()
        assert "IntegrityError" in (await listed(client, "open"))[0]["reason"]
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 3)]
        assert (await client.post(f"/v1/dead-letters/{letter['id']}/discard")).json()["state"] == "discarded"
        assert (await client.post(f"/v1/dead-letters/{letter['id']}/replay")).status_code == 409


async def test_a_letter_whose_handler_holds_keeps_no_other_letter_waiting(surroundings: Surroundings) -> None:
    async def hold_two(tx: AsyncConnection, batch: list[Received]) -> After | None:
        if any(isinstance(r.event, ConsentStateChanged) and r.event.version == 2 for r in batch):
            raise Hold
        return await project(tx, batch)

    async def none_but_one(tx: AsyncConnection, batch: list[Received]) -> After | None:
        if any(isinstance(r.event, ConsentStateChanged) and r.event.version > 1 for r in batch):
            raise Poison("one is handled")
        return await project(tx, batch)

    async with pipeline(surroundings, partitions=1) as pipe:
        await pipe.publish(*states_of(SUBJECT, 1, 2, 3))
        await pipe.hand(pipe.consumer(none_but_one))
        async with pipe.database.begin() as tx:
            for letter in sorted(await pipe.rows("SELECT id FROM dead_letter")):
                await dead_letters.decide(tx, letter[0], "replay", "tester")
        assert await retrying(pipe, hold_two).tick()
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 3)]
        assert not await retrying(pipe, hold_two).tick()
        assert await retrying(pipe).tick()
        assert await pipe.applied() == [(SUBJECT, 1), (SUBJECT, 3), (SUBJECT, 2)]


async def asked_of(pipe: Pipeline, *versions: int) -> None:
    """A letter of each of these records of one partition, asked for in this order."""

    async def none(tx: AsyncConnection, batch: list[Received]) -> After | None:
        raise Poison("none is handled")

    await pipe.publish(*states_of(SUBJECT, *versions))
    await pipe.hand(pipe.consumer(none))
    for (letter,) in await pipe.rows("SELECT id FROM dead_letter ORDER BY at_offset"):
        async with pipe.database.begin() as tx:
            await dead_letters.decide(tx, letter, "replay", "tester")


async def test_a_letter_of_an_unreadable_partition_keeps_no_other_partition_waiting(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pipeline(surroundings, partitions=1) as pipe:
        await asked_of(pipe, 1, 2, 3)
        # the broker leads no such partition, so the record of these two letters never comes
        await pipe.scalar("UPDATE dead_letter SET partition = 7 WHERE at_offset < 2 RETURNING 1")
        reads = list[int]()
        monkeypatch.setattr(replays, "READ_WITHIN_S", 5.0)
        monkeypatch.setattr(Retrying, "_read", noted(Retrying._read, reads))
        with pytest.raises(Unread, match="dead letter"):
            await retrying(pipe).tick()
        assert await pipe.applied() == [(SUBJECT, 3)]
        assert reads == [0, 2], "one attempt at the unreadable partition"
        assert await pipe.rows("SELECT state FROM dead_letter ORDER BY at_offset") == [
            ("asked",),
            ("asked",),
            ("replayed",),
        ]


async def test_a_lasting_hold_reads_few_letters_of_a_partition(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hold(tx: AsyncConnection, batch: list[Received]) -> After | None:
        raise Hold

    async with pipeline(surroundings, partitions=1) as pipe:
        await asked_of(pipe, 1, 2, 3, 4, 5)
        reads = list[int]()
        monkeypatch.setattr(Retrying, "_read", noted(Retrying._read, reads))
        assert not await retrying(pipe, hold).tick()
        assert reads == [0, 1, 2]


def noted(read: Any, offsets: list[int]) -> Any:
    async def noting(retrying_: Retrying, letter: DeadLetter) -> Any:
        offsets.append(letter.offset)
        return await read(retrying_, letter)

    return noting


async def test_what_its_topic_does_not_hold_any_more_is_gone(surroundings: Surroundings) -> None:
    async with stepped_over(surroundings) as (pipe, client):
        [letter] = await listed(client, "open")
        await pipe.scalar("UPDATE dead_letter SET at_offset = 99 RETURNING 1")
        await client.post(f"/v1/dead-letters/{letter['id']}/replay")
        assert await retrying(pipe).tick()
        assert [gone["id"] for gone in await listed(client, "gone")] == [letter["id"]]


async def test_who_may_decide_and_about_what(surroundings: Surroundings) -> None:
    async with stepped_over(surroundings) as (_, client):
        assert (await client.post(f"/v1/dead-letters/{2**70}/replay")).status_code == 404
        assert (await client.post("/v1/dead-letters/404/discard")).status_code == 404
        assert (await client.post("/v1/dead-letters/1/keep")).status_code == 422
        for claims in ({"scope": "dead-letter:read"}, {"senders": ["maison-lune"]}):
            assert (await client.post("/v1/dead-letters/1/discard", headers=bearer(**claims))).status_code == 403
        assert (await client.get("/v1/dead-letters", headers=bearer(senders=["maison-lune"]))).status_code == 403
        assert len(await listed(client, "open")) == 1


async def test_the_command_says_and_does_the_same(surroundings: Surroundings, capsys: Any) -> None:
    async with stepped_over(surroundings) as (pipe, _):
        url = pipe.settings.database_url
        assert await dead_letters.command("dispatch", url, ["list"]) == 0
        number = capsys.readouterr().out.split("\t")[0]
        assert await dead_letters.command("dispatch", url, ["show", number]) == 0
        shown = capsys.readouterr().out
        assert "two is not handled" in shown
        assert '"version": "number"' in shown
        assert await dead_letters.command("dispatch", url, ["replay", number, "404"]) == 1
        assert "no such dead letter" in capsys.readouterr().err
        assert await pipe.scalar("SELECT state FROM dead_letter") == "open", "all of them or none"
        assert await dead_letters.command("dispatch", url, ["replay", number]) == 0
        assert await retrying(pipe).tick()
        assert await pipe.scalar("SELECT state FROM dead_letter") == "replayed"
