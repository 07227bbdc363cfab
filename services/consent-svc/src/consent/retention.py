"""How long a consent holds, and what is due when. Pure: no clock, no I/O.

A consent holds for the purpose's months after the last contact *from the person* with its sender: what they said yes or
no to, bought, wrote, clicked (`ledger.last_contact`). What we send, its delivery and its opening never count (CNIL;
DOMAIN 1.4). From `expires_at` on there is no consent, whether or not somebody has written so in the ledger yet.

The months are calendar months in UTC: the same day of the month at the same time of day. A month that has no such day
ends it: the term is over as the next month begins (code de procédure civile, art. 641: the last day of that month).
So a later contact never means an earlier end.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from common.contracts.consent import RETENTION_MONTHS
from consent import ledger
from consent.ledger import SubjectState

Months = Mapping[tuple[str, str], int]  # by (sender_id, purpose); what is not named: the longest that CNIL allows


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A consent that is open, and until when: `expires_at` itself is the first instant without it."""

    sender_id: str
    purpose: str
    last_contact: datetime
    expires_at: datetime

    def over(self, now: datetime) -> bool:
        return now >= self.expires_at


def after_months(at: datetime, months: int) -> datetime:
    """`at` (aware) some months later, in UTC; monotone in both."""
    at = at.astimezone(UTC)
    year, month = divmod(at.year * 12 + at.month - 1 + months, 12)
    try:
        return at.replace(year=year, month=month + 1)
    except ValueError:  # no such day in that month
        year, month = divmod(year * 12 + month + 1, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC)


def expires_at(last_contact: datetime, months: int | None) -> datetime:
    return after_months(last_contact, min(months or RETENTION_MONTHS, RETENTION_MONTHS))


def end_of(state: SubjectState, sender_id: str, months: int | None) -> datetime:
    """Of a consent to this sender that is open."""
    touched = ledger.last_contact(state, sender_id)
    assert touched is not None, "an opt-in is a contact"
    return expires_at(touched, months)


def day(at: datetime) -> str:
    """In UTC. A contact is kept once a day, person and sender: more would prove no more, and cost a line each."""
    return at.astimezone(UTC).date().isoformat()


def worth_keeping(state: SubjectState, sender_id: str, at: datetime) -> bool:
    """Whether a contact at `at` moves the clock to another day."""
    touched = ledger.last_contact(state, sender_id)
    return touched is None or day(touched) < day(at)


def terms(state: SubjectState, months: Months) -> tuple[Term, ...]:
    """Of every purpose that is opted in, in the order of (sender_id, purpose)."""
    return tuple(
        _term(state, consent.sender_id, consent.purpose, months)
        for consent in ledger.consents(state)
        if consent.state == "opted_in"
    )


def _term(state: SubjectState, sender_id: str, purpose: str, months: Months) -> Term:
    touched = ledger.last_contact(state, sender_id)
    assert touched is not None, "an opt-in is a contact"
    ends = expires_at(touched, months.get((sender_id, purpose)))
    return Term(sender_id=sender_id, purpose=purpose, last_contact=touched, expires_at=ends)
