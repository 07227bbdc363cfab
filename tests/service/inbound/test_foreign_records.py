"""What operators' own clients write (librdkafka, the CloudEvents SDK) around plain STOPs: no STOP is lost, and each
record that cannot be read is listed with its reason and holds the marketing of its person."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import codec
from cloudevents.core.bindings import kafka as sdk
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Producer

from common.contracts import INBOUND_MESSAGES
from common.contracts.operator import MessageDelivered
from inbound.service import Settings, build
from tests.service.inbound.operated import MESSAGES, Operated
from tests.service.inbound.published import published
from tests.support.builders import field_keys, number, subject
from tests.support.eventually import eventually
from tests.support.publish import ensured
from tests.support.running import Surroundings, bearer, running

TYPE = MessageDelivered.type
AN_MO = [("ce_type", TYPE.encode())]
CLOUD_EVENT = {"id": "1", "source": "/orange", "type": TYPE}
WITHIN_S = 30.0
Written = Callable[[int], dict[str, Any]]  # the record of person n, as librdkafka takes it


def stop(n: int, **more: Any) -> dict[str, Any]:
    return {"message_id": f"or-{n}", "sender": number(n), "recipient": "36111", "text": "STOP"} | more


def written(message: Any) -> dict[str, Any]:
    return {"value": message.value, "headers": list(message.headers.items())}


def plain(n: int, **more: Any) -> dict[str, Any]:
    return {"value": json.dumps(stop(n, **more)).encode(), "headers": AN_MO}


# Read, each by a STOP of person n
FOREIGN: list[Written] = [
    lambda n: {"value": json.dumps(stop(n)).encode()},
    lambda n: written(sdk.to_binary_event(CloudEvent(CLOUD_EVENT, stop(n)))),
    lambda n: written(sdk.to_structured_event(CloudEvent(CLOUD_EVENT, stop(n)))),
    lambda n: {**plain(n), "headers": [("CE_Type", f'"{TYPE}"'.encode())]},
    lambda n: {**plain(n), "headers": [*AN_MO, ("traceparent", None), ("placet-number", None), ("ce_time", None)]},
    lambda n: {**plain(n), "headers": [("ce_type", None)], "key": b"\xff\x00"},
    lambda n: {**plain(n), "timestamp": 1},
    lambda n: plain(n, sent_at="0001-01-01T00:00:00+14:00"),
    lambda n: plain(n, sent_at="9999-12-31T23:59:59-14:00"),
]
# Not read: the record of person n, and what its dead letter says
WRONG: list[tuple[Written, str]] = [
    (lambda n: {"value": f"from={number(n)}&text=STOP".encode(), "headers": AN_MO}, "malformed"),
    (lambda n: {"value": json.dumps({"from": number(n), "to": "36111", "text": "STOP"}).encode()}, "required field"),
    (lambda n: plain(n, sender=int(number(n)[1:])), "Expected `str`"),
    (lambda n: plain(n, sent_at="2026-01-06T09:30:00"), "timezone"),
    (lambda n: plain(n, message_id=""), "message_id"),
    (lambda n: {**plain(n), "headers": [("ce_type", b"com.example.sms.received")]}, "another event type"),
    (lambda n: {**plain(n), "headers": [*AN_MO, ("CE_TYPE", b"com.example.sms.v2")]}, "differ"),
    (lambda n: {**plain(n), "headers": [("ce_type", b"placet.watermark_published.v1")]}, "another event type"),
    (lambda n: {**plain(n), "headers": [("content-type", b"application/cloudevents-batch+json")]}, "record of its own"),
    (lambda n: {**plain(n), "headers": [("content-type", b"application/cloudevents+avro")]}, "another format"),
    (lambda n: {"value": json.dumps(stop(n)).encode("utf-16"), "headers": AN_MO}, "UTF-8"),
    (lambda n: {"value": b"\x00\x00\x00\x00\x07" + json.dumps(stop(n)).encode(), "headers": AN_MO}, "registry"),
    (lambda n: {"value": None, "headers": AN_MO, "key": number(n).encode()}, "truncated"),
    (lambda n: {"value": b'{"sender":"%s","more":' % number(n).encode() + b"[" * 9999, "headers": AN_MO}, "levels"),
]
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


class Librdkafka:
    """An operator's producer. Every record goes to the topic's first partition."""

    def __init__(self, surroundings: Surroundings, **more: Any) -> None:
        told = {"bootstrap.servers": surroundings.broker.bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0}
        self.producer = Producer(told | more)
        self.topic = f"{surroundings.unique}.{MESSAGES.name}"

    async def write(self, record: dict[str, Any]) -> None:
        """Returns once it is acknowledged: each record is a batch of its own."""
        failed: list[Any] = []
        self.producer.produce(
            self.topic, partition=0, on_delivery=lambda error, _: failed.append(error) if error else None, **record
        )
        left = await asyncio.to_thread(self.producer.flush, WITHIN_S)
        assert (failed, left) == ([], 0)


async def test_no_stop_is_lost_among_foreign_and_compressed_records_and_each_wrong_one_holds_its_person(
    surroundings: Surroundings,
) -> None:
    settings = Settings(**await surroundings.settings("inbound", kafka_operators=("orange",)))
    await ensured(settings, MESSAGES)
    clients = [Librdkafka(surroundings, **{"compression.type": each}) for each in CODECS]
    stopped: list[int] = []
    wrong: list[int] = []
    for write, why in [*((each, None) for each in FOREIGN), *WRONG]:
        n = len(stopped) + len(wrong)
        (stopped if why is None else wrong).append(n)
        await clients[n % len(CODECS)].write(write(n))
        stopped.append(n + 1)
        await clients[(n + 1) % len(CODECS)].write(plain(n + 1))
    async with running(build(settings)) as client:
        service = Operated(settings, surroundings)
        found = {event.subject_id: event for event in await service.messages(len(stopped) + len(wrong))}
        assert {who for who, event in found.items() if event.intent == "stop"} == {subject(each) for each in stopped}
        held = {who for who, event in found.items() if event.intent == "review"}
        assert held == {subject(each) for each in wrong}

        answer = await client.get("/v1/reviews", params={"limit": 100}, headers=bearer())
        reviews = {item["subject_id"]: item for item in answer.json()["items"]}
        assert reviews.keys() == held
        assert {item["rule"] for item in reviews.values()} == {"unreadable_record"}
        assert number(wrong[0]) in reviews[subject(wrong[0])]["text"]

        letters = (await client.get("/v1/dead-letters", params={"limit": 100}, headers=bearer())).json()["items"]
        assert [letter["offset"] for letter in letters] == wrong
        for letter, (_, why) in zip(letters, WRONG, strict=True):
            assert why in letter["reason"]
            assert not any(number(each)[3:] in json.dumps(letter) for each in wrong)
        rows = repr(await service.rows("SELECT * FROM callback, callback_item"))
        assert "39980" not in rows
        assert (await client.get("/readyz")).status_code == 200


@pytest.mark.any_broker
async def test_a_person_held_for_a_record_is_let_go_or_stopped_by_a_reviewer(surroundings: Surroundings) -> None:
    settings = Settings(**await surroundings.settings("inbound", kafka_operators=("orange",)))
    await ensured(settings, MESSAGES)
    await Librdkafka(surroundings).write(WRONG[0][0](1))
    async with running(build(settings)) as client:
        [held] = await Operated(settings, surroundings).messages(1)
        assert field_keys.unseal(held.number, f"number:{subject(1)}") == number(1)
        url = f"/v1/reviews/{held.mo_id}/decision"
        assert (await client.post(url, json={"intent": "stop"}, headers=bearer())).status_code == 200

        async def decided() -> bool:
            events: Any = [record.event for record in await published(settings, INBOUND_MESSAGES)]
            assert [(event.intent, event.revision) for event in events] == [("review", 0), ("stop", 1)]
            return True

        await eventually(decided)


@pytest.mark.any_broker
async def test_a_process_without_a_codec_is_red_and_says_what_to_install(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(**await surroundings.settings("inbound", kafka_operators=("orange",)))
    async with running(build(settings)) as client:

        async def ready(status: int) -> str:
            answer = await client.get("/readyz")
            assert answer.status_code == status, answer.text
            return answer.text

        await eventually(lambda: ready(200))
        monkeypatch.setattr(codec, "cramjam", None)
        why = await ready(503)
        assert "compressed with snappy, lz4, zstd" in why
        assert "install aiokafka[lz4,snappy,zstd]" in why
        assert "gzip" not in why
