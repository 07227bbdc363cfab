"""The recorder, the only writer of consent: lock the subjects, decide, append the evidence, publish.

Only the recorder writes `evidence`, `listed`, `review` and `subject`, and the end of each consent in `retention_due`
(the pruner deletes closed reviews). The caller owns the transaction. The row lock puts the versions of a subject on the
log in order.
"""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import ERASURES, STATES
from common.contracts.rights import ErasureLifted
from common.db.database import COPIED_ROWS
from common.kafka import outbox
from common.privacy import erasing
from common.privacy.erasing import Whom, concerning
from common.sms.subject_id import Inner
from common.telemetry import counter, traceparent
from consent.ledger import first_consents, first_store, retention, store, term_store
from consent.ledger import rules as ledger
from consent.ledger.chain import SALT_BYTES, chained, erased, evidence_id
from consent.ledger.change import Change, Terms, count_terms, event_of
from consent.ledger.first_consents import NOTHING, Written
from consent.ledger.retention import Term
from consent.ledger.rules import NEVER_SEEN, Decision, Evidence, Verdict
from consent.ledger.statement import Alike as Alike
from consent.ledger.statement import Recorded as Recorded
from consent.ledger.statement import Statement as Statement
from consent.ledger.statement import controlled as controlled
from consent.ledger.store import Known, Review, Subject

RETENTION = "retention"  # the source of evidence made by time
MO = "mo"
OPENING = ("opt_in", "request")
EVIDENCE = counter(
    "sms_consent_evidence_total", "Evidence offered to the ledger, by kind and verdict.", ["kind", "verdict"]
)


NOBODY: Mapping[str, Subject] = MappingProxyType({})


async def record(
    tx: AsyncConnection,
    inner: Inner,
    statements: Sequence[Statement],
    now: datetime,
    reviews: Sequence[Review] = (),
    held: Mapping[str, Subject] = NOBODY,
    partitions: int | None = None,
) -> list[Recorded]:
    """Decide the statements in order, write the outcome, and return a result for each.

    An open review sets `held_since`. A refused statement leaves no trace, not even a subject. `held`: subjects that the
    caller has locked, as they are. Fewer statements than a COPY is worth take five round trips for new subjects and for
    held ones, seven for other existing subjects, nine for both, and another if an opted-out subject opts in; a COPY
    adds a few. `inner`: what the chain of a subject is hashed under. `partitions`: of the topic; the events then share
    rows of the outbox.
    """
    outcome = await _record(tx, inner, statements, (), now, reviews, held, partitions)
    return outcome.results


class Outcome(NamedTuple):
    """The outcome of a batch. `results`: of the statements, in order. `of_alike`: of opt-ins in columns, by subject.

    Every other opt-in in a column is a first consent, recorded as the only mark of its subject. `met`: whether a
    subject was on record.
    """

    results: list[Recorded]
    of_alike: Mapping[str, Recorded]
    met: bool


async def record_alike(
    tx: AsyncConnection,
    inner: Inner,
    alike: Sequence[Alike],
    statements: Sequence[Statement],
    now: datetime,
    partitions: int | None = None,
    *,
    look: bool = True,
) -> Outcome:
    """Record opt-ins in columns, and statements about other people, as `record` does all of them in order.

    Each opt-in is of another person, and none is to be refused. `look`: look for the people on record first; without,
    the COPY of many new subjects finds out, and a person on record costs a COPY.
    """
    return await _record(tx, inner, statements, alike, now, (), NOBODY, partitions, look=look)


async def _record(
    tx: AsyncConnection,
    inner: Inner,
    statements: Sequence[Statement],
    alike: Sequence[Alike],
    now: datetime,
    reviews: Sequence[Review],
    held: Mapping[str, Subject],
    partitions: int | None,
    *,
    look: bool = True,
) -> Outcome:
    decisions: dict[int, Decision] = {}
    taken: dict[int, Statement] = {}
    for place, statement in enumerate(statements):
        if why := tuple(ledger.refusals(statement.evidence, now)):
            decisions[place] = Decision(verdict=Verdict.REFUSED, state=NEVER_SEEN, refusals=why)
        else:
            taken[place] = statement
    new = _New()
    perhaps_new = {place: s for place, s in taken.items() if s.subject_id not in held}
    if (perhaps_new or alike) and not reviews:
        new = await _of_strangers(tx, inner, perhaps_new, alike, decisions, now, look=look)
        taken |= new.beside
        taken = {p: s for p, s in taken.items() if p not in new.first and s.subject_id not in new.changes}
    changes = new.changes
    if taken or reviews:
        changes |= await _of_others(tx, inner, taken, reviews, held, decisions, now)
    await _write(tx, list(changes.values()), now, new.written, partitions)
    results = [new.first.get(p) or _recorded(s, decisions[p], changes) for p, s in enumerate(statements)]
    others = {s.subject_id: new.first.get(p) or _recorded(s, decisions[p], changes) for p, s in new.beside.items()}
    told = Counter((r.statement.evidence.kind, r.decision.verdict) for r in (*results, *others.values()))
    told["opt_in", Verdict.RECORDED] += sum(map(len, alike)) - len(others)
    for (kind, verdict), many in (+told).items():
        EVIDENCE.labels(kind, verdict).inc(many)
    return Outcome(results, others, bool(taken))


def _recorded(statement: Statement, decision: Decision, changes: Mapping[str, Change]) -> Recorded:
    if decision.verdict is Verdict.REFUSED:
        return Recorded(statement, decision, None)
    subject = changes[statement.subject_id].subject
    return Recorded(statement, decision, subject.version, subject.erased_at is not None)


@dataclass(frozen=True, slots=True)
class _New:
    """The new subjects of a batch. `first`: by place, the statements that `written` records.

    `beside`: the statements, by a negative place, of opt-ins in columns that `written` has not in columns.
    """

    changes: dict[str, Change] = field(default_factory=dict)
    written: Written = NOTHING
    first: Mapping[int, Recorded] = field(default_factory=dict)
    beside: Mapping[int, Statement] = field(default_factory=dict)


async def _of_strangers(
    tx: AsyncConnection,
    inner: Inner,
    taken: Mapping[int, Statement],
    alike: Sequence[Alike],
    decisions: dict[int, Decision],
    now: datetime,
    *,
    look: bool = True,
    together: bool = True,
) -> _New:
    """Decide the statements of new subjects and insert their rows; add to `decisions` (ADR-0035).

    The result omits subjects that another transaction has inserted meanwhile. `together`: first consents go by COPY
    with the other new subjects, in one order; where one of these is on record, all are decided again. `look`: as of
    `record_alike`.
    """
    said = {s.evidence.sender_id for s in taken.values()} | {each.evidence.sender_id for each in alike}
    people = {s.subject_id for s in taken.values()}.union(*(each.subjects for each in alike))
    look = look or len(people) < COPIED_ROWS
    known = await store.known(
        tx, subjects=people if look else (), senders=[sender_id for sender_id in said if sender_id is not None]
    )
    new = [each.without(known.subjects) for each in alike]
    many = sum(map(len, new)) + sum(s.subject_id not in known.subjects for s in taken.values())
    together = together and many >= COPIED_ROWS and all(map(first_consents.writable, new))
    columns = new if together else []
    others = [each.of(known.subjects) if together else each for each in alike]
    beside = {-1 - place: s for place, s in enumerate(s for each in others for s in each.statements())}
    unknown = {place: s for place, s in {**taken, **beside}.items() if s.subject_id not in known.subjects}
    first = first_consents.candidates(unknown) if together else {}
    changes = {
        subject_id: Change(subject, subject, now, inner=inner(subject_id), stranger=True)
        for subject_id in dict.fromkeys(s.subject_id for place, s in unknown.items() if place not in first)
        for subject in (Subject(subject_id=subject_id),)
    }
    decided = {
        place: _decide_after_ends(changes[s.subject_id], s, known, now)
        for place, s in unknown.items()
        if place not in first
    }
    count_terms(changes.values(), known.rules)
    subjects = [change.subject for change in changes.values()]
    if first or any(columns):
        columns = [*columns, *first_consents.grouped(first.values(), inner)]
        deciding = first_consents.Deciding(known.senders, known.rules, now, os.urandom(SALT_BYTES).hex())
        written = deciding.written(columns, os.urandom(SALT_BYTES * sum(map(len, columns))).hex())
        if not await first_store.add_subjects(tx, written, subjects, now):
            return await _of_strangers(tx, inner, taken, alike, decisions, now, together=not look)
        decisions |= decided
        return _New(changes, written, {place: deciding.recorded(s) for place, s in first.items()}, beside)
    added = await store.add_subjects(tx, subjects, now) if subjects else set()
    decisions |= {place: decision for place, decision in decided.items() if unknown[place].subject_id in added}
    return _New({subject_id: change for subject_id, change in changes.items() if subject_id in added}, beside=beside)


async def _of_others(
    tx: AsyncConnection,
    inner: Inner,
    taken: Mapping[int, Statement],
    reviews: Sequence[Review],
    held: Mapping[str, Subject],
    decisions: dict[int, Decision],
    now: datetime,
) -> dict[str, Change]:
    """Lock the subjects that are not held, then decide; add to `decisions`."""
    named = {r.subject_id for r in reviews} | {s.subject_id for s in taken.values()}
    ids = named - held.keys()
    locked = await store.lock_subjects(tx, dict.fromkeys(ids) if reviews else {}, ids)
    locked |= {i: held[i] for i in sorted(named - ids)}
    opening = {s.subject_id for s in taken.values() if s.evidence.kind == "opt_in"}
    listed = await store.listed_of(tx, [i for i in opening if any(m.kind == "opt_out" for m in locked[i].state.marks)])
    kept = await _terms_without_number(tx, locked.values())
    changes = {
        i: Change(subject, subject, now, kept.get(i), listed=listed.get(i, ()), inner=inner(i))
        for i, subject in locked.items()
    }
    senders = {s.evidence.sender_id for s in taken.values() if s.evidence.sender_id is not None}
    senders |= {one.sender_id for some in listed.values() for one in some if one.sender_id is not None}
    known = await store.known(
        tx,
        evidence=[
            *(s.evidence.evidence_id for s in taken.values()),
            *(one.evidence_id for some in listed.values() for one in some),
        ],
        erased=locked,
        senders=senders | senders_of(locked.values()),
    )
    for place, s in taken.items():
        decisions[place] = _decide_after_ends(changes[s.subject_id], s, known, now)
    if asking := [subject_id for subject_id, change in changes.items() if change.erases]:
        await store.close_reviews(tx, asking)
    if reviews:
        await _hold(tx, changes, reviews)
    count_terms((change for change in changes.values() if change.entries or change.told), known.rules)
    return changes


async def _terms_without_number(tx: AsyncConnection, subjects: Iterable[Subject]) -> dict[str, Sequence[Term]]:
    """Return the stored terms of subjects without a number, from whose rows no term can be derived."""
    ids = [s.subject_id for s in subjects if s.number is None and s.erased_at is None and s.state.marks]
    found = await term_store.terms_kept(tx, ids) if ids else {}
    return {subject_id: found.get(subject_id, ()) for subject_id in ids}


async def lock(tx: AsyncConnection, subject_ids: Collection[str]) -> None:
    """Lock these people, as `record` does."""
    await store.lock_subjects(tx, {}, subject_ids)


async def erase(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Erase numbers and personal fields of entries recorded by `asked`; return how many entries.

    The caller has locked the people.
    """
    return await store.erase_personal(tx, asked)


async def expire(tx: AsyncConnection, inner: Inner, subject_ids: Collection[str], at: datetime, now: datetime) -> int:
    """Record and publish the expiry of consents ended by `at`; return their number."""
    locked = await store.lock_subjects(tx, {}, subject_ids)
    known = await store.known(tx, senders=senders_of(locked.values()))
    changes = [Change(subject, subject, now, inner=inner(subject.subject_id)) for subject in locked.values()]
    for change in changes:
        _end(change, known, at, now)
    count_terms(changes, known.rules)
    await _write(tx, changes, now)
    return sum(len(change.entries) for change in changes)


def _end(change: Change, known: Known, at: datetime, now: datetime) -> None:
    """Record the expiry of every consent ended by `at`, dated at the end."""
    subject_id = change.subject.subject_id
    for term in retention.terms(change.subject.state, known.rules):
        if term.over(at):
            ended = Evidence(
                evidence_id=evidence_id(
                    RETENTION, change.inner, term.sender_id, term.purpose, term.expires_at.isoformat()
                ),
                kind="expiry",
                sender_id=term.sender_id,
                purpose=term.purpose,
                source=RETENTION,
                occurred_at=term.expires_at,
                received_at=now,
            )
            _decide(change, Statement(subject_id, None, ended), known._replace(evidence=set()), now)


def _decide_after_ends(change: Change, statement: Statement, known: Known, now: datetime) -> Decision:
    """Record the ends that come before `statement`, then decide the statement.

    Otherwise the new evidence would be a contact that keeps an ended consent alive.
    """
    if statement.evidence.evidence_id not in known.evidence:
        _end(change, known, statement.evidence.at, now)
        if statement.erases:
            _shut_what_is_newer(change, statement.evidence, known, now)
        if statement.evidence.kind == "opt_in":
            _take_lists(change, statement.evidence, known, now)
            _end_what_was_erased(change, statement.evidence, known, now)
    return _decide(change, statement, known, now)


def _shut_what_is_newer(change: Change, asks: Evidence, known: Known, now: datetime) -> None:
    """Opt the subject out again now, if an opt-in or request is newer than the erasure request `asks`.

    The erasure takes the proof: the consent would count again once the person returns.
    """
    wide = controlled(asks, known.senders, whole=True)
    newer = [mark for mark in change.subject.state.marks if mark.kind in OPENING and mark.at > asks.at]
    if any(wide.sender_id is None or wide.controller == mark.controller for mark in newer):
        shut = Evidence(
            evidence_id=evidence_id("erasure", asks.evidence_id),
            kind="opt_out",
            sender_id=asks.sender_id,
            purpose=None,
            source=asks.source,
            answers=asks.evidence_id,
            occurred_at=now,
            received_at=now,
        )
        _decide(change, Statement(change.subject.subject_id, None, shut), known, now, whole=True)


def _erased_at(change: Change, evidence: Evidence, known: Known) -> datetime | None:
    """Return when the data was erased that the evidence belongs to, unless the person has returned to its controller.

    `change.subject` has the erasure of this batch.
    """
    found = [] if change.subject.erased_at is None else [change.subject.erased_at]
    if evidence.sender_id is not None and (controller := _controller(evidence, known)) not in change.returned_by:
        asked = concerning(known.erased.get(change.subject.subject_id, ()), controller)
        found += [asked.at] if asked is not None and not asked.lifted else []
    return max(found, default=None)


def _controller(evidence: Evidence, known: Known) -> str:
    """Return the controller of the evidence's sender: an unregistered sender is its own."""
    assert evidence.sender_id is not None
    sender = known.senders.get(evidence.sender_id)
    return sender.controller if sender else evidence.sender_id


def _end_what_was_erased(change: Change, given: Evidence, known: Known, now: datetime) -> None:
    """End a consent older than the subject's erasure that arrives later, without proof."""
    erased_at = _erased_at(change, given, known)
    if erased_at is None or given.at > erased_at:
        return
    after = ledger.apply(change.subject.state, given)
    if ledger.standing(after, given.sender_id, given.purpose) == "opted_in":
        ended = Evidence(
            evidence_id=evidence_id(
                RETENTION, change.inner, given.sender_id, given.purpose, "erased", erased_at.isoformat()
            ),
            kind="expiry",
            sender_id=given.sender_id,
            purpose=given.purpose,
            source=RETENTION,
            occurred_at=erased_at,
            received_at=now,
        )
        _decide(change, Statement(change.subject.subject_id, None, ended), known._replace(evidence=set()), now)


def _take_lists(change: Change, given: Evidence, known: Known, now: datetime) -> None:
    """Record suppression-list entries that decide against the opt-in `given`, unless the purpose is already open.

    Entries no older than `given` decide (ADR-0057), and a provider's entry of any time against an asserted opt-in
    (ADR-0064). An entry has a cause only if it shuts another consent.
    """
    if not change.listed or ledger.standing(change.subject.state, given.sender_id, given.purpose) == "opted_in":
        return
    for said in change.listed:
        if said.at >= given.at or (said.by_person and not given.by_person):
            causes, before = len(change.causes), _in(change.subject)
            _decide(change, Statement(change.subject.subject_id, None, said), known, now)
            if before <= _in(change.subject):
                del change.causes[causes:]


def _in(subject: Subject) -> set[tuple[str, str]]:
    return {(c.sender_id, c.purpose) for c in ledger.consents(subject.state) if c.state == "opted_in"}


async def keep_listed(tx: AsyncConnection, statements: Iterable[Statement]) -> None:
    """Keep suppression-list entries of opted-out subjects beside the ledger, the newest for each scope (ADR-0057).

    The caller has locked the subjects, each opted out of everything its entry covers.
    """
    newest: dict[str, dict[tuple[str | None, str | None, bool], Evidence]] = {}
    for s in sorted(statements, key=lambda s: s.evidence.at):
        if not any(ledger.refusals(s.evidence, s.evidence.received_at)):
            scope = s.evidence.sender_id, s.evidence.purpose, s.evidence.by_person
            newest.setdefault(s.subject_id, {})[scope] = s.evidence
    if newest:
        await store.put_listed(tx, {subject_id: list(some.values()) for subject_id, some in newest.items()})


async def recount(tx: AsyncConnection, subject_ids: Collection[str], now: datetime) -> None:
    """Compute the terms again from the senders' present rules; publish moved ends."""
    locked = await store.lock_subjects(tx, {}, subject_ids)
    kept = await term_store.terms_kept(tx, locked)
    known = await store.known(tx, senders=senders_of(locked.values()))
    changes = [Change(subject, subject, now, kept.get(subject.subject_id, ())) for subject in locked.values()]
    count_terms(changes, known.rules)
    await _write(tx, changes, now)


async def publish_again(tx: AsyncConnection, subject_ids: Collection[str], since: datetime, now: datetime) -> list[int]:
    """Publish the present states again, under their versions, and return the outbox ids.

    Opt-outs recorded from `since` on are causes, unless outvoted: a reader that missed an opt-out reports its
    enforcement.
    """
    locked = await store.lock_subjects(tx, {}, subject_ids)
    kept = await term_store.terms_kept(tx, locked)
    said = await store.opt_outs_since(tx, locked, since)
    again = [
        Change(
            subject,
            subject,
            now,
            terms=Terms(tuple(kept.get(subject.subject_id, ())), (), ()),
            causes=[
                cause
                for one in said.get(subject.subject_id, ())
                if not ledger.outvoted(subject.state, one) and (cause := ledger.cause(one)) is not None
            ],
        )
        for subject in locked.values()
        if subject.version > 0
    ]
    return await outbox.append(tx, STATES, [event_of(change) for change in again])


async def forget(tx: AsyncConnection, subject_ids: Collection[str], now: datetime) -> None:
    """Mark these subjects, who have no open consent any more, as erased at `now`, until an opt-in."""
    locked = await store.lock_subjects(tx, {}, subject_ids)
    kept = await term_store.terms_kept(tx, locked)
    known = await store.known(tx, senders=senders_of(locked.values()))
    changes = [Change(subject, subject, now, kept.get(subject.subject_id, ())) for subject in locked.values()]
    for change in changes:
        change.tell(replace(change.subject, erased_at=now))
    count_terms(changes, known.rules)
    await _write(tx, changes, now)


def senders_of(subjects: Iterable[Subject]) -> set[str]:
    """Return the senders in these subjects' marks, whose retention rules a change needs."""
    return {m.sender_id for s in subjects for m in s.state.marks if m.sender_id is not None}


def _decide(change: Change, statement: Statement, known: Known, now: datetime, *, whole: bool = False) -> Decision:
    """Apply `statement` to the subject, and add to `known.evidence`: a batch may repeat itself.

    `whole`: as of `controlled`.
    """
    subject = change.subject
    evidence = controlled(statement.evidence, known.senders, whole=whole or statement.erases)
    if evidence.evidence_id in known.evidence:
        return Decision(verdict=Verdict.DUPLICATE, state=subject.state)
    known.evidence.add(evidence.evidence_id)
    decision = ledger.decide(subject.state, evidence, now)
    if not statement.to_review and ledger.outvoted(decision.state, evidence):
        evidence = replace(evidence, clock=None)  # only a STOP under review may leave an earlier opt-in open
        decision = ledger.decide(subject.state, evidence, now)
    assert change.inner is not None, "the caller appends entries"
    salt = os.urandom(SALT_BYTES).hex()
    entry = chained(subject.subject_id, change.inner, subject.entries + 1, evidence, now, subject.head, salt)
    change.subject = replace(subject, state=decision.state, entries=entry.position, head=entry.hash)
    if (erased_at := _erased_at(change, evidence, known)) is not None:
        if _returns(decision, evidence, erased_at):
            change.subject = replace(change.subject, erased_at=None)
            change.returned_by[_controller(evidence, known)] = evidence.evidence_id
        elif evidence.at <= erased_at or evidence.kind == "opt_in":
            entry = erased(entry)  # late evidence from before the erasure, or an opt-in that brings nobody back
    change.own_term |= statement.number is not None
    gone = change.subject.erased_at is not None or entry.erased
    if change.subject.number is None and not gone and _needs_number(evidence):
        change.subject = replace(change.subject, number=statement.number)
    if statement.erases and evidence.sender_id is None:
        change.erases = True
        change.subject = replace(change.subject, erased_at=now, held_since=None)
    change.entries.append(entry)
    change.trace = statement.trace or change.trace
    if decision.told or statement.erases:
        change.tell(change.subject)
    if decision.cause is not None:
        change.causes.append(decision.cause)
    return decision


def _needs_number(evidence: Evidence) -> bool:
    """Return whether the subject's row gets the number: to keep a subject opted out, the keyed hash is enough.

    A suppression list holds nothing else (DOMAIN 1.5, MED-2023-040).
    """
    return evidence.kind in OPENING


def _returns(decision: Decision, evidence: Evidence, erased_at: datetime) -> bool:
    """Return whether a newer opt-in brings the erased subject back."""
    if evidence.kind != "opt_in" or evidence.at <= erased_at:
        return False
    return ledger.standing(decision.state, evidence.sender_id, evidence.purpose) == "opted_in"


async def _hold(tx: AsyncConnection, changes: Mapping[str, Change], reviews: Sequence[Review]) -> None:
    """Store the reviews and set `held_since`, from the oldest open review on (ADR-0015).

    Reviews from before an erasure are closed: no reviewer will read the MO.
    """
    newest = {
        review.mo_id: replace(review, open=review.open and not _unread(changes[review.subject_id].subject, review))
        for review in sorted(reviews, key=lambda review: review.revision)
    }
    held = await store.put_reviews(tx, list(newest.values()))
    for subject_id in {review.subject_id for review in reviews}:
        change, since = changes[subject_id], held.get(subject_id)
        if change.subject.held_since != since:
            change.tell(replace(change.subject, held_since=since))


def _unread(subject: Subject, review: Review) -> bool:
    return subject.erased_at is not None and review.since <= subject.erased_at


async def _write(
    tx: AsyncConnection,
    changes: Sequence[Change],
    now: datetime,
    first: Written = NOTHING,
    partitions: int | None = None,
) -> None:
    """Write the changes and `first`, and append the events to the outbox. `count_terms` has run."""
    if first.entries:
        await first_store.append(tx, first, partitions)
    counted = [(change, change.terms) for change in changes if change.terms is not None]
    ended = [(c.subject.subject_id, term) for c, terms in counted for term in terms.ended]
    began = [(c.subject.subject_id, term) for c, terms in counted if not c.stranger for term in terms.began]
    if ended or began:
        await term_store.put_terms(tx, ended, began)
    await term_store.add_terms(
        tx, [(c.subject.subject_id, term) for c, terms in counted if c.stranger for term in terms.began]
    )
    written = [change for change in changes if change.entries or change.told]
    if not written:
        return
    await store.append_entries(tx, [entry for change in written for entry in change.entries])
    await store.put_subjects(tx, [change.subject for change in written if not change.stranger], now)
    told = [change for change in written if change.told]
    if partitions is None or any(change.trace for change in told):
        await outbox.append(tx, STATES, [event_of(c) for c in told], [c.trace or traceparent() for c in told])
    else:
        await outbox.append_by_partition(tx, STATES, [event_of(c) for c in told], partitions)
    returned = [
        ErasureLifted(
            subject_id=change.subject.subject_id, controller_id=controller_id, lifted_at=now, evidence_id=opt_in
        )
        for change in written
        for controller_id, opt_in in change.returned_by.items()
    ]
    for lifted in returned:
        await erasing.lift(tx, lifted.subject_id, lifted.controller_id, now)
    await outbox.append(tx, ERASURES, returned)
