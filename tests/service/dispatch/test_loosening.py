"""dispatch does not believe a state that forgets a STOP which it holds: consent-svc's database lost a commit."""

from datetime import datetime, timedelta

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from common.contracts.consent import ConsentStateChanged
from common.db.database import Database
from common.kafka.reading.completeness import Reading, Seen
from common.kafka.replaying import Batch
from common.kafka.subscription import Received
from dispatch.gate import store as gate
from dispatch.gate.rules import Subject
from dispatch.projection import apply as projection
from dispatch.projection import rebuild as rebuilding
from dispatch.projection import store as projection_store
from dispatch.projection.apply import LOOSENED
from tests.support.builders import SENDER, now, opted_in, opted_out, subject

pytestmark = pytest.mark.brokerless

YESTERDAY = now() - timedelta(days=1)


def received(*states: ConsentStateChanged, offset: int = 0) -> list[Received]:
    return [Received(state, state.subject_id, 0, offset + place, now(), None) for place, state in enumerate(states)]


def back_in(version: int, at: datetime) -> ConsentStateChanged:
    """After the STOP: its suppression stays listed."""
    out = opted_out(1, occurred_at=YESTERDAY + timedelta(hours=1))
    return opted_in(1, version=version, occurred_at=at, suppressions=out.suppressions)


async def held(database: Database) -> Subject:
    async with database.begin() as tx:
        return (await gate.knowledge(tx, 0, [subject(1)], [])).subjects[subject(1)]


async def apply(database: Database, *states: ConsentStateChanged, offset: int = 0) -> None:
    async with database.begin() as tx:
        await projection.apply_states(tx, received(*states, offset=offset))


STOPPED = opted_out(1, version=5, occurred_at=YESTERDAY + timedelta(hours=1))
FORGETS = opted_in(1, version=7, occurred_at=YESTERDAY)


@pytest.mark.parametrize("together", [True, False])
async def test_a_newer_state_that_forgets_a_stop_makes_its_subject_unreadable(
    database: Database, *, together: bool
) -> None:
    before = LOOSENED._value.get()
    for batch in [[STOPPED, FORGETS]] if together else [[STOPPED], [FORGETS]]:
        await apply(database, *batch, offset=batch[0].version)
    known = await held(database)
    assert (known.version, known.unreadable) == (7, True)
    assert (known.consents[0].state, known.suppressions) == ("opted_out", STOPPED.suppressions)
    assert LOOSENED._value.get() == before + 1


async def test_it_stays_unreadable_until_a_state_accounts_for_the_stop(database: Database) -> None:
    await apply(database, STOPPED, FORGETS)
    await apply(database, replace(FORGETS, version=8), offset=8)
    assert (await held(database)).unreadable
    await apply(database, back_in(9, YESTERDAY + timedelta(minutes=30)), offset=9)
    assert (await held(database)).unreadable
    await apply(database, replace(STOPPED, version=10), offset=10)
    known = await held(database)
    assert (known.version, known.unreadable, known.consents[0].state) == (10, False, "opted_out")


async def test_newer_evidence_than_the_stop_opens(database: Database) -> None:
    await apply(database, STOPPED)
    await apply(database, back_in(6, YESTERDAY + timedelta(hours=2)), offset=6)
    known = await held(database)
    assert (known.unreadable, known.consents[0].state) == (False, "opted_in")


async def test_an_opt_out_in_a_state_that_forgets_another_is_kept_and_enforced(database: Database) -> None:
    other = opted_out(1, version=7, reference="simulator/main/mo-7")
    other = replace(
        other,
        consents=tuple(replace(c, sender_id="globex") for c in other.consents),
        suppressions=tuple(replace(s, sender_id="globex") for s in other.suppressions),
    )
    await apply(database, STOPPED, other)
    known = await held(database)
    assert known.unreadable
    assert {s.sender_id for s in known.suppressions} == {c.sender_id for c in known.consents} == {SENDER, "globex"}
    async with database.begin() as tx:
        enforced = await tx.execute(text("SELECT reference FROM enforcement WHERE enforced_at IS NOT NULL"))
        assert "simulator/main/mo-7" in {reference for (reference,) in enforced}


@pytest.mark.parametrize("log", [[STOPPED, FORGETS], [FORGETS]], ids=["whole", "compacted"])
async def test_a_rebuild_forgets_the_stop_no_more_than_the_projection_does(
    database: Database, log: list[ConsentStateChanged]
) -> None:
    await apply(database, STOPPED, FORGETS)
    async with database.begin() as tx:
        await rebuilding._apply(tx, Batch(0, received(*log), [], Reading(Seen(9), numbered=True, compacted=True)))
        await projection_store.keep_newer(tx)
        rows = await tx.execute(text("SELECT unreadable, consents->0->>'state' FROM subject_next"))
        assert rows.all() == [(True, "opted_out")]
