"""The ledger as it is stored, driven at random through its one door against a real Postgres.

Evidence comes in any order, late, twice, in batches split anywhere, from two sides at once, and some of it dies before
the commit. After each step, of everybody: what is stored is the pure fold of what was committed, sorted; versions go up
by one, each with a state that was published; the chain holds up to its head.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast
from uuid import uuid4

import msgspec
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace
from sqlalchemy import text

from common.contracts.consent import ConsentStateChanged
from common.db.database import Database
from consent.ledger import chain, store
from consent.ledger import rules as ledger
from consent.ledger.chain import GENESIS
from consent.ledger.recorder import Statement, record
from consent.ledger.rules import Evidence, SubjectState
from consent.proof.audit import Audit
from tests.property.test_ledger_properties import ANYWHERE, CLOCKS, anything, opt_ins, opt_outs
from tests.support.builders import inner
from tests.support.failing import Crash
from tests.support.infrastructure import Postgres
from tests.unit.consent.evidences import NOON, NOW

pytestmark = pytest.mark.brokerless

who = st.integers(0, 2)
batches = st.lists(st.tuples(who, anything), min_size=1, max_size=4)


class Ledger(RuleBasedStateMachine):
    """Three people of its own, in a database that all examples share."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        super().__init__()
        self.run: Callable[[Any], Any] = runner.run
        self.database = database
        self.name = uuid4().hex[:12]
        self.people = [f"t1-{self.name}{n:020x}" for n in range(3)]
        self.said = 0
        self.waiting: list[Statement] = []
        self.known: list[Statement] = []  # committed, in the order they were first recorded
        self.versions = dict.fromkeys(self.people, 0)
        self.states = dict.fromkeys(self.people, ledger.NEVER_SEEN)
        self.published = 0  # id in the outbox

    def statements(self, batch: list[tuple[int, Evidence]]) -> list[Statement]:
        """Each is another piece of evidence, whatever it says."""
        made = []
        for person, evidence in batch:
            self.said += 1
            identity = f"ev-{self.name}-{hash((self.said, person)) % 1000}-{self.said}"  # a tie falls either way
            made.append(Statement(self.people[person], "sealed", replace(evidence, evidence_id=identity)))
        return made

    async def record(self, batch: list[Statement], *, crash: bool = False) -> None:
        async with self.database.begin() as tx:
            await record(tx, inner, batch, NOW)
            if crash:
                raise Crash
        self.known += batch

    @initialize()
    def begins(self) -> None:
        self.published = self.run(self._last_published())

    @rule(batch=batches)
    def comes(self, batch: list[tuple[int, Evidence]]) -> None:
        self.run(self.record(self.statements(batch)))

    @rule(batch=batches)
    def is_late(self, batch: list[tuple[int, Evidence]]) -> None:
        self.waiting += self.statements(batch)

    @rule(data=st.data(), at=st.integers(0, 6))
    def arrives_at_last(self, data: st.DataObject, at: int) -> None:
        """In another order, and in two transactions."""
        mixed = data.draw(st.permutations(self.waiting)) if self.waiting else []
        self.waiting = []
        for part in (mixed[:at], mixed[at:]):
            self.run(self.record(list(part)))

    @rule(data=st.data(), more=batches)
    def comes_again(self, data: st.DataObject, more: list[tuple[int, Evidence]]) -> None:
        """Among what is new, and within one batch."""
        again = data.draw(st.lists(st.sampled_from(self.known), max_size=4)) if self.known else []
        new = self.statements(more)
        self.run(self.record(list(data.draw(st.permutations([*again, *new, *new[:1]])))))

    @rule(batch=batches)
    def dies_before_the_commit(self, batch: list[tuple[int, Evidence]]) -> None:
        lost = self.statements(batch)
        with suppress(Crash):
            self.run(self.record(lost, crash=True))
        self.waiting += lost  # whoever sent it sends it again

    @rule(one=batches, other=batches)
    def comes_from_two_sides(self, one: list[tuple[int, Evidence]], other: list[tuple[int, Evidence]]) -> None:
        """Some of it the same."""
        left, right = self.statements(one), self.statements(other)

        async def both() -> None:
            await asyncio.gather(self.record(left), self.record([*right, left[0]]))

        self.run(both())

    @rule(person=who, out=opt_outs())
    def stops(self, person: int, out: Evidence) -> None:
        before = self.states[self.people[person]]
        self.run(self.record(self.statements([(person, out)])))
        after = self.run(self._subject(self.people[person])).state
        assert opted_in(after) <= opted_in(before), "an opt-out opened something"

    @rule(person=who, opened=opt_ins(), out=opt_outs(), sent=st.integers(-10, 0))
    def stops_by_text(self, person: int, opened: Evidence, out: Evidence, sent: int) -> None:
        """After all that is on record, by a clock that is slow and has timed a START, and there is nobody to read
        it."""
        by_text: dict[str, Any] = {"clock": CLOCKS[0], "received_at": NOW}
        last = replace(out, occurred_at=NOON + timedelta(minutes=sent), arrived_at=NOW, **by_text)
        self.run(self.record(self.statements([(person, replace(opened, **by_text))])))
        self.run(self.record(self.statements([(person, last)])))
        after = self.run(self._subject(self.people[person])).state
        left = {s for s, p in opted_in(after) if last.sender_id in (None, s) and last.purpose in (None, p)}
        assert not left, "a STOP left open what it came after"

    @invariant()
    def holds(self) -> None:
        for subject, entries in self.run(self._everybody()):
            told = [s.evidence for s in self.known if s.subject_id == subject.subject_id]
            unique = {evidence.evidence_id: evidence for evidence in told}
            stored = [entry.evidence for entry in entries]
            assert subject.state == ledger.fold(sorted(stored, key=lambda e: (e.at, e.evidence_id)))
            assert {e.evidence_id: replace(e, clock=None) for e in stored} == {
                identity: replace(e, clock=None) for identity, e in unique.items()
            }, "only the clock of a STOP is left out, where that would outvote it"
            assert (subject.entries, chain.verify(entries, inner)) == (len(unique), None)
            assert subject.head == (entries[-1].hash if entries else GENESIS)
            self.states[subject.subject_id] = subject.state
        self._is_published()

    def _is_published(self) -> None:
        events: list[ConsentStateChanged]
        events, self.published = self.run(self._published())
        last: dict[str, ConsentStateChanged] = {}
        for event in events:
            assert event.version > self.versions[event.subject_id], "a version that went back, or came twice"
            self.versions[event.subject_id] = event.version
            last[event.subject_id] = event
        for subject, _ in self.run(self._everybody()):
            assert subject.version == self.versions[subject.subject_id]
            if newest := last.get(subject.subject_id):
                for sender, purpose in ANYWHERE:
                    assert read(newest, sender, purpose) == ledger.standing(subject.state, sender, purpose)
                assert newest.suppressions == ledger.suppressions(subject.state)

    async def _everybody(self) -> list[tuple[store.Subject, list[chain.Entry]]]:
        async with self.database.begin() as tx:
            return await store.whole_histories(tx, self.people)

    async def _subject(self, subject_id: str) -> store.Subject:
        async with self.database.begin() as tx:
            return await store.find_subject(tx, subject_id) or store.Subject(subject_id=subject_id)

    async def _last_published(self) -> int:
        async with self.database.begin() as tx:
            return int(await tx.scalar(text("SELECT coalesce(max(id), 0) FROM outbox")) or 0)

    async def _published(self) -> tuple[list[ConsentStateChanged], int]:
        async with self.database.begin() as tx:
            rows = (
                await tx.execute(
                    text(
                        "SELECT id, payload FROM outbox WHERE id > :after AND topic = 'consent.states.v1' ORDER BY id"
                    ),
                    {"after": self.published},
                )
            ).all()
        events = [msgspec.json.decode(row.payload, type=ConsentStateChanged) for row in rows]
        return events, max((row.id for row in rows), default=self.published)


def opted_in(state: SubjectState) -> set[tuple[str, str]]:
    return {(s, p) for s, p in ANYWHERE if ledger.standing(state, s, p) == "opted_in"}


def read(event: ConsentStateChanged, sender_id: str, purpose: str) -> str:
    """As whoever reads the event decides: by the consent on record, else by a suppression that covers it."""
    for consent in event.consents:
        if (consent.sender_id, consent.purpose) == (sender_id, purpose):
            return consent.state
    return "opted_out" if any(s.sender_id in (None, sender_id) for s in event.suppressions) else "unknown"


def test_whatever_comes_in_whatever_order_the_ledger_is_the_fold_of_it(
    runner: asyncio.Runner, postgres: Postgres, unique: str
) -> None:
    database = Database(runner.run(postgres.clone("consent", f"consent_{unique}")))

    async def findings() -> list[Any]:
        async with database.begin() as tx:
            return [found async for found in Audit(tx, inner).findings()]

    try:
        run_state_machine_as_test(
            cast(type[Ledger], lambda: Ledger(runner, database)),  # what it does with it is to call it
            settings=settings(max_examples=15, stateful_step_count=10, deadline=None, phases=[Phase.generate]),
        )
        assert runner.run(findings()) == [], "of everything that all examples left"
    finally:
        runner.run(database.close())
