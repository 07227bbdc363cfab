"""How far a table that only grows is whole: up to which `ordinal` nothing more can come.

Ordinals are given in order and committed in any order, so the highest one that can be seen may have a neighbour below
it that is not there yet. `Settling` notes the highest ordinal it sees and, after that, a transaction id of its own.
Whoever was given a lower ordinal had a lower transaction id by then, since whoever writes these rows has locked others
before. When every transaction up to that id has ended, what is there of those ordinals is all there will ever be.
Nothing of it is kept: it stays right after a restore on another server.

(Transaction ids are of the whole server: a long transaction in another of its databases makes this wait, and no more.)
"""

from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import text

from common.db.database import Database

Table = Literal["evidence", "handed_off"]


@dataclass(slots=True)
class Settling:
    """How far the ordinals of a table are settled. Keeps what it noted until it knows, or is gone with the process."""

    database: Database
    table: Table
    _noted: tuple[int, int] | None = field(default=None, init=False)  # (ordinal, transaction id)

    async def up_to(self, after: int) -> int:
        """An ordinal up to which nothing more can come: `after` while nothing newer is known to be settled."""
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
            # after the ordinal was read, and of a transaction of our own: the next id there is
            xid = await tx.scalar(text("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)"))
        return int(ordinal), int(xid or 0)
