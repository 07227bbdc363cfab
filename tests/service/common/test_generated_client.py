"""From a sender to the statistics of a campaign by the generated Python client alone, over the four services."""

import importlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.rights.four import Four, four
from tests.support.builders import now, number
from tests.support.eventually import eventually
from tests.support.generated import PACKAGE, generated, module_of
from tests.support.running import Surroundings, bearer, token

pytestmark = pytest.mark.any_broker

SENDER = {
    "sender_id": "atelier",
    "legal_name": "Atelier Brume SAS",
    "brand": "Atelier Brume",
    "contact": "contact@atelier.example",
    "country": "FR",
    "oadc": "ATELIER",
    "stop_code": "36190",
    "purposes": [{"id": "promotions", "wording": "Nos offres"}],
}
CONSENT = {
    "sender_id": "atelier",
    "purpose": "promotions",
    "number": number(1),
    "occurred_at": now().isoformat(),
    "evidence": {"source": "shop", "form_id": "checkout", "form_version": "7"},
}
CAMPAIGN = {
    "sender_id": "atelier",
    "name": "Samedi",
    "purpose": "promotions",
    "text": "{first_name|Bonjour}, -20% en boutique samedi. {stop}",
    "audience": {"all": True},
}


class Gateway(httpx.AsyncBaseTransport):
    """Passes a request on to the service that the path begins with, without that part."""

    def __init__(self, clients: dict[str, httpx.AsyncClient]) -> None:
        self._clients = clients

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        service, _, rest = request.url.raw_path.decode().removeprefix("/").partition("/")
        headers = {name: value for name, value in request.headers.items() if name != "host"}
        got = await self._clients[service].request(
            request.method, f"/{rest}", content=await request.aread(), headers=headers, timeout=20
        )
        return httpx.Response(got.status_code, headers=got.headers, content=got.content)


class Client:
    """The generated client; `call` takes an operation's id, and a body as JSON has it."""

    def __init__(self, told: Four) -> None:
        made = importlib.import_module(f"{PACKAGE}.client").AuthenticatedClient("http://placet", token())
        wire = httpx.AsyncClient(transport=Gateway(told.clients), base_url="http://placet", headers=bearer())
        self._client = made.set_async_httpx_client(wire)
        self._models = importlib.import_module(f"{PACKAGE}.models")

    async def call(self, operation_id: str, *path: str, model: str = "", body: Any = None, **more: Any) -> Any:
        tag = operation_id.partition(".")[0]
        module = importlib.import_module(f"{PACKAGE}.api.{tag}.{module_of(operation_id)}")
        if model:
            more["body"] = getattr(self._models, model).from_dict(body)
        found = await module.asyncio(*path, client=self._client, **more)
        assert found is not None, f"{operation_id} answered what its document does not declare"
        return found


async def test_a_sender_a_consent_and_a_campaign_with_its_statistics(
    surroundings: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    async with four(surroundings) as told:
        client = Client(told)
        sender = await client.call("senders.create", model="NewSender", body=SENDER)
        assert sender.version == 1
        taken = await client.call("senders.create", model="NewSender", body=SENDER | {"contact": "other@x.example"})
        assert (taken.type_, taken.status) == ("/problems/sender-taken", 409)

        key = {"idempotency_key": "an order's"}
        consents = [await client.call("consents.create", model="ConsentBody", body=CONSENT, **key) for _ in range(2)]
        assert consents[0].evidence_id == consents[1].evidence_id
        assert consents[0].effective

        people = {"sender_id": "atelier", "contacts": [{"number": number(1), "attributes": {"first_name": "Zoé"}}]}
        await client.call("contacts.put", model="NewContacts", body=people)
        written = [await client.call("campaigns.create", model="NewCampaign", body=CAMPAIGN, **key) for _ in range(2)]
        assert written[0] == written[1], "a repeat has the same answer"
        campaign_id = written[0].campaign_id

        async def reachable() -> bool:
            seen = await client.call("pre_flights.create", campaign_id)
            return bool(seen.would_get == 1)

        await eventually(reachable)
        seen = await client.call("pre_flights.create", campaign_id)
        agreed = {"acknowledge": [finding.id for finding in seen.findings]}
        scheduled = await client.call("campaigns.schedule", campaign_id, model="Schedule", body=agreed)
        assert scheduled.status == "scheduled"

        async def accepted() -> bool:
            statistics = await client.call("statistics.get", campaign_id)
            return bool(statistics.total.accepted == 1)

        await eventually(accepted)
        missing = await client.call("statistics.get", "cmp-nothing")
        assert (missing.type_, missing.reasons[0].reason) == ("/problems/not-found", "unknown_campaign")
