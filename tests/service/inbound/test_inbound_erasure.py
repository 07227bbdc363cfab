"""Erasure in inbound-svc: raw callbacks, texts in review and parts go; that something came stays; late is not kept."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec import structs

from common.contracts import ERASURE_ACKS, ERASURES, SENDERS
from common.contracts.inbound import MessageReceived
from common.db.database import Database
from inbound.copier import copier
from tests.service.inbound.test_reviews import DOUBT, Reviewed, inbound, without_tickets
from tests.support.builders import erasure_requested, field_keys, now, number, sender_changed, subject
from tests.support.erasures import acknowledged
from tests.support.eventually import eventually
from tests.support.holdings import holdings, spellings
from tests.support.publish import all_read, publish
from tests.support.reading import reading
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker  # the way between the services is of rights/test_erasure.py
PATH_SECRET = "2f1c9f3e5b7a4d60"
COUNTED = ("callbacks", "reviews", "parts")


async def held(surroundings: Surroundings, n: int, *words: str) -> list[str]:
    """What the database holds of this person once nothing is on its way out of it."""

    async def published() -> bool:
        async with surroundings.sql("inbound") as sql:
            return not await sql.fetchval("SELECT count(*) FROM outbox")

    await eventually(published)
    async with surroundings.sql("inbound") as sql:
        return await holdings(sql, [*spellings(number(n)), *words])


async def erased(surroundings: Surroundings, read: Any, n: int, **more: Any) -> dict[str, int]:
    asked = erasure_requested(n, **more)
    await publish(surroundings, ERASURES, [asked])
    return (await acknowledged(read, asked.erasure_id)).erased


async def events(service: Reviewed, mo: str) -> list[MessageReceived]:
    return [event for event in await service.messages() if event.provider_message_id == mo]


async def test_callbacks_and_reviews_of_the_person_are_gone_and_those_of_others_stay(
    surroundings: Surroundings,
) -> None:
    async with inbound(surroundings) as service, reading(surroundings, ERASURE_ACKS) as read:
        await service.text("STOP merci", mo="mo-1")
        await service.text(DOUBT, mo="mo-2")
        await service.text(DOUBT, mo="mo-3", n=2)
        [mine, _] = await service.queue()
        await service.decide(mine["mo_id"], "stop", note="il veut partir")
        assert await held(surroundings, 1, "merci", "il veut partir") == [
            "callback.body",
            "review.event",
            "review.note",
        ]
        assert await erased(surroundings, read, 1) == {"callbacks": 2, "reviews": 1, "parts": 0}
        assert await held(surroundings, 1, "merci", "il veut partir") == []
        assert [item["subject_id"] for item in await service.queue()] == [subject(2)]
        assert await service.queue(state="decided") == []
        assert await held(surroundings, 2) == ["callback.body", "review.event"]


async def test_the_same_callback_again_is_a_duplicate_and_brings_nothing_back(surroundings: Surroundings) -> None:
    async with inbound(surroundings) as service, reading(surroundings, ERASURE_ACKS) as read:
        await service.text("STOP", mo="mo-1")
        await erased(surroundings, read, 1)
        assert (await service.text("STOP", mo="mo-1")).status_code == 200
        assert len(await events(service, "mo-1")) == 1
        assert await held(surroundings, 1) == []


@pytest.mark.parametrize("erased_first", [True, False])
async def test_nor_does_a_callback_that_has_a_new_text_of_somebody_else_beside_it(
    surroundings: Surroundings, erased_first: bool
) -> None:
    """A text belongs to its first callback, where the erasure looks."""
    infobip = {"provider": "infobip", "account": "other", "path_secrets": [PATH_SECRET]}

    def text(n: int, words: str) -> dict[str, str]:
        return {"messageId": f"mo-{n}", "from": number(n)[1:], "to": "36111", "text": words}

    async def call(service: Reviewed, *results: dict[str, str]) -> int:
        url = f"/v1/callbacks/infobip/other/{PATH_SECRET}/messages"
        return (await service.client.post(url, json={"results": results})).status_code

    async with (
        inbound(surroundings, accounts=[infobip]) as service,
        reading(surroundings, ERASURE_ACKS) as read,
    ):
        assert await call(service, text(1, "merci bien")) == 200
        if erased_first:
            await erased(surroundings, read, 1)
        assert await call(service, text(1, "merci bien"), text(2, "ma commande")) == 200
        if not erased_first:
            await erased(surroundings, read, 1)
        assert await held(surroundings, 1, "merci") == []
        assert [event.intent for event in await events(service, "mo-2")] == ["none"]


async def test_a_text_of_before_that_comes_late_counts_as_a_stop_and_is_not_kept(surroundings: Surroundings) -> None:
    async with inbound(surroundings) as service, reading(surroundings, ERASURE_ACKS) as read:
        await erased(surroundings, read, 1, requested_at=now() + timedelta(seconds=30))
        for mo, text in (("mo-stop", "STOP"), ("mo-doubt", DOUBT), ("mo-start", "START"), ("mo-other", "ma commande")):
            assert (await service.text(text, mo=mo)).status_code == 200
        meant = {mo: (await events(service, mo))[0] for mo in ("mo-stop", "mo-doubt", "mo-start", "mo-other")}
        assert {mo: event.intent for mo, event in meant.items()} == {
            "mo-stop": "stop",
            "mo-doubt": "stop",
            "mo-start": "none",
            "mo-other": "none",
        }
        for event in meant.values():
            assert field_keys.unseal(event.text, f"text:{event.mo_id}") == ""
        assert await service.queue() == []
        assert await held(surroundings, 1, "commande", DOUBT) == []


async def test_a_text_of_after_is_a_new_conversation(surroundings: Surroundings) -> None:
    async with inbound(surroundings) as service, reading(surroundings, ERASURE_ACKS) as read:
        await erased(surroundings, read, 1, requested_at=now() - timedelta(seconds=30))
        await service.text(DOUBT, mo="mo-new")
        assert [item["text"] for item in await service.queue()] == [DOUBT]


async def test_the_claim_of_a_code_takes_no_text_of_before_and_no_stop_that_waits_for_a_person(
    surroundings: Surroundings,
) -> None:
    async with inbound(surroundings) as service, reading(surroundings, ERASURE_ACKS) as read:
        await publish(surroundings, SENDERS, [sender_changed(stop_code="36222")])
        await all_read(surroundings, "inbound", SENDERS)
        await service.text("STOP", mo="mo-stop")  # 36111 is nobody's
        await service.text(DOUBT, mo="mo-doubt")
        before = without_tickets(await service.queue())
        assert [item["no_sender"] for item in before] == [True, False]
        claim = sender_changed(sender_id="mallory", controller_id="mallory", stop_code="36111")
        await publish(surroundings, SENDERS, [claim])
        await all_read(surroundings, "inbound", SENDERS)
        assert await copied(surroundings, 1, "mallory") == []
        assert await erased(surroundings, read, 1, controller_id="mallory") == dict.fromkeys(COUNTED, 0)
        assert without_tickets(await service.queue()) == before
        assert len(await service.messages()) == 2, "no review was answered"

        await publish(surroundings, SENDERS, [structs.replace(claim, version=2)])  # the first row stays
        await service.text(DOUBT, mo="mo-after")
        assert [each["kind"] for each in await copied(surroundings, 1, "mallory")] == ["text", "review"]
        assert await erased(surroundings, read, 1, controller_id="mallory") == {
            "callbacks": 1,
            "reviews": 1,
            "parts": 0,
        }
        assert without_tickets(await service.queue()) == before
        assert await erased(surroundings, read, 1) == {"callbacks": 2, "reviews": 2, "parts": 0}


async def copied(surroundings: Surroundings, n: int, controller: str) -> Any:
    database = Database(await surroundings.database("inbound"), pool_size=1)
    try:
        async with database.begin() as tx:
            return await copier(field_keys).gather(tx, subject(n), controller)
    finally:
        await database.close()
