"""Too many calls are refused with the time to wait, over all processes, and no limit touches an opt-out."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER
from tests.support.builders import number
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

LOOK_UP = {"number": number(1)}
STOP = {"sender_id": None, "number": number(1), "evidence": {"source": "shop"}}
MANY = 40


@asynccontextmanager
async def limited(surroundings: Surroundings, folder: Path, **limits: Any) -> AsyncIterator[httpx.AsyncClient]:
    told = folder / "limits.json"
    told.write_text(json.dumps({"version": "t-1", "default": limits}))
    settings = Settings(**await surroundings.settings("consent", roles="api", limits=told))
    async with running(build(settings)) as client:
        yield client


async def many(*clients: httpx.AsyncClient, path: str, body: Any, **more: Any) -> list[httpx.Response]:
    return await asyncio.gather(*(c.post(path, json=body, **more) for c in clients for _ in range(MANY)))


def a_second(answers: list[httpx.Response]) -> Counter[str]:
    """How many of the calls that a second answered were let in. The limit is one of each second by the clock."""
    return Counter("refused" if answer.status_code == 429 else "let in" for answer in answers)


async def test_calls_are_counted_over_processes_by_token_and_organisation(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    limits = {"requests_per_second": 5, "token_requests_per_second": 3}
    async with limited(surroundings, tmp_path, **limits) as one, limited(surroundings, tmp_path, **limits) as other:
        begun = asyncio.get_running_loop().time()
        answers = await many(one, other, path="/v1/subjects/lookup", body=LOOK_UP)
        seconds = int(asyncio.get_running_loop().time() - begun) + 2
        found = a_second(answers)
        assert 1 <= found["let in"] <= 3 * seconds
        [refused] = [a for a in answers if a.status_code == 429][-1:]
        assert (refused.headers["retry-after"], refused.json()["type"]) == ("1", "/problems/limit-reached")
        assert refused.json()["reasons"][0]["reason"] == "token_requests_per_second"
        assert (
            refused.headers["ratelimit-policy"] == '"token_requests_per_second";q=3;w=1, "requests_per_second";q=5;w=1'
        )
        assert '"token_requests_per_second";r=0;t=1' in refused.headers["ratelimit"]
        stranger = await one.get("/livez")
        assert "ratelimit" not in stranger.headers
        begun = asyncio.get_running_loop().time()
        colleagues = [bearer(subject=f"colleague-{n}") for n in range(MANY)]
        answers = await asyncio.gather(
            *(one.post("/v1/subjects/lookup", json=LOOK_UP, headers=each) for each in colleagues)
        )
        seconds = int(asyncio.get_running_loop().time() - begun) + 2
        assert 1 <= a_second(answers)["let in"] <= 5 * seconds, "the organisation's"
        elsewhere = bearer(organisation="elsewhere")
        assert (await one.post("/v1/subjects/lookup", json=LOOK_UP, headers=elsewhere)).status_code == 200


async def test_no_limit_delays_an_opt_out(surroundings: Surroundings, tmp_path: Path) -> None:
    limits = {"requests_per_second": 1, "token_requests_per_second": 1}
    async with limited(surroundings, tmp_path, **limits) as client:
        looked = await many(client, path="/v1/subjects/lookup", body=LOOK_UP)
        assert a_second(looked)["refused"], "the limit is reached"
        stopped = await many(client, path="/v1/opt-outs", body=STOP)
        assert {answer.status_code for answer in stopped} == {201}
        assert "ratelimit" not in stopped[0].headers


async def test_no_parameter_of_the_query_loses_an_opt_out(surroundings: Surroundings, tmp_path: Path) -> None:
    async with limited(surroundings, tmp_path) as client:
        stopped = await client.post("/v1/opt-outs", json=STOP, params={"utm_source": "shop"})
        assert stopped.status_code == 201, stopped.text


async def test_looking_numbers_up_has_a_lower_limit(surroundings: Surroundings, tmp_path: Path) -> None:
    async with limited(surroundings, tmp_path, lookups_per_second=1, token_requests_per_second=1000) as client:
        looked = await many(client, path="/v1/subjects/lookup", body=LOOK_UP)
        [refused] = [a for a in looked if a.status_code == 429][-1:]
        assert refused.json()["reasons"][0]["reason"] == "lookups_per_second"
        senders = await asyncio.gather(*(client.get("/v1/senders/nobody") for _ in range(MANY)))
        assert {answer.status_code for answer in senders} == {404}


@pytest.mark.parametrize(
    ("path", "body", "many"),
    [
        ("/v1/consents/check", {"sender_id": "nobody", "purpose": "promotions"}, "numbers"),
        ("/v1/consents/batch", {}, "items"),
    ],
)
async def test_the_numbers_of_a_call_count_each(
    surroundings: Surroundings, tmp_path: Path, path: str, body: dict[str, Any], many: str
) -> None:
    item = number(1) if many == "numbers" else {}
    async with limited(surroundings, tmp_path, numbers_per_minute=3) as client:
        refused = await client.post(path, json={**body, many: [item] * 4})
        assert (refused.status_code, refused.json()["reasons"][0]["reason"]) == (429, "numbers_per_minute")
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        answers = await asyncio.gather(*(client.post(path, json={**body, many: [item] * 2}) for _ in range(10)))
        assert 1 <= a_second(list(answers))["let in"] <= 2, "one, or two of different minutes"


async def test_no_question_goes_to_a_place_closed_by_the_limits(surroundings: Surroundings, tmp_path: Path) -> None:
    async with limited(surroundings, tmp_path, places=["BE"]) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        asked: dict[str, Any] = {"sender_id": "acme", "purpose": "promotions"}
        asked |= {"occurred_at": datetime.now(UTC).isoformat()}
        asked |= {"evidence": {"source": "site", "form_id": "f", "form_version": "1"}}
        answers = [
            await client.post("/v1/double-opt-ins", json={**asked, "number": to}) for to in ("+12025550123", number(1))
        ]
        assert [answer.status_code for answer in answers] == [403, 202], [answer.text for answer in answers]
        assert answers[0].json()["reasons"][0]["reason"] == "place_not_allowed"
