"""Every provider over HTTP, as it sends and signs: what it is told, and that what it sends ten times is one thing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from msgspec import structs

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS
from common.contracts.inbound import MessageReceived, ReceiptReceived
from inbound.providers import PROVIDERS, Callback, Kind, Unreadable
from inbound.service import Settings, build
from tests.operators.cases import CASES, Case, callback
from tests.operators.signing import PUBLIC_URL, SCHEMES, SECRET, Scheme
from tests.service.inbound.published import published
from tests.support.builders import now
from tests.support.eventually import eventually
from tests.support.running import CALLED, Surroundings, running

pytestmark = pytest.mark.any_broker  # how callbacks are read and checked; the way to the log is of test_webhooks.py

HERE = ["127.0.0.0/8"]
SCHEME_OF = {scheme.provider: scheme for scheme in reversed(SCHEMES)}
ALWAYS_SIGNED = [name for name, provider in PROVIDERS.items() if provider.signing == "always"]


def account(provider: str, name: str, signed: bool) -> dict[str, Any]:
    if not signed:
        return {"provider": provider, "account": name, "addresses": HERE}
    secrets = [SCHEME_OF[provider].configured(SECRET)]
    return {"provider": provider, "account": name, "secrets": secrets, "public_url": PUBLIC_URL}


ACCOUNTS = [
    *(account(name, "main", name in ALWAYS_SIGNED) for name in PROVIDERS),
    *(account(name, "signed", True) for name in SCHEME_OF),
    *(
        account(each.provider, f"signed-{each.scheme}", True) | {"scheme": each.scheme}
        for each in SCHEMES
        if each.scheme
    ),
]


@dataclass
class Operators:
    client: httpx.AsyncClient
    settings: Settings

    async def send(self, callback: Callback) -> httpx.Response:
        return await self.client.request(
            callback.method, callback.target, content=callback.body, headers=dict(callback.headers)
        )

    async def insist(self, callback: Callback) -> httpx.Response:
        """Sends again what is not kept yet: Octopush waits for a second, Telnyx for two, and a busy machine may need
        more."""

        async def answered() -> httpx.Response | None:
            response = await self.send(callback)
            return None if response.status_code == 503 else response

        response = await eventually(answered)
        assert response is not None
        return response

    async def published(self) -> Counter[tuple[str, Kind]]:
        """How many events of each provider and kind are in the log."""
        found: Counter[tuple[str, Kind]] = Counter()
        topics: list[tuple[Any, Kind]] = [(INBOUND_MESSAGES, "messages"), (INBOUND_RECEIPTS, "receipts")]
        for topic, kind in topics:
            for record in await published(self.settings, topic):
                assert isinstance(record.event, MessageReceived | ReceiptReceived)
                found[record.event.provider, kind] += 1
        return found


@pytest.fixture
async def operators(surroundings: Surroundings) -> AsyncIterator[Operators]:
    given = await surroundings.settings("inbound", provider_accounts=ACCOUNTS, publish_timeout_s=60.0, roles=CALLED)
    settings = Settings(**given)
    async with running(build(settings), headers={}) as client:
        yield Operators(client, settings)


def as_sent(case: Case) -> Callback:
    """Signed now, where the provider signs."""
    sent = callback(case)
    if case.provider not in ALWAYS_SIGNED:
        return sent
    signed = SCHEME_OF[case.provider].sign(SECRET, sent.body, now(), f"{case.kind} {case.label}", sent.target)
    return structs.replace(signed, headers={**sent.headers, **signed.headers})


def answer(case: Case) -> tuple[int, Any]:
    """What it must hear: the status, with the body of a yes or the reasons of a no."""
    match case.expected:
        case type() as refusal:
            unreadable = refusal is Unreadable
            return (400, [("body", "unreadable")]) if unreadable else (404, [(None, "undocumented")])
        case (str(name), str(reason)):
            return 422, [(name, reason)]
        case _:
            expected = PROVIDERS[case.provider].answer(case.kind)
            return expected.status, expected.body


def heard(response: httpx.Response) -> tuple[int, Any]:
    if response.is_success:
        return response.status_code, response.content
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, [(reason["field"], reason["reason"]) for reason in response.json()["reasons"]]


async def test_everyone_hears_over_http_what_it_expects_or_what_is_wrong(operators: Operators) -> None:
    """Receipts here are of messages that nobody has sent: unknown, or late, is no error."""
    answers = {f"{case.provider}: {case.label}": (case, await operators.insist(as_sent(case))) for case in CASES}

    wrong = {name: heard(got) for name, (case, got) in answers.items() if heard(got) != answer(case)}
    assert wrong == {}


async def test_what_is_sent_ten_times_at_once_is_one_event(operators: Operators) -> None:
    firsts: dict[tuple[str, Kind], Case] = {}
    for case in CASES:
        if _events(case):
            firsts.setdefault((case.provider, case.kind), case)
    storm = [as_sent(case) for case in firsts.values()] * 10

    answers = await asyncio.gather(*map(operators.send, storm))
    for response in answers:  # Octopush waits a second only: it is told to come again
        assert response.is_success or response.status_code == 503
    again = [sent for sent, response in zip(storm, answers, strict=True) if not response.is_success]
    for sent in again:
        assert (await operators.insist(sent)).is_success

    assert await operators.published() == {which: _events(case) for which, case in firsts.items()}


def _events(case: Case) -> int:
    """How many it is read as."""
    items = case.expected if isinstance(case.expected, tuple) else ()
    return len([item for item in items if not isinstance(item, str)])


NONCED = [scheme for scheme in SCHEMES if scheme.nonced]


@pytest.mark.parametrize("scheme", NONCED, ids=[scheme.name for scheme in NONCED])
async def test_a_second_use_of_what_was_signed_is_refused_and_the_same_again_is_a_retry(
    operators: Operators, scheme: Scheme
) -> None:
    case = next(c for c in CASES if c.provider == scheme.provider and c.kind == "messages" and callback(c).body)
    sent, at = callback(case), now()
    if scheme.provider == "vonage":  # its signer knows the form
        sent = callback(next(c for c in CASES if c.label == "by POST form"))
    target = f"/v1/callbacks/{scheme.provider}/{'-'.join(filter(None, ('signed', scheme.scheme)))}/messages"
    is_form = b"{" not in sent.body
    other = sent.body + (b"&more=1" if is_form else b"\n")
    first = scheme.sign(SECRET, sent.body, at, "n-1", target)
    second = scheme.sign(SECRET, other, at, "n-1", target)

    good, retried = await operators.insist(first), await operators.insist(first)
    swapped, replayed = await operators.insist(structs.replace(first, body=other)), await operators.insist(second)

    assert (good.is_success, retried.is_success) == (True, True)
    assert swapped.status_code == 401
    if scheme.provider == "telnyx":  # has no nonce but its signature, which no other body has
        assert replayed.is_success
    else:
        assert (replayed.status_code, _reason(replayed)) == (401, "nonce_used_before")
    assert await operators.published() == {(scheme.provider, "messages"): 1}


def _reason(response: httpx.Response) -> str:
    return str(response.json()["reasons"][0]["reason"])
