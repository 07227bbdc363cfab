"""Erase a person's data in one service, and acknowledge the erasure.

The consumer stores an erasure in the table `erasing`; from then on every writer of personal data can see it
(`asked_of`). A timer erases several people at a time and acknowledges in the same transaction.

First the timer waits for every transaction open when the erasure was stored: an import that began earlier did not see
it. The first poll notes a transaction id, and the erasure begins after every transaction up to this id has ended. A
writer must have written a row before reading `asked_of`, so that its transaction has an id. (Ids belong to the whole
server: a long migration in any of its databases delays erasures.)

The newest erasure of a person and a controller stays for ever, so that data that arrives late finds the erasure. The
newest covers all earlier ones, which go once acknowledged: repeated requests do not make the table grow.

An erasure that a controller asked for concerns the controller's senders alone. `meant` is the one rule, and reads the
table `sender` at each step: a sender registered since the request counts as well.
"""

import argparse
import logging
import sys
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ARRAY, BigInteger, Column, DateTime, Index, MetaData, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import ERASURE_ACKS, ERASURES
from common.contracts.rights import ErasureAcknowledged, ErasureLifted, ErasureRequested
from common.db.database import Database, fetch_many
from common.db.shards import WHOLE, Part
from common.db.timer import Timer, Worker
from common.kafka import outbox
from common.kafka.subscription import After, Received, Subscription
from common.telemetry import counter

log = logging.getLogger(__name__)

KEPT = "erasure_kept"  # NOTIFY channel: erasures are waiting
POLL_EVERY_S = 0.5
IDLE_S = 5.0
BATCH = 100  # erasures
CLOCKS_APART_S = 5  # of the processes that set `requested_at`
READY = (  # whose earlier transactions have all ended
    "SELECT erasure_id, subject_id, controller_id, requested_at FROM erasing WHERE erased_at IS NULL"
    " AND after_xid < CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
)

ERASED = counter("sms_erasures_total", "Erasures done by this service.")


class Whom(NamedTuple):
    """A person, and the controller whose data of the person is meant; `None`: every controller's."""

    subject_id: str
    controller_id: str | None


UPLOADS_SILENT_FOR = timedelta(hours=1)  # an unfinished upload that an erasure ends; a caller opens another
Erased = Mapping[str, int]  # count by kind
Erase = Callable[[AsyncConnection, Mapping[Whom, datetime]], Awaitable[Mapping[Whom, Erased]]]
Lock = Callable[[AsyncConnection, Collection[str]], Awaitable[object]]

# of `columns`: what is to be erased, as a table
TO_ERASE = (
    "unnest(CAST(:subjects AS text[]), CAST(:controllers AS text[]), CAST(:ats AS timestamptz[]))"
    " AS a(subject_id, controller_id, at)"
)


def columns(asked: Mapping[Whom, datetime]) -> dict[str, list[str] | list[str | None] | list[datetime]]:
    """Return the parameters of `TO_ERASE`."""
    return {
        "subjects": [whom.subject_id for whom in asked],
        "controllers": [whom.controller_id for whom in asked],
        "ats": list(asked.values()),
    }


def meant(sender_id: str, controller_id: str = "a.controller_id") -> str:
    """Return the SQL condition that a sender's data is meant: its controller is the one named, or none is named.

    Both arguments are SQL. A row without a sender is meant only if no controller is named.
    """
    of_theirs = f"SELECT FROM sender AS k WHERE k.sender_id = {sender_id} AND k.controller = {controller_id}"
    return f"({controller_id} IS NULL OR EXISTS ({of_theirs}))"


def not_lifted(sender_id: str) -> str:
    """Return the SQL condition that the person has not returned to the sender's controller since the erasure `a`."""
    theirs = f"SELECT FROM sender AS k WHERE k.sender_id = {sender_id} AND k.controller = ANY(a.lifted_for)"
    return f"NOT EXISTS ({theirs})"


def counted(rows: Iterable[Sequence[Any]]) -> dict[Whom, int]:
    """Return counts from rows of (subject_id, controller_id, count)."""
    return {Whom(subject_id, controller_id): many for subject_id, controller_id, many in rows}


def define(metadata: MetaData) -> Table:
    """Define the requested erasures.

    Of a person and a controller the newest row stays for ever. `after_xid`: the last transaction to wait for.
    """
    return Table(
        "erasing",
        metadata,
        Column("erasure_id", Text, primary_key=True),
        Column("subject_id", Text, nullable=False),
        Column("controller_id", Text, nullable=True),  # null: every controller
        Column("requested_at", DateTime(timezone=True), nullable=False),
        Column("after_xid", BigInteger, nullable=True),
        Column("erased_at", DateTime(timezone=True), nullable=True),
        # controllers to which the person has returned since
        Column("lifted_for", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
        Index("erasing_subject_ix", "subject_id"),
        Index("erasing_open_ix", "requested_at", postgresql_where=text("erased_at IS NULL")),
    )


@dataclass(frozen=True, slots=True)
class Eraser:
    """A service's worker for erasures.

    `erase(tx, asked)` erases the people in `asked`, mapped to the time of the last request, and returns the counts for
    each completed person; an absent person has data in use, and the timer tries again. `lock_of`: a transaction erases
    only people with the same value, so that it never holds a lock of one group while waiting for another's.
    `lock(tx, subject_ids)` locks people before their erasures: a service that lifts an erasure holds the person then.
    `part`: of a service each of whose shards answers.
    """

    service: str
    database: Database
    erase: Erase
    lock_of: Callable[[str], Hashable] = lambda subject_id: None
    lock: Lock | None = None
    part: Part = WHOLE

    def subscription(self) -> Subscription:
        return Subscription(f"{self.service}.erasures", ERASURES, keep)

    def worker(self) -> Worker:
        timer = Timer("erase", self.erase_kept, POLL_EVERY_S, self.database, KEPT, idle_s=IDLE_S)
        return Worker(timer.name, timer.run)

    async def erase_kept(self) -> bool:
        """Erase the people waiting longest; return whether the poll did any work."""
        async with self.database.begin() as tx:
            noted = await tx.execute(
                text(
                    "UPDATE erasing SET after_xid = CAST(CAST(pg_current_xact_id() AS text) AS bigint)"
                    " WHERE erased_at IS NULL AND after_xid IS NULL"
                )
            )
        async with self.database.begin() as tx:
            rows = await tx.execute(text(f"{READY} ORDER BY requested_at LIMIT :batch"), {"batch": BATCH})
            together: dict[Hashable, dict[str, str]] = {}
            for row in rows:
                together.setdefault(self.lock_of(row.subject_id), {})[row.erasure_id] = row.subject_id
        done = [await self._erase(each) for each in together.values()]
        return any(done) if done else noted.rowcount > 0

    async def _erase(self, together: Mapping[str, str]) -> bool:
        """Erase, skipping erasures locked elsewhere; return whether any was completed.

        `together`: the subject_id of each erasure.
        """
        async with self.database.begin() as tx:
            if self.lock is not None:
                await self.lock(tx, set(together.values()))
            claim = f"{READY} AND erasure_id = ANY(CAST(:ids AS text[])) ORDER BY requested_at FOR UPDATE SKIP LOCKED"
            rows = (await tx.execute(text(claim), {"ids": list(together)})).all()
            if not rows:
                return False
            whom = {row.erasure_id: Whom(row.subject_id, row.controller_id) for row in rows}
            done = await self.erase(tx, {whom[row.erasure_id]: row.requested_at for row in rows})
            now = datetime.now(UTC)
            acknowledged = [
                ErasureAcknowledged(
                    erasure_id=row.erasure_id,
                    subject_id=row.subject_id,
                    service=self.service,
                    erased_at=now,
                    erased=dict(done[whom[row.erasure_id]]),
                    shard=self.part.shard,
                    shards=self.part.of,
                )
                for row in rows
                if whom[row.erasure_id] in done
            ]
            await tx.execute(
                text("UPDATE erasing SET erased_at = :now WHERE erasure_id = ANY(CAST(:ids AS text[]))"),
                {"now": now, "ids": [each.erasure_id for each in acknowledged]},
            )
            await _drop_superseded(tx, {row.subject_id for row in rows})
            await outbox.append(tx, ERASURE_ACKS, acknowledged)
        for each in acknowledged:
            log.info(
                "erased", extra={"erasure_id": each.erasure_id, "subject_id": each.subject_id, "erased": each.erased}
            )
        ERASED.inc(len(acknowledged))
        return bool(acknowledged)


async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """Store a batch's erasures, and lift those of people who have returned."""
    for received in batch:
        match received.event:
            case ErasureRequested() as asked:
                await put(tx, asked)
            case ErasureLifted() as lifted:
                await lift(tx, lifted.subject_id, lifted.controller_id, lifted.lifted_at)
    return None


async def put(tx: AsyncConnection, *asked: ErasureRequested) -> None:
    """Store erasures; at least one, each id once.

    A repeated request repeats the erasure, as the acknowledgement may be lost, unless the person has returned. After a
    newer erasure, the row of the repeated one may be gone: the newer row tells of the return.
    """
    await tx.execute(
        text(
            "INSERT INTO erasing AS e (erasure_id, subject_id, controller_id, requested_at)"
            " SELECT a.* FROM unnest(CAST(:ids AS text[]), CAST(:subjects AS text[]), CAST(:controllers AS text[]),"
            " CAST(:ats AS timestamptz[])) AS a(erasure_id, subject_id, controller_id, requested_at)"
            f" WHERE NOT EXISTS (SELECT FROM erasing AS n WHERE {_newer('a')} AND n.lifted_for <> '{{}}')"
            " ON CONFLICT (erasure_id) DO UPDATE SET after_xid = NULL, erased_at = NULL"
            " WHERE e.erased_at IS NOT NULL AND e.lifted_for = '{}'"
        ),
        {
            "ids": [each.erasure_id for each in asked],
            "subjects": [each.subject_id for each in asked],
            "controllers": [each.controller_id for each in asked],
            "ats": [each.requested_at for each in asked],
        },
    )
    await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": KEPT})


def _newer(than: str) -> str:
    """Return the SQL condition that `n` is a newer erasure of the same data, also where clocks differ."""
    return (
        f"n.subject_id = {than}.subject_id AND n.controller_id IS NOT DISTINCT FROM {than}.controller_id"
        f" AND n.requested_at > {than}.requested_at + interval '{CLOCKS_APART_S} s'"
    )


async def _drop_superseded(tx: AsyncConnection, subject_ids: Collection[str]) -> None:
    """Delete these people's finished erasures for which a newer one stands.

    The newer one is lifted for nobody for whom the deleted one is not, so that `concerning` says the same without the
    deleted one. A row locked elsewhere stays until the person's next erasure: no wait, no deadlock.
    """
    await tx.execute(
        text(
            "DELETE FROM erasing WHERE erasure_id IN (SELECT e.erasure_id FROM erasing AS e"
            " WHERE e.subject_id = ANY(CAST(:ids AS text[])) AND e.erased_at IS NOT NULL"
            f" AND EXISTS (SELECT FROM erasing AS n WHERE {_newer('e')} AND n.lifted_for <@ e.lifted_for)"
            " FOR UPDATE OF e SKIP LOCKED)"
        ),
        {"ids": sorted(subject_ids)},
    )


async def lift(tx: AsyncConnection, subject_id: str, controller_id: str, at: datetime) -> None:
    """Mark the person's earlier erasures as lifted: the service may hold data again. A pending erasure still runs.

    The person returned to one controller, and stays erased for every other.
    """
    await tx.execute(
        text(
            "UPDATE erasing SET lifted_for = array_append(lifted_for, CAST(:controller_id AS text))"
            " WHERE subject_id = :subject_id AND (controller_id IS NULL OR controller_id = :controller_id)"
            " AND requested_at <= :at AND NOT :controller_id = ANY(lifted_for)"
        ),
        {"subject_id": subject_id, "controller_id": controller_id, "at": at},
    )


@dataclass(frozen=True, slots=True)
class Erasure:
    """A person's erasure. `lifted_for`: the controllers to which the person has returned."""

    controller_id: str | None
    at: datetime
    lifted_for: frozenset[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """The latest erasure that concerns a controller. `lifted`: the person has returned to the controller."""

    at: datetime
    lifted: bool


def concerning(erasures: Iterable[Erasure], controller_id: str | None) -> Asked | None:
    """Return the latest erasure of this controller's data: asked of the controller, or of everything.

    An unknown controller (`None`) may be any: every erasure concerns it, and none is lifted.
    """
    found = [each for each in erasures if controller_id is None or each.controller_id in (None, controller_id)]
    if not found:
        return None
    return Asked(max(each.at for each in found), all(controller_id in each.lifted_for for each in found))


class Kept(msgspec.Struct, frozen=True):
    """An erasure done here, and not lifted, for a consent-svc that has lost the erasure (`erasures --since`)."""

    erasure_id: str
    subject_id: str
    controller_id: str | None
    requested_at: datetime


async def kept_since(tx: AsyncConnection, since: datetime) -> list[Kept]:
    """Return the erasures requested since `since` from which no person has returned, the oldest first."""
    rows = await fetch_many(
        tx,
        "SELECT erasure_id, subject_id, controller_id, requested_at FROM erasing"
        " WHERE requested_at >= $1 AND lifted_for = '{}' ORDER BY requested_at",
        since,
    )
    return [Kept(*row) for row in rows]


def instant(written: str) -> datetime:
    """Return an instant of a command line. Raises ValueError without an offset."""
    found = datetime.fromisoformat(written)
    if found.tzinfo is None:
        raise ValueError("an instant with its offset, as 2026-11-29T00:00Z")
    return found


async def command(service: str, database_url: str, arguments: Sequence[str]) -> int:
    """Print a line of JSON for each erasure since an instant; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {service} erasures", description="Print erasures for `python -m consent erase-again --lost`."
    )
    parser.add_argument("--since", required=True, type=instant, help="the backup's time, as 2026-11-29T00:00Z")
    since = parser.parse_args(arguments).since
    database = Database(database_url, pool_size=1, name=f"{service}-erasures")
    try:
        async with database.begin() as tx:
            for each in await kept_since(tx, since):
                sys.stdout.write(msgspec.json.encode(each).decode() + "\n")
    finally:
        await database.close()
    return 0


async def be_waited_for(tx: AsyncConnection) -> None:
    """Give the transaction an id, so that later erasures wait for it.

    A caller without a write so far must call this before `asked_of`.
    """
    await fetch_many(tx, "SELECT pg_current_xact_id()")


async def asked_of(tx: AsyncConnection, subject_ids: Collection[str]) -> dict[str, list[Erasure]]:
    """Return the erasures of these people, whose older data the caller must not store. Call after a first write."""
    rows = await fetch_many(
        tx,
        "SELECT subject_id, controller_id, requested_at, lifted_for FROM erasing"
        " WHERE subject_id = ANY(string_to_array($1, ' '))",
        " ".join(subject_ids),
    )
    found: dict[str, list[Erasure]] = {}
    for subject_id, controller_id, at, lifted_for in rows:
        found.setdefault(subject_id, []).append(Erasure(controller_id, at, frozenset(lifted_for)))
    return found
