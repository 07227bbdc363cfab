"""The questions of double opt-in: asking, confirming, lapsing. Only this module writes `double_opt_in` rows.

The ledger says whether a question is open; the row says until when, and to which code an OUI counts. Writers hold the
lock of the subject or, for a new subject, of the number's pace.
"""

import asyncio
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from msgspec import structs
from sqlalchemy import Boolean, CheckConstraint, Column, DateTime, Index, Table, Text, UniqueConstraint, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.db.timer import Timer, Worker
from common.privacy.erasing import TO_ERASE, Whom, columns, counted, meant
from common.sms.message_id import message_id
from common.sms.subject_id import Inner
from common.telemetry import counter
from common.web.problems import Reason, TooMany
from consent.answers import own_words, replies
from consent.answers.answers import Answer, Answers, tell_of_flaws
from consent.answers.replies import Identity
from consent.double_opt_in import rules as asking
from consent.double_opt_in import store
from consent.double_opt_in.rules import A_DAY, A_MONTH, Most, Pace, Question, Withheld
from consent.ledger import recorder
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import NEVER_SEEN, Evidence, SubjectState
from consent.schema import metadata
from consent.senders import store as senders_store
from consent.senders.store import Sender

log = logging.getLogger(__name__)

SOURCE = "double_opt_in"
OF_USE_FOR = timedelta(hours=1)  # later, the person no longer expects the question
KEPT_FOR = timedelta(days=400)
LAPSE_EVERY_S = 5.0
# between processes: a shorter wait comes from the clocks, not from the pace
CLOCKS_DIFFER = timedelta(seconds=1)
OF_NUMBER = "number/"
PACES_WITHIN_S = 1.0  # of another shard; else 503
AT_ONCE = 500
SEEN = 10  # per subject to lock, because some are locked

RESULTS = counter("sms_consent_double_opt_ins_total", "Double opt-in questions, by result.", ["result"])

Table(
    "double_opt_in",
    metadata,
    Column("evidence_id", Text, primary_key=True),  # of the request
    Column("subject_id", Text, nullable=False),
    Column("number", Text, nullable=True),  # encrypted as the subject's; null: erased, or withheld
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("short_code", Text, nullable=False),
    Column("by_reply", Boolean, nullable=False),
    Column("link_id", Text, nullable=True),
    Column("asked_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("confirmed", Boolean, nullable=False, server_default=text("false")),
    Column("after_stop", Boolean, nullable=False),  # a STOP stood when the question was put
    Column("withheld", Text, nullable=True),  # the reason for not asking
    Column("closed_at", DateTime(timezone=True), nullable=True),
    UniqueConstraint("link_id"),
    CheckConstraint("withheld IS NULL OR (number IS NULL AND closed_at IS NOT NULL)", name="withheld"),
    Index("double_opt_in_subject_ix", "subject_id", "asked_at"),
    Index("double_opt_in_due_ix", "expires_at", postgresql_where=text("closed_at IS NULL")),
    Index("double_opt_in_asked_at_ix", "asked_at"),
)

Table(
    "double_opt_in_pace",  # of a controller, alone or with a number, or of a caller; `number/…` is a lock alone
    metadata,
    Column("key", Text, primary_key=True),
    Column("full_at", DateTime(timezone=True), nullable=False),
    Index("double_opt_in_pace_full_at_ix", "full_at"),
)

_COLUMNS = (
    "evidence_id, subject_id, number, sender_id, purpose, short_code, by_reply, link_id, asked_at, expires_at,"
    " confirmed, after_stop"
)


@dataclass(frozen=True, slots=True)
class Terms:
    """The limits of asking. After a STOP, a controller puts at most a single question within `after_stop`.

    Each controller has its own pace of a number, so that a brand's form never blocks the form of another legal entity.
    `most`: the questions that all controllers together may put to a number; `share`: those of one organisation.
    """

    number_a_day: int
    number_a_month: int
    controller_an_hour: int
    caller_an_hour: int
    after_stop: timedelta
    most: Most
    share: Most

    def paces(self, subject_id: str, controller: str, caller: str) -> dict[str, tuple[str, Pace]]:
        """Return, by key, the request field to blame and the pace. The senders of a controller share its paces."""
        hour = timedelta(hours=1)
        return {
            f"number/day/{controller}/{subject_id}": ("number", Pace(self.number_a_day, A_DAY)),
            f"number/month/{controller}/{subject_id}": ("number", Pace(self.number_a_month, A_MONTH)),
            f"controller/{controller}": ("sender_id", Pace(self.controller_an_hour, hour)),
            f"caller/{caller}": ("caller", Pace(self.caller_an_hour, hour)),
        }


MakeLink = Callable[[str, datetime], str]  # (link id, expiry) to URL


async def ask(
    tx: AsyncConnection,
    answers: Answers,
    statement: Statement,
    sender: Sender,
    terms: Terms,
    caller: str,
    now: datetime,
    make_link: MakeLink | None = None,
    *,
    with_link: bool = False,
    of_all: Database | None = None,
) -> Question:
    """Ask the person of `statement`, a request, unless there is a reason not to, and return the question.

    The result does not show whether an SMS left. The person answers by OUI, and `with_link` also by a link; if an OUI
    could mean another question, by the link alone. `of_all`: where the paces of controllers and callers are, unless in
    the person's database; a question counts there before the person's transaction ends. Raises TooMany.
    """
    request = statement.evidence
    assert request.purpose is not None, "the caller has looked"
    if known := await _find(tx, request.evidence_id):
        return known
    paces = terms.paces(statement.subject_id, sender.controller, caller)
    # `number/…` stops concurrent questions of all controllers, even without a subject row
    theirs = {key: pace for key, pace in paces.items() if of_all is None or key.startswith(OF_NUMBER)}
    full_at = await _lock(tx, [*theirs, f"number/{statement.subject_id}"], now)
    if known := await _find(tx, request.evidence_id):
        return known
    await _step(tx, theirs, full_at, now)
    if of_all is not None:  # behind the paces of the number: what these refuse counts for nobody
        others = {key: pace for key, pace in paces.items() if key not in theirs}
        async with asyncio.timeout(PACES_WITHIN_S), of_all.begin() as all_of:  # meanwhile a STOP waits for the number
            await _step(all_of, others, await _lock(all_of, others, now), now)
    subjects = await ledger_store.lock_subjects(tx, {}, [statement.subject_id])
    subject = subjects.get(statement.subject_id)
    state = subject.state if subject else NEVER_SEEN
    since = now - max(terms.after_stop, A_MONTH)
    asked = (await asked_of(tx, [statement.subject_id], since)).get(statement.subject_id, [])
    question = Question(
        evidence_id=request.evidence_id,
        subject_id=statement.subject_id,
        number=statement.number,
        sender_id=sender.sender_id,
        purpose=request.purpose,
        short_code=sender.stop_code,
        by_reply=True,
        asked_at=now,
        expires_at=now + timedelta(hours=sender.double_opt_in_hours),
        after_stop=ledger.standing_stop(state, sender.sender_id, request.purpose, sender.controller) is not None,
    )
    senders_of = await senders_store.controllers_of(tx, sender.organisation_id)
    why = asking.withheld(
        state,
        structs.replace(request, controller=sender.controller),
        asked,
        now,
        terms.after_stop,
        terms.most,
        terms.share,
        senders=senders_of[sender.controller],
        organisation={each for senders in senders_of.values() for each in senders},
        held=subject is not None and subject.held_since is not None,
    )
    by_reply = asking.takes_reply(state, request, sender.stop_code, asked, now)
    if make_link is not None and (with_link or not by_reply):
        question = replace(question, link_id=secrets.token_hex(8))
    elif not by_reply:
        why = why or Withheld.ANOTHER_WAITS
    question = replace(question, by_reply=by_reply)
    if why is None and not await answers.give(tx, [_text(question, sender, make_link)], now):
        why = Withheld.NOT_TEXTED
    if why is None:
        await recorder.record(tx, answers.keys.inner, [statement], now)
    await _keep(tx, question, why)
    RESULTS.labels(why or "asked").inc()
    return question


def _text(question: Question, sender: Sender, make_link: MakeLink | None) -> Answer:
    assert question.number is not None, "just told"
    wording = next(p.wording for p in sender.purposes if p.id == question.purpose)
    if question.after_stop:
        wording = own_words.after_stop(wording)
    identity = Identity(sender.legal_name, sender.brand, sender.contact, sender.stop_code, sender.replies)
    if flaws := identity.flaws("double_opt_in"):
        tell_of_flaws(sender.sender_id, "double_opt_in", flaws)
    url = make_link(question.link_id, question.expires_at) if make_link and question.link_id else None
    return Answer(
        message_id=message_id(question.asked_at, "double opt-in", question.evidence_id),
        subject_id=question.subject_id,
        number=question.number,
        sender_id=sender.sender_id,
        kind="double_opt_in",
        text=replies.question(identity, wording, question.short_code, reply=question.by_reply, url=url),
        since=question.asked_at,
        purpose=question.purpose,
        of_use_for=min(OF_USE_FOR, question.expires_at - question.asked_at),
    )


async def _lock(tx: AsyncConnection, paces: Collection[str], now: datetime) -> dict[str, datetime]:
    """Lock these paces and return the `full_at` of each."""
    rows = await tx.execute(
        text(
            "INSERT INTO double_opt_in_pace AS p (key, full_at)"
            " SELECT k.key, :now FROM unnest(CAST(:keys AS text[])) WITH ORDINALITY AS k(key, place) ORDER BY k.place"
            " ON CONFLICT (key) DO UPDATE SET full_at = p.full_at RETURNING key, full_at"
        ),
        {"keys": sorted(paces), "now": now},  # the order of locking
    )
    return {row.key: row.full_at for row in rows}


async def _step(
    tx: AsyncConnection, paces: Mapping[str, tuple[str, Pace]], full_at: Mapping[str, datetime], now: datetime
) -> None:
    """Count a question in each pace; the caller holds the locks. Raises TooMany, without counting any."""
    keys = sorted(paces)
    steps = {key: asking.step(full_at[key], paces[key][1], now) for key in keys}
    if full := {key: wait for key, (_, wait) in steps.items() if wait > CLOCKS_DIFFER}:
        fields = dict.fromkeys(paces[key][0] for key in full)
        for field in fields:
            RESULTS.labels(f"too_many_by_{field}").inc()
        raise TooMany(
            "no question is asked now",
            reasons=[Reason(field, f"too_many_by_{field}") for field in fields],
            headers={"Retry-After": str(math.ceil(max(full.values()).total_seconds()))},
        )
    await tx.execute(
        text(
            "UPDATE double_opt_in_pace SET full_at = k.full_at"
            " FROM unnest(CAST(:keys AS text[]), CAST(:full AS timestamptz[])) AS k(key, full_at)"
            " WHERE double_opt_in_pace.key = k.key"
        ),
        {"keys": keys, "full": [steps[key][0] for key in keys]},
    )


async def asked_of(
    tx: AsyncConnection, subject_ids: Collection[str], since: datetime | None = None
) -> dict[str, list[Question]]:
    """Return the questions to these people, oldest first: all since `since`, or the unclosed questions.

    The caller holds the locks of the subjects, or of the numbers' paces.
    """
    rows = await tx.execute(
        text(
            f"SELECT {_COLUMNS} FROM double_opt_in WHERE subject_id = ANY(CAST(:ids AS text[])) AND withheld IS NULL"
            " AND CASE WHEN CAST(:since AS timestamptz) IS NULL THEN closed_at IS NULL ELSE asked_at > :since END"
            " ORDER BY asked_at, evidence_id"
        ),
        {"ids": list(subject_ids), "since": since},
    )
    found: dict[str, list[Question]] = {}
    for row in rows:
        found.setdefault(row.subject_id, []).append(Question(**row._mapping))
    return found


async def requests(tx: AsyncConnection, questions: Collection[Question]) -> dict[str, Evidence]:
    """Return the recorded request of each question."""
    return await store.find_evidence(tx, [q.evidence_id for q in questions])


async def by_link(tx: AsyncConnection, link_id: str) -> Question | None:
    """Return the question that a link answers."""
    rows = await tx.execute(text(f"SELECT {_COLUMNS} FROM double_opt_in WHERE link_id = :id"), {"id": link_id})
    row = rows.one_or_none()
    return Question(**row._mapping) if row else None


async def confirm(tx: AsyncConnection, evidence_ids: Collection[str], now: datetime) -> None:
    """Mark these questions as answered with yes. The caller records the opt-ins in the same transaction."""
    if not evidence_ids:
        return
    await tx.execute(
        text(
            "UPDATE double_opt_in SET confirmed = true, closed_at = coalesce(closed_at, :now)"
            " WHERE evidence_id = ANY(CAST(:ids AS text[]))"
        ),
        {"ids": list(evidence_ids), "now": now},
    )
    RESULTS.labels("confirmed").inc(len(evidence_ids))


async def forget(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Erase the numbers of these people; return the numbers of questions.

    The rows stay, or a caller with an erased number could cause SMS again.
    """
    rows = await tx.execute(
        text(
            "WITH gone AS (UPDATE double_opt_in AS q SET number = NULL, closed_at = coalesce(q.closed_at, now())"
            f" FROM {TO_ERASE} WHERE q.subject_id = a.subject_id AND {meant('q.sender_id')} AND q.number IS NOT NULL"
            " RETURNING a.subject_id, a.controller_id)"
            " SELECT subject_id, controller_id, count(*) FROM gone GROUP BY subject_id, controller_id"
        ),
        columns(asked),
    )
    return counted(rows)


async def _find(tx: AsyncConnection, evidence_id: str) -> Question | None:
    rows = await tx.execute(text(f"SELECT {_COLUMNS} FROM double_opt_in WHERE evidence_id = :id"), {"id": evidence_id})
    row = rows.one_or_none()
    return Question(**row._mapping) if row else None


async def _keep(tx: AsyncConnection, question: Question, why: Withheld | None) -> None:
    await tx.execute(
        text(
            f"INSERT INTO double_opt_in ({_COLUMNS}, withheld, closed_at) VALUES (:evidence_id, :subject_id, :number,"
            " :sender_id, :purpose, :short_code, :by_reply, :link_id, :asked_at, :expires_at, false,"
            " :after_stop, :withheld, :closed_at)"
        ),
        {
            "evidence_id": question.evidence_id,
            "subject_id": question.subject_id,
            "number": None if why else question.number,
            "sender_id": question.sender_id,
            "purpose": question.purpose,
            "short_code": question.short_code,
            "by_reply": question.by_reply,
            "link_id": None if why else question.link_id,
            "asked_at": question.asked_at,
            "expires_at": question.expires_at,
            "after_stop": question.after_stop,
            "withheld": why,
            "closed_at": question.asked_at if why else None,
        },
    )


@dataclass(frozen=True, slots=True)
class Lapsing:
    """The timer that lapses unanswered questions, `at_once` subjects in a transaction.

    A question lapses once `read_up_to`, the watermark of applied MOs, has passed its end: an OUI sent in time counts
    (ADR-0026).
    """

    database: Database
    read_up_to: Callable[[AsyncConnection], Awaitable[datetime | None]]
    inner: Inner
    at_once: int = AT_ONCE

    def worker(self) -> Worker:
        timer = Timer("lapse double opt-ins", self.look, LAPSE_EVERY_S, self.database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        """Lapse a batch, and return whether the batch was full."""
        now = datetime.now(UTC)
        async with self.database.begin() as tx:
            read_up_to = await self.read_up_to(tx)
            if read_up_to is None:
                return False
            before = min(now, read_up_to)
            rows = await tx.execute(
                text(
                    "SELECT subject_id FROM subject WHERE subject_id IN (SELECT subject_id FROM double_opt_in"
                    " WHERE closed_at IS NULL AND expires_at < :before ORDER BY expires_at LIMIT :seen)"
                    " ORDER BY subject_id LIMIT :limit FOR UPDATE SKIP LOCKED"
                ),
                {"before": before, "limit": self.at_once, "seen": SEEN * self.at_once},
            )
            subject_ids = [row.subject_id for row in rows]
            rows = await tx.execute(
                text(
                    f"UPDATE double_opt_in SET closed_at = :now WHERE subject_id = ANY(CAST(:ids AS text[]))"
                    f" AND closed_at IS NULL AND expires_at < :before RETURNING {_COLUMNS}"
                ),
                {"ids": subject_ids, "now": now, "before": before},
            )
            over = [Question(**row._mapping) for row in rows]
            states = {who: s.state for who, s in (await ledger_store.lock_subjects(tx, {}, subject_ids)).items()}
            lapsed = lapses(over, states, now)
            await recorder.record(tx, self.inner, lapsed, now)
            await _forget_old(tx, now)
        RESULTS.labels("lapsed").inc(len(lapsed))
        return len(subject_ids) == self.at_once


def lapses(over: Sequence[Question], states: Mapping[str, SubjectState], now: datetime) -> list[Statement]:
    """Return the lapses of the questions that are still open."""
    return [
        Statement(
            question.subject_id,
            None,
            asking.lapse(
                question, evidence_id=evidence_id(SOURCE, "lapse", question.evidence_id), source=SOURCE, now=now
            ),
        )
        for question in over
        if question.is_open(states.get(question.subject_id, ledger.NEVER_SEEN))
    ]


async def _forget_old(tx: AsyncConnection, now: datetime) -> None:
    """Delete up to 1,000 old rows of each table."""
    for table, key, at, before in (
        ("double_opt_in", "evidence_id", "asked_at", now - KEPT_FOR),
        ("double_opt_in_pace", "key", "full_at", now),
    ):
        await tx.execute(
            text(
                f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {at} < :before"
                f" ORDER BY {at} LIMIT 1000 FOR UPDATE SKIP LOCKED)"
            ),
            {"before": before},
        )
