"""Assemble a service from settings, routes, subscriptions and workers; roles choose the running parts.

    api          the routes
    worker       the subscriptions and the timers
    projection   work that must never wait for the worker role
    relay        outbox to Kafka

Every role answers /livez, /readyz and
/metrics. A worker that raises ends the process, for the platform to restart.
"""

import asyncio
import logging
import os
import platform
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from typing import Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.routing import iter_route_contexts
from fastapi.telemetry import TelemetryConfig
from sqlalchemy import Column, MetaData, select
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.audit import api as audit
from common.audit.accounting import Accounting, count_refusal
from common.audit.writer import AuditWriters
from common.contracts import TOPICS, Topic
from common.db.allowances import Allowances
from common.db.database import Database, fetch_many
from common.db.notify import either
from common.db.shards import OtherShard, Shard, Shards
from common.db.timer import Worker
from common.kafka import broker as kafka
from common.kafka import dead_letters, publisher_keys
from common.kafka.consumer import Consumer
from common.kafka.outbox import Ceiling, Relay
from common.kafka.relayed import Relayed
from common.kafka.retrying import Retrying
from common.kafka.subscription import Subscription
from common.keyring import FieldKeys, LinkKeys, OtherKey, SubjectKeys, fingerprints
from common.privacy.moving import MOVING, marked
from common.privacy.resealing import Sealed
from common.settings import ServiceSettings
from common.telemetry import continue_trace, exposed, gauge, tracing
from common.telemetry.tracing import NOTHING
from common.web import problems
from common.web.auth import Authenticator
from common.web.auth.organisations import of_shards
from common.web.edge.bodies import Bodies, Memory
from common.web.edge.ports import OF_HEALTH, OPENAPI, Apart
from common.web.edge.quick import Quick, completed
from common.web.edge_id import EdgeIds
from common.web.measured import Measured, method_of, route_of
from common.web.openapi import App, catalogue
from common.web.prefix import Prefixed
from common.web.problems import MethodNotAllowed, NotFound
from common.web.query import only_known_parameters
from common.web.streaming import BODILESS

log = logging.getLogger(__name__)

BUILD = gauge("sms_build_info", "The version of the code and of Python; always 1.", ["service", "version", "python"])

S = TypeVar("S", bound=ServiceSettings)

NO_TELEMETRY: TelemetryConfig = {  # FastAPI's costs time per request; Placet has its own
    "tracing": False,
    "metrics": False,
    "logs": False,
}
KEYS_SEEN_WITHIN_S = 5.0
SEEN = 100  # rows at an end of an index: enough for some numbers to decrypt
READY_FAILING_S = 60.0  # a consumer failing for longer makes the service not ready
READY_STALLED_S = 10.0  # the same for a stalled partition; a change of leader takes less


@dataclass(frozen=True, slots=True)
class Resources(Generic[S]):
    """The resources of a running service.

    `database`, `relayed`: of the own shard, where the service has several, or of the shard asked for by `of_shard`.
    """

    settings: S
    database: Database
    shards: Shards
    subject_keys: SubjectKeys
    edge_ids: EdgeIds
    field_keys: FieldKeys
    link_keys: LinkKeys
    relayed: Relayed
    allowances: Allowances
    relayed_by: Mapping[str, Relayed] = field(default_factory=dict)

    def of_shard(self, shard: Shard) -> "Resources[S]":
        """Return the resources with the database of a shard."""
        if shard.database is self.database:
            return self
        return replace(self, database=shard.database, relayed=self.relayed_by[shard.name])

    def shard_of(self, key: str) -> Shard:
        """Return the shard whose places hold this key: of a person, the subject id; of an organisation, its own id."""
        return self.shards.of(kafka.partition_of(key, self.settings.places))

    def database_of(self, subject_id: str) -> Database:
        """Return the database that holds the person."""
        return self.shard_of(subject_id).database


@dataclass(frozen=True, slots=True)
class Background:
    """The background work of a role."""

    subscriptions: Sequence[Subscription] = ()
    workers: Sequence[Worker] = ()
    close: Callable[[], Awaitable[None]] | None = None


Check = Callable[[Resources[Any]], Awaitable[str | None]]  # the reason for not being ready


@dataclass(frozen=True, slots=True)
class Service(Generic[S]):
    """The description of a service.

    `about`: a sentence for its OpenAPI document. `name`: as imported, and in the topic table. `body_limits`: maximum
    bytes of a body by path, for the path and all below, or only below a final `/`; `None`: the route itself counts.
    `subject_ids`: columns of subject ids, whose key is checked before any worker runs, each with the first column of an
    index. The check reads the ends of the index: with another key, a first start finds no id of its own.
    `sealed`: every column with fields encrypted by the field keys.
    """

    name: str
    settings: S
    metadata: MetaData
    about: str = ""
    subject_ids: Mapping[Column[Any], Column[Any]] = field(default_factory=dict)
    sealed: Sequence[Sealed] = ()
    routers: Sequence[APIRouter] = ()
    background: Callable[[Resources[S]], Background] = lambda _: Background()  # of the worker role
    projection: Callable[[Resources[S]], Background] = lambda _: Background()  # of the projection role
    ceiling: Ceiling | None = None
    admitted: Callable[[Resources[S]], Awaitable[None]] | None = None  # raises OtherShard
    published: str = ""  # see `Relayed`
    checks: Sequence[Check] = ()
    remarks: Sequence[Check] = ()  # warnings shown by /readyz; the service stays ready
    body_limits: Mapping[str, int | None] = field(default_factory=dict)
    quick: Sequence[Route] = ()  # raw routes, matched before FastAPI: high-volume callbacks
    more_topics: Sequence[Topic] = ()  # of operators
    senders_arrive_within_s: float = 0.0  # how long a call waits for a sender registered a moment ago
    senders_are_copied: bool = False  # between shards, ahead of a change that may fail

    @property
    def topics(self) -> list[Topic]:
        """Return the topics published or read by the service."""
        mine = (t for t in TOPICS if self.name in (t.owner, *t.consumers, *t.publishers))
        return [*mine, *self.more_topics]

    @property
    def watermarked(self) -> list[Topic]:
        return [t for t in TOPICS if t.owner == self.name and t.watermarked]


@dataclass(slots=True)
class _Running:
    """The background work, for /readyz."""

    audit: AuditWriters | None = None  # of the role api
    consumers: list[Consumer] = field(default_factory=list)
    relay: Relay | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    topics_ready: bool = False
    keys_seen: bool = False

    def remarks(self) -> list[str]:
        """Return what waits while partitions are added; the service stays ready."""
        told = [consumer.batches.parents.waiting for consumer in self.consumers]
        if self.relay is not None and self.relay.widens.why is not None:
            told.append(f"no partitions are added for work yet: {self.relay.widens.why}")
        return [remark for remark in told if remark is not None]

    def not_ready(self) -> list[str]:
        why = [f"{c.name} has no partitions yet" for c in self.consumers if not c.assigned.is_set()]
        why += [f"{c.name} has failed for {c.failing_s:.0f} s" for c in self.consumers if c.failing_s > READY_FAILING_S]
        why += [str(broken) for consumer in self.consumers for broken in consumer.broken]
        why += [f"{c.name}: {line}" for c in self.consumers for line in c.stalls(READY_STALLED_S)]
        why += [c.keys_differ for c in self.consumers if c.keys_differ is not None]
        if self.consumers and (codecs := kafka.missing_codecs()):
            why.append(
                f"this process cannot read records compressed with {', '.join(codecs)}, and a producer may choose any"
                " codec: install aiokafka[lz4,snappy,zstd] in its image"
            )
        why += [f"{task.get_name()} has ended" for task in self.tasks if task.done()]
        if not self.topics_ready:
            why.append("topics are not there yet")
        if not self.keys_seen:
            why.append("whose key the stored subject ids carry has not been seen yet")
        return why


async def resources(request: Request) -> Any:
    """Return the Resources (FastAPI dependency). FastAPI calls a synchronous function in another thread."""
    return request.state.resources


def create_app(service: Service[S]) -> FastAPI:
    """Return the ASGI app of a service with the roles of its settings."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, object]]:
        async with running(service) as (held, state), Authenticator(service.settings).kept() as authenticator:
            shard_of = held.shard_of if held.shards.divided and not service.settings.people_are_divided else None
            yield {
                "resources": held,
                "running": state,
                "audit": state.audit,
                "authenticator": authenticator,
                "organisations": of_shards(
                    held.shards, shard_of, service.senders_arrive_within_s, copied=service.senders_are_copied
                ),
            }

    app = App(
        title=f"Placet {service.name}-svc",
        version="1",
        description=f"{service.about} Errors are problems (RFC 9457); the page of each is at its `type`.",
        contact={"name": "The operator of the platform"},
        license_info={"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/", "description": "The service that serves this document."}],
        openapi_url=OPENAPI if service.settings.docs else None,
        docs_url=None,  # a page whose scripts come from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # the redirect would name the host that the caller named
        lifespan=lifespan,
        telemetry=NO_TELEMETRY,
    )
    problems.install(app)
    app.add_exception_handler(MethodNotAllowed.status, _refusing_methods(app, service.quick))
    app.include_router(_health(service))
    if "api" in service.settings.roles:
        app.include_router(catalogue.router)
        for router in (*service.routers, dead_letters.router, audit.router):
            app.include_router(router, dependencies=[Depends(only_known_parameters)] if _described(router) else [])
    app.add_middleware(_Head, routes=app.router.routes, callbacks=service.quick)
    memory = Memory(service.settings.bodies_bytes)
    app.add_middleware(Bodies, limits=service.body_limits, memory=memory)
    if "api" in service.settings.roles:
        app.add_middleware(Accounting)
    app.add_middleware(_Nameless)
    if service.settings.health_port is not None:
        app.add_middleware(Apart, health_port=service.settings.health_port)
    app.add_middleware(_Trace, service=service.name)
    app.add_middleware(Measured)
    app.add_middleware(Prefixed)
    if "api" in service.settings.roles and service.quick:
        app.put_around(
            partial(
                Quick,
                service=service.name,
                routes=service.quick,
                limits=service.body_limits,
                memory=memory,
                refused=count_refusal,
                health_port=service.settings.health_port,
            )
        )
    BUILD.labels(service.name, metadata.version("common"), platform.python_version()).set(1)
    return app


def _described(router: APIRouter) -> bool:
    """Return whether the routes are of the API: a link that people open may carry any parameter."""
    return router.include_in_schema


@asynccontextmanager
async def running(service: Service[S]) -> AsyncIterator[tuple[Resources[S], _Running]]:
    """Open the resources and run the workers of the roles; drain them on leaving."""
    settings = service.settings
    shards = Shards.opened(settings, service.name)
    database = shards.own.database
    subject_keys = SubjectKeys(settings.subject_keys)
    relayed_by = {shard.name: Relayed(shard.database, service.published) for shard in shards.each}
    held = Resources(
        settings=settings,
        database=database,
        shards=shards,
        subject_keys=subject_keys,
        edge_ids=EdgeIds(settings.subject_keys),
        field_keys=FieldKeys(settings.field_keys, subject_keys),
        link_keys=LinkKeys(settings.link_keys or settings.field_keys, subject_keys),
        relayed=relayed_by[shards.own.name],
        allowances=Allowances(Database(settings.first_url, pool_size=1, name=service.name)),
        relayed_by=relayed_by,
    )
    database.show_pool()
    state = _Running()
    parts: list[Background] = []
    workers: list[Worker] = [held.allowances.worker(), Worker("shards", shards.watched)]
    subscriptions: list[Subscription] = []
    if "api" in settings.roles:
        by_owner = shards.divided and not settings.people_are_divided
        state.audit = AuditWriters(shards, held.shard_of if by_owner else None)
        workers.append(Worker("audit", state.audit.run))
        if service.published:
            workers += [Worker(f"relayed {name}".rstrip(), each.run) for name, each in relayed_by.items()]
    if "projection" in settings.roles:
        parts.append(service.projection(held))
    if "worker" in settings.roles:
        parts.append(service.background(held))
    for part in parts:
        subscriptions += part.subscriptions
        workers += part.workers
    if subscriptions:
        state.consumers = [Consumer(s, database, settings) for s in subscriptions]
        workers += [Worker(c.name, c.run) for c in state.consumers]
        retrying = Retrying(database, settings, subscriptions).timer()
        workers.append(Worker(retrying.name, retrying.run))
    if "relay" in settings.roles:
        published = held.relayed.published if service.published else None
        state.relay = Relay(service.name, database, settings, service.watermarked, service.ceiling, published)
        workers.append(Worker("relay", state.relay.run))
    stop = asyncio.Event()
    needs_topics = bool(settings.roles & {"worker", "projection", "relay"})
    state.topics_ready = not needs_topics
    try:
        state.keys_seen = await _keys_are_those_stored(service, held)
    except (OtherKey, OtherShard):
        await held.allowances.close()
        await shards.close()
        raise

    async def run(worker: Worker) -> None:
        await keys_seen.wait()
        if needs_topics:
            await topics_ready.wait()
        if not stop.is_set():
            await worker.run(stop)

    async def prepare_topics() -> None:
        while not stop.is_set():
            try:
                await kafka.ensure_topics(settings, service.topics)
            except kafka.WrongTopic:
                raise
            except Exception as error:
                log.warning("the topics do not exist yet", extra={"why": type(error).__name__})
                await either(stop, None, 0.5)
                continue
            state.topics_ready = True
            topics_ready.set()
            return
        topics_ready.set()

    async def see_keys() -> None:
        while not (stop.is_set() or state.keys_seen):
            await either(stop, None, 0.5)
            state.keys_seen = await _keys_are_those_stored(service, held)
        keys_seen.set()

    topics_ready, keys_seen = asyncio.Event(), asyncio.Event()
    state.tasks = [asyncio.create_task(run(w), name=w.name) for w in workers]
    preparing = [asyncio.create_task(see_keys(), name="keys")]
    if needs_topics:
        preparing.append(asyncio.create_task(prepare_topics(), name="topics"))
    for task in [*state.tasks, *preparing]:
        task.add_done_callback(lambda t: _end_if_failed(t, stop))
    try:
        yield held, state
    finally:
        stop.set()
        topics_ready.set()
        keys_seen.set()
        everything = [*state.tasks, *preparing]
        _, late = await asyncio.wait(everything, timeout=settings.drain_s)
        for task in late:
            log.warning("a worker did not end in time", extra={"worker": task.get_name()})
            task.cancel()
        await asyncio.gather(*everything, return_exceptions=True)
        for part in parts:
            if part.close is not None:
                await part.close()
        if state.audit is not None:
            await state.audit.close()
        await held.allowances.close()
        await shards.close()


async def _keys_are_those_stored(service: Service[Any], held: Resources[Any]) -> bool:
    """Check that the database is of the own shard, and its subject ids of the current outer key, and tell the relay
    the keys. Raises OtherKey, OtherShard.

    Return False where the database does not answer or has no schema yet. Reads SEEN rows at the ends of each index. A
    process without keys makes no id.
    """
    try:
        if service.admitted is not None:
            async with asyncio.timeout(KEYS_SEEN_WITHIN_S):
                await service.admitted(held)
    except OtherShard:
        raise
    except Exception as error:
        log.warning("the partitions of the database could not be checked yet", extra={"why": type(error).__name__})
        return False
    if held.settings.keyless:
        return True
    try:
        async with asyncio.timeout(KEYS_SEEN_WITHIN_S), held.database.begin() as tx:
            [(free,)] = await fetch_many(tx, "SELECT pg_try_advisory_xact_lock_shared(hashtext($1))", MOVING)
            run = await marked(tx) if free else None
            if not free or (run is not None and not run.has_ended):
                raise OtherKey(
                    "`keys --subjects` moves the stored subject ids now, or has ended early: run the command to its"
                    " end, and start the service then (docs/runbook.md)"
                )
            ends = [
                [
                    named
                    for end in (index, index.desc())
                    for named in await tx.scalars(select(column).where(column.is_not(None)).order_by(end).limit(SEEN))
                ]
                for column, index in service.subject_ids.items()
            ]
            numbered = [  # from the end with the newest messages, as a rule: old ones have lost their numbers
                (await tx.execute(select(column, column.table.c.number).order_by(index.desc()).limit(SEEN))).all()
                for column, index in service.subject_ids.items()
                if "number" in column.table.c
            ]
    except OtherKey:
        raise
    except Exception as error:
        log.warning("the stored subject ids could not be checked yet", extra={"why": type(error).__name__})
        return False
    for rows in numbered:
        held.subject_keys.look_at_numbers([(named, sealed) for named, sealed in rows if sealed], held.field_keys)
    for stored in ends:
        if others := held.subject_keys.look_at(stored):
            log.error("some stored subject ids are of no key of the ring", extra={"keys": sorted(others)})
    try:
        async with asyncio.timeout(KEYS_SEEN_WITHIN_S), held.database.begin() as tx:
            await publisher_keys.tell(tx, fingerprints(held.settings.subject_keys))
    except Exception as error:
        log.warning("the subject keys could not be told to the relay yet", extra={"why": type(error).__name__})
        return False
    return True


def _end_if_failed(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    if task.cancelled() or stop.is_set():
        return
    if (error := task.exception()) is not None:
        log.critical("a worker ended: stopping", exc_info=error, extra={"worker": task.get_name()})
        os.kill(os.getpid(), signal.SIGTERM)


def _health(service: Service[S]) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/livez")
    async def livez() -> PlainTextResponse:
        return PlainTextResponse("ok\n")

    @router.get("/readyz")
    async def readyz(request: Request, held: Annotated[Any, Depends(resources)]) -> JSONResponse:
        why, remarks = request.state.running.not_ready(), request.state.running.remarks()
        if getattr(request.app.state, "leaving", False):
            why.append("it is stopping: no new requests should be sent here")
        try:
            async with asyncio.timeout(2):
                await held.database.ping()
                why += [reason for check in service.checks if (reason := await check(held)) is not None]
                remarks += [remark for look in service.remarks if (remark := await look(held)) is not None]
        except Exception as error:
            why.append(f"the database does not answer: {type(error).__name__}")
        return JSONResponse({"ready": not why, "why": why, "remarks": remarks}, status_code=503 if why else 200)

    @router.get("/metrics")
    async def metrics(request: Request) -> Response:
        content, kind = exposed(request.headers.get("accept", ""))
        return Response(content, media_type=kind)

    return router


class _Trace:
    """Middleware: continue or start a W3C trace, and name it in the answer.

    No cache keeps an answer, and no browser guesses its type, unless the route says so. The answer also has the limit
    of calls (`web/auth/rates.py`) and the end of the route (`web/deprecation.py`).
    """

    def __init__(self, app: ASGIApp, service: str) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parent = next((v for k, v in scope["headers"] if k == b"traceparent"), None)
        continues = continue_trace(parent.decode("latin-1") if parent else None)
        span = NOTHING
        if scope["path"] not in OF_HEALTH:
            span = tracing.request(self._service, method_of(scope), continues=continues)

        async def with_trace(message: Any) -> None:
            if message["type"] == "http.response.start":
                span.note("http.response.status_code", message["status"])
                message["headers"] = [
                    *completed(message.get("headers", [])),
                    *scope.get("state", {}).get("rate_limit", ()),
                    *scope.get("state", {}).get("deprecation", ()),
                ]
            await send(message)

        with span:
            await self._app(scope, receive, with_trace)
            span.note("http.route", route_of(scope))
            span.rename(f"{method_of(scope)} {route_of(scope)}")


class _Nameless:
    """Middleware: answer 404 to a path with a NUL, which Postgres refuses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = scope["type"] != "http" or "\x00" not in scope["path"]
        await (
            self._app
            if named
            else problems.answer(NotFound("a path holds no NUL byte: write the name as it was given"))
        )(scope, receive, send)


class _Head:
    """Middleware: answer HEAD as GET, without the body, where a route has no HEAD of its own.

    A stream ends with its headers: the server then tells the route that the caller has gone. Never for callbacks: a GET
    of an operator changes data.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], callbacks: Sequence[Route]) -> None:
        self._app = app
        self._routes = routes
        self._callbacks = callbacks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or _serves(self._routes, scope):
            await self._app(scope, receive, send)
            return
        as_get = {**scope, "method": "GET", BODILESS: True}
        if _serves(self._callbacks, as_get):
            await self._app(scope, receive, send)
            return

        ended = False

        async def without_body(message: Message) -> None:
            nonlocal ended
            if ended:
                return
            scope["route"] = as_get.get("route")
            if message["type"] == "http.response.body":
                ended, message = True, {"type": "http.response.body"}
            await send(message)

        await self._app(as_get, receive, without_body)


def _refusing_methods(app: FastAPI, callbacks: Sequence[Route]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return a handler that answers 405 with every method of the path: a route knows only its own."""

    async def refused(request: Request, error: Exception) -> Response:
        scope = dict(request.scope)
        serving = (each for each in iter_route_contexts(app.routes) if each.matches(dict(scope))[0] is not Match.NONE)
        taken = {method for each in serving for method in each.methods or ()}
        if "GET" in taken and not _serves(callbacks, {**scope, "method": "GET"}):
            taken.add("HEAD")
        told = "the path takes other methods: `Allow` names them"
        return problems.answer(MethodNotAllowed(told, headers={"Allow": ", ".join(sorted(taken))}))

    return refused


def _serves(routes: Sequence[BaseRoute], scope: Scope) -> bool:
    return any(route.matches(dict(scope))[0] is Match.FULL for route in routes)
