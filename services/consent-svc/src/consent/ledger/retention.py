"""Decide how long a consent holds, and which step is due when. Pure: no clock, no I/O.

A consent holds for the purpose's months after the last contact *from the person* with its sender. Sending, delivery and
opening never count (CNIL; DOMAIN 1.4). From `expires_at` on there is no consent, whether or not the ledger has the
expiry yet (ADR-0023).

Where a month lacks the day, the term ends as the next month begins (code de procédure civile, art. 641), so a later
contact never brings an earlier end.

A person not asked in time about renewal (CNIL: a last question) is asked after the end, and has as many days to answer
(ADR-0028). A person without an open consent is held no longer than a consent would be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

from common.contracts.consent import RETENTION_MONTHS
from consent.ledger import rules as ledger
from consent.ledger.rules import Mark, SubjectState, addressee, persons_stops


@dataclass(frozen=True, slots=True)
class Rule:
    """A purpose's retention, and how long before the end the person is asked (None: never)."""

    months: int = RETENTION_MONTHS
    ask_days: int | None = None


LONGEST = Rule()
SHORTEST = timedelta(days=28)  # of all months
Rules = Mapping[tuple[str, str], Rule]  # by (sender_id, purpose); default: the longest by CNIL


class Term(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An open consent, or the person's own term. `expires_at` is the first instant without the consent."""

    sender_id: str
    purpose: str
    last_contact: datetime
    expires_at: datetime
    ask_at: datetime | None = None

    def over(self, now: datetime) -> bool:
        return now >= self.expires_at


def after_months(at: datetime, months: int) -> datetime:
    """Return `at` (aware) some months later, in UTC. Monotone in both arguments."""
    at = at if at.tzinfo is UTC else at.astimezone(UTC)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    try:
        return at.replace(year=year, month=month + 1)
    except ValueError:  # no such day in that month
        year, month = divmod(year * 12 + month + 1, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC)


def last_contact(state: SubjectState, sender_id: str) -> datetime | None:
    """Return the time of the person's last contact with this sender: the retention clock.

    Delivery and opening do not count (DOMAIN 1.4), nor a request, nor an opt-out from a single purpose: another person
    may have typed the number, or a list may bring the opt-out. A held opt-in counts up to the STOP that holds it: by
    its own time, a nightly sync would keep the person's data for ever.
    """
    newest = None
    for mark in state.marks:
        if mark.kind == "opt_out" and mark.purpose is not None:
            continue
        if mark.kind in ("opt_in", "opt_out", "contact") and mark.sender_id in (None, sender_id):
            at = _held_since(state, mark) if mark in state.held else mark.at
            newest = at if newest is None or at > newest else newest
    return newest


def _held_since(state: SubjectState, asserted: Mark) -> datetime:
    return max(stop.at for stop in persons_stops(state, *addressee(asserted)) if stop.holds(asserted))


def expires_at(last_contact: datetime, months: int | None) -> datetime:
    return after_months(last_contact, min(months or RETENTION_MONTHS, RETENTION_MONTHS))


def is_over(state: SubjectState, sender_id: str, months: int | None, now: datetime) -> bool:
    """Return whether a consent open on record has ended by now."""
    touched = last_contact(state, sender_id)
    assert touched is not None, "an opt-in is a contact"
    if now < touched + min(months or RETENTION_MONTHS, RETENTION_MONTHS) * SHORTEST:
        return False
    return now >= expires_at(touched, months)


def day(at: datetime) -> str:
    """Return the day in UTC. A contact is kept once a day: more lines would prove no more."""
    return at.astimezone(UTC).date().isoformat()


def worth_keeping(state: SubjectState, sender_id: str, at: datetime) -> bool:
    """Return whether a contact at `at` moves the clock to another day."""
    touched = last_contact(state, sender_id)
    return touched is None or day(touched) < day(at)


def terms(state: SubjectState, rules: Rules) -> tuple[Term, ...]:
    """Return the term of every opted-in purpose."""
    return tuple(
        _term(state, consent.sender_id, consent.purpose, rules.get((consent.sender_id, consent.purpose), LONGEST))
        for consent in ledger.consents(state)
        if consent.state == "opted_in"
    )


def kept_terms(state: SubjectState, rules: Rules, *, own: bool) -> tuple[Term, ...]:
    """Return the terms of the opted-in purposes or, without an open consent, the person's own term (`is_person`).

    `own` False: the subject is erased, or a keyed hash of a list, which has no term of its own.
    """
    if not state.marks:
        return ()
    found = terms(state, rules)
    if found or not own or any(consent.state == "pending" for consent in ledger.consents(state)):
        return found
    return (_person(state, rules),)


def is_person(term: Term) -> bool:
    return not term.sender_id


def _person(state: SubjectState, rules: Rules) -> Term:
    """Return the person's own term: the latest end that any known sender's longest rule gives.

    Without a contact, the newest line counts.
    """
    ends = []
    for sender_id in sorted({mark.sender_id or "" for mark in state.marks}):
        since = last_contact(state, sender_id)
        since = since or max(mark.at for mark in state.marks if (mark.sender_id or "") == sender_id)
        asked = {mark.purpose for mark in state.marks if mark.sender_id == sender_id and mark.purpose}
        months = [rules.get((sender_id, purpose), LONGEST).months for purpose in asked]
        ends.append((expires_at(since, max(months, default=RETENTION_MONTHS)), since))
    end, since = max(ends)
    return Term(sender_id="", purpose="", last_contact=since, expires_at=end)


def _term(state: SubjectState, sender_id: str, purpose: str, rule: Rule) -> Term:
    touched = last_contact(state, sender_id)
    assert touched is not None, "an opt-in is a contact"
    return term_since(touched, sender_id, purpose, rule)


def term_since(touched: datetime, sender_id: str, purpose: str, rule: Rule) -> Term:
    """Return the term of an open consent after the last contact `touched`."""
    end = expires_at(touched, rule.months)
    ask_at = max(end - timedelta(days=rule.ask_days), touched) if rule.ask_days else None
    return Term(sender_id=sender_id, purpose=purpose, last_contact=touched, expires_at=end, ask_at=ask_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A renewal question."""

    text: str
    asked_at: datetime
    answer_before: datetime


class Step(StrEnum):
    """A due step of a consent."""

    ASK = "ask"
    EXPIRE = "expire"
    FORGET = "forget"  # no step is left


@dataclass(frozen=True, slots=True)
class Next:
    """The due `step`, or None with the time `at` of the next."""

    step: Step | None
    at: datetime


def next_step(term: Term, question: Question | None, *, is_open: bool, now: datetime) -> Next:
    """Return the step due at `now`, or when to poll again. `is_open`: the ledger has no expiry yet.

    The expiry comes before a missed question: meanwhile no message goes out.
    """
    if is_open:
        if term.over(now):
            return Next(Step.EXPIRE, term.expires_at)
        if term.ask_at is None or question is not None:
            return Next(None, term.expires_at)
        return Next(Step.ASK if now >= term.ask_at else None, term.ask_at)
    if question is None:
        return Next(Step.FORGET if term.ask_at is None else Step.ASK, term.expires_at)
    return Next(Step.FORGET if now >= question.answer_before else None, question.answer_before)
