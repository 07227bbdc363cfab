"""The one door, against a real Postgres: a model that anyone can check by eye, and two batches at once."""

import asyncio
import dataclasses
import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import ConsentStateChanged
from common.db.database import COPIED_ROWS, Database
from common.kafka import outbox, packing
from common.privacy.erasing import Whom
from common.version import at_least
from consent.ledger import first_consents, reopening, retention, term_store
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import GENESIS, PERSONAL, verify
from consent.ledger.recorder import (
    Recorded,
    Statement,
    erase,
    forget,
    keep_listed,
    publish_again,
    record,
    record_alike,
)
from consent.ledger.rules import Evidence, Refusal, Verdict
from consent.senders import registry as senders
from consent.senders import store as senders_store
from tests.support.builders import inner
from tests.support.eventually import eventually
from tests.support.failing import Crash
from tests.unit.consent.evidences import (
    NOON,
    NOW,
    at,
    contact,
    expiry,
    on_page,
    opt_in,
    opt_out,
    request,
    slow_stop,
    start,
    stop,
)

pytestmark = pytest.mark.brokerless

A = Whom("t1-a", None)

FIRST = at_least(NOW)  # version of somebody of whom nothing was told before that
SENDERS = ("acme", "globex")
PURPOSES = ("promotions", "loyalty")
SCOPES = [(sender, purpose) for sender in (*SENDERS, "initech") for purpose in (*PURPOSES, "to-come")]


def of(subject_id: str, evidence: Evidence) -> Statement:
    return Statement(subject_id, f"sealed {subject_id}", evidence)


async def recorded(database: Database, *statements: Statement, now: datetime = NOW) -> list[Recorded]:
    async with database.begin() as tx:
        return await record(tx, inner, statements, now)


async def published(database: Database) -> list[ConsentStateChanged]:
    async with database.begin() as tx:
        rows = await tx.execute(text("SELECT payload FROM outbox WHERE topic = 'consent.states.v1' ORDER BY id"))
        return [msgspec.json.decode(row.payload, type=ConsentStateChanged) for row in rows]


async def held(database: Database, subject_id: str) -> ledger_store.Subject:
    async with database.begin() as tx:
        return await ledger_store.find_subject(tx, subject_id) or ledger_store.Subject(subject_id=subject_id)


class Model:
    """What the ledger should say, from nothing but the set of evidence it was given."""

    def __init__(self) -> None:
        self.evidence: dict[str, dict[str, Evidence]] = {}
        self.versions: dict[str, int] = {}

    def meaning(self, subject_id: str) -> dict[object, object]:
        known = list(self.evidence.get(subject_id, {}).values())
        meaning: dict[object, object] = {}
        for sender, purpose in SCOPES:
            ins = [e for e in known if (e.kind, e.sender_id, e.purpose) == ("opt_in", sender, purpose)]
            outs = [
                e
                for e in known
                if e.kind == "opt_out" and e.sender_id in (None, sender) and e.purpose in (None, purpose)
            ]
            own = max((e.at for e in ins if e.source != "shop"), default=NOON)
            stops = [e.at for e in outs if e.source == "mo" and e.at >= own]
            ins = [e for e in ins if e.source != "shop" or all(e.at <= stop for stop in stops)]
            newest_in, newest_out = max((e.at for e in ins), default=None), max((e.at for e in outs), default=None)
            if newest_out and not (newest_in and newest_in > newest_out):
                meaning[sender, purpose] = ("opted_out", newest_out)
            elif newest_in:
                meaning[sender, purpose] = ("opted_in", newest_in)
        for everything_of in (*SENDERS, None):
            wide = [e.at for e in known if (e.kind, e.sender_id, e.purpose) == ("opt_out", everything_of, None)]
            if wide:
                meaning[everything_of] = max(wide)
        return meaning

    def record(self, batch: list[Statement]) -> None:
        told = set()
        for statement in batch:
            known = self.evidence.setdefault(statement.subject_id, {})
            evidence = statement.evidence
            if evidence.evidence_id in known or list(ledger.refusals(evidence, NOW)):
                continue
            before = self.meaning(statement.subject_id)
            known[evidence.evidence_id] = evidence
            by_sms = evidence.kind == "opt_out" and evidence.reference is not None
            if by_sms or self.meaning(statement.subject_id) != before:
                told.add(statement.subject_id)
        for subject_id in told:
            self.versions[subject_id] = self.versions.get(subject_id, 0) + 1


def meaning_of(state: ledger.SubjectState) -> dict[object, object]:
    meaning: dict[object, object] = {s.sender_id: s.since for s in ledger.suppressions(state)}
    for sender, purpose in SCOPES:
        if consent := ledger.consent_of(state, sender, purpose):
            meaning[sender, purpose] = (consent.state, consent.occurred_at)
    return meaning


async def recorded_and_crashed(database: Database, *statements: Statement) -> None:
    async with database.begin() as tx:
        await record(tx, inner, statements, NOW)
        raise Crash


@pytest.mark.parametrize("seed", range(6))
async def test_any_sequence_of_evidence_leaves_what_the_model_says(database: Database, seed: int) -> None:
    """Opt-ins, opt-outs, duplicates, reorderings, replays of whole batches, refusals and crashes before the commit."""
    rng = random.Random(seed)
    subjects = [f"t1-{n:032x}" for n in range(5)]
    model = Model()
    said: list[Statement] = []

    def evidence() -> Evidence:
        minutes = rng.randint(0, 6)
        number = len(said) + rng.randint(0, 10_000) * 1000
        sender = rng.choice(SENDERS)
        match rng.randrange(8):
            case 0:
                return stop(minutes, evidence_id=f"ev-{number}", sender_id=rng.choice((sender, None)))
            case 1:
                return opt_out(minutes, evidence_id=f"ev-{number}", sender_id=rng.choice((sender, None)))
            case 2:
                return opt_out(minutes, evidence_id=f"ev-{number}", sender_id=sender, purpose=rng.choice(PURPOSES))
            case 3:
                return opt_in(minutes, evidence_id=f"ev-{number}", text_shown=None)
            case 4 | 5:
                return on_page(minutes, evidence_id=f"ev-{number}", sender_id=sender, purpose=rng.choice(PURPOSES))
            case _:
                return opt_in(minutes, evidence_id=f"ev-{number}", sender_id=sender, purpose=rng.choice(PURPOSES))

    for _ in range(60):
        batch = [of(rng.choice(subjects), evidence()) for _ in range(rng.randint(0, 5))]
        if said and rng.random() < 0.5:
            batch += rng.sample(said, min(len(said), 4)) + rng.sample(batch, min(len(batch), 2))
        rng.shuffle(batch)
        if rng.random() < 0.2:
            with pytest.raises(Crash):
                await recorded_and_crashed(database, *batch)
        else:
            await recorded(database, *batch)
            model.record(batch)
            said += batch
        for subject_id in subjects:
            subject = await held(database, subject_id)
            assert meaning_of(subject.state) == model.meaning(subject_id)
            assert subject.version == (FIRST - 1 + told if (told := model.versions.get(subject_id, 0)) else 0)
            assert subject.entries == len(model.evidence.get(subject_id, ()))

    events = await published(database)
    for subject_id in subjects:
        subject = await held(database, subject_id)
        own = [event for event in events if event.subject_id == subject_id]
        assert [event.version for event in own] == list(range(FIRST, subject.version + 1))
        if own:
            assert own[-1].suppressions == ledger.suppressions(subject.state)
        async with database.begin() as tx:
            history = await ledger_store.history(tx, subject_id)
        assert verify(history, inner) is None
        assert (history[-1].hash if history else GENESIS) == subject.head
        assert {e.evidence.evidence_id for e in history} == set(model.evidence.get(subject_id, ()))


async def test_batches_over_the_same_people_wait_for_each_other_and_lose_nothing(database: Database) -> None:
    """Known people and new ones, each batch in an order of its own: without one order of locking this deadlocks."""
    rng = random.Random(7)
    people = [f"t1-{n:032x}" for n in range(60)]
    sent: list[Statement] = []

    async def writer(name: str) -> None:
        for batch in range(12):
            statements = [
                of(subject_id, opt_in(batch, evidence_id=f"ev-{name}-{batch}-{subject_id}"))
                for subject_id in rng.sample(people, 40)
            ]
            sent.extend(statements)
            await recorded(database, *statements)

    await asyncio.gather(*(writer(name) for name in "abcd"))
    events = await published(database)
    for subject_id in people:
        own = [s.evidence for s in sent if s.subject_id == subject_id]
        subject = await held(database, subject_id)
        assert subject.entries == len(own)
        assert meaning_of(subject.state) == meaning_of(ledger.fold(own))
        versions = [event.version for event in events if event.subject_id == subject_id]
        assert versions == list(range(FIRST, subject.version + 1)), "in outbox order, none twice, none missing"
        async with database.begin() as tx:
            assert verify(await ledger_store.history(tx, subject_id), inner) is None


async def test_who_is_never_seen_and_written_by_another_meanwhile_is_decided_again(database: Database) -> None:
    """The opt-in of a stranger is decided before there is a row to lock; a STOP of theirs is committed first."""

    async def waits() -> bool:
        async with database.begin() as look:
            sql = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return bool(await look.scalar(text(sql)))

    async with database.begin() as tx:
        await record(tx, inner, [of("t1-b", stop(5))], NOW)
        second = asyncio.create_task(
            recorded(
                database,
                of("t1-a", opt_in(0, evidence_id="ev-a")),
                of("t1-b", opt_in(0, evidence_id="ev-b")),
                of("t1-c", opt_in(0, evidence_id="ev-c")),
            )
        )
        await eventually(waits)
    results = await second
    assert [(r.decision.verdict, r.version) for r in results] == [
        ("recorded", FIRST),
        ("unchanged", FIRST),
        ("recorded", FIRST),
    ]
    subject = await held(database, "t1-b")
    consent = ledger.consent_of(subject.state, "acme", "promotions")
    assert consent is not None
    assert (consent.state, subject.entries) == ("opted_out", 2)
    async with database.begin() as tx:
        entries = await ledger_store.history(tx, "t1-b")
        assert [entry.evidence.kind for entry in entries] == ["opt_out", "opt_in"]
        assert verify(entries, inner) is None
    assert [event.subject_id for event in await published(database)] == ["t1-b", "t1-a", "t1-c"]


async def test_of_hundreds_at_once_no_first_consent_outvotes_a_stop_of_meanwhile(database: Database) -> None:
    """The batch goes by COPY, which another's row stops: then all are decided again, and nothing is written twice."""
    people = [f"t1-{n:032x}" for n in range(COPIED_ROWS + 20)]
    stopped = people[50]

    async def waits() -> bool:
        async with database.begin() as look:
            sql = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock' AND query LIKE 'COPY%'"
            )
            return bool(await look.scalar(text(sql)))

    async with database.begin() as tx:
        await record(tx, inner, [of(stopped, stop(5))], NOW)
        said = [of(who, opt_in(0, evidence_id=f"ev-{who}")) for who in people]
        said.insert(3, of(people[7], stop(9, evidence_id="ev-out")))  # no first consent, and as new as the others
        second = asyncio.create_task(recorded(database, *said))
        await eventually(waits)
    verdicts = {(r.statement.subject_id, r.statement.evidence.kind): r.decision.verdict for r in await second}
    expected = dict.fromkeys([(who, "opt_in") for who in people], Verdict.RECORDED)
    assert verdicts == expected | {
        (stopped, "opt_in"): Verdict.UNCHANGED,
        (people[7], "opt_out"): Verdict.RECORDED,
        (people[7], "opt_in"): Verdict.UNCHANGED,
    }
    async with database.begin() as tx:
        histories = await ledger_store.whole_histories(tx, people)
    out = set()
    for subject, entries in histories:
        consent = ledger.consent_of(subject.state, "acme", "promotions")
        if consent is None or consent.state != "opted_in":
            out.add(subject.subject_id)
        assert verify(entries, inner) is None
        assert (subject.head, subject.entries) == (entries[-1].hash, len(entries))
    assert out == {stopped, people[7]}
    assert sorted(event.subject_id for event in await published(database)) == people


@pytest.mark.parametrize("partitions", [None, 3])
async def test_first_consents_are_told_alike_in_rows_of_their_own_and_in_shared_ones(
    database: Database, partitions: int | None
) -> None:
    people = [f"t1-{n:032x}" for n in range(COPIED_ROWS)]
    said = [of(who, opt_in(n % 9, evidence_id=f"ev-{who}")) for n, who in enumerate(people)]
    said.append(of("t1-out", stop(2)))
    async with database.begin() as tx:
        await record(tx, inner, said, NOW, partitions=partitions)
        rows = await tx.execute(text("SELECT type, payload FROM outbox ORDER BY id"))
        found = [packing.unpacked(row.type, row.payload) for row in rows]
    if partitions is None:
        payloads = [payload or b"" for _, payload in found]
    else:
        assert len(found) <= 2 * partitions
        assert {type_ for type_, _ in found} == {f"{outbox.SHARED}consent.state_changed.v1"}
        payloads = [value for _, row in found for _, value in msgspec.msgpack.decode(row or b"")]
    told = {event.subject_id: event for event in (msgspec.json.decode(p, type=ConsentStateChanged) for p in payloads)}
    assert len(payloads) == len(told) == len(said)
    for one in said:
        event, evidence = told[one.subject_id], one.evidence
        assert [cause.evidence_id for cause in event.causes] == [evidence.evidence_id]
        assert event.version == FIRST
        if evidence.kind == "opt_in":
            [consent] = event.consents
            assert (consent.state, consent.occurred_at, consent.evidence_id) == (
                "opted_in",
                evidence.at,
                evidence.evidence_id,
            )


@pytest.mark.parametrize("on_record", [0, 1, COPIED_ROWS, 2 * COPIED_ROWS])
@pytest.mark.parametrize("look", [True, False])
async def test_opt_ins_in_columns_are_recorded_as_one_by_one(database: Database, look: bool, on_record: int) -> None:
    people = [f"t1-{n:032x}" for n in range(2 * COPIED_ROWS)]
    known = random.Random(5).sample(people, on_record)
    await recorded(database, *(of(who, opt_in(5, evidence_id=f"ev-known-{who}")) for who in known[::2]))
    await recorded(database, *(of(who, stop(5, evidence_id=f"ev-known-{who}")) for who in known[1::2]))
    said = [of(who, opt_in(n % 9, evidence_id=f"ev-in-{who}")) for n, who in enumerate(people)]
    others = [of(f"t1-other-{n}", one) for n in range(3) for one in (stop(n), opt_in(n, evidence_id=f"ev-o{n}"))]
    async with database.engine.connect() as tx:
        results = await record(tx, inner, [*said, *others], NOW, partitions=3)
        one_by_one = await _left(tx)
        await tx.rollback()
    async with database.begin() as tx:
        columns = first_consents.grouped(said, inner)
        outcome = await record_alike(tx, inner, columns, others, NOW, partitions=3, look=look)
        assert await _left(tx) == one_by_one
    of_alike = {result.statement.subject_id: result for result in results[: len(said)]}
    assert outcome.results == results[len(said) :]
    assert outcome.of_alike == {who: of_alike[who] for who in (people if len(known) > COPIED_ROWS else known)}
    assert outcome.met == bool(known)


async def _left(tx: AsyncConnection) -> list[object]:
    """Return all that a batch leaves, but for salts and hashes: histories, terms, and events in any order."""
    rows = await tx.execute(text("SELECT subject_id FROM subject ORDER BY subject_id"))
    histories = await ledger_store.whole_histories(tx, [subject_id for (subject_id,) in rows])
    for subject, entries in histories:
        assert verify(entries, inner) is None
        assert (subject.head, subject.entries) == (entries[-1].hash, len(entries))
    due = await term_store.due_of(tx, [subject.subject_id for subject, _ in histories])
    sent = await tx.execute(text("SELECT type, payload FROM outbox ORDER BY id"))
    told = [packing.unpacked(row.type, row.payload)[1] or b"" for row in sent if outbox.SHARED in row.type]
    events = [tuple(one) for row in told for one in msgspec.msgpack.decode(row)]
    ledger = [
        (replace(subject, head=""), [(e.position, e.evidence, e.recorded_at) for e in entries])
        for subject, entries in histories
    ]
    return [ledger, due, sorted(events)]


async def test_hundreds_at_once_are_written_as_one_by_one(database: Database) -> None:
    """Strangers, and some who are known; what one says twice counts once, in the order it was said."""
    people = [f"t1-{n:032x}" for n in range(2 * COPIED_ROWS)]
    known = {who: stop(5, evidence_id=f"ev-known-{who}") for who in people[::5]}
    await recorded(database, *(of(who, one) for who, one in known.items()))
    said = [
        of(who, one)
        for n, who in enumerate(people)
        for one in (
            opt_in(n % 9, evidence_id=f"ev-in-{who}", text_shown=f"Oui à l'«\toffre\n» {n}"),
            *((stop(4, evidence_id=f"ev-out-{who}"),) if n % 3 == 0 else ()),
            opt_in(n % 9, evidence_id=f"ev-in-{who}"),
        )
    ]
    results = await recorded(database, *said)
    assert Counter(r.decision.verdict for r in results)[Verdict.DUPLICATE] == len(people)
    told = await published(database)
    events = {(event.subject_id, event.version): event for event in told}
    assert len(events) == len(told), "each version once"
    async with database.begin() as tx:
        histories = await ledger_store.whole_histories(tx, people)
        due = {row.subject_id: row.due_at for row in await term_store.due_of(tx, people)}
    for subject, entries in histories:
        who = subject.subject_id
        own = [*([known[who]] if who in known else []), *(s.evidence for s in said if s.subject_id == who)][:-1]
        assert meaning_of(subject.state) == meaning_of(ledger.fold(own))
        assert [entry.evidence.text_shown for entry in entries] == [one.text_shown for one in own]
        assert verify(entries, inner) is None
        assert (entries[-1].hash, len(entries)) == (subject.head, len(own))
        (term,) = retention.kept_terms(subject.state, {}, own=True)
        assert due[who] == term.expires_at
        (consent,) = events[who, subject.version].consents or (None,)
        assert consent is None or consent.expires_at == (term.expires_at if consent.state == "opted_in" else None)


async def test_a_batch_tells_each_subject_once_with_all_its_causes(database: Database) -> None:
    results = await recorded(
        database,
        of("t1-a", opt_in(0)),
        of("t1-b", opt_in(0, evidence_id="ev-b")),
        of("t1-a", stop(1)),
        of("t1-a", opt_in(-1)),
    )
    assert [r.decision.verdict for r in results] == ["recorded", "recorded", "recorded", "unchanged"]
    assert [r.version for r in results] == [FIRST] * 4
    first, second = await published(database)
    assert [cause.kind for cause in first.causes] == ["opt_in", "opt_out"]
    assert [(c.sender_id, c.purpose, c.state) for c in first.consents] == [("acme", "promotions", "opted_out")]
    assert [s.sender_id for s in first.suppressions] == ["acme"]
    assert second.subject_id == "t1-b"


async def test_a_version_that_a_restored_database_has_forgotten_is_given_to_nobody_again(database: Database) -> None:
    """Others have seen it, and would take a STOP under it for what they know."""
    await recorded(database, of("t1-a", opt_in(0)))
    backup = await held(database, "t1-a")
    for minutes in range(1, 4):
        await recorded(database, of("t1-a", opt_in(minutes, sender_id="globex", purpose="loyalty")))
    lost = await held(database, "t1-a")
    async with database.begin() as tx:
        await tx.execute(text("UPDATE subject SET version = :version"), {"version": backup.version})
    [stopped] = await recorded(database, of("t1-a", stop(9)), now=NOW + timedelta(seconds=30))
    assert stopped.version is not None
    assert stopped.version > lost.version > backup.version


async def test_a_stop_for_somebody_already_out_is_told_again_and_its_repeat_is_not(database: Database) -> None:
    await recorded(database, of("t1-a", stop(5)))
    again = of("t1-a", stop(1))
    (result,) = await recorded(database, again)
    assert (result.decision.verdict, result.version) == (Verdict.UNCHANGED, FIRST + 1)
    (result,) = await recorded(database, again)
    assert (result.decision.verdict, result.version) == (Verdict.DUPLICATE, FIRST + 1)
    events = await published(database)
    assert [(e.version, [c.reference for c in e.causes]) for e in events] == [
        (FIRST, ["simulator/fr/mo-5"]),
        (FIRST + 1, ["simulator/fr/mo-1"]),
    ]
    assert (await held(database, "t1-a")).entries == 2


async def test_what_is_refused_leaves_no_trace(database: Database) -> None:
    refused = of("t1-a", opt_in(0, text_shown=None))
    kept = of("t1-b", opt_in(0))
    first, second = await recorded(database, refused, kept)
    assert first.decision.refusals == (Refusal.NOTHING_SHOWN,)
    assert first.version is None
    assert second.decision.changed
    async with database.begin() as tx:
        assert await ledger_store.find_subject(tx, "t1-a") is None


async def test_the_number_is_kept_sealed_as_it_first_came(database: Database) -> None:
    await recorded(database, of("t1-a", opt_in(0)))
    await recorded(database, replace(of("t1-a", opt_in(1)), number="sealed again"))
    async with database.begin() as tx:
        assert await tx.scalar(text("SELECT number FROM subject")) == "sealed t1-a"


async def test_an_opt_in_brings_the_number_of_whom_an_opt_out_left_without(database: Database) -> None:
    await recorded(database, of("t1-a", opt_out(0)))
    assert await number_of(database, "t1-a") is None
    async with database.begin() as tx:
        [own] = (await term_store.terms_kept(tx, ["t1-a"]))["t1-a"]
    await recorded(database, of("t1-a", opt_in(1)))
    assert await number_of(database, "t1-a") == "sealed t1-a"
    async with database.begin() as tx:
        [term] = (await term_store.terms_kept(tx, ["t1-a"]))["t1-a"]
    assert (retention.is_person(own), retention.is_person(term)) == (True, False)


async def registered(database: Database, sender_id: str, **more: Any) -> None:
    fields: dict[str, Any] = {
        "sender_id": sender_id,
        "organisation_id": "tests",
        "legal_name": "ACME SAS",
        "brand": sender_id,
        "contact": "acme.example",
        "country": "FR",
        "oadc": "ACME",
        "stop_code": "36111",
        "purposes": (),
        "controller": "groupe-acme",
    }
    async with database.begin() as tx:
        await senders.register(tx, senders_store.Sender(**fields | more), NOW)


async def state_of(database: Database, subject_id: str, sender_id: str) -> str:
    return ledger.standing((await held(database, subject_id)).state, sender_id, "promotions")


async def test_a_stop_shuts_every_sender_of_the_controller_also_one_registered_later(database: Database) -> None:
    await registered(database, "acme")
    await registered(database, "acme-outlet")
    await registered(database, "globex", controller="globex")
    for sender_id in ("acme", "acme-outlet", "globex"):
        await recorded(database, of("t1-a", opt_in(0, sender_id=sender_id)))
    await recorded(database, of("t1-a", stop(1)))
    await registered(database, "acme-voyages")
    await recorded(database, of("t1-a", opt_in(0.5, sender_id="acme-voyages")))
    assert [await state_of(database, "t1-a", sender_id) for sender_id in ("acme", "acme-outlet", "acme-voyages")] == [
        "opted_out"
    ] * 3
    assert await state_of(database, "t1-a", "globex") == "opted_in"
    await recorded(database, of("t1-a", on_page(2, sender_id="acme-voyages")))
    assert await state_of(database, "t1-a", "acme-voyages") == "opted_in", "the person has come back"
    newest = (await published(database))[-1]
    assert {(c.sender_id, c.state) for c in newest.consents} == {
        ("acme", "opted_out"),
        ("acme-outlet", "opted_out"),
        ("acme-voyages", "opted_in"),
        ("globex", "opted_in"),
    }
    assert [s.sender_id for s in newest.suppressions] == ["acme"]


async def test_a_stop_to_a_sender_that_answers_for_itself_shuts_it_alone(database: Database) -> None:
    await registered(database, "acme", stop_scope="sender")
    await registered(database, "acme-outlet")
    await recorded(database, of("t1-a", opt_in(0)), of("t1-a", opt_in(0, sender_id="acme-outlet")))
    await recorded(database, of("t1-a", opt_out(1)), of("t1-a", opt_out(1, purpose="loyalty")))
    assert await state_of(database, "t1-a", "acme") == "opted_out"
    assert await state_of(database, "t1-a", "acme-outlet") == "opted_in"
    await recorded(database, of("t1-a", opt_out(2, sender_id="acme-outlet", purpose="loyalty")))
    assert await state_of(database, "t1-a", "acme-outlet") == "opted_in", "a purpose is one sender's own"


async def test_a_list_kept_beside_the_ledger_that_shuts_a_consent_after_all_is_told_as_what_shut_it(
    database: Database,
) -> None:
    """It was of one sender, whose STOP has come to reach its controller since."""
    await registered(database, "acme", stop_scope="sender")
    await registered(database, "acme-outlet")
    await recorded(database, of("t1-a", stop(0)), of("t1-a", opt_in(2, sender_id="acme-outlet")))
    async with database.begin() as tx:
        await ledger_store.lock_subjects(tx, {}, ["t1-a"])
        await keep_listed(tx, [of("t1-a", opt_out(3, evidence_id="ev-list"))])
        acme = await senders_store.lock_sender(tx, "acme")
        assert acme
        await senders.change(tx, acme, dataclasses.replace(acme, stop_scope="controller"), NOW)
    await recorded(database, of("t1-a", opt_in(1)))
    assert await state_of(database, "t1-a", "acme-outlet") == "opted_out"
    newest = (await published(database))[-1]
    assert [cause.evidence_id for cause in newest.causes] == ["ev-list"]


async def test_the_registry_says_who_the_controller_is_whoever_brings_the_evidence(database: Database) -> None:
    await registered(database, "acme")
    await recorded(database, of("t1-a", opt_in(0, controller="somebody-else")))
    async with database.begin() as tx:
        (entry,) = await ledger_store.history(tx, "t1-a")
    assert entry.evidence.controller == "groupe-acme"


async def number_of(database: Database, subject_id: str) -> str | None:
    return (await held(database, subject_id)).number


async def erased(database: Database, subject_id: str, minutes: float) -> None:
    """They ask for it then, and it is done."""
    asks = replace(of(subject_id, opt_out(minutes, sender_id=None, evidence_id=f"ev-erase-{minutes}")), erases=True)
    await recorded(database, asks, now=at(minutes))
    async with database.begin() as tx:
        await erase(tx, {Whom(subject_id, None): at(minutes)})


async def test_an_erasure_takes_what_is_personal_and_the_chain_holds_without_it(database: Database) -> None:
    said = opt_in(0, form_id="checkout", actor="agent-12", sale_reference="order-7", reference="shop/1")
    await recorded(database, of("t1-a", said), of("t1-a", stop(1)), now=at(1))
    await recorded(database, of("t1-b", opt_in(0, evidence_id="ev-b")))
    await erased(database, "t1-a", 2)
    async with database.begin() as tx:
        history, other = await ledger_store.history(tx, "t1-a"), await ledger_store.history(tx, "t1-b")
        stored = await tx.scalar(text("SELECT jsonb_agg(to_jsonb(e)) FROM evidence e WHERE subject_id = 't1-a'"))
    assert verify(history, inner) is None
    assert [entry.erased for entry in (*history, *other)] == [True, True, True, False]
    for gone in ("checkout", "agent-12", "order-7", "shop/1", "Oui", "simulator"):
        assert gone not in str(stored)
    subject = await held(database, "t1-a")
    assert (subject.number, subject.erased_at, subject.held_since) == (None, at(2), None)
    assert ledger.standing(subject.state, "acme", "promotions") == "opted_out", "who was out is out"
    assert await number_of(database, "t1-b") == "sealed t1-b"


async def test_what_comes_after_an_erasure_is_chained_to_what_was_there(database: Database) -> None:
    await recorded(database, of("t1-a", opt_in(0)), of("t1-a", stop(1)), now=at(1))
    await erased(database, "t1-a", 2)
    await recorded(database, of("t1-a", stop(3)))
    assert await number_of(database, "t1-a") is None, "to keep somebody out, the keyed hash is enough"
    await recorded(database, of("t1-a", on_page(4)))
    assert await number_of(database, "t1-a") == "sealed t1-a"
    async with database.begin() as tx:
        history = await ledger_store.history(tx, "t1-a")
    assert verify(history, inner) is None
    assert [entry.erased for entry in history] == [True, True, True, False, False]


async def test_what_is_of_before_an_erasure_and_comes_late_is_recorded_without_what_is_personal(
    database: Database,
) -> None:
    await erased(database, "t1-a", 2)
    late = opt_in(1, form_id="checkout", form_version="7", actor="agent-12")
    (result,) = await recorded(database, of("t1-a", late))
    assert result.decision.verdict is Verdict.UNCHANGED
    async with database.begin() as tx:
        history = await ledger_store.history(tx, "t1-a")
    assert [(entry.erased, entry.evidence.actor, entry.evidence.form_id) for entry in history] == [
        (True, None, None)
    ] * 2
    assert verify(history, inner) is None
    assert await number_of(database, "t1-a") is None


@pytest.mark.parametrize("not_enough", [request(3), contact(3), stop(3), opt_in(1), opt_in(2)])
async def test_only_a_newer_opt_in_brings_an_erased_person_back(database: Database, not_enough: Evidence) -> None:
    await erased(database, "t1-a", 2)
    await recorded(database, of("t1-a", not_enough))
    assert (await held(database, "t1-a")).erased_at == at(2)
    assert await number_of(database, "t1-a") is None
    await recorded(database, of("t1-a", on_page(4)))
    back = await held(database, "t1-a")
    assert (back.erased_at, back.number) == (None, "sealed t1-a")


async def test_an_opt_in_that_a_newer_stop_outvotes_brings_nobody_back(database: Database) -> None:
    await erased(database, "t1-a", 2)
    await recorded(database, of("t1-a", stop(4)), of("t1-a", opt_in(3)))
    assert (await held(database, "t1-a")).erased_at == at(2)


async def test_an_erasure_that_is_done_after_the_person_came_back_leaves_the_new_evidence(database: Database) -> None:
    await recorded(database, of("t1-a", opt_in(0)), now=at(0))
    asks = replace(of("t1-a", opt_out(1, sender_id=None)), erases=True)
    await recorded(database, asks, now=at(1))
    await recorded(database, of("t1-a", opt_in(2)), now=at(2))
    async with database.begin() as tx:
        assert await erase(tx, {A: at(1)}) == {A: 2}
        history = await ledger_store.history(tx, "t1-a")
    assert [entry.erased for entry in history] == [True, True, False]
    assert await number_of(database, "t1-a") == "sealed t1-a"


async def test_a_number_nobody_told_is_kept_once_an_opt_in_tells_it(database: Database) -> None:
    await recorded(database, replace(of("t1-a", stop(0)), number=None))
    assert await number_of(database, "t1-a") is None
    await recorded(database, of("t1-a", opt_in(1)))
    assert await number_of(database, "t1-a") == "sealed t1-a"
    await recorded(database, replace(of("t1-b", stop(0, evidence_id="1")), number=None), of("t1-b", stop(1)))
    assert await number_of(database, "t1-b") is None, "a STOP brings no number"


async def returns_to_globex(database: Database) -> ledger.SubjectState:
    await recorded(database, of("t1-a", on_page(5, sender_id="globex")), now=at(5))
    back = await held(database, "t1-a")
    assert back.erased_at is None
    assert ledger.standing(back.state, "globex", "promotions") == "opted_in"
    return back.state


@pytest.mark.parametrize("given", [opt_in(1), request(1)], ids=["a consent", "a question"])
async def test_an_erasure_that_is_heard_late_shuts_what_was_given_since_it_was_said(
    database: Database, given: Evidence
) -> None:
    """What that stood on is erased with the rest, so it is nothing that the person could come back to."""
    await recorded(database, of("t1-a", given), now=at(1))
    asks = replace(of("t1-a", stop(0, sender_id=None, received_at=at(0.5))), erases=True)
    for _ in range(2):
        (result, *_) = await recorded(database, asks, now=at(2))
    assert result.decision.verdict is Verdict.DUPLICATE
    async with database.begin() as tx:
        await erase(tx, {A: at(2)})
        history = await ledger_store.history(tx, "t1-a")
    outs = [(e.evidence.occurred_at, e.erased) for e in history if e.evidence.kind == "opt_out"]
    assert outs == [(at(2), True), (at(0), True)]
    assert verify(history, inner) is None
    state = await returns_to_globex(database)
    assert ledger.standing(state, "acme", "promotions") == "opted_out"
    assert ledger.open_request(state, "acme", "promotions") is None


async def test_a_consent_of_before_an_erasure_that_nobody_asked_for_opens_nothing_when_it_comes_late(
    database: Database,
) -> None:
    await recorded(database, of("t1-a", opt_in(0)), of("t1-a", expiry(0.5)), now=at(1))
    async with database.begin() as tx:
        await forget(tx, ["t1-a"], at(3))
        await erase(tx, {A: at(3)})
    late = opt_in(2), opt_in(2.5, sender_id="globex", purpose="loyalty")
    results = await recorded(database, *(of("t1-a", one) for one in late), now=at(4))
    assert [(r.decision.verdict, r.decision.cause) for r in results] == [(Verdict.UNCHANGED, None)] * 2
    assert ledger.standing(results[0].decision.state, "acme", "promotions") == "expired"
    state = await returns_to_globex(database)
    assert ledger.standing(state, "acme", "promotions") == "expired"
    assert ledger.standing(state, "globex", "loyalty") == "expired"
    assert reopening.reopened(state, "acme") == ()
    async with database.begin() as tx:
        history = await ledger_store.history(tx, "t1-a")
    assert verify(history, inner) is None
    assert [entry.erased for entry in history if entry.evidence.kind == "opt_in"] == [True, True, True, False]


ERASING = ", ".join(f"{name} = NULL" for name in (*PERSONAL, "salt"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE evidence SET kind = 'opt_in'",
        "UPDATE evidence SET actor = 'somebody else'",
        "UPDATE evidence SET actor = NULL",
        "UPDATE evidence SET salt = NULL",
        f"UPDATE evidence SET {', '.join(f'{name} = NULL' for name in PERSONAL)}",
        f"UPDATE evidence SET {ERASING}, sealed = hash",
        f"UPDATE evidence SET {ERASING}, position = 7",
        "DELETE FROM evidence",
        "TRUNCATE evidence",
    ],
)
async def test_the_database_itself_keeps_evidence_as_it_is(database: Database, statement: str) -> None:
    await recorded(database, of("t1-a", stop(0, actor="agent-12")))
    with pytest.raises(DBAPIError, match="append-only"):
        async with database.begin() as tx:
            await tx.execute(text(statement))


async def test_what_is_erased_stays_erased(database: Database) -> None:
    await recorded(database, of("t1-a", stop(0)), now=at(0))
    await erased(database, "t1-a", 1)
    with pytest.raises(DBAPIError, match="append-only"):
        async with database.begin() as tx:
            await tx.execute(text("UPDATE evidence SET actor = 'somebody', salt = '00'"))


async def test_what_asks_expires_or_only_touches_is_kept_like_any_evidence(database: Database) -> None:
    await recorded(database, of("t1-a", request(0)))
    await recorded(database, of("t1-a", opt_in(1, answers="ev-request-0-None-promotions")))
    (touched,) = await recorded(database, of("t1-a", contact(2)))
    await recorded(database, of("t1-a", expiry(3)))
    assert (touched.decision.verdict, touched.version) == (Verdict.UNCHANGED, FIRST + 2)  # told: it holds for longer
    events = await published(database)
    told = [[c.state for c in event.consents] for event in events]
    assert told == [["pending"], ["opted_in"], ["opted_in"], ["expired"]]
    assert [[c.kind for c in event.causes] for event in events] == [[], ["opt_in"], [], []]
    subject = await held(database, "t1-a")
    assert retention.last_contact(subject.state, "acme") == contact(2).at
    async with database.begin() as tx:
        history = await ledger_store.history(tx, "t1-a")
    assert [e.evidence.kind for e in history] == ["request", "opt_in", "contact", "expiry"]
    assert history[1].evidence.answers == history[0].evidence.evidence_id
    assert verify(history, inner) is None


async def test_evidence_without_what_it_must_name_does_not_enter_the_table(database: Database) -> None:
    await recorded(database, of("t1-a", opt_in(0)))
    connection = await asyncpg.connect(database.dsn)
    try:
        for change in ("sender_id = NULL", "purpose = NULL", "basis = NULL", "kind = 'maybe'"):
            name = change.split()[0]
            with pytest.raises(asyncpg.CheckViolationError):
                await connection.execute(
                    "CREATE TEMP TABLE copied AS SELECT * FROM evidence;"
                    f"UPDATE copied SET evidence_id = '{name}', position = 9, {change};"
                    "INSERT INTO evidence OVERRIDING USER VALUE SELECT * FROM copied"
                )
    finally:
        await connection.close()


async def test_a_thousand_in_one_batch_cost_no_more_round_trips_than_one(database: Database) -> None:
    """How long they take, `make bench B=consent` says."""
    asked: list[str] = []
    listen(database.engine.sync_engine, "before_cursor_execute", lambda *called: asked.append(called[2]))

    async def round_trips(people: range) -> int:
        statements = [of(f"t1-{n:032x}", opt_in(0, evidence_id=f"ev-{n}")) for n in people]
        async with database.begin() as tx:
            await tx.execute(text("SELECT"))  # SQLAlchemy begins with the first statement
            driver: Any = (await tx.get_raw_connection()).driver_connection
            asked.clear()
            with driver.query_logger(lambda past_sqlalchemy: asked.append(past_sqlalchemy.query)):
                await record(tx, inner, statements, NOW)
        return len(asked)

    await round_trips(range(1))  # at which a new connection asks for the types, once
    one = await round_trips(range(1, 2))
    assert await round_trips(range(2, 1002)) <= one <= 7, asked
    assert len(await published(database)) == 1002


async def test_who_is_locked_already_is_read_once_and_decided_on_alike(database: Database) -> None:
    """As the intake of MOs does: while cores are short, each round trip of a STOP counts."""
    people = ("s0", "s1", "s2")  # at the first one a new connection asks for the types
    await recorded(database, *(of(who, opt_in(0, evidence_id=f"ev-{who}")) for who in people))
    asked: list[str] = []
    listen(database.engine.sync_engine, "before_cursor_execute", lambda *called: asked.append(called[2]))
    trips: dict[str, int] = {}
    for who in people:
        async with database.begin() as tx:
            await tx.execute(text("SELECT"))  # SQLAlchemy begins with the first statement
            driver: Any = (await tx.get_raw_connection()).driver_connection
            held = await ledger_store.lock_subjects(tx, [], [who]) if who == "s2" else {}
            asked.clear()
            with driver.query_logger(lambda past_sqlalchemy: asked.append(past_sqlalchemy.query)):
                await record(tx, inner, [of(who, stop(2, evidence_id=f"stop-{who}"))], NOW, (), held)
            trips[who] = len(asked)
    assert trips["s2"] == trips["s1"] - 2
    _, first, second = (await published(database))[-3:]
    assert (first.subject_id, second.subject_id) == ("s1", "s2")
    assert [each.state for each in first.consents] == [each.state for each in second.consents] == ["opted_out"]


async def test_a_state_that_is_published_again_is_the_one_it_was_with_its_version_and_its_opt_outs(
    database: Database,
) -> None:
    await recorded(database, of("s1", opt_in(1)), of("s2", opt_in(3)))
    await recorded(database, of("s1", opt_out(2)))
    *_, s2, s1 = await published(database)
    before = len(await published(database))
    async with database.begin() as tx:
        assert len(await publish_again(tx, ["s1", "s2", "nobody"], NOW - timedelta(days=7), NOW)) == 2
    again = {event.subject_id: event for event in (await published(database))[before:]}
    assert again["s1"] == s1
    assert again["s2"] == replace(s2, causes=())
    assert (await held(database, "s1")).version == s1.version


async def test_an_outvoted_stop_is_no_cause_of_a_state_that_is_published_again(database: Database) -> None:
    """A person still has to read it: dispatch would report as enforced what is open."""
    await recorded(database, of("s1", start(10)))
    await recorded(database, Statement("s1", "sealed s1", slow_stop(20, slow=15), to_review=True))
    before = await published(database)
    assert [event.causes for event in before][1:] == [()]
    async with database.begin() as tx:
        await publish_again(tx, ["s1"], NOW - timedelta(days=7), NOW)
    [again] = (await published(database))[len(before) :]
    assert again.causes == ()
