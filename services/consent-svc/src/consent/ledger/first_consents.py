"""Decide the first consents of new subjects in one pass. Pure: no clock, no I/O.

An opt-in that is the only statement about a new subject has one outcome, whoever the subject is. So the recorder's rule
decides one opt-in of each group with the same sender, purpose, basis, source and arrival; the others differ in subject,
id, time and proof alone, and are written into the text of that one, column by column. The recorder decides every other
statement, and would decide these alike.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from operator import attrgetter
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from common import version
from common.contracts.consent import Cause, ConsentStateChanged
from common.sms.subject_id import Inner
from consent.ledger import chain, retention
from consent.ledger import rules as ledger
from consent.ledger.chain import GENESIS, PERSONAL, instant
from consent.ledger.retention import LONGEST, Rule, Rules
from consent.ledger.rules import NEVER_SEEN, Decision, Evidence, Mark, SubjectState, Verdict
from consent.ledger.statement import Alike, Recorded, Registered, Statement, controlled

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
SALT_CHARS = 2 * chain.SALT_BYTES
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
    """First consents as lines of COPY (ENTRY, SUBJECT, TERM) and encoded events, in the order of the opt-ins."""

    subjects: dict[str, str]  # by subject_id
    entries: list[str]
    terms: list[str]
    keys: list[bytes]
    events: list[bytes]


NOTHING = Written({}, [], [], [], [])


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
    return found if _plain([f"{s.subject_id}{s.evidence.evidence_id}{s.number}" for s in found.values()]) else {}


def writable(alike: Alike) -> bool:
    """Return whether no id of these opt-ins is one that a text would have to escape."""
    return _plain([*alike.subjects, *alike.evidence_ids, *filter(None, alike.numbers)])


def _plain(names: Sequence[str]) -> bool:
    text = "".join(names)
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def grouped(statements: Iterable[Statement], inner: Inner) -> list[Alike]:
    """Return opt-ins of `candidates` as columns, those that differ in person, evidence id and time alone together."""
    groups: dict[tuple[object, ...], list[Statement]] = {}
    for statement in statements:
        groups.setdefault(_group_of(statement.evidence) + _proof_of(statement.evidence), []).append(statement)
    return [
        Alike(
            members[0].evidence,
            [s.subject_id for s in members],
            [inner(s.subject_id) for s in members],
            [s.number for s in members],
            [s.evidence.evidence_id for s in members],
            [s.evidence.occurred_at for s in members],
        )
        for members in groups.values()
    ]


class Deciding:
    """The first consents of a batch, decided and written by the group. `drawn`: random hexadecimal digits, a salt."""

    def __init__(self, registered: Mapping[str, Registered], rules: Rules, now: datetime, drawn: str) -> None:
        self._registered = registered
        self._rules = rules
        self._now = now
        self._drawn = drawn
        self._version = version.following(0, now)
        self._groups: dict[tuple[object, ...], _Group] = {}
        self._proofs: dict[tuple[str | None, ...], _Proof] = {}

    def recorded(self, statement: Statement) -> Recorded:
        """Return the outcome of an opt-in of `candidates` about a new subject."""
        evidence = statement.evidence
        group = self._group(evidence)
        state = SubjectState((replace(group.mark, at=evidence.at, evidence_id=evidence.evidence_id),))
        cause = replace(group.cause, evidence_id=evidence.evidence_id)
        return Recorded(statement, Decision(verdict=Verdict.RECORDED, state=state, cause=cause), self._version)

    def written(self, opt_ins: Iterable[Alike], salts: str) -> Written:
        """Return the first consents of new subjects. `salts`: hexadecimal digits, for each its own."""
        out = Written({}, [], [], [], [])
        for alike in opt_ins:
            before, many = len(out.entries), len(alike.subjects)
            of_each = range(before * SALT_CHARS, (before + many) * SALT_CHARS, SALT_CHARS)
            self._write(out, alike, [salts[at : at + SALT_CHARS] for at in of_each])
        return out

    def _write(self, out: Written, alike: Alike, salts: Sequence[str]) -> None:
        group, proof, times = self._group(alike.evidence), self._proof(alike.evidence), self._times(alike)
        named = list(zip(alike.subjects, alike.evidence_ids, times, strict=True))
        sealed = [sha256(f"{salt}{proof.json}".encode()).hexdigest() for salt in salts]
        l1, l2, l3, l4, l5 = group.link
        heads = [
            sha256(f"{GENESIS}{l1}{evidence_id}{l2}{at.occurred}{l3}{seal}{l4}{inner}{l5}".encode()).hexdigest()
            for (_, evidence_id, at), seal, inner in zip(named, sealed, alike.inners, strict=True)
        ]
        begins = f"{group.entry}{proof.entry}"
        out.entries.extend(
            f"{begins}{evidence_id}\t{at.occurred}\t{subject_id}\t{salt}\t{seal}\t{head}\n"
            for (subject_id, evidence_id, at), salt, seal, head in zip(named, salts, sealed, heads, strict=True)
        )
        begins, (s1, s2, s3) = group.subject, group.state
        numbers = [NULL if number is None else number for number in alike.numbers]
        out.subjects.update(
            (subject_id, f"{begins}{subject_id}\t{number}\t{head}\t{s1}{at.at_json}{s2}{evidence_id}{s3}\n")
            for (subject_id, evidence_id, at), number, head in zip(named, numbers, heads, strict=True)
        )
        out.terms.extend(f"{subject_id}\t{at.term}" for subject_id, _, at in named)
        out.keys.extend(subject_id.encode() for subject_id in alike.subjects)
        e1, e2, e3, e4, e5, e6 = group.event
        out.events.extend(
            f"{e1}{subject_id}{e2}{at.at_json}{e3}{evidence_id}{e4}{at.end_json}{e5}{evidence_id}{e6}".encode()
            for subject_id, evidence_id, at in named
        )

    def _times(self, alike: Alike) -> list["_Times"]:
        """Return the texts of each time."""
        group = self._group(alike.evidence)
        for occurred_at in {*alike.times} - group.times.keys():
            group.times[occurred_at] = group.times_of(replace(alike.evidence, occurred_at=occurred_at))
        return [group.times[occurred_at] for occurred_at in alike.times]

    def _group(self, evidence: Evidence) -> "_Group":
        group = self._groups.get(key := _group_of(evidence))
        if group is None:
            first = controlled(evidence, self._registered)
            group = self._groups[key] = _group(first, self._rules, self._now, self._version, self._drawn)
        return group

    def _proof(self, evidence: Evidence) -> "_Proof":
        proof = self._proofs.get(key := _proof_of(evidence))
        if proof is None:
            proof = self._proofs[key] = _proof(evidence)
        return proof


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
