"""One account of two binds and several processes: each pool of binds here stands for a process of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from common.db.database import Database
from dispatch.gateways import Account, Result, Unanswered, Unreachable
from dispatch.gateways.by_smpp import binds, leases
from dispatch.gateways.by_smpp import gateway as by_smpp
from dispatch.gateways.by_smpp.gateway import SmppGateway
from dispatch.lane import Lane
from tests.support.builders import subject_keys
from tests.support.eventually import eventually, is_so
from tests.support.operators.accounts import submit
from tests.support.operators.wire import PASSWORD, UNBIND, USER, Session, Wire, delivered, wire
from tests.unit.dispatch.test_smpp_session import Log


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binds, "RENEW_S", 0.05)


KILLED = "UPDATE bind_lease SET ends_at = ends_at - interval '1 minute' WHERE holder = $1"


@dataclass
class Counting:
    """An SMSC that notes how many binds are held as each further one is asked for."""

    server: Wire
    held: list[int] = field(default_factory=list)

    def lets_in(self, asked: int) -> int:
        self.held.append(len(self.server.bound) + 1)
        return 0


@asynccontextmanager
async def counting() -> AsyncIterator[Counting]:
    async with wire() as server:
        counts = Counting(server)
        server.lets_in = counts.lets_in
        yield counts


@dataclass
class Pool:
    gateway: SmppGateway
    link: by_smpp.Link
    log: Log

    @property
    def sessions(self) -> int:
        return len(self.link.binds.sessions)

    async def dies(self) -> None:
        """Drop what a killed process drops: its sessions, and no lease."""
        held = self.link.binds
        for task in [*held._keeping, *filter(None, [held._leasing])]:
            task.cancel()
        for session in held.sessions:
            session.abort()


def pool(database: Database, server: Wire, lane: Lane) -> Pool:
    options = {"binds_in_all": "2"}
    url = f"smpp://127.0.0.1:{server.port}"
    account = Account("smpp", "orange", user=USER, secret=PASSWORD, url=url, options=options)
    shared, log = by_smpp.Shared(), Log()
    shared.serve(lane, database, subject_keys.fingerprint)
    link = shared.link("smpp.orange", account, log)
    link.binds.start()
    return Pool(SmppGateway("smpp.orange", account, link, timeout_s=30.0, submits=4), link, log)


async def test_two_processes_share_an_account_of_two_binds_and_both_lanes_are_served(database: Database) -> None:
    """The campaign's process comes first: it held both, and a STOP's answer waited 45 s."""
    async with counting() as counts:
        campaigns = pool(database, counts.server, Lane.MARKETING)
        await eventually(lambda: is_so(campaigns.sessions == 1))
        codes = pool(database, counts.server, Lane.TRANSACTIONAL)
        await eventually(lambda: is_so(codes.sessions == 1))
        [answer] = await campaigns.gateway.submit([submit(1, category="marketing")])
        assert isinstance(answer, Result)
        [answer] = await codes.gateway.submit([submit(1, category="transactional")])
        assert isinstance(answer, Result)
        assert (campaigns.sessions, codes.sessions) == (1, 1)
        await campaigns.gateway.close()
        await eventually(lambda: is_so(codes.sessions == 2))
        await codes.gateway.close()
        assert max(counts.held) <= 2
        assert counts.server.unbinds == 3
        assert await database.read("SELECT holder FROM bind_lease") == []


async def test_the_binds_of_a_killed_process_are_taken_over_once_its_lease_has_run_out(database: Database) -> None:
    async with counting() as counts:
        first = pool(database, counts.server, Lane.TRANSACTIONAL)
        await eventually(lambda: is_so(first.sessions == 2))
        second = pool(database, counts.server, Lane.TRANSACTIONAL)
        await eventually(lambda: is_so((first.sessions, second.sessions) == (1, 1)))
        third = pool(database, counts.server, Lane.TRANSACTIONAL)

        async def asks() -> bool:
            return len(await database.read("SELECT holder FROM bind_lease")) == 3

        await eventually(asks)
        [answer] = await third.gateway.submit([submit(1)])
        assert type(answer) is Unreachable, "at once: not after the timeout"
        await first.dies()
        assert first.link.lease is not None
        await database.run(KILLED, first.link.lease.holder)
        await eventually(lambda: is_so(third.sessions == 1))
        [answer] = await third.gateway.submit([submit(1)])
        assert isinstance(answer, Result)
        for each in (second, third):
            await each.gateway.close()
        assert max(counts.held) <= 2


async def test_a_bind_is_opened_again_only_once_its_last_session_has_ended(database: Database) -> None:
    """The SMSC leaves while it owes an answer: until the answer has come, the old session counts."""
    async with counting() as counts:
        counts.server.status = lambda at: None if at == 0 else 0
        only = pool(database, counts.server, Lane.TRANSACTIONAL)
        await eventually(lambda: is_so(only.sessions == 2))
        only.gateway.timeout_s = 1.0
        unanswered = asyncio.create_task(only.gateway.submit([submit(1)]))
        await counts.server.until(lambda: bool(counts.server.submits))
        for session in counts.server.bound:
            session.request(UNBIND)
        [answer] = await unanswered
        assert type(answer) is Unanswered
        await counts.server.until(lambda: len(counts.held) == 4, 60.0)
        await eventually(lambda: is_so(only.sessions == 2))
        await only.gateway.close()
        assert max(counts.held) <= 2


async def test_a_process_that_cannot_renew_closes_its_binds_before_its_lease_ends(
    database: Database, monkeypatch: object
) -> None:
    async with counting() as counts:
        only = pool(database, counts.server, Lane.TRANSACTIONAL)
        await eventually(lambda: is_so(only.sessions == 2))
        lease = only.link.lease
        assert lease is not None
        assert leases.LEASE_S - leases.CLOSES_S > 2 * leases.RENEW_S
        lease.database, kept = Database("postgresql://nobody@127.0.0.1:9/none"), lease.database
        lease.good_until = 0.1
        await eventually(lambda: is_so(only.sessions == 0 and not counts.server.bound))
        lease.database = kept
        await eventually(lambda: is_so(only.sessions == 2))
        await only.gateway.close()
        assert max(counts.held) <= 2


async def test_a_rolling_restart_under_mos_loses_none_and_never_holds_a_bind_too_many(database: Database) -> None:
    """The SMSC delivers each MO until it has an acknowledgement, by whichever bind there is."""

    async def delivers(server: Wire, text: str) -> None:
        while True:
            await server.until(lambda: bool(server.bound), 60.0)
            sessions: list[Session] = server.bound
            if await sessions[hash(text) % len(sessions)].deliver(delivered(text.encode())) == 0:
                return

    async with counting() as counts:
        running = [pool(database, counts.server, lane) for lane in Lane]
        await eventually(lambda: is_so(sum(each.sessions for each in running) == 2))
        logs = [each.log for each in running]
        async with asyncio.TaskGroup() as smsc:
            for n, lane in enumerate((*Lane, *Lane)):
                for k in range(20):
                    smsc.create_task(delivers(counts.server, f"STOP {n} {k}"))
                new = pool(database, counts.server, lane)
                logs.append(new.log)
                old = running.pop(0)
                await old.gateway.close()
                running.append(new)
                await eventually(lambda new=new: is_so(new.sessions > 0))  # type: ignore[misc]
        for each in running:
            await each.gateway.close()
        texts = {event.text for log in logs for event in log.messages}
        assert texts == {f"STOP {n} {k}" for n in range(4) for k in range(20)}
        assert max(counts.held) <= 2
