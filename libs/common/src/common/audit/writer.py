"""Write lines of calls ending together in one transaction.

A read, an export, a proof and a decision wait for the transaction (`keep`): no reader learns of a person without a
line. A refusal does not wait (`note`), so that refused calls cost no transaction each.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field

from common.audit import store
from common.audit.line import Line
from common.db.database import Database
from common.db.notify import either
from common.db.shards import Shard, Shards
from common.telemetry import counter

log = logging.getLogger(__name__)

AT_ONCE = 500  # lines of a transaction
MOST_NOTED = 10_000  # waiting; further refusals are counted alone
NOTED_EVERY_S = 1.0
WITHIN_S = 10.0

LOST = counter("sms_audit_lost_lines_total", "Refusals without a line in the audit log: too many waited.")


@dataclass(slots=True)
class AuditWriter:
    """The audit log of a process."""

    database: Database
    _kept: list[tuple[Line, asyncio.Future[None]]] = field(default_factory=list)
    _noted: list[Line] = field(default_factory=list)
    _writing: asyncio.Task[None] | None = None

    async def keep(self, line: Line) -> None:
        """Return once the line is committed. Raises the error of its transaction."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kept.append((line, done))
        if self._writing is None or self._writing.done():
            # in a context of its own: the lines of several calls share a transaction, which is none of theirs
            self._writing = asyncio.create_task(self._write(), context=Context())
        await done

    def note(self, line: Line) -> None:
        """Write the line soon."""
        if len(self._noted) < MOST_NOTED:
            self._noted.append(line)
        else:
            LOST.inc()

    async def run(self, stop: asyncio.Event) -> None:
        """Write noted lines until the event is set, then the last of them."""
        while not stop.is_set():
            await either(stop, None, NOTED_EVERY_S)
            with contextlib.suppress(Exception):  # logged; the lines stay, for the next round
                await self._write_noted()

    async def close(self) -> None:
        """Write the lines left."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        with contextlib.suppress(Exception):
            await self._write_noted()

    async def _write(self) -> None:
        while self._kept:
            group, self._kept = self._kept[:AT_ONCE], self._kept[AT_ONCE:]
            try:
                await self._append([line for line, _ in group])
            except BaseException as error:
                for _, done in group:
                    if not done.done():
                        done.set_exception(error if isinstance(error, Exception) else ConnectionAbortedError())
                if not isinstance(error, Exception):
                    raise
            for _, done in group:
                if not done.done():
                    done.set_result(None)

    async def _write_noted(self) -> None:
        while self._noted:
            group = self._noted[:AT_ONCE]
            try:
                await self._append(group)
            except Exception as error:
                log.warning("the audit log cannot be written: trying again", extra={"why": type(error).__name__})
                raise
            del self._noted[: len(group)]

    async def _append(self, lines: list[Line]) -> None:
        async with asyncio.timeout(WITHIN_S), self.database.begin() as tx:
            await store.append(tx, lines)


@dataclass(slots=True)
class AuditWriters:
    """The audit logs that a process writes: its own, or that of each shard of organisations.

    `of_owner`: the shard of an organisation, where the shards are of organisations. A line is then in the shard of its
    caller, whichever process took the call; the line of a decision always in the database of the decision.
    """

    shards: Shards
    of_owner: Callable[[str], Shard] | None = None
    _each: dict[str, AuditWriter] = field(init=False)

    def __post_init__(self) -> None:
        each = [self.shards.own] if self.of_owner is None else self.shards.each
        self._each = {shard.name: AuditWriter(shard.database) for shard in each}

    def shard(self, organisation: str | None) -> Shard:
        """Return the shard with the lines of an organisation; the own with those of several (None)."""
        return self.shards.own if self.of_owner is None or organisation is None else self.of_owner(organisation)

    def of(self, organisation: str) -> AuditWriter:
        return self._each[self.shard(organisation).name]

    def write_to(self, database: Database) -> bool:
        """Return whether the database has an audit log that the process writes."""
        return any(each.database is database for each in self._each.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Write noted lines until the event is set, then the last of them."""
        await asyncio.gather(*(each.run(stop) for each in self._each.values()))

    async def close(self) -> None:
        """Write the lines left."""
        await asyncio.gather(*(each.close() for each in self._each.values()))
