"""consent-svc in two shards, by what is no one person's: the registry, files, seals, sums, reports and `divide`."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from sqlalchemy import text

from common import division
from common.contracts import SENDERS, STATES
from common.contracts.consent import SLICE, SenderChanged, StatesSummed
from common.contracts.rights import ErasureRequested
from common.db.database import Database, fetch_many
from common.db.shards import OtherShard, Shards
from common.files import cutting
from common.kafka.broker import partition_of
from common.privacy import erasing
from common.privacy.erasing import Whom
from common.privacy.signing import PublicKeys
from common.service import running as held_by
from consent.division import TABLES
from consent.eraser import erase
from consent.imports.worker import Importing
from consent.ledger import republishing
from consent.proof.audit import Audit, Finding
from consent.proof.bundle import check
from consent.proof.sealing import Sealing
from consent.proof.settling import Settling
from consent.proof.summing import Summing
from consent.proof.verify_ledger import verified
from consent.senders import copy_store
from consent.senders.copying import Mending, copy
from consent.service import Settings, build
from tests.service.consent.test_consent_api import consent, opt_out
from tests.service.consent.test_endings import last
from tests.service.consent.test_imports import AT, done, opened, part, suppressions, terms, verdicts
from tests.service.consent.test_ledger_end import ERASED, OPEN, audited, end, say, seal, write
from tests.service.inbound.published import published
from tests.support.builders import inner, number, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.running import Surroundings, running
from tests.support.shards import InShards, urls_of
from tests.unit.common.test_msisdn import EITHER, RECEIVED, TYPED
from tests.unit.consent.evidences import opt_in, stop

pytestmark = pytest.mark.any_broker  # rows of databases, and what is published of them by a relay

PARTITIONS = {"a": "0-1", "b": "2"}
HELD = {"a": (0, 1), "b": (2,)}
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/consent"
CALLED = "api,relay"
SENDER: dict[str, Any] = {
    "sender_id": "acme",
    "legal_name": "ACME SAS",
    "brand": "Acme",
    "contact": "contact@acme.example",
    "country": "FR",
    "oadc": "ACME",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Nos offres par SMS"}],
}
REGISTRY = ("organisation", "controller", "owned_name", "sender", "sender_version", "reopening_rule")
RULES = "/v1/senders/acme/reopening-rules"


def shard_of(key: str) -> str:
    return "b" if partition_of(key, 3) == 2 else "a"


def people(shard: str, many: int = 3) -> list[int]:
    """The first people whom a shard holds."""
    return [n for n in range(1, 99) if shard_of(subject(n)) == shard][:many]


@dataclass
class Divided(InShards):
    """Two shards. `clients`: of each that runs."""

    settings: dict[str, Settings]

    async def registry(self, shard: str) -> dict[str, list[str]]:
        """Every row of the registry in a database, by table."""
        return {
            table: [row[0] for row in await self.sql(shard, f"SELECT to_jsonb(t)::text FROM {table} AS t ORDER BY 1")]
            for table in REGISTRY
        }

    @asynccontextmanager
    async def shards(self, own: str) -> AsyncIterator[Shards]:
        opened = Shards.opened(self.settings[own], "consent")
        try:
            yield opened
        finally:
            await opened.close()

    async def nothing_waits(self) -> bool:
        return await self.counted("SELECT count(*) FROM outbox") == dict.fromkeys(self.urls, 0)

    async def mend(self) -> None:
        """Run the timer of shard b once."""
        async with self.shards("b") as shards:
            await Mending(shards).look()


async def settings(
    surroundings: Surroundings, of: dict[str, str], shard: str, spans: dict[str, str] = PARTITIONS, **more: Any
) -> Settings:
    shards = {name: {"partitions": spans[name], "database_url": of[name]} for name in spans}
    told = await surroundings.settings("consent", **{"shards": shards, "shard": shard, **more})
    return Settings(**told | {"database_url": of[shard]})


@asynccontextmanager
async def divided(surroundings: Surroundings, **more: Any) -> AsyncIterator[Divided]:
    of = await urls_of(surroundings, "consent", PARTITIONS)
    async with AsyncExitStack() as stack:
        each = {name: await settings(surroundings, of, name, **more) for name in PARTITIONS}
        clients = {name: await stack.enter_async_context(running(build(own))) for name, own in each.items()}
        yield Divided(surroundings, of, clients, each)


def changed(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (SENDER | changes).items() if name != "sender_id"}


async def same(both: Divided) -> dict[str, list[str]]:
    """The registry, which both shards have alike."""
    held = await both.registry("a")
    assert await both.registry("b") == held
    return held


async def test_a_change_by_a_process_of_either_shard_is_in_both_before_the_answer(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles=CALLED) as both:
        for n, client in enumerate(both.clients.values()):
            wanted = SENDER | {"sender_id": f"acme-{n}", "oadc": f"ACME{n}", "controller": "acme", "stop_code": "36111"}
            answer = await client.post("/v1/senders", json=wanted)
            assert answer.status_code == 201, answer.text
            assert [len(rows) for rows in (await same(both)).values()] == [1, 1, 2 + n, 1 + n, 1 + n, 0]
        answer = await both.clients["b"].put("/v1/senders/acme-0", json=changed(controller="acme", stop_code="36222"))
        assert answer.status_code == 200, answer.text
        begun = await both.clients["b"].post(
            "/v1/senders/acme-0/reopening-rules", json={"purpose": "promotions", "reason": "Signed forms"}
        )
        assert begun.status_code == 201, begun.text
        assert len((await same(both))["reopening_rule"]) == 1
        of = f"/v1/senders/acme-0/reopening-rules/{begun.json()['rule_id']}/end"
        assert (await both.clients["b"].post(of, json={"reason": "No forms"})).status_code == 200
        assert len((await same(both))["sender_version"]) == 3
        codes = await both.sql("b", "SELECT stop_codes FROM sender WHERE sender_id = 'acme-0'")
        assert codes[0][0] == ["36111", "36222"]
        for client in both.clients.values():
            listed = (await client.get("/v1/senders/acme-0/versions")).json()["items"]
            assert [each["stop_code"] for each in listed] == ["36111", "36222"]
        await eventually(both.nothing_waits)
        events = [record.event for record in await published(both.settings["a"], SENDERS)]
        assert sorted((e.sender_id, e.version) for e in events if isinstance(e, SenderChanged)) == [
            ("acme-0", 1),
            ("acme-0", 2),
            ("acme-1", 1),
        ]
        assert await both.sql("b", "SELECT * FROM outbox_log") == [], "the first shard alone numbers its partitions"


GHOST = SENDER | {"sender_id": "ghost", "oadc": "GHOST", "controller": "acme"}
BROKEN = ("sender_version", "reopening_rule")
# A deferred trigger fails the commit alone, as a database does that goes away then.
BREAK = [
    "CREATE FUNCTION breaks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'away'; END $$",
    *(
        f"CREATE CONSTRAINT TRIGGER breaks AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        " EXECUTE FUNCTION breaks()"
        for table in BROKEN
    ),
]
RECOUNTED = "SELECT count(*) FROM retention_recount WHERE sender_id = 'acme'"
SHORTER = [SENDER["purposes"][0] | {"retention_months": 12}]


async def test_a_change_of_retention_is_counted_again_in_both(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        assert (await both.clients["b"].post("/v1/senders", json=SENDER)).status_code == 201
        assert (await both.clients["b"].put("/v1/senders/acme", json=changed(brand="Acme !"))).status_code == 200
        assert await both.counted(RECOUNTED) == {"a": 0, "b": 0}
        assert (await both.clients["b"].put("/v1/senders/acme", json=changed(purposes=SHORTER))).status_code == 200
        assert await both.counted(RECOUNTED) == {"a": 1, "b": 1}


async def test_while_a_shard_is_away_nothing_changes_and_the_same_call_completes_later(
    surroundings: Surroundings,
) -> None:
    async with divided(surroundings, roles="api") as both:
        client = both.clients["a"]
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        before = await same(both)
    other = SENDER | {"sender_id": "other", "oadc": "OTHER", "brand": "Other", "stop_code": "36222"}
    cut_off = await settings(surroundings, both.urls | {"b": NOWHERE}, "a", roles="api")
    async with running(build(cut_off)) as client:
        for refused in (
            await client.post("/v1/senders", json=other),
            await client.put("/v1/senders/acme", json=changed(stop_code="36222")),
        ):
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5"), refused.text
            assert refused.json()["detail"].startswith("a shard does not answer, and each has to know a sender")
        assert (await client.get("/v1/senders/acme")).json()["stop_code"] == "36111", "a read waits for no other"
    assert await same(both) == before
    assert (await both.counted("SELECT count(*) FROM outbox"))["a"] == 1, "the event of the first registration"
    async with running(build(both.settings["b"])) as client:
        assert (await client.post("/v1/senders", json=other)).status_code == 201
        assert (await client.put("/v1/senders/acme", json=changed(brand="Acme !"))).status_code == 200
        assert len((await same(both))["sender_version"]) == 3


async def test_a_copy_ahead_of_a_change_that_failed_is_mended_and_stands_in_no_way(surroundings: Surroundings) -> None:
    """The commits of two databases are two: the second may fail."""
    async with divided(surroundings, roles="api") as both:
        assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
        before = await same(both)
        for statement in BREAK:
            await both.sql("a", statement)
        failed = [await both.clients["b"].put("/v1/senders/acme", json=changed(purposes=SHORTER))]
        assert (await both.sql("b", "SELECT version FROM sender"))[0][0] == 2
        failed += [
            await both.clients["b"].post(RULES, json={"purpose": "promotions", "reason": "Signed forms"}),
            await both.clients["b"].post("/v1/senders", json=GHOST),
        ]
        assert [answer.status_code for answer in failed] == [500] * 3
        for table in BROKEN:
            await both.sql("a", f"DROP TRIGGER breaks ON {table}")
        assert await both.registry("a") == before
        ahead = await both.registry("b")
        assert [len(ahead[table]) - len(before[table]) for table in REGISTRY] == [0, 0, 1, 1, 2, 0]
        begun = await both.clients["a"].post(RULES, json={"purpose": "promotions", "reason": "Signed papers"})
        assert begun.status_code == 201, "a copy ahead of its failure is in the way of no other"
        assert await both.registry("b") != await both.registry("a"), "the ghost is not of this change"
        await both.mend()
        assert len((await same(both))["sender"]) == 1
        assert await both.counted(RECOUNTED) == {"a": 0, "b": 1}, "the copy had other rules for a while"


async def test_a_shard_that_missed_a_change_gets_it_by_its_timer_and_at_its_start(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
        await both.clients["a"].post(RULES, json={"purpose": "promotions", "reason": "Signed forms"})
    held = await same(both)
    for table in REGISTRY:
        await both.sql("b", f"DELETE FROM {table}")
    await both.mend()
    assert await same(both) == held
    await both.sql("b", "UPDATE sender SET stop_codes = '{36222}', stop_code = '36222'")
    await both.sql("b", "UPDATE sender_version SET in_force_from = now()")
    await both.sql("b", "INSERT INTO organisation VALUES ('nobody', now())")
    async with running(build(both.settings["b"])):
        assert await same(both) == held
    for query in ("UPDATE reopening_rule SET ended_at = now(), ended_by = 'x', end_reason = 'x'", "DELETE FROM sender"):
        await both.sql("b", query)
        async with both.shards("b") as shards:
            await asyncio.gather(*(Mending(shards).look() for _ in range(3)))
        assert await same(both) == held


async def test_mending_waits_for_a_change_under_way(surroundings: Surroundings) -> None:
    """Else the copy, which is ahead, would be put back, and the change would be in the first shard alone."""
    async with divided(surroundings, roles="api") as both:
        assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
        async with both.shards("a") as ours, both.shards("b") as theirs:
            ahead, go_on = asyncio.Event(), asyncio.Event()

            async def change() -> None:
                async with ours.first.database.begin() as tx:
                    await copy_store.lock(tx)
                    await tx.execute(text("UPDATE sender SET brand = 'Acme !'"))
                    async with ours.each[1].database.begin() as of_other:
                        await copy(tx, of_other, ["acme"])
                    ahead.set()
                    await go_on.wait()

            changing = asyncio.create_task(change())
            await ahead.wait()
            mending = asyncio.create_task(Mending(theirs).look())
            query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

            async def waits() -> bool:
                return bool((await both.sql("a", query))[0][0]) or mending.done()

            await eventually(waits)
            assert not mending.done()
            go_on.set()
            await asyncio.gather(changing, mending)
        assert [row[0] for row in await both.sql("b", "SELECT brand FROM sender")] == ["Acme !"]
        await same(both)


@asynccontextmanager
async def recording(both: Divided, **more: Any) -> AsyncIterator[Importing]:
    """The worker of the files, in a process of shard a."""
    async with held_by(build(both.settings["a"])) as (held, _):
        yield Importing(held, **{"backlog": 1000, **more})


def file_of(people_of_both: Sequence[int]) -> bytes:
    return ("number,occurred_at\n" + "".join(f"{number(n)},{AT}\n" for n in people_of_both)).encode()


async def recorded(worker: Importing) -> None:
    """Record each piece that waits."""
    while await worker.record_piece():
        pass


EVERYBODY = [*people("a", 60), *people("b", 30)]
MIXED = sorted(EVERYBODY)
SUBJECTS = "SELECT subject_id FROM evidence"


async def test_a_file_is_recorded_by_shard_and_told_as_one(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With lines in columns, lines of their own, a refused line, and people on record before."""
    monkeypatch.setattr(cutting, "PIECE_LINES", 40)
    known = [people("a")[0], people("b")[0]]
    body = file_of(MIXED) + f"{number(known[1])},2019-01-01T00:00:00Z\nnobody,{AT}\n".encode()
    async with divided(surroundings, roles="api") as both, recording(both) as worker:
        assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
        import_id = await opened(both.clients["b"], terms())
        assert (await part(both.clients["b"], import_id, body)).status_code == 204
        await recorded(worker)
        for client in both.clients.values():
            found = await done(client, import_id)
            assert (found["created"], found["refused"], found["lines"]) == (len(MIXED), 1, len(MIXED) + 2)
            assert found["unchanged"] + found["outvoted"] == 1
            lines = await verdicts(client, import_id)
            assert lines[: len(MIXED)] == [f"{line},created," for line in range(2, len(MIXED) + 2)]
            assert lines[-1] == f"{len(MIXED) + 3},refused,not_a_number"
            assert [each["import_id"] for each in (await client.get("/v1/imports")).json()["items"]] == [import_id]
        held = {name: {row[0] for row in await both.sql(name, SUBJECTS)} for name in HELD}
        assert held == {name: {subject(n) for n in MIXED if shard_of(subject(n)) == name} for name in HELD}
        again = await opened(both.clients["a"], terms())
        assert (await part(both.clients["a"], again, body)).status_code == 204
        await recorded(worker)
        assert (await done(both.clients["a"], again))["created"] == 0


async def test_after_a_crash_between_two_shards_the_counts_are_exact_and_nobody_is_twice(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "PIECE_LINES", 40)
    async with divided(surroundings, roles="api") as both, recording(both) as worker:
        assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
        import_id = await opened(both.clients["a"], terms())
        assert (await part(both.clients["a"], import_id, file_of(MIXED))).status_code == 204
        await both.sql("a", REFUSE_SETTLING)
        await both.sql("a", BEFORE_SETTLING)
        with pytest.raises(asyncpg.RaiseError, match="crashed"):
            await worker.record_piece()
        before = await both.counted("SELECT count(*) FROM evidence")
        assert (before["a"], before["b"] > 0) == (0, True), "the other shard has recorded its people"
        await both.sql("a", "DROP TRIGGER refuses ON import_piece")
        async with recording(both) as another:
            await recorded(another)
        found = await done(both.clients["a"], import_id)
        assert (found["created"], found["unchanged"], found["lines"]) == (len(MIXED), 0, len(MIXED))
        assert await verdicts(both.clients["a"], import_id) == [f"{n},created," for n in range(2, len(MIXED) + 2)]
        assert await both.counted("SELECT count(*) FROM evidence") == {
            name: sum(shard_of(subject(n)) == name for n in MIXED) for name in HELD
        }
        assert await both.counted("SELECT count(*) FROM subject WHERE entries <> 1") == {"a": 0, "b": 0}


REFUSE_SETTLING = """
CREATE FUNCTION refuses() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'crashed'; END $$
"""
BEFORE_SETTLING = "CREATE TRIGGER refuses BEFORE UPDATE ON import_piece FOR EACH ROW EXECUTE FUNCTION refuses()"


NEWS = [*SENDER["purposes"], {"id": "news", "wording": "Notre lettre par SMS"}]


async def test_lines_refused_at_first_and_valid_at_the_retry_are_recorded_by_the_other_shard(
    surroundings: Surroundings,
) -> None:
    """The share was recorded, the settling was not, and meanwhile the sender has a new purpose."""
    out, opted_in, *known = people("b", 5)
    lines = [f"{number(n)},opt_in,promotions,{AT}" for n in [*known, people("a")[0]]]
    lines += [f"{number(out)},opt_out,news,{AT}", f"{number(opted_in)},opt_in,news,{AT}"]
    body = "\n".join(["number,kind,purpose,occurred_at", *lines, ""])
    async with divided(surroundings, roles="api") as both, recording(both) as worker:
        client = both.clients["a"]
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        import_id = await opened(client, terms())
        assert (await part(client, import_id, body.encode())).status_code == 204
        await both.sql("a", REFUSE_SETTLING)
        await both.sql("a", BEFORE_SETTLING)
        with pytest.raises(asyncpg.RaiseError, match="crashed"):
            await worker.record_piece()
        assert await both.counted("SELECT count(*) FROM evidence") == {"a": 0, "b": len(known)}
        assert (await client.put("/v1/senders/acme", json=changed(purposes=NEWS))).status_code == 200
        await both.sql("a", "DROP TRIGGER refuses ON import_piece")
        async with recording(both) as another:
            await recorded(another)
        assert await verdicts(client, import_id) == [f"{line},created," for line in range(2, len(lines) + 2)]
        kept = await both.sql("b", "SELECT subject_id, kind FROM evidence WHERE purpose = 'news' ORDER BY kind")
        assert [tuple(row) for row in kept] == [(subject(opted_in), "opt_in"), (subject(out), "opt_out")]
        assert (await both.sql("b", "SELECT count(*) FROM evidence"))[0][0] == len(known) + 2


async def test_a_line_with_readings_of_both_shards_has_one_verdict(surroundings: Surroundings) -> None:
    """An opt-out covers each reading; the line is `created` if either is."""
    spans = {"a": "0-2", "b": "3"}
    async with divided(surroundings, roles="api", partitions=4, spans=spans) as both, recording(both) as worker:
        assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
        body = f"number\n{TYPED}\n"
        import_id = await opened(both.clients["a"], suppressions())
        assert (await part(both.clients["a"], import_id, body.encode())).status_code == 204
        await recorded(worker)
        body = f"number\n{EITHER}\n{number(1)}\n"
        for created in (2, 0):
            import_id = await opened(both.clients["a"], suppressions())
            assert (await part(both.clients["a"], import_id, body.encode())).status_code == 204
            await recorded(worker)
            found = await done(both.clients["a"], import_id)
            assert (found["created"], found["unchanged"], found["lines"]) == (created, 2 - created, 2)
        counted = "SELECT count(*) FROM subject WHERE subject_id = ANY($1)"
        for shard, which in (("a", TYPED), ("b", RECEIVED)):
            assert (await both.sql(shard, counted, [subject_keys.subject_id(which)]))[0][0] == 1


async def test_an_erasure_takes_an_upload_that_may_name_the_person_from_the_other_shard(
    surroundings: Surroundings,
) -> None:
    async with divided(surroundings, roles="api") as both:
        assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
        import_id = await opened(both.clients["a"], terms())
        assert (await part(both.clients["a"], import_id, file_of(MIXED), last=False)).status_code == 204
        await both.sql("a", "UPDATE import_file SET touched_at = now() - interval '1 day'")
        async with both.shards("b") as shards:
            whom = Whom(subject(people("b")[0]), None)
            asked = ErasureRequested(erasure_id="e", **whom._asdict(), requested_at=datetime.now(UTC))
            async with shards.own.database.begin() as tx:
                await erasing.put(tx, asked)
                await erase(tx, {whom: asked.requested_at}, shards.first.database)
        assert (await both.clients["a"].get(f"/v1/imports/{import_id}")).status_code == 404


FILL = (
    "INSERT INTO outbox (event_id, topic, key, type, payload)"
    " SELECT gen_random_uuid(), 'x', '', 'x', '' FROM generate_series(1, 20)"
)


async def test_a_full_outbox_of_a_shard_holds_up_the_files_with_its_people_alone(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both, recording(both, backlog=10) as worker:
        client = both.clients["a"]
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        mixed, of_a = sorted([await opened(client, terms()) for _ in range(2)])
        for import_id, who in ((mixed, MIXED), (of_a, people("a"))):
            assert (await part(client, import_id, file_of(who))).status_code == 204
        await both.sql("b", FILL)
        assert [await worker.record_piece() for _ in range(3)] == [False, True, False]
        assert (await done(client, of_a))["created"] == 3
        [waiting] = await both.sql("a", "SELECT body FROM import_piece WHERE body IS NOT NULL")
        restored = "UPDATE import_piece SET body = $1 WHERE body IS NOT NULL"
        await both.sql("a", restored, b"unreadable")
        assert not await worker.record_piece(), "a piece that waits is not even read"
        await both.sql("a", restored, waiting["body"])
        await both.sql("b", "DELETE FROM outbox WHERE topic = 'x'")
        await recorded(worker)
        found = await done(client, mixed)
        assert found["created"] + found["unchanged"] == len(MIXED)


async def test_a_file_waits_while_a_shard_with_lines_is_away_or_full(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        assert (await both.clients["a"].post("/v1/senders", json=SENDER)).status_code == 201
        import_id = await opened(both.clients["a"], terms())
        assert (await part(both.clients["a"], import_id, file_of(MIXED))).status_code == 204
        await both.sql("b", FILL)
        async with recording(both, backlog=10) as full:
            assert not await full.record_piece()
        cut_off = await settings(surroundings, both.urls | {"b": NOWHERE}, "a", roles="api")
        async with held_by(build(cut_off)) as (held, _):
            with pytest.raises(ConnectionRefusedError):
                await Importing(held, backlog=1000).record_piece()
        assert await both.counted("SELECT count(*) FROM subject") == {"a": 0, "b": 0}
        async with recording(both) as worker:
            await recorded(worker)
        assert (await done(both.clients["a"], import_id))["created"] == len(MIXED)


async def consented(both: Divided, *which: int, **changes: Any) -> list[str]:
    """Record consents; return the ids of their evidence."""
    items = [consent(number=number(n), **changes) for n in which]
    answer = await both.clients["a"].post("/v1/consents/batch", json={"items": items})
    assert answer.json()["counts"]["recorded"] == len(which), answer.text
    return [each["evidence_id"] for each in answer.json()["results"]]


async def paged(client: httpx.AsyncClient, path: str, **query: Any) -> list[dict[str, Any]]:
    """Every item of a list, page by page."""
    items: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": None}
    while not items or page["next"] is not None:
        page = (await client.get(path, params=query | ({"cursor": page["next"]} if items else {}))).json()
        items += page["items"]
    return items


async def registered(both: Divided, **changes: Any) -> None:
    assert (await both.clients["a"].post("/v1/senders", json=SENDER | changes)).status_code == 201


async def test_a_providers_list_is_reconciled_with_the_people_of_each_shard(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        await registered(both)
        await consented(both, *EVERYBODY[:5], *people("b"))
        only_here = [people("a", 9)[8], people("b", 9)[8]]
        for n in only_here:
            assert (await both.clients["b"].post("/v1/opt-outs", json=opt_out(number=number(n)))).status_code == 201
        listed = [*EVERYBODY[:5], *people("b")]
        body = {"sender_id": "acme", "provider": "ovh", "list": "number\n" + "\n".join(map(number, listed))}
        for missing in (len(listed), 0):
            answer = await both.clients["b"].post("/v1/reconciliations", json=body)
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert (found["listed"], found["missing_here"]) == (len(listed), missing)
            assert (found["known_opted_out"], found["only_here"]) == (len(listed) - missing, 2)
        stops = "SELECT count(*) FROM evidence WHERE kind = 'opt_out'"
        assert await both.counted(stops) == {"a": 6, "b": 4}


async def test_the_endings_of_both_shards_are_one_list_and_one_count(surroundings: Surroundings) -> None:
    """Of people of one end too: as an import of one day has thousands."""
    async with divided(surroundings, roles="api") as both:
        await registered(both, purposes=[SENDER["purposes"][0] | {"retention_months": 6}])
        soon, later = last(1), last(2)
        await consented(both, *people("a", 5), *people("b", 5), occurred_at=soon)
        await consented(both, *people("a", 7)[5:], *people("b", 7)[5:], occurred_at=later)
        path = "/v1/senders/acme/endings"
        for client in both.clients.values():
            whole = (await client.get(path, params={"months": 6, "limit": 100})).json()["items"]
            assert [each["ends_at"] for each in whole] == sorted(each["ends_at"] for each in whole)
            assert len({each["subject_id"] for each in whole}) == 14
            assert await paged(client, path, months=6, limit=3) == whole
            months = (await client.get(f"{path}/months", params={"months": 6})).json()["items"]
            assert [each["consents"] for each in months] == [10, 4]


async def test_interactions_are_recorded_in_the_shard_of_each_person(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        await registered(both)
        known = [*people("a", 2), *people("b", 2)]
        await consented(both, *known, occurred_at="2025-11-02T09:00:00Z")
        items = [
            {
                "sender_id": "acme",
                "number": number(n),
                "occurred_at": "2026-03-02T14:05:00+01:00",
                "evidence": {"source": "shop", "sale_reference": "1"},
            }
            for n in (*known, people("b", 9)[8])
        ]
        for times, key in ((1, "first"), (1, "first"), (0, "second")):
            headers = {"Idempotency-Key": key}
            answer = await both.clients["b"].post("/v1/interactions", json={"items": items}, headers=headers)
            assert answer.status_code == 200, answer.text
            assert answer.json()["counts"] == {"recorded": 4 * times, "unchanged": 5 - 4 * times, "refused": 0}
        contacts = "SELECT count(*) FROM evidence WHERE kind = 'contact'"
        assert await both.counted(contacts) == {"a": 2, "b": 2}


async def test_what_left_after_a_stop_is_listed_over_both(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        await registered(both)
        for n, (name, at) in enumerate([("a", 1), ("b", 2), ("a", 3), ("b", 4), ("b", 5)]):
            who = subject(people(name, 9)[n])
            await both.sql(
                name,
                "INSERT INTO retroactive_message (message_id, subject_id, sender_id, purpose, handed_off_at,"
                " evidence_id, stopped_at, known_at, in_doubt, found_at) VALUES ($1, $2, 'acme', 'promotions',"
                " now(), 'stop', now(), now(), false, now() + make_interval(secs => $3))",
                f"m{at}",
                who,
                float(at),
            )
        for client in both.clients.values():
            told = await paged(client, "/v1/retroactive-messages", limit=2)
            assert [each["message_id"] for each in told] == ["m1", "m2", "m3", "m4", "m5"]


async def sealed(both: Divided) -> None:
    """Seal what each ledger has."""
    for name in both.urls:
        async with both.shards(name) as shards:
            sealing = Sealing(shards.own.database, 5.0, Settling(shards.own.database, "evidence"))

            async def is_done(sealing: Sealing = sealing, name: str = name) -> bool:
                await sealing.seal_settled()
                query = "SELECT coalesce(max(ordinal), 0) <= coalesce((SELECT max(last) FROM seal), 0) FROM evidence"
                return bool((await both.sql(name, query))[0][0])

            await eventually(is_done)


async def problems(both: Divided, name: str, pins: Mapping[int, str] | None = None) -> list[str]:
    """What `verify` finds in a database."""
    async with both.shards(name) as shards:
        lines = [line async for line in verified(shards.own.database, subject_keys.inner, pins or {})]
    return [line for line, problem in lines if problem]


async def test_each_shard_has_a_ledger_and_seals_of_its_own_and_proves_its_people(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        await registered(both)
        a, b = people("a", 1)[0], people("b", 1)[0]
        evidence = await consented(both, a, b)
        await sealed(both)
        for name in HELD:
            assert await problems(both, name) == []
            seal = (await both.clients["a"].get("/v1/seals/newest", params={"shard": name})).json()
            assert (seal["shard"], seal["number"], seal["entries"]) == (name, 1, 1)
            assert await problems(both, name, {seal["number"]: seal["hash"]}) == []
            listed = (await both.clients["b"].get("/v1/seals", params={"shard": name})).json()["items"]
            assert listed == [seal]
        newest = [(await client.get("/v1/seals/newest")).json() for client in both.clients.values()]
        assert [each["shard"] for each in newest] == ["a", "a"]
        assert newest[0]["hash"] != seal["hash"]
        assert (await both.clients["a"].get("/v1/seals", params={"shard": "c"})).status_code == 404
        trusted = PublicKeys((await both.clients["a"].get("/.well-known/jwks.json")).json())
        for client in both.clients.values():
            for n, evidence_id in zip((a, b), evidence, strict=True):
                receipt = await client.get(f"/v1/receipts/{evidence_id}")
                assert receipt.json()["evidence_id"] == evidence_id
                bundle = await client.post("/v1/proofs", json={"number": number(n)})
                report = check(bundle.content.splitlines(keepends=True), trusted)
                assert (report.problems, len(report.subjects), len(report.entries)) == ([], 1, 1)
            assert (await client.get("/v1/receipts/unknown")).status_code == 404


async def test_the_checksum_is_of_the_people_of_all_shards_and_of_the_first_alone(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles="api") as both:
        await registered(both)
        await consented(both, *EVERYBODY[:4], *people("b"))
        async with both.shards("b") as shards:
            assert Summing(shards, 1.0).workers() == []
        async with both.shards("a") as shards:
            [worker] = Summing(shards, 1.0).workers()
            assert worker.name == "sums"
            await Summing(shards, 1.0).sum_up()
        query = "SELECT payload FROM outbox WHERE topic = 'consent.sums.v1'"
        [told] = [msgspec.json.decode(row[0], type=StatesSummed) for row in await both.sql("a", query)]
        assert await both.sql("b", query) == []
        assert sum(many for many, _ in told.sums.values()) == 7
        assert told.sums.keys() == {subject(n)[-SLICE:] for n in (*EVERYBODY[:4], *people("b"))}


async def test_the_states_of_a_partition_are_published_again_by_its_shard(surroundings: Surroundings) -> None:
    async with divided(surroundings, roles=CALLED) as both:
        await registered(both)
        await consented(both, *people("a", 2), *people("b", 2))
        await eventually(both.nothing_waits)
        arguments = ["--partition", "2"]
        assert await asyncio.to_thread(republishing.run, both.settings["a"], arguments) == 0
        told = [(record.partition, record.key) for record in await published(both.settings["a"], STATES)]
        assert sorted(who for _, who in told) == sorted(subject(n) for n in (*people("a", 2), *(people("b", 2) * 2)))
        assert [partition for partition, _ in told] == [partition_of(who, 3) for _, who in told]


# --- divide ---------------------------------------------------------------------------------------------------------

OF_PEOPLE = (
    "SELECT table_name FROM information_schema.columns WHERE column_name = 'subject_id' AND table_schema = 'public'"
    " AND table_name <> 'audit_line'"
)


async def divide(surroundings: Surroundings, url: str) -> Divided:
    """Make a database, which nobody uses, that of shard a, and its copy that of shard b."""
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM outbox")  # as if the relay had gone on alone
    await connection.close()
    of = {"a": url, "b": await surroundings.postgres.copy(url, f"b_{surroundings.unique}")}
    for name in of:
        database = Database(of[name], name="consent-divide")
        for _ in range(2):  # an interrupted run is run again
            await division.divide(database, TABLES, HELD[name], 3)
        await database.close()
    each = {name: await settings(surroundings, of, name, roles="api") for name in of}
    return Divided(surroundings, of, {}, each)


async def people_held(both: Divided, name: str) -> set[str]:
    """Everybody in any table of a database."""
    tables = [row[0] for row in await both.sql(name, OF_PEOPLE)]
    assert len(tables) > 12
    return {row[0] for table in tables for row in await both.sql(name, f"SELECT subject_id FROM {table}")}


async def audit(both: Divided, name: str) -> tuple[list[Finding], Audit]:
    async with both.shards(name) as shards, shards.own.database.begin() as tx:
        return await audited(tx)


async def test_the_ledger_of_each_part_holds_under_the_seals_of_before(surroundings: Surroundings) -> None:
    """With stubs of ended entries, and entries that no seal was on."""
    url = await surroundings.database("consent")
    database = Database(url)
    await write(database)
    await end(database)
    unsealed = [*people("a", 5)[3:], *people("b", 5)[3:]]
    async with database.begin() as tx:
        for n in unsealed:
            await say(tx, subject(n), opt_in(evidence_id=f"late-{n}"), datetime.now(UTC))
        await division.claim(tx, range(3), [], 3)
        of_whole = (await audited(tx))[1]
    await database.close()
    both = await divide(surroundings, url)
    for name in HELD:
        held = await people_held(both, name)
        assert {shard_of(who) for who in held} == {name}
        found, of_part = await audit(both, name)
        assert found == []
        assert of_part.entries + of_part.moved.leaves == of_whole.entries == 12
        assert 0 < of_part.moved.leaves < 12
        assert of_part.seals == of_whole.seals == 2
    assert (await audit(both, "a"))[1].ended + (await audit(both, "b"))[1].ended == of_whole.ended == 2
    for name in HELD:
        async with both.shards(name) as shards, shards.own.database.begin() as tx:
            await say(tx, subject(people(name, 7)[6]), opt_in(evidence_id="after"), datetime.now(UTC))
            await seal(tx, datetime.now(UTC))
        root = (await audit(both, name))[1].moved.root
        found, of_part = await audit(both, name)
        assert (found, of_part.unsealed, of_part.seals) == ([], 0, 3)
        assert of_part.moved.root == root
        [said] = [line for line in await told(both, name) if "another shard" in line]
        assert said.endswith(root)
        for refused in (
            "DELETE FROM moved_entry",
            "UPDATE moved_entry SET hash = 'x'",
            "INSERT INTO moved_entry SELECT ordinal, recorded_at, hash FROM evidence",
            "DELETE FROM evidence",
            "DELETE FROM ended_entry" if shard_of(ERASED) == name else "TRUNCATE ended_entry",
        ):
            with pytest.raises(asyncpg.RaiseError, match="append-only"):
                await both.sql(name, refused)


async def told(both: Divided, name: str) -> list[str]:
    """What `verify` prints of a database."""
    async with both.shards(name) as shards:
        return [line async for line, _ in verified(shards.own.database, subject_keys.inner, {})]


BREAK_OFF = """
CREATE FUNCTION breaks_off() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken off'; END $$
"""
PRIVATE = (
    "INSERT INTO double_opt_in SELECT $1, $2, 'sealed', 'acme', 'promotions', '36111', true, NULL, now(), now(), false,"
    " false",
    "INSERT INTO preference_link SELECT $1, $2, 'sealed', 'acme', NULL, now(), now()",
)


async def test_a_division_broken_off_at_any_table_goes_on_and_the_pins_of_before_hold(
    surroundings: Surroundings,
) -> None:
    """No process starts meanwhile. With STOPs of every sender, stubs, erasures, questions, links and two seals."""
    url = await surroundings.database("consent")
    database = Database(url)
    await write(database)
    await end(database)
    which = [*people("a", 4), *people("b", 4)]
    async with database.begin() as tx:
        for n in which:
            said = [opt_in(evidence_id=f"late-{n}"), stop(evidence_id=f"stop-{n}", sender_id=None, purpose=None)]
            for one in said:
                await say(tx, subject(n), one, datetime.now(UTC))
            for statement in PRIVATE:
                await fetch_many(tx, statement, f"private-{n}", subject(n))
        await seal(tx, datetime.now(UTC))
        await division.claim(tx, range(3), [], 3)
        whole = (await audited(tx))[1]
        rows = await fetch_many(tx, "SELECT number, hash FROM seal ORDER BY number")
        await fetch_many(tx, "DELETE FROM outbox")
    pins: dict[int, str] = dict(map(tuple, rows))
    await database.close()
    of = {"a": url, "b": await surroundings.postgres.copy(url, f"b_{surroundings.unique}")}
    both = Divided(surroundings, of, {}, {name: await settings(surroundings, of, name) for name in of})
    for name in of:
        database = Database(of[name], name="consent-divide")
        await both.sql(name, BREAK_OFF)
        for table in ("subject", "evidence", "consumer_offset"):
            named = f"breaks_off BEFORE DELETE ON {table}"
            await both.sql(name, f"CREATE TRIGGER {named} FOR EACH STATEMENT EXECUTE FUNCTION breaks_off()")
            with pytest.raises(asyncpg.RaiseError, match="broken off"):
                await division.divide(database, TABLES, HELD[name], 3)
            with pytest.raises(OtherShard, match="run `divide` to its end"):
                async with database.begin() as tx:
                    await division.claim(tx, HELD[name], [], 3)
            await both.sql(name, f"DROP TRIGGER breaks_off ON {table}")
        await division.divide(database, TABLES, HELD[name], 3)
        lines = [line async for line in verified(database, inner, pins)]
        assert [line for line, problem in lines if problem] == []
        assert f"{len(pins)} seals; 0 entries are not sealed yet" in [line for line, _ in lines]
        forged = {**pins, min(pins): "0" * 64}
        assert [line async for line, problem in verified(database, inner, forged) if problem]
        await database.close()
        assert {shard_of(who) for who in await people_held(both, name)} == {name}
        for table in ("double_opt_in", "preference_link"):
            held = {row[0] for row in await both.sql(name, f"SELECT subject_id FROM {table}")}
            assert held == {subject(n) for n in which if shard_of(subject(n)) == name}
    parts = [(await audit(both, name))[1] for name in HELD]
    assert sum(each.entries for each in parts) == whole.entries
    assert [each.entries + each.moved.leaves for each in parts] == [whole.entries] * 2


STAY = {
    "alembic_version": "of the schema",
    "audit_line": "what callers did, of no one shard",
    "consumer_offset": "cut by its partition",
    "controller": "the registry",
    "copy_part": "goes with its copy",
    "dead_letter": "cut by its partition",
    "double_opt_in_pace": "under keyed hashes, gone within a month",
    "erasure_ack": "goes with its erasure",
    "import_share": "verdicts by line, of nobody",
    "keyed_request": "a key is known to each part until its term",
    "moved_entry": "the places of others' entries",
    "organisation": "the registry",
    "outbox": "empty, or there is no division",
    "outbox_log": "numbers by topic and partition",
    "owned_name": "the registry",
    "reopening_rule": "the registry",
    "retention_recount": "a sender's, in each shard",
    "retroactive_cursor": "ordinals, which stay",
    "seal": "verified by each part",
    "sender": "the registry",
    "sender_version": "the registry",
    "shard": "the division itself",
    "subject_key": "fingerprints of the keys",
}


async def test_each_table_goes_by_the_person_or_with_the_first_shard_or_is_said_to_stay(
    surroundings: Surroundings,
) -> None:
    """A file that stayed in a part without workers would keep its encrypted numbers for ever."""
    connection = await asyncpg.connect(await surroundings.database("consent"))
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    finally:
        await connection.close()
    treated = {*TABLES.placed, *TABLES.of_people, *TABLES.emptied, *TABLES.of_all}
    assert not treated & STAY.keys()
    assert {row[0] for row in rows} == treated | STAY.keys()


async def test_a_person_taken_away_after_a_division_shows_in_the_root(surroundings: Surroundings) -> None:
    """Whoever may disable triggers may write a place as if the person had moved: the seals hold."""
    url = await surroundings.database("consent")
    database = Database(url)
    await write(database)
    async with database.begin() as tx:
        await division.claim(tx, range(3), [], 3)
    await database.close()
    both = await divide(surroundings, url)
    [name] = {shard_of(OPEN)}
    before = (await audit(both, name))[1].moved.root
    async with both.shards(name) as shards, shards.own.database.begin() as tx:
        await tx.execute(text("SET LOCAL session_replication_role = replica"))
        values = {"who": OPEN}
        await tx.execute(
            text("INSERT INTO moved_entry SELECT ordinal, recorded_at, hash FROM evidence WHERE subject_id = :who"),
            values,
        )
        await tx.execute(text("DELETE FROM evidence WHERE subject_id = :who"), values)
        await tx.execute(text("DELETE FROM subject WHERE subject_id = :who"), values)
    found, of_part = await audit(both, name)
    assert found == []
    assert of_part.moved.root != before


async def test_what_one_database_began_two_go_on_with(surroundings: Surroundings) -> None:
    """The registry and the Idempotency-Keys are in both parts, a file that waits is in the first."""
    whole = Settings(**await surroundings.settings("consent", roles="api"))
    which = [*people("a", 3), *people("b", 3)]
    async with running(build(whole)) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        assert (await client.post(RULES, json={"purpose": "promotions", "reason": "Signed forms"})).status_code == 201
        items = [consent(number=number(n)) for n in which]
        key = {"Idempotency-Key": "before"}
        first = await client.post("/v1/consents/batch", json={"items": items}, headers=key)
        assert first.json()["counts"]["recorded"] == 6
        import_id = await opened(client, terms())
        assert (await part(client, import_id, file_of(MIXED))).status_code == 204
    both = await divide(surroundings, await surroundings.database("consent"))
    assert await same(both) == await both.registry("a")
    for name in HELD:
        assert await people_held(both, name) == {subject(n) for n in which if shard_of(subject(n)) == name}
        assert await problems(both, name) == []
    assert await both.counted("SELECT count(*) FROM import_piece") == {"a": 1, "b": 0}
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(running(build(each))) for each in both.settings.values()]
        for client in clients:
            again = await client.post("/v1/consents/batch", json={"items": items}, headers=key)
            assert again.json() == first.json(), "the key is known to both parts"
        async with recording(both) as worker:
            await recorded(worker)
        for client in clients:
            found = await done(client, import_id)
            assert found["created"] + found["unchanged"] == len(MIXED)
            assert (await client.post("/v1/senders", json=SENDER)).status_code == 200
    assert await both.counted("SELECT count(*) FROM subject") == {
        name: sum(shard_of(subject(n)) == name for n in MIXED) for name in HELD
    }
