"""What must never be in the ledger, looked for while the service runs. Each rule asks the rows, not the code that keeps
the promise; `sms_dispatch_violations_total` stays 0, or somebody is called.

A timer looks at what was handed off since its last look, up to half a minute ago: until then an outcome may still be on
its way into the ledger. Who starts looks an hour back. Every worker looks, so one violation may count several times.
"""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.database import Database
from common.keyring import FieldKeys, Unreadable
from common.law import Policy, is_open
from common.msisdn import territory_of
from common.service import Worker
from common.telemetry import counter
from common.timer import Timer
from dispatch.gate import Limits

log = logging.getLogger(__name__)

VIOLATIONS = counter("sms_dispatch_violations_total", "Rows of the ledger that no promise of ours allows.", ["rule"])

LOOK_EVERY_S = 60.0
SETTLED_AFTER = timedelta(seconds=30)
FIRST_LOOK = timedelta(hours=1)
NAMED = 20  # messages of one rule that a look writes to the log
HOURS_SAMPLE = 1000  # messages of a look that are opened to see whose place and hour they were for

HANDED_OFF = "m.handed_off_at > :since AND m.handed_off_at <= :until"
ON_CONSENT = "(m.category = 'marketing' OR (m.category = 'service' AND m.purpose IS NOT NULL))"
RULES = {
    # promise 1: what begins after an opt-out is enforced was decided with it in sight
    "after_enforcement": (
        f"SELECT m.message_id FROM message AS m JOIN enforcement AS e USING (subject_id) WHERE {HANDED_OFF}"
        f" AND {ON_CONSENT} AND m.handed_off_at > e.enforced_at + :skew"
        " AND coalesce(m.consent_version, 0) < e.consent_version"
    ),
    # promise 1: nothing is decided on older knowledge
    "on_stale_consent": (
        f"SELECT m.message_id FROM message AS m WHERE {HANDED_OFF} AND {ON_CONSENT}"
        " AND (m.as_of IS NULL OR m.decided_at > m.as_of + :max_staleness)"
    ),
    # promise 4: what an operator has taken is one message
    "two_messages_in_one": (
        "SELECT unnest(array_agg(m.message_id)) AS message_id FROM message AS m"
        f" WHERE {HANDED_OFF} AND m.gateway_message_id IS NOT NULL"
        " GROUP BY m.gateway, m.gateway_message_id HAVING count(*) > 1"
    ),
    # promise 4: what has left is accounted for as such
    "left_but_not_counted": (
        f"SELECT m.message_id FROM message AS m WHERE {HANDED_OFF}"
        " AND m.status NOT IN ('sending', 'accepted', 'rejected', 'unknown')"
    ),
    # promise 4: nothing is lost: whoever sends has an end (and whoever waits is woken: the table takes nothing else)
    "sending_for_ever": (
        "SELECT DISTINCT m.message_id FROM sending AS s JOIN message AS m ON m.message_id = ANY(s.message_ids)"
        " WHERE m.status = 'sending' AND m.decided_at < :sent_by"
    ),
}
OUT_OF_HOURS = "out_of_hours"
OF_HOURS = (
    f"SELECT m.message_id, m.subject_id, m.number, m.region, m.handed_off_at FROM message AS m WHERE {HANDED_OFF}"
    " AND m.category = 'marketing' AND m.number IS NOT NULL LIMIT :many"
)


@dataclass(slots=True)
class Checker:
    """`policy`: the law itself, without the margin that the gate keeps. `sending_timeout`: as the sweep's."""

    database: Database
    field_keys: FieldKeys
    policy: Policy
    limits: Limits
    sending_timeout: timedelta
    _seen_until: datetime | None = field(default=None)

    def worker(self) -> Worker:
        for rule in (*RULES, OUT_OF_HOURS):
            VIOLATIONS.labels(rule)  # is 0 from the start: of a series that begins with 1 nothing has increased
        timer = Timer("invariants", self.look, LOOK_EVERY_S, self.database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        now = datetime.now(UTC)
        until = now - SETTLED_AFTER
        found = await self.violations(self._seen_until or until - FIRST_LOOK, until, now)
        self._seen_until = until
        for rule, messages in found.items():
            VIOLATIONS.labels(rule).inc(len(messages))
            log.critical("a promise is broken", extra={"rule": rule, "messages": ", ".join(messages[:NAMED])})
        return False

    async def violations(self, since: datetime, until: datetime, now: datetime) -> dict[str, list[str]]:
        """Message ids by rule, of the rules that something breaks."""
        told = {
            "since": since,
            "until": until,
            "skew": self.limits.max_clock_skew,
            "max_staleness": self.limits.max_staleness,
            "sent_by": now - self.sending_timeout - timedelta(seconds=LOOK_EVERY_S),
        }
        found = {}
        async with self.database.begin() as tx:
            for rule, query in RULES.items():
                used = {name: value for name, value in told.items() if f":{name}" in query}
                found[rule] = [str(row.message_id) for row in await tx.execute(text(query), used)]
            found[OUT_OF_HOURS] = await self._out_of_hours(tx, since, until)
        return {rule: messages for rule, messages in found.items() if messages}

    async def _out_of_hours(self, tx: AsyncConnection, since: datetime, until: datetime) -> list[str]:
        rows = await tx.execute(text(OF_HOURS), {"since": since, "until": until, "many": HOURS_SAMPLE})
        return [str(row.message_id) for row in rows if not self._within_hours(row)]

    def _within_hours(self, row: Row[Any]) -> bool:
        try:
            number = self.field_keys.unseal(row.number, f"number:{row.subject_id}")
        except Unreadable:
            return True  # of a key that is gone: nobody can tell any more
        return is_open(row.handed_off_at, territory_of(number), self.policy, region=row.region)
