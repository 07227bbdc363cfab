"""The reconciliation of the projection with consent-svc, by projection checksums (`StatesSummed`, ADR-0043).

Checksums of a snapshot are compared once our watermark has passed the snapshot. A slice with a state published since
the snapshot began is left out, as the projection may be newer; every other slice must be equal.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES, SUMS
from common.contracts.consent import StatesSummed
from common.db.database import Database, may_idle
from common.db.shards import Shard, Shards
from common.db.timer import Timer, Worker
from common.kafka.reading.offsets import applied_watermark
from common.kafka.subscription import After, Received, Subscription
from common.service import Resources
from common.telemetry import gauge
from dispatch.projection import checksum_store, store

log = logging.getLogger(__name__)

DIFFERING = gauge(
    "sms_dispatch_consent_differing_rows", "Slices of the projection whose checksum differs from consent-svc's."
)
MOVING = gauge(
    "sms_dispatch_consent_moving_rows", "Slices left out of the last comparison because of changes under way."
)
COMPARED = gauge(
    "sms_dispatch_consent_compared_age_seconds",
    "Age of the newest checksums compared with the projection; the age of the process before the first.",
)

LOOK_EVERY_S = 5.0
NAMED = 20  # slices named in the log
CLOCKS_APART = timedelta(seconds=5)  # of the publishing relay and the summing process


@dataclass(slots=True)
class Comparing:
    """The reconciliation timer, of the shard of partition 0, over all shards.

    `newest`: the start of the last snapshot, or of the process.
    """

    shards: Shards
    outer_key: str  # of our subject ids
    newest: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def _database(self) -> Database:
        return self.shards.own.database

    def subscription(self) -> Subscription:
        return Subscription("dispatch.sums", SUMS, keep, skips_unknown=True)

    def worker(self) -> Worker:
        timer = Timer("comparing", self.compare, LOOK_EVERY_S, self._database)
        return Worker(timer.name, timer.run)

    async def compare(self) -> bool:
        """Compare new checksums once the projection holds all states in them."""
        self._tell_age()  # first, so that the age shows while the comparison fails
        async with AsyncExitStack() as open_:
            tx = await open_.enter_async_context(self._database.begin())
            theirs = await checksum_store.sums_to_compare(tx)
            if theirs is not None and self._is_of_our_key(theirs):
                others = [shard for shard in self.shards.each if shard is not self.shards.own]
                held = [(shard, await open_.enter_async_context(shard.database.begin())) for shard in others]
                held.append((self.shards.own, tx))
                for _, of in held:
                    await may_idle(of)  # while the others are summed; no transaction waits for a reader
                if all([await _has_all(shard, of, theirs) for shard, of in held]):
                    await self._compare(tx, [of for _, of in held], theirs)
            result = await checksum_store.compared(tx)
        if result is not None:
            DIFFERING.set(len(result.differing))
            MOVING.set(result.moving)
            if result.compared_at is not None:  # else newer checksums wait for a comparison
                self.newest = result.begun_at
                self._tell_age()
        return False

    def _tell_age(self) -> None:
        COMPARED.set((datetime.now(UTC) - self.newest).total_seconds())

    def _is_of_our_key(self, theirs: StatesSummed) -> bool:
        """Return whether the sums are of ids of our outer key: else the comparison waits until both have moved."""
        return theirs.outer_key in ("", self.outer_key)

    async def _compare(self, tx: AsyncConnection, of_each: Sequence[AsyncConnection], theirs: StatesSummed) -> None:
        ours = _together([await checksum_store.sums(of, theirs.begun_at - CLOCKS_APART) for of in of_each])
        moving = {name for name, (_, _, changed) in ours.items() if changed}
        still = (theirs.sums.keys() | ours.keys()) - moving
        differing = sorted(name for name in still if theirs.sums.get(name, NOBODY) != ours.get(name, NOBODY)[:2])
        await checksum_store.put_comparison(tx, datetime.now(UTC), len(still), len(moving), differing)
        if differing:
            log.error(
                "the projection differs from consent-svc",
                extra={"slices": len(differing), "of": len(still), "some": ", ".join(differing[:NAMED])},
            )


NOBODY = (0, 0)


async def _has_all(shard: Shard, tx: AsyncConnection, theirs: StatesSummed) -> bool:
    as_of = await applied_watermark(tx, store.CONSENTS_GROUP, STATES, shard.partitions)
    return as_of is not None and as_of >= theirs.seen_until


def _together(of_each: Sequence[Mapping[str, tuple[int, int, bool]]]) -> dict[str, tuple[int, int, bool]]:
    """Add the sums of the shards by slice."""
    added: dict[str, tuple[int, int, bool]] = {}
    for sums in of_each:
        for name, (many, digest, moving) in sums.items():
            before = added.get(name, (0, 0, False))
            added[name] = before[0] + many, before[1] + digest, before[2] or moving
    return added


async def keep(tx: AsyncConnection, batch: list[Received]) -> After | None:
    """Store the newest checksums of the batch."""
    told = [received.event for received in batch if isinstance(received.event, StatesSummed)]
    if told:
        newest = max(told, key=lambda event: event.begun_at)
        await checksum_store.put_sums(tx, newest, msgspec.json.encode(newest).decode())
    return None


async def consents_are_the_same(held: Resources[Any]) -> str | None:
    """Return a readiness warning when slices differ: a person has to act."""
    async with held.database.begin() as tx:
        result = await checksum_store.compared(tx)
    if result is None or not result.differing:
        return None
    return f"consents differ from consent-svc's in {len(result.differing)} of {result.compared} slices: rebuild"
