"""The ledger ends: an erased entry past its term goes, the seals hold as before, and no stub can be forged unseen."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.rights import ErasureRequested
from common.db.database import Database
from common.privacy.erasing import Whom, put
from consent.ledger import recorder
from consent.ledger.recorder import Statement, record
from consent.ledger.rules import Evidence, Verdict
from consent.proof import bundle, sealing
from consent.proof.audit import Audit, Finding
from consent.retention.ledger_end import Ending
from consent.retention.pruning import Periods
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER
from tests.support.builders import inner, number, subject
from tests.support.running import Surroundings, bearer, running
from tests.unit.consent.evidences import NOON, contact, opt_in, start, stop

TERM = Periods().ledger
ERASED, OPEN, OF_ONE, YOUNG = (subject(n) for n in range(1, 5))
THEN = datetime.now(UTC) - TERM - timedelta(days=30)
OLD = (THEN - NOON) / timedelta(minutes=1)  # in minutes after noon, as the builders have it
ORDINAL = "SELECT ordinal FROM evidence WHERE evidence_id = :id"


async def say(tx: AsyncConnection, who: str, said: Evidence, at: datetime, *, erases: bool = False) -> None:
    [verdict] = await record(tx, inner, [Statement(who, "sealed", said, erases=erases)], at)
    assert verdict.decision.verdict is not Verdict.REFUSED


async def erase(tx: AsyncConnection, whom: Whom, at: datetime) -> None:
    await put(tx, ErasureRequested(erasure_id=f"e {whom} {at}", **whom._asdict(), requested_at=at))
    await recorder.erase(tx, {whom: at})
    await tx.execute(text("UPDATE erasing SET erased_at = :at WHERE requested_at = :at"), {"at": at})


async def seal(tx: AsyncConnection, at: datetime) -> None:
    up_to = await tx.scalar(text("SELECT max(ordinal) FROM evidence"))
    assert await sealing.put_seal(tx, up_to, at) is not None


async def write(database: Database, erased_at: datetime = THEN) -> None:
    """Four people's entries of long ago, under a seal of long ago: erased, open, erased by one controller, and new."""
    async with database.begin() as tx:
        for n, who in enumerate((ERASED, OPEN, OF_ONE)):
            await say(tx, who, opt_in(OLD, evidence_id=f"in-{n}"), THEN)
            await say(tx, who, contact(OLD + 1, evidence_id=f"contact-{n}"), THEN)
        await say(tx, ERASED, stop(OLD + 2, evidence_id="stop-0", sender_id=None), THEN, erases=True)
        await erase(tx, Whom(ERASED, None), erased_at)
        await erase(tx, Whom(OF_ONE, "acme-sas"), THEN)
        await seal(tx, THEN)
        await say(tx, YOUNG, opt_in(evidence_id="in-young"), datetime.now(UTC))
        await seal(tx, datetime.now(UTC))


async def end(database: Database, term: timedelta = TERM) -> None:
    ending = Ending(database, term, batch=2)
    while await ending.end_erased():
        pass


async def audited(tx: AsyncConnection) -> tuple[list[Finding], Audit]:
    newest = await sealing.newest(tx)
    assert newest is not None
    audit = Audit(tx, inner, {newest.number: newest.hash})
    return [found async for found in audit.findings()], audit


async def left(tx: AsyncConnection, who: str) -> list[str]:
    rows = await tx.execute(text("SELECT evidence_id FROM evidence WHERE subject_id = :who ORDER BY 1"), {"who": who})
    return [row.evidence_id for row in rows]


async def test_the_seals_hold_before_and_after_the_end_and_only_the_opt_out_of_the_erased_stays(
    database: Database,
) -> None:
    await write(database)
    async with database.begin() as tx:
        state = await tx.scalar(text("SELECT state::text FROM subject WHERE subject_id = :who"), {"who": ERASED})
        before, of_before = await audited(tx)
    assert (before, of_before.entries, of_before.erased, of_before.ended) == ([], 8, 3, 0)
    await end(database)
    await end(database)
    async with database.begin() as tx:
        after, of_after = await audited(tx)
        assert after == []
        assert (of_after.entries, of_after.seals, of_after.erased, of_after.ended) == (8, 2, 1, 2)
        assert await left(tx, ERASED) == ["stop-0"]
        assert await left(tx, OPEN) == ["contact-1", "in-1"]
        assert len(await left(tx, OF_ONE)) == 2, "another controller's purposes may need the chain"
        assert state == await tx.scalar(
            text("SELECT state::text FROM subject WHERE subject_id = :who"), {"who": ERASED}
        )


async def test_after_the_end_a_repeat_is_known_and_the_person_may_come_back(database: Database) -> None:
    await write(database)
    await end(database)
    async with database.begin() as tx:
        again = Statement(ERASED, "sealed", opt_in(OLD, evidence_id="in-0"))
        [repeat] = await record(tx, inner, [again], datetime.now(UTC))
        assert repeat.decision.verdict is Verdict.DUPLICATE
        await say(tx, ERASED, start(evidence_id="back"), datetime.now(UTC))
    async with database.begin() as tx:
        assert (await audited(tx))[0] == []


async def test_an_entry_waits_for_its_seal_and_for_the_term_after_the_erasure(database: Database) -> None:
    await write(database, erased_at=datetime.now(UTC) - TERM + timedelta(days=1))
    await end(database)
    async with database.begin() as tx:
        assert len(await left(tx, ERASED)) == 3, "a message may have left until the erasure"
        await tx.execute(text("SET LOCAL session_replication_role = replica"))
        await tx.execute(text("UPDATE erasing SET requested_at = :at"), {"at": THEN})
        await tx.execute(text("DELETE FROM seal"))
    await end(database)
    async with database.begin() as tx:
        assert len(await left(tx, ERASED)) == 3, "no seal would know the stub"


@pytest.mark.parametrize("evidence_id", ["in-0", "stop-0", "in-1", "in-young"])
async def test_the_database_refuses_an_end_that_is_none(database: Database, evidence_id: str) -> None:
    """Without a stub; and with one an opt-out, an entry that is not erased, and one that is young."""
    await write(database)
    with pytest.raises(DBAPIError, match="append-only"):
        await forged(database, evidence_id, stub=evidence_id != "in-0")


STUB = (
    "INSERT INTO ended_entry SELECT ordinal, evidence_id, subject_id, position, recorded_at, hash, now()"
    " FROM evidence WHERE evidence_id = :id"
)


async def forge(tx: AsyncConnection, evidence_id: str, *, stub: bool = True) -> None:
    if stub:
        await tx.execute(text(STUB), {"id": evidence_id})
    await tx.execute(text("DELETE FROM evidence WHERE evidence_id = :id"), {"id": evidence_id})


async def forged(database: Database, evidence_id: str, *, stub: bool) -> None:
    async with database.begin() as tx:
        await forge(tx, evidence_id, stub=stub)


async def another_hash(tx: AsyncConnection) -> None:
    await tx.execute(text("UPDATE ended_entry SET hash = repeat('0', 64) WHERE evidence_id = 'contact-0'"))


async def gone(tx: AsyncConnection) -> None:
    await tx.execute(text("DELETE FROM ended_entry WHERE evidence_id = 'in-0'"))


async def of_nobody_erased(tx: AsyncConnection) -> None:
    await forge(tx, "in-1")


async def too_young(tx: AsyncConnection) -> None:
    await forge(tx, "in-young")
    await erase(tx, Whom(YOUNG, None), datetime.now(UTC))


async def stop_hidden(tx: AsyncConnection) -> None:
    """The STOP ends as well, and the mark with it: the consent of before would be open."""
    await forge(tx, "stop-0")
    marks = "(SELECT jsonb_agg(m) FROM jsonb_array_elements(state -> 'marks') AS m WHERE m ->> 'kind' <> 'opt_out')"
    await tx.execute(
        text(f"UPDATE subject SET state = jsonb_build_object('marks', {marks}) WHERE subject_id = :who"),
        {"who": ERASED},
    )


@pytest.mark.parametrize(
    ("attack", "why"),
    [
        (another_hash, "a sealed entry was replaced"),
        (gone, "the seal covers 7 entries, and the ledger has 6"),
        (of_nobody_erased, "has ended without an erasure of everything on record"),
        (too_young, "has ended before its term: its seal is too young, or missing"),
        (stop_hidden, "an open consent stands on an ended entry, or on an older one"),
    ],
)
async def test_a_forged_stub_is_noticed(
    database: Database, attack: Callable[[AsyncConnection], Awaitable[None]], why: str
) -> None:
    await write(database)
    await end(database)
    async with attacked(database) as tx:
        await attack(tx)
        found, _ = await audited(tx)
    assert why in [finding.why for finding in found]


@asynccontextmanager
async def attacked(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction in which no trigger stands in the way, and of which nothing stays."""
    async with database.engine.connect() as tx:
        await tx.execute(text("SET LOCAL session_replication_role = replica"))
        yield tx
        await tx.rollback()


async def test_a_bundle_of_an_ended_ledger_holds_with_the_places_of_the_ended(surroundings: Surroundings) -> None:
    database = Database(await surroundings.database("consent"), pool_size=2)
    try:
        await write(database)
        await end(database)
    finally:
        await database.close()
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings), bearer()) as service:
        assert (await service.post("/v1/senders", json=SENDER)).status_code == 201
        answer = await service.post("/v1/proofs", json={"number": number(1)})
    report = bundle.check(answer.content.splitlines(keepends=True))
    assert report.problems == []
    assert (report.withheld, [entry.evidence.evidence_id for entry in report.entries]) == (2, ["stop-0"])


def test_a_term_below_the_time_of_the_messages_is_refused() -> None:
    with pytest.raises(ValidationError, match="raise it"):
        Periods(ledger_days=1096)
