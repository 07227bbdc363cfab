"""The Idempotency-Key as a caller writes it: with the quotes of the draft or without."""

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from common.keyring import SubjectKeys
from common.settings import SubjectRingSettings
from common.web import problems
from common.web.idempotency import Key
from tests.support.running import SUBJECT_RING

KEYS = SubjectKeys(SubjectRingSettings.model_validate(SUBJECT_RING))


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    problems.install(app)

    @app.post("/orders")
    async def order(key: Key = None) -> str | None:
        return key

    async def running(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": {"resources": SimpleNamespace(subject_keys=KEYS)}}, receive, send)

    return httpx.AsyncClient(transport=httpx.ASGITransport(running), base_url="http://orders")


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("8e03978e", "8e03978e"),
        ('"8e03978e"', "8e03978e"),
        ('"a \\"quoted\\" \\\\ one"', 'a "quoted" \\ one'),
        ('"', '"'),
        ('""', '""'),
        ('a"b', 'a"b'),
    ],
)
async def test_a_key_is_the_same_with_the_quotes_of_the_draft_and_without(
    client: httpx.AsyncClient, written: str, key: str
) -> None:
    assert (await client.post("/orders", headers={"Idempotency-Key": written})).json() == KEYS.of_key(key)


async def test_a_route_sees_no_number_that_a_caller_wrote_into_a_key(client: httpx.AsyncClient) -> None:
    seen = (await client.post("/orders", headers={"Idempotency-Key": "welcome-0639981234"})).json()
    assert "39981234" not in seen
    assert seen != KEYS.subject_id("welcome-0639981234").rpartition("-")[2], "a key is hashed as a key"


@pytest.mark.parametrize("written", [b"", b"x" * 256, b"cl\xe9", b"a\x00b", b"a\tb"])
async def test_a_key_is_of_255_printable_characters_at_most(client: httpx.AsyncClient, written: bytes) -> None:
    answer = await client.post("/orders", headers=[(b"Idempotency-Key", written)])
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid")
    assert answer.json()["reasons"][0]["field"] == "Idempotency-Key"


async def test_a_key_is_required_by_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.post("/orders")).json() is None
