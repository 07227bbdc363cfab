"""Record the lines of imports, batch by batch, with the progress in the same transaction.

The recording process holds the import's lock; after a crash the next continues behind the last recorded line.

An attempt is counted before its start: an attempt which kills its process counts too.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import asyncpg
import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import attributes
from campaign.audience import store as audience
from campaign.audience.contact_fields import LineProblem
from campaign.audience.contacts_file import Chunk, ReadAs, Reading, Refusal
from campaign.audience.store import ImportedRow
from campaign.imports import store
from campaign.senders import store as senders
from common.db.timer import Timer, Worker
from common.keyring import FieldKeys
from common.service import Resources
from common.sms.msisdn import applying
from common.telemetry import counter

log = logging.getLogger(__name__)

LINES = counter("sms_campaign_import_lines_total", "Lines of imported files, by result.", ["result"])

AT_ONCE = 20_000  # lines in one transaction
PIECE_WITHIN_S = 30.0
LOOK_EVERY_S = 2.0
MAX_ATTEMPTS = 8  # without progress: within nine minutes

_encode_lines = msgspec.json.Encoder().encode_lines


def worker(held: Resources[Any]) -> Worker:
    timer = Timer("imports", partial(go_on, held), LOOK_EVERY_S, held.database)
    return Worker(timer.name, timer.run)


async def go_on(held: Resources[Any]) -> bool:
    """Continue an interrupted import, or record an uploaded file; return whether an import waited."""
    async with held.database.begin() as claim:
        import_id = await store.claim_waiting(claim, datetime.now(UTC))
        if import_id is not None:
            await record(held, claim, import_id)
    return import_id is not None


async def record(held: Resources[Any], claim: AsyncConnection, import_id: str) -> None:
    """Record an import to its end, or give up after MAX_ATTEMPTS without progress.

    `claim`: the transaction with the import's lock.
    """
    async with held.database.begin() as tx:
        found = await store.lock_import(tx, import_id)
        if found is None or found["finished"]:
            return
        attempts = found["attempts"] + 1
        if attempts > MAX_ATTEMPTS:
            await store.give_up_import(tx, import_id, datetime.now(UTC))
            log.error("an import is given up", extra={"import_id": import_id, "line": found["line"]})
            return
        await store.put_attempt(tx, import_id, attempts, datetime.now(UTC) + pause(attempts))
        known = await attributes.kinds_of(tx, found["sender_id"])
        sender = await senders.find_sender(tx, found["sender_id"])
    body = pieces(claim, held.field_keys, import_id, found["pieces"])
    countries = applying(found["country"], sender.countries if sender else (), held.settings.country)
    read_as = ReadAs(**found["read_as"])
    reading = Reading(body, read_as, known, countries=countries, fictional=held.settings.fictional_numbers)
    steps = _sealed(held, reading.chunks(), found)
    step = await asyncio.to_thread(next, steps, None)
    while step is not None:
        ahead = asyncio.ensure_future(asyncio.to_thread(next, steps, None))
        try:
            try:
                await _keep(held, import_id, step)
            except asyncpg.UniqueViolationError:
                await _keep(held, import_id, step, met=True)
        finally:
            await asyncio.wait([ahead])
        step = await ahead
    async with held.database.begin() as tx:
        now = datetime.now(UTC)
        await attributes.learn(tx, found["sender_id"], reading.inferred, now)
        await store.finish_import(tx, import_id, asdict(reading.read_as), now)


def pause(attempts: int) -> timedelta:
    """Return the wait after attempts without progress; zero after the first, perhaps only interrupted."""
    return timedelta(seconds=2**attempts - 2)


def pieces(tx: AsyncConnection, field_keys: FieldKeys, import_id: str, many: int) -> Iterator[bytes]:
    """Return the pieces for a worker thread: each `next` blocks the thread, never the event loop."""
    loop = asyncio.get_running_loop()

    def opened(position: int) -> bytes:
        look = asyncio.run_coroutine_threadsafe(store.piece_of(tx, import_id, position), loop)
        return field_keys.unseal_bytes(look.result(PIECE_WITHIN_S), sealing_context(import_id, position))

    return map(opened, range(many))


def sealing_context(import_id: str, position: int) -> str:
    return f"import:{import_id}:{position}"


@dataclass
class _Step:
    """A batch behind the last recorded line.

    `rows`: accepted lines; `lines`: the same as `audience.copied` writes COPY lines.
    """

    last: int = 0
    rows: list[ImportedRow] = field(default_factory=list)
    lines: dict[str, str] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)

    def in_order(self) -> "_Step":
        """Sort by subject id: two writers of the same people wait in turn, without a deadlock."""
        self.lines = {subject_id: self.lines[subject_id] for subject_id in sorted(self.lines)}
        return self


def _sealed(held: Resources[Any], chunks: Iterator[Chunk], found: Mapping[str, Any]) -> Iterator[_Step]:
    """Yield batches, encrypted. Runs in a thread."""
    step = _Step()
    for chunk in chunks:
        lines, e164s, territories, attributes, refusals = chunk.behind(found["line"])
        ids = held.subject_keys.subject_ids(e164s)
        numbers = held.field_keys.seal_all(
            [(e164, f"number:{subject_id}") for e164, subject_id in zip(e164s, ids, strict=True)]
        )
        said = _encode_lines(attributes).decode().split("\n")[:-1]  # JSON lines contain no line end
        rows = list(zip(lines, ids, numbers, said, territories, strict=True))
        step.rows += rows
        step.lines |= audience.copied(found["sender_id"], rows, found["created_at"])
        step.refusals += refusals
        step.last = max([step.last, *lines[-1:], *(refusal.line for refusal in refusals[-1:])])
        if len(step.rows) + len(step.refusals) >= AT_ONCE:
            yield step.in_order()
            step = _Step()
    if step.last:
        yield step.in_order()


async def _keep(held: Resources[Any], import_id: str, step: _Step, *, met: bool = False) -> None:
    """Store a batch in a transaction.

    The row lock of the import is a write before reading erasures, as `common.privacy.erasing` demands. `met`: another
    transaction is adding some of these people, so COPY would fail.
    """
    async with held.database.begin() as tx:
        found = await store.lock_import(tx, import_id)
        assert found is not None, "an import that is being recorded is forgotten by nobody"
        erased = await audience.erased_among(tx, found["sender_id"], step.lines)
        refused = [(import_id, line, reason) for line, reason in step.refusals]
        lines = step.lines
        if erased:
            refused += [(import_id, row[0], LineProblem.ERASED.value) for row in step.rows if row[1] in erased]
            lines = {subject_id: line for subject_id, line in lines.items() if subject_id not in erased}
        sender_id, now = found["sender_id"], found["created_at"]
        new = set() if met else await audience.add_imported(tx, sender_id, lines)
        became = Counter(created=len(new), refused=len(refused))
        if len(new) < len(lines):
            others = {row[1]: row for row in step.rows if row[1] in lines and row[1] not in new}  # last of each
            became.update(await audience.put_imported(tx, sender_id, list(others.values()), now))
        became["duplicates"] += len(step.rows) + len(step.refusals) - len(refused) - len(lines)
        done = _added(found, step.last, became, Counter(reason for _, _, reason in refused))
        await store.put_recorded(tx, done, refused, datetime.now(UTC))
    for result, many in became.items():
        LINES.labels(result).inc(many)


def _added(found: Mapping[str, Any], last: int, became: Counter[str], reasons: Counter[str]) -> store.Recorded:
    return store.Recorded(
        import_id=found["import_id"],
        line=last,
        lines=found["lines"] + became.total(),
        created=found["created"] + became["created"],
        updated=found["updated"] + became["updated"],
        duplicates=found["duplicates"] + became["duplicates"],
        refused=found["refused"] + became["refused"],
        reasons=Counter(found["reasons"]) + reasons,
    )
