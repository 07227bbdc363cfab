"""What no callback told, fetched from strict copies of providers' lists: journalled once, by the door of callbacks."""

import base64
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from prometheus_client import REGISTRY

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS
from common.contracts.inbound import MessageReceived, ReceiptReceived
from inbound.service import Settings, build
from tests.operators import signing
from tests.service.inbound.published import published
from tests.support.builders import field_keys, now, number, subject
from tests.support.eventually import eventually
from tests.support.operators.lists import KEYS, Listed, Lists, serving
from tests.support.running import Surroundings, running

pytestmark = pytest.mark.any_broker  # the way to the log is of test_webhooks.py

PATH_SECRET = "2f1c9f3e5b7a4d60"
ED25519 = Ed25519PrivateKey.from_private_bytes(b"k" * 32).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
SIGNED = {"secrets": ["a secret of thirty-two characters"], "public_url": "https://sms.example.org"}
FENCED = {"path_secrets": [PATH_SECRET]}
ACCOUNTS: Mapping[str, dict[str, Any]] = {
    "infobip": FENCED,
    "ovh": FENCED,
    "plivo": SIGNED,
    "sinch": FENCED,
    "telnyx": {"secrets": [base64.b64encode(ED25519).decode()]},
    "twilio": SIGNED,
    "vonage": FENCED,
}
DELIVERED = {
    **dict.fromkeys(ACCOUNTS, "delivered"),
    "ovh": "4",
    "sinch": "Delivered",
}
CODE = "36111"


def mo(name: str, text: str, who: int = 1, **more: Any) -> Listed:
    return Listed(name, number(who), CODE, text, now() - timedelta(minutes=10), **more)


def dlr(name: str, state: str, who: int = 2) -> Listed:
    return Listed(name, "MAISONLUNE", number(who), "Offre", now() - timedelta(minutes=10), state)


@dataclass
class Pulled:
    """inbound-svc, with a pull of each provider's lists."""

    settings: Settings
    client: httpx.AsyncClient
    lists: Mapping[str, Lists]

    async def messages(self) -> list[MessageReceived]:
        records = await published(self.settings, INBOUND_MESSAGES)
        return [record.event for record in records if isinstance(record.event, MessageReceived)]

    async def receipts(self) -> list[ReceiptReceived]:
        records = await published(self.settings, INBOUND_RECEIPTS)
        return [record.event for record in records if isinstance(record.event, ReceiptReceived)]

    async def pulled_again(self, provider: str) -> None:
        """Wait for two whole pulls from now: of those, the second began after this call."""
        before = pulls(provider)

        async def twice() -> bool:
            return pulls(provider) >= before + 2

        await eventually(twice)


def pulls(provider: str, result: str = "whole") -> float:
    labels = {"provider": provider, "account": "main", "result": result}
    return REGISTRY.get_sample_value("sms_inbound_pulls_total", labels) or 0.0


def found(provider: str, kind: str) -> float:
    labels = {"provider": provider, "account": "main", "kind": kind}
    return REGISTRY.get_sample_value("sms_inbound_pulled_total", labels) or 0.0


@asynccontextmanager
async def pulling(surroundings: Surroundings, lists: Mapping[str, Lists], **more: Any) -> AsyncIterator[Pulled]:
    async with AsyncExitStack() as stack:
        for provider, each in lists.items():
            await stack.enter_async_context(serving(provider, each))
        accounts = [
            {
                "provider": provider,
                "account": "main",
                **ACCOUNTS[provider],
                "pull": {**KEYS[provider], "url": each.url, "every_s": 0.2, **more},
            }
            for provider, each in lists.items()
        ]
        settings = Settings(**await surroundings.settings("inbound", provider_accounts=accounts))
        client = await stack.enter_async_context(running(build(settings)))
        yield Pulled(settings, client, lists)


async def test_a_stop_and_receipts_that_no_callback_told_are_pulled_once(surroundings: Surroundings) -> None:
    lists = {provider: Lists() for provider in ACCOUNTS}
    with_texts = [provider for provider in ACCOUNTS if provider not in ("ovh", "plivo")]
    for n, (provider, each) in enumerate(lists.items(), start=1):
        if provider != "ovh":
            each.held += [mo(f"{n}001", "STOP", who=n), mo(f"{n}002", "bonjour", who=n), mo(f"{n}003", "merci", who=n)]
        each.held += [dlr(f"{n}00{m}", DELIVERED[provider]) for m in (4, 5, 6)]
    before = {provider: (found(provider, "messages"), found(provider, "receipts")) for provider in ACCOUNTS}

    async with pulling(surroundings, lists) as inbound:
        for provider in ACCOUNTS:
            await inbound.pulled_again(provider)

        async def all_published() -> bool:
            return len(await inbound.receipts()) >= 21 and len(await inbound.messages()) >= 18

        await eventually(all_published)
        events, receipts = await inbound.messages(), await inbound.receipts()

    assert [(provider, each.refused) for provider, each in lists.items() if each.refused] == []
    stops = {(event.provider, event.subject_id) for event in events if event.intent == "stop"}
    assert stops == {(provider, subject(n)) for n, provider in enumerate(ACCOUNTS, 1) if provider in with_texts}
    assert {event.provider for event in events if event.intent == "review"} == {"plivo"}  # it keeps no texts
    assert Counter(event.provider for event in events) == dict.fromkeys([*with_texts, "plivo"], 3)
    assert Counter((receipt.provider, receipt.state) for receipt in receipts) == {
        (provider, "delivered"): 3 for provider in ACCOUNTS
    }
    for event in events:
        assert event.short_code.removeprefix("+") == CODE
        assert field_keys.unseal(event.number, f"number:{event.subject_id}").startswith("+3363998")
    for provider, (messages_before, receipts_before) in before.items():
        assert found(provider, "messages") - messages_before == (0 if provider == "ovh" else 3)
        assert found(provider, "receipts") - receipts_before == 3


async def test_what_a_callback_told_is_no_find(surroundings: Surroundings) -> None:
    lists = Lists([mo("m-1", "STOP")])
    before = found("vonage", "messages")
    fields = {"msisdn": number(1).removeprefix("+"), "to": CODE, "messageId": "m-1", "text": "STOP", "type": "text"}
    lists.down = 503
    async with pulling(surroundings, {"vonage": lists}) as inbound:
        told = await inbound.client.get(f"/v1/callbacks/vonage/main/{PATH_SECRET}/messages", params=fields)
        assert told.status_code == 204
        lists.down = None
        await inbound.pulled_again("vonage")
        events = await inbound.messages()

    assert [event.intent for event in events] == ["stop"]
    assert found("vonage", "messages") == before


async def test_a_late_callback_of_an_mo_without_a_text_counts_with_its_text(surroundings: Surroundings) -> None:
    """It may be a STOP: the person waits for a reviewer, and the text counts once it comes."""
    lists = Lists([mo("u-1", "unknown to the list")])
    async with pulling(surroundings, {"plivo": lists}) as inbound:

        async def held() -> bool:
            return [event.rule for event in await inbound.messages()] == ["pulled_without_text"]

        await eventually(held)
        [event] = await inbound.messages()
        assert event.provider_message_id == "pulled-u-1"
        assert len((await inbound.client.get("/v1/reviews")).json()["items"]) == 1

        fields = {"MessageUUID": "u-1", "From": number(1).removeprefix("+"), "To": CODE, "Text": "STOP", "Type": "sms"}
        target = "/v1/callbacks/plivo/main/messages"
        late = signing.plivo_v3(SIGNED["secrets"][0], urlencode(fields).encode(), now(), "n1", target)
        form = {"content-type": "application/x-www-form-urlencoded"}
        told = await inbound.client.post(target, content=late.body, headers={**late.headers, **form})
        assert told.status_code == 200

        async def stopped() -> bool:
            return [event.intent for event in await inbound.messages()] == ["review", "stop"]

        await eventually(stopped)


async def test_a_provider_that_fails_is_asked_again_about_the_same_time(surroundings: Surroundings) -> None:
    lists = Lists([mo("SM1", "STOP")])
    lists.down = 401
    failed = pulls("twilio", "failed")
    async with pulling(surroundings, {"twilio": lists}) as inbound:

        async def refused() -> bool:
            return pulls("twilio", "failed") >= failed + 2

        await eventually(refused)
        assert await inbound.messages() == []
        lists.down = None

        async def come() -> bool:
            return [event.intent for event in await inbound.messages()] == ["stop"]

        await eventually(come)


async def test_numbers_are_asked_about_one_by_one(surroundings: Surroundings) -> None:
    """A campaign's messages are in the same list, which is not read for an MO."""
    lists = Lists([mo("SM1", "STOP"), *(dlr(f"SM9{n}", "delivered") for n in range(20))])
    async with pulling(surroundings, {"twilio": lists}, numbers=[CODE], kinds=["messages"]) as inbound:

        async def come() -> bool:
            return [event.intent for event in await inbound.messages()] == ["stop"]

        await eventually(come)
        await inbound.pulled_again("twilio")
        assert await inbound.receipts() == []
    assert lists.refused == []
    assert all(f"To={CODE}" in path for path in lists.asked)
