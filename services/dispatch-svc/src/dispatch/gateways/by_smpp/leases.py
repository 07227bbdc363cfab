"""Leases of an account's binds: all processes together hold no more than the operator allows.

A process renews its lease every RENEW_S, with what it holds and wants, and learns how many binds it may hold. A lease
that was not renewed ends by the server's clock, and the others share its binds. Its process has then closed its
sessions long before, by its own clock: only one that stood still for so long may still hold them, and the SMSC refuses
the bind too many until it goes on.
"""

from dataclasses import dataclass, field
from uuid import uuid4

from sqlalchemy import BigInteger, Boolean, Column, Identity, PrimaryKeyConstraint, Table, Text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database, fetch_many
from common.db.timer import uptime_s
from dispatch.gateways.by_smpp.shares import Claim, granted
from dispatch.schema import instant, metadata

RENEW_S = 2.0
LEASE_S = 30.0
CLOSES_S = 12.0  # sessions with messages in hand take so long to close

bind_lease = Table(
    "bind_lease",  # a row for each process with binds, or in want of them
    metadata,
    Column("gateway", Text, nullable=False),
    Column("holder", Text, nullable=False),
    Column("number", BigInteger, Identity(always=True), nullable=False),  # in the order of coming
    Column("codes", Boolean, nullable=False),
    Column("wants", BigInteger, nullable=False),
    Column("holds", BigInteger, nullable=False),
    instant("ends_at", nullable=False),
    PrimaryKeyConstraint("gateway", "holder"),
)


@dataclass(eq=False)
class Lease:
    """The lease of one process. `allowed`: binds of all processes together. `wants`: binds of this one at most."""

    database: Database
    gateway: str
    allowed: int
    wants: int
    codes: bool
    holder: str = field(default_factory=lambda: uuid4().hex)
    good_until: float = 0.0  # `uptime_s`: then this process must begin to close its sessions

    async def renew(self, holds: int) -> int:
        """Say how many binds are held; return how many may be held until `good_until`."""
        asked_at = uptime_s()
        async with self.database.begin() as tx:
            await fetch_many(tx, "SELECT pg_advisory_xact_lock(hashtext('placet.binds'), hashtext($1))", self.gateway)
            await fetch_many(
                tx, "DELETE FROM bind_lease WHERE gateway = $1 AND ends_at < clock_timestamp()", self.gateway
            )
            await self._write(tx, holds)
            rows = await fetch_many(
                tx,
                "SELECT holder, codes, wants, holds FROM bind_lease WHERE gateway = $1 ORDER BY number",
                self.gateway,
            )
            may = granted(self.holder, [Claim(*row) for row in rows], self.allowed)
            if may > holds:
                await self._write(tx, may)
        self.good_until = asked_at + LEASE_S - CLOSES_S
        return may

    async def give_back(self) -> None:
        await self.database.run("DELETE FROM bind_lease WHERE gateway = $1 AND holder = $2", self.gateway, self.holder)

    async def _write(self, tx: AsyncConnection, holds: int) -> None:
        await fetch_many(
            tx,
            "INSERT INTO bind_lease (gateway, holder, codes, wants, holds, ends_at)"
            " VALUES ($1, $2, $3, $4, $5, clock_timestamp() + $6::float8 * interval '1 s')"
            " ON CONFLICT (gateway, holder) DO UPDATE SET (holds, ends_at) = ROW (excluded.holds, excluded.ends_at)",
            self.gateway,
            self.holder,
            self.codes,
            self.wants,
            holds,
            LEASE_S,
        )
