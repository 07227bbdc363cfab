"""Whose a message is that is `sending`, and until when it may begin: real Postgres, the real door to the gate, the
operator over HTTP, no service around. Another process's sweep takes all that is `sending` for a dead one's."""

import asyncio
import re
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from chaos.failover import MARK_ALL
from common.db.database import Database, fetch_many
from common.db.timer import uptime_s
from common.kafka.subscription import Received
from common.law import at_hand_off, load
from common.privacy.erasing import Whom
from dispatch.audit.invariants import LOOK_EVERY_S, Checker
from dispatch.gate.candidate import Permit, shared_of
from dispatch.gate.candidate import requested as candidate
from dispatch.gate.clearance import Clearance
from dispatch.gateways import HTTP_PROVIDERS, Account, Capabilities, HttpGateway, Result
from dispatch.gateways.pool import Rates, Traffic
from dispatch.messages import store as messages
from dispatch.privacy.erasure import Erasing
from dispatch.projection import apply as projection
from dispatch.projection import store as projection_store
from dispatch.projection.limits import Limits
from dispatch.sending import store as sending_store
from dispatch.sending import timers
from dispatch.sending.mark_writer import by_decision
from dispatch.sending.outcomes import answered
from dispatch.sending.pipeline import Handoff
from dispatch.sending.receipts import settle_receipts
from dispatch.sending.timers import Timers
from tests.support.builders import (
    controlled,
    field_keys,
    now,
    opted_in,
    opted_out,
    requested,
    sender_changed,
    subject,
    subject_keys,
)
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.support.interleaving import Stepped, stand_after, watching
from tests.support.ledger import dlr, receipted
from tests.support.operators.http import TOKEN, Operator, operator

pytestmark = pytest.mark.brokerless

ROOT = Path(__file__).parents[3]
TTL_S = 60.0
ECHOES: dict[str, Any] = {"echoes_reference": True}
LEFT_AT_ONCE = timedelta(seconds=-1)
SOON = timedelta(seconds=1)
TIMEOUT = timedelta(seconds=14)
ENFORCED = "SELECT enforced_at FROM enforcement"


@dataclass
class Watched(Operator):
    """`meanwhile`: what happens once, as it has a submit and has not answered."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def submits(self, request: web.Request) -> web.StreamResponse:
        if happens := self.meanwhile:
            self.meanwhile = None
            await happens()
        return await super().submits(request)


class Forgetful(Database):
    """`loses` the answer to a commit, or to a mark, once."""

    loses = False
    loses_mark = False

    async def run(self, sql: str, *values: object) -> Sequence[Sequence[Any]]:
        rows = await super().run(sql, *values)
        if self.loses_mark:
            self.loses_mark = False
            raise ConnectionResetError
        return rows

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        async with super().begin() as tx:
            yield tx
        if self.loses:
            self.loses = False
            raise ConnectionResetError


@dataclass
class Process:
    """Of dispatch-svc, its parts moved by hand."""

    database: Database
    clearance: Clearance
    slots: int = 1
    sending_timeout: timedelta = LEFT_AT_ONCE
    handoff: Handoff = field(init=False)

    def __post_init__(self) -> None:
        self.handoff = Handoff(self.database, self.clearance.traffic, self.clearance, self.slots)

    @property
    def timers(self) -> Timers:
        timeout = self.sending_timeout
        return Timers(
            self.database, self.clearance, self.handoff, batch=10, partitions=range(1), sending_timeout=timeout
        )

    async def sweeps(self) -> None:
        await self.timers.sweep()

    async def decides(self, *people: int, **more: Any) -> list[Permit]:
        partition: int = more.pop("partition", 0)
        wanted = [candidate(requested(n, requested_at=now() - SOON, **more), partition) for n in people]
        async with self.database.begin() as tx:
            decisions = await self.clearance.decide(tx, partition, wanted)
            await messages.insert_messages(tx, [d.row for d in decisions], shared_of(decisions))
        return [d.permit for d in decisions if d.permit]

    async def begins(self, permits: list[Permit]) -> list[Permit]:
        """As far as the ledger can tell: a submit may have begun."""
        async with self.database.begin() as tx:
            await messages.begin(tx, by_decision(permits))
        return permits

    async def ledger(self) -> list[tuple[str, int]]:
        async with self.database.begin() as tx:
            rows = await fetch_many(tx, "SELECT status, version FROM message ORDER BY message_id")
        return [(status, version) for status, version in rows]

    async def opts_out(self, n: int) -> None:
        async with self.database.begin() as tx:
            await messages.lock_decisions_out(tx, 0)
            await projection.apply_states(tx, [Received(opted_out(n), "", n, 0, now(), None)])
            [(enforced_at,)] = await fetch_many(tx, "SELECT enforced_at FROM enforcement")
        assert enforced_at is not None


class Names(AbstractResolver):
    """Of the operator's address, told once it is `open`."""

    def __init__(self) -> None:
        self.asked, self.open = asyncio.Event(), asyncio.Event()

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        self.asked.set()
        await self.open.wait()
        at = {"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}
        return [ResolveResult(**at)]  # type: ignore[typeddict-item]

    async def close(self) -> None: ...


@pytest.fixture
async def fake() -> AsyncIterator[Watched]:
    watched = Watched()
    async with operator(watched):
        yield watched


@pytest.fixture
async def process(postgres: Postgres, unique: str, fake: Watched) -> AsyncIterator[Callable[..., Process]]:
    """Processes that share a database and an operator."""
    database = Forgetful(await postgres.clone("dispatch", f"dispatch_{unique}"))
    async with database.begin() as tx:
        await projection_store.put_sender(tx, sender_changed())
        await projection_store.put_control(tx, controlled("running"))
        await projection_store.put_subjects(tx, [opted_in(n) for n in (1, 2, 3)])
        await tx.execute(
            text(
                "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
                " VALUES ('dispatch.consents', 'consent.states.v1', 0, 0, now())"
            )
        )
    opened: list[Traffic] = []

    def start(
        *,
        idempotent: bool = False,
        rate: float | None = None,
        names: Names | None = None,
        ttl_s: float = TTL_S,
        batch: int = 100,
        slots: int = 1,
        sending_timeout: timedelta = LEFT_AT_ONCE,
    ) -> Process:
        can = Capabilities(batch=batch, echoes_reference=True, idempotent=idempotent)
        url = fake.url if names is None else fake.url.replace("127.0.0.1", "operator.example")
        account = Account("simulator", "main", secret=TOKEN, url=url)
        provider = HTTP_PROVIDERS["simulator"]
        gateway = HttpGateway("simulator", provider, account, timeout_s=30.0, batch=batch, capabilities=can)
        if names is not None:
            gateway._connections._resolver = names
        opened.append(traffic := Traffic([gateway], rates={"simulator": Rates(rate)}))
        policy, limits = at_hand_off(load("demonstration")), Limits(max_staleness=timedelta(minutes=5))
        clearance = Clearance(subject_keys, field_keys, traffic, policy, limits, ttl_s)
        return Process(database, clearance, slots, sending_timeout)

    yield start
    for traffic in opened:
        await traffic.close()
    await database.close()


def lapsed(permits: list[Permit]) -> list[Permit]:
    """As they are after they waited for a slot, or for the database."""
    return [msgspec.structs.replace(permit, until=uptime_s()) for permit in permits]


async def test_what_was_never_begun_is_decided_again_though_another_took_it_for_a_dead_ones(
    process: Callable[..., Process], fake: Watched
) -> None:
    """It is marked as begun, and its owner knows that it has not."""
    owner, other = process(), process()
    permits = await owner.begins(await owner.decides(1))
    await other.sweeps()
    assert await owner.ledger() == [("unknown", 2)]
    await owner.handoff.send(lapsed(permits))
    assert await owner.ledger() == [("accepted", 4)]
    assert len(fake.messages) == 1
    async with owner.database.begin() as tx:
        assert await fetch_many(tx, "SELECT unknown_since FROM message") == [(None,)]


@pytest.mark.parametrize("meanwhile", ["nothing", "an opt-out"])
@pytest.mark.parametrize("owner_has", ["a permit that holds", "a permit that lapsed", "to stop"])
async def test_what_recovery_gave_back_is_begun_by_no_frozen_owner_and_goes_once(
    process: Callable[..., Process], fake: Watched, meanwhile: str, owner_has: str
) -> None:
    """The owner stood still before the mark. By its own clock it may be in time, as where a machine was halted."""
    owner, other = process(idempotent=True), process(idempotent=True)
    permits = await owner.decides(1)
    await other.sweeps()
    assert await owner.ledger() == [("deferred", 2)]
    if meanwhile == "an opt-out":
        await other.opts_out(1)
    if owner_has == "to stop":
        await owner.handoff._hand_back(permits)
    else:
        await owner.handoff.send(permits if owner_has == "a permit that holds" else lapsed(permits))
    assert await owner.ledger() == [("deferred", 2)]
    assert fake.messages == []
    assert await other.timers.wake_marketing()
    [(status, _)] = await owner.ledger()
    assert (status, len(fake.messages)) == (("accepted", 1) if meanwhile == "nothing" else ("denied", 0))


async def test_what_its_owner_has_marked_is_unknown_though_it_stands_still_before_the_answer(
    process: Callable[..., Process], fake: Watched
) -> None:
    """No process is needed for the commit, so the very next sweep tells what became of it."""
    owner, other = process(), process()
    owner = Process(Stepped(owner.database.dsn), owner.clearance)
    permits = await owner.decides(1)
    standing = await stand_after("WITH open AS", lambda: owner.handoff._mark_begun(by_decision(permits)))
    async with asyncio.timeout(30):
        await other.sweeps()
    assert [status for status, _ in await other.ledger()] == ["unknown"]
    assert fake.messages == []
    standing.cancel()
    await asyncio.gather(standing, return_exceptions=True)
    await owner.database.close()


class SteppedClock(datetime):
    """A clock that has been stepped."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(seconds=20)


async def test_a_clock_that_goes_ahead_makes_no_message_old(
    process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner holds a valid permit: an opt-out that was enforced now would be broken by its submit."""
    owner, other = process(), process(sending_timeout=TIMEOUT)
    await owner.begins(await owner.decides(1))
    async with owner.database.begin() as tx:
        await messages.lock_decisions_out(tx, 0)
        await projection.apply_states(tx, [Received(opted_out(1), "", 0, 0, now(), None)])
    monkeypatch.setattr(timers, "datetime", SteppedClock)
    await other.sweeps()
    assert [status for status, _ in await owner.ledger()] == ["sending"]
    async with owner.database.begin() as tx:
        assert await fetch_many(tx, ENFORCED) == [(None,)]


async def test_what_a_process_left_whose_clock_was_ahead_is_old_as_any(process: Callable[..., Process]) -> None:
    owner, other = process(), process(sending_timeout=TIMEOUT)
    await owner.decides(1)
    async with owner.database.begin() as tx:
        await tx.execute(text("UPDATE message SET decided_at = decided_at + interval '1 h'"))
        await tx.execute(
            text("UPDATE sending SET decided_at = decided_at + interval '1 h', since = now() - interval '15 s'")
        )
    checker = Checker(owner.database, load("france"), Limits(), TIMEOUT - timedelta(seconds=LOOK_EVERY_S))
    assert "sending_for_ever" in await checker.violations(now(), now())
    await other.sweeps()
    assert [status for status, _ in await owner.ledger()] == ["deferred"]


async def test_a_decision_that_waited_is_as_old_as_its_permit(process: Callable[..., Process]) -> None:
    """It waits for a lock: a decision as old as its transaction would be taken for a dead process's at once."""
    owner = process()
    wanted = [candidate(requested(1, requested_at=now() - SOON), 0)]
    async with owner.database.begin() as tx:
        await fetch_many(tx, "SELECT FROM sending")
        decisions = await owner.clearance.decide(tx, 0, wanted)
        await messages.insert_messages(tx, [d.row for d in decisions], shared_of(decisions))
        assert await fetch_many(tx, "SELECT since > now() FROM sending") == [(True,)]


@pytest.mark.parametrize("owner_is", ["alive", "dead"])
async def test_what_no_batch_has_room_for_is_left_to_its_owner_or_to_a_later_sweep(
    process: Callable[..., Process], fake: Watched, owner_is: str
) -> None:
    """A sweep closes all old decisions of a partition, and takes a batch of ten."""
    owner, other = process(), process()
    people = range(1, 12)
    async with owner.database.begin() as tx:
        await projection_store.put_subjects(tx, [opted_in(n) for n in people])
    permits = [*await owner.decides(*people[:6]), *await owner.decides(*people[6:])]
    await other.sweeps()
    assert Counter(status for status, _ in await owner.ledger()) == {"deferred": 10, "sending": 1}
    if owner_is == "alive":
        await owner.handoff.send(permits)
        assert Counter(status for status, _ in await owner.ledger()) == {"deferred": 10, "accepted": 1}
        assert len(fake.messages) == 1, "decided again by its owner"
    else:
        await other.sweeps()
        assert Counter(status for status, _ in await owner.ledger()) == {"deferred": 11}
        assert fake.messages == []


async def test_no_submit_begins_whose_mark_is_not_stored(process: Callable[..., Process], fake: Watched) -> None:
    """Nobody knows whether the mark was committed: the message is decided again, and goes by the new decision's."""
    owner = process()
    permits = await owner.decides(1)
    assert isinstance(owner.database, Forgetful)
    owner.database.loses_mark = True
    await owner.handoff.send(permits)
    assert await owner.ledger() == [("accepted", 3)]
    assert len(fake.messages) == 1
    async with owner.database.begin() as tx:
        assert await fetch_many(tx, "SELECT count(DISTINCT decided_at) FROM begun") == [(2,)]
        await messages.forget_sending(tx, -SOON)
        assert await fetch_many(tx, "SELECT FROM begun") == []


async def test_what_a_restored_database_has_sending_is_unknown_by_the_runbook(
    process: Callable[..., Process], fake: Watched
) -> None:
    """Its mark may be among the lost commits, and the operator may have it."""
    owner, other = process(), process()
    await owner.decides(1, 2)
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    [repair] = re.findall(r'psql "\$PLACET_DATABASE_URL" -c "(INSERT INTO begun [^"]*)"', runbook)
    assert " ".join(repair.split()) == MARK_ALL, "what chaos repairs by"
    async with owner.database.begin() as tx:
        await fetch_many(tx, repair)
    await other.sweeps()
    assert [status for status, _ in await owner.ledger()] == ["unknown", "unknown"]


async def test_submits_that_begin_together_share_a_mark(process: Callable[..., Process], fake: Watched) -> None:
    owner = process(batch=1, slots=2)
    fake.open.clear()
    sending = asyncio.create_task(owner.handoff.send(await owner.decides(1, 2, 3)))

    async def marked() -> list[int]:
        async with owner.database.begin() as tx:
            return [
                many for (many,) in await fetch_many(tx, "SELECT cardinality(message_ids) FROM begun ORDER BY ctid")
            ]

    async def two_are_there() -> bool:
        return len(fake.messages) == 2

    await eventually(two_are_there)
    assert await marked() == [2], "of what waits for a slot there is no mark"
    fake.open.set()
    await sending
    assert await marked() == [2, 1]


@pytest.mark.parametrize("meanwhile", ["nothing", "an opt-out"])
async def test_what_takes_longer_to_reach_than_its_permit_lasts_is_decided_again(
    process: Callable[..., Process], fake: Watched, meanwhile: str
) -> None:
    """A submit was called in time, and its first byte would have left seconds after the person had opted out."""
    names = Names()
    owner = process(names=names)
    permits = [msgspec.structs.replace(each, until=uptime_s() + 0.2) for each in await owner.decides(1)]
    sending = asyncio.create_task(owner.handoff.send(permits))
    await asyncio.wait_for(names.asked.wait(), 30)
    if meanwhile == "an opt-out":
        async with owner.database.begin() as tx:
            await messages.lock_decisions_out(tx, 0)
            await projection.apply_states(tx, [Received(opted_out(1), "", 0, 0, now(), None)])

    async def has_lapsed() -> bool:
        return uptime_s() > permits[0].until

    await eventually(has_lapsed)
    names.open.set()
    await sending
    [(status, _)] = await owner.ledger()
    assert (status, len(fake.messages)) == (("accepted", 1) if meanwhile == "nothing" else ("denied", 0))
    async with owner.database.begin() as tx:
        enforced = [enforced_at is not None for (enforced_at,) in await fetch_many(tx, ENFORCED)]
    assert enforced == ([] if meanwhile == "nothing" else [True])
    assert owner.handoff.traffic.breaker("simulator") == "closed", "it answers"


async def test_what_may_not_go_again_after_all_is_unknown_at_once(
    process: Callable[..., Process], fake: Watched
) -> None:
    """Nobody begins it any more, so its opt-out is enforced."""
    owner, names = process(), Names()
    other = process(idempotent=True, names=names, ttl_s=0.2)
    await owner.begins(await owner.decides(1))
    sweeping = asyncio.create_task(other.sweeps())
    await asyncio.wait_for(names.asked.wait(), 30)
    begun = uptime_s()
    async with owner.database.begin() as tx:
        await messages.lock_decisions_out(tx, 0)
        await projection.apply_states(tx, [Received(opted_out(1), "", 0, 0, now(), None)])

    async def has_lapsed() -> bool:
        return uptime_s() > begun + 0.2

    await eventually(has_lapsed)
    names.open.set()
    await sweeping
    assert [status for status, _ in await owner.ledger()] == ["unknown"]
    assert fake.messages == []
    async with owner.database.begin() as tx:
        assert [at is not None for (at,) in await fetch_many(tx, ENFORCED)] == [True]


@pytest.mark.parametrize("kept", ["its lock", "its messages"])
async def test_a_partition_that_somebody_keeps_holds_up_no_other(process: Callable[..., Process], kept: str) -> None:
    """Somebody who stands still. Its own leavings wait until they do no more."""
    owner, other = process(), process()
    code = {"category": "transactional", "purpose": None, "campaign_id": None}
    ours = [permit.candidate.message_id for n in (0, 1) for permit in await owner.decides(n + 1, partition=n, **code)]
    async with owner.database.begin() as tx:
        if kept == "its lock":
            await messages.lock_decisions_out(tx, 0)
        else:
            await sending_store.lock_messages(tx, ours[:1])
        async with asyncio.timeout(30):
            await other.sweeps()
        rows = await fetch_many(tx, "SELECT partition, status FROM message ORDER BY partition")
        assert [tuple(row) for row in rows] == [(0, "sending"), (1, "deferred")]
    await other.sweeps()
    assert [status for status, _ in await owner.ledger()] == ["deferred", "deferred"]


async def test_what_is_taken_back_knows_of_an_opt_out_that_was_enforced_meanwhile(
    process: Callable[..., Process], fake: Watched
) -> None:
    owner, other = process(), process()
    permits = await owner.begins(await owner.decides(1))
    await other.sweeps()
    await other.opts_out(1)
    await owner.handoff.send(lapsed(permits))
    assert await owner.ledger() == [("denied", 3)]
    assert fake.messages == []


@pytest.mark.parametrize("by", ["its projection", "its outcome", "deciding again", "the sweep", "a look", "an erasure"])
async def test_each_opt_out_is_measured_once_whoever_closes_it(process: Callable[..., Process], by: str) -> None:
    owner = process()
    database = owner.database

    def measured() -> float:
        return REGISTRY.get_sample_value("sms_dispatch_enforcement_seconds_count") or 0

    def longest_open() -> float:
        return REGISTRY.get_sample_value("sms_dispatch_oldest_open_enforcement_seconds") or 0

    async def end(*statements: str) -> None:
        async with database.begin() as tx:
            for statement in ("UPDATE message SET status = 'accepted'", *statements):
                await tx.execute(text(statement))

    before, permits = measured(), await owner.decides(1)
    if by == "its projection":
        await end()
    async with database.begin() as tx:
        await messages.lock_decisions_out(tx, 0)
        await projection.apply_states(tx, [Received(opted_out(1), "", 0, 0, now(), None)])
        assert measured() == before, "what is not committed has not happened"
    if by != "its projection":
        assert measured() == before
        aged = "UPDATE enforcement SET applied_at = now() - interval '1 minute'"
        match by:
            case "its outcome":
                await owner.handoff.send(permits)
            case "deciding again":
                await owner.handoff.send(lapsed(permits))
            case "the sweep":
                await owner.sweeps()
            case "a look":
                async with database.begin() as tx:
                    await tx.execute(text(aged))
                await owner.timers._enforce_left_open()
                assert (measured(), longest_open() > 0) == (before, True), "it is still being sent"
                await end()
                await owner.timers._enforce_left_open()
                assert longest_open() == 0
            case _:
                await end()
                async with database.begin() as tx:
                    await Erasing(1).erase(tx, {Whom(subject(1), None): now()})
    assert measured() == before + 1


async def test_what_another_may_have_begun_is_not_taken_back(process: Callable[..., Process], fake: Watched) -> None:
    """The sweep gives it once more to a gateway that takes it twice as one, and that may be slow to answer."""
    owner, other = process(idempotent=True), process(idempotent=True)
    permits = await owner.begins(await owner.decides(1))
    fake.open.clear()
    resubmitting = asyncio.create_task(other.sweeps())
    await fake.received.wait()
    await owner.handoff.send(lapsed(permits))
    await owner.handoff._hand_back(permits)
    assert await owner.ledger() == [("sending", 2)]
    fake.open.set()
    await resubmitting
    assert await owner.ledger() == [("accepted", 3)]
    assert len(fake.messages) == 1


@pytest.mark.parametrize("renames", [False, True])
async def test_what_is_accepted_a_second_time_under_another_id_calls_somebody(
    process: Callable[..., Process], fake: Watched, renames: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The sweep gave it once more while the first submit had no answer. One id is one SMS; of two we cannot tell."""

    def broken() -> float:
        return REGISTRY.get_sample_value("sms_dispatch_violations_total", {"rule": "accepted_twice"}) or 0

    owner, other = process(idempotent=True), process(idempotent=True)
    [permit] = permits = await owner.decides(1)
    before, fake.renames, fake.meanwhile = broken(), renames, other.sweeps
    await owner.handoff.send(permits)
    assert await owner.ledger() == [("accepted", 3)]
    assert len(fake.messages) == 2
    assert broken() - before == renames
    told = [vars(record) for record in caplog.records if record.message == "a promise is broken"]
    assert [(one["rule"], one["messages"]) for one in told] == [
        ("accepted_twice", str(permit.candidate.message_id))
    ] * renames
    await owner.handoff._store_outcomes([answered(permit, Result("accepted", "op-3", None), now(), None, **ECHOES)])
    assert broken() - before == renames + 1
    assert await owner.ledger() == [("accepted", 3)]


async def test_what_a_gateway_did_not_take_waits_though_another_took_it_for_a_dead_ones(
    process: Callable[..., Process], fake: Watched
) -> None:
    owner, other = process(), process()
    fake.answer, fake.meanwhile = "throttle", other.sweeps
    await owner.handoff.send(await owner.decides(1))
    assert await owner.ledger() == [("deferred", 3)]
    async with owner.database.begin() as tx:
        [(due_at, unknown_since)] = await fetch_many(tx, "SELECT due_at, unknown_since FROM message")
    assert due_at is not None
    assert unknown_since is None


async def test_a_new_decision_is_ours_though_nobody_told_us_that_it_was_committed(
    process: Callable[..., Process], fake: Watched
) -> None:
    owner = process()
    permits = await owner.decides(1)
    assert isinstance(owner.database, Forgetful)
    owner.database.loses = True
    await owner.handoff.send(lapsed(permits))
    assert await owner.ledger() == [("accepted", 4)]
    assert len(fake.messages) == 1


async def test_a_message_with_a_receipt_does_not_go_once_more(process: Callable[..., Process], fake: Watched) -> None:
    owner, other = process(), process()
    [permit] = permits = await owner.decides(1)
    told = receipted(permit.candidate.message_id)
    async with owner.database.begin() as tx:
        await messages.put_receipts(tx, [told])
    await owner.handoff.send(lapsed(permits))
    await owner.handoff._hand_back(permits)
    assert await owner.ledger() == [("sending", 2)]
    await other.sweeps()
    assert await owner.ledger() == [("accepted", 3)]
    assert fake.messages == []


async def test_a_permit_counts_from_before_what_it_stands_on_was_read(
    process: Callable[..., Process], unique: str, postgres: Postgres
) -> None:
    """A decision waits, as for a control that is being applied. However long that takes, it grants no time."""
    owner = process()
    blocked_by_us = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    async with watching(postgres.url(f"dispatch_{unique}")) as sql:
        locked = sql.transaction()
        await locked.start()
        await sql.execute("LOCK TABLE consumer_offset, subject IN ACCESS EXCLUSIVE MODE")
        deciding = asyncio.create_task(owner.decides(1))

        async def waits() -> bool:
            return bool(await sql.fetchval(blocked_by_us))

        await eventually(waits)
        waited_at = uptime_s()
        await locked.rollback()
        [permit] = await deciding
    assert permit.until <= waited_at + TTL_S


async def test_a_gateway_remembers_a_message_from_when_it_may_first_have_had_it(
    process: Callable[..., Process], fake: Watched
) -> None:
    """Its last decision was a moment ago, its first so long ago that a second submit might be a second SMS."""
    owner, other = process(idempotent=True), process(idempotent=True)
    permits = await owner.decides(1)
    async with owner.database.begin() as tx:
        await tx.execute(text("UPDATE sending SET since = now() - interval '24 hours'"))
    await owner.begins(await owner.handoff._redecide(permits, {permit.decided_at for permit in permits}))
    await other.sweeps()
    assert [status for status, _ in await owner.ledger()] == ["unknown"]
    assert fake.messages == []


@pytest.mark.parametrize("receipt", ["after the answer", "before the answer", "and no answer"])
async def test_the_code_of_an_earlier_refusal_is_none_of_what_is_accepted(
    process: Callable[..., Process], fake: Watched, receipt: str
) -> None:
    owner, other = process(), process()
    [permit] = permits = await owner.decides(1)
    told = dlr(f"op-{permit.candidate.message_id}", permit.candidate.message_id)

    async def is_delivered() -> None:
        async with owner.database.begin() as tx:
            await settle_receipts(tx, [told], keep_early=False)

    async def kept() -> list[tuple[Any, ...]]:
        async with owner.database.begin() as tx:
            return [tuple(row) for row in await fetch_many(tx, "SELECT status, receipt, code FROM message")]

    fake.answer = "unknown"  # our account, for now
    await owner.handoff.send(permits)
    assert await kept() == [("deferred", None, "http_401")]
    async with owner.database.begin() as tx:
        await tx.execute(text("UPDATE message SET due_at = now()"))
    fake.answer = "drop" if receipt == "and no answer" else "accept"
    if receipt == "before the answer":
        fake.meanwhile = is_delivered
    assert await other.timers.wake_marketing()
    if receipt != "before the answer":
        await is_delivered()
    assert await kept() == [("accepted", "delivered", None)]
    async with owner.database.begin() as tx:
        told_of = b"".join(bytes(row[0]) for row in await fetch_many(tx, "SELECT payload FROM outbox"))
    assert told_of.count(b"http_401") == 1, "as it was refused, and never again"


class Ahead:
    """A clock that jumps: all of a rate is there again."""

    def __init__(self) -> None:
        self.by = 0.0

    def monotonic(self) -> float:
        return uptime_s() + self.by


async def test_what_is_throttled_waits_for_no_half_of_a_batch_that_was_refused(
    process: Callable[..., Process], fake: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Ahead()
    monkeypatch.setattr("dispatch.gateways.pool.time", clock)

    async def a_second_goes_by() -> None:
        clock.by += 10.0

    owner = process(rate=2.0)
    fake.dislikes, fake.meanwhile = "perdu", a_second_goes_by
    [wrong] = await owner.decides(1, text="Offre perdue. STOP au 36111")
    good = await owner.decides(2, 3)
    permits = [msgspec.structs.replace(permit, until=good[0].until) for permit in (wrong, *good)]  # one batch
    fake.open.clear()
    sending = asyncio.create_task(owner.handoff.send(permits))

    async def statuses() -> list[str]:
        return sorted(status for status, _ in await owner.ledger())

    async def the_throttled_one_waits() -> bool:
        return await statuses() == ["deferred", "rejected", "sending"]

    await eventually(the_throttled_one_waits)
    fake.open.set()
    await sending
    assert await statuses() == ["accepted", "deferred", "rejected"]


@pytest.mark.parametrize("of", ["the message", "the consent"])
async def test_a_permit_ends_with_what_it_stands_on(process: Callable[..., Process], of: str) -> None:
    owner, ends = process(), now() + timedelta(seconds=20)
    if of == "the consent":
        state = opted_in(1, version=2)
        async with owner.database.begin() as tx:
            consent = msgspec.structs.replace(state.consents[0], expires_at=ends)
            await projection_store.put_subjects(tx, [msgspec.structs.replace(state, consents=(consent,))])
    [one] = await owner.decides(1, **({"send_before": ends} if of == "the message" else {}))
    [other] = await owner.decides(2)
    assert _instant(one) - ends < timedelta(milliseconds=1)
    assert _instant(other) - ends > timedelta(seconds=30)


def _instant(permit: Permit) -> datetime:
    return now() + timedelta(seconds=permit.until - uptime_s())


async def test_what_ends_while_it_waits_expires_and_the_others_go_on_waiting(
    process: Callable[..., Process], fake: Watched
) -> None:
    owner = process()
    fake.open.clear()
    [first] = await owner.decides(3)
    waiting = [candidate(requested(n, requested_at=now() - SOON), 0) for n in (1, 2)]
    sending = asyncio.create_task(owner.handoff.send([first]))
    await fake.received.wait()
    async with owner.database.begin() as tx:
        decisions = await owner.clearance.decide(tx, 0, waiting)
        await messages.insert_messages(tx, [d.row for d in decisions], shared_of(decisions))
        await tx.execute(
            text("UPDATE message SET send_before = now() WHERE message_id = :id"), {"id": decisions[0].row.message_id}
        )
    ends, goes_on = (d.permit for d in decisions if d.permit)
    others = asyncio.create_task(owner.handoff.send([*lapsed([ends]), goes_on]))

    async def expired() -> bool:
        return ("expired", 2) in await owner.ledger()

    await eventually(expired)
    fake.open.set()
    await asyncio.gather(sending, others)
    assert sorted(await owner.ledger()) == [("accepted", 2), ("accepted", 2), ("expired", 2)]
    assert len(fake.messages) == 2


async def test_a_planned_stop_ends_every_wait_for_a_slot_though_one_ends_by_itself_just_then(
    process: Callable[..., Process],
) -> None:
    handoff, taken, stop = process().handoff, asyncio.Semaphore(0), asyncio.Event()
    waits = [asyncio.create_task(handoff._slot(taken, uptime_s() + TTL_S)) for _ in range(3)]

    async def all_wait() -> bool:
        return len(handoff._waits) == len(waits)

    await eventually(all_wait)
    some: list[Any] = list(handoff._waits)[:2]
    for its_time in some:
        its_time._timeout_handler.cancel()
        its_time._on_timeout()  # has come, and who waits has not had a turn since
    stop.set()
    await handoff.watch(stop)
    async with asyncio.timeout(30):
        assert await asyncio.gather(*waits) == [False] * len(waits)
