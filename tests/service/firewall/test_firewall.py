"""No caller learns of, or changes, what belongs to others: every operation, with every token.

The operations are those of the services' OpenAPI documents, so that a new route is asked at once; `operations.py` says
with which things. An answer about a thing of ours has to be the answer about a thing that nobody has: status, headers,
body and the statements behind the answer, which stand for its time.
"""

import asyncio
import re
import statistics
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from uuid import uuid4

import pytest

from tests.service.firewall.asking import (
    SHORTEST_NAME,
    Answer,
    Asked,
    answer,
    changes,
    every_row,
    key_of,
    statements_seen,
)
from tests.service.firewall.operations import TABLE, WITHOUT_A_TOKEN, Operation, Things
from tests.service.firewall.world import (
    BESIDE,
    BESIDE_TWIN,
    KNOWN,
    NOBODYS,
    OF_OURS,
    OPERATOR,
    OTHERS,
    OURS,
    PEOPLE_EACH,
    STRANGER,
    STRANGER_TWIN,
    TENANT,
    UNKNOWN,
    World,
    furnish,
    opened,
    register,
)
from tests.support.builders import number, subject
from tests.support.infrastructure import NOWHERE, Postgres
from tests.support.running import Surroundings, bearer

pytestmark = pytest.mark.brokerless

AT_ONCE = 24
NAMES_A_THING = re.compile(r"(?:^|_)ids?$|^(?:identity|numbers?|to|list)$")
NO_THING = {"form_id", "id"}  # an id of the caller's own form, or of a purpose
READ = ("GET", "HEAD", "OPTIONS")
Token = Mapping[str, str]

TOKENS: Mapping[str, Token] = {
    "of another organisation": bearer(organisation=STRANGER.organisation, scope=TENANT, subject="outsider"),
    "of another organisation, naming a sender of ours": bearer(
        organisation=STRANGER.organisation,
        scope=TENANT,
        subject="outsider",
        senders=[OURS.sender_id, NOBODYS.sender_id, STRANGER.sender_id],
    ),
    "for another sender": bearer(scope=TENANT, subject="limited", senders=[BESIDE.sender_id]),
    "for no sender": bearer(scope=TENANT, subject="limited", senders=[]),
    "of the platform's operator": OPERATOR,
}
READER = bearer(scope=" ".join(scope for scope in TENANT.split() if scope.endswith(":read")), subject="reader")
PAIRS = {
    "another organisation": (STRANGER, STRANGER.token, STRANGER_TWIN, STRANGER_TWIN.token),
    "another sender": (
        BESIDE,
        bearer(scope=TENANT, subject="limited-a", senders=[BESIDE.sender_id]),
        BESIDE_TWIN,
        bearer(scope=TENANT, subject="limited-b", senders=[BESIDE_TWIN.sender_id]),
    ),
}
TOLD_TO_A_RECORDER = {  # a chain of a person goes through the lines of every controller: ADR-0067
    "POST /v1/proofs",
    "GET /v1/receipts/{evidence_id}",
}
CALLS = 200
JITTER_S = 0.0005  # of any network between caller and service
TIMED = [  # by the number of a person of ours, or the id of a thing of ours
    ("consent", "POST /v1/subjects/lookup"),
    ("consent", "POST /v1/consents/check"),
    ("consent", "POST /v1/proofs"),
    ("consent", "POST /v1/preference-links"),
    ("consent", "GET /v1/receipts/{evidence_id}"),
    ("campaign", "GET /v1/campaigns/{campaign_id}"),
    ("campaign", "GET /v1/templates/{template_id}"),
    ("dispatch", "GET /v1/messages/{identity}"),
]


@dataclass(frozen=True)
class Firewall:
    """`empty`: the answers about nobody's things while our organisation had nothing."""

    world: World
    ours: Things
    owned: Mapping[str, Things]
    empty: Mapping[str, Sequence[Answer]]  # by the kind of token


@pytest.fixture(scope="module")
async def firewall(postgres: Postgres) -> AsyncIterator[Firewall]:
    surroundings = Surroundings(postgres, NOWHERE, "t" + uuid4().hex[:10])
    with statements_seen():
        async with opened(surroundings) as world:
            for owner in OTHERS:
                await register(world, owner)
            owned = {owner.sender_id: await furnish(world, owner) for owner in OTHERS}
            empty = {kind: await answers_to(world, kind, _all(world, NOBODYS, kind), NOBODYS) for kind in TOKENS}
            await register(world, OURS)
            ours = await furnish(world, OURS, KNOWN)
            yield Firewall(world, ours, owned, empty)
    await postgres.drop()


def test_the_table_has_every_operation_and_every_thing_that_an_operation_can_name(firewall: Firewall) -> None:
    found = []
    for service, table in TABLE.items():
        described = dict(_described(firewall.world, service))
        found += [f"{service}: no operation is {name}: remove its entry" for name in table.keys() - described.keys()]
        for name, operation in described.items():
            if _needs_no_token(service, name):
                continue
            if name not in table:
                found.append(f"{service}: add {name} to operations.py: how is it asked about a thing of another?")
                continue
            named = {key for ask in table[name].asks(NOBODYS) for key in _keys([ask.path, ask.query, ask.body])}
            found += [
                f"{service}: {name} can name a thing by `{field}`: add an Ask with `{field}` to its entry"
                for field in _naming(firewall.world.openapi[service], operation, name) - named
            ]
    assert not found, "\n".join(found)


async def test_no_operation_is_answered_without_a_token_or_without_a_scope(firewall: Firewall) -> None:
    """Nor does a refusal read anything: the time of a 403 tells nothing."""
    found = []
    before = await every_row(firewall.world)
    for status, token in ((401, {}), (403, bearer(scope="", subject="owner"))):
        for asked in _everything(firewall):
            if _needs_no_token(asked.service, asked.name):
                continue
            got = await answer(firewall.world, asked, token, firewall.ours)
            if got.told.status != status or got.statements:
                found.append(f"{asked.service} {asked.name}: {got.told.status} instead of {status}: {got.raw[:200]}")
    assert not found, "\n".join(found)
    assert changes(before, await every_row(firewall.world)) == []


@pytest.mark.parametrize("kind", TOKENS)
async def test_what_others_have_is_answered_as_what_nobody_has_and_stays_as_it_is(
    firewall: Firewall, kind: str
) -> None:
    """And both are answered as before our organisation had anything."""
    world, found = firewall.world, []
    before = await every_row(world)
    every = list(_all(world, firewall.ours, kind))
    told = await answers_to(world, kind, every, firewall.ours)
    nobodys = await answers_to(world, kind, _all(world, NOBODYS, kind), NOBODYS)
    for asked, one, other, empty in zip(every, told, nobodys, firewall.empty[kind], strict=True):
        found += _told_of_ours(firewall, asked, one)
        found += _differences(asked, one, other, statements=True)
        found += [f"since ours is here, {each}" for each in _differences(asked, other, empty)]
    created = list(_all(world, firewall.ours, creates=True))
    for asked, one in zip(created, await answers_to(world, kind, created), strict=True):
        found += _told_of_ours(firewall, asked, one)
        if one.told.status not in (403, 409):
            found.append(f"{asked.service} {asked.name}: {one.told.status}")
    assert not found, "\n".join(found)
    assert changes(before, await every_row(world)) == []


async def test_a_token_that_reads_writes_nothing(firewall: Firewall) -> None:
    found = []
    before = await every_row(firewall.world)
    for asked in _everything(firewall):
        if asked.method in READ or TABLE[asked.service][asked.name].reads:
            continue
        got = await answer(firewall.world, asked, READER, firewall.ours)
        if got.told.status != 403 or "scope_missing" not in got.raw:
            found.append(f"{asked.service} {asked.name}: {got.told.status} {got.raw[:200]}")
    assert not found, "\n".join(found)
    assert changes(before, await every_row(firewall.world)) == []


@pytest.mark.parametrize("pair", PAIRS)
async def test_a_thing_of_others_among_ones_own_is_answered_as_one_that_nobody_has(
    firewall: Firewall, pair: str
) -> None:
    """Two callers do the same, one with a person or thing of ours, the other with a person or thing of nobody."""
    world, found = firewall.world, []
    one, token, other, twins = PAIRS[pair]
    people = iter(_people(pair))
    before = await _seen_by_us(firewall)
    for service, name, operation in _operations():
        if operation.platform or operation.creates:
            continue
        for field in _fields_of(world, service, name, operation):
            known, unknown = next(people) if field == "number" else (0, 0)
            mine = _with(firewall.owned[one.sender_id], field, firewall.ours, known)
            its = _with(firewall.owned[other.sender_id], field, NOBODYS, unknown)
            again = "" if field == "key" else f"{uuid4()}"
            for asked, same in zip(
                _asked(world, service, name, operation, mine, again),
                _asked(world, service, name, operation, its, again),
                strict=True,
            ):
                got = await answer(world, asked, token, mine)
                twin = await answer(world, same, twins, its)
                reads = asked.method in READ or operation.reads
                found += [f"{field}: {each}" for each in _differences(asked, got, twin, statements=reads)]
                found += [f"{field}: {each}" for each in _told_of_ours(firewall, asked, got)]
    for service, name, operation in _operations():
        if operation.platform or not (operation.reads or name.partition(" ")[0] in READ):
            continue
        mine, its = firewall.owned[one.sender_id], firewall.owned[other.sender_id]
        for asked, same in zip(
            _asked(world, service, name, operation, mine),
            _asked(world, service, name, operation, its),
            strict=True,
        ):
            got, twin = await answer(world, asked, token, mine), await answer(world, same, twins, its)
            found += [f"afterwards: {each}" for each in _differences(asked, got, twin)]
    assert not found, "\n".join(found)
    assert await _seen_by_us(firewall) == before


@pytest.mark.parametrize("pair", PAIRS)
async def test_who_records_a_person_learns_nothing_of_others_records(firewall: Firewall, pair: str) -> None:
    """Any caller can record anybody, and is then somebody with a record of the person."""
    world, found = firewall.world, []
    one, token, other, twins = PAIRS[pair]
    known, unknown = _people(pair)[-1]
    mine = _with(firewall.owned[one.sender_id], "number", firewall.ours, known)
    its = _with(firewall.owned[other.sender_id], "number", NOBODYS, unknown)
    table = TABLE["consent"]
    for name, operation in {"POST /v1/consents": table["POST /v1/consents"], **table}.items():
        if operation.platform or operation.creates or name in TOLD_TO_A_RECORDER:
            continue
        if name != "POST /v1/consents" and not operation.reads:
            continue
        again = f"{uuid4()}"
        for asked, same in zip(
            _asked(world, "consent", name, operation, mine, again),
            _asked(world, "consent", name, operation, its, again),
            strict=True,
        ):
            got, twin = await answer(world, asked, token, mine), await answer(world, same, twins, its)
            found += _differences(asked, got, twin, statements=operation.reads)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("service", "name"), TIMED)
async def test_an_answer_about_what_others_have_takes_as_long(firewall: Firewall, service: str, name: str) -> None:
    """The statements are the same, by the tests above; here the rest. A stall of seconds moves no median."""
    world, operation = firewall.world, TABLE[service][name]
    [field, *_] = _fields_of(world, service, name, operation)
    own = firewall.owned[STRANGER.sender_id]
    ours = next(_asked(world, service, name, operation, _with(own, field, firewall.ours, KNOWN[-1]), f"{uuid4()}"))
    nobodys = next(_asked(world, service, name, operation, _with(own, field, NOBODYS, UNKNOWN[-1]), f"{uuid4()}"))
    longer, took = [], []
    for turn in range(CALLS):
        told = {}
        for asked in (ours, nobodys) if turn % 2 else (nobodys, ours):
            told[asked is ours] = (await answer(world, asked, STRANGER.token)).seconds
        longer.append(told[True] - told[False])
        took.append(told[False])
    shift = statistics.median(longer)
    scatter = statistics.median(abs(each - shift) for each in longer)
    print(f"{name}: {statistics.median(took) * 1e3:.2f} ms, {shift * 1e6:+.0f} µs, scatter {scatter * 1e6:.0f} µs")  # noqa: T201
    assert abs(shift) < 3 * scatter + JITTER_S, "the time of an answer tells whether a thing of others exists"


async def answers_to(world: World, kind: str, every: Iterable[Asked], *things: Things) -> list[Answer]:
    """Ask all with a token of this kind, many at once: an unknown sender is waited for."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(asked: Asked) -> Answer:
        async with slots:
            return await answer(world, asked, TOKENS[kind], *things)

    return await asyncio.gather(*map(one, every))


def _operations() -> Iterator[tuple[str, str, Operation]]:
    for service, table in TABLE.items():
        for name, operation in table.items():
            yield service, name, operation


def _all(world: World, things: Things, kind: str = "", *, creates: bool = False) -> Iterator[Asked]:
    """Yield each request about these things, or those that would create. The platform's operator is not asked about
    what is the platform's."""
    for service, name, operation in _operations():
        of_the_platform = operation.platform or _about_people(operation)
        if operation.creates is creates and not (of_the_platform and kind == "of the platform's operator"):
            yield from _asked(world, service, name, operation, things)


def _everything(firewall: Firewall) -> Iterator[Asked]:
    for creates in (False, True):
        yield from _all(firewall.world, firewall.ours, creates=creates)


def _about_people(operation: Operation) -> bool:
    """Return whether a person alone is named: of any person the operator sees the whole record."""
    other = replace(NOBODYS, number=number(9), subject_id=subject(9))
    bare = replace(NOBODYS, sender_id="other-sender")
    return operation.asks(other) != operation.asks(NOBODYS) and operation.asks(bare) == operation.asks(NOBODYS)


def _asked(
    world: World, service: str, name: str, operation: Operation, things: Things, again: str = ""
) -> Iterator[Asked]:
    """Yield each request. `again`: another Idempotency-Key than that of these things."""
    takes_key = "Idempotency-Key" in _parameters(dict(_described(world, service)).get(name, {}))
    for place, ask in enumerate(operation.asks(things)):
        yield Asked(service, name, ask, (f"{again} {place}" if again else key_of(name, things)) if takes_key else "")


def _fields_of(world: World, service: str, name: str, operation: Operation) -> list[str]:
    """Return the kinds of things that the requests name, but for the sender: with it all else is a stranger's."""
    own = Things("own-sender", number(1), subject(1), "own-key")
    asked = list(_asked(world, service, name, operation, own))
    found = [
        field.name
        for field in fields(Things)
        if list(_asked(world, service, name, operation, replace(own, **{field.name: "another"}))) != asked
    ]
    if "subject_id" in found:
        found = ["number", *(field for field in found if field not in ("number", "subject_id"))]
    return [field for field in found if field != "sender_id"]


def _people(pair: str) -> Sequence[tuple[int, int]]:
    """Return pairs of a person of ours and a person of nobody; the last person of ours is not under review."""
    mine = PEOPLE_EACH * list(PAIRS).index(pair)
    return list(zip(KNOWN, UNKNOWN, strict=True))[mine : mine + PEOPLE_EACH]


def _with(own: Things, field: str, others: Things, person: int) -> Things:
    """Return the own things with one of another: `field` of `others`, or the person."""
    if field == "number":
        return replace(own, number=number(person), subject_id=subject(person))
    return replace(own, **{field: getattr(others, field)})


def _differences(asked: Asked, one: Answer, other: Answer, *, statements: bool = False) -> list[str]:
    found = [
        f"{asked.service} {asked.name} {asked.ask.body}: {what}: {mine!r:.500} but {its!r:.500}"
        for what, mine, its in zip(one.told._fields, one.told, other.told, strict=True)
        if mine != its
    ]
    if statements and one.statements != other.statements:
        only = [
            line
            for line in (*one.statements, *other.statements)
            if (line in one.statements) != (line in other.statements)
        ]
        found.append(
            f"{asked.service} {asked.name}: {len(one.statements)} and {len(other.statements)} statements: {only}"
        )
    return found


def _told_of_ours(firewall: Firewall, asked: Asked, got: Answer) -> list[str]:
    """Return the names and words of ours that the answer has and the request had not."""
    names = [getattr(firewall.ours, field.name) for field in fields(Things)]
    return [
        f"{asked.service} {asked.name} tells {name!r}: {got.raw[:300]}"
        for name in (*OF_OURS, *names)
        if len(name) >= SHORTEST_NAME or name in OF_OURS
        if name in got.raw and name not in got.asked
    ]


async def _seen_by_us(firewall: Firewall) -> list[Any]:
    """Return all that our organisation reads of its things, and of each person it knows."""
    token = bearer(scope=TENANT, subject="us", senders=[OURS.sender_id])
    seen = []
    for service, name, operation in _operations():
        if operation.platform or not (operation.reads or name.partition(" ")[0] in READ):
            continue
        for asked in _asked(firewall.world, service, name, operation, firewall.ours):
            seen.append((name, (await answer(firewall.world, asked, token)).told))
    lookup = TABLE["consent"]["POST /v1/subjects/lookup"]
    for n in KNOWN:
        of = replace(firewall.ours, number=number(n), subject_id=subject(n))
        [asked, _] = _asked(firewall.world, "consent", "POST /v1/subjects/lookup", lookup, of)
        seen.append((str(n), (await answer(firewall.world, asked, token)).told))
    return seen


def _described(world: World, service: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in world.openapi[service]["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def _needs_no_token(service: str, name: str) -> bool:
    return any(each in name for each in WITHOUT_A_TOKEN.get(service, ()))


def _parameters(operation: dict[str, Any]) -> set[str]:
    return {each["name"] for each in operation.get("parameters", [])}


def _naming(openapi: dict[str, Any], operation: dict[str, Any], name: str) -> set[str]:
    """Return the parameters and fields of the body that name things, and every parameter of the path."""
    in_path = set(re.findall(r"{(\w+)}", name))
    content = operation.get("requestBody", {}).get("content", {})
    in_body = {
        field for each in content.values() for field in _properties(openapi, each.get("schema", {}), frozenset())
    }
    named = {each for each in _parameters(operation) | in_body if NAMES_A_THING.search(each)}
    return (in_path | named) - NO_THING


def _properties(openapi: dict[str, Any], schema: Any, seen: frozenset[str]) -> Iterator[str]:
    """Yield the name of each field of a schema, at any depth."""
    if isinstance(schema, list):
        for each in schema:
            yield from _properties(openapi, each, seen)
    elif isinstance(schema, dict):
        if (of := schema.get("$ref")) is not None and of not in seen:
            yield from _properties(openapi, openapi["components"]["schemas"][of.rpartition("/")[2]], seen | {of})
        yield from schema.get("properties", {})
        for each in (*schema.get("properties", {}).values(), *map(schema.get, ("anyOf", "oneOf", "allOf", "items"))):
            yield from _properties(openapi, each, seen)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from value
        for each in value.values():
            yield from _keys(each)
    elif isinstance(value, list):
        for each in value:
            yield from _keys(each)
