"""The services behind a token, under requests that nobody would send: whatever comes, there is an answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.contracts import SENDERS, STATES
from tests.support.builders import SENDER, STOP_CODE, number, opted_in, sender_changed, subject
from tests.support.fuzzing import FUZZ_SECONDS, LOADED_S, Asked, Fuzzed, everything_described, fuzz, fuzzed
from tests.support.operators.http import TOKEN, operator
from tests.support.publish import publish
from tests.support.running import Surroundings, bearer

pytestmark = pytest.mark.any_broker  # the same requests, and what is answered, whatever is behind

FEW = 2
KNOWN = {"sender_id": [SENDER], "number": [number(1)], "subject_id": [subject(1)], "purpose": ["promotions"]}


@pytest.mark.timeout(FUZZ_SECONDS + LOADED_S)
@pytest.mark.parametrize("service", ["consent", "campaign", "dispatch"])
async def test_whatever_comes_there_is_an_answer(surroundings: Surroundings, tmp_path: Path, service: str) -> None:
    async with operator() as op:
        more: dict[str, dict[str, Any]] = {
            "consent": {"page_url": "https://placet.example"},
            "campaign": {},
            "dispatch": {"gateway_url": op.url, "gateway_token": TOKEN, "hours": "demonstration"},
        }
        async with fuzzed(surroundings, service, tmp_path, **more[service]) as under_test:
            await _knows_somebody(surroundings, under_test, service)
            await fuzz(f"{service}-svc", under_test, *everything_described(under_test, bearer(), KNOWN, FEW))
            told = under_test.told
            assert told[200] + told[201] + told[202], f"nothing was ever taken, so nothing was tested: {told}"


async def _knows_somebody(surroundings: Surroundings, under_test: Fuzzed, service: str) -> None:
    if service != "consent":
        await publish(surroundings, SENDERS, [sender_changed()])
        await publish(surroundings, STATES, [opted_in(1)])
        return
    sender = {
        "sender_id": SENDER,
        "legal_name": "Maison Lune SAS",
        "brand": "Maison Lune",
        "contact": "contact@maison-lune.example",
        "country": "FR",
        "oadc": "MAISONLUNE",
        "stop_code": STOP_CODE,
        "purposes": [{"id": "promotions", "wording": "Nos offres"}],
    }
    headers = {**bearer(), "content-type": "application/json"}
    assert under_test.ask(Asked("POST", b"/v1/senders", headers, json.dumps(sender).encode())).status == 201
