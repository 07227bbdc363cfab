"""Count uses of a limit across processes and restarts, nearly always in memory.

A process takes uses from the row of a quota in advance, as a lease, by one statement which commits by itself. The row
counts a lease as used, so all processes together never exceed the limit. A use out of a lease is no statement. Idle
leases and those of a stopping process go back to the row; a crash loses its leases: the batch being leased, or a
hundredth of the limit of a day or a month (twenty batches at most), whichever is more.

No row is locked while a client stands still, and the statements have a connection of their own: a transaction that
waits for a lease waits for no other transaction. A caller with others waiting behind it waits for a lease only so long
(`stock_within`), and a late lease is kept for the next caller.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, DateTime, Index, MetaData, PrimaryKeyConstraint, Table, Text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database, fetch_many
from common.db.notify import either
from common.db.timer import Worker, uptime_s
from common.limits import Quota

log = logging.getLogger(__name__)

RETURN_EVERY_S = 10.0
ASK_AGAIN_S = 1.0  # another process may have given back
ANSWERED_WITHIN_S = 30.0  # later, the lease counts as lost
PART_OF_SECOND, PART_OF_LONGER = 4, 100  # of a limit, leased in advance at most
BATCHES_AHEAD = 20  # of the size wanted, at most
SHORT = timedelta(seconds=1)


def define(metadata: MetaData) -> Table:
    """Add the table of used quotas to a schema; migrations spell it out literally."""
    return Table(
        "allowance",  # a row for each limit and holder, of the newest window
        metadata,
        Column("name", Text, nullable=False),
        Column("holder", Text, nullable=False),  # an organisation, or the hash of an account
        Column("since", DateTime(timezone=True), nullable=False),
        Column("taken", BigInteger, nullable=False),
        Column("granted", BigInteger, nullable=False),  # of the last lease
        PrimaryKeyConstraint("name", "holder"),
        Index("allowance_since_ix", "since"),  # of the retention
    )


# Of the rest, $4 is wanted now. Up to $6 is leased in advance, and less as the rest shrinks: the last uses of a limit
# are left for the process that needs them.
def _granted(rest: str) -> str:
    return f"greatest(0, least({rest}, greatest($4, least($6, ({rest}) / 8))))"


# Windows are judged by the server's clock. A window stored by a clock that was ahead ends at once, and a process whose
# clock is ahead uses the row's window.
_AHEAD = "> clock_timestamp() + interval '5 s'"
_OPENS = f"SELECT NOT $3::timestamptz {_AHEAD} AND (a.since < $3 OR a.since {_AHEAD})"
_LEASE = (
    "INSERT INTO allowance AS a (name, holder, since, taken, granted)"
    f" SELECT $1, $2, CASE WHEN $3::timestamptz {_AHEAD} THEN clock_timestamp() ELSE $3 END, v.granted, v.granted"
    f" FROM (SELECT {_granted('$5::bigint')} AS granted) AS v"
    " ON CONFLICT (name, holder) DO UPDATE SET (since, taken, granted) = (SELECT"
    " CASE WHEN opens THEN excluded.since ELSE a.since END,"
    " CASE WHEN opens THEN excluded.taken ELSE a.taken + more END,"
    " CASE WHEN opens THEN excluded.granted ELSE more END"
    f" FROM (SELECT ({_OPENS}) AS opens, {_granted('$5::bigint - a.taken')} AS more OFFSET 0) AS w)"
    " RETURNING since, granted, taken"
)
_RETURN = (
    "UPDATE allowance SET taken = greatest(0, taken - $4::bigint) WHERE name = $1 AND holder = $2 AND since = $3"
    " RETURNING taken"
)


_TALLY = (
    "INSERT INTO allowance AS a (name, holder, since, taken, granted) VALUES ($1, $2, $3, $4::bigint, 0)"
    " ON CONFLICT (name, holder) DO UPDATE SET (since, taken) = (SELECT"
    " CASE WHEN opens THEN excluded.since ELSE a.since END,"
    " excluded.taken + CASE WHEN opens THEN 0 ELSE a.taken END"
    f" FROM (SELECT ({_OPENS}) AS opens OFFSET 0) AS w) RETURNING taken"
)


async def tally(database: Database, name: str, holder: str, since: datetime, many: int) -> None:
    """Count uses in a window without a limit here, so that a forecast can compare them with a limit elsewhere."""
    await database.run(_TALLY, name, holder, since, many)


async def tallied(tx: AsyncConnection, name: str, holder: str, since: datetime) -> int:
    """Return the uses counted by `tally` in the window."""
    rows = await fetch_many(
        tx, "SELECT taken FROM allowance WHERE name = $1 AND holder = $2 AND since = $3", name, holder, since
    )
    return rows[0][0] if rows else 0


class Charge(NamedTuple):
    """Uses of a quota."""

    quota: Quota
    many: int


@dataclass(slots=True)
class _Lease:
    """`since`: of the newest window that the lease is for, by this process's clock or by the row (`of_row`).

    `begun`: of the oldest window whose charges may come back.
    """

    since: datetime
    short: bool
    begun: datetime
    of_row: datetime
    left: int = 0
    rest: int = 0  # of the row, when last asked
    ask_at: float = 0.0  # `uptime_s`: the row had nothing left
    used: bool = True  # since the last look of the worker


@dataclass
class Allowances:
    """The quotas of one process. `database`: with a connection for this alone."""

    database: Database
    _leases: dict[tuple[str, str], _Lease] = field(default_factory=dict)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def stock(self, charges: Sequence[Charge]) -> None:
        """Make leases large enough for these charges, as far as the limits allow."""
        for charge in charges:
            if self._lacks(charge):
                async with self._asking:
                    if self._lacks(charge):
                        await self._lease_of(charge)

    async def stock_within(self, charges: Sequence[Charge], within_s: float) -> bool:
        """Make leases as `stock`, and wait no longer than this; return whether every lease was answered."""
        if not any(map(self._lacks, charges)):
            return True
        try:
            async with asyncio.timeout(within_s):
                await self.stock(charges)
        except Exception as error:
            log.warning("no lease was granted in time", extra={"why": type(error).__name__})
            return False
        return True

    async def use(self, charges: Sequence[Charge]) -> Quota | None:
        """Count all of these charges, or none; return the first exhausted quota, if any."""
        refused = self.take(charges)
        while refused is not None and not self._exhausted(refused):
            await self.stock(charges)  # another caller may take a part of the lease meanwhile
            refused = self.take(charges)
        return refused

    def take(self, charges: Sequence[Charge]) -> Quota | None:
        """Use the leases for all of these charges, or for none; return the first exhausted quota, if any."""
        for quota, many in charges:
            lease = self._leases.get(quota.key)
            if lease is None or lease.since < quota.since or lease.left < many:
                return quota
        for quota, many in charges:
            lease = self._leases[quota.key]
            lease.left -= many
            lease.used = True
        return None

    def give_back(self, charges: Sequence[Charge]) -> None:
        """Undo `take`. Ignore charges of an earlier window."""
        for quota, many in charges:
            lease = self._leases.get(quota.key)
            if lease is None:
                lease = self._leases[quota.key] = _of(quota)
            if lease.begun <= quota.since:
                lease.left += many

    def left(self, quota: Quota) -> int:
        """Return how many uses are left, as far as this process knows."""
        lease = self._leases.get(quota.key)
        return quota.limit if lease is None or lease.since < quota.since else lease.left + lease.rest

    def worker(self) -> Worker:
        return Worker("allowances", self._run)

    async def _run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await either(stop, None, RETURN_EVERY_S)
            await self.return_idle(datetime.now(UTC))

    async def return_idle(self, now: datetime) -> None:
        """Give back the leases without a use since the last call, and forget those of past seconds."""
        for key, lease in list(self._leases.items()):
            if lease.short:
                if lease.since < now - SHORT and self._leases.get(key) is lease:
                    del self._leases[key]
            elif not lease.used:
                await self._return(key, lease)
            lease.used = False

    async def close(self) -> None:
        """Give back every lease."""
        for task in list(self._running):
            task.cancel()
        for key, lease in list(self._leases.items()):
            if not lease.short and not await self._return(key, lease):
                break
        await self.database.close()

    def was_empty(self, quota: Quota) -> bool:
        """Return whether the row had too little left when last asked."""
        lease = self._leases.get(quota.key)
        return lease is not None and lease.since >= quota.since and lease.ask_at > 0

    def _exhausted(self, quota: Quota) -> bool:
        lease = self._leases.get(quota.key)
        return lease is not None and lease.since >= quota.since and uptime_s() < lease.ask_at

    def _lacks(self, charge: Charge) -> bool:
        lease = self._leases.get(charge.quota.key)
        if lease is None or lease.since < charge.quota.since:
            return True
        return lease.left < charge.many and uptime_s() >= lease.ask_at

    async def _lease_of(self, charge: Charge) -> None:
        """Lease in a task: the statement of a caller that has gone may commit, and its lease must not be lost."""
        task = asyncio.create_task(self._lease(charge))
        self._running.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # read, or asyncio logs the error of a task without a caller

    async def _lease(self, charge: Charge) -> None:
        quota = charge.quota
        lease = self._leases.get(quota.key)
        if lease is None or lease.since < quota.since:
            lease = _of(quota)
        wanted = charge.many - lease.left
        ahead = quota.limit // PART_OF_SECOND
        if not _short(quota):
            ahead = min(quota.limit // PART_OF_LONGER, BATCHES_AHEAD * charge.many)
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            [(since, granted, taken)] = await self.database.run(
                _LEASE, quota.name, quota.holder, quota.since, wanted, quota.limit, ahead
            )
        left, begun = granted, quota.since
        kept = self._leases.get(quota.key)
        if kept is not None and kept.of_row == since:  # a charge may have come back meanwhile
            left, begun = left + kept.left, min(begun, kept.begun)
        elif kept is not None:  # a charge of the row's earlier window is past
            begun = max(begun, since)
        lacks = uptime_s() + ASK_AGAIN_S if granted < wanted else 0.0
        self._leases[quota.key] = _Lease(
            max(since, quota.since), _short(quota), begun, since, left, quota.limit - taken, lacks
        )

    async def _return(self, key: tuple[str, str], lease: _Lease) -> bool:
        """Give a lease back; return whether the server answered. Else its uses are lost: the row may have them."""
        if self._leases.get(key) is not lease:  # replaced meanwhile
            return True
        del self._leases[key]
        if not lease.left:
            return True
        try:
            await self.database.run(_RETURN, *key, lease.of_row, lease.left)
        except Exception as error:
            log.warning("a lease could not be given back", extra={"limit": key[0], "why": type(error).__name__})
            return False
        return True


def _of(quota: Quota) -> _Lease:
    return _Lease(quota.since, _short(quota), quota.since, quota.since)


def _short(quota: Quota) -> bool:
    return quota.until - quota.since <= SHORT
