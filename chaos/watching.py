"""Check the promises all the while, in the operator's log and the services' ledgers, past every wire.

A check that cannot reach its data leaves the data to the next; each violation is printed at once.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from chaos import checks
from chaos.checks import Account, AtRest, Standings, Violation
from chaos.load import Load, Round
from chaos.system import CLOCK_JUMP_S, LOOK_WITHIN_S, OLDEST_KNOWLEDGE, System
from common.contracts import INBOUND_MESSAGES, STATES
from common.contracts.consent import ConsentStateChanged
from common.db.database import Database
from common.kafka import broker as kafka
from common.keyring import SubjectKeys
from common.law import load
from common.settings import SubjectRingSettings
from dispatch.audit.invariants import SETTLED_AFTER, Checker
from dispatch.projection.limits import Limits
from stack.calling import DemoFailed
from stack.environment import PARTITIONS

STALE_S, SKEW_S = 2.0, 0.1  # max_staleness, max_clock_skew: beyond, marketing is held
SAMPLE_EVERY_S = 0.2
LOOK_EVERY_S = 1.0
STANDINGS_EVERY = 5  # looks
MOVED_BY = timedelta(seconds=CLOCK_JUMP_S + 2)
RESTS_WITHIN_S = 30.0
READ_MS = 500
# readers of watermarks: service, group, topic
WATERMARKED = (
    ("dispatch", "dispatch.consents", STATES.name),
    ("campaign", "campaign.consents", STATES.name),
    ("consent", "consent.inbound", INBOUND_MESSAGES.name),
)
RECENT = timedelta(seconds=60)  # enforcements are read again for so long: a commit may come late
# a permit, a submit and the margin: then dispatch-svc takes a `sending` message for a crash's
SENDING_TIMEOUT = timedelta(seconds=14)

# errors of asyncpg for a server that has gone
GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)

ENFORCED = "SELECT reference, enforced_at FROM enforcement WHERE enforced_at > $1 AND reference IS NOT NULL"
COUNTED = ("audience", "pending", "denied", "deferred", "expired", "accepted", "rejected", "unknown")
ACCOUNTS = (
    f"SELECT campaign_id, {', '.join(f'sum({name}) AS {name}' for name in COUNTED)}"
    " FROM campaign_accounts GROUP BY campaign_id"
)
RECIPIENTS = "SELECT campaign_id, status, count(*) AS many FROM recipient GROUP BY campaign_id, status"
OFFSETS = "SELECT consumer_group, topic, partition, next_offset, as_of FROM consumer_offset"
VERSIONS = "SELECT subject_id, version FROM subject"
KNOWN = "SELECT subject_id, version, consents, suppressions FROM subject WHERE subject_id = ANY($1::text[])"
STATUSES = "SELECT message_id::text AS id, status FROM message WHERE message_id = ANY($1::uuid[])"


@dataclass(frozen=True, slots=True)
class Hold:
    """A period in which marketing was held, from `began_s` after the start."""

    began_s: float
    lasted_s: float


@dataclass(slots=True)
class Watch:
    """`violations`: each once, in the order of discovery. `started`: monotonic."""

    system: System
    load: Load
    say: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    account: Account = field(init=False)
    violations: list[Violation] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    at_rest: list[AtRest] = field(default_factory=list)  # checks at the end
    looks: int = 0
    looks_failed: int = 0
    _dispatch: Standings = field(default_factory=lambda: Standings("dispatch-svc"))
    _forgiven: int = 0  # losses known to the standings
    _read: int = 0  # bytes of the operator's log
    _held_since: float | None = None
    _unchecked: set[str] = field(default_factory=set)  # references taken by the operator since the last look
    _subjects: SubjectKeys = field(init=False)

    def __post_init__(self) -> None:
        self.account = Account(self.system.losses)
        self._subjects = SubjectKeys(SubjectRingSettings.model_validate_json(self.system.environment.subject_keys))

    async def run(self) -> None:
        """Watch until cancelled."""
        await asyncio.gather(self._sample(), self._look_on())

    async def finish(self) -> None:
        """Check everything once more, with the system at rest."""
        if self._held_since is not None:
            self._hold_ends(time.monotonic())
        self.note(self._operators_log())
        await self._enforcements(since=datetime.fromtimestamp(0, UTC))
        await self._standings(all_of_them=True)
        await self._invariants(everything=True)
        await self._all_ends()
        if self.system.lost_records:
            await self._enforced_by_another_word()
        self.note(checks.never_enforced(self.account))
        if not self.system.foreign:
            self.note(checks.newest_is_last(await self._log_of_states()))
        self.at_rest = [await self._rests(look) for look in (self._pending, self._unread, self._fresh, self._ends)]
        self.at_rest.append(checks.every_stop_enforced(self.account))
        self.note([violation for one in self.at_rest for violation in one.violations])

    # --- holds

    async def _sample(self) -> None:
        while True:
            try:
                async with self._connection("dispatch") as sql:
                    while True:
                        oldest = await sql.fetchval(OLDEST_KNOWLEDGE, PARTITIONS)
                        self._sampled(None if oldest is None else (datetime.now(UTC) - oldest).total_seconds())
                        await asyncio.sleep(SAMPLE_EVERY_S)
            except GONE:
                self._sampled(None)
                await asyncio.sleep(SAMPLE_EVERY_S)

    def _sampled(self, age: float | None) -> None:
        """Note the age of dispatch-svc's consent data, in seconds; `None`: unknown, so held."""
        now, fresh = time.monotonic(), age is not None and -SKEW_S <= age <= STALE_S
        if not fresh and self._held_since is None:
            self._held_since = now
        elif fresh and self._held_since is not None:
            self._hold_ends(now)

    def _hold_ends(self, now: float) -> None:
        assert self._held_since is not None
        self.holds.append(Hold(round(self._held_since - self.started, 1), round(now - self._held_since, 1)))
        self._held_since = None

    # --- the promises

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self.looks += 1
            try:
                async with asyncio.timeout(4 * LOOK_WITHIN_S):
                    self.note(self._operators_log())
                    await self._enforcements(since=datetime.now(UTC) - RECENT)
                    await self._statuses()
                    await self._accounts()
                    if self.looks % STANDINGS_EVERY == 0:
                        await self._standings()
                        await self._invariants()
            except (*GONE, DemoFailed):
                self.looks_failed += 1
            except ProgrammingError:  # a missing table or column, which no later look finds
                raise
            except SQLAlchemyError:  # a database that has gone, by SQLAlchemy
                self.looks_failed += 1

    def note(self, found: Sequence[Violation]) -> None:
        for violation in found:
            if violation not in self.violations:
                self.violations.append(violation)
                self.say(f"VIOLATION of promise {violation.promise}, {violation.check}: {violation.what}")

    def _operators_log(self) -> list[Violation]:
        with self.system.simulator_log.open("rb") as file:
            file.seek(self._read)
            lines = file.read().split(b"\n")
        self._read += sum(len(line) + 1 for line in lines[:-1])  # the last line is incomplete or empty
        told = [msgspec.json.decode(line) for line in lines[:-1]]
        self._unchecked |= {line["reference"] for line in told if line["kind"] == "submit"}
        return self.account.take(told)

    async def _enforcements(self, since: datetime) -> None:
        async with self._connection("dispatch") as sql:
            rows = await sql.fetch(ENFORCED, since)
        for row in rows:
            reply = row["reference"].rsplit("/", 1)[-1]
            at = datetime.now(UTC) if self._moved(since) else row["enforced_at"]
            self.note(self.account.take_enforced(reply, at))

    def _moved(self, since: datetime) -> bool:
        """Return whether the clock of dispatch-svc has moved since: its instants then prove nothing."""
        return any(ended + MOVED_BY > since for _, ended in self.system.jumps)

    async def _enforced_by_another_word(self) -> None:
        """Count a STOP lost from a log as enforced by the operator's list, without its own id.

        Such a person is opted out in dispatch-svc.
        """
        missing = self.account.acknowledged.keys() - self.account.enforced
        people = {reply: self.account.stops[reply][0] for reply in missing}
        subjects = {reply: self._subjects.subject_id(person.number) for reply, person in people.items()}
        async with self._connection("dispatch") as sql:
            rows = await sql.fetch(KNOWN, list(subjects.values()))
        closed = {
            (row["subject_id"], each["sender_id"])
            for row in rows
            for each in msgspec.json.decode(row["consents"])
            if each["state"] == "opted_out"
        }
        senders = {one.code: one.sender for one in self.load.rounds}
        for reply, person in people.items():
            if (subjects[reply], senders.get(person.code)) in closed:
                self.note(self.account.take_enforced(reply, datetime.now(UTC), by_list=True))

    async def _statuses(self) -> None:
        """Check the messages that the operator has taken since the last look."""
        asked = {each for each in self._unchecked if each in self.account.taken}
        async with self._connection("dispatch") as sql:
            found = {row["id"]: row["status"] for row in await sql.fetch(STATUSES, [UUID(each) for each in asked])}
        statuses = {each: found.get(each) for each in asked}
        self.note(checks.contradicted(statuses, self.account.taken, self.system.losses))
        self._unchecked = set()

    async def _accounts(self) -> None:
        accounts, statuses = await self._campaigns()
        for campaign, counts in accounts.items():
            self.note(checks.adds_up(campaign, counts, statuses[campaign]))

    async def _campaigns(self) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
        """Return each campaign's counters, and its recipients by status, at one instant."""
        async with self._connection("campaign") as sql, sql.transaction(isolation="repeatable_read", readonly=True):
            accounts = {row["campaign_id"]: {name: row[name] for name in COUNTED} for row in await sql.fetch(ACCOUNTS)}
            statuses: dict[str, dict[str, int]] = defaultdict(dict)
            for row in await sql.fetch(RECIPIENTS):
                statuses[row["campaign_id"]][row["status"]] = row["many"]
        return accounts, statuses

    async def _standings(self, *, all_of_them: bool = False) -> None:
        """Check each subject's version, and the opt-outs of people with an enforced STOP."""
        stopped: dict[str, list[str]] = defaultdict(list)  # numbers by code
        for reply in self.account.enforced:
            person = self.account.stops[reply][0]
            stopped[person.code].append(person.number)
        subjects = [self._subjects.subject_id(each) for numbers in stopped.values() for each in numbers]
        if any(loss.service == "dispatch" and loss.until is None for loss in self.system.losses):
            return  # a coming loss forgets these rows
        if (lost := sum(loss.service == "dispatch" for loss in self.system.losses)) > self._forgiven:
            self._forgiven, self._dispatch = lost, Standings("dispatch-svc")
        async with self._connection("dispatch") as sql:
            everybody = await sql.fetch(VERSIONS)
            rows = await sql.fetch(KNOWN, subjects)
        for row in everybody:
            self.note(self._dispatch.take(row["subject_id"], row["version"], (), ()))
        for row in rows:
            consents = msgspec.json.decode(row["consents"])
            everyone = any(each["sender_id"] is None for each in msgspec.json.decode(row["suppressions"]))
            closed = [each["sender_id"] for each in consents if each["state"] == "opted_out"]
            opened = [each["sender_id"] for each in consents if each["state"] == "opted_in" and not everyone]
            self.note(self._dispatch.take(row["subject_id"], row["version"], closed, opened))
        for one in self.load.rounds if all_of_them else self.load.rounds[-3:]:
            if (numbers := stopped.get(one.code)) and not self._consent_forgets():
                asked = {"sender_id": one.sender, "purpose": "promotions", "numbers": numbers}
                async with asyncio.timeout(None if all_of_them else LOOK_WITHIN_S):
                    answer = await self.load.api.call("POST", "consent", "/v1/consents/check", asked)
                self.note(checks.open_again(one.sender, answer["results"]))

    def _consent_forgets(self) -> bool:
        """Return whether consent-svc's database still lacks lost STOPs, until all is ready again."""
        return any(loss.service == "consent" and not loss.made_good for loss in self.system.losses)

    async def _invariants(self, *, everything: bool = False) -> None:
        """Check dispatch-svc's own invariants from a process that no fault kills.

        Instants stamped by a moved clock are left out, as no two of them can be compared.
        """
        now = datetime.now(UTC)
        since, until = (self.began, now) if everything else (now - SETTLED_AFTER - RECENT, now - SETTLED_AFTER)
        for begin, end in checks.between(since, until, self.system.jumps, MOVED_BY):
            await self._invariants_of(begin, end)

    async def _invariants_of(self, since: datetime, until: datetime) -> None:
        database = Database(self.system.databases["dispatch"], pool_size=1, name="chaos")
        limits = Limits(max_staleness=timedelta(seconds=STALE_S), max_clock_skew=timedelta(seconds=SKEW_S))
        checker = Checker(database, load("demonstration"), limits, SENDING_TIMEOUT)
        try:
            found = await checker.violations(since, until)
        finally:
            await database.close()
        promises = {"after_enforcement": 1, "against_its_record": 1, "on_stale_consent": 1}
        self.note([
            Violation(promises.get(rule, 4), rule, f"message {message}")
            for rule, messages in found.items()
            for message in messages
        ])  # fmt: skip

    async def _all_ends(self) -> None:
        accounts, statuses = await self._campaigns()
        for one in self.load.rounds:
            if one.campaign in accounts:
                counts, by_status = accounts[one.campaign], statuses[one.campaign]
                self.note(checks.adds_up(one.campaign, counts, by_status))
                if one.whole and not self._lost_of(one):
                    self.note(checks.lost(one.campaign, len(one.people), counts, by_status))
            elif one.campaign and one.whole:
                self.note([Violation(4, "lost", f"campaign {one.campaign} was never begun")])
        async with self._connection("dispatch") as sql:
            ledger = {
                row["id"]: row["status"]
                for row in await sql.fetch(
                    "SELECT message_id::text AS id, status FROM message WHERE category = 'marketing'"
                )
            }
        taken = self.account.taken
        self.note(checks.contradicted({each: ledger.get(each) for each in taken}, taken, self.system.losses))
        self.note(checks.never_taken(ledger, taken))

    def _lost_of(self, one: Round) -> bool:
        """Return whether a database has lost rows of this campaign's account."""
        return any(loss.service in ("campaign", "dispatch") and one.during(loss) for loss in self.system.losses)

    # --- at the end

    async def _rests(self, look: Callable[[], Awaitable[AtRest]]) -> AtRest:
        """Repeat a check until nothing is wrong, for RESTS_WITHIN_S: late events are on their way."""
        deadline = time.monotonic() + RESTS_WITHIN_S
        while True:
            found = await look()
            if not found.why or time.monotonic() > deadline:
                return found
            await asyncio.sleep(LOOK_EVERY_S)

    async def _pending(self) -> AtRest:
        waiting = {}
        for service in self.system.databases:
            async with self._connection(service) as sql:
                waiting[f"events of {service}"] = await sql.fetchval("SELECT count(*) FROM outbox")
        over = [one.campaign for one in self.load.rounds if one.finished]
        async with self._connection("dispatch") as sql:
            waiting["messages sending"] = await sql.fetchval("SELECT count(*) FROM message WHERE status = 'sending'")
            waiting["messages of campaigns that are over"] = await sql.fetchval(
                "SELECT count(*) FROM message WHERE status IN ('pending', 'deferred') AND campaign_id = ANY($1)", over
            )
        return checks.nothing_pending(waiting)

    async def _unread(self) -> AtRest:
        """Check that each reader has stepped over every record.

        Watermarks after the beginning of the look do not count. A transaction's end takes an offset and is no record.
        """
        consumer = AIOKafkaConsumer(bootstrap_servers=self.system.broker.bootstrap, enable_auto_commit=False)
        await consumer.start()
        try:
            readers = {(group, topic) for group, topic, _ in await self._offsets()}
            places = [TopicPartition(topic, n) for topic in {topic for _, topic in readers} for n in range(PARTITIONS)]
            ends = await consumer.end_offsets(places)
            await asyncio.sleep(LOOK_EVERY_S)
            offsets = await self._offsets()
            left: dict[str, int | None] = {}
            for group, topic in sorted(readers):
                for number in range(PARTITIONS):
                    place, reached = TopicPartition(topic, number), offsets.get((group, topic, number))
                    if reached is None:
                        left[f"{group} of {topic} {number}"] = None
                    elif reached < ends[place]:
                        many = len(await _log(consumer, place, reached, ends[place]))
                        left[f"{group} of {topic} {number}"] = many
            return checks.nothing_unread(left)
        finally:
            await consumer.stop()

    async def _offsets(self) -> dict[tuple[str, str, int], int]:
        found: dict[tuple[str, str, int], int] = {}
        for service in self.system.databases:
            async with self._connection(service) as sql:
                for row in await sql.fetch(OFFSETS):
                    found[row["consumer_group"], row["topic"], row["partition"]] = row["next_offset"]
        return found

    async def _ends(self) -> AtRest:
        told = {
            one.campaign: await self.load.api.call("GET", "campaign", f"/v1/campaigns/{one.campaign}")
            for one in self.load.rounds
            if one.campaign and one.whole
        }
        return checks.every_campaign_ends(told)

    async def _fresh(self) -> AtRest:
        """Check the age of applied watermarks."""
        ages: dict[str, float | None] = {}
        for service, group, topic in WATERMARKED:
            async with self._connection(service) as sql:
                rows = await sql.fetch(f"{OFFSETS} WHERE consumer_group = $1 AND topic = $2", group, topic)
            applied = {row["partition"]: row["as_of"] for row in rows}
            for number in range(PARTITIONS):
                as_of = applied.get(number)
                age = None if as_of is None else (datetime.now(UTC) - as_of).total_seconds()
                ages[f"{group} of {topic} {number}"] = age
        return checks.all_fresh(ages, STALE_S)

    async def _log_of_states(self) -> list[tuple[str, int]]:
        """Return key and version of each state, in the order of its partition."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.system.broker.bootstrap, enable_auto_commit=False)
        await consumer.start()
        try:
            found = []
            for number in range(PARTITIONS):
                for record in await _log(consumer, TopicPartition(STATES.name, number)):
                    event = kafka.decode(record.value, record.headers)
                    if isinstance(event, ConsentStateChanged):
                        found.append((event.subject_id, event.version))
            return found
        finally:
            await consumer.stop()

    async def dead_letters(self) -> int:
        many = 0
        for service in self.system.databases:
            async with self._connection(service) as sql:
                many += await sql.fetchval("SELECT count(*) FROM dead_letter")
        return many

    async def waiting(self) -> list[str]:
        """Return what has not come to rest, and is no loss yet."""
        why = [f"campaign {one.code} is {one.status}{one.waits}" for one in self.load.rounds if not one.over]
        try:
            if self.system.lost_records and not why:
                await self._enforced_by_another_word()
            for service in self.system.databases:
                async with self._connection(service) as sql:
                    rows = await sql.fetchval("SELECT count(*) FROM outbox")
                why += [f"{rows} events of {service} wait"] if rows else []
        except GONE as error:
            why.append(f"a database did not answer: {type(error).__name__}")
        missing = len(self.account.acknowledged.keys() - self.account.enforced)
        why += [f"{missing} STOPs are not enforced"] if missing else []
        counts = await self.load.api.call("GET", "simulator", "/counts")
        open_ = counts["receipts_pending"] + counts["replies"] - counts["replies_acknowledged"]
        return [*why, *([f"{open_} callbacks of the operator are under way"] if open_ else [])]

    @asynccontextmanager
    async def _connection(self, service: str) -> AsyncIterator[Any]:
        """Connect past the wires, for one look: a fault may have killed an earlier connection."""
        async with asyncio.timeout(LOOK_WITHIN_S):
            sql = await asyncpg.connect(
                self.system.databases[service], timeout=LOOK_WITHIN_S, command_timeout=LOOK_WITHIN_S
            )
        try:
            yield sql
        finally:
            with contextlib.suppress(Exception):
                await sql.close(timeout=1)


async def _log(
    consumer: AIOKafkaConsumer, place: TopicPartition, since: int = 0, until: int | None = None
) -> list[Any]:
    """Return the present records of a partition; `since` and `until` are offsets."""
    consumer.assign([place])
    end = (await consumer.end_offsets([place]))[place] if until is None else until
    consumer.seek(place, since) if since else await consumer.seek_to_beginning(place)
    found: list[Any] = []
    while await consumer.position(place) < end:
        records = (await consumer.getmany(place, timeout_ms=READ_MS)).get(place, [])
        found += [record for record in records if record.offset < end]
        if not records:
            break  # only ends of transactions are left
    return found
