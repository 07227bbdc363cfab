"""End the ledger: after the term of proof an erased entry goes, and leaves a stub for the seals (ADR-0092).

A pass looks at each entry older than the term, the oldest first, and begins anew an hour after its end. The place of a
pass is kept nowhere: after a crash the pass begins anew.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from common.db.database import Database
from common.db.timer import Timer, Worker
from common.telemetry import counter
from consent.ledger import ended_store
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store

BATCH = 2000
PASS_EVERY_S = 3600.0

ENDED = counter("sms_consent_ended_entries_total", "Ledger entries replaced by a stub after their term of proof.")


@dataclass(slots=True)
class Ending:
    """The timer. `term`: after the erasure of everything of a person."""

    database: Database
    term: timedelta
    batch: int = BATCH
    _after: int = 0

    def worker(self) -> Worker:
        timer = Timer("ledger end", self.end_erased, PASS_EVERY_S, self.database)
        return Worker(timer.name, timer.run)

    async def end_erased(self) -> bool:
        """Look at the next entries of the pass; return whether more are left."""
        now = datetime.now(UTC)
        before = now - self.term
        async with self.database.begin() as tx:
            up_to = await ended_store.place_after(tx, self._after, before, self.batch)
            if up_to is None:
                self._after = 0
                return False
            found = await ended_store.over(tx, self._after, up_to, before)
            standing = await ledger_store.standing_of(tx, [each.subject_id for each in found])
            open_by = {
                consent.evidence_id
                for each in standing.values()
                for consent in ledger.consents(each.state)
                if consent.state in ("opted_in", "pending")
            }
            ended = await ended_store.end(tx, [each for each in found if each.evidence_id not in open_by], now)
        ENDED.inc(ended)
        self._after = up_to
        return True
