"""Delete or strip rows past their retention period (RGPD art. 5(1)(e)). docs/retention.md has the periods and reasons.

A stripped row stays for its other uses (the primary key detects duplicates, counts still add up). The pruner works in
small batches, oldest rows first by an index, skipping locked rows: other writers never wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import text

from common.db.database import Database, plan_now
from common.db.timer import Timer, Worker
from common.telemetry import counter, gauge

POLL_EVERY_S = 60.0
BATCH = 500  # rows per transaction: some milliseconds

PRUNED = counter("sms_pruning_rows_total", "Rows deleted or stripped at the end of their retention.", ["kind"])
OVERDUE = gauge(
    "sms_pruning_overdue_seconds",
    "Seconds by which the oldest row has outlived its retention; 0 without such a row.",
    ["kind"],
)

KEPT_BY_ALL: Mapping[str, str] = {
    "outbox": "a queue: each row goes once Kafka has it",
    "outbox_log": "a number of each topic and partition",
    "subject_key": "a fingerprint of each subject key",
    "consumer_offset": "nothing of a person",
    "erasing": "what is late must find the erasure, however late; a keyed hash and times, once for each controller",
}


@dataclass(frozen=True, slots=True)
class Pruned:
    """A retention rule: rows of `table` matching `where`, with `since` older than `keep`, are deleted or stripped.

    `strips`: columns to null; a stripped row must no longer match `where`. The SQL calls the table `t`; `where` may use
    :before, the instant `keep` ago. Each rule needs an index that begins with `since` and covers at most the rows of
    `where`. `lists`: a column of `table`, and a table whose rows it lists by `id`; the rows listed go with the row.
    """

    kind: str
    table: str
    since: str
    keep: timedelta
    where: str = "true"
    strips: Sequence[str] = ()
    join: str = ""
    lists: tuple[str, str] | None = None

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
        # by ctid: a row changed meanwhile has a new one
        due = f"{self._due()} LIMIT :batch FOR UPDATE OF t SKIP LOCKED"
        if self.lists is None:
            return f"{change} WHERE ctid = ANY(ARRAY(SELECT t.ctid {due}))"
        column, other = self.lists
        return (
            f"WITH due AS MATERIALIZED (SELECT t.ctid AS place, t.{column} AS ids {due}),"
            f" gone AS (DELETE FROM {other} WHERE id = ANY(ARRAY(SELECT unnest(ids) FROM due)))"
            f" {change} WHERE ctid = ANY(ARRAY(SELECT place FROM due))"
        )


DEAD_LETTERS = Pruned("dead letters", "dead_letter", "buried_at", timedelta(days=35))  # Kafka keeps records 7 days
AUDIT = Pruned(
    "audit lines",
    "audit_line",
    "at",
    timedelta(days=365),  # CNIL, deliberation 2021-122: six months to a year
    where="t.position < (SELECT max(position) FROM audit_line)",  # the chain goes on from the newest
)
ALLOWANCES = Pruned("allowances", "allowance", "since", timedelta(days=40))  # a limit's longest window is a month


@dataclass(frozen=True, slots=True)
class Policy:
    """A service's retention rules. `kept`: the other tables, each with the reason."""

    pruned: Sequence[Pruned]
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def tables(self) -> set[str]:
        """Return every table with a rule or a reason."""
        return {rule.table for rule in self.pruned} | self.kept.keys() | KEPT_BY_ALL.keys()


@dataclass(frozen=True, slots=True)
class Pruner:
    database: Database
    policy: Policy
    batch: int = BATCH

    def worker(self) -> Worker:
        timer = Timer("prune", self.prune, POLL_EVERY_S, self.database)
        return Worker(timer.name, timer.run)

    async def prune(self) -> bool:
        """Apply a batch of each rule; return whether any row changed. A failing rule does not stop the others."""
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
