"""The review queue: what no rule could be sure of waits for a person, is decided once, and published as they said."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import httpx
import phonenumbers
import pytest
from prometheus_client import REGISTRY

from common.contracts import INBOUND_MESSAGES, SENDERS
from common.contracts.inbound import MessageReceived
from common.keyring import Unreadable
from common.privacy import sent_before
from inbound.service import Settings, build
from tests.operators import signed
from tests.service.inbound.published import published
from tests.support.builders import field_keys, now, number, sender_changed, subject, subject_keys
from tests.support.publish import all_read, publish
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.any_broker

SECRET = "the simulator's secret"
MESSAGES = "/v1/callbacks/simulator/main/messages"
DOUBT = "Ne stoppez pas"


class Reviewed:
    """inbound-svc running, an operator, and reviewers."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings) -> None:
        self.client = client
        self.settings = settings

    async def text(self, text: str, mo: str = "mo-1", n: int = 1, slow_s: float = 0) -> httpx.Response:
        sent_at = (now() - timedelta(seconds=slow_s)).isoformat()
        message = {"id": mo, "from": number(n), "to": "36111", "text": text, "sent_at": sent_at}
        raw = json.dumps(message).encode()
        return await self.client.post(MESSAGES, content=raw, headers=signed(raw, SECRET, now()))

    async def queue(self, **query: Any) -> list[dict[str, Any]]:
        answer = await self.client.get("/v1/reviews", params=query)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def decide(self, mo_id: str, intent: str, who: str = "agent-1", note: str | None = None) -> httpx.Response:
        body = {"intent": intent, "note": note}
        return await self.client.post(f"/v1/reviews/{mo_id}/decision", json=body, headers=bearer(subject=who))

    async def messages(self) -> list[MessageReceived]:
        records = await published(self.settings, INBOUND_MESSAGES)
        return [record.event for record in records if isinstance(record.event, MessageReceived)]


def without_tickets(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the reviews without `sent_before`, which is encrypted anew for each answer."""
    return [{key: value for key, value in item.items() if key != "sent_before"} for item in items]


@asynccontextmanager
async def inbound(
    surroundings: Surroundings, undo_s: float = 0, accounts: Sequence[Mapping[str, object]] = (), **account: str
) -> AsyncIterator[Reviewed]:
    """Run inbound-svc with an account, and with others. `undo_s`: how long a decision can be undone."""
    simulator = {"provider": "simulator", "account": "main", "secrets": [SECRET], **account}
    more = {"provider_accounts": [simulator, *accounts], "publish_timeout_s": 60.0, "review_undo_s": undo_s}
    settings = Settings(**await surroundings.settings("inbound", **more))
    async with running(build(settings)) as client:
        yield Reviewed(client, settings)


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[Reviewed]:
    async with inbound(surroundings) as running_service:
        yield running_service


async def test_a_text_in_doubt_is_queued_once_with_all_a_reviewer_needs(service: Reviewed) -> None:
    for _ in range(3):
        assert (await service.text(DOUBT)).status_code == 200
    await service.text("STOP", mo="mo-2")
    await service.text("merci", mo="mo-3")

    [item] = await service.queue()
    assert (item["text"], item["subject_id"], item["short_code"]) == (DOUBT, subject(1), "36111")
    assert item["received_at"]
    assert item["rule"]
    assert 0 <= item["score"] <= 1
    assert item["decision"] is None
    assert number(1) not in json.dumps(item)


async def test_a_text_has_a_ticket_for_the_messages_before_it_which_names_nobody_in_clear(service: Reviewed) -> None:
    await service.text(DOUBT)
    [item] = await service.queue()
    found = sent_before.read(field_keys, item["sent_before"], now())
    assert (found.mo_id, found.subject_id, found.short_code) == (item["mo_id"], subject(1), "36111")
    assert found.received_at == datetime.fromisoformat(item["received_at"])
    assert now() < found.good_until <= now() + sent_before.GOOD_FOR
    assert subject(1) not in item["sent_before"]
    with pytest.raises(Unreadable):
        sent_before.read(field_keys, item["sent_before"], found.good_until + timedelta(seconds=1))


async def test_each_concern_is_a_lane_of_the_queue(service: Reviewed) -> None:
    await service.text(DOUBT)
    await service.text("நிறுத்து", mo="mo-2", n=2)

    [unread] = await service.queue(concern="unread")
    [doubt] = await service.queue(concern="doubt")
    assert (unread["text"], unread["concern"], unread["rule"]) == ("நிறுத்து", "unread", "known-1:unread")
    assert (doubt["text"], doubt["concern"]) == (DOUBT, "doubt")
    assert len(await service.queue()) == 2
    both = {(each.intent, each.concern) for each in await service.messages()}  # two people have no order
    assert both == {("review", "doubt"), ("review", "unread")}


async def test_the_country_of_an_account_decides_which_words_are_certain(surroundings: Surroundings) -> None:
    async with inbound(surroundings, country="US") as service:
        await service.text("END")

        assert await service.queue() == []
        assert [each.intent for each in await service.messages()] == ["stop"]


async def test_a_decision_is_the_next_revision_of_the_mo_and_names_who_made_it(service: Reviewed) -> None:
    await service.text(DOUBT)
    [item] = await service.queue()
    answer = await service.decide(item["mo_id"], "stop", note="asks for less")
    assert answer.status_code == 200, answer.text

    first, second = await service.messages()
    assert (first.intent, first.revision, first.decided_by) == ("review", 0, None)
    assert (second.intent, second.revision, second.decided_by) == ("stop", 1, "agent-1")
    assert (second.mo_id, second.occurred_at, second.number) == (first.mo_id, first.occurred_at, first.number)
    assert second.decided_at
    assert second.decided_at >= first.received_at
    assert (second.rule, second.score) == ("person", 1.0)

    assert await service.queue() == []
    [done] = await service.queue(state="decided")
    decision = done["decision"]
    assert (decision["intent"], decision["decided_by"], decision["note"]) == ("stop", "agent-1", "asks for less")


async def test_of_two_who_decide_at_once_one_wins_and_the_other_is_told(service: Reviewed) -> None:
    await service.text(DOUBT)
    [item] = await service.queue()
    intents = {"agent-1": "stop", "agent-2": "none", "agent-3": "contact", "agent-4": "start"}
    answers = await asyncio.gather(*(service.decide(item["mo_id"], intent, who) for who, intent in intents.items()))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    [winner] = [answer.json()["decision"] for answer in answers if answer.status_code == 200]
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["reasons"][0]["reason"] == "already_decided"
    _, decided = await service.messages()
    assert (decided.decided_by, decided.intent) == (winner["decided_by"], winner["intent"])


async def test_the_same_decision_sent_again_changes_nothing_and_another_is_refused(service: Reviewed) -> None:
    await service.text(DOUBT)
    [item] = await service.queue()
    first = await service.decide(item["mo_id"], "none")
    again = await service.decide(item["mo_id"], "none")
    assert (first.status_code, again.status_code) == (200, 200)
    assert without_tickets([first.json()]) == without_tickets([again.json()])
    assert (await service.decide(item["mo_id"], "stop")).status_code == 409
    assert len(await service.messages()) == 2


async def test_the_queue_is_oldest_first_and_pages_by_cursor(service: Reviewed) -> None:
    for n in range(5):
        await service.text(f"{DOUBT} {n}", mo=f"mo-{n}", n=n)
    whole = [item["mo_id"] for item in await service.queue()]
    paged, cursor = [], ""
    while cursor is not None:
        page = (await service.client.get("/v1/reviews", params={"limit": 2, "cursor": cursor})).json()
        paged += [item["mo_id"] for item in page["items"]]
        cursor = page["next"]
    assert paged == whole
    assert len(whole) == 5


@pytest.mark.parametrize("intent", ["review", "erase", "confirm", "STOP", "", None])
async def test_what_is_no_decision_is_refused(service: Reviewed, intent: Any) -> None:
    await service.text(DOUBT)
    [item] = await service.queue()
    assert (await service.decide(item["mo_id"], intent)).status_code == 422
    assert len(await service.queue()) == 1


async def test_the_queue_is_for_who_may_and_keeps_no_text_in_clear(
    service: Reviewed, surroundings: Surroundings
) -> None:
    await service.text(DOUBT)
    [item] = await service.queue()
    path = f"/v1/reviews/{item['mo_id']}/decision"
    stop = {"intent": "stop", "note": "elle veut moins de SMS"}
    for headers, status in (
        ({"Authorization": ""}, 401),
        (bearer(scope="consent:read"), 403),
        (bearer(senders=["maison-lune"]), 403),
    ):
        assert (await service.client.get("/v1/reviews", headers=headers)).status_code == status
        assert (await service.client.post(path, json=stop, headers=headers)).status_code == status
    assert (await service.client.post(path, json=stop, headers=bearer(scope="review:read"))).status_code == 403
    assert (await service.client.post("/v1/reviews/nothing/decision", json=stop)).status_code == 404
    assert (await service.client.post(path, json=stop)).status_code == 200
    async with surroundings.sql("inbound") as sql:
        rows = [repr(row) for row in await sql.fetch("SELECT * FROM review")]
    assert not any(word in row for row in rows for word in ("stoppez", number(1)[3:], "moins"))


async def test_a_stop_that_the_operators_clock_puts_before_a_start_is_published_and_waits_for_a_person(
    service: Reviewed,
) -> None:
    await service.text("STOP", mo="mo-0", slow_s=3600)
    await service.text("START", mo="mo-1", slow_s=60)
    await service.text("STOP", mo="mo-2", slow_s=600)
    await service.text("STOP", mo="mo-2", slow_s=600)
    await service.text("STOP", mo="mo-3", n=2, slow_s=600)  # somebody else
    await service.text("STOP", mo="mo-4")  # after the START

    [item] = await service.queue()
    assert (item["provider_message_id"], item["behind_start"], item["text"]) == ("mo-2", True, "STOP")
    answer = await service.decide(item["mo_id"], "start")
    assert (answer.status_code, answer.json()["type"].rsplit("/")[-1]) == (422, "only-a-stop")
    assert (await service.decide(item["mo_id"], "stop")).status_code == 200
    assert await service.queue() == []

    told = {(m.provider_message_id, m.intent, m.behind_start, m.revision) for m in await service.messages()}
    assert ("mo-2", "stop", True, 0) in told
    assert ("mo-2", "stop", True, 1) in told
    assert sorted(name for name, _, behind, _ in told if not behind) == ["mo-0", "mo-1", "mo-3", "mo-4"]


async def test_a_slow_clock_is_measured_by_account(service: Reviewed) -> None:
    of = {"provider": "simulator", "account": "main"}

    def counted(up_to: str) -> float:
        return REGISTRY.get_sample_value("sms_inbound_lag_seconds_bucket", {**of, "le": up_to}) or 0.0

    slow, all_of_them = counted("60.0"), counted("+Inf")
    await service.text("STOP", slow_s=110)
    await service.text("STOP", slow_s=110)
    assert (counted("60.0") - slow, counted("+Inf") - all_of_them) == (0, 1)


async def test_a_stop_to_a_code_that_no_sender_has_waits_for_a_person(
    service: Reviewed, surroundings: Surroundings
) -> None:
    """Once some sender is known: who says STOP to everybody, or asks for erasure, means whatever code it is."""
    await service.text("STOP", mo="before")
    await publish(
        surroundings, SENDERS, [sender_changed(stop_code="36222"), sender_changed(version=2, stop_code="36333")]
    )
    await all_read(surroundings, "inbound", SENDERS)
    await service.text("STOP", mo="unknown")
    await service.text("STOP TOUT", mo="everyone", n=2)
    [item] = await service.queue()
    assert (item["text"], item["no_sender"], item["short_code"]) == ("STOP", True, "36111")
    assert (await service.decide(item["mo_id"], "contact")).status_code == 422
    assert (await service.decide(item["mo_id"], "stop")).status_code == 200
    told = [(m.provider_message_id, m.intent, m.no_sender, m.revision) for m in await service.messages()]
    assert sorted(told) == [
        ("before", "stop", False, 0),
        ("everyone", "stop", False, 0),
        ("unknown", "stop", True, 0),
        ("unknown", "stop", True, 1),
    ]


async def test_a_number_without_a_country_code_is_of_the_accounts_country(surroundings: Surroundings) -> None:
    """Read as French, a Spaniard's STOP would have been a French stranger's."""
    example = phonenumbers.example_number_for_type("ES", phonenumbers.PhoneNumberType.MOBILE)
    assert example is not None
    at_home = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.NATIONAL)
    spanish = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
    async with inbound(surroundings, country="ES") as service:
        for mo, sender in (("mo-1", at_home), ("mo-2", spanish), ("mo-3", spanish.removeprefix("+"))):
            message = {"id": mo, "from": sender, "to": "36111", "text": "STOP", "sent_at": now().isoformat()}
            raw = json.dumps(message).encode()
            answer = await service.client.post(MESSAGES, content=raw, headers=signed(raw, SECRET, now()))
            assert answer.status_code == 200
        told = await service.messages()
        assert {each.subject_id for each in told} == {subject_keys.subject_id(spanish)}
        assert {each.intent for each in told} == {"stop"}
        assert len(told) == 3
