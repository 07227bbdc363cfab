"""Decide the first consents of new subjects in one pass. Pure: no clock, no I/O.

An opt-in that is the only statement about a new subject has one outcome, whoever the subject is. So the recorder's rule
decides one statement of each group with the same sender, purpose, basis, source and arrival; the others differ in
subject, id, time and proof alone, and are written into the text of that one. The recorder decides every other
statement, and would decide these alike.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from operator import attrgetter
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from common import version
from common.contracts.consent import Cause, ConsentStateChanged
from common.sms.subject_id import InnerId
from consent.ledger import chain, retention
from consent.ledger import rules as ledger
from consent.ledger.chain import GENESIS, PERSONAL, instant
from consent.ledger.retention import LONGEST, Rule, Rules
from consent.ledger.rules import NEVER_SEEN, Decision, Evidence, Mark, SubjectState, Verdict
from consent.ledger.statement import Recorded, Registered, Statement, controlled

# Columns of the lines of `Written`, in their order; a column that is not named is null.
ENTRY = (
    *("kind", "sender_id", "purpose", "basis", "source", "controller", "reopening_rule", "received_at", "recorded_at"),
    *("position", "form_id", "form_version", "text_shown", "actor", "sale_reference"),
    *("evidence_id", "occurred_at", "subject_id", "salt", "sealed", "hash"),
)
SUBJECT = ("version", "entries", "held_since", "erased_at", "updated_at", "subject_id", "number", "head", "state")
TERM = ("subject_id", "sender_id", "purpose", "last_contact", "expires_at", "ask_at", "due_at")

PROOF = ("form_id", "form_version", "text_shown", "actor", "sale_reference")
NULL = "\\N"
WHOLE_SECOND, MICROSECOND = len('"2026-03-02T13:05:00Z"'), len('"2026-03-02T13:05:00.000000Z"')
_AT, _END = datetime(1, 1, 1, microsecond=1, tzinfo=UTC), datetime(1, 1, 1, microsecond=2, tzinfo=UTC)

_json = msgspec.json.Encoder()
_group_of: Callable[[Evidence], tuple[object, ...]] = attrgetter(
    "sender_id", "purpose", "basis", "source", "received_at"
)
_proof_of: Callable[[Evidence], tuple[str | None, ...]] = attrgetter(*PROOF)
_none_of: Callable[[Evidence], tuple[object, ...]] = attrgetter(
    "reference", "answers", "arrived_at", "clock", "controller", "reopening_rule"
)
_NONE = (None,) * 6


class Written(NamedTuple):
    """First consents as lines of COPY (ENTRY, SUBJECT, TERM) and encoded events, in the order of the statements."""

    results: list[Recorded]
    subjects: dict[str, str]  # by subject_id
    entries: list[str]
    terms: list[str]
    keys: list[bytes]
    events: list[bytes]


NOTHING = Written([], {}, [], [], [], [])


def candidates(statements: Mapping[int, Statement]) -> dict[int, Statement]:
    """Return the opt-ins that are the only statement about their subject, by place.

    The caller has refused what is to be refused. With an id that a text would have to escape, the recorder decides all.
    """
    alone = Counter(s.subject_id for s in statements.values())
    once = Counter(s.evidence.evidence_id for s in statements.values())
    found = {
        place: s
        for place, s in statements.items()
        if s.evidence.kind == "opt_in"
        and alone[s.subject_id] == 1
        and once[s.evidence.evidence_id] == 1
        and _none_of(s.evidence) == _NONE
        and not (s.erases or s.to_review or s.trace)
    }
    names = "".join([f"{s.subject_id}{s.evidence.evidence_id}{s.number}" for s in found.values()])
    plain = names.isascii() and names.isprintable() and '"' not in names and "\\" not in names
    return found if plain else {}


def written(
    statements: Sequence[Statement],
    inner: Callable[[str], InnerId],
    salts: str,
    registered: Mapping[str, Registered],
    rules: Rules,
    now: datetime,
) -> Written:
    """Return the first consents of new subjects, of `candidates`. `salts`: hexadecimal digits, for each its own."""
    out = Written([], {}, [], [], [], [])
    groups: dict[tuple[object, ...], _Group] = {}
    proofs: dict[tuple[str | None, ...], _Proof] = {}
    count = version.following(0, now)
    salt_chars = 2 * chain.SALT_BYTES
    for place, statement in enumerate(statements):
        evidence, subject_id = statement.evidence, statement.subject_id
        evidence_id = evidence.evidence_id
        group = groups.get(key := _group_of(evidence))
        if group is None:
            group = groups[key] = _group(controlled(evidence, registered), rules, now, count, salts[:salt_chars])
        proof = proofs.get(said := _proof_of(evidence))
        if proof is None:
            proof = proofs[said] = _proof(evidence)
        times = group.times.get(evidence.occurred_at)
        if times is None:
            times = group.times[evidence.occurred_at] = group.times_of(evidence)
        salt = salts[place * salt_chars : (place + 1) * salt_chars]
        sealed = sha256(f"{salt}{proof.json}".encode()).hexdigest()
        l1, l2, l3, l4, l5 = group.link
        linked = f"{GENESIS}{l1}{evidence_id}{l2}{times.occurred}{l3}{sealed}{l4}{inner(subject_id)}{l5}"
        head = sha256(linked.encode()).hexdigest()
        out.entries.append(
            f"{group.entry}{proof.entry}{evidence_id}\t{times.occurred}\t{subject_id}\t{salt}\t{sealed}\t{head}\n"
        )
        s1, s2, s3 = group.state
        number = NULL if statement.number is None else statement.number
        out.subjects[subject_id] = (
            f"{group.subject}{subject_id}\t{number}\t{head}\t{s1}{times.at_json}{s2}{evidence_id}{s3}\n"
        )
        out.terms.append(f"{subject_id}\t{times.term}")
        e1, e2, e3, e4, e5, e6 = group.event
        out.keys.append(subject_id.encode())
        out.events.append(
            f"{e1}{subject_id}{e2}{times.at_json}{e3}{evidence_id}{e4}{times.end_json}{e5}{evidence_id}{e6}".encode()
        )
        state = SubjectState((replace(group.mark, at=times.at, evidence_id=evidence_id),))
        cause = replace(group.cause, evidence_id=evidence_id)
        decision = Decision(verdict=Verdict.RECORDED, state=state, cause=cause)
        out.results.append(Recorded(statement, decision, count))
    return out


class _Times(NamedTuple):
    """The texts of a line's time. `term`: the columns of TERM behind the subject."""

    at: datetime
    occurred: str
    at_json: str
    end_json: str
    term: str


@dataclass(frozen=True, slots=True)
class _Proof:
    """The texts of a line's PERSONAL fields."""

    json: str
    entry: str


@dataclass(frozen=True, slots=True)
class _Group:
    """The texts of a group, cut where its statements differ."""

    mark: Mark
    cause: Cause
    rule: Rule
    entry: str
    subject: str
    scope: str
    link: tuple[str, ...]
    state: tuple[str, ...]
    event: tuple[str, ...]
    times: dict[datetime, _Times] = field(default_factory=dict)

    def times_of(self, evidence: Evidence) -> _Times:
        occurred_at, at, sender_id, purpose = evidence.occurred_at, evidence.at, self.mark.sender_id, self.mark.purpose
        assert sender_id is not None, "an opt-in is some sender's"
        assert purpose is not None, "an opt-in is for a purpose"
        term = retention.term_since(at, sender_id, purpose, self.rule)
        at_json, end_json = _text(at), _text(term.expires_at)
        since, ends = at_json[1:-1], end_json[1:-1]
        asks = NULL if term.ask_at is None else _text(term.ask_at)[1:-1]
        occurred = _instant(occurred_at, at_json if at is occurred_at else _text(occurred_at))
        due = ends if term.ask_at is None else asks
        return _Times(at, occurred, at_json, end_json, f"{self.scope}{since}\t{ends}\t{asks}\t{due}\n")


def _instant(at: datetime, json: str) -> str:
    """Return `chain.instant` of a time with the JSON text `json`, in a tenth of the time for one in UTC."""
    if json.endswith('Z"'):
        if len(json) == WHOLE_SECOND:
            return f"{json[1:-2]}.000000Z"
        if len(json) == MICROSECOND:
            return json[1:-1]
    return instant(at)


def _group(first: Evidence, rules: Rules, now: datetime, count: int, drawn: str) -> _Group:
    """Return the texts of the group of `first`, with its controller, from the decision about `first`.

    `drawn`: random text, which no caller's words contain, for the places where the statements differ.
    """
    subject_id, evidence_id, occurred, sealed, inner = (f"{drawn}-{place}" for place in range(5))
    decision = ledger.decide(NEVER_SEEN, first, now)
    [mark], [consent], cause = decision.state.marks, ledger.consents(decision.state), decision.cause
    assert cause is not None, "an opt-in has a cause"
    assert consent.state == "opted_in", "nothing stands against a first consent"
    anyones = replace(first, evidence_id=evidence_id, occurred_at=_AT)
    line = chain.line(inner, 1, anyones, now, sealed) | {"occurred_at": occurred}
    state = SubjectState((replace(mark, at=_AT, evidence_id=evidence_id),))
    event = ConsentStateChanged(
        subject_id=subject_id,
        version=count,
        consents=(replace(consent, occurred_at=_AT, evidence_id=evidence_id, expires_at=_END),),
        suppressions=(),
        erased=False,
        causes=(replace(cause, evidence_id=evidence_id),),
    )
    columns = (first.kind, first.sender_id, first.purpose, first.basis, first.source, first.controller)
    fields = [*map(_field, (*columns, first.reopening_rule, instant(first.received_at), instant(now))), "1"]
    return _Group(
        mark=mark,
        cause=cause,
        rule=rules.get((consent.sender_id, consent.purpose), LONGEST),
        entry="\t".join(fields) + "\t",
        scope=f"{_field(consent.sender_id)}\t{_field(consent.purpose)}\t",
        subject=f"{count}\t1\t{NULL}\t{NULL}\t{instant(now)}\t",
        link=_cut(_text(line), evidence_id, occurred, sealed, inner),
        state=_cut(_field(_text(state)), _text(_AT), evidence_id),
        event=_cut(_text(event), subject_id, _text(_AT), evidence_id, _text(_END), evidence_id),
    )


def _proof(evidence: Evidence) -> _Proof:
    entry = "".join([f"{_field(getattr(evidence, name))}\t" for name in PROOF])
    return _Proof(_text({name: getattr(evidence, name) for name in PERSONAL}), entry)


def _text(value: object) -> str:
    return _json.encode(value).decode()


def _cut(text: str, *tokens: str) -> tuple[str, ...]:
    """Return the parts of `text` between the tokens, which stand in it in this order."""
    parts = []
    for token in tokens:
        before, found, text = text.partition(token)
        assert found, "the text has each token"
        parts.append(before)
    return (*parts, text)


def _field(value: str | None) -> str:
    """Return a field of a line of COPY's text format."""
    if value is None:
        return NULL
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
