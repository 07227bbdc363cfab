"""Dispatch with the least work, as a limit for dispatch-svc.

Consume some 5,000 requests, look up their consents by `= ANY($1)`, insert them in a statement, submit the allowed
messages 100 at a time, store the outcomes in another statement, publish a status each; three such batches at once. No
decryption, no law, no limits, no crash safety; an unknown subject is denied.

    python -m bench.bare_dispatch PORT DSN BOOTSTRAP IDEMPOTENT PARTITIONS OPERATOR_URL
"""

import asyncio
import gc
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

REQUESTS = "bench.bare-requests.v1"
MESSAGES = "bench.bare-messages.v1"
RECORDS = 60  # of some 80 requests
AT_ONCE = 3
PER_SUBMIT = 100
CONNECTIONS = 64


class _Request(msgspec.Struct):
    message_id: str
    subject_id: str
    number: str
    text: str


class _Requests(msgspec.Struct):
    requests: list[_Request]


class _Status(msgspec.Struct):
    message_id: str
    subject_id: str
    status: str
    gateway_message_id: str | None


class _Result(msgspec.Struct):
    reference: str
    id: str
    status: str


class _Results(msgspec.Struct):
    results: list[_Result]


_requests = msgspec.json.Decoder(_Requests)
_results = msgspec.json.Decoder(_Results)
_encoder = msgspec.json.Encoder()


class _Connection(asyncio.Protocol):
    """Sends a submit at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    async def post(self, body: bytes) -> bytes:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        head = f"POST /v1/submits HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, ended, rest = self._buffer.partition(b"\r\n\r\n")
        if ended and len(rest) >= int(head.rpartition(b"Content-Length: ")[2]):
            self._buffer = b""
            assert self._answer is not None
            self._answer.set_result(rest)


class _Bare:
    def __init__(self, pool: asyncpg.Pool, producer: AIOKafkaProducer, connections: Sequence[_Connection]) -> None:
        self._pool = pool
        self._producer = producer
        self._idle: asyncio.Queue[_Connection] = asyncio.Queue()
        for connection in connections:
            self._idle.put_nowait(connection)

    async def batch(self, records: Sequence[Any], partition: int) -> None:
        asked = [one for record in records for one in _requests.decode(record.value).requests]
        rows = await self._pool.fetch(
            "SELECT subject_id FROM consent WHERE subject_id = ANY($1::text[]) AND state = 'opted_in'",
            [one.subject_id for one in asked],
        )
        may = {row[0] for row in rows}
        await self._pool.execute(
            "INSERT INTO message (message_id, subject_id, number, text, status)"
            " SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) ON CONFLICT DO NOTHING",
            [one.message_id for one in asked],
            [one.subject_id for one in asked],
            [one.number for one in asked],
            [one.text for one in asked],
            ["sending" if one.subject_id in may else "denied" for one in asked],
        )
        allowed = [one for one in asked if one.subject_id in may]
        submitted = await asyncio.gather(
            *(self._submit(allowed[at : at + PER_SUBMIT]) for at in range(0, len(allowed), PER_SUBMIT))
        )
        results = {result.reference: result for some in submitted for result in some}
        if results:
            await self._pool.execute(
                "UPDATE message AS m SET status = v.status, gateway_message_id = v.id"
                " FROM unnest($1::uuid[], $2::text[], $3::text[]) AS v(message_id, status, id)"
                " WHERE m.message_id = v.message_id",
                list(results),
                [result.status for result in results.values()],
                [result.id for result in results.values()],
            )
        made, acks = self._producer.create_batch(), []
        for one in asked:
            result = results.get(one.message_id)
            told = _Status(
                one.message_id,
                one.subject_id,
                result.status if result else "denied",
                result.id if result else None,
            )
            record = {"key": one.subject_id.encode(), "value": _encoder.encode(told), "timestamp": None}
            if made.append(**record) is None:
                acks.append(await self._producer.send_batch(made, MESSAGES, partition=partition))
                made = self._producer.create_batch()
                made.append(**record)
        acks.append(await self._producer.send_batch(made, MESSAGES, partition=partition))
        await asyncio.gather(*acks)

    async def _submit(self, some: Sequence[_Request]) -> list[_Result]:
        body = {
            "messages": [
                {
                    "reference": one.message_id,
                    "to": one.number,
                    "from": "BANC",
                    "short_code": "36111",
                    "category": "marketing",
                    "text": one.text,
                }
                for one in some
            ]
        }
        connection = await self._idle.get()
        try:
            return _results.decode(await connection.post(_encoder.encode(body))).results
        finally:
            self._idle.put_nowait(connection)


async def _run(port: int, dsn: str, bootstrap: str, idempotent: bool, partitions: int, operator: str) -> None:
    loop, address = asyncio.get_running_loop(), urlsplit(operator)
    connections = [
        (await loop.create_connection(_Connection, str(address.hostname), address.port or 80))[1]
        for _ in range(CONNECTIONS)
    ]
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, auto_offset_reset="earliest", max_partition_fetch_bytes=4 * 1024 * 1024
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=idempotent, max_batch_size=1_000_000
    )
    async with consumer, producer, asyncpg.create_pool(dsn, min_size=AT_ONCE, max_size=AT_ONCE) as pool:
        everywhere = [TopicPartition(REQUESTS, partition) for partition in range(partitions)]
        consumer.assign(everywhere)
        for where in everywhere:
            consumer.seek(where, 0)
        bare, places = _Bare(pool, producer, connections), asyncio.Semaphore(AT_ONCE)
        going: dict[int, set[asyncio.Task[None]]] = defaultdict(set)

        async def batch(records: Sequence[Any], partition: int) -> None:
            try:
                await bare.batch(records, partition)
            finally:
                places.release()

        async def ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(ready, "127.0.0.1", port):
            gc.freeze()
            gc.set_threshold(50_000)
            while True:
                for where, records in (await consumer.getmany(timeout_ms=100, max_records=RECORDS)).items():
                    await places.acquire()
                    task = asyncio.create_task(batch(records, where.partition))
                    going[where.partition].add(task)
                    task.add_done_callback(going[where.partition].discard)


if __name__ == "__main__":
    _, port, dsn, bootstrap, idempotent, partitions, operator = sys.argv
    uvloop.run(_run(int(port), dsn, bootstrap, idempotent == "True", int(partitions), operator))
