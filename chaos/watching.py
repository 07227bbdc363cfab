"""Looks, all the while: into the operator's log as it grows, and into the services' ledgers, past every wire. What a
look cannot reach it leaves to the next one; what is wrong is said at once.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from chaos import checks
from chaos.checks import Account, Standings, Violation
from chaos.load import Load
from chaos.system import System
from common.database import Database
from common.keyring import SubjectKeys
from common.law import load
from common.settings import KeyRingSettings
from dispatch.gate import Limits
from dispatch.invariants import SETTLED_AFTER, Checker
from stack.demo import DemoFailed
from stack.environment import PARTITIONS

STALE_S, SKEW_S = 2.0, 0.1  # max_staleness, max_clock_skew: marketing is held on anything older, or from the future
SAMPLE_EVERY_S = 0.2
LOOK_EVERY_S = 1.0
STANDINGS_EVERY = 5  # looks
RECENT = timedelta(seconds=60)  # enforcements are looked at again for so long: their commit may come late
LOOK_WITHIN_S = 5.0
# a permit, a submit and the margin: how long dispatch-svc leaves a message `sending` before it takes it for a crash's
SENDING_TIMEOUT = timedelta(seconds=14)

# what asyncpg makes of a server that is no more
GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, TimeoutError)

ENFORCED = "SELECT reference, enforced_at FROM enforcement WHERE enforced_at > $1 AND reference IS NOT NULL"
ACCOUNTS = "SELECT * FROM campaign_accounts"
RECIPIENTS = "SELECT campaign_id, status, count(*) AS many FROM recipient GROUP BY campaign_id, status"
STALENESS = (
    "SELECT CASE WHEN count(as_of) = $1 THEN extract(epoch FROM clock_timestamp() - min(as_of)) END::float8"
    " FROM consumer_offset WHERE consumer_group = 'dispatch.consents' AND topic = 'consent.states.v1'"
)
VERSIONS = "SELECT subject_id, version FROM subject"
KNOWN = "SELECT subject_id, version, consents, suppressions FROM subject WHERE subject_id = ANY($1::text[])"
STATUSES = "SELECT message_id::text AS id, status FROM message WHERE message_id = ANY($1::uuid[])"


@dataclass(frozen=True, slots=True)
class Hold:
    """Marketing was held, from so many seconds after the start on."""

    began_s: float
    lasted_s: float


@dataclass(slots=True)
class Watch:
    """`violations` as they were found, each once; `started`: monotonic."""

    system: System
    load: Load
    say: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    account: Account = field(default_factory=Account)
    violations: list[Violation] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    looks: int = 0
    looks_failed: int = 0
    _dispatch: Standings = field(default_factory=lambda: Standings("dispatch-svc"))
    _read: int = 0  # bytes of the operator's log
    _held_since: float | None = None
    _unchecked: set[str] = field(default_factory=set)  # references the operator has taken since the last look
    _subjects: SubjectKeys = field(init=False)

    def __post_init__(self) -> None:
        self._subjects = SubjectKeys(KeyRingSettings.model_validate_json(self.system.environment.subject_keys))

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(self._sample(), self._look_on())

    async def finish(self) -> None:
        """The last look, at everything: all has come to rest."""
        if self._held_since is not None:
            self._hold_ends(time.monotonic())
        self._note(self._operators_log())
        await self._enforcements(since=datetime.fromtimestamp(0, UTC))
        await self._standings(all_of_them=True)
        await self._invariants(everything=True)
        await self._all_ends()
        self._note(checks.never_enforced(self.account))

    # --- holds

    async def _sample(self) -> None:
        while True:
            try:
                async with self._connection("dispatch") as sql:
                    while True:
                        self._sampled(await sql.fetchval(STALENESS, PARTITIONS))
                        await asyncio.sleep(SAMPLE_EVERY_S)
            except GONE:
                self._sampled(None)
                await asyncio.sleep(SAMPLE_EVERY_S)

    def _sampled(self, age: float | None) -> None:
        """How old dispatch's knowledge of consent is, in seconds; None where nobody can tell, or decide."""
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
                    self._note(self._operators_log())
                    await self._enforcements(since=datetime.now(UTC) - RECENT)
                    await self._statuses()
                    await self._accounts()
                    if self.looks % STANDINGS_EVERY == 0:
                        await self._standings()
                        await self._invariants()
            except (*GONE, DemoFailed):
                self.looks_failed += 1
            except ProgrammingError:  # what is asked for is not there: no look would ever find it
                raise
            except SQLAlchemyError:  # a database that is gone, as SQLAlchemy tells it
                self.looks_failed += 1

    def _note(self, found: Sequence[Violation]) -> None:
        for violation in found:
            if violation not in self.violations:
                self.violations.append(violation)
                self.say(f"VIOLATION of promise {violation.promise}, {violation.check}: {violation.what}")

    def _operators_log(self) -> list[Violation]:
        with self.system.simulator_log.open("rb") as file:
            file.seek(self._read)
            lines = file.read().split(b"\n")
        self._read += sum(len(line) + 1 for line in lines[:-1])  # the last one is being written, or empty
        told = [msgspec.json.decode(line) for line in lines[:-1]]
        self._unchecked |= {line["reference"] for line in told if line["kind"] == "submit"}
        return self.account.take(told)

    async def _enforcements(self, since: datetime) -> None:
        async with self._connection("dispatch") as sql:
            rows = await sql.fetch(ENFORCED, since)
        for row in rows:
            reply = row["reference"].rsplit("/", 1)[-1]
            self._note(self.account.take_enforced(reply, row["enforced_at"]))

    async def _statuses(self) -> None:
        """Of what the operator has taken since the last look."""
        asked = {each for each in self._unchecked if each in self.account.taken}
        async with self._connection("dispatch") as sql:
            found = {row["id"]: row["status"] for row in await sql.fetch(STATUSES, [UUID(each) for each in asked])}
        self._note(checks.contradicted({each: found.get(each) for each in asked}, self.account.taken))
        self._unchecked = set()

    async def _accounts(self) -> None:
        accounts, statuses = await self._campaigns()
        for campaign, counts in accounts.items():
            self._note(checks.adds_up(campaign, counts, statuses[campaign]))

    async def _campaigns(self) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
        """The counters of each campaign, and its recipients by status, at one instant."""
        async with self._connection("campaign") as sql, sql.transaction(isolation="repeatable_read", readonly=True):
            accounts = {row["campaign_id"]: dict(row) for row in await sql.fetch(ACCOUNTS)}
            statuses: dict[str, dict[str, int]] = defaultdict(dict)
            for row in await sql.fetch(RECIPIENTS):
                statuses[row["campaign_id"]][row["status"]] = row["many"]
        return accounts, statuses

    async def _standings(self, *, all_of_them: bool = False) -> None:
        """Of everybody, which version is known; of those whose STOP was enforced, what they have opted out of."""
        stopped: dict[str, list[str]] = defaultdict(list)  # numbers by code
        for reply in self.account.enforced:
            person = self.account.stops[reply][0]
            stopped[person.code].append(person.number)
        subjects = [self._subjects.subject_id(each) for numbers in stopped.values() for each in numbers]
        async with self._connection("dispatch") as sql:
            everybody = await sql.fetch(VERSIONS)
            rows = await sql.fetch(KNOWN, subjects)
        for row in everybody:
            self._note(self._dispatch.take(row["subject_id"], row["version"], (), ()))
        for row in rows:
            consents = msgspec.json.decode(row["consents"])
            everyone = any(each["sender_id"] is None for each in msgspec.json.decode(row["suppressions"]))
            closed = [each["sender_id"] for each in consents if each["state"] == "opted_out"]
            opened = [each["sender_id"] for each in consents if each["state"] == "opted_in" and not everyone]
            self._note(self._dispatch.take(row["subject_id"], row["version"], closed, opened))
        for one in self.load.rounds if all_of_them else self.load.rounds[-3:]:
            if numbers := stopped.get(one.code):
                asked = {"sender_id": one.sender, "purpose": "promotions", "numbers": numbers}
                async with asyncio.timeout(None if all_of_them else LOOK_WITHIN_S):
                    answer = await self.load.api.call("POST", "consent", "/v1/consents/check", asked)
                self._note(checks.open_again(one.sender, answer["results"]))

    async def _invariants(self, *, everything: bool = False) -> None:
        """The rules that dispatch-svc itself looks by, asked by somebody who is not killed meanwhile."""
        now = datetime.now(UTC)
        since = now - timedelta(days=1) if everything else now - SETTLED_AFTER - RECENT
        database = Database(self.system.databases["dispatch"], pool_size=1, name="chaos")
        limits = Limits(max_staleness=timedelta(seconds=STALE_S), max_clock_skew=timedelta(seconds=SKEW_S))
        checker = Checker(database, load("demonstration"), limits, SENDING_TIMEOUT)
        try:
            found = await checker.violations(since, now if everything else now - SETTLED_AFTER, now)
        finally:
            await database.close()
        promises = {"after_enforcement": 1, "against_its_record": 1, "on_stale_consent": 1}
        self._note([
            Violation(promises.get(rule, 4), rule, f"message {message}")
            for rule, messages in found.items()
            for message in messages
        ])  # fmt: skip

    async def _all_ends(self) -> None:
        accounts, statuses = await self._campaigns()
        for one in self.load.rounds:
            if one.campaign in accounts:
                counts, by_status = accounts[one.campaign], statuses[one.campaign]
                self._note(checks.adds_up(one.campaign, counts, by_status))
                self._note(checks.lost(one.campaign, len(one.people), counts, by_status))
            elif one.campaign:
                self._note([Violation(4, "lost", f"campaign {one.campaign} was never begun")])
        async with self._connection("dispatch") as sql:
            ledger = {
                row["id"]: row["status"]
                for row in await sql.fetch(
                    "SELECT message_id::text AS id, status FROM message WHERE category = 'marketing'"
                )
            }
        taken = self.account.taken
        self._note(checks.contradicted({each: ledger.get(each) for each in taken}, taken))
        self._note(checks.never_taken(ledger, taken))

    async def dead_letters(self) -> int:
        many = 0
        for service in self.system.databases:
            async with self._connection(service) as sql:
                many += await sql.fetchval("SELECT count(*) FROM dead_letter")
        return many

    async def waiting(self) -> list[str]:
        """What has not come to rest: then it is too early to say that something is lost."""
        why = [f"campaign {one.code} is {one.status}" for one in self.load.rounds if not one.finished]
        missing = len(self.account.acknowledged.keys() - self.account.enforced)
        why += [f"{missing} STOPs are not enforced"] if missing else []
        for service in self.system.databases:
            async with self._connection(service) as sql:
                rows = await sql.fetchval("SELECT count(*) FROM outbox")
            why += [f"{rows} events of {service} wait"] if rows else []
        counts = await self.load.api.call("GET", "simulator", "/counts")
        open_ = counts["receipts_pending"] + counts["replies"] - counts["replies_acknowledged"]
        return [*why, *([f"{open_} callbacks of the operator are under way"] if open_ else [])]

    @asynccontextmanager
    async def _connection(self, service: str) -> AsyncIterator[Any]:
        """Past the wires. One for each look: whatever was there before may have been killed."""
        async with asyncio.timeout(LOOK_WITHIN_S):
            sql = await asyncpg.connect(
                self.system.databases[service], timeout=LOOK_WITHIN_S, command_timeout=LOOK_WITHIN_S
            )
        try:
            yield sql
        finally:
            with contextlib.suppress(Exception):
                await sql.close(timeout=1)
