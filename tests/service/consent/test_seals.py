"""Seals on the whole ledger: nothing slips between two, and whatever is done to the past is found."""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.rights import ErasureRequested
from common.db.database import Database
from common.privacy.erasing import Whom, put
from common.privacy.signing import PublicKeys
from consent.ledger import recorder, store
from consent.ledger.chain import GENESIS, Entry, chained
from consent.ledger.recorder import Statement, record
from consent.ledger.rules import Evidence, fold
from consent.proof import sealing, seals, verify_ledger
from consent.proof.audit import Audit, Finding
from consent.proof.sealing import Sealing
from consent.proof.settling import Settling
from consent.schema import metadata
from consent.service import Settings, build
from tests.support.builders import inner
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.support.running import SUBJECT_RING, Surroundings, bearer, running
from tests.unit.consent.evidences import contact, opt_in, opt_out, stop

PEOPLE = [f"t1-{n:032x}" for n in range(4)]


def sealer(database: Database) -> Sealing:
    return Sealing(database, 5.0, Settling(database, "evidence"))


async def say(tx: AsyncConnection, who: int, minutes: float, **changes: Any) -> None:
    evidence = opt_in(minutes, evidence_id=f"ev-{who}-{minutes}", **changes)
    await record(tx, inner, [Statement(PEOPLE[who], "sealed", evidence)], datetime.now(UTC))


async def covered(database: Database) -> list[int]:
    """How many entries each seal is on."""
    async with database.begin() as tx:
        return [seal.entries async for seal in sealing.all_seals(tx)]


async def found_in(tx: AsyncConnection, pins: Mapping[int, str] | None = None) -> list[Finding]:
    return [found async for found in Audit(tx, inner, pins or {}).findings()]


async def found(database: Database, pins: Mapping[int, str] | None = None) -> list[Finding]:
    async with database.begin() as tx:
        return await found_in(tx, pins)


# --- nothing slips between --------------------------------------------------------------------------------------------


async def test_what_commits_late_is_under_one_seal_with_what_overtook_it(database: Database) -> None:
    """The first to be given a place commits last; another is rolled back and leaves a gap."""
    sealing_ = sealer(database)
    async with database.engine.connect() as slow, database.engine.connect() as crashed:
        await say(slow, 0, 1)
        await say(crashed, 1, 1)
        async with database.begin() as tx:
            await say(tx, 2, 1)
        assert not await sealing_.seal_settled()
        await crashed.rollback()
        assert not await sealing_.seal_settled()
        assert await covered(database) == [], "one of them is still on its way"
        await slow.commit()
    await sealed_at_last(database, sealing_, [2])
    async with database.begin() as tx:
        await say(tx, 3, 1)
    await sealed_at_last(database, sealing_, [2, 1])
    assert await found(database) == []


async def sealed_at_last(database: Database, sealing_: Sealing, on: list[int]) -> None:
    """Whatever else the server has open at this moment ends as well."""

    async def sealed() -> bool:
        await sealing_.seal_settled()
        return sum(await covered(database)) == sum(on)

    await eventually(sealed)
    assert await covered(database) == on


async def test_many_who_record_and_two_who_seal_leave_every_entry_under_exactly_one_seal(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In many seals, of a few entries at most."""
    monkeypatch.setattr(sealing, "AT_ONCE", 7)
    writing = asyncio.Event()

    async def writer(name: int) -> None:
        rng = random.Random(name)
        for turn in range(25):
            async with database.engine.connect() as connection:
                for who in sorted(rng.sample(range(4), rng.randint(1, 2))):
                    identity = f"ev-{name}-{turn}-{who}"
                    statement = Statement(PEOPLE[who], "sealed", opt_in(turn, evidence_id=identity))
                    await record(connection, inner, [statement], datetime.now(UTC))
                await (connection.rollback() if rng.random() < 0.2 else connection.commit())

    async def seals_meanwhile() -> None:
        mine = sealer(database)
        while not writing.is_set():
            await mine.seal_settled()

    sealers = [asyncio.create_task(seals_meanwhile()) for _ in range(2)]
    await asyncio.gather(*(writer(name) for name in range(4)))
    writing.set()
    await asyncio.gather(*sealers)

    async def all_sealed() -> bool:
        await sealer(database).seal_settled()
        async with database.begin() as tx:
            audit = Audit(tx, inner)
            assert [found async for found in audit.findings()] == []
        return audit.unsealed == 0

    await eventually(all_sealed)
    async with database.begin() as tx:
        entries = await tx.scalar(text("SELECT count(*) FROM evidence"))
    on = await covered(database)
    assert sum(on) == entries
    assert len(on) > 5
    assert max(on) <= 7


# --- whatever is done to the past is found ----------------------------------------------------------------------------

COLUMNS = {
    "evidence": [column.name for column in metadata.tables["evidence"].columns],
    "seal": [column.name for column in metadata.tables["seal"].columns],
    "subject": ["subject_id", "entries", "head", "state"],
}
FREE = ("text", "jsonb")  # where any byte may stand; elsewhere only digits are changed
EVERY_COLUMN = [(table, column) for table, columns in COLUMNS.items() for column in columns]


AS_IT_COMES: dict[str, Any] = {  # a failure names row, column and byte: nothing to be made smaller
    "deadline": None,
    "phases": [Phase.generate],
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
}


class Past:
    """A ledger of some people with all there can be in it, sealed in pieces; and somebody who may do anything to it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.pin: dict[int, str] = {}

    async def write(self) -> None:
        """Five seals on some fifteen entries: texts, empty fields, a STOP, an erasure, and what came late."""
        sealing_ = sealer(self.database)
        for turn in range(4):
            async with self.database.begin() as tx:
                for who in range(3):
                    await say(tx, who, turn, **({"actor": "agent-é", "sale_reference": "T-1"} if who == turn else {}))
            if turn == 2:
                await self._stop_and_erase()
            await sealed_at_last(self.database, sealing_, [3, 3, 4, 3][: turn + 1])
        async with self.database.begin() as tx:
            plain = [contact(9, evidence_id="ev-contact"), opt_out(10, evidence_id="ev-out")]
            await record(tx, inner, [Statement(PEOPLE[3], None, each) for each in plain], datetime.now(UTC))
        await sealed_at_last(self.database, sealing_, [3, 3, 4, 3, 2])
        async with self.database.begin() as tx:
            newest = await sealing.newest(tx)
            assert newest is not None
            self.pin = {newest.number: newest.hash}
            audit = Audit(tx, inner, self.pin)
            assert [found async for found in audit.findings()] == []
            assert (audit.seals, audit.unsealed, audit.erased) == (5, 0, 5)
        async with self.database.begin() as tx:  # what an owner of the tables can do away with
            for table, name in (await tx.execute(text(CONSTRAINTS))).all():
                await tx.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
            await tx.execute(text("DROP INDEX evidence_ordinal_ix"))
            await tx.execute(text("ALTER TABLE evidence ALTER ordinal DROP IDENTITY"))

    async def _stop_and_erase(self) -> None:
        now = datetime.now(UTC)
        async with self.database.begin() as tx:
            out = stop(60, sender_id=None, evidence_id="ev-stop")
            await record(tx, inner, [Statement(PEOPLE[0], "sealed", out, erases=True)], now)
            whom = Whom(PEOPLE[0], None)
            await put(tx, ErasureRequested(erasure_id="e1", **whom._asdict(), requested_at=now))
            assert await recorder.erase(tx, {whom: now}) == {whom: 4}

    @asynccontextmanager
    async def attacked(self) -> AsyncIterator[AsyncConnection]:
        """A transaction in which no trigger stands in the way, and of which nothing stays."""
        async with self.database.engine.connect() as tx:
            await tx.execute(text("SET LOCAL session_replication_role = replica"))
            yield tx
            await tx.rollback()


CONSTRAINTS = (
    "SELECT CAST(conrelid AS regclass)::text, conname FROM pg_constraint"
    " WHERE conrelid::regclass::text IN ('evidence', 'seal', 'subject') AND contype IN ('p', 'u', 'c')"
)


@pytest.fixture
def past(runner: asyncio.Runner, postgres: Postgres, unique: str) -> Iterator[Past]:
    written = Past(Database(runner.run(postgres.clone("consent", f"consent_{unique}"))))
    try:
        runner.run(written.write())
        yield written
    finally:
        runner.run(written.database.close())


async def rows_of(tx: AsyncConnection, table: str) -> list[str]:
    rows = await tx.execute(text(f"SELECT ctid::text FROM {table} ORDER BY 1"))
    return [row.ctid for row in rows]


@settings(max_examples=25, **AS_IT_COMES)
@given(data=st.data())
def test_any_other_byte_in_any_column_of_any_past_row_is_found(
    runner: asyncio.Runner, past: Past, data: st.DataObject
) -> None:
    """Each example changes every column there is, each time in another row and place."""

    async def changed(table: str, column: str) -> tuple[str, list[Finding]]:
        """What Postgres itself takes for no value of the type, or for the same one, counts as found."""
        async with past.attacked() as tx:
            row = data.draw(st.sampled_from(await rows_of(tx, table)))
            kind, before = (
                await tx.execute(
                    text(f"SELECT pg_typeof({column})::text, {column}::text FROM {table} WHERE ctid::text = :r"),
                    {"r": row},
                )
            ).one()
            if before is None:
                after = data.draw(st.sampled_from(["opt_in", "", "x"])) if kind == "text" else None
            elif not before:
                after = "x"
            else:
                digits = [n for n, byte in enumerate(before) if byte.isdigit()]
                place = data.draw(st.sampled_from(range(len(before)) if kind in FREE else digits))
                others = "0123456789" + "abcdefxyzABC\"':,.-+ {}é" * (kind in FREE)
                byte = data.draw(st.sampled_from(others).filter(before[place].__ne__))
                after = before[:place] + byte + before[place + 1 :]
            what = f"{table}.{column} of {row}: {before!r} to {after!r}"
            try:
                done = await tx.execute(
                    text(
                        f"UPDATE {table} SET {column} = CAST(CAST(:after AS text) AS {kind}) WHERE ctid::text = :row"
                        f" AND {column} IS DISTINCT FROM CAST(CAST(:after AS text) AS {kind})"
                    ),
                    {"after": after, "row": row},
                )
            except DBAPIError:
                return what, [Finding("Postgres", "no value of that type")]
            if done.rowcount == 0:
                return what, [Finding("Postgres", "the same value, written otherwise")]
            return what, await found_in(tx)

    for table, column in EVERY_COLUMN:
        what, findings = runner.run(changed(table, column))
        assert findings, f"not found: {what}"


@settings(max_examples=150, **AS_IT_COMES)
@given(data=st.data())
def test_any_row_taken_out_put_in_or_swapped_is_found(runner: asyncio.Runner, past: Past, data: st.DataObject) -> None:
    """The tail as well; of the seals, by the pin."""

    async def done() -> tuple[str, list[Finding]]:
        async with past.attacked() as tx:
            table = data.draw(st.sampled_from(sorted(COLUMNS)))
            how = data.draw(st.sampled_from(["take out", "empty", "put in", "swap"]))
            rows = await rows_of(tx, table)
            row = data.draw(st.sampled_from(rows))
            what = f"{how} {row} of {table}"
            match how:
                case "take out":
                    await tx.execute(text(f"DELETE FROM {table} WHERE ctid::text = :row"), {"row": row})
                case "empty":
                    column = data.draw(st.sampled_from(COLUMNS[table]))
                    what += f" ({column})"
                    assume(await emptied(tx, table, column, row))
                case "put in":
                    key = {"evidence": "ordinal", "seal": "number", "subject": "entries"}[table]
                    copied = (
                        f"INSERT INTO {table} SELECT (jsonb_populate_record(o, jsonb_build_object('{key}', o.{key} + 1"
                    )
                    copied += ", 'subject_id', 't1-of-nobody')))" if table == "subject" else ")))"
                    await tx.execute(text(f"{copied}.* FROM {table} AS o WHERE ctid::text = :row"), {"row": row})
                case "swap":
                    other = data.draw(st.sampled_from(rows).filter(row.__ne__))
                    column = data.draw(st.sampled_from(COLUMNS[table]))
                    what += f" with {other} ({column})"
                    swapped = await tx.execute(
                        text(
                            f"UPDATE {table} AS a SET {column} = b.{column} FROM {table} AS b"
                            " WHERE a.ctid::text = ANY(:rows) AND b.ctid::text = ANY(:rows)"
                            f" AND a.ctid <> b.ctid AND a.{column} IS DISTINCT FROM b.{column}"
                        ),
                        {"rows": [row, other]},
                    )
                    assume(swapped.rowcount == 2)
            return what, await found_in(tx, past.pin)

    what, findings = runner.run(done())
    assert findings, f"not found: {what}"


async def emptied(tx: AsyncConnection, table: str, column: str, row: str) -> bool:
    """Whether there was something, and Postgres let go of it."""
    try:
        done = await tx.execute(
            text(f"UPDATE {table} SET {column} = NULL WHERE ctid::text = :row AND {column} IS NOT NULL"),
            {"row": row},
        )
    except DBAPIError:
        return False
    return done.rowcount == 1


async def rewrite(tx: AsyncConnection, entries: list[Entry]) -> None:
    """A subject's whole chain, its head and its state, anew, as if it had always been so: all that holds of them by
    themselves."""
    subject_id = entries[0].subject_id
    await tx.execute(
        text("DELETE FROM evidence WHERE subject_id = :id AND position > :last"),
        {"id": subject_id, "last": len(entries)},
    )
    head = GENESIS
    told: list[Evidence] = []
    for position, entry in enumerate(entries, start=1):
        assert entry.salt is not None
        again = chained(subject_id, inner(subject_id), position, entry.evidence, entry.recorded_at, head, entry.salt)
        await tx.execute(
            text(
                "UPDATE evidence SET kind = :kind, occurred_at = :at, basis = :basis, sealed = :sealed, hash = :hash"
                " WHERE subject_id = :id AND position = :position"
            ),
            {
                "kind": again.evidence.kind,
                "at": again.evidence.occurred_at,
                "basis": again.evidence.basis,
                "sealed": again.sealed,
                "hash": again.hash,
                "id": subject_id,
                "position": position,
            },
        )
        head, told = again.hash, [*told, again.evidence]
    (subject,) = (await store.lock_subjects(tx, {}, [subject_id])).values()
    state = fold(told)
    await store.put_subjects(tx, [replace(subject, entries=len(entries), head=head, state=state)], datetime.now(UTC))


@pytest.mark.parametrize("how", ["a time of long ago", "the tail gone"])
@pytest.mark.parametrize("who", [1, 2])
def test_a_chain_written_anew_from_end_to_end_is_found_by_the_seals_alone(
    runner: asyncio.Runner, past: Past, how: str, who: int
) -> None:
    async def done() -> list[Finding]:
        async with past.attacked() as tx:
            entries = await store.history(tx, PEOPLE[who])
            if how == "the tail gone":
                entries = entries[:-1]
            else:
                moved = replace(entries[0].evidence, occurred_at=entries[0].evidence.occurred_at - timedelta(days=400))
                entries[0] = replace(entries[0], evidence=moved)
            await rewrite(tx, entries)
            return await found_in(tx)

    findings = runner.run(done())
    assert findings
    assert {finding.where.split()[0] for finding in findings} == {"seal"}


def test_who_writes_the_seals_anew_as_well_is_found_by_one_pin_kept_elsewhere(
    runner: asyncio.Runner, past: Past
) -> None:
    async def done() -> tuple[list[Finding], list[Finding]]:
        async with past.attacked() as tx:
            await rewrite(tx, (await store.history(tx, PEOPLE[1]))[:-1])
            ends = [seal.last async for seal in sealing.all_seals(tx)]
            await tx.execute(text("DELETE FROM seal"))
            for last in ends:
                await sealing.put_seal(tx, last, datetime.now(UTC))
            return await found_in(tx), await found_in(tx, past.pin)

    without, with_pin = runner.run(done())
    assert without == []
    assert [finding.why for finding in with_pin] in (
        ["it is not the one that is pinned"],
        ["it is pinned, and is not there"],
    )


async def test_an_entry_that_claims_to_be_of_long_ago_is_found_though_all_follows(database: Database) -> None:
    async with database.begin() as tx:
        await say(tx, 0, 1)
    await sealed_at_last(database, sealer(database), [1])
    async with database.begin() as tx:
        forged = Statement(PEOPLE[0], "sealed", opt_in(2, evidence_id="ev-forged"))
        await record(tx, inner, [forged], datetime.now(UTC) - timedelta(days=30))
    assert [finding.why for finding in await found(database)] == ["says that it was recorded long before seal 1"]


# --- from outside -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    arguments = await surroundings.settings("consent", seal_every_s=0.05)
    async with running(build(Settings(**arguments))) as client:
        yield client


SENDER = {
    "sender_id": "acme",
    "legal_name": "ACME SAS",
    "brand": "Acme",
    "contact": "contact@acme.example",
    "country": "FR",
    "oadc": "ACME",
    "stop_code": "36111",
    "purposes": [{"id": "promotions", "wording": "Nos offres par SMS"}],
}
CONSENT = {
    "sender_id": "acme",
    "purpose": "promotions",
    "number": "06 39 98 12 34",
    "evidence": {"source": "shop", "text_shown": "Oui"},
}


async def test_the_newest_seal_is_signed_and_pins_what_the_command_then_checks(
    service: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    """As an outsider does it: a pin, got over HTTP and checked against the published keys, given to the command, which
    is told where the database is, and the keys of subject ids."""
    assert (await service.get("/v1/seals/newest")).status_code == 404
    assert (await service.post("/v1/senders", json=SENDER)).status_code == 201

    async def sealed(day: int) -> dict[str, Any]:
        answer = await service.post("/v1/consents", json=CONSENT | {"occurred_at": f"2026-03-0{day}T12:00:00Z"})
        assert answer.status_code == 201, answer.text

        async def newest() -> Any:
            answer = await service.get("/v1/seals/newest")
            return answer.json() if answer.status_code == 200 and answer.json()["last"] >= day else None

        found = await eventually(newest)
        assert isinstance(found, dict)
        return found

    first, second = await sealed(1), await sealed(2)
    assert second["previous"] == first["hash"]
    listed = (await service.get("/v1/seals", params={"limit": 1})).json()
    assert [seal["pin"] for seal in listed["items"]] == [first["pin"]]
    listed = (await service.get("/v1/seals", params={"cursor": listed["next"]})).json()
    assert [seal["pin"] for seal in listed["items"]] == [second["pin"]]
    keys = PublicKeys((await service.get("/.well-known/jwks.json", headers={"Authorization": ""})).json())
    signed = keys.verified(second["signature"], "placet-seal")
    database = Database(await surroundings.database("consent"))
    async with database.begin() as tx:
        newest = await sealing.newest(tx)
    await database.close()
    assert newest is not None
    assert (signed, newest.pin) == (seals.record(newest), second["pin"])
    assert (await service.get("/v1/seals/newest", headers=bearer(scope="consent:write"))).status_code == 403

    url = await surroundings.database("consent")
    command = [sys.executable, "-m", "consent", "verify", "--pin", first["pin"], "--pin", second["pin"]]
    env = {"PLACET_DATABASE_URL": url, "PLACET_SUBJECT_KEYS": json.dumps(SUBJECT_RING)}
    ran = await asyncio.to_thread(subprocess.run, command, env=env, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    said = ran.stdout.splitlines()
    assert said[0] == "2 entries of 1 subjects, 0 of them erased, 0 ended"
    assert f"newest seal: {second['pin']}" in said
    assert said[-1] == "HOLDS"


async def test_the_command_says_where_it_breaks_and_its_exit_status_says_that_it_does(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verify(*arguments: str) -> tuple[int, list[str]]:
        code = await asyncio.to_thread(verify_ledger.run, arguments)
        return code, capsys.readouterr().out.splitlines()

    async with database.begin() as tx:
        await say(tx, 0, 1)
    sealing_ = sealer(database)
    await sealed_at_last(database, sealing_, [1])
    monkeypatch.setenv("PLACET_DATABASE_URL", database.dsn)
    monkeypatch.setenv("PLACET_SUBJECT_KEYS", json.dumps(SUBJECT_RING))
    code, said = await verify()
    assert (code, said[-1]) == (0, "HOLDS")
    code, said = await verify("--pin", f"1:{'0' * 64}", "--pin", f"2:{'0' * 64}")
    assert code == 1
    assert said[:2] == ["seal 1: it is not the one that is pinned", "seal 2: it is pinned, and is not there"]
    async with database.begin() as tx:
        await tx.execute(text("SET LOCAL session_replication_role = replica"))
        await tx.execute(text("UPDATE evidence SET source = 'web'"))
    code, said = await verify()
    assert (code, said[-1]) == (1, "DOES NOT HOLD")
    assert said[0] == f"subject {PEOPLE[0]}, entry 1: was changed, or does not follow the entry before it"
    monkeypatch.setenv("PLACET_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    code, said = await verify()
    assert (code, said) == (2, [])
