"""The Python client against the services over HTTP: its README as written, and an upload that another process ends."""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from placet_client import AsyncPlacet, webhooks
from placet_client import upload as uploading
from tests.service.clients.running import served
from tests.service.rights.four import knows_senders
from tests.support.builders import number
from tests.support.eventually import eventually
from tests.support.running import Surroundings
from tests.unit.deploy.deployed import text

pytestmark = pytest.mark.any_broker

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


async def test_the_readme_of_the_client_and_the_example_shop_work_as_written(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {}
    async with served(surroundings) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        first, *others = BLOCK.findall(text("clients/python/README.md"))
        await asyncio.to_thread(_run, first, names)
        for service in ("dispatch", "campaign"):
            await eventually(knows_senders(surroundings, service, 1))
        for block in others:
            await asyncio.to_thread(_run, block, names)
        decided = await eventually(lambda: _accepted(names))
        assert (decided.sender_id, decided.category, decided.reasons) == ("maison-lune", "marketing", [])
        again = names["placet"].messages.create
        repeated = await asyncio.to_thread(
            lambda: again(
                sender_id="maison-lune",
                to="06 39 98 01 02",
                category="marketing",
                purpose="promotions",
                text="Maison Lune : -20 % samedi. STOP au 36111",
                idempotency_key="offer-7-customer-42",
            )
        )
        assert repeated.message_id == names["sent"].message_id
        names["placet"].close()
        await _the_shop_works(monkeypatch)


async def _the_shop_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example with FastAPI, against the same services."""
    monkeypatch.setenv("PLACET_WEBHOOK_SECRET", f"whsec_{'b2xk' * 8} {SECRET}")
    shop: dict[str, Any] = {}
    _run(text("clients/python/examples/fastapi_shop.py"), shop)
    app = shop["app"]
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as browser,
    ):
        order = {"order": "7", "number": "06 39 98 01 04"}
        assert (await browser.post("/checkout", data=order)).json() == {"order": "7", "offers": "no"}
        assert (await browser.post("/checkout", data=order | {"offers": "true"})).json()["offers"] == "yes"
        wrong = await browser.post("/checkout", data=order | {"number": "01", "offers": "true", "order": "8"})
        assert wrong.status_code == 422
        body = b'{"type": "consent.opted_out"}'
        signed = webhooks.sign(body, "msg_1", datetime.now(UTC), SECRET)
        assert (await browser.post("/placet", content=body, headers=signed)).json() == {"taken": "msg_1"}
        assert (await browser.post("/placet", content=body + b" ", headers=signed)).status_code == 401


def _run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "clients/python/README.md", "exec"), names)  # noqa: S102


async def _accepted(names: dict[str, Any]) -> Any:
    found = await asyncio.to_thread(names["placet"].messages.get, names["sent"].message_id)
    return found if found.status == "accepted" else None


async def test_an_import_of_consents_that_one_process_left_another_process_ends(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploading, "PART_BYTES", 64)
    monkeypatch.setattr(uploading, "LOOK_EVERY_S", 0.02)
    file = "number,occurred_at\n" + "".join(f"{number(n)},2026-03-02T14:05:00+01:00\n" for n in range(20))
    terms: Any = {
        "kind": "consents",
        "sender_id": "maison-lune",
        "format": "csv",
        "purpose": "promotions",
        "evidence": {"source": "old-crm", "form_id": "newsletter", "form_version": "3"},
        "idempotency_key": "crm",
    }

    class Killed(Exception):
        pass

    def kill(arrived: int, whole: int) -> None:
        if arrived > 200:
            raise Killed

    told: list[int] = []
    async with served(surroundings) as environment:
        urls = {f"{name}_url": environment[f"PLACET_{name.upper()}_URL"] for name in ("consent", "dispatch")}
        async with AsyncPlacet(environment["PLACET_TOKEN"], **urls) as placet:  # type: ignore[arg-type]
            await placet.senders.create(
                sender_id="maison-lune",
                legal_name="Maison Lune SAS",
                brand="Maison Lune",
                contact="contact@maison-lune.example",
                country="FR",
                oadc="MAISONLUNE",
                stop_code="36111",
                purposes=[{"id": "promotions", "wording": "Nos offres"}],
            )
            first = await placet.consent_imports.create(**terms)
            with pytest.raises(Killed):
                await placet.consent_imports.upload(first.import_id, file.encode(), on_progress=kill)
        async with AsyncPlacet(environment["PLACET_TOKEN"], **urls) as placet:  # type: ignore[arg-type]
            opened = await placet.consent_imports.create(**terms)
            assert opened.import_id == first.import_id
            await placet.consent_imports.upload(
                opened.import_id, file.encode(), on_progress=lambda arrived, whole: told.append(arrived)
            )
            done = await placet.consent_imports.wait(opened.import_id)
            verdicts = (await placet.consent_imports.get_verdicts(opened.import_id, verdict="created").read()).decode()
    assert told[0] == 256, "the bytes that had arrived are not sent again"
    assert (done.status, done.created, done.refused) == ("done", 20, 0)
    assert verdicts.count(",created,") == 20
