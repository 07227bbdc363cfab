"""Record complete imports through the recorder, one piece per transaction.

The import firewall is the ledger's own order: by a line's time at source, so that an old opt-in never outvotes a newer
STOP, and lines may come in any order, twice, or after a crash. Without a reopening rule no line, however new, takes
back a STOP of the person's own (ADR-0064).
"""

import asyncio
import logging
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import Basis
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.service import Resources
from common.sms.msisdn import NumberRefused, applying, as_received, parse, readings
from common.telemetry import counter
from consent.bodies import EARLIEST
from consent.imports import files as import_files
from consent.imports import lines as import_lines
from consent.imports.files import WaitingPiece
from consent.imports.lines import Line, Unreadable
from consent.imports.upload import Verdict, sealing_context
from consent.ledger import recorder, reopening
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Recorded, Statement
from consent.ledger.rules import Evidence, Kind
from consent.ledger.rules import Verdict as Decided
from consent.senders import store as senders_store
from consent.senders.store import Purposes

log = logging.getLogger(__name__)

LINES = counter("sms_consent_import_lines_total", "Lines of imported files, by result.", ["verdict"])

LOOK_EVERY_S = 0.25
AT_ONCE = 3  # decide one while Postgres writes others
PUT_OFF = timedelta(seconds=10)
TIDY_EVERY_S = 600.0
ABANDONED_AFTER = timedelta(days=1)  # since the last bytes, which are personal data

STOPPED_BY_PERSON = "stopped_by_person"  # only the person takes the STOP back

Reasons = tuple[str, ...]


class _Shown(msgspec.Struct, frozen=True):
    """The evidence of a line without its own."""

    source: str
    form_id: str | None = None
    form_version: str | None = None
    text_shown: str | None = None
    actor: str | None = None
    sale_reference: str | None = None


class _Terms(msgspec.Struct, frozen=True):
    evidence: _Shown
    basis: Basis
    purpose: str | None = None
    occurred_at: datetime | None = None
    country: str | None = None


_terms = msgspec.json.Decoder(_Terms)


class Importing:
    """The workers. `backlog`: outbox rows beyond which no piece is recorded: a STOP would wait."""

    def __init__(self, held: Resources[Any], *, backlog: int) -> None:
        self._held = held
        self._backlog = backlog
        self._put_off: dict[str, datetime] = {}

    def workers(self) -> list[Worker]:
        database = self._held.database
        timers = (
            *(
                Timer(f"imports {n}", self.record_piece, LOOK_EVERY_S, database, outbox.RELAYED)
                for n in range(1, AT_ONCE + 1)
            ),
            Timer("abandoned imports", self.forget_abandoned, TIDY_EVERY_S, database),
        )
        return [Worker(timer.name, timer.run) for timer in timers]

    async def record_piece(self) -> bool:
        """Record the next waiting piece, if any."""
        async with self._piece() as (tx, piece):
            if piece is None or await outbox.backlog(tx) > self._backlog:
                return False
            now = datetime.now(UTC)
            sender_id = piece.file.sender_id
            purposes = await senders_store.purposes_of(tx, {sender_id} if sender_id else ())
            reading = _Reading(self._held, piece, purposes.get(sender_id or ""))
            read = await asyncio.to_thread(reading.lines)
            statements = [one for said in read.values() if isinstance(said, list) for one in said]
            out = await self._out_already(tx, reading, statements)
            await recorder.keep_listed(tx, [one for one in statements if one.evidence.evidence_id in out])
            told = [one for one in statements if one.evidence.evidence_id not in out]
            recorded = iter(await recorder.record(tx, told, now))
            verdicts: dict[int, tuple[Verdict, Reasons]] = {}
            for line, said in read.items():
                if isinstance(said, list):
                    each = [None if one.evidence.evidence_id in out else next(recorded) for one in said]
                    verdicts[line] = _verdict_of_all(each)
                else:
                    verdicts[line] = "refused", said
            counts: Counter[str] = Counter(verdict for verdict, _ in verdicts.values())
            reasons = Counter(reason for _, why in verdicts.values() for reason in why)
            table = "".join(f"{line},{verdict},{' '.join(why)}\n" for line, (verdict, why) in verdicts.items())
            await import_files.settle(tx, piece, counts, reasons, zlib.compress(table.encode(), 1), now)
        for verdict, lines in counts.items():
            LINES.labels(verdict).inc(lines)
        return True

    @asynccontextmanager
    async def _piece(self) -> AsyncIterator[tuple[AsyncConnection, WaitingPiece | None]]:
        """Lock the next waiting piece. A failure puts off its import, which would block all others."""
        piece = None
        try:
            async with self._held.database.begin() as tx:
                now = datetime.now(UTC)
                self._put_off = {import_id: until for import_id, until in self._put_off.items() if now < until}
                piece = await import_files.lock_waiting(tx, self._put_off)
                yield tx, piece
        except Exception:
            if piece is not None:
                self._put_off[piece.file.import_id] = datetime.now(UTC) + PUT_OFF
            raise

    async def _out_already(
        self, tx: AsyncConnection, reading: "_Reading", statements: Sequence[Statement]
    ) -> frozenset[str]:
        """Return the evidence ids from an undated list for people already opted out of the named scope (ADR-0057).

        The lock waits for an opt-in in progress; a new subject's row comes first, as everywhere.
        """
        if not reading.undated:
            return frozenset()
        subjects = await ledger_store.lock_subjects(tx, dict.fromkeys(s.subject_id for s in statements))
        senders = {said.evidence.sender_id for said in statements if said.evidence.sender_id is not None}
        known = await ledger_store.known(tx, senders=senders)
        return frozenset(
            said.evidence.evidence_id
            for said in statements
            if ledger.is_out(subjects[said.subject_id].state, recorder.controlled(said.evidence, known.senders))
        )

    async def forget_abandoned(self) -> bool:
        """Delete abandoned uploads."""
        async with self._held.database.begin() as tx:
            forgotten = await import_files.forget_abandoned(tx, datetime.now(UTC) - ABANDONED_AFTER)
        if forgotten:
            log.info("abandoned uploads are forgotten", extra={"uploads": forgotten})
        return False


class _Reading:
    """The lines of a piece on their way to statements; computation for a thread."""

    def __init__(self, held: Resources[Any], piece: WaitingPiece, purposes: Purposes | None) -> None:
        self._held = held
        self._piece = piece
        self._file = piece.file
        self._terms = _terms.decode(piece.file.terms)
        self._purposes = purposes
        self._lists = piece.file.kind == "suppressions"
        theirs = purposes.countries if purposes else ()
        self._countries = applying(self._terms.country, theirs, held.settings.country)
        self._default_at = self._terms.occurred_at or piece.file.created_at

    @property
    def undated(self) -> bool:
        """Return whether the file is a suppression list without a date."""
        return self._lists and self._terms.occurred_at is None

    def lines(self) -> dict[int, list[Statement] | Reasons]:
        """Return, by line, a statement for each number meant, or the refusal reasons."""
        context = sealing_context(self._file.import_id, str(self._piece.position))
        body = self._held.field_keys.unseal_bytes(self._piece.body, context)
        read = import_lines.read(body, import_files.layout(self._file), self._piece.first_line)
        return {
            number: (line.reason,) if isinstance(line, Unreadable) else self._statements(line) for number, line in read
        }

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
            return (*reasons, *ledger.refusals(said[0][2], self._piece.received_at))
        return [Statement(who, self._sealed(who, number), evidence) for who, number, evidence in said]

    def _sealed(self, subject_id: str, number: str | None) -> str | None:
        """Return the encrypted number. A suppression list keeps the keyed hash alone."""
        return None if self._lists or not number else self._held.field_keys.seal(number, f"number:{subject_id}")

    def _evidence(self, line: Line, subject_id: str, kind: Kind, purpose: str | None, at: datetime) -> Evidence:
        terms, shown = self._terms, self._terms.evidence
        said_at = at if kind == "opt_in" else min(at, self._piece.received_at)  # at most its arrival
        form = line if line.form_id or line.form_version or line.text_shown else shown  # one form, not half of each
        return Evidence(
            evidence_id=evidence_id(
                "content", subject_id, self._file.sender_id, purpose, kind, said_at.isoformat(), shown.source
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
            received_at=self._piece.received_at,
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
        countries = applying(line.country, self._countries)
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
            return who if self._held.subject_keys.is_subject_id(who) else None
        return self._held.edge_ids.of(self._purposes.controller).inner(who) if self._purposes else None

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


def _verdict_of_all(results: Sequence[Recorded | None]) -> tuple[Verdict, Reasons]:
    """Return the verdict of a line with two readings: `created` if either is."""
    verdicts = [_verdict(result) for result in results]
    return next((each for each in verdicts if each[0] == "created"), verdicts[0])


def _verdict(result: Recorded | None) -> tuple[Verdict, Reasons]:
    """Return a statement's verdict. `None`: the person is already opted out."""
    if result is None:
        return "unchanged", ()
    decided, evidence = result.decision, result.statement.evidence
    if decided.verdict is Decided.REFUSED:
        return "refused", decided.refusals
    # before the verdict: with a sister's STOP, an opt-in without effect makes the purpose known, which is a change
    if evidence.kind == "opt_in" and ledger.standing(decided.state, evidence.sender_id, evidence.purpose) != "opted_in":
        return "outvoted", (STOPPED_BY_PERSON,) if reopening.held_by(decided.state, evidence) else ()
    return "created" if decided.verdict is Decided.RECORDED else "unchanged", ()
