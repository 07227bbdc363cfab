"""Two shards of each service, with an operator: what happens to a person happens once, whichever process is asked.

consent-svc, dispatch-svc and inbound-svc are divided by the person's partition, campaign-svc by organisation. So a
campaign of one shard has people of both, and a person has messages of both shards' organisations.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from campaign import service as campaign
from common.kafka.broker import partition_of
from common.settings.shards import SLOTS
from consent import service as consent
from dispatch import service as dispatch
from inbound import service as inbound
from tests.operators import signed
from tests.service.rights.four import SECRET, SERVICES, settings_of
from tests.support.builders import now, number, subject
from tests.support.eventually import answered
from tests.support.eventually import eventually as soon
from tests.support.holdings import holdings, spellings
from tests.support.operators.http import Operator, operator
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.any_broker

BUILDS: dict[str, Any] = {
    "consent": consent.build,
    "campaign": campaign.build,
    "dispatch": dispatch.build,
    "inbound": inbound.build,
}
PARTITIONS, SLOTS_OF = {"a": "0", "b": "1-2"}, {"a": "0-511", "b": "512-1023"}
SENDERS = {"a": "maison-lune", "b": "cafe-zinc"}
CODES = {"a": "36111", "b": "36222"}
ORGANISATIONS = {
    shard: next(name for n in range(99) if (partition_of(name := f"org-{n}", SLOTS) < SLOTS // 2) == (shard == "a"))
    for shard in SENDERS
}
BEARERS = {shard: bearer(organisation=ORGANISATIONS[shard]) for shard in SENDERS}


def people(shard: str, many: int) -> list[int]:
    """The first people of a shard of the services that are divided by person."""
    of = [n for n in range(1, 99) if (partition_of(subject(n), 3) == 0) == (shard == "a")]
    return of[:many]


HERE, THERE = people("a", 3), people("b", 3)
EVERYBODY = [*HERE, *THERE]


async def eventually(look: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what concerns eight processes' work in one process: longer than for one."""
    await soon(look, within_s=240)


@dataclass
class Eight:
    """Two processes of each service. Each call goes to the next process, whoever's data it has."""

    urls: dict[tuple[str, str], str]
    clients: dict[str, list[httpx.AsyncClient]]
    operator: Operator

    def __post_init__(self) -> None:
        self.turns = {service: cycle(clients) for service, clients in self.clients.items()}

    async def call(self, of: str, method: str, service: str, path: str, body: Any = None, **more: Any) -> Any:
        """A call of the organisation of a shard of campaign-svc."""
        client = next(self.turns[service])
        answer = await answered(lambda: client.request(method, path, json=body, headers=BEARERS[of], **more))
        assert answer.status_code < 400, answer.text
        return answer.json()

    async def value(self, service: str, shard: str, query: str) -> Any:
        connection = await asyncpg.connect(self.urls[service, shard])
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    async def held(self, service: str, shard: str, n: int) -> list[str]:
        connection = await asyncpg.connect(self.urls[service, shard])
        try:
            return await holdings(connection, spellings(number(n)))
        finally:
            await connection.close()

    async def campaign(self, of: str, *reached: int) -> None:
        """A campaign to every contact, once the operator has its messages: to these people alone."""
        text = {"text": f"{SENDERS[of]} {uuid4().hex[:6]} : -20 % samedi. {{stop}}"}
        terms = {"sender_id": SENDERS[of], "name": "Samedi", "purpose": "promotions", "audience": {"all": True}}
        written = await self.call(of, "POST", "campaign", "/v1/campaigns", terms | text)
        path = f"/v1/campaigns/{written['campaign_id']}"
        await self.call(of, "POST", "campaign", f"{path}/schedule", {})

        async def over() -> bool:
            found = await self.call(of, "GET", "campaign", path)
            assert found["status"] == "finished", found
            assert found["statistics"]["handed_off"] == len(reached), found
            return True

        await eventually(over)
        begins = text["text"].partition(".")[0]
        told = [each["to"] for each in self.operator.messages if each["text"].startswith(begins)]
        assert sorted(told) == sorted(map(number, reached)), "each once, and nobody else"

    async def texts(self, n: int, text: str, code: str) -> None:
        said = {"id": uuid4().hex, "from": number(n), "to": code, "text": text, "sent_at": now().isoformat()}
        raw, client = json.dumps(said).encode(), next(self.turns["inbound"])
        path = "/v1/callbacks/simulator/main/messages"
        answer = await answered(lambda: client.post(path, content=raw, headers=signed(raw, SECRET, now())))
        assert answer.status_code == 200, answer.text


@asynccontextmanager
async def eight(surroundings: Surroundings) -> AsyncIterator[Eight]:
    async with operator() as op, AsyncExitStack() as stack:
        urls = {
            (service, shard): await surroundings.postgres.clone(service, f"{service}_{shard}_{surroundings.unique}")
            for service in SERVICES
            for shard in SENDERS
        }
        clients: dict[str, list[httpx.AsyncClient]] = {service: [] for service in SERVICES}
        for service, shard in urls:
            part, of_each = ("slots", SLOTS_OF) if service == "campaign" else ("partitions", PARTITIONS)
            shards = {name: {part: of_each[name], "database_url": urls[service, name]} for name in SENDERS}
            more = {"shards": shards, "shard": shard, "database_url": urls[service, shard]}
            settings = await settings_of(surroundings, service, op.url, **more)
            clients[service].append(await stack.enter_async_context(running(BUILDS[service](settings))))
        both = Eight(urls, clients, op)
        for shard, sender_id in SENDERS.items():
            body = {
                "sender_id": sender_id,
                "legal_name": f"{sender_id} SAS",
                "brand": sender_id,
                "contact": f"bonjour@{sender_id}.example",
                "country": "FR",
                "oadc": sender_id.replace("-", "").upper()[:11],
                "stop_code": CODES[shard],
                "purposes": [{"id": "promotions", "wording": "Nos offres"}],
            }
            await both.call(shard, "POST", "consent", "/v1/senders", body)

        async def ready() -> bool:
            for each in clients.values():
                for client in each:
                    answer = await client.get("/readyz")
                    assert answer.status_code == 200, answer.text
            for service, shard in urls:
                table = "sender_code" if service == "inbound" else "sender"
                assert await both.value(service, shard, f"SELECT count(*) FROM {table}") == 2, service
            return True

        await eventually(ready)
        yield both


@pytest.mark.timeout(900)  # on a machine that is busy
async def test_whichever_process_is_asked_each_is_written_to_once_and_nobody_who_stopped(
    surroundings: Surroundings,
) -> None:
    async with eight(surroundings) as both:
        at = (now() - timedelta(minutes=5)).isoformat()
        form = {"source": "shop", "form_id": "checkout", "form_version": "3"}
        for shard, sender_id in SENDERS.items():
            terms = {"sender_id": sender_id, "purpose": "promotions", "occurred_at": at, "evidence": form}
            items = [{**terms, "number": number(n)} for n in EVERYBODY]
            answer = await both.call(shard, "POST", "consent", "/v1/consents/batch", {"items": items})
            assert answer["counts"] == {"recorded": 6, "unchanged": 0, "refused": 0}
            file = "number\n" + "".join(f"{number(n)}\n" for n in EVERYBODY)
            client = next(both.turns["campaign"])
            where, headers = {"sender_id": sender_id}, BEARERS[shard]
            taken = await client.post("/v1/imports", params=where, content=file.encode(), headers=headers)
            assert taken.status_code == 201, taken.text
        await asyncio.gather(both.campaign("a", *EVERYBODY), both.campaign("b", *EVERYBODY))

        await both.texts(HERE[0], "STOP", CODES["a"])
        await both.texts(THERE[0], "STOP", CODES["a"])
        await both.texts(THERE[1], "STOP TOUT", CODES["b"])
        enforced = "SELECT count(*) FROM enforcement WHERE enforced_at IS NOT NULL"

        async def stopped() -> bool:
            assert [await both.value("dispatch", shard, enforced) for shard in SENDERS] == [1, 2]
            return True

        await eventually(stopped)
        still = [n for n in EVERYBODY if n not in (HERE[0], THERE[0], THERE[1])]
        await asyncio.gather(both.campaign("a", *still), both.campaign("b", HERE[0], THERE[0], *still))

        forgotten = {"number": number(THERE[2]), "evidence": {"source": "call-centre", "actor": "zoe"}}
        for shard in SENDERS:
            asked = await both.call(shard, "POST", "consent", "/v1/erasures", forgotten)

            async def complete(of: str = shard, erasure_id: str = asked["erasure_id"]) -> bool:
                found = await both.call(of, "GET", "consent", f"/v1/erasures/{erasure_id}")
                assert found["status"] == "complete", found
                return True

            await eventually(complete)
        for service, shard in both.urls:
            assert await both.held(service, shard, THERE[2]) == [], service
        dead = {place: await both.value(*place, "SELECT count(*) FROM dead_letter") for place in both.urls}
        assert dead == dict.fromkeys(both.urls, 0)
