"""Ask an operation with a token, and see all that a caller is told: status, headers, body, statements, changed rows.

An answer is compared without what is new in each (ids, instants, signatures), and without the names that the request
itself had or that tell one caller from another.
"""

import asyncio
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from tests.service.firewall.operations import Ask, Things
from tests.service.firewall.world import SERVICES, World, keyed
from tests.support.builders import subject

SHORTEST_NAME = 6  # a shorter value, such as a dead letter's number, stands in answers by chance
LONGEST_LOOP = 6  # statements
NEW_EACH_TIME = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[\d.]*(?:Z|[+-]\d\d:\d\d)"  # instants
    r"|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{24,}"
    r"|\b3[68]\d{3}\b|\blimited-\w|t1-[\w-]{20,}|eyJ[\w.-]+|/p/[\w-]+|/[sl]/[\w-]+"
    r"|\bt1\.[\w=-]{20,}|whsec_[\w+/=]+"
)
# a subject id may be of the caller's own controller, and the versions of consents are instants
NEW_FIELDS = re.compile(r'"(subject_id|trace_id|salt)":\s*"[^"]*"|"(version)":\s*\d{7,}')
MIXED = {  # lines stand in the order of ids, which are ciphertexts and hashes
    "GET /v1/campaigns/{campaign_id}/recipients",
    "GET /v1/campaigns/{campaign_id}/recipients.csv",
    "GET /v1/contacts",
    "POST /v1/contacts/search",
    "GET /v1/messages",
    "GET /v1/opt-outs",
    "GET /v1/opt-outs.csv",
    "POST /v1/messages/search",
    "POST /v1/timeline",
}
UNSAID = ("traceparent", "date", "content-length")  # the length is the masked names'

_statements: ContextVar[list[str] | None] = ContextVar("statements", default=None)


class Told(NamedTuple):
    """An answer, compared as a whole."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


@dataclass(frozen=True)
class Answer:
    """`raw`: the body as it came. `asked`: the request's own words."""

    told: Told
    statements: tuple[str, ...]
    raw: str
    asked: str
    seconds: float

    @property
    def problem(self) -> str:
        return str(json.loads(self.raw)["type"]) if self.told.status >= 400 and self.raw else ""


@dataclass(frozen=True)
class Asked:
    """An operation to be asked: `name` is "METHOD /path". `key`: the Idempotency-Key; "" where the route takes none."""

    service: str
    name: str
    ask: Ask
    key: str

    @property
    def method(self) -> str:
        return self.name.partition(" ")[0]

    def url(self) -> str:
        return self.name.partition(" ")[2].format_map(dict(self.ask.path))


def key_of(name: str, things: Things) -> str:
    """Return the key under which the owner of these things has made such a request."""
    return keyed(name, things)["Idempotency-Key"]


async def answer(world: World, asked: Asked, token: Mapping[str, str], *things: Things) -> Answer:
    """Ask, and mask the names of `things` in the answer."""
    ask = asked.ask
    headers = {**token, **ask.headers, **({"Idempotency-Key": asked.key} if asked.key else {})}
    sent: dict[str, Any] = {"params": ask.query, "headers": headers}
    sent |= {"content": ask.content} if ask.content is not None else {"json": ask.body}
    statements: list[str] = []
    before = _statements.set(statements)
    began = time.perf_counter()
    try:
        got = await world.clients[asked.service].request(asked.method, asked.url(), **sent)
    finally:
        _statements.reset(before)
    await asyncio.sleep(0)  # the driver tells of its statements a turn later
    seconds = time.perf_counter() - began
    told = Told(
        got.status_code,
        tuple(sorted((name, _masked(value, things)) for name, value in got.headers.items() if name not in UNSAID)),
        _in_any_order(_masked(got.text, things)) if asked.name in MIXED else _masked(got.text, things),
    )
    said = json.dumps([ask.path, ask.query, ask.body], default=str, ensure_ascii=False) + str(ask.content)
    known = " ".join(subject(int(one[-4:])) for one in {each.number for each in things})
    return Answer(told, tuple(_once(statements)), got.text, f"{said} {known}", seconds)


def _in_any_order(body: str) -> str:
    """Return the lines of a file, or the items of a list, sorted."""
    if not body.startswith("{"):
        return "\n".join(sorted(body.splitlines()))
    told = json.loads(body)
    if "items" in told:
        told["items"].sort(key=json.dumps)
    return json.dumps(told)


def _masked(text: str, things: tuple[Things, ...]) -> str:
    names: dict[str, str] = {}
    for each in things:
        names |= {getattr(each, one.name): f"<{one.name}>" for one in fields(each)}
        names |= {each.sender_id.capitalize(): "<brand>", each.sender_id.replace("-", "").upper()[:11]: "<oadc>"}
    for name in sorted((one for one in names if len(one) >= SHORTEST_NAME), key=len, reverse=True):
        text = text.replace(name, names[name])
    text = NEW_EACH_TIME.sub("?", text)
    return NEW_FIELDS.sub(lambda found: f'"{found[1] or found[2]}":"?"', text)


@contextmanager
def statements_seen() -> Iterator[None]:
    """Note each statement of a request, by SQLAlchemy and past it."""

    def executed(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        _note(statement)

    def connected(held: Any, *_: Any) -> None:
        held.driver_connection.add_query_logger(lambda record: _note(record.query))

    event.listen(Engine, "before_cursor_execute", executed)
    event.listen(Pool, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", executed)
        event.remove(Pool, "connect", connected)


def _note(statement: str) -> None:
    # the driver's own, when a connection meets a type for the first time
    of_driver = "typeinfo" in statement or "current_setting('jit')" in statement
    if (noted := _statements.get()) is not None and not of_driver:
        noted.append(" ".join(statement.split()))


def _once(statements: list[str]) -> list[str]:
    """Return the statements with each loop once: a wait asks as often as time allows."""
    found: list[str] = []
    for statement in statements:
        found.append(statement)
        for many in range(1, LONGEST_LOOP + 1):
            if len(found) >= 2 * many and found[-many:] == found[-2 * many : -many]:
                del found[-many:]
                break
    return found


Rows = Mapping[tuple[str, str], frozenset[str]]


async def every_row(world: World) -> Rows:
    """Return every row of the four databases, by service and table, but the audit log, which tells of each call."""
    found: dict[tuple[str, str], frozenset[str]] = {}
    for service in SERVICES:
        async with world.surroundings.sql(service) as sql:
            tables = await sql.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'audit_line'"
            )
            for (table,) in tables:
                rows = await sql.fetch(f'SELECT t::text FROM "{table}" AS t')
                found[service, table] = frozenset(row[0] for row in rows)
    return found


def changes(before: Rows, after: Rows) -> list[str]:
    """Return a line for each row gone or come."""
    return [
        f"{service}.{table}: {sign} {row[:300]}"
        for (service, table), rows in sorted(after.items())
        for sign, some in (("-", before[service, table] - rows), ("+", rows - before[service, table]))
        for row in sorted(some)
    ]
