"""Find the `ordinal` up to which an append-only table is settled: no row can still appear at or below.

Transactions commit in any order. `Settling` notes the highest visible ordinal, then a new transaction id, and waits
until every transaction up to that id has ended (ADR-0025). The writer of a lower ordinal must have a lower transaction
id by then: a writer locks other rows before these rows.
"""

from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import text

from common.db.database import Database

Table = Literal["evidence", "handed_off"]


@dataclass(slots=True)
class Settling:
    """The settling of one table, noted in memory."""

    database: Database
    table: Table
    _noted: tuple[int, int] | None = field(default=None, init=False)  # (ordinal, transaction id)

    async def up_to(self, after: int) -> int:
        """Return a settled ordinal: `after` until a newer ordinal is known to be settled."""
        if self._noted is None or self._noted[0] <= after:
            self._noted = await self._note(after)
        if self._noted is None:
            return after
        ordinal, xid = self._noted
        async with self.database.begin() as tx:
            oldest = await tx.scalar(
                text("SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)")
            )
        assert isinstance(oldest, int)
        if oldest <= xid:
            return after
        self._noted = None
        return ordinal

    async def _note(self, after: int) -> tuple[int, int] | None:
        async with self.database.begin() as tx:
            ordinal = await tx.scalar(text(f"SELECT max(ordinal) FROM {self.table}"))
            if ordinal is None or ordinal <= after:
                return None
            # after reading the ordinal
            xid = await tx.scalar(text("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)"))
        return int(ordinal), int(xid or 0)
