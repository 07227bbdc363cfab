"""Ask the single question at the end of a consent, and turn an OUI into a renewal.

The question goes out within the hours of marketing law, once per term, for all consents to a sender that end at the
same instant (ADR-0028). A STOP, or any later contact, closes the question.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.inbound import MessageReceived
from common.keyring import Unreadable
from common.law import SEARCH_DAYS, Policy, is_open, next_permitted, zones
from common.sms.message_id import message_id
from common.sms.msisdn import territory_of
from common.telemetry import counter
from consent.answers import replies
from consent.answers.answers import Answer, Answers
from consent.ledger import rules as ledger
from consent.ledger.chain import evidence_id
from consent.ledger.retention import Question
from consent.ledger.rules import Evidence, SubjectState
from consent.ledger.store import Subject
from consent.ledger.term_store import Due
from consent.senders import store as senders_store
from consent.senders.store import Sender

GOES_WITHIN = timedelta(hours=1)  # dispatch sends by then or never, and checks no hours on the service lane

REVIEWED_WITHIN = timedelta(hours=1)  # a text that may be a STOP is read first

ASKED = counter("sms_consent_renewals_asked_total", "Renewal questions sent to people before the end of a consent.")
RENEWED = counter("sms_consent_renewals_answered_total", "Consents renewed by an OUI.")


@dataclass(frozen=True, slots=True)
class Asking:
    """The means to ask. `policy`: the permitted hours."""

    answers: Answers
    policy: Policy

    async def ask(
        self, tx: AsyncConnection, due: Sequence[Due], subjects: Mapping[str, Subject], now: datetime
    ) -> list[Due]:
        """Ask about these rows, and return the rows as updated: asked, or postponed.

        The caller has locked the subjects. A person without a usable number, or at the daily cap, counts as asked. A
        consent of a territory where no rule permits an hour ends at its term without a question.
        """
        senders = {s.sender_id: s for s in await senders_store.senders_of(tx, {row.term.sender_id for row in due})}
        after: list[Due] = []
        texts: dict[tuple[str, str, datetime], tuple[Answer, Question]] = {}
        for row in due:
            subject = subjects[row.subject_id]
            number = self._number(subject)
            opens = now if number is None else self._opens(number, now)
            if subject.held_since is not None:
                opens = now + REVIEWED_WITHIN
            if opens is None and not row.open:  # an unasked question, over at once
                after.append(replace(row, question=Question(text="", asked_at=now, answer_before=now), due_at=now))
                continue
            opens = opens or now + timedelta(SEARCH_DAYS)
            if opens > now:
                after.append(replace(row, due_at=min(opens, row.term.expires_at) if row.open else opens))
                continue
            one = row.subject_id, row.term.sender_id, row.term.expires_at
            if one not in texts:
                texts[one] = self._text(row, senders[row.term.sender_id], subject, number or "", now)
            question = texts[one][1]
            after.append(
                replace(row, question=question, due_at=row.term.expires_at if row.open else question.answer_before)
            )
        given = await self.answers.give(tx, [answer for answer, _ in texts.values()], now)
        ASKED.inc(len(given))
        return after

    def _number(self, subject: Subject) -> str | None:
        try:
            sealed = subject.number
            return sealed and self.answers.keys.unseal(sealed, f"number:{subject.subject_id}")
        except Unreadable:
            return None

    def _opens(self, number: str, now: datetime) -> datetime | None:
        """Return `now` if the hours permit a text now and GOES_WITHIN later, else the next try; None without any."""
        where = territory_of(number)
        if all(is_open(at, where, self.policy) for at in (now, now + GOES_WITHIN)):
            return now
        return next_permitted(now + GOES_WITHIN, where, self.policy)

    def _text(self, row: Due, sender: Sender, subject: Subject, number: str, now: datetime) -> tuple[Answer, Question]:
        term = row.term
        days = (term.expires_at - term.ask_at) if term.ask_at else timedelta(0)
        until = max(term.expires_at, now + days)
        identity = replies.Identity(sender.legal_name, sender.brand, sender.contact, sender.stop_code, sender.replies)
        told = term.expires_at if row.open else until
        local = told.astimezone(zones(territory_of(number), self.policy)[0])
        said = replies.renewal(identity, sender.stop_code, local, ended=not row.open)
        answer = Answer(
            message_id=message_id(
                term.expires_at, "renewal", subject.subject_id, sender.sender_id, term.expires_at.isoformat()
            ),
            subject_id=subject.subject_id,
            number=subject.number or "",
            sender_id=sender.sender_id,
            kind="renewal",
            purpose=term.purpose,  # makes dispatch check the answers since
            text=said,
            since=now,
            of_use_for=GOES_WITHIN,
        )
        return answer, Question(text=said, asked_at=now, answer_before=until)


def confirms(
    message: MessageReceived,
    owners: Mapping[str, Sender],
    state: SubjectState,
    asked: Sequence[Due],
    received_at: datetime,
) -> Iterator[Evidence]:
    """Yield the renewal of all consents that a sender of the code asked about.

    Where two senders wait, the OUI renews neither. `received_at`: when the OUI was understood.
    """
    at = min(message.occurred_at, message.received_at)
    waiting = [
        (row.term, row.question)
        for row in asked
        if row.question and row.term.sender_id in owners and row.question.asked_at < at < row.question.answer_before
    ]
    if len({term.sender_id for term, _ in waiting}) != 1:
        return
    for term, question in waiting:
        consent = ledger.consent_of(state, term.sender_id, term.purpose)
        given = ledger.newest_opt_in(state, term.sender_id, term.purpose)
        if consent is None or consent.state not in ("opted_in", "expired") or given is None:
            continue
        RENEWED.inc()
        yield Evidence(
            evidence_id=evidence_id("mo", message.mo_id, term.sender_id, term.purpose),
            kind="opt_in",
            sender_id=term.sender_id,
            purpose=term.purpose,
            basis="opt_in",
            source="mo",
            text_shown=question.text,
            actor=message.decided_by,
            reference=message.reference,
            answers=given.evidence_id,
            occurred_at=message.occurred_at,
            received_at=received_at,
        )
