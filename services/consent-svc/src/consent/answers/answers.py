"""The only sender of answers and questions by SMS: once for each MO or question, never in a loop.

The message id derives from the MO or the question: a repeated MO gets no second answer. An answer over the cap is
dropped, not delayed.

    to phones only    a short code, a name or a fixed line is a machine, and two machines would answer each other
    a daily cap       per number, for all kinds of answers: the cap ends any other loop. SMS that callers cause
                      do not count against an answer to the person's own text, such as the confirmation of a STOP.
                      The calls of one organisation cause a share of the cap at most, and so use up no other's
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from uuid import UUID

from sqlalchemy import Column, DateTime, Index, Integer, Table, Text, Uuid, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_REQUESTS
from common.contracts.campaign import MessageRequested
from common.kafka import outbox
from common.keyring import FieldKeys, Unreadable
from common.sms.msisdn import NumberRefused, parse
from common.telemetry import counter
from consent.answers.own_words import Flaw
from consent.schema import metadata

log = logging.getLogger(__name__)

A_DAY = timedelta(days=1)
TO_A_TEXT = frozenset(("stopped", "started", "contact"))
OF_USE_FOR = timedelta(days=1)  # a later answer would only surprise the person

ANSWERS = counter("sms_consent_answers_total", "Answers to people's texts, by result.", ["kind", "result"])

NOT_SENT = counter(
    "sms_consent_own_words_not_sent_total",
    "Answers in Placet's words, because the sender's own words do not pass, by kind.",
    ["kind"],
)

Table(
    "answer",  # no text and no number
    metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("asked_at", DateTime(timezone=True), nullable=False),
    Column("handed_off_at", DateTime(timezone=True), nullable=True),  # of a question that the operator accepted
    Column("version", Integer, nullable=True),  # dispatch-svc's, of the hand-off
    Index("answer_subject_id_asked_at_ix", "subject_id", "asked_at"),
    Index("answer_asked_at_ix", "asked_at"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An SMS owed to a person from `sender_id`. `number` is encrypted as the subject's."""

    message_id: UUID
    subject_id: str
    number: str
    sender_id: str
    kind: str
    text: str
    since: datetime
    purpose: str | None = None  # of a yes: the gate checks for a newer opt-out
    of_use_for: timedelta = OF_USE_FOR

    @property
    def to_a_text(self) -> bool:
        return self.kind in TO_A_TEXT


@dataclass(frozen=True, slots=True)
class Answers:
    """The settings of answering. `fictional`: fictional numbers count as phones.

    `share`: how many of the `per_day` the calls of one organisation may cause; `None`: all.
    """

    keys: FieldKeys
    per_day: int
    fictional: bool
    share: int | None = None

    async def give(self, tx: AsyncConnection, owed: Sequence[Answer], now: datetime) -> list[Answer]:
        """Request the answers that may go from dispatch, in order, and return those answers.

        The caller holds the locks of the subjects (of the pace, for a new subject), or two transactions could exceed
        the cap.
        """
        due = [answer for answer in owed if now < answer.since + answer.of_use_for and self._is_phone(answer)]
        if not due:
            return []
        known = await given(tx, {answer.message_id for answer in due})
        today = await _since(tx, {answer.subject_id for answer in due}, now - A_DAY)
        caused = await _caused(tx, [answer for answer in due if not answer.to_a_text], now - A_DAY)
        fresh: list[Answer] = []
        for answer in due:
            if answer.message_id in known:
                continue
            known.add(answer.message_id)
            so_many = today[answer.subject_id, True] + (0 if answer.to_a_text else today[answer.subject_id, False])
            of_one = 0 if answer.to_a_text else caused.count(answer)
            if so_many >= self.per_day or (self.share is not None and of_one >= self.share):
                ANSWERS.labels(answer.kind, "over_the_cap").inc()
                log.warning("a person has reached the daily limit of answers", extra={"subject_id": answer.subject_id})
                continue
            today[answer.subject_id, answer.to_a_text] += 1
            caused.add(answer)
            fresh.append(answer)
        await _keep(tx, fresh, now)
        await outbox.append(tx, DISPATCH_REQUESTS, [self._request(answer, now) for answer in fresh])
        for answer in fresh:
            ANSWERS.labels(answer.kind, "given").inc()
        return fresh

    def _is_phone(self, answer: Answer) -> bool:
        try:
            parse(self.keys.unseal(answer.number, f"number:{answer.subject_id}"), fictional=self.fictional)
        except (Unreadable, NumberRefused) as refused:
            ANSWERS.labels(answer.kind, "no_phone").inc()
            extra = {"subject_id": answer.subject_id, "why": str(refused)}
            log.info("no answer: the text did not come from a mobile number", extra=extra)
            return False
        return True

    def _request(self, answer: Answer, now: datetime) -> MessageRequested:
        return MessageRequested(
            message_id=str(answer.message_id),
            campaign_id=None,
            sender_id=answer.sender_id,
            purpose=answer.purpose,
            category="service",
            subject_id=answer.subject_id,
            number=answer.number,
            text=self.keys.seal(answer.text, f"text:{answer.message_id}"),
            requested_at=now,
            send_before=answer.since + answer.of_use_for,
        )


def tell_of_flaws(sender_id: str, kind: str, flaws: Iterable[Flaw]) -> None:
    """Count an answer that has Placet's words, and log the reasons against the sender's own."""
    NOT_SENT.labels(kind).inc()
    extra = {"sender_id": sender_id, "kind": kind, "why": ", ".join(flaw.rule for flaw in flaws)}
    log.error("a sender's own words do not pass and are not sent: change them with PUT /v1/senders", extra=extra)


async def given(tx: AsyncConnection, message_ids: Collection[UUID]) -> set[UUID]:
    """Return the ids of messages already requested from dispatch."""
    rows = await tx.execute(
        text("SELECT message_id FROM answer WHERE message_id = ANY(CAST(:ids AS uuid[]))"), {"ids": list(message_ids)}
    )
    return {row.message_id for row in rows}


@dataclass(frozen=True, slots=True)
class HandOff:
    """The hand-off of a message that may be a question of ours. `at`: `None` if the message did not arrive."""

    subject_id: str
    message_id: str
    at: datetime | None
    version: int


async def handed_off(tx: AsyncConnection, messages: Sequence[HandOff]) -> list[str]:
    """Note the hand-offs of questions of ours, by version, and return the people whose question did not arrive."""
    newest = {each.message_id: each for each in sorted(messages, key=attrgetter("version"))}
    if not newest:
        return []
    rows = await tx.execute(
        text(
            "UPDATE answer AS a SET handed_off_at = m.at, version = m.version"
            " FROM unnest(CAST(:subjects AS text[]), CAST(:ids AS text[]), CAST(:ats AS timestamptz[]),"
            " CAST(:versions AS integer[])) AS m (subject_id, message_id, at, version)"
            " WHERE a.subject_id = m.subject_id AND a.message_id::text = m.message_id"
            " AND coalesce(a.version < m.version, true) AND a.kind <> ALL(CAST(:to_a_text AS text[]))"
            " RETURNING a.subject_id, a.handed_off_at"
        ),
        {
            "subjects": [each.subject_id for each in newest.values()],
            "ids": list(newest),
            "ats": [each.at for each in newest.values()],
            "versions": [each.version for each in newest.values()],
            "to_a_text": sorted(TO_A_TEXT),
        },
    )
    return [row.subject_id for row in rows if row.handed_off_at is None]


async def _since(tx: AsyncConnection, subject_ids: Collection[str], since: datetime) -> Counter[tuple[str, bool]]:
    """Count the answers since, by subject and whether they answer a text of the person."""
    rows = await tx.execute(
        text(
            "SELECT subject_id, kind = ANY(CAST(:to_a_text AS text[])) AS to_a_text, count(*) AS answers FROM answer"
            " WHERE subject_id = ANY(CAST(:ids AS text[])) AND asked_at > :since GROUP BY 1, 2"
        ),
        {"ids": list(subject_ids), "since": since, "to_a_text": sorted(TO_A_TEXT)},
    )
    return Counter({(row.subject_id, row.to_a_text): row.answers for row in rows})


@dataclass(frozen=True, slots=True)
class _Caused:
    """The SMS to each person that the calls of each organisation have caused."""

    organisations: dict[str, str]  # by sender
    counts: Counter[tuple[str, str]]  # by subject and organisation

    def count(self, answer: Answer) -> int:
        return self.counts[answer.subject_id, self.organisations.get(answer.sender_id, "")]

    def add(self, answer: Answer) -> None:
        if not answer.to_a_text:
            self.counts[answer.subject_id, self.organisations.get(answer.sender_id, "")] += 1


async def _caused(tx: AsyncConnection, due: Sequence[Answer], since: datetime) -> _Caused:
    """Count what the organisations of the senders of these answers have caused since."""
    if not due:
        return _Caused({}, Counter())
    rows = await tx.execute(
        text("SELECT sender_id, organisation_id FROM sender WHERE sender_id = ANY(CAST(:ids AS text[]))"),
        {"ids": list({answer.sender_id for answer in due})},
    )
    organisations = {row.sender_id: row.organisation_id for row in rows}
    counted = await tx.execute(
        text(
            "SELECT a.subject_id, s.organisation_id, count(*) AS answers FROM answer AS a JOIN sender AS s"
            " USING (sender_id) WHERE a.subject_id = ANY(CAST(:ids AS text[])) AND a.asked_at > :since"
            " AND a.kind <> ALL(CAST(:to_a_text AS text[])) GROUP BY 1, 2"
        ),
        {"ids": list({answer.subject_id for answer in due}), "since": since, "to_a_text": sorted(TO_A_TEXT)},
    )
    return _Caused(organisations, Counter({(row.subject_id, row.organisation_id): row.answers for row in counted}))


async def _keep(tx: AsyncConnection, given: Sequence[Answer], now: datetime) -> None:
    if not given:
        return
    await tx.execute(
        text(
            "INSERT INTO answer (message_id, subject_id, sender_id, kind, asked_at)"
            " SELECT a.*, :now FROM unnest(CAST(:ids AS uuid[]), CAST(:subjects AS text[]), CAST(:senders AS text[]),"
            " CAST(:kinds AS text[])) AS a"
        ),
        {
            "ids": [answer.message_id for answer in given],
            "subjects": [answer.subject_id for answer in given],
            "senders": [answer.sender_id for answer in given],
            "kinds": [answer.kind for answer in given],
            "now": now,
        },
    )
