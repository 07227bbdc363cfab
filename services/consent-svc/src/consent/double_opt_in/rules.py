"""Double opt-in: whom we may ask, how often, and which question an OUI answers. Pure: `now` is an argument.

Whoever fills in a form types a number, and it may be somebody else's. So a question is a text that a stranger can have
us send, and its answer opens something only where it cannot be mistaken:

    asked      for a form just filled in, newer than every STOP; once while it waits; one at a time by OUI on one code
               who has said STOP: one question in a month, whoever asks, unless they say yes to it
    answered   by an OUI written after the question and within its window, to the code it named, while it is open
               where two wait on one code, an OUI answers neither: what was asked in one brand's name opens no other's
    paced      per number, per sender and per caller: so many at once, then one every so often

Who asks is not told whether a text left: it would tell who consented, and who stopped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec.structs import replace

from consent.ledger import rules as ledger
from consent.ledger.rules import Evidence, Mark, SubjectState

WINDOW_HOURS = 24  # how long a question waits, unless its sender says otherwise
LONGEST_WINDOW_HOURS = 7 * 24
FORM_AGE = timedelta(days=1)  # a question follows a form at once; asking all of an old file is advertising
AGAIN_AFTER = timedelta(minutes=2)  # a form sent twice asks once; whose SMS was lost may try again


class Withheld(StrEnum):
    """Why nobody is asked."""

    HAS_CONSENTED = "has_consented"
    OLDER_THAN_AN_ANSWER = "older_than_an_answer"
    STOPPED_AND_ASKED = "stopped_and_asked"
    JUST_ASKED = "just_asked"
    ANOTHER_WAITS = "another_waits"
    NOT_TEXTED = "not_texted"  # a machine's number, or enough texts for a day


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One that was asked. `evidence_id`: of its request; `short_code`: where an OUI counts; `by_reply`: whether it told
    of OUI; `number`: sealed, None once erased; `confirmed`: they said yes."""

    evidence_id: str
    subject_id: str
    sender_id: str
    purpose: str
    short_code: str
    by_reply: bool
    asked_at: datetime
    expires_at: datetime
    number: str | None = None
    link_id: str | None = None
    confirmed: bool = False

    def is_open(self, state: SubjectState) -> bool:
        """As far as its person has gone. Whether its time is over is for the caller to see."""
        request = ledger.open_request(state, self.sender_id, self.purpose)
        return not self.confirmed and request is not None and request.evidence_id == self.evidence_id


def too_old(form: datetime, now: datetime) -> bool:
    return form < now - FORM_AGE


def withheld(
    state: SubjectState, request: Evidence, asked: Sequence[Question], now: datetime, after_stop: timedelta
) -> Withheld | None:
    """Why not to ask what `request` would record; None: ask. `request`: with its sender's controller; `asked`: the
    person's questions within `after_stop`, of any sender: how long who has said STOP is left alone after a question
    they did not say yes to."""
    assert request.sender_id is not None, "a request is some sender's"
    assert request.purpose is not None, "a request is for a purpose"
    scope = request.sender_id, request.purpose
    consent = ledger.consent_of(state, *scope)
    if consent and consent.state == "opted_in" and consent.basis == "opt_in":
        return Withheld.HAS_CONSENTED
    same = [q for q in asked if (q.sender_id, q.purpose) == scope and q.is_open(state)]
    if any(q.asked_at > now - AGAIN_AFTER for q in same):
        return Withheld.JUST_ASKED
    if not _opens(state, request):
        return Withheld.OLDER_THAN_AN_ANSWER
    stopped = ledger.standing_stop(state, *scope, request.controller)
    if stopped and any(not q.confirmed and q.asked_at > now - after_stop for q in asked):
        return Withheld.STOPPED_AND_ASKED
    return None


def takes_reply(state: SubjectState, request: Evidence, code: str, asked: Iterable[Question], now: datetime) -> bool:
    """Whether an OUI to `code` could only mean this question: no other of theirs waits there for one. The one that it
    replaces does not count."""
    waiting = (q for q in asked if q.by_reply and q.short_code == code and now <= q.expires_at and q.is_open(state))
    return all((q.sender_id, q.purpose) == (request.sender_id, request.purpose) for q in waiting)


def answered(state: SubjectState, asked: Iterable[Question], code: str, at: datetime) -> Question | None:
    """The question that an OUI answers, written at `at` (time at source, no later than we held it) to `code`. None
    where there is none, or more than one."""
    meant = [
        q for q in asked if q.by_reply and q.short_code == code and q.asked_at < at <= q.expires_at and q.is_open(state)
    ]
    return meant[0] if len(meant) == 1 else None


def answered_by_link(state: SubjectState, question: Question, now: datetime) -> bool:
    """Whether its link still says yes to it."""
    return question.asked_at <= now <= question.expires_at and question.is_open(state)


def yes(
    request: Evidence,
    *,
    evidence_id: str,
    source: str,
    at: datetime,
    received_at: datetime,
    reference: str | None = None,
) -> Evidence:
    """The opt-in that answers `request`: what the person was shown when they asked is what they agree to."""
    return replace(
        request,
        evidence_id=evidence_id,
        kind="opt_in",
        basis="opt_in",
        source=source,
        answers=request.evidence_id,
        reference=reference,
        occurred_at=at,
        received_at=received_at,
    )


def lapse(question: Question, *, evidence_id: str, source: str, now: datetime) -> Evidence:
    """Nobody said yes in time."""
    return Evidence(
        evidence_id=evidence_id,
        kind="expiry",
        sender_id=question.sender_id,
        purpose=question.purpose,
        source=source,
        answers=question.evidence_id,
        occurred_at=question.expires_at,
        received_at=now,
    )


def _opens(state: SubjectState, request: Evidence) -> bool:
    """Whether the request would be open, were it recorded: nothing as new is."""
    assert request.sender_id is not None, "as withheld() says"
    assert request.purpose is not None, "as withheld() says"
    found: Mark | None = ledger.open_request(ledger.apply(state, request), request.sender_id, request.purpose)
    return found is not None and found.evidence_id == request.evidence_id


# --- the pace -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pace:
    """`count` at once, then one more every `period / count`: at most twice `count` in any `period`."""

    count: int
    period: timedelta

    @property
    def each(self) -> timedelta:
        return self.period / self.count


def step(full_at: datetime | None, pace: Pace, now: datetime) -> tuple[datetime, timedelta]:
    """One more. `full_at`: when all of `count` may be had at once again; None: now. Returns the same after this one,
    and how long to wait until it may be had: zero where it may now."""
    after = max(full_at or now, now) + pace.each
    return after, max(after - pace.period - now, timedelta(0))
