"""Who has nothing open left is erased, against a real Postgres, with `now` as an argument."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import text

from common.contracts.rights import ErasureAcknowledged, ErasureRequested
from common.db.database import Database
from common.privacy import erasing as common_erasing
from common.privacy.erasing import Asked, Eraser, Whom, concerning
from consent import eraser
from consent.ledger import rules as ledger
from consent.ledger import store
from consent.ledger.chain import verify
from consent.ledger.recorder import Statement, record
from consent.ledger.rules import Evidence
from consent.retention.expiring import step
from consent.rights import erasures
from consent.rights.erasures import Erasure
from consent.senders import registry as senders
from tests.service.consent.test_renewals import ASKING, asked, given, looked, says
from tests.service.consent.test_retention import sender
from tests.support.builders import inner, subject
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.unit.consent.evidences import contact, opt_in, opt_out, stop

pytestmark = pytest.mark.brokerless

ASKED = ErasureRequested.type
DAY = timedelta(days=1)
OPENED = datetime(2026, 3, 3, 9, 0, tzinfo=UTC)
A_YEAR = OPENED.replace(year=2027)
THREE_YEARS = OPENED.replace(year=2029)


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    """Acme keeps a year (loyalty: three) and asks nobody, lune keeps a year and asks thirty days before."""
    opened = Database(await postgres.clone("consent", f"consent_{unique}"))
    async with opened.begin() as tx:
        await senders.register(tx, sender("acme"), OPENED)
        await senders.register(tx, sender("lune", renewal_days=30), OPENED)
    yield opened
    await opened.close()


def on(at: datetime, evidence: Evidence) -> Evidence:
    return Evidence(
        **{n: getattr(evidence, n) for n in Evidence.__struct_fields__} | {"occurred_at": at, "received_at": at}
    )


async def erasing(database: Database) -> list[ErasureRequested]:
    async with database.begin() as tx:
        rows = await tx.execute(text("SELECT payload FROM outbox WHERE type = :type ORDER BY id"), {"type": ASKED})
        return [msgspec.json.decode(row.payload, type=ErasureRequested) for row in rows]


async def held(database: Database, who: int = 1) -> store.Subject:
    async with database.begin() as tx:
        found = await store.find_subject(tx, subject(who))
    assert found is not None
    return found


async def certificate(database: Database) -> Erasure:
    async with database.begin() as tx:
        (found,) = await erasures.find(tx, [event.erasure_id for event in await erasing(database)])
    return found


async def test_whose_last_consent_has_ended_is_erased_everywhere_and_nobody_is_opted_out_by_it(
    database: Database,
) -> None:
    await given(database, on(OPENED, opt_in(0)))
    await looked(database, A_YEAR - timedelta(seconds=1))
    assert await erasing(database) == []
    await looked(database, A_YEAR)
    (asked,) = await erasing(database)
    assert (asked.subject_id, asked.requested_at) == (subject(1), A_YEAR)
    assert ((await certificate(database)).source, (await held(database)).erased_at) == ("retention", A_YEAR)
    own = eraser.eraser(database)
    assert isinstance(own, Eraser)
    while await own.erase_kept():
        pass
    person = await held(database)
    assert (person.number, ledger.standing(person.state, "acme", "promotions")) == (None, "expired")
    async with database.begin() as tx:
        history = await store.history(tx, subject(1))
    assert verify(history, inner) is None
    assert [(e.evidence.kind, e.evidence.text_shown) for e in history] == [("opt_in", None), ("expiry", None)]
    await looked(database, A_YEAR + 4000 * DAY)
    assert len(await erasing(database)) == 1


async def test_who_is_out_is_held_as_long_as_a_consent_would_be_and_then_by_the_keyed_hash(database: Database) -> None:
    await given(database, on(OPENED, opt_in(0)), on(OPENED + DAY, stop(1)))
    await given(database, on(OPENED, stop(2, sender_id=None)), who=2)  # of somebody who was never a customer
    await looked(database, A_YEAR)
    assert await erasing(database) == []
    await looked(database, A_YEAR + DAY + timedelta(seconds=1))  # a STOP counts from the end of its second
    assert [event.subject_id for event in await erasing(database)] == [subject(1)]
    person = await held(database)
    assert ledger.standing(person.state, "acme", "promotions") == "opted_out"
    await looked(database, THREE_YEARS + timedelta(seconds=1))
    assert [event.subject_id for event in await erasing(database)] == [subject(1), subject(2)]
    assert ledger.shut((await held(database, 2)).state, "acme")


async def test_of_a_stranger_opted_out_over_the_api_the_keyed_hash_alone_is_held(database: Database) -> None:
    """CNIL MED-2023-040. The clerk's name goes with the person's own term, whatever list names the person meanwhile."""
    await given(database, on(OPENED, opt_out(0, actor="clerk-7")))
    assert (await held(database)).number is None
    listed = on(OPENED + DAY, opt_out(1, source="provider_list"))
    async with database.begin() as tx:
        await record(tx, inner, [Statement(subject(1), None, listed)], OPENED + DAY)
    await looked(database, THREE_YEARS)
    assert await erasing(database) == []
    await looked(database, THREE_YEARS + 2 * DAY)
    assert [event.subject_id for event in await erasing(database)] == [subject(1)]
    own = eraser.eraser(database)
    while await own.erase_kept():
        pass
    async with database.begin() as tx:
        assert [e.evidence.actor for e in await store.history(tx, subject(1))] == [None, None]
    assert ledger.shut((await held(database)).state, "acme")


async def test_the_number_goes_with_the_last_opt_in_whatever_stops_by_text_stay(database: Database) -> None:
    """A STOP TOUT is no controller's, and a STOP on a shared code is the last writer's, perhaps of no customer."""
    await given(database, on(OPENED, opt_in(0)), on(OPENED, opt_in(1, sender_id="lune", evidence_id="ev-lune")))
    await given(database, on(OPENED + DAY, stop(2, sender_id=None)))
    await given(database, on(OPENED, opt_in(0, evidence_id="ev-acme")), who=2)
    await given(database, on(OPENED + DAY, stop(3, sender_id="lune")), who=2)
    await given(database, on(OPENED + 2 * DAY, opt_out(4)), who=2)  # with which each erasure begins

    async def erased(*whom: Whom) -> list[bool]:
        async with database.begin() as tx:
            await eraser.erase(tx, dict.fromkeys(whom, A_YEAR))
        return [(await held(database, who)).number is None for who in (1, 2)]

    assert await erased() == [False, False]
    assert await erased(Whom(subject(1), "acme"), Whom(subject(2), "acme")) == [False, True]
    assert await erased(Whom(subject(1), "lune")) == [True, True]
    for who in (1, 2):
        assert ledger.shut((await held(database, who)).state, "lune")
        async with database.begin() as tx:
            assert verify(await store.history(tx, subject(who)), inner) is None
    await looked(database, THREE_YEARS + 2 * DAY)
    assert {event.subject_id for event in await erasing(database)} == {subject(1), subject(2)}, "the lines left"


async def test_while_anything_of_them_is_open_they_are_held(database: Database) -> None:
    """A consent to another purpose; a contact with another sender; a question."""
    await given(database, on(OPENED, opt_in(0)), on(OPENED, opt_in(0, purpose="loyalty", evidence_id="ev-points")))
    await given(database, on(OPENED, opt_in(0, evidence_id="ev-2")), who=2)
    await given(database, on(A_YEAR, contact(0, sender_id="lune", evidence_id="ev-there")), who=2)
    await given(database, on(OPENED, opt_in(0, sender_id="lune", evidence_id="ev-3")), who=3)
    late = A_YEAR + 9 * DAY  # a Friday; nobody has looked for a year
    await looked(database, late)
    assert await erasing(database) == []  # lune asks the third, late; the second was in touch with lune
    await looked(database, late + 30 * DAY)
    assert [event.subject_id for event in await erasing(database)] == [subject(3)]
    await looked(database, THREE_YEARS)
    assert {event.subject_id for event in await erasing(database)} == {subject(3), subject(1)}
    await looked(database, A_YEAR.replace(year=2030))
    assert len(await erasing(database)) == 3


async def test_whom_no_hour_permits_to_ask_is_erased_at_the_end_as_the_others(database: Database) -> None:
    """Lune asks, and the hours name no rule for the person's territory: a question would never go."""
    nowhere = replace(ASKING, policy=replace(ASKING.policy, places={}))
    await given(database, on(OPENED, opt_in(0, sender_id="lune")))
    await looked(database, A_YEAR - DAY, nowhere)
    assert ledger.standing((await held(database)).state, "lune", "promotions") == "opted_in"
    await looked(database, A_YEAR, nowhere)
    assert [event.subject_id for event in await erasing(database)] == [subject(1)]
    assert await asked(database) == []


async def test_who_comes_back_is_held_again_for_a_term_of_their_own(database: Database) -> None:
    await given(database, on(OPENED, opt_in(0)))
    await looked(database, A_YEAR)
    again = A_YEAR + DAY
    await given(database, on(again, opt_in(0, evidence_id="ev-again")))
    person = await held(database)
    assert (person.erased_at, ledger.standing(person.state, "acme", "promotions")) == (None, "opted_in")
    await says(database, "none", again + DAY)
    await looked(database, again.replace(year=2028))
    assert (await held(database)).erased_at is None
    await looked(database, again.replace(year=2028) + DAY)
    assert (await held(database)).erased_at == again.replace(year=2028) + DAY
    assert len(await erasing(database)) == 2


async def test_what_came_a_moment_ago_is_erased_though_what_is_read_lies_further_back(database: Database) -> None:
    """An opt-in that was over as it came, while texts of some seconds ago are still to be read."""
    now = datetime.now(UTC)
    read_up_to = now - timedelta(seconds=2)
    await given(database, opt_in(0, occurred_at=now - 4 * 365 * DAY, received_at=now, actor="clerk-7"), now=now)
    for _ in range(2):  # it ends, and then the person is forgotten
        async with database.begin() as tx:
            assert await step(tx, read_up_to, ASKING) == 1
    own = eraser.eraser(database)
    while await own.erase_kept():
        pass
    async with database.begin() as tx:
        history = await store.history(tx, subject(1))
    assert verify(history, inner) is None
    assert [(e.evidence.kind, e.evidence.actor, e.salt) for e in history] == [
        ("opt_in", None, None),
        ("expiry", None, None),
    ]
    assert history[0].recorded_at <= history[1].recorded_at
    assert history[1].recorded_at <= (await certificate(database)).requested_at


async def test_of_a_person_and_a_controller_the_newest_erasure_is_kept_and_says_all_that_the_earlier_ones_said(
    database: Database,
) -> None:
    """Repeated requests do not grow a table that is kept for ever; late and repeated events change nothing of it."""
    acme, everything = "acme", None

    async def requested(*asked: ErasureRequested) -> set[str]:
        """Erase, and return the rows kept."""
        async with database.begin() as tx:
            await common_erasing.put(tx, *asked)

        async def done() -> set[str]:
            await eraser.eraser(database).erase_kept()
            async with database.begin() as tx:
                rows = (await tx.execute(text("SELECT erasure_id, erased_at FROM erasing"))).all()
            assert all(row.erased_at for row in rows)
            return {row.erasure_id for row in rows}

        return await eventually(done)

    async def says() -> Asked | None:
        async with database.begin() as tx:
            return concerning((await common_erasing.asked_of(tx, [subject(1)]))[subject(1)], acme)

    async def returned(at: datetime) -> None:
        async with database.begin() as tx:
            await common_erasing.lift(tx, subject(1), acme, at)

    def asks(name: str, days: float, controller: str | None = acme) -> ErasureRequested:
        at = OPENED + days * DAY
        return ErasureRequested(erasure_id=name, subject_id=subject(1), controller_id=controller, requested_at=at)

    assert await requested(asks("first", 0)) == {"first"}
    await returned(OPENED + DAY)
    assert await requested(asks("second", 2)) == {"second"}
    assert await says() == Asked(OPENED + 2 * DAY, lifted=False)
    assert await requested(asks("late", 1)) == {"second"}
    assert await says() == Asked(OPENED + 2 * DAY, lifted=False)
    await returned(OPENED + 3 * DAY)
    assert await says() == Asked(OPENED + 2 * DAY, lifted=True)
    assert await requested(asks("first", 0)) == {"second"}, "asked again: whoever is back is not erased by it"
    assert await says() == Asked(OPENED + 2 * DAY, lifted=True)
    assert await requested(asks("whole", 1.5, everything)) == {"second", "whole"}
    assert await says() == Asked(OPENED + 2 * DAY, lifted=False)
    assert await acknowledged(database) == {"first": 1, "second": 1, "late": 1, "whole": 1}


async def acknowledged(database: Database) -> Counter[str]:
    async with database.begin() as tx:
        rows = await tx.execute(
            text("SELECT payload FROM outbox WHERE type = :type"), {"type": ErasureAcknowledged.type}
        )
        return Counter(msgspec.json.decode(row.payload, type=ErasureAcknowledged).erasure_id for row in rows)


async def test_an_erasure_and_the_return_of_the_same_person_wait_for_each_other_in_one_order(
    database: Database,
) -> None:
    """Whoever opts in again holds the person, and lifts the erasure last: the erasure may hold nothing before."""
    await given(database, on(OPENED, opt_in(0)))
    await looked(database, A_YEAR)
    async with database.begin() as tx:  # later than whoever the erasure waits for
        await tx.execute(text("UPDATE erasing SET after_xid = 0"))
    async with database.begin() as tx:
        await store.lock_subjects(tx, {}, [subject(1)])
        erased = asyncio.create_task(eraser.eraser(database).erase_kept())
        assert await eventually(lambda: waits(database))
        assert (await tx.execute(text("SELECT FROM erasing FOR UPDATE SKIP LOCKED"))).rowcount == 1, "to be lifted"
    assert await erased


async def waits(database: Database) -> bool:
    """Return whether somebody waits for a row of `subject`."""
    rows = await database.read(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return bool(rows[0][0])
