"""The list of texts to a controller's codes: whose they are, and what they mean by now."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from common.contracts import SENDERS
from common.contracts.consent import SenderChanged
from tests.service.inbound.test_reviews import DOUBT, Reviewed, inbound
from tests.support.builders import SENDER, sender_changed, shown
from tests.support.publish import all_read, publish
from tests.support.running import ALL_SCOPES, Surroundings, bearer

pytestmark = pytest.mark.any_broker

TENANT = ALL_SCOPES.replace(" platform:admin", "")
OURS, THEIRS = (bearer(organisation=each, scope=TENANT) for each in ("tests", "strangers"))
SISTER, STRANGER = "atelier-lune", "beta"


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[Reviewed]:
    async with inbound(surroundings) as running_service:
        await publish(surroundings, SENDERS, [of(SENDER), of(SISTER), of(STRANGER, organisation_id="strangers")])
        await all_read(surroundings, "inbound", SENDERS)
        yield running_service


def of(sender_id: str, **more: Any) -> SenderChanged:
    controller = STRANGER if sender_id == STRANGER else SENDER
    code = "36222" if sender_id == STRANGER else "36111"
    return sender_changed(sender_id=sender_id, controller_id=controller, stop_code=code, **more)


async def replies(service: Reviewed, headers: dict[str, str] = OURS, **params: Any) -> list[Any]:
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        asked = {"sender_id": SENDER, **params, "limit": 2} | cursor
        answer = await service.client.get("/v1/replies", params=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if answer.json()["next"] is None:
            return found
        cursor = {"cursor": answer.json()["next"]}


async def test_a_controller_s_texts_are_listed_newest_first_held_or_read_and_without_the_text(
    service: Reviewed, surroundings: Surroundings
) -> None:
    for text, mo, person in (("STOP", "mo-1", 1), (DOUBT, "mo-2", 2), ("merci beaucoup", "mo-3", 3)):
        assert (await service.text(text, mo=mo, n=person)).status_code == 200
    found = await replies(service)
    told = [(each["subject_id"], each["state"], each["intent"]) for each in found]
    assert told == [(shown(3), "read", "none"), (shown(2), "held", "review"), (shown(1), "read", "stop")]
    assert await replies(service, sort="oldest") == found[::-1]
    assert "merci" not in str(found)
    assert await replies(service, sender_id=SISTER) == found, "senders of a controller share its codes"
    await service.decide(found[1]["mo_id"], "contact")
    decided = (await replies(service))[1]
    assert (decided["state"], decided["intent"], decided["mo_id"]) == ("read", "contact", found[1]["mo_id"])
    assert decided["decided_at"] is not None
    middle = {"since": found[1]["received_at"], "until": found[0]["received_at"]}
    assert {each["mo_id"] for each in await replies(service, **middle)} >= {found[1]["mo_id"]}
    assert await replies(service, since="2026-03-01T00:00:00Z", until="2026-03-02T00:00:00Z") == []
    assert await replies(service, THEIRS, sender_id=STRANGER) == []
    for sender_id in (SENDER, "nobody"):
        asked = await service.client.get("/v1/replies", params={"sender_id": sender_id}, headers=THEIRS)
        assert asked.status_code == 404
    limited = bearer(scope=TENANT, senders=[SENDER])
    asked = await service.client.get("/v1/replies", params={"sender_id": SENDER}, headers=limited)
    assert asked.status_code == 403, "the text may be meant for the sister"

    shared = sender_changed(sender_id="gamma", organisation_id="strangers", controller_id="gamma", stop_code="36111")
    await publish(surroundings, SENDERS, [shared])
    await all_read(surroundings, "inbound", SENDERS)
    assert await replies(service) == [], "a text to a code of two controllers is no controller's"
