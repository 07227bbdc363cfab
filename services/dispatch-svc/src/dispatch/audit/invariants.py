"""Invariants of the ledger, checked while the service runs.

Each rule queries the rows, not the code that keeps the promise. `sms_dispatch_violations_total` stays 0, or a person is
called.

A timer checks every message decided or handed off since the last poll, up to half a minute ago: until then an outcome
may be on its way. A slower outcome is seen only by the first poll of a starting worker, which goes back an hour. Every
worker polls, so a violation may count several times.

The tallies: each decided message is `sending`, or in one term of promise 4's sum, and only in the place where such
messages are looked for: `due_at` of a waiting message, `unknown_since` of an unknown message, the batch of a `sending`
message. A message in no such place is lost.

No row shows a message that left twice: the writer of the second answer detects the case (`sending/second_sms.py`).

Two messages with the same id of one gateway are found within `LATE_DAYS` of each other where DLRs name only this id
(`known_as`, which has an index), else only in the same poll.
"""

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database, plan_now
from common.db.timer import Timer, Worker
from common.law import Policy, is_open
from dispatch.messages.row import own_facts_of
from dispatch.messages.store import ON_CONSENT, VIOLATIONS, decided_long_ago
from dispatch.privacy.pruning import LATE_DAYS
from dispatch.projection.limits import Limits

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
SETTLED_AFTER = timedelta(seconds=30)
FIRST_LOOK = timedelta(hours=1)
NAMED = 20  # messages per rule that a poll logs
MOST = 1000  # messages per rule that a poll counts

DECIDED = "m.decided_at > :since AND m.decided_at <= :until"
HANDED_OFF = "m.handed_off_at > :since AND m.handed_off_at <= :until"
# the decision record (`gate/record.py`) holds all that `gate/rules.py` read; without a record no message is allowed
FACTS = own_facts_of("m")
# OFFSET 0 keeps each expression in its place: Postgres would repeat the whole at each mention of `k.person`
PERSON = (
    "(SELECT CASE WHEN r.own IS JSON OBJECT THEN r.own::jsonb -> 'person' END AS person"
    f" FROM (SELECT {FACTS} AS own OFFSET 0) AS r OFFSET 0)"
)
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
    # promise 1: a hand-off after an enforced opt-out was decided with the opt-out known
    "after_enforcement": (
        f"SELECT m.message_id FROM message AS m JOIN enforcement AS e USING (subject_id) WHERE {HANDED_OFF}"
        f" AND {ON_CONSENT} AND m.handed_off_at > e.enforced_at + :skew"
        " AND coalesce(m.consent_version, 0) < e.consent_version"
    ),
    # promises 1 and 2: the decision record allows the message. The record names sender and purpose of a STOP known to
    # the decision; the enforcement does not
    "against_its_record": (
        f"SELECT m.message_id FROM message AS m CROSS JOIN LATERAL {PERSON} AS k WHERE {HANDED_OFF}"
        f" AND ((m.category = 'marketing' AND NOT {MAY_BE_WRITTEN_TO})"
        f" OR (m.category = 'service' AND m.purpose IS NOT NULL AND NOT {MAY_BE_ASKED}))"
    ),
    # promise 1
    "on_stale_consent": (
        f"SELECT m.message_id FROM message AS m WHERE {HANDED_OFF} AND {ON_CONSENT}"
        " AND (m.as_of IS NULL OR m.decided_at > m.as_of + :max_staleness)"
    ),
    # promise 4: an operator's id belongs to one message; DLRs could not tell two apart
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
    # promise 4
    "left_but_not_counted": (
        f"SELECT m.message_id FROM message AS m WHERE {HANDED_OFF}"
        " AND m.status NOT IN ('sending', 'accepted', 'rejected', 'unknown')"
    ),
    # promise 4: the tallies add up
    "does_not_add_up": (
        f"SELECT m.message_id FROM message AS m WHERE {DECIDED} AND NOT ("
        "CASE m.status WHEN 'sending' THEN m.message_id IN (SELECT unnest(s.message_ids) FROM sending AS s) ELSE"
        " m.status IN ('pending', 'denied', 'deferred', 'expired', 'accepted', 'rejected', 'unknown') END"
        " AND (m.due_at IS NOT NULL) = (m.status IN ('pending', 'deferred'))"
        " AND (m.unknown_since IS NOT NULL) = (m.status = 'unknown'))"
    ),
    # promise 4: no message is lost: `sending` ends (and a waiting message is woken: the table requires `due_at`)
    "sending_for_ever": (
        "SELECT DISTINCT m.message_id FROM sending AS s CROSS JOIN LATERAL (SELECT m.message_id FROM message AS m"
        " WHERE m.message_id = ANY(s.message_ids) AND m.status = 'sending'"
        f" AND {decided_long_ago('CAST(:sent_for AS interval)')} OFFSET 0) AS m"
        " WHERE s.since < now() - CAST(:sent_for AS interval)"
        " ORDER BY m.message_id"  # two polls find the same
    ),
}
# promise 6: hours begin and end on the minute, so one instant stands for all hand-offs of the minute in one place. The
# place comes from the decision record; without a record the place is empty, which is never open
OUT_OF_HOURS = "out_of_hours"
TERRITORY = """coalesce(split_part(split_part(m.facts, '"to":"', 2), '"', 1), '')"""
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
    """The timer that checks the invariants. `policy` is the law itself, without the gate's margin."""

    database: Database
    policy: Policy
    limits: Limits
    sending_timeout: timedelta
    _seen_until: datetime | None = field(default=None)
    _late: frozenset[str] = frozenset()  # `sending` for too long at the last poll

    def worker(self) -> Worker:
        for rule in (*RULES, OUT_OF_HOURS):
            VIOLATIONS.labels(rule)  # from 0: a series that begins at 1 shows no increase
        timer = Timer("invariants", self.look, LOOK_EVERY_S, self.database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        until = datetime.now(UTC) - SETTLED_AFTER
        found = await self.violations(self._seen_until or until - FIRST_LOOK, until)
        self._seen_until = until
        late = found.pop("sending_for_ever", [])
        if still := [message_id for message_id in late if message_id in self._late]:
            found["sending_for_ever"] = still
        self._late = frozenset(late)
        for rule, messages in found.items():
            VIOLATIONS.labels(rule).inc(len(messages))
            log.critical("a promise is broken", extra={"rule": rule, "messages": ", ".join(messages[:NAMED])})
        return False

    async def violations(self, since: datetime, until: datetime) -> dict[str, list[str]]:
        """Return message ids by violated rule."""
        told = {
            "since": since,
            "until": until,
            "skew": self.limits.max_clock_skew,
            "max_staleness": self.limits.max_staleness,
            "receipts_come": timedelta(days=LATE_DAYS),
            "most": MOST,
            "sent_for": self.sending_timeout + timedelta(seconds=LOOK_EVERY_S),
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
