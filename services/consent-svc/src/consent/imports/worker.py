"""Record complete imports through the recorder, one piece per transaction, or per transaction of each shard.

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

from common.db.database import once_committed
from common.db.notify import Listener
from common.db.shards import Shard
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.kafka.relayed import RELAYED
from common.service import Resources
from common.telemetry import counter
from consent.imports import files as import_files
from consent.imports.files import WaitingPiece
from consent.imports.parting import Verdicts, parted, together, unsaid, written
from consent.imports.parting import read as read_verdicts
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
        self._held_up: dict[str, Shard] = {}  # an import, by the other shard whose outbox is full
        self._met_people: dict[str, bool] = {}  # on record, by the last piece: so the next piece looks for people first
        self._relayed = asyncio.Event()  # one for each word of the relay

    def workers(self) -> list[Worker]:
        """Return the workers, in the shard that has the files."""
        if self._held.shards.own is not self._held.shards.first:
            return []
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
        """Record the next waiting piece; return False where others hold all of them, or an outbox is full.

        An import waits for a full outbox of another shard, and the next imports go on.
        """
        await self._look_at_the_full()
        async with self._piece() as (tx, piece):
            if piece is None or await outbox.backlog_of_events(tx) > self._backlog:
                return False
            now = datetime.now(UTC)
            sender_id = piece.file.sender_id
            purposes = await senders_store.purposes_of(tx, {sender_id} if sender_id else ())
            context = sealing_context(piece.file.import_id, str(piece.position))
            reading = Statements(self._held, piece.file, purposes.get(sender_id or ""), piece.received_at)
            read = await asyncio.to_thread(self._read, reading, piece, context)
            parts: list[tuple[Said, Verdicts]] = []
            for shard, part in parted(read, self._held.shards, self._held.settings.partitions):
                if shard is self._held.shards.own:
                    parts.append((part, await self._record(tx, shard, reading, part, now)))
                elif (share := await self._share(shard, piece, reading, part, now)) is not None:
                    parts.append((part, share))
                else:
                    self._held_up[piece.file.import_id] = shard
                    return False
            verdicts = parts[0][1] if len(parts) == 1 else together(read, parts)
            counts: Counter[str] = Counter(verdict for verdict, _ in verdicts.values())
            reasons = Counter(reason for _, why in verdicts.values() for reason in why)
            await import_files.settle(tx, piece, counts, reasons, zlib.compress(written(verdicts), 1), now)
        for verdict, lines in counts.items():
            LINES.labels(verdict).inc(lines)
        return True

    async def _record(
        self, tx: AsyncConnection, shard: Shard, reading: Statements, said: Said, now: datetime
    ) -> Verdicts:
        """Record what is said of the people of a shard, in a transaction there."""
        statements = [one for each in said.lines.values() if isinstance(each, list) for one in each]
        out = await self._out_already(tx, reading, statements)
        await recorder.keep_listed(tx, [one for one in statements if one.evidence.evidence_id in out])
        told = [one for one in statements if one.evidence.evidence_id not in out]
        alike, partitions = [column.opt_ins for column in said.columns], self._held.settings.partitions
        look = self._met_people.get(shard.name, True)
        outcome = await recorder.record_alike(tx, reading.inner, alike, told, now, partitions, look=look)
        once_committed(tx, lambda: self._met_people.update({shard.name: outcome.met}))
        return _verdicts(said, out, outcome)

    async def _share(
        self, shard: Shard, piece: WaitingPiece, reading: Statements, said: Said, now: datetime
    ) -> Verdicts | None:
        """Record the lines of another shard's people, before the piece is settled here.

        Returns None while the outbox there is full. The shard keeps the verdicts with the lines: after a crash before
        the settling the lines would be no news, and the counts would be of the repeat. A line that was refused, or of
        another shard, may be of this shard by now: its sender has changed.
        """
        async with shard.database.begin() as tx:
            if await outbox.backlog_of_events(tx) > self._backlog:
                return None
            kept = await import_files.claim_share(tx, piece, now)
            before = read_verdicts(zlib.decompress(kept)) if kept is not None else {}
            left = unsaid(said, before)
            if not left.columns and not left.lines:
                return before
            verdicts = dict(sorted({**await self._record(tx, shard, reading, left, now), **before}.items()))
            await import_files.keep_share(tx, piece, zlib.compress(written(verdicts), 1))
        return verdicts

    async def _look_at_the_full(self) -> None:
        """Release the imports of a shard whose outbox is no longer full. Until then no piece of theirs is read."""
        for shard in {shard.name: shard for shard in self._held_up.values()}.values():
            try:
                async with shard.database.begin() as tx:
                    is_full = await outbox.backlog_of_events(tx) > self._backlog
            except Exception as error:  # the recording of a piece fails too, and puts its import off
                log.warning("a shard does not answer", extra={"shard": shard.name, "why": type(error).__name__})
                is_full = False
            if not is_full:
                self._held_up = {each: of for each, of in self._held_up.items() if of is not shard}

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
                piece = await import_files.lock_waiting(tx, {*self._put_off, *self._held_up})
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


def _verdicts(read: Said, out: Container[str], outcome: Outcome) -> Verdicts:
    """Return the verdicts by line, in order. `out`: the evidence about people already opted out."""
    verdicts: Verdicts = {}
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
