"""A decision takes effect once its time to be undone is over; a STOP at once. Like texts are decided by one call."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from common.contracts import ERASURE_ACKS, ERASURES, SENDERS
from common.db.database import Database
from inbound.reviews.effect import Effect
from tests.service.inbound.test_reviews import DOUBT, Reviewed, inbound
from tests.support.builders import erasure_requested, number, sender_changed
from tests.support.erasures import acknowledged
from tests.support.eventually import eventually
from tests.support.publish import all_read, publish
from tests.support.reading import reading
from tests.support.running import Surroundings, bearer

pytestmark = pytest.mark.any_broker

AN_HOUR_S = 3600.0


async def _undo(service: Reviewed, mo_id: str, who: str = "agent-1") -> Any:
    return await service.client.post(f"/v1/reviews/{mo_id}/undo", headers=bearer(subject=who))


async def _told(service: Reviewed) -> list[tuple[str, int, str | None]]:
    return [(each.intent, each.revision, each.decided_by) for each in await service.messages()]


async def test_a_decision_can_be_undone_until_it_takes_effect_and_nothing_is_told_of_it(
    surroundings: Surroundings,
) -> None:
    async with inbound(surroundings, undo_s=AN_HOUR_S) as service:
        await service.text(DOUBT)
        [item] = await service.queue()
        answer = (await service.decide(item["mo_id"], "none")).json()["decision"]
        assert answer["in_effect"] is False
        delay = datetime.fromisoformat(answer["takes_effect_at"]) - datetime.fromisoformat(answer["decided_at"])
        assert delay == timedelta(seconds=AN_HOUR_S)
        assert await service.queue() == []

        undone = await _undo(service, item["mo_id"], "agent-2")
        assert (undone.status_code, undone.json()["decision"]) == (200, None)
        assert [each["mo_id"] for each in await service.queue()] == [item["mo_id"]]
        assert (await _undo(service, item["mo_id"])).status_code == 200, "an open review stays open"
        assert (await service.decide(item["mo_id"], "stop", "agent-2")).status_code == 200
        assert await _told(service) == [("review", 0, None), ("stop", 1, "agent-2")]


async def test_a_stop_takes_effect_at_once_and_cannot_be_undone(surroundings: Surroundings) -> None:
    async with inbound(surroundings, undo_s=AN_HOUR_S) as service:
        await service.text(DOUBT)
        [item] = await service.queue()
        assert (await service.decide(item["mo_id"], "stop")).json()["decision"]["in_effect"] is True
        assert await _told(service) == [("review", 0, None), ("stop", 1, "agent-1")]
        refused = await _undo(service, item["mo_id"])
        assert (refused.status_code, refused.json()["reasons"][0]["reason"]) == (409, "in_effect")
        assert refused.json()["type"].endswith("decision-in-effect")
        assert (await _undo(service, "nothing")).status_code == 404


async def test_a_decision_takes_effect_by_itself_and_stands_from_then_on(surroundings: Surroundings) -> None:
    async with inbound(surroundings, undo_s=0.2) as service:
        await service.text(DOUBT)
        [item] = await service.queue()
        assert (await service.decide(item["mo_id"], "contact")).status_code == 200

        async def in_effect() -> bool:
            return bool((await service.queue(state="decided"))[0]["decision"]["in_effect"])

        await eventually(in_effect)
        assert await _told(service) == [("review", 0, None), ("contact", 1, "agent-1")]
        assert (await _undo(service, item["mo_id"])).status_code == 409


async def test_like_texts_are_decided_by_one_call_each_with_a_decision_of_its_own(surroundings: Surroundings) -> None:
    async with inbound(surroundings, undo_s=AN_HOUR_S) as service:
        for n, text in enumerate((DOUBT, "ne STOPPEZ pas !!", f"{DOUBT} 44", "Ne stoppez surtout pas")):
            await service.text(text, mo=f"mo-{n}", n=n + 1)
        found = await service.queue()
        like = found[0]["like"]
        group = [each["mo_id"] for each in found if each["like"] == like]
        assert len(group) == 3
        body = {"mo_ids": [*group, "nothing"], "intent": "stop", "note": "asks twice"}
        path = "/v1/reviews/decisions"
        answer = await service.client.post(path, json=body, headers=bearer(subject="agent-1"))
        results = [(each["result"], each["reason"]) for each in answer.json()["items"]]
        assert results == [("decided", None)] * 3 + [("refused", "unknown_review")]
        again = await service.client.post(path, json=body, headers=bearer(subject="agent-1"))
        assert [each["result"] for each in again.json()["items"]] == ["unchanged"] * 3 + ["refused"]
        other = await service.client.post(path, json=body | {"intent": "none"}, headers=bearer(subject="agent-2"))
        assert [each["reason"] for each in other.json()["items"]] == ["already_decided"] * 3 + ["unknown_review"]

        decided = await service.queue(state="decided")
        assert [each["mo_id"] for each in decided] == group
        assert {(d["decided_by"], d["note"]) for d in (each["decision"] for each in decided)} == {
            ("agent-1", "asks twice")
        }
        told = [each for each in await service.messages() if each.revision]
        assert sorted(each.mo_id for each in told) == sorted(group)
        twice = {"mo_ids": [group[0], group[0]], "intent": "stop"}
        assert (await service.client.post(path, json=twice)).status_code == 422


async def test_a_text_is_shown_with_the_likely_meaning_and_its_time(surroundings: Surroundings) -> None:
    async with inbound(surroundings) as service:
        await service.text(DOUBT)
        await service.text("நிறுத்து", mo="mo-2", n=2)
        doubt, unread = await service.queue()
        assert (doubt["suggestion"], unread["suggestion"]) == ("stop", None)
        waits = datetime.fromisoformat(doubt["due_at"]) - datetime.fromisoformat(doubt["received_at"])
        assert waits == timedelta(days=1)


async def test_the_erasure_answers_for_a_text_whose_decision_is_not_in_effect(surroundings: Surroundings) -> None:
    """Marketing of other controllers waits for an answer, which the deleted decision would have given."""
    async with inbound(surroundings, undo_s=AN_HOUR_S) as service, reading(surroundings, ERASURE_ACKS) as read:
        await publish(surroundings, SENDERS, [sender_changed(stop_code="36111")])
        await all_read(surroundings, "inbound", SENDERS)
        await service.text(DOUBT)
        [item] = await service.queue()
        assert (await service.decide(item["mo_id"], "none")).status_code == 200
        asked = erasure_requested(1, controller_id="maison-lune")
        await publish(surroundings, ERASURES, [asked])
        assert (await acknowledged(read, asked.erasure_id)).erased["reviews"] == 1

        async def told() -> bool:
            return len(await service.messages()) == 2

        await eventually(told)
        assert [(each.revision, each.decided_by) for each in await service.messages()] == [(0, None), (1, None)]


async def test_what_two_people_wrote_is_proposed_as_a_line_and_nothing_of_one_alone(surroundings: Surroundings) -> None:
    async with inbound(surroundings) as service:
        texts = ((DOUBT, 1), ("Ne stoppez pas 44", 2), (DOUBT, 2), ("Ne stoppez pas Zoé", 3), ("Ne stoppez pas Zoé", 3))
        for place, (text, n) in enumerate(texts):
            await service.text(text, mo=f"mo-{place}", n=n)
        intents = ["none", "stop", "none", "none", "none"]
        for item, intent in zip(await service.queue(), intents, strict=True):
            assert (await service.decide(item["mo_id"], intent)).status_code == 200
        found = (await service.client.get("/v1/reviews/proposals")).json()["items"]
        assert [(each["line"], each["intents"], each["people"]) for each in found] == [
            ("ne stoppez pas", {"none": 2, "stop": 1}, 2)
        ]
        assert found[0]["rules"]
        assert number(1) not in str(found)


async def test_the_age_of_the_queue_is_measured(surroundings: Surroundings) -> None:
    async with inbound(surroundings) as service:
        await service.text(DOUBT)
        async with surroundings.sql("inbound") as sql:
            old = (datetime.now(UTC) - timedelta(days=2)).isoformat()
            moved = "UPDATE review SET event = jsonb_set(event::jsonb, '{received_at}', to_jsonb($1::text))::text"
            await sql.execute(moved, old)
        database = Database(await surroundings.database("inbound"), pool_size=1)
        try:
            await Effect(database).measure()
        finally:
            await database.close()

    def gauge(name: str) -> float:
        return REGISTRY.get_sample_value(name, {"concern": "doubt"}) or 0.0

    assert gauge("sms_inbound_open_reviews") == 1
    assert gauge("sms_inbound_oldest_review_age_seconds") >= timedelta(days=2).total_seconds()
    late = gauge("sms_inbound_review_overdue_seconds")
    assert timedelta(days=1).total_seconds() <= late < timedelta(days=1, hours=1).total_seconds()
