"""Erasure in campaign-svc: contacts go, audiences and accounts stay, and no file brings the person back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from campaign.senders import store
from campaign.service import Settings, build
from common.contracts import ERASURE_ACKS, ERASURES
from common.contracts.rights import ErasureLifted
from common.db.database import Database
from common.kafka.broker import partition_of
from tests.service.campaign.campaigns import csv_of
from tests.support.builders import SENDER, erasure_requested, now, number, sender_changed, subject
from tests.support.erasures import acknowledged, acknowledgements
from tests.support.eventually import eventually
from tests.support.holdings import holdings, spellings
from tests.support.publish import publish
from tests.support.reading import reading
from tests.support.running import Surroundings, running

pytestmark = pytest.mark.any_broker  # the way between the services is of rights/test_erasure.py

OTHER = "atelier-lune"


@asynccontextmanager
async def campaign(surroundings: Surroundings, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(**await surroundings.settings("campaign", import_max_bytes=1_000_000, **more))
    database = Database(settings.database_url, pool_size=2)
    async with database.begin() as tx:
        await store.put_sender(tx, sender_changed())
        await store.put_sender(tx, sender_changed(sender_id=OTHER))
    await database.close()
    async with running(build(settings)) as client:
        yield client


async def imported(client: httpx.AsyncClient, file: str, sender: str = SENDER) -> dict[str, Any]:
    answer = await client.post("/v1/imports", params={"sender_id": sender}, content=file.encode())
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def neighbour_of(n: int) -> int:
    """Somebody whose events come after theirs in the same partition."""
    return next(m for m in range(n + 1, 1000) if partition_of(subject(m), 3) == partition_of(subject(n), 3))


async def test_contacts_of_every_sender_are_gone_and_nothing_of_the_person_is_left(surroundings: Surroundings) -> None:
    async with campaign(surroundings) as client, reading(surroundings, ERASURE_ACKS) as read:
        await imported(client, csv_of(1, 2, 3))
        await imported(client, csv_of(1, 4), OTHER)
        async with surroundings.sql("campaign") as sql:
            assert await holdings(sql, [*spellings(number(1)), "Zoé 1"]) == ["contact.attributes", "contact.number"]
        asked = erasure_requested(1)
        await publish(surroundings, ERASURES, [asked])
        ack = await acknowledged(read, asked.erasure_id)
        assert (ack.service, ack.subject_id, ack.erased) == (
            "campaign",
            subject(1),
            {"contacts": 2, "links": 0, "conversions": 0},
        )
        assert ack.erased_at >= asked.requested_at
        async with surroundings.sql("campaign") as sql:
            assert await holdings(sql, [*spellings(number(1)), "Zoé 1"]) == []
            assert await sql.fetchval("SELECT count(*) FROM contact") == 3


async def test_a_file_does_not_bring_an_erased_person_back_and_new_evidence_does(surroundings: Surroundings) -> None:
    async with campaign(surroundings) as client, reading(surroundings, ERASURE_ACKS) as read:
        asked = erasure_requested(1)
        await publish(surroundings, ERASURES, [asked])
        assert (await acknowledged(read, asked.erasure_id)).erased == {"contacts": 0, "links": 0, "conversions": 0}

        again = await imported(client, csv_of(1, 2, 1))
        assert (again["created"], again["refused"], again["duplicates"]) == (1, 2, 0)
        assert again["reasons"] == {"erased": 2}
        refusals = (await client.get(f"/v1/imports/{again['import_id']}/refusals")).json()["items"]
        assert [(each["line"], each["reason"]) for each in refusals] == [(2, "erased"), (4, "erased")]
        async with surroundings.sql("campaign") as sql:
            assert await holdings(sql, [*spellings(number(1)), "Zoé 1"]) == []

        lifted = ErasureLifted(subject_id=subject(1), controller_id=SENDER, lifted_at=now(), evidence_id="ev-new")
        await publish(surroundings, ERASURES, [lifted])

        async def back() -> bool:
            return bool((await imported(client, csv_of(1)))["created"])

        assert await eventually(back)


async def test_a_new_opt_in_of_before_a_second_erasure_does_not_lift_it(surroundings: Surroundings) -> None:
    async with campaign(surroundings) as client, reading(surroundings, ERASURE_ACKS) as read:
        second = erasure_requested(1)
        lifted = ErasureLifted(
            subject_id=subject(1),
            controller_id=SENDER,
            lifted_at=second.requested_at - timedelta(seconds=1),
            evidence_id="ev",
        )
        await publish(surroundings, ERASURES, [second, lifted])
        await acknowledged(read, second.erasure_id)
        last = erasure_requested(neighbour_of(1))
        await publish(surroundings, ERASURES, [last])
        await acknowledged(read, last.erasure_id)
        assert (await imported(client, csv_of(1)))["reasons"] == {"erased": 1}


async def test_an_import_that_was_reading_its_file_is_waited_for_and_erased_as_well(surroundings: Surroundings) -> None:
    """It began before the erasure was known and ends after: what it brought in is not left."""
    async with (
        campaign(surroundings) as client,
        reading(surroundings, ERASURE_ACKS) as read,
        surroundings.sql("campaign") as importing,
    ):
        transaction = importing.transaction()
        await transaction.start()
        await importing.execute("CREATE TEMPORARY TABLE imported (line integer) ON COMMIT DROP")  # it has an id now
        asked, other = erasure_requested(1), erasure_requested(2)
        await publish(surroundings, ERASURES, [asked, other])

        async def noted() -> bool:
            async with surroundings.sql("campaign") as sql:
                return bool(await sql.fetchval("SELECT count(*) = 2 FROM erasing WHERE after_xid IS NOT NULL"))

        await eventually(noted)
        await importing.execute(
            "INSERT INTO contact VALUES ($1, $2, 'sealed', '{\"first_name\": \"Zoé 1\"}', now(), now())",
            SENDER,
            subject(1),
        )
        assert acknowledgements(await read()) == []
        await transaction.commit()
        assert (await acknowledged(read, asked.erasure_id)).erased == {"contacts": 1, "links": 0, "conversions": 0}
        await acknowledged(read, other.erasure_id)

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(ready)
        async with surroundings.sql("campaign") as sql:
            assert await sql.fetchval("SELECT count(*) FROM contact") == 0


async def test_whoever_writes_contacts_is_waited_for_from_before_it_looks_who_is_erased(
    surroundings: Surroundings,
) -> None:
    async with campaign(surroundings) as client, surroundings.sql("campaign") as holding:
        transaction = holding.transaction()
        await transaction.start()
        await holding.execute("LOCK TABLE contact IN SHARE MODE")  # who writes waits; who looks does not
        contacts = {"sender_id": SENDER, "contacts": [{"number": number(1)}]}
        writing = asyncio.create_task(client.post("/v1/contacts", json=contacts))

        async def waiting() -> list[bool]:
            async with surroundings.sql("campaign") as sql:
                rows = await sql.fetch(
                    "SELECT backend_xid IS NOT NULL AS seen FROM pg_stat_activity WHERE datname = current_database()"
                    " AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO contact%'"
                )
            return [row["seen"] for row in rows]

        assert await eventually(waiting) == [True], "an erasure does not wait for it"
        await transaction.rollback()
        assert (await writing).json()["items"][0]["result"] == "created"


async def test_an_erasure_asked_for_again_is_acknowledged_again_until_the_person_is_back(
    surroundings: Surroundings,
) -> None:
    """The first answer may have been lost. Who is back is not erased by what was asked before."""
    async with campaign(surroundings) as client, reading(surroundings, ERASURE_ACKS) as read:
        await imported(client, csv_of(1))
        asked = erasure_requested(1)
        await publish(surroundings, ERASURES, [asked])
        await acknowledged(read, asked.erasure_id)
        await publish(surroundings, ERASURES, [asked])

        async def twice() -> bool:
            return [ack.erased for ack in acknowledgements(await read())] == [
                {"contacts": 1, "links": 0, "conversions": 0},
                {"contacts": 0, "links": 0, "conversions": 0},
            ]

        assert await eventually(twice)
        lifted = ErasureLifted(subject_id=subject(1), controller_id=SENDER, lifted_at=now(), evidence_id="ev-new")
        await publish(surroundings, ERASURES, [lifted])

        async def back() -> bool:
            return bool((await imported(client, csv_of(1)))["created"])

        assert await eventually(back)
        last = erasure_requested(neighbour_of(1))
        await publish(surroundings, ERASURES, [asked, last])
        await acknowledged(read, last.erasure_id)
        assert len([ack for ack in acknowledgements(await read()) if ack.subject_id == subject(1)]) == 2
        async with surroundings.sql("campaign") as sql:
            assert await sql.fetchval("SELECT count(*) FROM contact") == 1
