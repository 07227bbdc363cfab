"""Take a callback with the least work: a Starlette endpoint that inserts a row and produces a record.

The endpoint answers once Postgres has committed and Kafka has acknowledged, without checks and encryption.

    python -m bench.bare_callback PORT DSN BOOTSTRAP IDEMPOTENT PARTITIONS
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import uvicorn
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TOPIC = "bench.bare.v1"
CONNECTIONS = 20  # a service's pool


def app(dsn: str, bootstrap: str, idempotent: bool, partitions: int) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, object]]:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(TOPIC, partitions, 1)])
        await admin.close()
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=idempotent, max_batch_size=1_000_000
        )
        async with asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool, producer:
            await pool.execute("CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, body bytea NOT NULL)")
            yield {"pool": pool, "producer": producer}

    async def callback(request: Request) -> Response:
        body, name = await request.body(), uuid4()
        await request.state.pool.execute("INSERT INTO bare (id, body) VALUES ($1, $2)", name, body)
        await request.state.producer.send_and_wait(TOPIC, body, key=name.bytes)
        return Response(b'{"status":"ok"}', media_type="application/json")

    async def ready(request: Request) -> Response:
        return Response(b"ok")

    routes = [Route("/callback", callback, methods=["POST"]), Route("/readyz", ready)]
    return Starlette(routes=routes, lifespan=lifespan)


if __name__ == "__main__":
    _, port, dsn, bootstrap, idempotent, partitions = sys.argv
    bare = app(dsn, bootstrap, idempotent == "True", int(partitions))
    uvicorn.run(bare, port=int(port), log_level="warning", access_log=False, timeout_keep_alive=620)
