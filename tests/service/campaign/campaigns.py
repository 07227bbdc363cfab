"""campaign-svc with its API in process on a real database, its sender known, and its planner and accounts in our hands:
what it would publish stays in the outbox, to be looked at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import msgspec

from campaign.audience import consents
from campaign.planning import holds, progress
from campaign.planning.planner import Planner
from campaign.senders import store
from campaign.service import Settings, build
from common.contracts import CAMPAIGN_REQUESTS, CONTROLS, EVENTS, Event, Topic
from common.contracts.consent import ConsentStateChanged
from common.contracts.dispatch import HoldChanged, MessageChanged, MessagesChanged
from common.db.database import Database
from common.kafka.outbox import SHARED
from common.kafka.packing import unpacked
from common.kafka.subscription import Received
from common.law import load
from tests.support.builders import SENDER, field_keys, link_keys, now, number, sender_changed
from tests.support.prices import EXAMPLE
from tests.support.reading import requests_in
from tests.support.running import Surroundings, running

TEXT = "{first_name|Bonjour}, -20% chez Maison Lune. {stop}"
WRITTEN = {
    "sender_id": SENDER,
    "name": "Samedi",
    "purpose": "promotions",
    "text": TEXT,
    "audience": {"all": True},
}
_shared = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])
DAY = timedelta(days=1)
PARTITIONS = 3
LEDGER = ("pending", "denied", "deferred", "handed_off", "expired")
OUTCOMES = ("accepted", "rejected", "unknown")


def next_monday() -> datetime:
    """10:00 in Paris of a Monday of next winter, three weeks before a change of clocks."""
    first = datetime(now().year + 1, 3, 1, 9, tzinfo=UTC)
    return next(day for n in range(7) if (day := first + n * DAY).weekday() == 0)


def csv_of(*people: int, start: str = "number;first_name;city\n") -> str:
    """A file of the n-th fictional numbers; odd ones live in Lyon, even ones in Nîmes."""
    return start + "".join(f"{number(n)};Zoé {n};{'Lyon' if n % 2 else 'Nîmes'}\n" for n in people)


def balanced(statistics: dict[str, Any]) -> dict[str, Any]:
    """`statistics`, once promise 4 holds of it."""
    assert statistics["audience"] == sum(statistics[name] for name in LEDGER)
    assert statistics["handed_off"] == sum(statistics[name] for name in OUTCOMES)
    return statistics


def changed(campaign_id: str | None, subject_id: str, version: int, status: str, **more: Any) -> MessageChanged:
    """What dispatch reports of a message."""
    fields: dict[str, Any] = {
        "message_id": str(uuid4()),
        "campaign_id": campaign_id,
        "sender_id": SENDER,
        "subject_id": subject_id,
        "category": "marketing",
        "version": version,
        "status": status,
        "reasons": (),
        "until": None,
        "policy_version": "france-3",
        "consent_version": 1,
        "as_of": now(),
        "decided_at": now(),
        "gateway": None,
        "gateway_message_id": None,
        "receipt": None,
        "code": None,
    }
    return MessageChanged(**{**fields, **more})


@dataclass
class Campaigns:
    """The service under test."""

    client: httpx.AsyncClient
    database: Database
    surroundings: Surroundings
    planner: Planner

    async def post(self, path: str, expect: int = 200, **request: Any) -> dict[str, Any]:
        response = await self.client.post(f"/v1/{path}", **request)
        assert response.status_code == expect, response.text
        found: dict[str, Any] = response.json()
        return found

    async def put(self, path: str, expect: int = 200, **request: Any) -> dict[str, Any]:
        """A campaign is edited by what changes of `written`."""
        if path.startswith("campaigns/"):
            request["json"] = {**WRITTEN, **request["json"]}
        response = await self.client.put(f"/v1/{path}", **request)
        assert response.status_code == expect, response.text
        found: dict[str, Any] = response.json()
        return found

    async def get(self, path: str) -> dict[str, Any]:
        response = await self.client.get(f"/v1/{path}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def imported(self, body: str | bytes, expect: int = 201, **request: Any) -> dict[str, Any]:
        content = body.encode() if isinstance(body, str) else body
        return await self.post("imports", expect, params={"sender_id": SENDER}, content=content, **request)

    async def written(self, expect: int = 201, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
        return await self.post("campaigns", expect, json={**WRITTEN, **fields}, headers=headers)

    async def started(self, *people: int, **fields: Any) -> str:
        """The id of a campaign to these people, running, nobody asked for yet."""
        await self.imported(csv_of(*people))
        campaign_id: str = (await self.written(**fields))["campaign_id"]
        await self.post(f"campaigns/{campaign_id}/schedule")
        assert await self.planner.start_due()
        return campaign_id

    async def cancelled(self, campaign_id: str) -> dict[str, Any]:
        """As it was answered; whom nobody has asked for are denied since."""
        found = await self.post(f"campaigns/{campaign_id}/cancel")
        while await self.planner.deny_unrequested():
            pass
        return found

    async def statistics(self, campaign_id: str) -> dict[str, Any]:
        return balanced((await self.get(f"campaigns/{campaign_id}"))["statistics"])

    async def status(self, campaign_id: str) -> str:
        return str((await self.get(f"campaigns/{campaign_id}"))["status"])

    async def report(self, *told: Event | MessageChanged, partition: int = 0) -> None:
        """As the consumer would hand them over, in one batch, changes in one record; what is done by then is ended."""
        changes = tuple(one for one in told if isinstance(one, MessageChanged))
        events = [one for one in told if isinstance(one, Event)]
        events += [MessagesChanged(changes=changes)] if changes else []
        batch = [Received(event, event.key, partition, n, now(), None) for n, event in enumerate(events)]
        async with self.database.begin() as tx:
            after = await progress.apply(tx, batch)
        if after is not None:
            await after()
        while await self.planner.finish_done():
            pass

    async def held(self, *events: HoldChanged) -> None:
        """What dispatch tells of marketing as a whole, as the consumer would hand it over, in one batch."""
        batch = [Received(event, event.key, 0, n, now(), None) for n, event in enumerate(events)]
        async with self.database.begin() as tx:
            await holds.apply(tx, batch)

    async def told(self, *states: ConsentStateChanged) -> None:
        """What consent-svc publishes of people, as the consumer would hand it over, in one batch."""
        batch = [Received(state, state.key, 0, n, now(), None) for n, state in enumerate(states)]
        async with self.database.begin() as tx:
            await consents.apply(tx, batch)

    async def outbox(self, topic: Topic) -> list[Any]:
        """What would be published there, in order."""
        async with self.surroundings.sql("campaign") as sql:
            rows = await sql.fetch("SELECT type, payload FROM outbox WHERE topic = $1 ORDER BY id", topic.name)
        found: list[Any] = []
        for row in rows:
            type_, payload = unpacked(row["type"], row["payload"])
            kind = type_.removeprefix(SHARED)
            assert payload is not None
            payloads = [value for _, value in _shared.decode(payload)] if kind != type_ else [payload]
            found += [msgspec.json.decode(payload, type=EVENTS[kind]) for payload in payloads]
        return found

    async def requests(self) -> list[Any]:
        return requests_in(await self.outbox(CAMPAIGN_REQUESTS))

    async def controls(self) -> list[Any]:
        return await self.outbox(CONTROLS)


@asynccontextmanager
async def opened(surroundings: Surroundings) -> AsyncIterator[Campaigns]:
    """The service under test, a sender that it knows, and a planner that does what it is told."""
    settings = Settings(
        **await surroundings.settings(
            "campaign",
            roles="api",
            import_max_bytes=1_000_000,
            prices=EXAMPLE,
            rate_per_s=0.01,
            webhooks_private=True,
        )
    )
    database = Database(settings.database_url, pool_size=4)
    async with database.begin() as tx:
        await store.put_sender(tx, sender_changed())
    planner = Planner(
        database, field_keys, link_keys, load("france"), partitions=PARTITIONS, chunk=10, backlog=1000, page=4
    )
    # every sender is here: a call that names another one waits for nothing
    async with running(replace(build(settings), senders_arrive_within_s=0.1)) as client:
        yield Campaigns(client, database, surroundings, planner)
    await database.close()
