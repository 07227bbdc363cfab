"""A rotation of the outer key over four services: everyone stays who they are, and no id of the old key is left.

The rows move while their service stands still. Requests and a STOP that wait in Kafka meanwhile name people by the old
key, and stand in the old id's partition.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from campaign import service as campaign
from common.db.database import Database
from common.kafka.broker import partition_of
from common.keyring import SubjectKeys
from common.privacy import stop_link
from common.privacy.moving import Moves, Moving
from common.settings import SubjectRingSettings
from consent import service as consent
from consent.ledger.republishing import Republishing, former_ids
from dispatch import service as dispatch
from inbound import service as inbound
from tests.service.rights.four import SERVICES, Four, four, published, settings_of
from tests.support.builders import SENDER, link_keys, now, number, subject
from tests.support.eventually import eventually
from tests.support.holdings import holdings
from tests.support.running import OUTER_RING, SUBJECT_RING, Surroundings, running

MOVES = {"dispatch": dispatch.MOVES, "campaign": campaign.MOVES, "consent": consent.MOVES, "inbound": Moves()}
BUILDS: dict[str, Any] = {
    "dispatch": dispatch.build,
    "campaign": campaign.build,
    "consent": consent.build,
    "inbound": inbound.build,
}
NEW = {"t2": base64.b64encode(b"n" * 32).decode()}


def ring(current: str, keys: dict[str, str]) -> dict[str, Any]:
    return SUBJECT_RING | {"outer": {"current": current, "keys": keys}}


BEFORE, DURING = (ring(current, OUTER_RING["keys"] | NEW) for current in ("t1", "t2"))
AFTER = ring("t2", NEW)
MOVING = SubjectKeys(SubjectRingSettings.model_validate(DURING))
KEPT, STOPPED, ERASED, LATE, DOUBTS, MEANWHILE = range(1, 7)
PEOPLE = (KEPT, STOPPED, ERASED, LATE, DOUBTS, MEANWHILE)
TEXT = "Maison Lune : -20 % samedi. {stop}"


@dataclass(frozen=True)
class Ringed(Surroundings):
    """Surroundings whose services have another ring of subject keys."""

    ring: dict[str, Any] = field(default_factory=dict)

    async def settings(self, service: str, **more: Any) -> dict[str, Any]:
        return await super().settings(service, **{"subject_keys": self.ring, **more})


def ringed(of: Surroundings, ring: dict[str, Any]) -> Ringed:
    return Ringed(of.postgres, of.broker, of.unique, of.urls, of.partitions, ring)


def stopped(told: Four, n: int) -> Callable[[], Awaitable[Any]]:
    async def look() -> bool:
        assert {each["state"] for each in (await told.state(n))["consents"]} == {"opted_out"}
        return True

    return look


async def scheduled(told: Four) -> str:
    body = {"sender_id": SENDER, "name": "Samedi", "purpose": "promotions", "text": TEXT, "audience": {"all": True}}
    campaign_id = str((await told.call("POST", "campaign", "/v1/campaigns", body))["campaign_id"])
    await told.call("POST", "campaign", f"/v1/campaigns/{campaign_id}/schedule", {})
    return campaign_id


async def recipients(told: Four, campaign_id: str) -> dict[str, str]:
    found = await told.call("GET", "campaign", f"/v1/campaigns/{campaign_id}/recipients")
    return {item["subject_id"]: item["status"] for item in found["items"]}


async def edge_ids(told: Four) -> set[str]:
    found = await told.call("GET", "campaign", "/v1/contacts", params={"sender_id": SENDER})
    return {item["subject_id"] for item in found["items"]}


async def drained(surroundings: Surroundings) -> None:
    """The relay alone publishes what waits."""
    for service in SERVICES:
        settings = await settings_of(surroundings, service, "http://127.0.0.1:1", roles="relay")
        async with running(BUILDS[service](settings)), surroundings.sql(service) as sql:
            await published(sql)


@asynccontextmanager
async def owned(surroundings: Surroundings, service: str) -> AsyncIterator[Moving]:
    database = Database(await surroundings.database(service), pool_size=2, name=f"{service}-keys")
    try:
        yield Moving(database, MOVING, MOVES[service], surroundings.partitions)
    finally:
        await database.close()


async def move(surroundings: Surroundings, service: str) -> None:
    async with owned(surroundings, service) as work:
        assert sum({table.name: told.moved async for table, told in work.run()}.values()) > 0
        assert [table.name async for table, told in work.count() if told.found] == []


async def old_ids(surroundings: Surroundings) -> dict[str, list[str]]:
    """By service, each column with an old id, also within an encrypted field."""
    found = {}
    for service in SERVICES:
        async with surroundings.sql(service) as sql:
            found[service] = await holdings(sql, [subject(n) for n in PEOPLE])
    return found


async def astray(surroundings: Surroundings) -> list[str]:
    """Rows of dispatch-svc with another partition than their person's: a lock and a watermark of somebody else's."""
    async with surroundings.sql("dispatch") as sql:
        rows = [
            (table, row["subject_id"], row["partition"])
            for table in ("message", "enforcement")
            for row in await sql.fetch(f"SELECT subject_id, partition FROM {table}")
        ]
    assert {table for table, _, _ in rows} == {"message", "enforcement"}
    return [table for table, who, place in rows if place != partition_of(who, surroundings.partitions)]


@pytest.mark.any_broker
async def test_the_old_key_goes_and_everyone_stays_who_they_are(surroundings: Surroundings) -> None:
    before, during, after = (ringed(surroundings, each) for each in (BEFORE, DURING, AFTER))
    link = stop_link.token(link_keys, SENDER, subject(KEPT), now())
    async with four(before) as told:
        await told.everywhere(KEPT)
        await asyncio.gather(*(told.consented(n) for n in (STOPPED, ERASED, LATE, DOUBTS, MEANWHILE)))
        for n in (STOPPED, LATE):
            await told.imported(n)
        await told.texted(STOPPED, "STOP")
        await eventually(stopped(told, STOPPED))
        await eventually(told.complete((await told.erased(ERASED))["erasure_id"]))
        await told.texted(DOUBTS, "Ne stoppez pas", mo="mo-doubt")
        shown = await edge_ids(told)
        erased = await told.state(ERASED)
    async with four(before, without=("dispatch",)) as told:
        campaign_id = await scheduled(told)

        async def asked() -> bool:
            async with surroundings.sql("campaign") as sql:
                assert await sql.fetchval("SELECT expanded FROM campaign WHERE campaign_id = $1", campaign_id)
                await published(sql)
            return True

        await eventually(asked)
        await told.texted(LATE, "STOP")
        await eventually(stopped(told, LATE))
        sent_to = await recipients(told, campaign_id)
    await drained(before)
    settings = await settings_of(before, "inbound", "")
    async with running(inbound.build(settings)) as client:
        alone = Four(before, {"inbound": client}, told.operator)
        for service in ("dispatch", "campaign", "consent"):
            await move(surroundings, service)
        await alone.texted(MEANWHILE, "STOP")
        async with surroundings.sql("inbound") as sql:
            await published(sql)
    await move(surroundings, "inbound")
    assert await old_ids(surroundings) == {service: [] for service in SERVICES}
    assert await astray(surroundings) == []
    async with four(during, without=("dispatch",)) as told:  # a hand-off may begin within 3 s of the STOP
        await eventually(stopped(told, MEANWHILE))
    async with four(during) as told:

        async def reported() -> bool:
            assert sorted((await recipients(told, campaign_id)).values()) == ["accepted", "denied", "denied"]
            return True

        await eventually(reported)
        assert (await recipients(told, campaign_id)).keys() == sent_to.keys(), "callers have ids of their own"
        sent = [(each["category"], each["to"]) for each in told.operator.messages]
        assert [to for category, to in sent if category == "marketing"] == [number(KEPT)]
        assert await edge_ids(told) == shown
        assert await told.state(ERASED) | {"subject_id": ""} == erased | {"subject_id": ""}
        for n in (STOPPED, LATE, MEANWHILE):
            await eventually(stopped(told, n))
        [review] = (await told.call("GET", "inbound", "/v1/reviews"))["items"]
        decided = {"intent": "stop", "note": "no more"}
        await told.call("POST", "inbound", f"/v1/reviews/{review['mo_id']}/decision", decided)
        await eventually(stopped(told, DOUBTS))
        assert (await told.copied(KEPT))["status"] == "complete"
        database = Database(await surroundings.database("consent"), pool_size=1)
        again = Republishing(database, surroundings.partitions, lambda _: None, await former_ids(database, MOVING))
        assert await again.run(range(surroundings.partitions)) == len(PEOPLE)
        await database.close()
        await told.code_sent(DOUBTS)
    await drained(during)
    assert await old_ids(surroundings) == {service: [] for service in SERVICES}
    async with four(after) as told:
        page = await told.clients["consent"].post(
            f"{stop_link.PATH}/{SENDER}/{link}", data={"List-Unsubscribe": "One-Click"}
        )
        assert page.status_code == 200, "a link in a phone still stops"
        await eventually(stopped(told, KEPT))
        await told.code_sent(KEPT)
