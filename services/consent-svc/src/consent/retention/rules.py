"""How long a consent holds, and what is due when. Pure: no clock, no I/O.

A consent holds for the purpose's months after the last contact *from the person* with its sender: what they said yes or
no to, bought, wrote, clicked (`ledger.last_contact`). What we send, its delivery and its opening never count (CNIL;
DOMAIN 1.4). From `expires_at` on there is no consent, whether or not somebody has written so in the ledger yet.

The months are calendar months in UTC: the same day of the month at the same time of day. A month that has no such day
ends it: the term is over as the next month begins (code de procédure civile, art. 641: the last day of that month).
So a later contact never means an earlier end.

A sender may have its people asked, once, so many days before the end, whether they want to go on (CNIL: one last
question). Where that was missed, they are asked after the end, which is put off for nobody, and have as many days.

Who has nothing open left is held for no longer than a consent would be: then the number goes, and all that is personal.
Whether they are out stays with the keyed hash.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

from common.contracts.consent import RETENTION_MONTHS
from consent.ledger import rules as ledger
from consent.ledger.rules import SubjectState


@dataclass(frozen=True, slots=True)
class Rule:
    """How many months a consent holds, and how many days before its end the person is asked; None: nobody is."""

    months: int = RETENTION_MONTHS
    ask_days: int | None = None


LONGEST = Rule()
SHORTEST = timedelta(days=28)  # of all months
Rules = Mapping[tuple[str, str], Rule]  # by (sender_id, purpose); what is not named: the longest that CNIL allows


class Term(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A consent that is open, and until when: `expires_at` itself is the first instant without it. `ask_at`: when to
    ask whether it shall go on; None: nobody asks."""

    sender_id: str
    purpose: str
    last_contact: datetime
    expires_at: datetime
    ask_at: datetime | None = None

    def over(self, now: datetime) -> bool:
        return now >= self.expires_at


def after_months(at: datetime, months: int) -> datetime:
    """`at` (aware) some months later, in UTC; monotone in both."""
    at = at if at.tzinfo is UTC else at.astimezone(UTC)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    try:
        return at.replace(year=year, month=month + 1)
    except ValueError:  # no such day in that month
        year, month = divmod(year * 12 + month + 1, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC)


def expires_at(last_contact: datetime, months: int | None) -> datetime:
    return after_months(last_contact, min(months or RETENTION_MONTHS, RETENTION_MONTHS))


def is_over(state: SubjectState, sender_id: str, months: int | None, now: datetime) -> bool:
    """Whether a consent to this sender that is open on record has ended by now. No month is shorter than SHORTEST: of
    most that is enough to know, and takes no calendar."""
    touched = ledger.last_contact(state, sender_id)
    assert touched is not None, "an opt-in is a contact"
    if now < touched + min(months or RETENTION_MONTHS, RETENTION_MONTHS) * SHORTEST:
        return False
    return now >= expires_at(touched, months)


def day(at: datetime) -> str:
    """In UTC. A contact is kept once a day, person and sender: more would prove no more, and cost a line each."""
    return at.astimezone(UTC).date().isoformat()


def worth_keeping(state: SubjectState, sender_id: str, at: datetime) -> bool:
    """Whether a contact at `at` moves the clock to another day."""
    touched = ledger.last_contact(state, sender_id)
    return touched is None or day(touched) < day(at)


def terms(state: SubjectState, rules: Rules) -> tuple[Term, ...]:
    """Of every purpose that is opted in, in the order of (sender_id, purpose)."""
    return tuple(
        _term(state, consent.sender_id, consent.purpose, rules.get((consent.sender_id, consent.purpose), LONGEST))
        for consent in ledger.consents(state)
        if consent.state == "opted_in"
    )


def kept_terms(state: SubjectState, rules: Rules, *, number: bool) -> tuple[Term, ...]:
    """Of every purpose that is opted in; where nothing is open, of the person themself (`is_person`), if we hold their
    `number`: what is known by a keyed hash alone may stay."""
    if not state.marks:
        return ()
    found = terms(state, rules)
    if found or not number or any(consent.state == "pending" for consent in ledger.consents(state)):
        return found
    return (_person(state, rules),)


def is_person(term: Term) -> bool:
    return not term.sender_id


def _person(state: SubjectState, rules: Rules) -> Term:
    """The last that any sender they know would keep of them, by its longest rule. A request counts where there was no
    contact: that is when the number was collected."""
    ends = []
    for sender_id in sorted({mark.sender_id or "" for mark in state.marks}):
        since = ledger.last_contact(state, sender_id)
        since = since or max(mark.at for mark in state.marks if (mark.sender_id or "") == sender_id)
        asked = {mark.purpose for mark in state.marks if mark.sender_id == sender_id and mark.purpose}
        months = [rules.get((sender_id, purpose), LONGEST).months for purpose in asked]
        ends.append((expires_at(since, max(months, default=RETENTION_MONTHS)), since))
    end, since = max(ends)
    return Term(sender_id="", purpose="", last_contact=since, expires_at=end)


def _term(state: SubjectState, sender_id: str, purpose: str, rule: Rule) -> Term:
    touched = ledger.last_contact(state, sender_id)
    assert touched is not None, "an opt-in is a contact"
    end = expires_at(touched, rule.months)
    ask_at = max(end - timedelta(days=rule.ask_days), touched) if rule.ask_days else None
    return Term(sender_id=sender_id, purpose=purpose, last_contact=touched, expires_at=end, ask_at=ask_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Whether a consent shall go on, as it was asked: the text, when, and before when an answer counts."""

    text: str
    asked_at: datetime
    answer_before: datetime


class Step(StrEnum):
    """What is due of a consent."""

    ASK = "ask"
    EXPIRE = "expire"
    FORGET = "forget"  # there is nothing more to wait for


@dataclass(frozen=True, slots=True)
class Next:
    """`step` is due; None: nothing is before `at`."""

    step: Step | None
    at: datetime


def next_step(term: Term, question: Question | None, *, is_open: bool, now: datetime) -> Next:
    """What is due at `now` of a consent, or when to look again. `question`: that was asked of this very term;
    `is_open`: it has not been written down yet that it ended. The end comes first: a person who was never asked is
    asked after it, and nothing goes out meanwhile."""
    if is_open:
        if term.over(now):
            return Next(Step.EXPIRE, term.expires_at)
        if term.ask_at is None or question is not None:
            return Next(None, term.expires_at)
        return Next(Step.ASK if now >= term.ask_at else None, term.ask_at)
    if question is None:
        return Next(Step.FORGET if term.ask_at is None else Step.ASK, term.expires_at)
    return Next(Step.FORGET if now >= question.answer_before else None, question.answer_before)
