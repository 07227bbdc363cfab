"""One service in process, with its own database and its own topics: how the service tests run it."""

import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt

from common.service import Service, create_app
from common.web.server import server_of
from tests.support.declared import declared
from tests.support.eventually import eventually
from tests.support.infrastructure import Broker, Postgres

AUTH_KEY = "a key for tests only, thirty-two bytes or more"
ISSUER = "placet-tests"
ALL_SCOPES = (
    "sender:read sender:write sender:reopen consent:read consent:write contact:read contact:write"
    " campaign:read campaign:write campaign:approve campaign:rules campaign:trace"
    " message:send:transactional message:send:service message:send:marketing"
    " message:send:free_text message:send:override template:read template:write template:approve"
    " message:read message:write review:read review:write"
    " erasure:read erasure:write copy:read copy:write rectification:read rectification:write"
    " dead-letter:read dead-letter:write audit:read event:read webhook:read webhook:write platform:admin"
)
ORGANISATION = "tests"  # of every token and sender, unless a test names another
KEY_RING: dict[str, Any] = {"current": "t1", "keys": {"t1": base64.b64encode(b"t" * 32).decode()}}
OUTER_RING: dict[str, Any] = {"current": "t1", "keys": {"t1": base64.b64encode(b"o" * 32).decode()}}
SUBJECT_RING: dict[str, Any] = {"current": "h1", "keys": {"h1": KEY_RING["keys"]["t1"]}, "outer": OUTER_RING}
FRESH_FOR_S = 60.0  # a consent, in a test of something else: on a busy machine the watermarks come late
LIMITS = Path(__file__).with_name("limits.json")  # none
SIGNING_RING: dict[str, Any] = {"current": "p1", "keys": {"p1": base64.b64encode(b"p" * 32).decode()}}


def token(
    scope: str = ALL_SCOPES,
    senders: Any = "*",
    subject: str = "tester",
    organisation: str = ORGANISATION,
    **claims: Any,
) -> str:
    now = int(time.time())
    body = {
        "sub": subject,
        "organisation": organisation,
        "scope": scope,
        "senders": senders,
        "iss": ISSUER,
        "aud": ISSUER,
        "exp": now + 3600,
    }
    return jwt.encode({**body, **claims}, AUTH_KEY, algorithm="HS256")


def bearer(**claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(**claims)}"}


@dataclass(frozen=True)
class Surroundings:
    """What one test's services share: a broker, topics of their own, keys. `database`: a migrated one per service."""

    postgres: Postgres
    broker: Broker
    unique: str
    urls: dict[str, str] = field(default_factory=dict)
    partitions: int = 3

    async def database(self, service: str) -> str:
        """The url of `service`'s database in this test, made from its migrated template at the first call."""
        if service not in self.urls:
            self.urls[service] = await self.postgres.clone(service, f"{service}_{self.unique}")
        return self.urls[service]

    async def settings(self, service: str, **more: Any) -> dict[str, Any]:
        """The keyword arguments of the service's Settings class."""
        return {
            "database_url": await self.database(service),
            "kafka_bootstrap": self.broker.bootstrap,
            "kafka_idempotence": self.broker.idempotent,
            "kafka_groups": self.broker.groups,
            "kafka_replication": self.broker.replicas,
            "topic_prefix": f"{self.unique}.",
            "partitions": self.partitions,
            "subject_keys": SUBJECT_RING,
            "field_keys": KEY_RING,
            "development": True,
            "docs": True,
            "auth_key": AUTH_KEY,
            "auth_issuer": ISSUER,
            "auth_audience": ISSUER,
            "fictional_numbers": True,
            "limits": str(LIMITS),
            **({"signing_keys": SIGNING_RING} if service == "consent" else {}),
            **({"max_staleness_s": FRESH_FOR_S, "marketing_settle_s": 0.0} if service == "dispatch" else {}),
            "leave_s": 0.0,
            "drain_s": 10.0,
            **more,
        }

    @asynccontextmanager
    async def sql(self, service: str) -> AsyncIterator[asyncpg.Connection]:
        """A raw connection to the service's database, for looking at rows."""
        connection = await asyncpg.connect(await self.database(service))
        try:
            yield connection
        finally:
            await connection.close()


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Of a service that runs as a process with these settings."""
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PLACET_")}
    return {**inherited, **{f"PLACET_{name.upper()}": value for name, value in told.items()}}


CALLED = "api,relay"  # roles of a service that is only called: no consumers, no timers


@asynccontextmanager
async def running(service: Service[Any], headers: Mapping[str, str] | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """The service with the roles of its settings, in process; the client's token has every scope unless told."""
    app = create_app(service)
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        transport = httpx.ASGITransport(app=with_state, raise_app_exceptions=False)
        judges = [declared(service.name, app).judge] if _is_whole(service) else []
        async with httpx.AsyncClient(
            transport=transport,
            base_url="http://service",
            headers=bearer() if headers is None else headers,
            event_hooks={"response": judges},
        ) as client:
            yield client


def _is_whole(service: Service[Any]) -> bool:
    """Return whether the service is one of ours with its routes, and not a test's own."""
    return bool(service.about) and "api" in service.settings.roles


@asynccontextmanager
async def serving(service: Service[Any], at: socket.socket) -> AsyncIterator[None]:
    """The service on a socket that is bound already, for what needs real HTTP: a browser."""
    server = server_of(create_app(service), service.settings)
    task = asyncio.create_task(server.serve(sockets=[at]))

    async def started() -> bool:
        return server.started or task.done()

    try:
        await eventually(started)
        yield
    finally:
        server.should_exit = True
        await task
