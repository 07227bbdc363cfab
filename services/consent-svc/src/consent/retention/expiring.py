"""What falls due of a consent with time: its person is asked whether it shall go on, it ends, and who has nothing
open left is erased. A timer, in batches.

One batch is one transaction: lock some of those for whom something is due, skipping whoever is busy (`store.lock_due`);
ask what is due of each (`retention.py`); record it. What was down for a year catches up batch by batch, longest due
first; a crash repeats nothing, as the evidence of an expiry is named after the instant it expired. Meanwhile nothing
goes out all the same: the gate was told that instant in advance.

A sender that changes how long its consents hold is gone through once, in pages (`Recount`).
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.db.timer import Timer
from common.kafka import outbox
from common.service import Worker
from common.telemetry import counter, gauge
from consent import store
from consent.ledger import recorder
from consent.ledger import rules as ledger
from consent.ledger.chain import evidence_id
from consent.ledger.rules import SubjectState
from consent.retention import rules as retention
from consent.retention.renewals import REVIEWED_WITHIN, Asking
from consent.retention.rules import Rules, Step
from consent.rights import erasures
from consent.store import Due

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
PEOPLE = 200  # locked at once
Clock = Callable[[], datetime]

EXPIRED = counter("sms_consent_expired_total", "Consents that have expired.")
FORGOTTEN = counter("sms_consent_forgotten_total", "People erased because nothing of theirs was open any more.")
BACKLOG = gauge(
    "sms_consent_retention_backlog_seconds", "How long the oldest step of retention has been due; 0 when none is."
)


@dataclass(frozen=True, slots=True)
class Expiring:
    """`backlog`: rows waiting to be published beyond which nothing is written, as a STOP would wait behind them.
    `read_up_to`: every text that was acknowledged before then has been applied: an OUI sent in time, and read after we
    have been down for a day, finds its question open."""

    database: Database
    read_up_to: Callable[[AsyncConnection], Awaitable[datetime | None]]
    asking: Asking
    backlog: int

    def worker(self) -> Worker:
        timer = Timer("retention", self.look, LOOK_EVERY_S, self.database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        """One batch. Was anything done?"""
        now = datetime.now(UTC)
        async with self.database.begin() as tx:
            oldest = await store.oldest_due(tx)
            BACKLOG.set(max(0.0, (now - oldest).total_seconds()) if oldest else 0)
            read_up_to = await self.read_up_to(tx)
            if read_up_to is None:
                return False
            now = min(now, read_up_to)
            if oldest is None or oldest > now or await outbox.backlog(tx) > self.backlog:
                return False
            return await step(tx, now, self.asking) > 0


def _clock() -> datetime:
    return datetime.now(UTC)


async def step(tx: AsyncConnection, now: datetime, asking: Asking, people: int = PEOPLE, clock: Clock = _clock) -> int:
    """What is due at `now` for at most so many people, once. For how many; 0 where nothing is due, or all of them are
    busy. `now` may lie back, as what was read does. What is written is dated by `clock`, once they are locked: an
    erasure reaches all that is on record of them by then."""
    due = await store.lock_due(tx, now, people)
    if not due:
        return 0
    written_at = clock()
    rows = await store.due_of(tx, due)
    EXPIRED.inc(await recorder.expire(tx, due, now, written_at))
    await recorder.recount(tx, due, written_at)  # whose consent holds longer now than when the row was written
    subjects = await store.lock_subjects(tx, {}, due)
    rules = await store.rules_of(tx, recorder.senders_of(subjects.values()))
    consents = [row for row in rows if not retention.is_person(row.term)]
    looked = [(row, *look(row, subjects[row.subject_id].state, rules, now)) for row in consents]
    asked = await asking.ask(tx, [now_ for _, now_, step in looked if now_ and step is Step.ASK], subjects, now)
    await store.put_due(tx, [*asked, *(now_ for was, now_, step in looked if now_ and step is None and now_ != was)])
    await store.forget_due(tx, [was for was, now_, _ in looked if now_ is None])
    await forget(tx, [row.subject_id for row in rows if retention.is_person(row.term)], now, written_at)
    return len(due)


async def forget(tx: AsyncConnection, subject_ids: Collection[str], now: datetime, asked_at: datetime) -> None:
    """Erase those of them, who are locked, whose own term is over at `now`; it is asked for at `asked_at`. While a
    question or a text of theirs is open they are looked at again when it no longer is."""
    rows = await store.due_of(tx, subject_ids) if subject_ids else []
    subjects = await store.lock_subjects(tx, {}, subject_ids) if rows else {}
    waits = {row.subject_id: row.due_at for row in rows if not retention.is_person(row.term)}
    waits |= {s.subject_id: now + REVIEWED_WITHIN for s in subjects.values() if s.held_since is not None}
    over = [row for row in rows if retention.is_person(row.term) and row.term.over(now)]
    await store.put_due(tx, [replace(row, due_at=waits[row.subject_id]) for row in over if row.subject_id in waits])
    gone = {
        row.subject_id: evidence_id(recorder.RETENTION, row.subject_id, row.term.expires_at.isoformat())
        for row in over
        if row.subject_id not in waits
    }
    if gone:
        await erasures.begin_unasked(tx, gone, recorder.RETENTION, asked_at)
        FORGOTTEN.inc(len(gone))


def look(row: Due, state: SubjectState, rules: Rules, now: datetime) -> tuple[Due | None, Step | None]:
    """What a row has come to, and what is due of it. None: there is nothing more to wait for."""
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
    """Goes through the consents of a sender that has changed how long they hold.

    The change itself asks for it (`senders.change`). Who was writing at that moment may have counted as before, so the
    first look only notes a transaction id, and the counting begins once every transaction up to it has ended, as an
    erasure does (`common/privacy/erasing.py`). The cursor is the old end and the person: a row whose end moves onward
    is met twice at most, and the second time it stands. People who have nothing open are looked at whether or not they
    know the sender: of who does not, nothing moves, and nothing is written.
    """

    def __init__(self, database: Database, backlog: int) -> None:
        self._database = database
        self._backlog = backlog

    def worker(self) -> Worker:
        timer = Timer("retention recount", self.look, LOOK_EVERY_S, self._database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        """One page. Was there one?"""
        async with self._database.begin() as tx:
            noted = await store.note_recounts(tx)
        async with self._database.begin() as tx:
            if await outbox.backlog(tx) > self._backlog:
                return False
            asked = await store.lock_recount(tx)
            if asked is None:
                return noted > 0
            page = await store.terms_page(tx, asked.sender_id, asked.cursor, PEOPLE)
            await recorder.recount(tx, {subject_id for _, subject_id in page}, datetime.now(UTC))
            await store.settle_recount(tx, asked.sender_id, page[-1] if len(page) == PEOPLE else None)
        if len(page) < PEOPLE:
            log.info("how long consents hold was counted anew", extra={"sender_id": asked.sender_id})
        return True
