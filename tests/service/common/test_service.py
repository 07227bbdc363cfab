"""What every service's HTTP side does before a route sees anything."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy.engine import make_url

from common.db.database import Database, new_metadata
from common.keyring import OtherKey
from common.service import Service, resources
from common.settings import ServiceSettings
from common.web.auth import require
from common.web.edge.bodies import BODY_BYTES
from common.web.streaming import Streamed
from dispatch.messages import store as messages
from tests.support.builders import field_keys, number, subject
from tests.support.each_of import each_of
from tests.support.eventually import eventually
from tests.support.ledger import message
from tests.support.running import SUBJECT_RING, Surroundings, running
from tests.unit.deploy.deployed import BUILD, SETTINGS, text

pytestmark = pytest.mark.any_broker  # what happens before a route, and whose keys are stored

LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
JSON = {"Content-Type": "application/json"}

router = APIRouter(prefix="/v1")


@router.post("/things", dependencies=[Depends(require("message:write"))])
async def things(body: dict[str, str]) -> int:
    return sum(map(len, body.values()))


@router.get("/things/{name}")
async def thing(name: str) -> str:
    return name


@router.post("/things/many")
async def many(body: dict[str, str]) -> int:
    return sum(map(len, body.values()))


@router.put("/things/{name}", status_code=201)
async def make_thing(name: str, response: Response) -> None:
    response.headers["Location"] = f"/v1/things/{name}"


made: list[int] = []


@router.get("/lines")
async def lines() -> Streamed:
    async def read() -> AsyncIterator[bytes]:
        for place in range(3):
            made.append(place)
            yield b"line\n"

    return Streamed(read(), media_type="text/csv")


@router.get("/kept")
async def kept(held: Annotated[Any, Depends(resources)]) -> None:
    await held.database.ping()


@router.post("/files")
async def files(request: Request) -> int:
    return sum([len(piece) async for piece in request.stream()])


@pytest.fixture
async def client(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    settings = ServiceSettings(**await surroundings.settings("dispatch", roles="api"))
    service: Service[Any] = Service(
        name="dispatch",
        settings=settings,
        metadata=new_metadata(),
        routers=[router],
        body_limits={"/v1/things/many": 2 * BODY_BYTES, "/v1/files": None},
    )
    async with running(service) as client:
        yield client


async def test_while_the_broker_is_away_nothing_piles_up(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"roles": "worker", "kafka_bootstrap": "127.0.0.1:1"}
    settings = ServiceSettings(**await surroundings.settings("dispatch", **more))
    service: Service[Any] = Service(name="dispatch", settings=settings, metadata=new_metadata())

    async def tried() -> bool:
        return [record.message for record in caplog.records].count("the topics do not exist yet") >= 4

    async with running(service):
        await eventually(tried)
        waiting = [task for task in asyncio.all_tasks() if "Event.wait" in repr(task.get_coro())]
    assert len(waiting) <= 1


async def test_a_database_with_no_connection_left_is_one_to_come_back_to(surroundings: Surroundings) -> None:
    role, url = f"crowded_{surroundings.unique}", make_url(await surroundings.database("dispatch"))
    crowded = url.set(username=role, password="for tests only").render_as_string(hide_password=False)
    settings = ServiceSettings(**await surroundings.settings("dispatch", roles="api", database_url=crowded))
    service: Service[Any] = Service(name="dispatch", settings=settings, metadata=new_metadata(), routers=[router])
    async with surroundings.sql("dispatch") as sql:
        await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'for tests only' CONNECTION LIMIT 0")
        try:
            async with running(service) as client:
                answer = await client.get("/v1/kept")
        finally:
            await sql.execute(f"DROP ROLE {role}")
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1")


async def test_a_query_over_a_limit_is_a_fault_of_ours_and_no_database_that_is_away(surroundings: Surroundings) -> None:
    """Tried again it would exceed it again: who took it for a database that comes back would never go on."""
    routes = APIRouter()

    @routes.get("/v1/heavy")
    async def heavy(held: Annotated[Any, Depends(resources)]) -> None:
        async with held.database.begin() as tx:
            await tx.exec_driver_sql("SET LOCAL statement_timeout = 1")
            await tx.exec_driver_sql("SELECT pg_sleep(60)")

    settings = ServiceSettings(**await surroundings.settings("dispatch", roles="api"))
    service: Service[Any] = Service(name="dispatch", settings=settings, metadata=new_metadata(), routers=[routes])
    async with running(service) as client:
        answer = await client.get("/v1/heavy")
    assert (answer.status_code, answer.headers.get("retry-after")) == (500, None)


LISTENING = {"consent": 6, "inbound": 2, "campaign": 4, "dispatch": 3}  # connections of a worker, besides its pool
OF_PROJECTION = {"dispatch": 2}
NO_CONSENT = "no watermark of consent yet: marketing is held"


@pytest.mark.parametrize("name", LISTENING)
async def test_the_connections_that_the_readme_asks_for_are_those_that_are_made(
    surroundings: Surroundings, name: str
) -> None:
    """Of the base's pods: two of each role. A role `api` listens to its relay, and a relay to whoever writes."""
    more = {"gateway_url": "http://127.0.0.1:1", "gateway_token": "t"} if name == "dispatch" else {}
    settings = SETTINGS[name](**await surroundings.settings(name, roles="worker", **more))

    async def all_listen() -> bool:
        async with surroundings.sql(name) as sql:
            return bool(await sql.fetchval(LISTENERS) == LISTENING[name])

    async with running(BUILD[name](settings)) as client:

        async def all_read() -> bool:  # no projection runs, so dispatch-svc knows of no consent
            return not set((await client.get("/readyz")).json()["why"]) - {NO_CONSENT}

        await eventually(all_listen)
        await eventually(all_read)  # who is stopped while aiokafka connects leaves it to the garbage collector
    listening = [1, 1, LISTENING[name], *([OF_PROJECTION[name]] if name in OF_PROJECTION else [])]
    asked = f"{2 * sum(settings.database_pool + many for many in listening)} for {name}-svc"
    assert asked in text("deploy/k8s/README.md")
    assert "and six more" in text("deploy/k8s/README.md")
    assert max(listening) <= 6


STORED = {  # an id, as a service has it
    "consent": "INSERT INTO subject (subject_id) VALUES ($1)",
    "inbound": "INSERT INTO callback_item (provider, account, provider_message_id, callback_id,"
    " subject_id) VALUES ('ovh', 'a', $1, gen_random_uuid(), $1)",
    "campaign": "INSERT INTO standing (subject_id, version, told) VALUES ($1, 1, '{}')",
    "dispatch": "INSERT INTO subject (subject_id, version, consents, suppressions, erased)"
    " VALUES ($1, 1, '[]', '[]', false)",
}
WRONG = base64.b64encode(b"w" * 32).decode()
NEW_OUTER = {"current": "t2", "keys": {"t2": base64.b64encode(b"T" * 32).decode()}}
NEW_KEY = SUBJECT_RING | {"outer": NEW_OUTER}


async def store_ids(surroundings: Surroundings, name: str, *subject_ids: str) -> None:
    async with surroundings.sql(name) as sql:
        await sql.execute("SET session_replication_role = replica")  # an item without its callback
        for subject_id in subject_ids:
            await sql.execute(STORED[name], subject_id)


async def built(surroundings: Surroundings, name: str, **more: Any) -> Service[Any]:
    gateway = {"gateway_url": "http://127.0.0.1:1", "gateway_token": "t"} if name == "dispatch" else {}
    return BUILD[name](SETTINGS[name](**await surroundings.settings(name, roles="api", **gateway, **more)))


@pytest.mark.parametrize("name", STORED)
async def test_another_subject_key_than_that_of_what_is_stored_does_not_start(
    surroundings: Surroundings, name: str
) -> None:
    """Of all whom it writes to it would know no STOP."""
    await store_ids(surroundings, name, subject(1))
    with pytest.raises(OtherKey, match="'t2' as its current outer key, and what is stored is of 't1'"):
        async with running(await built(surroundings, name, subject_keys=NEW_KEY)):
            pass
    async with running(await built(surroundings, name)) as client:
        assert not [why for why in (await client.get("/readyz")).json()["why"] if "key" in why]


async def test_another_subject_key_than_that_of_messages_alone_does_not_start(surroundings: Surroundings) -> None:
    """The ledger has no index of subject ids: the check reads the messages at both ends of the index of message ids."""
    database = Database(await surroundings.database("dispatch"))
    async with database.begin() as tx:
        await messages.insert_messages(tx, [message(1)])
    await database.close()
    with pytest.raises(OtherKey, match="'t2' as its current outer key, and what is stored is of 't1'"):
        async with running(await built(surroundings, "dispatch", subject_keys=NEW_KEY)):
            pass
    wrong = SUBJECT_RING | {"keys": {"h1": WRONG}}
    with pytest.raises(OtherKey, match="of PLACET_SUBJECT_KEYS is not the one"):
        async with running(await built(surroundings, "dispatch", subject_keys=wrong)):
            pass
    async with running(await built(surroundings, "dispatch")) as client:
        assert not [why for why in (await client.get("/readyz")).json()["why"] if "key" in why]


@pytest.mark.parametrize("another", [{"keys": {"h1": WRONG}}, {"outer": {"current": "t1", "keys": {"t1": WRONG}}}])
async def test_another_subject_key_under_the_id_of_what_is_stored_does_not_start(
    surroundings: Surroundings, another: dict[str, Any]
) -> None:
    """The id of the key is right, and each person has another subject id."""
    await store_ids(surroundings, "consent", "a-poisoned-key", subject(1), subject(2))
    async with surroundings.sql("consent") as sql:
        sealed = field_keys.seal(number(1), f"number:{subject(1)}")
        await sql.execute("UPDATE subject SET number = $2 WHERE subject_id = $1", subject(1), sealed)
        await sql.execute("UPDATE subject SET number = 'damaged' WHERE subject_id = $1", subject(2))
    with pytest.raises(OtherKey, match="of PLACET_SUBJECT_KEYS is not the one"):
        async with running(await built(surroundings, "consent", subject_keys=SUBJECT_RING | another)):
            pass
    async with running(await built(surroundings, "consent")) as client:
        assert not [why for why in (await client.get("/readyz")).json()["why"] if "key" in why]


@pytest.mark.parametrize("name", STORED)
async def test_where_nothing_is_stored_any_subject_key_will_do(surroundings: Surroundings, name: str) -> None:
    async with running(await built(surroundings, name, subject_keys=NEW_KEY)) as client:
        assert not [why for why in (await client.get("/readyz")).json()["why"] if "key" in why]


async def test_ids_of_no_key_of_the_ring_beside_ours_are_told_and_stop_no_start(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    """The key of an unreadable record is what its writer says."""
    await store_ids(surroundings, "dispatch", subject(1), f"t2-{'0' * 32}")
    async with running(await built(surroundings, "dispatch")) as client:
        assert (await client.get("/livez")).is_success
    assert "some stored subject ids are of no key of the ring" in caplog.text


async def test_what_a_poisoned_record_had_for_a_key_is_of_no_subject_key(surroundings: Surroundings) -> None:
    await store_ids(surroundings, "dispatch", "a0", "zz-top")
    async with running(await built(surroundings, "dispatch")) as client:
        assert (await client.get("/livez")).is_success


async def test_until_the_database_tells_whose_key_it_is_a_service_is_not_ready(surroundings: Surroundings) -> None:
    role, url = f"away_{surroundings.unique}", make_url(await surroundings.database("inbound"))
    away = url.set(username=role, password="for tests only").render_as_string(hide_password=False)
    async with surroundings.sql("inbound") as sql:
        await sql.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'for tests only' CONNECTION LIMIT 0")
        await sql.execute(f"GRANT SELECT ON callback_item TO {role}")
        await sql.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON subject_key, shard TO {role}")
        try:
            async with running(await built(surroundings, "inbound", database_url=away)) as client:

                async def why_not() -> list[str]:
                    return [why for why in (await client.get("/readyz")).json()["why"] if "key" in why]

                assert await why_not()
                await sql.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")

                async def ready() -> bool:
                    return not await why_not()

                await eventually(ready)
        finally:
            await sql.execute(f"DROP OWNED BY {role}")
            await sql.execute(f"DROP ROLE {role}")


def of(size: int) -> bytes:
    """A JSON body of this many bytes."""
    return b'{"x":"' + b"a" * (size - 8) + b'"}'


async def pieces(body: bytes, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    """Sent like this, a body announces no length."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


@pytest.mark.parametrize("chunked", [False, True])
@each_of(
    ("path", "size", "status"),
    [
        ("things", BODY_BYTES, 200),
        ("things", BODY_BYTES + 1, 413),
        ("things/many", 2 * BODY_BYTES, 200),
        ("things/many", 2 * BODY_BYTES + 1, 413),
        ("thingsandmore", BODY_BYTES, 404),
        ("files", 3 * BODY_BYTES, 200),
    ],
)
async def test_a_body_is_as_large_as_its_path_allows(
    client: httpx.AsyncClient, path: str, size: int, status: int, chunked: bool
) -> None:
    body = of(size)
    answered = await client.post(f"/v1/{path}", content=pieces(body) if chunked else body, headers=JSON)
    assert answered.status_code == status
    if status == 413:
        assert answered.headers["content-type"] == "application/problem+json"
        assert answered.headers["connection"] == "close"
        problem = answered.json()
        assert problem["type"] == "/problems/too-large"
        assert [(r["field"], r["reason"]) for r in problem["reasons"]] == [("body", "too_large")]
        assert problem["trace_id"] in answered.headers["traceparent"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_stranger_cannot_make_us_read_on(client: httpx.AsyncClient, chunked: bool) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"[" * 64 * 1024

    headers = {"Authorization": ""} | ({} if chunked else {"Content-Length": str(10**12)})
    answered = await asyncio.wait_for(client.post("/v1/things", content=endless(), headers=headers), 30)
    assert answered.status_code == (401 if chunked else 413)
    assert sent == 0


async def test_a_body_without_a_length_is_read_to_its_limit_and_no_further(client: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"[" * 64 * 1024

    answered = await asyncio.wait_for(client.post("/v1/things", content=endless()), 30)
    assert (answered.status_code, sent) == (413, 17)


async def test_no_cache_keeps_an_answer_and_no_browser_guesses_its_type(client: httpx.AsyncClient) -> None:
    for path in ("/v1/things/moon", "/v1/nothing", "/readyz", "/problems"):
        told = (await client.get(path)).headers
        assert (told["cache-control"], told["x-content-type-options"]) == ("no-store", "nosniff"), path


async def test_a_slash_too_many_redirects_nowhere(client: httpx.AsyncClient) -> None:
    """A redirect would name the host that the caller named, and no document declares one."""
    for path in ("/v1/lines/", "/v1/things/moon/"):
        answer = await client.get(path, headers={"Host": "evil.example"})
        assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found"), path
        assert "location" not in answer.headers


async def test_health_is_asked_by_head_in_every_role(surroundings: Surroundings) -> None:
    settings = ServiceSettings(**await surroundings.settings("dispatch", roles="relay"))
    async with running(Service(name="dispatch", settings=settings, metadata=new_metadata())) as client:
        head = await client.head("/livez")
        assert (head.status_code, head.content) == (200, b"")
        refused = await client.post("/livez")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_a_head_of_a_streamed_answer_produces_no_line(client: httpx.AsyncClient) -> None:
    made.clear()
    head = await client.head("/v1/lines")
    assert (head.status_code, head.headers["content-type"], head.content) == (200, "text/csv; charset=utf-8", b"")
    assert made == []
    got = await client.get("/v1/lines")
    assert (got.content, got.headers["content-type"]) == (b"line\n" * 3, head.headers["content-type"])


@each_of(
    ("told", "part"),
    [(None, ""), ("/dispatch", "/dispatch"), ("/sms/dispatch-2", "/sms/dispatch-2")]
    + [(wrong, "") for wrong in ("//evil.example", "https://evil.example", "/", "/a/", "/a\tb", "/é", "dispatch")],
)
async def test_the_paths_of_an_answer_have_the_part_that_a_gateway_has_taken_off(
    client: httpx.AsyncClient, told: str | None, part: str
) -> None:
    headers: dict[str, Any] = {} if told is None else {"X-Forwarded-Prefix": told.encode()}
    made = await client.put("/v1/things/moon", headers=headers)
    refused = await client.get("/v1/nothing", headers=headers)
    too_large = await client.post("/v1/things", content=of(BODY_BYTES + 1), headers={**JSON, **headers})
    assert made.headers["location"] == f"{part}/v1/things/moon"
    assert refused.json()["type"] == f"{part}/problems/not-found"
    assert too_large.json()["type"] == f"{part}/problems/too-large"
    page = await client.get(refused.json()["type"].removeprefix(part), headers=headers)
    assert f'href="{part}/problems"' in page.text


@pytest.mark.parametrize("path", ["/v1/things/%00", "/v1/things/a%00b", "/%00"])
async def test_nothing_is_called_by_a_name_that_postgres_could_not_be_asked_for(
    client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.get("/v1/things/%C3%A9")).json() == "é"
    answer = await client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
