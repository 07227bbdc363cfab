"""What is kept no longer than it is needed (RGPD art. 5(1)(e)): each service says of every table it has until when its
rows are needed, and a timer takes away what is past its time. docs/retention.md has the periods and their reasons.

A row goes whole, or is stripped: what is personal in it is set to null, and the row stays for what it is still needed
for (a duplicate is known by its primary key, accounts add up). Where rows go, no two of these fight and nobody waits:
they are taken in small batches, each a transaction of its own, the oldest first by an index, and passing over what
anybody has locked. After a downtime the timer goes on, batch after batch, until nothing is overdue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from common.db.database import Database, plan_now
from common.db.timer import Timer
from common.service import Worker
from common.telemetry import counter, gauge

LOOK_EVERY_S = 60.0
BATCH = 500  # rows in one transaction: some milliseconds

PRUNED = counter("sms_pruning_rows_total", "Rows deleted or stripped because their time was over.", ["kind"])
OVERDUE = gauge(
    "sms_pruning_overdue_seconds", "How far past its time the oldest row is that should be gone; 0 if none.", ["kind"]
)

KEPT_BY_ALL: Mapping[str, str] = {
    "outbox": "a queue: each row goes once Kafka has it",
    "outbox_log": "a number of each topic and partition",
    "consumer_offset": "nothing of a person",
    "erasing": "what is late must find the erasure, however late; a keyed hash and times",
}


@dataclass(frozen=True, slots=True)
class Pruned:
    """Rows of `table` for which `where` holds and whose `since` is more than `keep` ago: they go, or lose the columns
    `strips`. After a strip `where` must not hold any more.

    SQL, over `t`, the table, and what `join` adds; `where` may say :before, the instant `keep` ago. There is to be an
    index that begins with `since`, of no more than `where` says.
    """

    kind: str
    table: str
    since: str
    keep: timedelta
    where: str = "true"
    strips: Sequence[str] = ()
    join: str = ""

    def _due(self) -> str:
        return (
            f"FROM {self.table} AS t {self.join} WHERE {self.since} < :before AND ({self.where}) ORDER BY {self.since}"
        )

    def oldest(self) -> str:
        return f"SELECT {self.since} {self._due()} LIMIT 1"

    def batch(self) -> str:
        change = (
            f"UPDATE {self.table} SET {', '.join(f'{column} = NULL' for column in self.strips)}"
            if self.strips
            else f"DELETE FROM {self.table}"
        )
        # by their place, not their key: who changes a row meanwhile moves it, and it is looked at again next time
        return f"{change} WHERE ctid = ANY(ARRAY(SELECT t.ctid {self._due()} LIMIT :batch FOR UPDATE OF t SKIP LOCKED))"


DEAD_LETTERS = Pruned("dead letters", "dead_letter", "buried_at", timedelta(days=35))  # of all: Kafka keeps seven days


@dataclass(frozen=True, slots=True)
class Policy:
    """`kept`: the tables that stay as they are, each with the reason."""

    pruned: Sequence[Pruned]
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def tables(self) -> set[str]:
        """All that are spoken of."""
        return {rule.table for rule in self.pruned} | self.kept.keys() | KEPT_BY_ALL.keys()


@dataclass(frozen=True, slots=True)
class Pruner:
    database: Database
    policy: Policy
    batch: int = BATCH

    def worker(self) -> Worker:
        timer = Timer("prune", self.prune, LOOK_EVERY_S, self.database)
        return Worker(timer.name, timer.run)

    async def prune(self) -> bool:
        """One batch by each rule; was anything done? One that fails keeps no other from its work."""
        now = datetime.now(UTC)
        done, failed = 0, []
        for rule in self.policy.pruned:
            try:
                done += await self._apply(rule, now - rule.keep)
            except Exception as error:
                failed.append(error)
        if failed:
            raise ExceptionGroup("not everything could be pruned", failed)
        return done > 0

    async def _apply(self, rule: Pruned, before: datetime) -> int:
        async with self.database.begin() as tx:
            await plan_now(tx)
            oldest: datetime | None = await tx.scalar(text(rule.oldest()), {"before": before})
            OVERDUE.labels(rule.kind).set((before - oldest).total_seconds() if oldest else 0)
            if oldest is None:
                return 0
            changed = (await tx.execute(text(rule.batch()), {"before": before, "batch": self.batch})).rowcount
        PRUNED.labels(rule.kind).inc(changed)
        return changed
