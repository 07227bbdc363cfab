"""The kit for operators against consent-svc and inbound-svc: both edges hold, and what is broken in them is found."""

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from consent import service as consent
from inbound import service as inbound
from inbound.keywords import Understanding
from inbound.keywords.remembered import Remembered
from inbound.providers import signatures
from placet_operator.checking import Finding
from placet_operator.placet import kafka, run, webhook
from placet_operator.placet.run import Asked
from tests.service.clients.test_command_line_client import SENDER
from tests.service.inbound.operated import MESSAGES, RECEIPTS
from tests.service.rights.four import knows_senders
from tests.support.eventually import WITHIN_S, eventually
from tests.support.publish import ensured
from tests.support.running import Surroundings, bearer, serving, token

pytestmark = pytest.mark.any_broker

SECRET = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
STANDARD = {"provider": "standard", "account": "main", "secrets": [SECRET]}


@asynccontextmanager
async def asked(surroundings: Surroundings, within_s: float = WITHIN_S) -> AsyncIterator[Asked]:
    """Run both services with an operator of each kind, and a sender."""
    urls: dict[str, str] = {}
    more = {"provider_accounts": [STANDARD], "kafka_operators": ("orange",), "publish_timeout_s": 60.0}
    receiving = inbound.Settings(**await surroundings.settings("inbound", **more))
    deciding = consent.Settings(**await surroundings.settings("consent", page_url="https://placet.example"))
    for topic in (MESSAGES, RECEIPTS):
        await ensured(receiving, topic)
    async with AsyncExitStack() as leaving, httpx.AsyncClient(timeout=WITHIN_S, headers=bearer()) as http:
        for name, built in (("consent", consent.build(deciding)), ("inbound", inbound.build(receiving))):
            at = leaving.enter_context(socket.create_server(("127.0.0.1", 0)))
            await leaving.enter_async_context(serving(built, at))
            urls[name] = f"http://127.0.0.1:{at.getsockname()[1]}"

        async def ready(name: str) -> bool:
            return (await http.get(f"{urls[name]}/readyz")).status_code == 200

        for name in urls:
            await eventually(lambda name=name: ready(name))  # type: ignore[misc]
        (await http.post(f"{urls['consent']}/v1/senders", json=SENDER)).raise_for_status()
        await eventually(knows_senders(surroundings, "inbound", 1))
        yield Asked(urls["inbound"], urls["consent"], token(), "maison-lune", "36111", within_s)


async def test_both_edges_hold_and_what_is_broken_in_them_is_found(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asked(surroundings) as what:
        by_webhook, by_kafka = await both(what, surroundings)
        assert {each.name: each.seen for each in (*by_webhook, *by_kafka) if each.outcome != "holds"} == {}
        assert [each.name for each in by_webhook] == [each.name for each in webhook.CHECKS]
        assert [each.name for each in by_kafka] == [each.name for each in kafka.CHECKS]

        monkeypatch.setattr(signatures, "within", lambda at, now: None)
        monkeypatch.setattr(signatures, "once", lambda nonce, at: None)
        nothing = Understanding("none", "no_rule", 0.0, "")
        monkeypatch.setattr(Remembered, "understand", lambda self, text, public: nothing)
        only = frozenset(("hostile", "replayed id", "words"))
        by_webhook, by_kafka = await both(replace(what, only=only), surroundings)
    assert {each.name: each.seen for each in by_webhook if each.outcome == "broken"} == {
        "words": "'STOP' is read as 'none'",
        "replayed id": "a webhook-id with other content is answered with 204",
        "hostile": "a time of ten minutes away is answered with 204",
    }
    assert {each.name: each.seen for each in by_kafka} == {"words": "'STOP' is read as 'none'"}


async def both(what: Asked, surroundings: Surroundings) -> tuple[list[Finding], list[Finding]]:
    return await asyncio.gather(
        run.check_webhook(what, "main", SECRET),
        run.check_kafka(what, surroundings.broker.bootstrap, "orange", f"{surroundings.unique}."),
    )
