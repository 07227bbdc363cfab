"""What must never be in the ledger, looked for while the service runs. Each rule asks the rows, not the code that keeps
the promise; `sms_dispatch_violations_total` stays 0, or somebody is called.

A timer looks at all that was decided or handed off since its last look, up to half a minute ago: until then an outcome
may still be on its way into the ledger. One that takes longer is in no look but the first of who starts, which goes an
hour back. Every worker looks, so one violation may count several times; of one rule a look counts `MOST`. Nothing is
unsealed.

What adds up: each message that was decided is in one term of promise 4's sum (pending, denied, deferred, expired,
accepted, rejected, unknown) or `sending`, and where those of its term are looked for, and in no other place. What waits
has its hour (`due_at`), what is unknown its instant (`unknown_since`), what is `sending` is listed in a batch. One that
is in none of these places is lost: nobody wakes it, asks about it, or sees it when an opt-out is enforced.

One message that left twice shows in no row, which has room for one: who stores the second answer finds it
(`pipeline.py`, `accepted_twice`).

Two messages of one gateway's id are found whenever they left where the gateway's receipts name nothing else
(`known_as`, which has an index). Of the other gateways no index has their ids: of those, two of the same look are.
"""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database, plan_now
from common.db.timer import Timer
from common.law import Policy, is_open
from common.service import Worker
from dispatch.gate.rules import Limits
from dispatch.privacy.pruning import LATE_DAYS
from dispatch.store import VIOLATIONS

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
SETTLED_AFTER = timedelta(seconds=30)
FIRST_LOOK = timedelta(hours=1)
NAMED = 20  # messages of one rule that a look writes to the log
MOST = 1000  # messages of one rule that a look counts

DECIDED = "m.decided_at > :since AND m.decided_at <= :until"
HANDED_OFF = "m.handed_off_at > :since AND m.handed_off_at <= :until"
ON_CONSENT = "(m.category = 'marketing' OR (m.category = 'service' AND m.purpose IS NOT NULL))"
# of a record (`record.py`), which says as much as `gate.py` looked at; without one nothing allows a message
PERSON = "CASE WHEN m.facts IS JSON OBJECT THEN m.facts::jsonb -> 'person' END"
STANDS = "(k.person #>> '{{consent,{}}}')"
SAID_AT, STOPPED_AT = f"{STANDS.format('at')}::timestamptz", "(k.person ->> 'stopped')::timestamptz"
MAY_BE_WRITTEN_TO = (
    f"coalesce({STANDS.format('state')} = 'opted_in' AND {STANDS.format('proven')} = 'true'"
    f" AND {STANDS.format('basis')} IS NOT NULL"
    " AND coalesce(k.person ->> 'erased', '') <> 'true' AND coalesce(k.person ->> 'unreadable', '') <> 'true'"
    f" AND coalesce({STANDS.format('until')}::timestamptz > m.decided_at, true)"
    f" AND coalesce({STOPPED_AT} < {SAID_AT}, true), false)"
)
MAY_BE_ASKED = (
    "(k.person IS NOT NULL AND coalesce(k.person ->> 'unreadable', '') <> 'true'"
    f" AND NOT coalesce({STANDS.format('state')} IN ('opted_out', 'expired') AND {SAID_AT} >= m.requested_at, false)"
    f" AND NOT coalesce({STOPPED_AT} >= m.requested_at, false))"
)
RULES = {
    # promise 1: what begins after an opt-out is enforced was decided with it in sight (and the next rule says how)
    "after_enforcement": (
        f"SELECT m.message_id FROM message AS m JOIN enforcement AS e USING (subject_id) WHERE {HANDED_OFF}"
        f" AND {ON_CONSENT} AND m.handed_off_at > e.enforced_at + :skew"
        " AND coalesce(m.consent_version, 0) < e.consent_version"
    ),
    # promises 1 and 2: what it was decided on allows it. A STOP that a decision had in sight, by its own version or a
    # later one, forbids what is of its sender and purpose: which those are no enforcement says, and the record does
    "against_its_record": (
        f"SELECT m.message_id FROM message AS m CROSS JOIN LATERAL (SELECT {PERSON} AS person) AS k WHERE {HANDED_OFF}"
        f" AND ((m.category = 'marketing' AND NOT {MAY_BE_WRITTEN_TO})"
        f" OR (m.category = 'service' AND m.purpose IS NOT NULL AND NOT {MAY_BE_ASKED}))"
    ),
    # promise 1: nothing is decided on older knowledge
    "on_stale_consent": (
        f"SELECT m.message_id FROM message AS m WHERE {HANDED_OFF} AND {ON_CONSENT}"
        " AND (m.as_of IS NULL OR m.decided_at > m.as_of + :max_staleness)"
    ),
    # promise 4: what an operator has taken is one message; its receipts could not tell two apart
    "two_messages_in_one": (
        "SELECT unnest(array_agg(m.message_id)) AS message_id FROM message AS m"
        f" WHERE {HANDED_OFF} AND m.gateway_message_id IS NOT NULL AND m.known_as IS NULL"
        " GROUP BY m.gateway, m.gateway_message_id HAVING count(*) > 1"
        " UNION SELECT unnest(ARRAY[m.message_id, other.message_id]) FROM message AS m CROSS JOIN LATERAL"
        " (SELECT o.message_id FROM message AS o WHERE o.gateway = m.gateway AND o.known_as = m.known_as"
        " AND o.message_id <> m.message_id"
        " AND m.handed_off_at < coalesce(o.handed_off_at, o.decided_at) + :receipts_come LIMIT 1) AS other"
        f" WHERE {HANDED_OFF} AND m.known_as IS NOT NULL"
    ),
    # promise 4: what has left is accounted for as such
    "left_but_not_counted": (
        f"SELECT m.message_id FROM message AS m WHERE {HANDED_OFF}"
        " AND m.status NOT IN ('sending', 'accepted', 'rejected', 'unknown')"
    ),
    # promise 4: the sums add up
    "does_not_add_up": (
        f"SELECT m.message_id FROM message AS m WHERE {DECIDED} AND NOT ("
        "CASE m.status WHEN 'sending' THEN m.message_id IN (SELECT unnest(s.message_ids) FROM sending AS s) ELSE"
        " m.status IN ('pending', 'denied', 'deferred', 'expired', 'accepted', 'rejected', 'unknown') END"
        " AND (m.due_at IS NOT NULL) = (m.status IN ('pending', 'deferred'))"
        " AND (m.unknown_since IS NOT NULL) = (m.status = 'unknown'))"
    ),
    # promise 4: nothing is lost: whoever sends has an end (and whoever waits is woken: the table takes nothing else)
    "sending_for_ever": (
        "SELECT DISTINCT m.message_id FROM sending AS s CROSS JOIN LATERAL (SELECT message_id FROM message"
        " WHERE message_id = ANY(s.message_ids) AND status = 'sending' AND decided_at < :sent_by OFFSET 0) AS m"
        " ORDER BY m.message_id"  # so that two looks find the same
    ),
}
# promise 6: hours begin and end with a minute, so one instant of a minute tells of all that left in it for one place.
# That is the place the decision stood on, as the number is sealed; without a record it is none, which is never open
OUT_OF_HOURS = "out_of_hours"
TERRITORY = """coalesce(substring(m.facts FROM '"to":"([^"]*)"'), '')"""
MINUTE = "date_trunc('minute', m.handed_off_at)"
MINUTES = (
    f"SELECT DISTINCT {TERRITORY} AS territory, m.region, {MINUTE} AS minute FROM message AS m"
    f" WHERE {HANDED_OFF} AND m.category = 'marketing'"
)
OF_MINUTES = (
    f"SELECT m.message_id FROM message AS m WHERE {HANDED_OFF} AND m.category = 'marketing' AND EXISTS (SELECT FROM"
    " unnest(CAST(:territories AS text[]), CAST(:regions AS text[]), CAST(:minutes AS timestamptz[]))"
    f" AS closed(territory, region, minute) WHERE closed.territory = {TERRITORY} AND closed.minute = {MINUTE}"
    " AND closed.region IS NOT DISTINCT FROM m.region) LIMIT :most"
)


@dataclass(slots=True)
class Checker:
    """`policy`: the law itself, without the margin that the gate keeps. `sending_timeout`: as the sweep's."""

    database: Database
    policy: Policy
    limits: Limits
    sending_timeout: timedelta
    _seen_until: datetime | None = field(default=None)
    _late: frozenset[str] = frozenset()  # what the last look found `sending` for too long

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
        late = found.pop("sending_for_ever", [])
        if still := [message_id for message_id in late if message_id in self._late]:
            found["sending_for_ever"] = still
        self._late = frozenset(late)
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
            "receipts_come": timedelta(days=LATE_DAYS),
            "most": MOST,
            "sent_by": now - self.sending_timeout - timedelta(seconds=LOOK_EVERY_S),
        }
        found = {}
        async with self.database.begin() as tx:
            await plan_now(tx)
            for rule, query in RULES.items():
                limited = f"{query} LIMIT :most"
                used = {name: value for name, value in told.items() if f":{name}" in limited}
                found[rule] = [str(row.message_id) for row in await tx.execute(text(limited), used)]
            found[OUT_OF_HOURS] = await self._out_of_hours(tx, since, until)
        return {rule: messages for rule, messages in found.items() if messages}

    async def _out_of_hours(self, tx: AsyncConnection, since: datetime, until: datetime) -> list[str]:
        looked_at = {"since": since, "until": until}
        minutes = await tx.execute(text(MINUTES), looked_at)
        closed = [m for m in minutes if not is_open(m.minute, m.territory, self.policy, region=m.region)]
        if not closed:
            return []
        of = {
            "territories": [m.territory for m in closed],
            "regions": [m.region for m in closed],
            "minutes": [m.minute for m in closed],
        }
        rows = await tx.execute(text(OF_MINUTES), {**looked_at, **of, "most": MOST})
        return [str(row.message_id) for row in rows]
