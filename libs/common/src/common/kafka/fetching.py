"""Fetches of consumers: how long they wait, and their requests and answers as bytes.

A service fetches day and night, and most answers bring no record. aiokafka packs and unpacks each number by calls of
its own, and a fetch of twelve partitions has two hundred numbers. Other versions of the request stay aiokafka's.
"""

import struct
import time
from dataclasses import dataclass
from io import BytesIO
from itertools import starmap
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v11, FetchResponse_v11

from common.kafka.subscription import AWAKE_MS, CALM_MS, CALM_S, IDLE_MS, POLL_MS, Subscription

GATHERED_BYTES = 256 * 1024  # of an answer that waits for more records: enough for a batch
MOST_DOUBLED = 8  # times: beyond any longest wait

_HEADER = struct.Struct(">hhih")  # API key, version, correlation id, length of the client's id
_CORRELATION = struct.Struct(">i")
# replica, longest wait, fewest and most bytes, isolation level, session and its epoch, count of topics
_REQUEST = struct.Struct(">iiiibiii")
_LENGTH, _COUNT = struct.Struct(">h"), struct.Struct(">i")
_PARTITION = struct.Struct(">iiqqi")  # number, leader's epoch, offset, start of the log, most bytes
_ANSWER = struct.Struct(">ihii")  # throttle time, error, session, count of topics
_ABOUT = struct.Struct(">ihqqqi")  # number, error, high watermark, last stable offset, start, count of the aborted
_ABORTED = struct.Struct(">qq")
_RECORDS = struct.Struct(">ii")  # preferred replica, length of the records

Partition = tuple[int, int, int, int, int, list[tuple[int, ...]] | None, int, bytes | None]


class Wait(NamedTuple):
    """The longest wait of a fetch, unless the broker has so many bytes before."""

    ms: int
    fewest_bytes: int = 1


@dataclass(slots=True)
class Pace:
    """The waits of a subscription's fetches: each costs the broker, and us, more than most records.

    `ends_waits`: the broker ends the wait when a record arrives. Without, the wait doubles with each empty answer, up
    to AWAKE_MS. A topic is calm after CALM_S without a record. Records gather after an answer with records only: one
    after a pause is answered at once.
    """

    subscription: Subscription
    ends_waits: bool
    _awake_until: float | None = None
    _empty: int = -1  # answers in a row; the first fetch follows none

    def following(self, now: float, *, any_records: bool) -> Wait:
        """Return the wait of the fetch that follows an answer, or of the first."""
        if any_records or self._awake_until is None:
            self._awake_until = now + CALM_S
        self._empty = 0 if any_records else min(self._empty + 1, MOST_DOUBLED)
        is_calm, wait_ms = now > self._awake_until, self.subscription.wait_ms
        gathered_ms = round(self.subscription.gather_s * 1000) if any_records else 0
        if wait_ms < POLL_MS:  # an urgent topic
            return Wait(IDLE_MS if self.ends_waits else wait_ms)
        if not self.ends_waits:
            awake_ms = gathered_ms or min(wait_ms << self._empty, AWAKE_MS)
            return Wait(max(IDLE_MS if is_calm else awake_ms, wait_ms))
        if is_calm:
            return Wait(CALM_MS)
        return Wait(gathered_ms, GATHERED_BYTES) if gathered_ms else Wait(IDLE_MS)


class Header(NamedTuple):
    """The header of a request or an answer. `client_id`: of a request."""

    correlation_id: int
    client_id: str = ""

    def encode(self) -> bytes:
        client = self.client_id.encode()
        key, version = FetchRequest_v11.API_KEY, FetchRequest_v11.API_VERSION
        return _HEADER.pack(key, version, self.correlation_id, len(client)) + client


class FetchResponse(FetchResponse_v11):  # type: ignore[misc]
    """An answer of version 11."""

    @classmethod
    def decode(cls, data: BytesIO | bytes) -> Self:
        """Return the answer. Raises ValueError for too few bytes."""
        content, at = (data, 0) if isinstance(data, bytes) else (data.getvalue(), data.tell())
        try:
            return cls(*_decoded(content, at))
        except struct.error as error:
            raise ValueError("the answer of a fetch is too short") from error


class Fetch(FetchRequest_v11):  # type: ignore[misc]
    """A request of version 11."""

    RESPONSE_TYPE = FetchResponse

    def build_request_header(self, correlation_id: int, client_id: str) -> Header:
        return Header(correlation_id, client_id)

    def parse_response_header(self, read_buffer: BytesIO | bytes) -> Header:
        buffer = BytesIO(read_buffer) if isinstance(read_buffer, bytes) else read_buffer
        return Header(*_CORRELATION.unpack(buffer.read(_CORRELATION.size)))

    def encode(self) -> bytes:
        """Return the request's bytes. aiokafka uses no sessions, so the request forgets no topic."""
        told = [
            _REQUEST.pack(
                self.replica_id,
                self.max_wait_time,
                self.min_bytes,
                self.max_bytes,
                self.isolation_level,
                self.session_id,
                self.session_epoch,
                len(self.topics),
            )
        ]
        for topic, partitions in self.topics:
            told.append(_text(topic))
            told.append(_COUNT.pack(len(partitions)))
            told.extend(starmap(_PARTITION.pack, partitions))
        told.append(_COUNT.pack(0))
        told.append(_text(self.rack_id))
        return b"".join(told)


def hasten() -> None:
    """Make every consumer of the process fetch by these classes, where the broker knows version 11."""
    FetchRequest._CLASSES = (*(each for each in FetchRequest._CLASSES if not issubclass(each, FetchRequest_v11)), Fetch)


def keep_pace(client: AIOKafkaConsumer, pace: Pace) -> None:
    """Have each answer set the wait of the next fetch, for which aiokafka has no setter.

    The next fetch begins before a read returns the records of this one. The request is sent by the method of the
    client's class, so what replaces that method later still counts.
    """
    inner = client._client

    async def paced(node_id: int, request: Any, *, group: Any = ConnectionGroup.DEFAULT) -> Any:
        answer = await type(inner).send(inner, node_id, request, group=group)
        if isinstance(request, FetchRequest) and client._fetcher is not None:
            wait = pace.following(time.monotonic(), any_records=_brings_records(answer))
            client._fetcher._fetch_max_wait_ms, client._fetcher._fetch_min_bytes = wait
        return answer

    inner.send = paced


def _brings_records(answer: Any) -> bool:
    return any(partition[-1] for _, partitions in answer.topics for partition in partitions)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _LENGTH.pack(len(encoded)) + encoded


def _decoded(content: bytes, at: int) -> tuple[int, int, int, list[tuple[str, list[Partition]]]]:
    """Return the fields of an answer. Raises struct.error, ValueError."""
    throttle, error, session, many = _ANSWER.unpack_from(content, at)
    at += _ANSWER.size
    topics = []
    for _ in range(many):
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        name = _taken(content, at, length).decode()
        at += length
        (partitions,) = _COUNT.unpack_from(content, at)
        at += _COUNT.size
        found: list[Partition] = []
        for _ in range(partitions):
            *about, aborted = _ABOUT.unpack_from(content, at)
            at += _ABOUT.size
            transactions = (
                None
                if aborted < 0
                else [_ABORTED.unpack_from(content, at + place * _ABORTED.size) for place in range(aborted)]
            )
            at += max(0, aborted) * _ABORTED.size
            replica, length = _RECORDS.unpack_from(content, at)
            at += _RECORDS.size
            found.append((*about, transactions, replica, None if length < 0 else _taken(content, at, length)))
            at += max(0, length)
        topics.append((name, found))
    return throttle, error, session, topics


def _taken(content: bytes, at: int, length: int) -> bytes:
    """Return so many bytes. Raises ValueError for too few."""
    taken = content[at : at + length]
    if len(taken) != length:
        raise ValueError("the answer of a fetch is too short")
    return taken
