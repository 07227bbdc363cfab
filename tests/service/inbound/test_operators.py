"""An operator that integrates by Kafka: what it writes is kept and published once, or put aside with the reason."""

import json
from collections.abc import AsyncIterator

import pytest

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS
from common.contracts.inbound import ReceiptReceived
from common.contracts.operator import MessageDelivered, ReceiptDelivered
from common.kafka import broker as kafka
from inbound.service import Settings, build
from tests.service.inbound.operated import MESSAGES, RECEIPTS, Operated, mo
from tests.service.inbound.published import published
from tests.support.builders import field_keys, now, number, subject
from tests.support.eventually import eventually
from tests.support.publish import publish, publish_raw
from tests.support.running import Surroundings, running

AN_MO = [("ce_type", MessageDelivered.type.encode())]


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[Operated]:
    settings = Settings(**await surroundings.settings("inbound", kafka_operators=("orange",)))
    async with running(build(settings)):
        yield Operated(settings, surroundings)


async def test_an_mo_is_understood_sealed_and_published_once(service: Operated, surroundings: Surroundings) -> None:
    said = mo("Arrêtez vos SMS")
    for _ in range(3):
        await publish(surroundings, MESSAGES, [said, said])
    await publish(surroundings, MESSAGES, [mo("Ne stoppez pas", "or-2")])
    await service.stepped(MESSAGES, 7)

    stop, doubt = sorted(await service.messages(2), key=lambda event: event.provider_message_id)
    assert (stop.intent, stop.reference, stop.short_code) == ("stop", "kafka/orange/or-1", "36111")
    assert (stop.subject_id, stop.occurred_at) == (subject(1), said.sent_at)
    assert field_keys.unseal(stop.number, f"number:{subject(1)}") == number(1)
    assert doubt.intent == "review"
    assert [row["mo_id"] for row in await service.rows("SELECT mo_id FROM review")] == [doubt.mo_id]
    journal = [repr(row) for row in await service.rows("SELECT * FROM callback")]
    assert not any(word in row for row in journal for word in (number(1)[3:], "SMS"))


async def test_an_mo_that_may_be_an_earlier_one_is_that_one_and_a_text_that_may_stop_counts_once_more(
    service: Operated, surroundings: Surroundings
) -> None:
    """The operator cannot tell. Between two equal STOPs the person may have opted in."""
    texts = ("STOP", "Ne stoppez pas", "Bonjour", "START", "OUI")
    whole = [mo(text, f"or-{n}") for n, text in enumerate(texts)]
    again = [mo(text, f"again-{n}", repeats=f"or-{n}") for n, text in enumerate(texts)]
    lost = mo("Merci", "again-9", repeats="or-9")  # the earlier one never came
    await publish(surroundings, MESSAGES, [*whole, *again, lost, lost])
    await service.stepped(MESSAGES, 12)
    names = sorted(event.provider_message_id for event in await service.messages(8))
    assert names == ["again-0", "again-1", "or-0", "or-1", "or-2", "or-3", "or-4", "or-9"]


async def test_a_receipt_is_normalised_and_published_once(service: Operated, surroundings: Surroundings) -> None:
    blocked = ReceiptDelivered(message_id="or-9", state="failed", code="23", at=now(), blocked=True)
    delivered = ReceiptDelivered(message_id="or-8", state="delivered", reference="ours")
    await publish(surroundings, RECEIPTS, [blocked, delivered, blocked])

    async def look() -> dict[str, ReceiptReceived]:
        records = await published(service.settings, INBOUND_RECEIPTS)
        found = [record.event for record in records if isinstance(record.event, ReceiptReceived)]
        assert len(found) == 2
        return {event.provider_message_id: event for event in found}

    events = await eventually(look)
    await service.stepped(RECEIPTS, 3)
    assert len(await look()) == 2
    assert (events["or-9"].state, events["or-9"].code, events["or-9"].blocked) == ("failed", "23", True)
    assert (events["or-8"].reference, events["or-8"].blocked) == ("ours", False)
    assert (events["or-9"].provider, events["or-9"].account) == ("kafka", "orange")


BAD: list[tuple[bytes | None, list[tuple[str, bytes]]]] = [
    (b"{", AN_MO),
    (None, AN_MO),
    (b'{"message_id":"or-1","sender":"","recipient":"36111","text":"STOP"}', AN_MO),
    (b'{"message_id":"","sender":"A","recipient":"36111","text":"STOP"}', AN_MO),
    (b'{"message_id":"or\\u0000","sender":"A","recipient":"36111","text":"STOP"}', AN_MO),
    (b'{"message_id":"or-1","sender":"A","recipient":"36111","text":"STOP","sent_at":"2026-01-06T09:30:00"}', AN_MO),
    (json.dumps({"message_id": "x" * 201, "sender": "A", "recipient": "36111", "text": ""}).encode(), AN_MO),
    (b"{}", []),
    (b"{}", [("ce_type", b"operator.message_delivered.v2")]),
    (b'{"message_id":"or-1","state":"delivered"}', [("ce_type", ReceiptDelivered.type.encode())]),
]


async def test_what_cannot_be_read_is_put_aside_and_never_stops_the_operator(surroundings: Surroundings) -> None:
    """More of it in a row than would stop a consumer of our own events. Nothing is relayed: all of it is to be seen."""
    more = {"kafka_operators": ("orange",), "roles": "api,worker"}
    settings = Settings(**await surroundings.settings("inbound", **more))
    times = 3
    async with running(build(settings)):
        service = Operated(settings, surroundings)
        for n in range(times):
            for value, headers in BAD:
                await publish_raw(surroundings, MESSAGES, b"same", value, headers)
            await publish(surroundings, MESSAGES, [mo(name=f"or-{n}")])
        await service.stepped(MESSAGES, times * (len(BAD) + 1))
        rows = await service.rows("SELECT topic, type, payload FROM outbox ORDER BY id")
    kept = [row for row in rows if row["topic"] == INBOUND_MESSAGES.name]
    dead = [row for row in rows if row["topic"] == MESSAGES.dead_letters]
    assert (len(kept), len(dead)) == (times, times * len(BAD))
    assert sorted((row["payload"] or b"") for row in dead) == sorted((value or b"") for value, _ in BAD * times)
    assert all(";" in row["type"] for row in dead), "each with its reason"


async def test_a_record_without_a_key_is_taken_for_what_it_says(surroundings: Surroundings) -> None:
    """The key only chooses the partition; it is the name inside that makes a duplicate one, wherever it lies. A STOP is
    not lost for want of a key; what cannot be read is put aside without one."""
    more = {"kafka_operators": ("orange",), "roles": "api,worker"}
    settings = Settings(**await surroundings.settings("inbound", **more))
    async with running(build(settings)):
        service = Operated(settings, surroundings)
        said = mo()
        for key in (None, None, b"another partition, or not"):
            await publish_raw(surroundings, MESSAGES, key, kafka.encode(said), AN_MO)
        await publish_raw(surroundings, MESSAGES, None, b"{", AN_MO)
        await service.stepped(MESSAGES, 4)
        rows = await service.rows("SELECT topic, type, key, payload FROM outbox ORDER BY id")
    [kept] = [row for row in rows if row["topic"] == INBOUND_MESSAGES.name]
    [dead] = [row for row in rows if row["topic"] == MESSAGES.dead_letters]
    assert (kept["key"], json.loads(kept["payload"])["intent"]) == (subject(1).encode(), "stop")
    assert (dead["key"], dead["payload"]) == (None, b"{")


@pytest.mark.any_broker
@pytest.mark.parametrize("name", ["", "Orange", "a.b", "orange messages", "x" * 41])
async def test_an_operators_name_must_make_a_topic(surroundings: Surroundings, name: str) -> None:
    more = await surroundings.settings("inbound", kafka_operators=(name,))
    with pytest.raises(ValueError, match="kafka_operators"):
        Settings(**more)
