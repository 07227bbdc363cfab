"""Run retention on a timer, in batches: ask about renewal, expire consents, erase people without an open consent.

A crash repeats no step, because an expiry's evidence id contains its instant. A late timer lets no message out, because
the gate has that instant in advance (ADR-0023).
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.sms.subject_id import Inner
from common.telemetry import counter, gauge
from consent.ledger import recorder, retention, term_store
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.retention import Rules, Step
from consent.ledger.rules import SubjectState
from consent.ledger.term_store import Due
from consent.retention import store
from consent.retention.renewals import REVIEWED_WITHIN, Asking
from consent.rights import erasures

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
IDLE_S = 5.0
PEOPLE = 200
Clock = Callable[[], datetime]

EXPIRED = counter("sms_consent_expired_total", "Consents expired.")
FORGOTTEN = counter("sms_consent_forgotten_total", "People erased at the end of their last consent's retention.")
BACKLOG = gauge(
    "sms_consent_retention_backlog_seconds",
    "Seconds since the oldest step of retention fell due; 0 without a due step.",
)


@dataclass(frozen=True, slots=True)
class Expiring:
    """The timer. `backlog`: waiting events beyond which no step is written, because a STOP would wait behind the steps.

    consent-svc has applied every text acknowledged before `read_up_to`: an OUI sent in time still finds its question
    open.
    """

    database: Database
    read_up_to: Callable[[AsyncConnection], Awaitable[datetime | None]]
    asking: Asking
    backlog: int

    def worker(self) -> Worker:
        timer = Timer("retention", self.look, LOOK_EVERY_S, self.database, idle_s=IDLE_S)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        """Run a batch. Return whether any step was done."""
        now = datetime.now(UTC)
        async with self.database.begin() as tx:
            oldest = await store.oldest_due(tx)
            BACKLOG.set(max(0.0, (now - oldest).total_seconds()) if oldest else 0)
            read_up_to = await self.read_up_to(tx)
            if read_up_to is None:
                return False
            now = min(now, read_up_to)
            if oldest is None or oldest > now or await outbox.backlog_of_events(tx) > self.backlog:
                return False
            return await step(tx, now, self.asking) > 0


def _clock() -> datetime:
    return datetime.now(UTC)


async def step(tx: AsyncConnection, now: datetime, asking: Asking, people: int = PEOPLE, clock: Clock = _clock) -> int:
    """Run the steps due at `now` for at most `people` people, and return the number of people.

    Writes carry the time of `clock`, read under the locks: an erasure reaches all data recorded by then.
    """
    due = await store.lock_due(tx, now, people)
    if not due:
        return 0
    written_at = clock()
    rows = await term_store.due_of(tx, due)
    EXPIRED.inc(await recorder.expire(tx, asking.answers.keys.inner, due, now, written_at))
    await recorder.recount(tx, due, written_at)  # a consent may hold longer now than its row says
    subjects = await ledger_store.lock_subjects(tx, {}, due)
    rules = await store.rules_of(tx, recorder.senders_of(subjects.values()))
    consents = [row for row in rows if not retention.is_person(row.term)]
    looked = [(row, *look(row, subjects[row.subject_id].state, rules, now)) for row in consents]
    asked = await asking.ask(tx, [now_ for _, now_, step in looked if now_ and step is Step.ASK], subjects, now)
    await term_store.put_due(
        tx, [*asked, *(now_ for was, now_, step in looked if now_ and step is None and now_ != was)]
    )
    await term_store.forget_due(tx, [was for was, now_, _ in looked if now_ is None])
    own = [row.subject_id for row in rows if retention.is_person(row.term)]
    await forget(tx, asking.answers.keys.inner, own, now, written_at)
    return len(due)


async def forget(
    tx: AsyncConnection, inner: Inner, subject_ids: Collection[str], now: datetime, asked_at: datetime
) -> None:
    """Erase the people whose own term is over at `now`, dated `asked_at`. The caller holds the locks.

    A question postpones the erasure to its next step, a text under review by REVIEWED_WITHIN.
    """
    rows = await term_store.due_of(tx, subject_ids) if subject_ids else []
    subjects = await ledger_store.lock_subjects(tx, {}, subject_ids) if rows else {}
    waits = {row.subject_id: row.due_at for row in rows if not retention.is_person(row.term)}
    waits |= {s.subject_id: now + REVIEWED_WITHIN for s in subjects.values() if s.held_since is not None}
    over = [row for row in rows if retention.is_person(row.term) and row.term.over(now)]
    await term_store.put_due(
        tx, [replace(row, due_at=waits[row.subject_id]) for row in over if row.subject_id in waits]
    )
    gone = {
        row.subject_id: evidence_id(recorder.RETENTION, inner(row.subject_id), row.term.expires_at.isoformat())
        for row in over
        if row.subject_id not in waits
    }
    if gone:
        await erasures.begin_unasked(tx, gone, recorder.RETENTION, asked_at)
        FORGOTTEN.inc(len(gone))


def look(row: Due, state: SubjectState, rules: Rules, now: datetime) -> tuple[Due | None, Step | None]:
    """Return the updated row and its due step, or None for a row with no step left."""
    scope = row.term.sender_id, row.term.purpose
    consent = ledger.consent_of(state, *scope)
    if term := next((t for t in retention.terms(state, rules) if (t.sender_id, t.purpose) == scope), None):
        same = row.open and row.term.last_contact == term.last_contact
        row = replace(row, term=term, question=row.question if same else None, open=True)
    elif consent is not None and consent.state == "expired" and row.term.over(now):
        row = replace(row, open=False)
    else:
        return None, None
    due = retention.next_step(row.term, row.question, is_open=row.open, now=now)
    if due.step is Step.FORGET:
        return None, None
    return replace(row, due_at=due.at), due.step


class Recount:
    """Recounts the terms of a sender's consents after a change of its retention.

    The recount begins once every transaction that may have counted with the old rule has ended.
    """

    def __init__(self, database: Database, backlog: int) -> None:
        self._database = database
        self._backlog = backlog

    def worker(self) -> Worker:
        timer = Timer("retention recount", self.look, LOOK_EVERY_S, self._database, idle_s=IDLE_S)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        """Recount a page. Return whether to call again."""
        async with self._database.begin() as tx:
            noted = await term_store.note_recounts(tx)
        async with self._database.begin() as tx:
            if await outbox.backlog_of_events(tx) > self._backlog:
                return False
            asked = await store.lock_recount(tx)
            if asked is None:
                return noted > 0
            page = await store.terms_page(tx, asked.sender_id, asked.cursor, PEOPLE)
            await recorder.recount(tx, {subject_id for _, subject_id in page}, datetime.now(UTC))
            await term_store.settle_recount(tx, asked.sender_id, page[-1] if len(page) == PEOPLE else None)
        if len(page) < PEOPLE:
            log.info("the ends of a sender's consents were recomputed", extra={"sender_id": asked.sender_id})
        return True
