"""Hold a subject while the recorder decides a batch: what is appended, the terms after the batch, and the event."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec.structs import replace

from common import version
from common.contracts.consent import Cause, ConsentStateChanged
from common.sms.subject_id import InnerId
from consent.ledger import retention
from consent.ledger import rules as ledger
from consent.ledger.chain import Entry
from consent.ledger.retention import Rules, Term
from consent.ledger.rules import Evidence
from consent.ledger.store import Subject


@dataclass(slots=True)
class Change:
    """A subject while the recorder decides its batch."""

    subject: Subject
    before: Subject
    now: datetime
    kept: Sequence[Term] | None = None  # the stored terms; `None`: derived from `before`
    terms: "Terms | None" = None
    entries: list[Entry] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    told: bool = False
    erases: bool = False
    # the opt-ins by which an erased subject comes back, by controller
    returned_by: dict[str, str] = field(default_factory=dict)
    trace: str | None = None
    listed: Sequence[Evidence] = ()  # kept beside the ledger
    stranger: bool = False  # a new subject, whose row `add_subjects` writes
    inner: InnerId | None = None  # `None`: the change appends no entry
    own_term: bool = False  # a statement named the number: its PERSONAL fields go at the end of the person's own term

    def tell(self, subject: Subject) -> None:
        """Set `subject` for publication under its next version, the same for the whole batch."""
        self.subject = subject if self.told else replace(subject, version=version.following(subject.version, self.now))
        self.told = True


@dataclass(frozen=True, slots=True)
class Terms:
    """A subject's terms after its batch. `began`: new or moved."""

    open: tuple[Term, ...]
    began: tuple[Term, ...]
    ended: tuple[Term, ...]


def count_terms(changes: Iterable[Change], rules: Rules) -> None:
    """Set the terms of each change, as the last step of deciding."""
    for change in changes:
        change.terms = _terms(change, rules)


def _terms(change: Change, rules: Rules) -> Terms:
    """Return the terms. A moved end publishes the subject, because the gate uses the end."""
    before = _kept(change.before, rules, own=False) if change.kept is None else change.kept
    own = change.own_term or any(retention.is_person(term) for term in before)
    after = _kept(change.subject, rules, own=own)
    held = {(term.sender_id, term.purpose): term for term in before}
    moved = [(term, held.pop((term.sender_id, term.purpose), None)) for term in after]
    ends = [term for term, was in moved if was is None or was.expires_at != term.expires_at]
    if not change.told and not all(retention.is_person(term) for term in ends):
        change.tell(change.subject)
    return Terms(after, tuple(term for term, was in moved if was != term), tuple(held.values()))


def _kept(subject: Subject, rules: Rules, *, own: bool) -> tuple[Term, ...]:
    held = subject.erased_at is None and (own or subject.number is not None)
    return retention.kept_terms(subject.state, rules, own=held)


def event_of(change: Change) -> ConsentStateChanged:
    subject = change.subject
    ends = {(term.sender_id, term.purpose): term.expires_at for term in (change.terms.open if change.terms else ())}
    return ConsentStateChanged(
        subject_id=subject.subject_id,
        version=subject.version,
        consents=tuple(
            replace(consent, expires_at=ends.get((consent.sender_id, consent.purpose)))
            for consent in ledger.consents(subject.state)
        ),
        suppressions=ledger.suppressions(subject.state),
        erased=subject.erased_at is not None,
        causes=tuple(change.causes),
        held_since=subject.held_since,
    )
