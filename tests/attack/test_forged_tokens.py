"""Forged tokens over every operation of the OpenAPI documents, and an issuer that hangs."""

import asyncio
import os
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from common.web.problems import MEDIA_TYPE
from tests.attack.issuer import forged, key_set
from tests.contract.test_http import MORE, openapi
from tests.support.eventually import eventually
from tests.support.running import Surroundings, running
from tests.support.uploading import OCTETS
from tests.unit.deploy.deployed import BUILD, SERVICES, SETTINGS

pytestmark = pytest.mark.brokerless

UNSIGNED = {"/.well-known/jwks.json"}  # and the callbacks, which an operator signs
CALLS_AT_ONCE = 20
PART = 1 if "ATTACK_SECONDS" in os.environ else 3  # `make attack` tries each token on each operation
MOST_S = 30.0  # for a refusal, on a machine that may stand still


def asked(service: str) -> Iterator[tuple[str, str]]:
    """Yield the method and a path of each operation that asks for a token."""
    for path, methods in openapi(service)["paths"].items():
        for method in methods:
            if path not in UNSIGNED and not path.startswith("/v1/callbacks/"):
                yield method.upper(), re.sub(r"\{\w+\}", "x", path)


async def built(surroundings: Surroundings, service: str, url: str) -> Any:
    told = await surroundings.settings(service, roles="api", auth_jwks_url=url, **MORE.get(service, {}))
    return BUILD[service](SETTINGS[service](**told))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_forged_token_opens_no_operation(surroundings: Surroundings, service: str) -> None:
    async with (
        key_set() as issuer,
        key_set() as elsewhere,
        running(await built(surroundings, service, issuer.url), {}) as client,
    ):
        operations = list(asked(service))
        assert len(operations) > 3
        for method, path in operations:
            known = await client.request(
                method, path, headers=OCTETS | {"Authorization": f"Bearer {issuer.token(scope='')}"}
            )
            assert known.status_code == 403, f"{method} {path}: else the refusals below mean nothing"
        for place, (why, authorization) in enumerate(forged(issuer, elsewhere).items()):
            for method, path in operations[place % PART :: PART]:
                answer = await client.request(method, path, headers=OCTETS | {"Authorization": authorization})
                assert answer.status_code == 401, (why, method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                if method != "HEAD":
                    assert answer.headers["content-type"] == MEDIA_TYPE
                    assert "eyJ" not in answer.text
        assert elsewhere.asked == 0, "no key is fetched from where a token says"
        token = issuer.token()
        for method, path in operations:
            answer = await client.request(method, f"{path}?access_token={token}", headers=OCTETS)
            assert answer.status_code == 401, "a token comes in its header alone"


@pytest.mark.parametrize("service", SERVICES)
async def test_an_issuer_that_hangs_is_told_at_once(surroundings: Surroundings, service: str) -> None:
    """No call waits for the issuer, and health does not either; with the keys, the calls are answered again."""
    loop = asyncio.get_running_loop()
    async with (
        key_set(hangs=True) as issuer,
        running(
            await built(surroundings, service, issuer.url), {"Authorization": f"Bearer {issuer.token()}"}
        ) as client,
    ):
        begun = loop.time()
        told = await asyncio.gather(*(client.get("/v1/dead-letters") for _ in range(CALLS_AT_ONCE)))
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in told} == {(503, "1")}
        assert (await client.get("/livez")).status_code == 200
        assert loop.time() - begun < MOST_S
        assert issuer.asked < CALLS_AT_ONCE / 2, "one fetch in the background, not one of each call"
        issuer.hangs = False
        issuer.ended.set()

        async def answered() -> bool:
            return bool((await client.get("/v1/dead-letters")).status_code in (200, 403))

        await eventually(answered)


async def test_what_needs_no_token_is_answered_while_the_issuer_hangs(surroundings: Surroundings) -> None:
    """The key set of receipts, and a person's page."""
    async with key_set(hangs=True) as issuer, running(await built(surroundings, "consent", issuer.url), {}) as client:
        told: list[httpx.Response] = [await client.get(path) for path in ("/.well-known/jwks.json", "/p/nothing")]
        assert [answer.status_code for answer in told] == [200, 404]
