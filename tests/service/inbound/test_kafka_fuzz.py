"""inbound-svc under records that no operator would write: each is read, or listed with its reason and holds its person.

`make fuzz T=tests/service/inbound/test_kafka_fuzz.py` writes others for ten minutes.
"""

import asyncio
import base64
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import pytest
from confluent_kafka import Producer
from hypothesis import strategies as st

from common.contracts import Topic
from common.contracts.inbound import ReceiptState
from inbound.operators import PROVIDER
from inbound.service import Settings
from inbound.store import Origin, receipt_id
from tests.service.inbound.operated import MESSAGES, RECEIPTS
from tests.support.builders import number, subject
from tests.support.eventually import eventually
from tests.support.fuzzing import FUZZ_SECONDS, LOADED_S, Asked, Check, Fuzzed, fuzz, fuzzed
from tests.support.publish import ensured
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker  # the same records, and what becomes of them, whatever is behind

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
TYPES = [MESSAGES.events[0].type, RECEIPTS.events[0].type, "placet.watermark_published.v1", "com.example.sms.v1", ""]
MEDIA = ["application/json", "application/cloudevents+json", "application/cloudevents-batch+json", "avro/binary", ""]
HEADER_NAMES = ["ce_type", "CE-Type", "content-type", "Content_Type", "traceparent", "placet-number", "ce_time", "x"]
ENCODINGS = ["utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"]
PEOPLE = 100
FOUND = re.compile(rb"(?<!\d)\+3363998\d{4}(?!\d)")  # a person's number, in clear

Headers = list[tuple[str, str | bytes | None]]

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
NUMBERS = st.integers(0, PEOPLE - 1).map(number)
ANY_JSON = st.recursive(
    SCALARS | NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["sender", "text", "data", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
TIMES = ["2026-01-06T09:30:00+01:00", "2026-01-06T09:30:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]


@dataclass(frozen=True, slots=True)
class Record:
    """What an operator writes. `topic`: of messages or of receipts."""

    topic: Topic
    key: bytes | None
    value: bytes | None
    headers: Headers
    codec: str


@st.composite
def mos(draw: st.DrawFn) -> Any:
    """An MO, of which fields may be missing, or others."""
    said: dict[str, Any] = {
        "message_id": draw(st.uuids()).hex,
        "sender": draw(NUMBERS),
        "recipient": "36111",
        "text": draw(st.sampled_from(["STOP", "Bonjour"]) | st.text(max_size=40)),
        "sent_at": draw(st.sampled_from(TIMES) | st.none()),
        "part": draw(st.none() | st.just({"reference": "2a", "number": draw(st.integers(-1, 3)), "total": 2})),
    }
    return _changed(draw, said)


@st.composite
def receipts(draw: st.DrawFn) -> Any:
    said: dict[str, Any] = {
        "message_id": draw(st.uuids()).hex,
        "state": draw(st.sampled_from(["delivered", "failed", "opted_out", "arrived"])),
        "reference": draw(st.none() | st.uuids().map(str) | st.text(max_size=30)),
        "code": draw(st.none() | st.just("23") | st.text(max_size=30)),
        "at": draw(st.sampled_from(TIMES) | st.none()),
        "blocked": draw(st.booleans()),
    }
    return _changed(draw, said)


def _changed(draw: st.DrawFn, said: dict[str, Any]) -> dict[str, Any]:
    for name in draw(st.just([]) | st.lists(st.sampled_from(sorted(said)), max_size=2)):
        if draw(st.booleans()):
            said.pop(name, None)
        else:
            said[name] = draw(ANY_JSON)
    return said


@st.composite
def enveloped(draw: st.DrawFn, events: st.SearchStrategy[Any]) -> Any:
    """A CloudEvent in structured mode, of which attributes may be missing, or others."""
    event = draw(events)
    text = json.dumps(event)
    said: dict[str, Any] = {"specversion": draw(st.sampled_from(["1.0", "0.3"])), "type": draw(st.sampled_from(TYPES))}
    said |= draw(
        st.sampled_from(
            [
                {"data": event},
                {"data": text},
                {"data_base64": base64.b64encode(text.encode()).decode()},
                {"data": base64.b64encode(text.encode()).decode(), "datacontentencoding": "base64"},
                {"data_base64": text},
                {"data": [event]},
                {},
            ]
        )
    )
    return _changed(draw, said)


@st.composite
def values(draw: st.DrawFn, events: st.SearchStrategy[Any]) -> bytes | None:
    """The bytes of an event: whole, cut, framed, in any encoding, changed in places, or others."""
    if draw(st.booleans()):
        return json.dumps(draw(events)).encode()
    made = draw(events | enveloped(events) | ANY_JSON | st.just(...))
    if made is ...:
        return draw(
            st.none()
            | st.binary(max_size=200)
            | NUMBERS.map(lambda who: f"from={who}&text=STOP".encode())
            | NUMBERS.map(lambda who: b'{"sender":"%s","x":' % who.encode() + b"[" * 5000)
            | NUMBERS.map(lambda who: json.dumps({"sender": who, "text": "x" * 300_000}).encode())
        )
    text = json.dumps(made, ensure_ascii=draw(st.booleans()))
    raw = bytearray(text.encode(draw(st.sampled_from(ENCODINGS)), "replace"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 0, 1, 3]))):
        if raw:
            raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.sampled_from([None] * 8 + [1, 0.5]))
    whole = bytes(raw) if cut is None else bytes(raw[: -int(cut * len(raw)) or None])
    return draw(st.sampled_from([b"", b"", b"", b"", b"", b"", b"\x00\x00\x00\x00\x07", b" ", b"\xff"])) + whole


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(HEADER_NAMES) | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
        st.none() | st.sampled_from([*TYPES, *MEDIA, "1"]).map(str.encode) | st.binary(max_size=30),
    ),
    max_size=5,
)


@st.composite
def records(draw: st.DrawFn) -> Record:
    topic = draw(st.sampled_from([MESSAGES, MESSAGES, RECEIPTS]))
    typed: Headers = [("ce_type", topic.events[0].type.encode())]
    return Record(
        topic,
        draw(st.none() | st.binary(max_size=20) | NUMBERS.map(str.encode)),
        draw(values(mos() if topic is MESSAGES else receipts())),
        draw(st.sampled_from([typed, typed, []]) | HEADERS.map(lambda drawn: [*drawn])),
        draw(st.sampled_from(CODECS)),
    )


class Edge:
    """The topics of one operator, and what inbound-svc makes of them."""

    def __init__(self, surroundings: Surroundings, inbound: Fuzzed) -> None:
        told = {"bootstrap.servers": surroundings.broker.bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0}
        self.producers = {codec: Producer(told | {"compression.type": codec}) for codec in CODECS}
        self.surroundings = surroundings
        self.inbound = inbound
        self.ends = Counter[str]()  # records written, by topic
        self.became = Counter[str]()

    def look(self, batch: Sequence[Record]) -> None:
        """Write the records, and look what became of each."""
        offsets = self._write(batch)
        asyncio.run(self._became(list(zip(offsets, batch, strict=True))))
        assert self.inbound.ask(Asked("GET", b"/livez")).status == 200

    def _write(self, batch: Sequence[Record]) -> list[int]:
        """Write the records, those of a codec together. Return the offset of each."""
        offsets: dict[int, int] = {}
        for place, record in enumerate(batch):
            self.producers[record.codec].produce(
                f"{self.surroundings.unique}.{record.topic.name}",
                record.value,
                record.key,
                partition=0,
                headers=record.headers,
                on_delivery=partial(_note, offsets, place),
            )
        assert [producer.flush(60) for producer in self.producers.values()] == [0] * len(CODECS)
        for topic in (MESSAGES, RECEIPTS):
            found = sorted(offsets[place] for place, record in enumerate(batch) if record.topic is topic)
            assert found == [self.ends[topic.name] + n for n in range(len(found))], "each record is in the log"
            self.ends[topic.name] += len(found)
        return [offsets[place] for place in range(len(batch))]

    async def _became(self, batch: Sequence[tuple[int, Record]]) -> None:
        async with self.surroundings.sql("inbound") as sql:

            async def all_read() -> bool:
                rows = await sql.fetch("SELECT topic, next_offset FROM consumer_offset WHERE topic LIKE 'operator.%'")
                read = {row["topic"]: row["next_offset"] for row in rows}
                assert all(read.get(topic, 0) == end for topic, end in self.ends.items()), (read, self.ends)
                return True

            await eventually(all_read, within_s=60)
            dead = {
                (row["topic"], row["at_offset"]): row["reason"]
                for row in await sql.fetch("SELECT topic, at_offset, reason FROM dead_letter WHERE partition = 0")
            }
            held: dict[int, set[str]] = {}
            for row in await sql.fetch(
                "SELECT provider_message_id AS name, subject_id FROM callback_item"
                " WHERE provider_message_id LIKE 'unreadable-0-%' AND intent = 'review'"
            ):
                held.setdefault(int(row["name"].split("-")[2]), set()).add(row["subject_id"])
            mos = {row[0] for row in await sql.fetch("SELECT provider_message_id FROM callback_item")}
            dlrs = {row[0] for row in await sql.fetch("SELECT id FROM receipt")}
        for offset, record in batch:
            reason = dead.get((record.topic.name, offset))
            if reason is None:
                kind = "messages" if record.topic is MESSAGES else "receipts"
                named = ids_in(record.value)
                found = bool(named & mos) if record.topic is MESSAGES else any(dlrs & dlrs_of(each) for each in named)
                assert found, f"read, and not kept: offset {offset} of {sorted(dead)}, {record}"
                self.became[f"{kind} kept"] += 1
                continue
            assert reason, f"no reason: {record}"
            assert not FOUND.search(reason.encode())
            self.became["dead letters"] += 1
            if record.topic is MESSAGES and (people := people_in(record)):
                who = held.get(offset, set())
                assert who, f"nobody is held for {record}: {reason}"
                value = (record.value or b"").replace(b"\0", b"")
                names_a_sender = b"sender" in value or b"base64" in value  # whom the field names is held
                assert names_a_sender or people & who, record
                self.became["people held"] += len(who)


def _note(offsets: dict[int, int], place: int, error: Any, message: Any) -> None:
    assert error is None
    offsets[place] = message.offset()


def dlrs_of(message_id: str) -> set[UUID]:
    """Return the ids in the journal of every DLR that a message may have."""
    origin = Origin(PROVIDER, "orange", "receipts")
    return {UUID(bytes=receipt_id(origin, (message_id, state))) for state in get_args(ReceiptState)}


def ids_in(value: bytes | None) -> set[str]:
    """Return each `message_id` in a value, and each MO that it may repeat, also of events within texts and base64."""
    found = set()
    waiting: list[object] = [value]
    while waiting:
        match waiting.pop():
            case bytes() as raw:
                waiting.append(_parsed(raw.removeprefix(b"\xef\xbb\xbf")))
            case str() as text:
                waiting += [_parsed(text.encode(errors="replace")), _parsed(_unpacked(text))]
            case dict() as said:
                found |= {name for key in ("message_id", "repeats") if isinstance(name := said.get(key), str)}
                waiting += said.values()
            case list() as items:
                waiting += items
    return found


def _parsed(raw: bytes) -> object:
    try:
        try:
            made = json.loads(raw)
        except UnicodeDecodeError:  # a field without a meaning is skipped unread
            made = json.loads(raw.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return made if isinstance(made, dict | list) else None


def _unpacked(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def people_in(record: Record) -> set[str]:
    """Return the people whose numbers are in the record in clear: as ASCII in its value, or as its key."""
    whole = [record.key] if record.key and FOUND.fullmatch(record.key) else []
    inside: Iterator[bytes] = (match[0] for match in FOUND.finditer(record.value or b""))
    numbers = {number(n): subject(n) for n in range(PEOPLE)}
    return {numbers[told.decode()] for told in [*whole, *inside] if told.decode() in numbers}


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of a failing batch; the assertion names the record
@pytest.mark.timeout(FUZZ_SECONDS + LOADED_S)
async def test_whatever_an_operator_writes_is_read_or_listed_and_holds_its_person(
    surroundings: Surroundings, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"kafka_operators": ("orange",), "partitions": 1}
    settings = Settings(**await surroundings.settings("inbound", **more))
    for topic in (MESSAGES, RECEIPTS):
        await ensured(settings, topic)
    async with fuzzed(surroundings, "inbound", tmp_path, **more) as inbound:
        edge = Edge(surroundings, inbound)
        batches = st.lists(records(), min_size=30, max_size=60)
        await fuzz("inbound-svc", inbound, Check(batches, edge.look, 2, shrinks=False))
        print(f"{sum(edge.ends.values())} records: {dict(edge.became)}")  # noqa: T201
        assert all(edge.became[each] for each in ("messages kept", "receipts kept", "dead letters", "people held"))
        assert inbound.ask(Asked("GET", b"/readyz")).status == 200
        log = inbound.log.read_text()
        assert '"error": ' not in log, inbound.last_error()
        assert "3363998" not in log
