"""Record complete imports through the recorder, one piece per transaction.

The import firewall is the ledger's own order: by a line's time at source, so that an old opt-in never outvotes a newer
STOP, and lines may come in any order, twice, or after a crash. Without a reopening rule no line, however new, takes
back a STOP of the person's own (ADR-0064).
"""

import asyncio
import contextlib
import logging
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Container, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.notify import Listener
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.kafka.relayed import RELAYED
from common.service import Resources
from common.telemetry import counter
from consent.imports import files as import_files
from consent.imports.files import WaitingPiece
from consent.imports.statements import Reasons, Said, Statements
from consent.imports.upload import Verdict, sealing_context
from consent.ledger import recorder, reopening
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.recorder import Outcome, Recorded, Statement
from consent.ledger.rules import Verdict as Decided
from consent.senders import store as senders_store

log = logging.getLogger(__name__)

LINES = counter("sms_consent_import_lines_total", "Lines of imported files, by result.", ["verdict"])

LOOK_EVERY_S = 0.25
IDLE_S = 5.0
RELAY_S = 0.05  # until another worker may have left a piece, or the relay's word was missed
AT_ONCE = 3  # decide one while Postgres writes others
PUT_OFF = timedelta(seconds=10)
TIDY_EVERY_S = 600.0
ABANDONED_AFTER = timedelta(days=1)  # since the last bytes, which are personal data

CREATED: tuple[Verdict, Reasons] = ("created", ())
STOPPED_BY_PERSON = "stopped_by_person"  # only the person takes the STOP back


class Importing:
    """The workers. `backlog`: waiting events beyond which no piece is recorded: a STOP would wait."""

    def __init__(self, held: Resources[Any], *, backlog: int) -> None:
        self._held = held
        self._backlog = backlog
        self._put_off: dict[str, datetime] = {}
        self._met_people = True  # on record, by the last piece: so the next piece looks for people first
        self._relayed = asyncio.Event()  # one for each word of the relay

    def workers(self) -> list[Worker]:
        database = self._held.database
        timers = (
            *(
                Timer(f"imports {n}", self.turn, LOOK_EVERY_S, database, import_files.COMPLETE, idle_s=IDLE_S)
                for n in range(1, AT_ONCE + 1)
            ),
            Timer("abandoned imports", self.forget_abandoned, TIDY_EVERY_S, database),
        )
        return [Worker("imports, relay", self._hear), *(Worker(timer.name, timer.run) for timer in timers)]

    async def _hear(self, stop: asyncio.Event) -> None:
        async with Listener(self._held.database, RELAYED, lambda _: self._told()):
            await stop.wait()

    def _told(self) -> None:
        self._relayed.set()
        self._relayed = asyncio.Event()

    async def turn(self) -> bool:
        """Record a piece; return whether any wait. Where others hold them all, or the outbox is full, pause first.

        The relay ends the pause of a full outbox.
        """
        relayed = self._relayed  # before the outbox is read
        if await self.record_piece():
            return True
        if not await self._held.database.read(import_files.WAITING):
            return False
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(relayed.wait(), RELAY_S)
        return True

    async def record_piece(self) -> bool:
        """Record the next waiting piece; return False where others hold all of them, or the outbox is full."""
        async with self._piece() as (tx, piece):
            if piece is None or await outbox.backlog_of_events(tx) > self._backlog:
                return False
            now = datetime.now(UTC)
            sender_id = piece.file.sender_id
            purposes = await senders_store.purposes_of(tx, {sender_id} if sender_id else ())
            context = sealing_context(piece.file.import_id, str(piece.position))
            reading = Statements(self._held, piece.file, purposes.get(sender_id or ""), piece.received_at)
            read = await asyncio.to_thread(self._read, reading, piece, context)
            statements = [one for said in read.lines.values() if isinstance(said, list) for one in said]
            out = await self._out_already(tx, reading, statements)
            await recorder.keep_listed(tx, [one for one in statements if one.evidence.evidence_id in out])
            told = [one for one in statements if one.evidence.evidence_id not in out]
            alike, partitions = [column.opt_ins for column in read.columns], self._held.settings.partitions
            outcome = await recorder.record_alike(
                tx, reading.inner, alike, told, now, partitions, look=self._met_people
            )
            verdicts = _verdicts(read, out, outcome)
            counts: Counter[str] = Counter(verdict for verdict, _ in verdicts.values())
            reasons = Counter(reason for _, why in verdicts.values() for reason in why)
            table = "".join([f"{line},{verdict},{' '.join(why)}\n" for line, (verdict, why) in verdicts.items()])
            await import_files.settle(tx, piece, counts, reasons, zlib.compress(table.encode(), 1), now)
        self._met_people = outcome.met
        for verdict, lines in counts.items():
            LINES.labels(verdict).inc(lines)
        return True

    def _read(self, reading: Statements, piece: WaitingPiece, context: str) -> Said:
        """Return the statements of a piece; computation for a thread."""
        body = self._held.field_keys.unseal_bytes(piece.body, context)
        return reading.of(body, import_files.layout(piece.file), piece.first_line)

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
        self, tx: AsyncConnection, reading: Statements, statements: Sequence[Statement]
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


def _verdicts(read: Said, out: Container[str], outcome: Outcome) -> dict[int, tuple[Verdict, Reasons]]:
    """Return the verdicts by line, in order. `out`: the evidence about people already opted out."""
    verdicts: dict[int, tuple[Verdict, Reasons]] = {}
    for column in read.columns:
        verdicts |= dict.fromkeys(column.read.starts, CREATED)
        known = zip(column.read.starts, column.opt_ins.subjects, strict=True) if outcome.of_alike else ()
        verdicts |= {line: _verdict(outcome.of_alike[who]) for line, who in known if who in outcome.of_alike}
    recorded = iter(outcome.results)
    for line, said in read.lines.items():
        if isinstance(said, list):
            each = [None if one.evidence.evidence_id in out else next(recorded) for one in said]
            verdicts[line] = _verdict_of_all(each)
        else:
            verdicts[line] = "refused", said
    return dict(sorted(verdicts.items()))


def _verdict_of_all(results: Sequence[Recorded | None]) -> tuple[Verdict, Reasons]:
    """Return the verdict of a line with two readings: `created` if either is."""
    if len(results) == 1:
        return _verdict(results[0])
    verdicts = [_verdict(result) for result in results]
    return next((each for each in verdicts if each[0] == "created"), verdicts[0])


def _verdict(result: Recorded | None) -> tuple[Verdict, Reasons]:
    """Return a statement's verdict. `None`: the person is already opted out."""
    if result is None:
        return "unchanged", ()
    decided, evidence = result.decision, result.statement.evidence
    if decided.verdict is Decided.RECORDED and evidence.kind == "opt_in" and len(decided.state.marks) == 1:
        return CREATED  # no other mark stands against the opt-in
    if decided.verdict is Decided.REFUSED:
        return "refused", decided.refusals
    # before the verdict: with a sister's STOP, an opt-in without effect makes the purpose known, which is a change
    if evidence.kind == "opt_in" and ledger.standing(decided.state, evidence.sender_id, evidence.purpose) != "opted_in":
        return "outvoted", (STOPPED_BY_PERSON,) if reopening.held_by(decided.state, evidence) else ()
    return "created" if decided.verdict is Decided.RECORDED else "unchanged", ()
