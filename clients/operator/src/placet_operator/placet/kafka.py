"""Checks of a Placet that reads an operator's topics: records in each form, codec and order, and those of no form."""

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from placet_operator.checking import Broken, Check
from placet_operator.placet.reading import Reading
from placet_operator.texts import NO_STOPS, STOPS

TYPE, RECEIPT = "operator.message_delivered.v1", "operator.receipt_delivered.v1"
CODECS = (None, "gzip", "snappy", "lz4", "zstd")
LATE, OLDER = timedelta(days=3), timedelta(hours=1)
LARGE_CHARS = 400_000
MOST_BYTES = 1024 * 1024
PARTITION = 0  # of all records: what stands behind a record that cannot be read is behind it in the log

Headers = list[tuple[str, bytes]]
BINARY: Headers = [("ce_specversion", b"1.0"), ("ce_type", TYPE.encode()), ("content-type", b"application/json")]
STRUCTURED: Headers = [("content-type", b"application/cloudevents+json")]


@dataclass
class Topics:
    """The seat of an operator who writes on Kafka."""

    bootstrap: str
    operator: str
    code: str
    reading: Reading
    numbers: Iterator[str] = field(repr=False)
    prefix: str = ""
    _producers: dict[str | None, AIOKafkaProducer] = field(default_factory=dict, repr=False)
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    @property
    def messages(self) -> str:
        return f"operator.{self.operator}.messages.v1"

    @property
    def receipts(self) -> str:
        return f"operator.{self.operator}.receipts.v1"

    def mo(self, text: str, at: datetime, **more: object) -> dict[str, object]:
        return {
            "message_id": f"kit-{uuid4()}",
            "sender": next(self.numbers),
            "recipient": self.code,
            "text": text,
            "sent_at": at.isoformat(),
            **more,
        }

    async def close(self) -> None:
        for producer in self._producers.values():
            await producer.stop()

    async def _producer(self, codec: str | None) -> AIOKafkaProducer:
        async with self._starting:
            if codec not in self._producers:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self.bootstrap, compression_type=codec, acks="all", max_request_size=MOST_BYTES
                )
                self._producers[codec] = producer
                await producer.start()
        return self._producers[codec]

    async def write(
        self,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes | None]] = BINARY,
        *,
        codec: str | None = None,
        topic: str | None = None,
        key: bytes | None = None,
    ) -> RecordMetadata:
        """Write one record, and return once the log has the record."""
        return await (await self._producer(codec)).send_and_wait(
            f"{self.prefix}{topic or self.messages}",
            value,
            key=key or uuid4().hex.encode(),
            partition=PARTITION,
            headers=list(headers),
        )

    async def stop_behind(self) -> None:
        """Write a plain STOP, and wait for its reading. Raises Broken."""
        at = self.reading.moment()
        await self.write(raw(self.mo("STOP", at)))
        await self.reading.is_stop(at, "a plain STOP behind it")


def raw(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def event(data: Mapping[str, object] | str, **more: object) -> dict[str, Any]:
    return {"specversion": "1.0", "id": str(uuid4()), "source": "/kit", "type": TYPE, "data": data, **more}


async def plain(topics: Topics) -> str:
    at = topics.reading.moment()
    mo = topics.mo("STOP", at)
    await topics.write(raw(mo))
    await topics.reading.is_stop(at, "STOP")
    await topics.reading.stopped(str(mo["sender"]))
    return "read, and an opt-out of its person"


async def forms(topics: Topics) -> str:
    times = [topics.reading.moment() for _ in range(6)]
    mos = [topics.mo("STOP", at) for at in times]
    packed = base64.b64encode(raw(mos[3])).decode()
    in_base64 = {name: value for name, value in event("").items() if name != "data"} | {"data_base64": packed}
    for value, headers in (
        (raw(mos[0]), BINARY),
        (raw(mos[1]), []),
        (raw(event(mos[2])), STRUCTURED),
        (raw(in_base64), STRUCTURED),
        (raw(mos[4]), [("CE_TYPE", TYPE.encode()), ("traceparent", b"x")]),
        (raw(mos[5] | {"vendor": {"more": True}}), BINARY),
    ):
        await topics.write(value, headers)
    for place, at in enumerate(times):
        await topics.reading.is_stop(at, f"form {place} of a record")
    return f"{len(times)} forms, binary and structured, each read"


async def codecs(topics: Topics) -> str:
    for codec in CODECS:
        at = topics.reading.moment()
        await topics.write(raw(topics.mo("STOP", at)), codec=codec)
        await topics.reading.is_stop(at, f"a record in {codec or 'no codec'}")
    return ", ".join(codec or "none" for codec in CODECS)


async def words(topics: Topics) -> str:
    times = {text: topics.reading.moment() for text in (*STOPS, *NO_STOPS)}
    for text, at in times.items():
        await topics.write(raw(topics.mo(text, at)))
    for text in STOPS:
        await topics.reading.is_stop(times[text], repr(text))
    for text in NO_STOPS:
        if (await topics.reading.read(times[text])).intent == "stop":
            raise Broken("a text without a STOP is read as one")
    return f"{len(STOPS)} STOPs read or held, {len(NO_STOPS)} other texts read"


async def duplicates(topics: Topics) -> str:
    at = topics.reading.moment()
    mo = raw(topics.mo("STOP", at))
    for _ in range(5):
        await topics.write(mo)
    await topics.stop_behind()
    await topics.reading.is_stop(at, "STOP")
    return "5 records, once read"


async def late(topics: Topics) -> str:
    at = topics.reading.moment(LATE)
    await topics.write(raw(topics.mo("STOP", at)))
    await topics.reading.is_stop(at, "a STOP of three days ago")
    return "a STOP of three days ago is read, as of its time"


async def reordered(topics: Topics) -> str:
    stop_at, start_at = topics.reading.moment(OLDER), topics.reading.moment()
    start = topics.mo("START", start_at)
    await topics.write(raw(start))
    await topics.write(raw(topics.mo("STOP", stop_at) | {"sender": start["sender"]}))
    reply = await topics.reading.read(stop_at)
    if reply.intent != "stop" and reply.state != "held":
        raise Broken(f"a STOP behind a newer START is read as {reply.intent!r}")
    return f"a STOP behind a newer START is {reply.state}, {reply.intent}"


async def unreadable(topics: Topics) -> str:
    wrong: list[tuple[bytes | None, Headers]] = [
        (b"STOP", BINARY),
        (b"\xff\xfe\x00", BINARY),
        (None, BINARY),
        (raw(topics.mo("STOP", topics.reading.moment()))[:-1], BINARY),
        (raw(topics.mo("STOP", topics.reading.moment(), sender=33639980001)), BINARY),
        (raw({"from": next(topics.numbers), "text": "STOP"}), BINARY),
        (raw(topics.mo("STOP", topics.reading.moment(), sent_at="2026-01-06T09:30:00")), BINARY),
        (raw(topics.mo("STOP", topics.reading.moment())), [("ce_type", b"com.example.sms.received")]),
        (raw(topics.mo("STOP", topics.reading.moment())), [("content-type", b"application/cloudevents+avro")]),
        (b"\x00\x00\x00\x00\x07" + raw(topics.mo("STOP", topics.reading.moment())), BINARY),
        (b'{"more":' + b"[" * 9999, BINARY),
    ]
    places = [(await topics.write(value, headers)).offset for value, headers in wrong]
    await topics.stop_behind()
    for offset in places:
        if not await topics.reading.dead_letter(topics.messages, PARTITION, offset):
            raise Broken("a dead letter has no reason")
    return f"{len(wrong)} records of no form: each listed with its reason, and the STOP behind them read"


async def large(topics: Topics) -> str:
    at = topics.reading.moment()
    done = await topics.write(raw(topics.mo("lune " * (LARGE_CHARS // 5) + "STOP", at)))
    await topics.stop_behind()
    if await topics.reading.replies(at):
        return f"a text of {LARGE_CHARS} characters is read"
    why = await topics.reading.dead_letter(topics.messages, PARTITION, done.offset)
    return f"a text of {LARGE_CHARS} characters is refused: {why}"


async def receipts(topics: Topics) -> str:
    told = {"message_id": f"kit-{uuid4()}", "reference": str(uuid4()), "at": topics.reading.moment().isoformat()}
    headers: Headers = [("ce_type", RECEIPT.encode())]
    for state in ("delivered", "sent", "delivered"):
        await topics.write(raw({**told, "state": state}), headers, topic=topics.receipts)
    wrong = await topics.write(raw({**told, "state": "perhaps"}), headers, topic=topics.receipts)
    await topics.reading.dead_letter(topics.receipts, PARTITION, wrong.offset)
    return "twice and in another order; one of no state is listed with its reason"


REPORT = "Report it."
CHECKS = (
    Check("stop", "A STOP is final.", "Ask for the operator's name, the topics, and a sender with this code.", plain),
    Check("forms", "CloudEvents has two modes, and clients differ in headers.", REPORT, forms),
    Check("codecs", "A producer chooses its codec, and Placet reads all of Kafka's.", REPORT, codecs),
    Check("words", "A STOP is final, however the person writes.", "Report the words.", words),
    Check("duplicates", "Producers repeat.", REPORT, duplicates),
    Check("late", "Networks hold texts back for days.", REPORT, late),
    Check("reordered", "A STOP may come behind a START that was later.", REPORT, reordered),
    Check("unreadable", "A record that cannot be read must stop no other, and must be told.", REPORT, unreadable),
    Check("large", "A single record must not stop the others.", REPORT, large),
    Check("DLRs", "DLRs come twice, in any order, and for messages that nobody knows.", REPORT, receipts),
)
