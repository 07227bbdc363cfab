"""Turn the lines of an import into statements to record, or into reasons to refuse. Computation for a thread."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from common.contracts.consent import Basis
from common.files.instants import Order
from common.service import Resources
from common.sms.msisdn import NumberRefused, applying, as_received, parse, readings
from consent.bodies import EARLIEST
from consent.imports import lines
from consent.imports.files import ImportFile
from consent.imports.lines import Dates, Layout, Line, Unreadable
from consent.ledger import rules as ledger
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence, Kind
from consent.senders.store import Purposes

Reasons = tuple[str, ...]


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

    @property
    def undated(self) -> bool:
        """Return whether the file is a suppression list without a date."""
        return self._lists and self._terms.occurred_at is None

    def of(self, body: bytes, layout: Layout, first_line: int) -> dict[int, list[Statement] | Reasons]:
        """Return, by line of a piece, a statement for each number meant, or the refusal reasons."""
        return {number: self.said_by(line) for number, line in self.lines(body, layout, first_line)}

    def lines(self, body: bytes, layout: Layout, first_line: int) -> Iterator[tuple[int, Line | Unreadable]]:
        return lines.read(body, layout, first_line, kind_of(self._file), self._terms.dates)

    def said_by(self, line: Line | Unreadable) -> list[Statement] | Reasons:
        """Return a statement for each number that the line means, or the refusal reasons."""
        return (line.reason,) if isinstance(line, Unreadable) else self._statements(line)

    def _statements(self, line: Line) -> list[Statement] | Reasons:
        opening = not self._lists and line.kind != "opt_out"
        reasons: list[str] = []
        subjects = self._subjects(line, opening, reasons)
        at = self._at(line, opening, reasons)
        purpose = line.purpose or (self._terms.purpose if opening or self._lists else None)
        if self._lists and line.kind == "opt_in":
            reasons.append("kind_not_valid")
        if purpose is not None and not self._asked(purpose, opening):
            reasons.append("unknown_purpose")
        kind: Kind = "opt_in" if opening else "opt_out"
        said = [(who, number, self._evidence(line, who, kind, purpose, at)) for who, number in subjects]
        if reasons:
            return (*reasons, *ledger.refusals(said[0][2], self._received_at))
        return [Statement(who, self._sealed(who, number), evidence) for who, number, evidence in said]

    def _sealed(self, subject_id: str, number: str | None) -> str | None:
        """Return the encrypted number. A suppression list keeps the keyed hash alone."""
        return None if self._lists or not number else self._held.field_keys.seal(number, f"number:{subject_id}")

    def _evidence(self, line: Line, subject_id: str, kind: Kind, purpose: str | None, at: datetime) -> Evidence:
        terms, shown = self._terms, self._terms.evidence
        keys = self._held.subject_keys
        inner = keys.inner(subject_id) if keys.knows(subject_id) else subject_id  # of a line that is refused
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

    def _subjects(self, line: Line, opening: bool, reasons: list[str]) -> Sequence[tuple[str, str | None]]:
        """Return (subject_id, number) of each person meant: an opt-out covers both readings."""
        keys = self._held.subject_keys
        if line.subject_id is not None:
            subject_id = self._subject(line.subject_id)
            if not self._lists or line.number is not None or subject_id is None:
                reasons.append("subject_id_not_valid")
            return [(subject_id or line.subject_id, None)]
        raw, fictional = line.number or "", self._held.settings.fictional_numbers
        countries = applying(line.country, self.countries)
        try:
            if opening:
                numbers: Sequence[str] = (parse(raw, countries=countries, fictional=fictional).e164,)
            else:
                numbers = readings(raw, countries=countries, fictional=fictional)
        except NumberRefused as refused:
            numbers = (as_received(raw, country=countries[0]),)
            reasons.append(refused.reason)
        return [(keys.subject_id(number), number) for number in numbers]

    def _subject(self, who: str) -> str | None:
        """Return the subject id of a person named by the id with the sender's controller. `None`: not such an id.

        A list for every sender names people by the platform's own ids.
        """
        if self._file.sender_id is None:
            keys = self._held.subject_keys
            return keys.current(who) if keys.knows(who) else None
        return self._held.edge_ids.of(self._purposes.controller).subject_id(who) if self._purposes else None

    def _at(self, line: Line, opening: bool, reasons: list[str]) -> datetime:
        """Return the line's time, in UTC so that two spellings make one evidence."""
        if line.occurred_at is None:
            if opening:
                reasons.append("occurred_at_missing")
            return self._default_at
        try:
            at = line.occurred_at.astimezone(UTC)
        except OverflowError:
            at = EARLIEST - timedelta(days=1)
        if at < EARLIEST:
            reasons.append("occurred_at_not_valid")
        return at
