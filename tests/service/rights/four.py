"""The four services in process, on databases and topics of one test, with an operator: what rights are told over."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx

from campaign import service as campaign
from consent import service as consent
from dispatch import service as dispatch
from inbound import service as inbound
from tests.operators import signed
from tests.support.builders import CODES_SENDER, CODES_STOP_CODE, SENDER, STOP_CODE, now, number
from tests.support.eventually import answered, eventually
from tests.support.holdings import holdings, spellings
from tests.support.operators.http import TOKEN, Operator, operator
from tests.support.running import Surroundings, running
from tests.support.uploading import patched

SERVICES = ("consent", "campaign", "dispatch", "inbound")
SECRET = "the simulator's secret"
ACCOUNTS = [{"provider": "simulator", "account": "main", "secrets": [SECRET]}]


@dataclass
class Four:
    surroundings: Surroundings
    clients: dict[str, httpx.AsyncClient]
    operator: Operator

    async def call(self, method: str, service: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = await answered(lambda: self.clients[service].request(method, path, json=body, **more))
        assert answer.status_code < 400, answer.text
        return answer.json()

    async def consented(self, n: int, **more: Any) -> Any:
        today = now().replace(hour=0, minute=0, second=0, microsecond=0)
        # of one UTC day with what they text next, which is then no contact of its own
        at = more.pop("occurred_at", max(now() - timedelta(minutes=5), today))
        body = {"sender_id": SENDER, "purpose": "promotions", "number": number(n), "occurred_at": at.isoformat()}
        form = {"source": "shop", "form_id": "checkout", "form_version": "3", "text_shown": f"Zoé {n} : oui"}
        return await self.call("POST", "consent", "/v1/consents", {**body, "evidence": form, **more})

    async def imported(self, n: int) -> Any:
        file = f"number;first_name\n{number(n)};Zoé {n}\n"
        client, where = self.clients["campaign"], {"sender_id": SENDER}
        answer = await answered(lambda: client.post("/v1/imports", params=where, content=file.encode()))
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def code_sent(self, n: int) -> str:
        body = {
            "sender_id": CODES_SENDER,
            "to": number(n),
            "text": f"Votre code : 48{n:02d} Zoé {n}",
            "category": "transactional",
        }
        identity = str((await self.call("POST", "dispatch", "/v1/messages", body))["message_id"])

        async def accepted() -> bool:
            found = await self.call("GET", "dispatch", f"/v1/messages/{identity}")
            return bool(found["status"] == "accepted")

        await eventually(accepted)
        return identity

    async def consents_imported(self, file: str) -> Any:
        """A CSV file of consents, once every line has its verdict."""
        terms = {
            "kind": "consents",
            "sender_id": SENDER,
            "format": "csv",
            "purpose": "promotions",
            "evidence": {"source": "old-crm", "form_id": "newsletter", "form_version": "3"},
        }
        import_id = (await self.call("POST", "consent", "/v1/imports", terms))["import_id"]
        path, body = f"/v1/imports/{import_id}", file.encode()
        answer = await patched(self.clients["consent"], path, body, 0, len(body))
        assert answer.status_code == 204, answer.text

        async def look() -> Any:
            found = await self.call("GET", "consent", path)
            assert found["status"] == "done", found
            return found

        return await eventually(look)

    async def texted(
        self, n: int, text: str, mo: str | None = None, sent_at: datetime | None = None, to: str = STOP_CODE
    ) -> None:
        """The person's own phone. Acknowledged when this returns."""
        message = {
            "id": mo or f"mo-{uuid4().hex}",
            "from": number(n),
            "to": to,
            "text": text,
            "sent_at": (sent_at or now()).isoformat(),
        }
        raw = json.dumps(message).encode()
        client, path = self.clients["inbound"], "/v1/callbacks/simulator/main/messages"
        answer = await answered(lambda: client.post(path, content=raw, headers=signed(raw, SECRET, now())))
        assert answer.status_code == 200, answer.text

    async def everywhere(self, n: int) -> None:
        """Something of the person in each of the four databases."""
        await self.consented(n)
        await self.imported(n)
        await self.code_sent(n)
        await self.texted(n, f"Merci Zoé {n}, à samedi")
        await self.call("POST", "consent", "/v1/preference-links", {"sender_id": SENDER, "number": number(n)})
        await self.copied(n)

    async def erased(self, n: int) -> Any:
        body = {"number": number(n), "evidence": {"source": "call-centre", "actor": f"agent of Zoé {n}"}}
        return await self.call("POST", "consent", "/v1/erasures", body)

    def complete(self, erasure_id: str) -> Callable[[], Awaitable[Any]]:
        async def look() -> Any:
            found = await self.call("GET", "consent", f"/v1/erasures/{erasure_id}")
            assert found["status"] == "complete", found
            return found

        return look

    async def copied(self, n: int) -> Any:
        """A complete copy of all that is held."""
        asked = await self.call("POST", "consent", "/v1/copies", {"number": number(n)})

        async def look() -> Any:
            found = await self.call("GET", "consent", f"/v1/copies/{asked['copy_id']}")
            assert found["status"] == "complete", found
            return found

        return await eventually(look)

    async def state(self, n: int) -> Any:
        return await self.call("POST", "consent", "/v1/subjects/lookup", {"number": number(n)})

    async def held(self, n: int, *needles: str) -> dict[str, list[str]]:
        """By service, the columns that hold something of this person, or `needles`, once nothing is on its way."""
        found = {}
        for service in SERVICES:
            async with self.surroundings.sql(service) as sql:
                await published(sql)
                found[service] = await holdings(sql, needles or [*spellings(number(n)), f"Zoé {n}"])
        return found


async def published(sql: asyncpg.Connection) -> None:
    """Return once nothing is on its way."""

    async def empty() -> bool:
        return not await sql.fetchval("SELECT count(*) FROM outbox")

    await eventually(empty)


async def settings_of(surroundings: Surroundings, service: str, operator_url: str, **more: Any) -> Any:
    specific: dict[str, dict[str, Any]] = {
        "consent": {"page_url": "https://placet.example"},
        "campaign": {"import_max_bytes": 1_000_000, "hours": "demonstration", "webhooks_private": True},
        "dispatch": {"gateway_url": operator_url, "gateway_token": TOKEN, "hours": "demonstration"},
        "inbound": {"provider_accounts": ACCOUNTS, "publish_timeout_s": 60.0},
    }
    modules: dict[str, Any] = {"consent": consent, "campaign": campaign, "dispatch": dispatch, "inbound": inbound}
    return modules[service].Settings(**await surroundings.settings(service, **specific[service], **more))


@asynccontextmanager
async def four(surroundings: Surroundings, without: tuple[str, ...] = (), **more: Any) -> AsyncIterator[Four]:
    """`more`: settings of consent-svc."""
    builds: dict[str, Any] = {
        "consent": consent.build,
        "campaign": campaign.build,
        "dispatch": dispatch.build,
        "inbound": inbound.build,
    }
    async with operator() as op, AsyncExitStack() as stack:
        clients: dict[str, httpx.AsyncClient] = {}

        async def start(service: str) -> None:
            own = more if service == "consent" else {}
            settings = await settings_of(surroundings, service, op.url, **own)
            clients[service] = await stack.enter_async_context(running(builds[service](settings)))

        for service in SERVICES:
            if service not in without:
                await start(service)
        told = Four(surroundings, clients, op)
        brand = {
            "legal_name": "Maison Lune SAS",
            "brand": "Maison Lune",
            "contact": "contact@maison-lune.example",
            "country": "FR",
            "controller": "lune",
        }
        offers = {"sender_id": SENDER, "oadc": "MAISONLUNE", "stop_code": STOP_CODE}
        purposes = [{"id": "promotions", "wording": "Nos offres"}]
        codes = {"sender_id": CODES_SENDER, "oadc": "LUNECOMPTE", "stop_code": CODES_STOP_CODE}
        await told.call("POST", "consent", "/v1/senders", {**brand, **offers, "purposes": purposes})
        await told.call("POST", "consent", "/v1/senders", {**brand, **codes, "purposes": []})
        await asyncio.gather(*(eventually(_ready(client)) for client in clients.values()))
        await asyncio.gather(
            *(eventually(knows_senders(surroundings, s, 2)) for s in SERVICES if s in clients and s != "consent")
        )
        yield told


def knows_senders(surroundings: Surroundings, service: str, many: int) -> Callable[[], Awaitable[bool]]:
    table = "sender_code" if service == "inbound" else "sender"

    async def look() -> bool:
        async with surroundings.sql(service) as sql:
            return bool(await sql.fetchval(f"SELECT count(*) FROM {table}") == many)

    return look


def _ready(client: httpx.AsyncClient) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        response = await client.get("/readyz")
        assert response.status_code == 200, response.text
        return True

    return look
