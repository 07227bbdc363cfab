"""Turn the lines of an import into statements to record, or into reasons to refuse. Computation for a thread."""

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import not_
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from common.contracts.consent import Basis
from common.files.instants import Order
from common.service import Resources
from common.sms.msisdn import NumberRefused, applying, as_received, metropolitan, parse, readings
from common.sms.subject_id import InnerId
from consent.bodies import EARLIEST
from consent.imports import lines
from consent.imports.files import ImportFile
from consent.imports.lines import Dates, Layout, Line, Unreadable
from consent.ledger import rules as ledger
from consent.ledger.chain import evidence_id, evidence_ids
from consent.ledger.recorder import Alike, Statement
from consent.ledger.rules import Evidence, Kind
from consent.senders.store import Purposes

Reasons = tuple[str, ...]
_Said = tuple[str, str | None, Evidence]  # of a person: the subject_id, the number and the evidence


class _Shown(msgspec.Struct, frozen=True):
    """The evidence of a line without its own."""

    source: str
    form_id: str | None = None
    form_version: str | None = None
    text_shown: str | None = None
    actor: str | None = None
    sale_reference: str | None = None


class Asked(msgspec.Struct, frozen=True):
    """The terms of an import, as its opening stored them."""

    evidence: _Shown
    basis: Basis
    purpose: str | None = None
    occurred_at: datetime | None = None
    time_zone: str | None = None
    date_order: Order | None = None
    other_columns: Literal["refuse", "ignore"] = "refuse"
    country: str | None = None

    @property
    def dates(self) -> Dates:
        """Return how local dates are to be read."""
        return Dates(ZoneInfo(self.time_zone) if self.time_zone else None, self.date_order)


_asked = msgspec.json.Decoder(Asked)


def asked(file: ImportFile) -> Asked:
    return _asked.decode(file.terms)


def kind_of(file: ImportFile) -> lines.Kind:
    return "suppressions" if file.kind == "suppressions" else "consents"


class _Draft(msgspec.Struct, frozen=True, gc=False):
    """A line read. `people`: each by the subject_id that the line names, or by a number."""

    line: Line
    kind: Kind
    people: Sequence[tuple[str | None, str | None]]
    purpose: str | None
    at: datetime
    reasons: list[str]


@dataclass(frozen=True, slots=True)
class Column:
    """The opt-ins of lines that are alike, each at the place of its line."""

    read: lines.Alike
    opt_ins: Alike

    def parted(self, people: Container[str]) -> tuple["Column", "Column"]:
        """Return (the lines of all but these people, the lines of these)."""
        chosen = [subject_id not in people for subject_id in self.opt_ins.subjects]
        others = [not each for each in chosen]
        return (
            Column(self.read.where(chosen), self.opt_ins.where(chosen)),
            Column(self.read.where(others), self.opt_ins.where(others)),
        )


class Said(NamedTuple):
    """The statements of a piece. `columns`: opt-ins of people whom a single line of the piece names.

    `lines`: of each other line, a statement for each number meant, or the refusal reasons.
    """

    columns: Sequence[Column]
    lines: Mapping[int, list[Statement] | Reasons]

    @property
    def people(self) -> list[str]:
        """Return the people named, a person of two lines twice."""
        people = [subject_id for column in self.columns for subject_id in column.opt_ins.subjects]
        return people + [one.subject_id for each in self.lines.values() if isinstance(each, list) for one in each]


class Statements:
    """The lines of a file on their way to statements."""

    def __init__(
        self, held: Resources[Any], file: ImportFile, purposes: Purposes | None, received_at: datetime
    ) -> None:
        self._held = held
        self._file = file
        self._terms = asked(file)
        self._purposes = purposes
        self._received_at = received_at
        self._lists = file.kind == "suppressions"
        theirs = purposes.countries if purposes else ()
        self.countries = applying(self._terms.country, theirs, held.settings.country)
        self._default_at = self._terms.occurred_at or file.created_at
        self._inner: dict[str, InnerId] = {}

    @property
    def undated(self) -> bool:
        """Return whether the file is a suppression list without a date."""
        return self._lists and self._terms.occurred_at is None

    def of(self, body: bytes, layout: Layout, first_line: int) -> Said:
        """Return the statements of a piece, the same in columns as by line."""
        self._inner = {}
        read = lines.read_columns(body, layout, first_line, kind_of(self._file), self._terms.dates)
        others = [*read.others]
        columns: list[Column] = []
        for alike in read.columns:
            column, left = self._column(alike)
            columns += [column] if column is not None else []
            others += left.lines()
        said = self._by_line(others)
        people = Said(columns, said).people
        if len({*people}) < len(people):
            twice = {who for who, many in Counter(people).items() if many > 1}
            parted = [column.parted(twice) for column in columns]
            columns = [column for column, _ in parted]
            said |= self._by_line([line for _, left in parted for line in left.read.lines()])
        return Said(columns, dict(sorted(said.items())))

    def _by_line(self, read: Sequence[tuple[int, Line | Unreadable]]) -> dict[int, list[Statement] | Reasons]:
        return dict(zip([number for number, _ in read], self._said_by([line for _, line in read]), strict=True))

    def _column(self, alike: lines.Alike) -> tuple[Column | None, lines.Alike]:
        """Return a column of the opt-ins among lines that are alike, and the lines that need a look of their own."""
        line = alike.line
        if self._lists or line.kind == "opt_out" or line.subject_id is not None or line.country is not None:
            return None, alike
        numbers = [metropolitan(raw, self.countries) or self._parsed(raw) for raw in alike.numbers]
        utc = {at: self._usual(at) for at in {*alike.times}}
        said = [
            (number, at) if number is not None and (at := utc[occurred_at]) is not None else None
            for number, occurred_at in zip(numbers, alike.times, strict=True)
        ]
        chosen = [each is not None for each in said]
        taken = alike.where(chosen)
        evidence = self._shared(taken) if len(taken.starts) >= lines.FEW else None
        if evidence is None:
            return None, alike
        opt_ins = self._opt_ins(evidence, [each for each in said if each is not None])
        return Column(taken, opt_ins), alike.where([*map(not_, chosen)])

    def _parsed(self, raw: str) -> str | None:
        """Return the number of an opt-in; `None` if the number is to be refused."""
        try:
            return parse(raw, countries=self.countries, fictional=self._held.settings.fictional_numbers).e164
        except NumberRefused:
            return None

    def _usual(self, occurred_at: datetime) -> datetime | None:
        """Return a line's time in UTC; `None` if the time is to be refused, or is later than the arrival."""
        reasons: list[str] = []
        at = self._at(occurred_at, True, reasons)
        return None if reasons or at > self._received_at else at

    def _shared(self, taken: lines.Alike) -> Evidence | None:
        """Return the evidence of a line; `None` if the lines are to be refused."""
        _, line = next(taken.lines())
        draft = self._draft(line)
        evidence = self._evidence(draft, "")
        return None if draft.reasons or any(ledger.refusals(evidence, self._received_at)) else evidence

    def _opt_ins(self, evidence: Evidence, said: Sequence[tuple[str, datetime]]) -> Alike:
        """Return these opt-ins with ids and encrypted numbers, as `_said` and `_sealed` make for a line."""
        numbers, times = [number for number, _ in said], [at for _, at in said]
        both = self._held.subject_keys.both_ids(numbers)
        self._inner.update(both)
        inners = [inner for _, inner in both]
        written = {at: at.isoformat() for at in {*times}}
        scope, source = (evidence.sender_id, evidence.purpose, evidence.kind), evidence.source
        named = zip(inners, times, strict=True)
        ids = evidence_ids(("content", inner, *scope, written[at], source) for inner, at in named)
        sealed = self._held.field_keys.seal_numbers([*zip(numbers, inners, strict=True)])
        return Alike(evidence, [subject_id for subject_id, _ in both], inners, sealed, ids, times)

    def lines(self, body: bytes, layout: Layout, first_line: int) -> Iterator[tuple[int, Line | Unreadable]]:
        return lines.read(body, layout, first_line, kind_of(self._file), self._terms.dates)

    def inner(self, subject_id: str) -> InnerId:
        """Return the inner id; of a person of these lines without decrypting the id a second time."""
        found = self._inner.get(subject_id)
        if found is None:
            found = self._inner[subject_id] = self._held.subject_keys.inner(subject_id)
        return found

    def said_by(self, read: Sequence[Line | Unreadable]) -> list[list[Statement] | Reasons]:
        """Return, for each line, a statement for each number that the line means, or the refusal reasons.

        Ids and encrypted numbers are made for all lines at once.
        """
        self._inner = {}
        return self._said_by(read)

    def _said_by(self, read: Sequence[Line | Unreadable]) -> list[list[Statement] | Reasons]:
        drafts = [(line.reason,) if isinstance(line, Unreadable) else self._draft(line) for line in read]
        of_lines = [each.people for each in drafts if isinstance(each, _Draft)]
        numbers = [number for people in of_lines for _, number in people if number is not None]
        both = self._held.subject_keys.both_ids(numbers)
        self._inner.update(both)
        ids = {number: subject_id for number, (subject_id, _) in zip(numbers, both, strict=True)}
        return self._sealed([self._said(each, ids) if isinstance(each, _Draft) else each for each in drafts])

    def _draft(self, line: Line) -> _Draft:
        opening = not self._lists and line.kind != "opt_out"
        reasons: list[str] = []
        people = self._people(line, opening, reasons)
        at = self._at(line.occurred_at, opening, reasons)
        purpose = line.purpose or (self._terms.purpose if opening or self._lists else None)
        if self._lists and line.kind == "opt_in":
            reasons.append("kind_not_valid")
        if purpose is not None and not self._asked(purpose, opening):
            reasons.append("unknown_purpose")
        return _Draft(line, "opt_in" if opening else "opt_out", people, purpose, at, reasons)

    def _said(self, draft: _Draft, ids: Mapping[str, str]) -> list[_Said] | Reasons:
        """Return what the line says of each person, or the refusal reasons."""
        said = []
        for named, number in draft.people:
            who = ids[number] if number is not None else named or ""
            known = number is not None or self._held.subject_keys.knows(who)
            inner = self.inner(who) if known else who  # of a line that is refused
            said.append((who, number, self._evidence(draft, inner)))
        if draft.reasons:
            return (*draft.reasons, *ledger.refusals(said[0][2], self._received_at))
        return said

    def _sealed(self, lines: Sequence[list[_Said] | Reasons]) -> list[list[Statement] | Reasons]:
        """Return the statements, each with its encrypted number. A suppression list keeps the keyed hash alone."""
        named = [
            (number, self._inner[who]) for said in lines if isinstance(said, list) for who, number, _ in said if number
        ]
        sealed = iter([None] * len(named) if self._lists else self._held.field_keys.seal_numbers(named))
        return [
            [Statement(who, next(sealed) if number else None, evidence) for who, number, evidence in said]
            if isinstance(said, list)
            else said
            for said in lines
        ]

    def _evidence(self, draft: _Draft, inner: str) -> Evidence:
        terms, shown = self._terms, self._terms.evidence
        line, kind, purpose, at = draft.line, draft.kind, draft.purpose, draft.at
        said_at = at if kind == "opt_in" else min(at, self._received_at)  # at most its arrival
        form = line if line.form_id or line.form_version or line.text_shown else shown  # one form, not half of each
        return Evidence(
            evidence_id=evidence_id(
                "content", inner, self._file.sender_id, purpose, kind, said_at.isoformat(), shown.source
            ),
            kind=kind,
            sender_id=self._file.sender_id,
            purpose=purpose,
            basis=(line.basis or terms.basis) if kind == "opt_in" else None,
            source=shown.source,
            form_id=form.form_id,
            form_version=form.form_version,
            text_shown=form.text_shown,
            actor=line.actor or shown.actor or self._file.created_by,
            sale_reference=line.sale_reference or shown.sale_reference,
            occurred_at=at,
            received_at=self._received_at,
        )

    def _asked(self, purpose: str, opening: bool) -> bool:
        """Return whether the purpose is on offer or, for an opt-out, ever was."""
        if self._purposes is None:
            return False
        return purpose in (self._purposes.offered if opening else self._purposes.ever)

    def _people(self, line: Line, opening: bool, reasons: list[str]) -> Sequence[tuple[str | None, str | None]]:
        """Return each person meant, by the subject_id that the line names or else by a number.

        An opt-out covers both readings of a number.
        """
        if line.subject_id is not None:
            subject_id = self._subject(line.subject_id)
            if not self._lists or line.number is not None or subject_id is None:
                reasons.append("subject_id_not_valid")
            return [(subject_id or line.subject_id, None)]
        raw = line.number or ""
        if line.country is None and (e164 := metropolitan(raw, self.countries)) is not None:
            return [(None, e164)]  # as by both readings below
        fictional = self._held.settings.fictional_numbers
        countries = applying(line.country, self.countries)
        try:
            if opening:
                numbers: Sequence[str] = (parse(raw, countries=countries, fictional=fictional).e164,)
            else:
                numbers = readings(raw, countries=countries, fictional=fictional)
        except NumberRefused as refused:
            numbers = (as_received(raw, country=countries[0]),)
            reasons.append(refused.reason)
        return [(None, number) for number in numbers]

    def _subject(self, who: str) -> str | None:
        """Return the subject id of a person named by the id with the sender's controller. `None`: not such an id.

        A list for every sender names people by the platform's own ids.
        """
        if self._file.sender_id is None:
            keys = self._held.subject_keys
            return keys.current(who) if keys.knows(who) else None
        return self._held.edge_ids.of(self._purposes.controller).subject_id(who) if self._purposes else None

    def _at(self, occurred_at: datetime | None, opening: bool, reasons: list[str]) -> datetime:
        """Return a line's time, in UTC so that two spellings make one evidence."""
        if occurred_at is None:
            if opening:
                reasons.append("occurred_at_missing")
            return self._default_at
        try:
            at = occurred_at.astimezone(UTC)
        except OverflowError:
            at = EARLIEST - timedelta(days=1)
        if at < EARLIEST:
            reasons.append("occurred_at_not_valid")
        return at
