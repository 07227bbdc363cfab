"""The freshness of the projection and the progress of a rebuild, polled every second; also the marketing hold."""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES
from common.contracts.dispatch import HoldChanged
from common.db.shards import Shard, Shards
from common.db.timer import Timer, Worker
from common.kafka.reading.offsets import applied_watermark
from common.service import Resources
from common.telemetry import gauge
from dispatch.projection import store
from dispatch.projection.hold import looked
from dispatch.projection.limits import Limits, is_fresh

log = logging.getLogger(__name__)

STALENESS = gauge(
    "sms_dispatch_consent_staleness_seconds",
    "Age of the oldest watermark among the partitions; infinite while a partition has none. Marketing waits"
    " above max_staleness_s.",
)
STALENESS_OF = gauge(
    "sms_dispatch_consent_partition_staleness_seconds", "Age of each partition's watermark.", ["partition"]
)
REBUILT = gauge("sms_dispatch_rebuild_records", "Records of the running rebuild: read, and still to read.", ["state"])

LOOK_EVERY_S = 1.0
LOOK_WITHIN_S = 5.0  # of another shard


@dataclass(frozen=True, slots=True)
class Freshness:
    """The look at the watermarks. The shard of partition 0 looks at those of all shards, and announces the hold."""

    shards: Shards
    limits: Limits
    told_after: timedelta

    def worker(self) -> Worker:
        timer = Timer("freshness", self.look, LOOK_EVERY_S, self.shards.own.database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        elsewhere = [shard for shard in self.shards.each if shard is not self.shards.own] if self._tells else []
        others = [await _marks(shard) for shard in elsewhere]
        async with self.shards.own.database.begin() as tx:
            marks = _of_shard(self.shards.own, await store.watermarks(tx))
            read, until, _ = await store.rebuild_progress(tx)
            now = datetime.now(UTC)
            told = None
            if self._tells:
                everywhere = [*marks.values(), *(as_of for known in others for as_of in known.values())]
                told = await self._tell(tx, everywhere, now)
        if told is not None:
            log.warning("marketing goes on" if told.ended_at else "marketing is held", extra={"since": told.since})
        ages = {partition: age_of(as_of, now) for partition, as_of in marks.items()}
        for partition, age in ages.items():
            STALENESS_OF.labels(partition).set(age)
        STALENESS.set(max(ages.values()))
        REBUILT.labels("read").set(read)
        REBUILT.labels("all").set(until)
        return False

    @property
    def _tells(self) -> bool:
        return self.shards.own is self.shards.first

    async def _tell(self, tx: AsyncConnection, marks: Sequence[datetime | None], now: datetime) -> HoldChanged | None:
        """Store the hold over all partitions, and return a new announcement.

        A hold starts with the first stale partition and ends once every partition is fresh.
        """
        before = await store.lock_hold(tx)
        held = not all(is_fresh(as_of, now, self.limits) for as_of in marks)
        known = looked(before, held, now, self.told_after)
        tell = None
        if known.version != before.version:
            assert known.since is not None
            of_all = [as_of for as_of in marks if as_of is not None]
            tell = HoldChanged(
                category="marketing",
                version=known.version,
                since=known.since,
                consents_as_of=min(of_all) if len(of_all) == len(marks) else None,
                ended_at=known.ended_at,
            )
        if known != before:
            await store.put_hold(tx, known, tell)
        return tell


def _of_shard(shard: Shard, known: Mapping[int, datetime | None]) -> dict[int, datetime | None]:
    return {partition: known.get(partition) for partition in shard.partitions}


async def _marks(shard: Shard) -> dict[int, datetime | None]:
    """Return the watermarks of another shard; without an answer none, as of a shard that has read nothing."""
    try:
        async with asyncio.timeout(LOOK_WITHIN_S), shard.database.begin() as tx:
            return _of_shard(shard, await store.watermarks(tx))
    except Exception as error:
        log.warning("a shard does not answer", extra={"shard": shard.name, "why": type(error).__name__})
        return dict.fromkeys(shard.partitions)


def age_of(as_of: datetime | None, now: datetime) -> float:
    return math.inf if as_of is None else (now - as_of).total_seconds()


async def consent_is_fresh(held: Resources[Any], limits: Limits) -> str | None:
    """Return why marketing is held, or `None`."""
    async with held.database.begin() as tx:
        as_of = await applied_watermark(tx, store.CONSENTS_GROUP, STATES, held.settings.own_partitions)
    if as_of is None:
        return "no watermark of consent yet: marketing is held"
    now = datetime.now(UTC)
    if not is_fresh(as_of, now, limits):
        return f"consent is {age_of(as_of, now):.1f} s old: marketing is held"
    return None
