"""The rules of double opt-in: whether and how often to ask, and which question an OUI answers. Pure.

A stranger may type another person's number into a form, so an answer counts only if its question is certain (ADR-0026):

    asked      for a form just filled in and newer than every STOP; at most a single question by OUI waits per code
               after a STOP a person gets a question per `after_stop` from a controller, unless the answer was yes: a
               question of another controller, or from before the STOP, shuts no form
               no question is asked while a text that may mean STOP, or a STOP behind a START, waits for a reviewer
    answered   by an OUI after the question, within its window, to its code, while the question is open
               an OUI with two questions on the code answers neither
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from msgspec.structs import replace

from consent.ledger import rules as ledger
from consent.ledger.rules import Evidence, Mark, SubjectState

FORM_AGE = timedelta(days=1)  # an old file's question would be advertising
A_DAY, A_MONTH = timedelta(days=1), timedelta(days=30)
AGAIN_AFTER = timedelta(minutes=2)  # a form sent twice asks once


class Withheld(StrEnum):
    """A reason for not asking."""

    HAS_CONSENTED = "has_consented"
    OLDER_THAN_AN_ANSWER = "older_than_an_answer"
    STOPPED_AND_ASKED = "stopped_and_asked"
    JUST_ASKED = "just_asked"
    ANOTHER_WAITS = "another_waits"
    UNDER_REVIEW = "under_review"
    ASKED_ENOUGH = "asked_enough"  # by one organisation, or by all controllers together
    NOT_TEXTED = "not_texted"  # not a phone, or over the daily cap


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question of double opt-in. `evidence_id` is the request's, `short_code` the code for an OUI.

    `by_reply`: the question asked for an OUI. `number` is encrypted, `None` once erased. `after_stop`: a STOP was in
    force when the question was put.
    """

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
    after_stop: bool = False

    def is_open(self, state: SubjectState) -> bool:
        """Return whether the question is open by the ledger. The caller checks `expires_at`."""
        request = ledger.open_request(state, self.sender_id, self.purpose)
        return not self.confirmed and request is not None and request.evidence_id == self.evidence_id


@dataclass(frozen=True, slots=True)
class Most:
    """The questions that a number gets at most from several controllers together."""

    a_day: int
    a_month: int

    def reached(self, asked: Iterable[Question], now: datetime) -> bool:
        ages = [now - question.asked_at for question in asked]
        in_a_day = sum(age < A_DAY for age in ages)
        return in_a_day >= self.a_day or sum(age < A_MONTH for age in ages) >= self.a_month


def too_old(form: datetime, now: datetime) -> bool:
    return form < now - FORM_AGE


def withheld(
    state: SubjectState,
    request: Evidence,
    asked: Sequence[Question],
    now: datetime,
    after_stop: timedelta,
    most: Most,
    share: Most,
    *,
    senders: Collection[str],
    organisation: Collection[str],
    held: bool,
) -> Withheld | None:
    """Return the reason for not asking, or `None`. `request` carries its sender's controller.

    `asked`: from any sender, within the longer of `after_stop` and a month. `most`: from all controllers;
    `share`: from one organisation's, so that no organisation uses up another's. `senders`: the controller's;
    `organisation`: the senders of its organisation. `held`: a text of the person waits for a reviewer.
    """
    assert request.sender_id is not None, "a request is some sender's"
    assert request.purpose is not None, "a request is for a purpose"
    if held:
        return Withheld.UNDER_REVIEW
    scope = request.sender_id, request.purpose
    consent = ledger.consent_of(state, *scope)
    if consent and consent.state == "opted_in" and consent.basis == "opt_in":
        return Withheld.HAS_CONSENTED
    same = [q for q in asked if (q.sender_id, q.purpose) == scope and q.is_open(state)]
    if any(q.asked_at > now - AGAIN_AFTER for q in same):
        return Withheld.JUST_ASKED
    if not _opens(state, request):
        return Withheld.OLDER_THAN_AN_ANSWER
    # the questions of before a STOP do not count; a further STOP gives the controller no further question
    own = [q for q in asked if q.sender_id in senders and q.after_stop and not q.confirmed]
    stopped = ledger.standing_stop(state, *scope, request.controller)
    if stopped and any(q.asked_at > now - after_stop for q in own):
        return Withheld.STOPPED_AND_ASKED
    theirs = [q for q in asked if q.sender_id in organisation]
    return Withheld.ASKED_ENOUGH if share.reached(theirs, now) or most.reached(asked, now) else None


def takes_reply(state: SubjectState, request: Evidence, code: str, asked: Iterable[Question], now: datetime) -> bool:
    """Return whether an OUI to `code` could only mean this question, or a question that it replaces."""
    waiting = (q for q in asked if q.by_reply and q.short_code == code and now <= q.expires_at and q.is_open(state))
    return all((q.sender_id, q.purpose) == (request.sender_id, request.purpose) for q in waiting)


def answered(state: SubjectState, asked: Iterable[Question], code: str, at: datetime) -> Question | None:
    """Return the only question that an OUI to `code` answers, or `None`."""
    meant = [
        q for q in asked if q.by_reply and q.short_code == code and q.asked_at < at <= q.expires_at and q.is_open(state)
    ]
    return meant[0] if len(meant) == 1 else None


def answered_by_link(state: SubjectState, question: Question, now: datetime) -> bool:
    """Return whether the question's link still counts as a yes."""
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
    """Return the opt-in that answers `request`, to the text shown with the form."""
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
    """Return the lapse of a question."""
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
    """Return whether the request would be open once recorded."""
    assert request.sender_id is not None, "as withheld() says"
    assert request.purpose is not None, "as withheld() says"
    found: Mark | None = ledger.open_request(ledger.apply(state, request), request.sender_id, request.purpose)
    return found is not None and found.evidence_id == request.evidence_id


@dataclass(frozen=True, slots=True)
class Pace:
    """A burst of `count`, then another every `period / count`: at most twice `count` in any `period`."""

    count: int
    period: timedelta

    @property
    def each(self) -> timedelta:
        return self.period / self.count


def step(full_at: datetime | None, pace: Pace, now: datetime) -> tuple[datetime, timedelta]:
    """Return the next `full_at` (the burst is whole again), and the wait until this step is allowed."""
    after = max(full_at or now, now) + pace.each
    return after, max(after - pace.period - now, timedelta(0))
