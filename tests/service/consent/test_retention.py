"""What time does to a consent, against a real Postgres, with `now` as an argument."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import ConsentStateChanged, Purpose
from common.db.database import Database
from common.law import load
from consent.answers.answers import Answers
from consent.ledger import retention, term_store
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import verify
from consent.ledger.recorder import Statement, record
from consent.ledger.rules import Evidence
from consent.retention import expiring
from consent.retention import store as retention_store
from consent.retention.expiring import Recount, step
from consent.retention.renewals import Asking
from consent.senders import registry as senders
from consent.senders import store as senders_store
from consent.senders.store import Sender
from tests.support.builders import field_keys, inner
from tests.support.failing import Crash
from tests.support.infrastructure import Postgres
from tests.support.running import ORGANISATION
from tests.unit.consent.evidences import NOON, NOW, contact, opt_in, opt_out

pytestmark = pytest.mark.brokerless

PERSON, ANOTHER, OTHER = (f"t1-{each * 32}" for each in "abc")

ASKING = Asking(Answers(field_keys, per_day=5, fictional=True), load("france-3"))
A_YEAR_LATER = NOON.replace(year=NOON.year + 1)
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
READ = (
    "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables"
    " WHERE relname IN ('subject', 'retention_due')"
)


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    """With a sender whose promotions hold a year, and whose loyalty points three."""
    opened = Database(await postgres.clone("consent", f"consent_{unique}"))
    async with opened.begin() as tx:
        await senders.register(tx, sender("acme"), NOON)
        await senders.register(tx, sender("globex"), NOON)
    yield opened
    await opened.close()


def sender(sender_id: str, months: int = 12, renewal_days: int | None = None) -> Sender:
    return Sender(
        sender_id=sender_id,
        organisation_id=ORGANISATION,
        legal_name=f"{sender_id} SAS",
        brand=sender_id,
        contact=f"contact@{sender_id}.example",
        country="FR",
        oadc=sender_id.upper(),
        stop_code="36111",
        purposes=(
            Purpose(id="promotions", wording="Nos offres", retention_months=months),
            Purpose(id="loyalty", wording="Vos points"),
        ),
        controller=sender_id,
        renewal_days=renewal_days,
    )


def of(subject_id: str, evidence: Evidence) -> Statement:
    return Statement(subject_id, f"sealed {subject_id}", evidence)


async def recorded(database: Database, *statements: Statement, now: datetime = NOW) -> None:
    async with database.begin() as tx:
        await record(tx, inner, statements, now)


async def stepped(database: Database, now: datetime) -> int:
    """All that is due at `now`; for how many."""
    people = 0
    while True:
        async with database.begin() as tx:
            some = await step(tx, now, ASKING, clock=lambda: now)
        if not some:
            return people
        people += some


async def stepped_and_crashed(database: Database, now: datetime) -> None:
    async with database.begin() as tx:
        assert await step(tx, now, ASKING, clock=lambda: now) > 0
        raise Crash


async def states(database: Database, subject_id: str) -> dict[str, str]:
    async with database.begin() as tx:
        subject = await ledger_store.find_subject(tx, subject_id)
    assert subject is not None
    return {f"{c.sender_id}/{c.purpose}": c.state for c in ledger.consents(subject.state)}


async def expiries(database: Database, subject_id: str = PERSON) -> list[Evidence]:
    async with database.begin() as tx:
        history = await ledger_store.history(tx, subject_id)
    assert verify(history, inner) is None
    return [entry.evidence for entry in history if entry.evidence.kind == "expiry"]


async def told(database: Database, subject_id: str = PERSON) -> list[ConsentStateChanged]:
    async with database.begin() as tx:
        rows = await tx.execute(text("SELECT payload FROM outbox WHERE topic = 'consent.states.v1' ORDER BY id"))
    events = [msgspec.json.decode(row.payload, type=ConsentStateChanged) for row in rows]
    return [event for event in events if event.subject_id == subject_id]


async def test_a_consent_ends_with_its_purposes_term_after_the_last_contact(database: Database) -> None:
    await recorded(
        database,
        of(PERSON, opt_in(0)),
        of(PERSON, opt_in(0, evidence_id="ev-points", purpose="loyalty")),
        of(ANOTHER, opt_in(0, evidence_id="ev-b", sender_id="globex")),
    )
    await recorded(database, of(PERSON, contact(60)))
    end = A_YEAR_LATER + timedelta(hours=1)
    assert await stepped(database, A_YEAR_LATER - SECOND) == 0
    assert await stepped(database, end - SECOND) > 0  # she who was not in touch
    assert await states(database, ANOTHER) == {"globex/promotions": "expired"}
    assert await stepped(database, end) > 0
    assert await states(database, PERSON) == {"acme/loyalty": "opted_in", "acme/promotions": "expired"}
    (ended,) = await expiries(database)
    assert (ended.occurred_at, ended.source) == (end, "retention")
    assert await stepped(database, end + DAY) == 0


async def test_whoever_decides_on_messages_is_told_the_end_in_advance_and_when_it_moves(database: Database) -> None:
    await recorded(database, of(PERSON, opt_in(0)))
    await recorded(database, of(PERSON, contact(60)))
    await recorded(database, of(PERSON, contact(30, evidence_id="ev-late")))
    await recorded(database, of(PERSON, contact(90, sender_id="globex")))
    ends = [event.consents[0].expires_at for event in await told(database)]
    assert ends == [A_YEAR_LATER, A_YEAR_LATER + timedelta(hours=1)]
    await recorded(database, of(PERSON, opt_out(120)))
    assert (await told(database))[-1].consents[0].expires_at is None
    await stepped(database, NOON.replace(year=NOON.year + 9))
    assert await expiries(database) == []  # what is shut does not end


async def test_years_late_each_consent_expires_once_at_its_own_instant(database: Database) -> None:
    await recorded(database, of(PERSON, opt_in(0)))
    much_later = NOON.replace(year=NOON.year + 9)
    with pytest.raises(Crash):
        await stepped_and_crashed(database, much_later)
    assert await expiries(database) == []
    assert await stepped(database, much_later) > 0
    assert await stepped(database, much_later + DAY) == 0
    (ended,) = await expiries(database)
    assert (ended.occurred_at, ended.received_at) == (A_YEAR_LATER, much_later)
    await recorded(database, of(PERSON, contact(5)), now=much_later)  # of before the end, and late
    assert await states(database, PERSON) == {"acme/promotions": "expired"}
    back = much_later + SECOND  # than their erasure, which the end of the last consent was
    again = opt_in(0, evidence_id="ev-again", occurred_at=back, received_at=back)
    await recorded(database, of(PERSON, again), now=back)
    assert await states(database, PERSON) == {"acme/promotions": "opted_in"}
    assert (await told(database))[-1].consents[0].expires_at == back.replace(year=back.year + 1)


async def test_who_is_in_touch_after_the_end_and_before_the_timer_does_not_revive_what_has_ended(
    database: Database,
) -> None:
    await recorded(database, of(PERSON, opt_in(0)))
    after = A_YEAR_LATER + SECOND
    await recorded(database, of(PERSON, contact(0, occurred_at=after, received_at=after)), now=after)
    assert await states(database, PERSON) == {"acme/promotions": "expired"}
    (ended,) = await expiries(database)
    assert ended.occurred_at == A_YEAR_LATER
    assert [c.state for event in await told(database) for c in event.consents] == ["opted_in", "expired"]
    await stepped(database, after + DAY)
    assert len(await expiries(database)) == 1


async def test_an_old_opt_in_that_is_imported_is_over_as_it_comes(database: Database) -> None:
    await recorded(database, of(PERSON, opt_in(0)), now=A_YEAR_LATER + DAY)
    (event,) = await told(database)
    assert event.consents[0].expires_at == A_YEAR_LATER
    assert await stepped(database, A_YEAR_LATER + DAY) > 0
    assert await states(database, PERSON) == {"acme/promotions": "expired"}


async def changed(database: Database, months: int) -> None:
    async with database.begin() as tx:
        locked = await senders_store.lock_sender(tx, "acme")
        assert locked is not None
        await senders.change(tx, locked, sender("acme", months), NOON)


async def counted_anew(database: Database) -> None:
    recount = Recount(database, backlog=10**9)
    while await recount.look():
        pass


async def test_a_sender_that_keeps_for_another_time_has_its_consents_counted_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "PEOPLE", 3)  # several pages
    people = [f"t1-{n:032x}" for n in range(10)]
    await recorded(database, *(of(p, opt_in(n, evidence_id=f"ev-{p}")) for n, p in enumerate(people)))
    await recorded(database, of(OTHER, opt_in(0, evidence_id="ev-other", sender_id="globex")))
    for months in (6, 24):
        await changed(database, months)
        await counted_anew(database)
        for n, person in enumerate(people):
            newest = (await told(database, person))[-1].consents[0].expires_at
            opened = NOON + timedelta(minutes=n)
            assert newest == opened.replace(year=opened.year + 2) if months == 24 else opened.replace(month=9)
    assert len(await told(database, people[0])) == 3
    assert len(await told(database, OTHER)) == 1
    assert await stepped(database, A_YEAR_LATER + DAY) > 0  # of the other sender
    assert await states(database, people[0]) == {"acme/promotions": "opted_in"}


async def test_a_sender_that_keeps_for_another_time_has_those_counted_anew_of_whom_nothing_is_open(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiring, "PEOPLE", 3)  # several pages
    people = [f"t1-{n:032x}" for n in range(10)]
    for n, person in enumerate(people):  # every other one has said STOP
        said = [opt_in(n, evidence_id=f"ev-{n}"), *([opt_out(n + 1, evidence_id=f"ev-stop-{n}")] if n % 2 else [])]
        await recorded(database, *(Statement(person, "sealed", each) for each in said))
    strange = opt_out(0, evidence_id="ev-other", sender_id="globex")
    await recorded(database, Statement(OTHER, "sealed", strange))
    for months in (6, 24, 3):
        await changed(database, months)
        await counted_anew(database)
        async with database.begin() as tx:
            subjects = await ledger_store.lock_subjects(tx, {}, [*people, OTHER])
            kept = await term_store.terms_kept(tx, subjects)
            rules = await retention_store.rules_of(tx, ["acme", "globex"])
        for person, held in subjects.items():
            assert tuple(kept[person]) == retention.kept_terms(held.state, rules, own=True)
        (term,) = kept[people[1]]
        assert retention.is_person(term)
        assert term.expires_at.date() == retention.after_months(NOON, months).date()


async def test_a_page_of_those_counted_anew_costs_what_is_in_it_however_few_know_the_sender(database: Database) -> None:
    async with database.begin() as tx:
        await tx.execute(
            text(
                "INSERT INTO subject (subject_id, state) SELECT 't1-' || lpad(n::text, 5, '0'), jsonb_build_object("
                " 'marks', jsonb_build_array(jsonb_build_object('kind', 'opt_out', 'sender_id',"
                " CASE n % 50 WHEN 0 THEN 'acme' ELSE 'globex' END))) FROM generate_series(1, 5000) n"
            )
        )
        await tx.execute(
            text(
                "INSERT INTO retention_due (subject_id, sender_id, purpose, last_contact, expires_at, due_at)"
                " SELECT subject_id, '', '', now(), now(), now() FROM subject"
            )
        )
        await tx.execute(text("ANALYZE subject, retention_due"))
    async with database.begin() as tx:
        before = await tx.scalar(text(READ))
        page = await retention_store.terms_page(tx, "acme", None, 100)
        assert len(page) == 100
        more = await retention_store.terms_page(tx, "acme", page[-1], 100)
        assert not {*page} & {*more}
        assert await tx.scalar(text(READ)) - before < 1000


async def test_a_consent_recorded_while_its_sender_changes_does_not_keep_the_old_term(database: Database) -> None:
    """It read the registry before the change, and commits after."""
    async with database.begin() as tx:
        await record(tx, inner, [of(PERSON, opt_in(0))], NOON)
        await changed(database, 6)
        assert await Recount(database, backlog=10**9).look()  # notes who is writing
        assert not await Recount(database, backlog=10**9).look()
    await counted_anew(database)
    assert (await told(database))[-1].consents[0].expires_at == NOON.replace(month=9)


async def test_thousands_fall_due_at_once_and_nobody_waits_for_a_lock(database: Database) -> None:
    """Three at once drain six thousand, while somebody else holds some of these people and writes their rows."""
    people = [f"t1-{n:032}" for n in range(6_000)]
    for some in range(0, len(people), 1000):
        batch = people[some : some + 1000]
        await recorded(database, *(Statement(p, None, opt_in(0, evidence_id=f"ev-{p}")) for p in batch))
    busy = people[::150]
    now = A_YEAR_LATER + DAY
    largest = 0

    async def drain() -> int:
        nonlocal largest
        done = 0
        while True:
            async with database.begin() as tx:
                await tx.execute(text("SET LOCAL lock_timeout = '30s'"))  # to fail, and not to hang
                some = await step(tx, now, ASKING, 150, lambda: now)
            if not some:
                return done
            largest = max(largest, some)
            done += some

    async with database.begin() as tx:
        before = A_YEAR_LATER - SECOND
        touched = [contact(60, evidence_id=f"ev-touch-{p}", occurred_at=before, received_at=before) for p in busy]
        await record(tx, inner, [Statement(p, None, touch) for p, touch in zip(busy, touched, strict=True)], now)
        looked = sum(await asyncio.gather(drain(), drain(), drain()))
        assert looked >= len(people) - len(busy)  # two may come to the same person, one after the other
        assert largest <= 150
    assert await drain() == 0  # who was busy has been in touch
    async with database.begin() as tx:
        found = await tx.execute(
            text(
                "SELECT count(*) AS lines, count(DISTINCT subject_id) AS people, max(entries) AS most"
                " FROM evidence JOIN subject USING (subject_id) WHERE kind = 'expiry'"
            )
        )
        left = await tx.scalar(text("SELECT count(*) FROM retention_due"))
    expired = len(people) - len(busy)
    assert found.one() == (expired, expired, 2)
    assert left == len(busy)


async def test_the_age_of_what_is_due_is_told(database: Database) -> None:
    old = opt_in(0, occurred_at=datetime(2020, 1, 1, tzinfo=UTC))
    await recorded(database, Statement(PERSON, None, old))
    read_up_to: list[datetime | None] = [None]

    async def read(tx: AsyncConnection) -> datetime | None:
        return read_up_to[0]

    timer = expiring.Expiring(database, read, ASKING, backlog=0)
    assert not await timer.look()  # something waits to be published: a STOP would wait behind us
    assert expiring.BACKLOG._value.get() > timedelta(days=365).total_seconds()
    async with database.begin() as tx:
        await tx.execute(text("DELETE FROM outbox"))
    for not_yet in (None, datetime(2020, 6, 1, tzinfo=UTC)):  # an OUI of before the end may still come
        read_up_to[0] = not_yet
        assert not await timer.look()
    read_up_to[0] = datetime.now(UTC)
    assert await timer.look()
    assert not await timer.look()
    assert expiring.BACKLOG._value.get() == 0
