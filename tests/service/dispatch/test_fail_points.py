"""`kill -9` of dispatch-svc at each point of its pipeline, by a gateway that takes a reference twice as one SMS and by
one that does not: nothing is lost, nothing leaves twice, and `unknown` is what nobody can know.

A real process dies, another one takes over. Four messages of one partition share a batch, so what becomes of one
becomes of all; what the operator has, it tells in receipts at the end, and then the ledger and the operator say the
same.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from common.contracts import CAMPAIGN_REQUESTS, CONTROLS, DISPATCH_MESSAGES, INBOUND_RECEIPTS, SENDERS, STATES
from common.contracts.campaign import MessageRequested
from common.contracts.dispatch import MessageChanged, OptOutEnforced
from common.contracts.inbound import ReceiptReceived
from dispatch.service import Settings, build
from tests.builders import controlled, now, opted_in, opted_out, receipt, requested, sender_changed
from tests.eventually import eventually
from tests.failing import Point, Process, ended, start
from tests.infrastructure import Broker, Postgres
from tests.operator import TOKEN, Operator, operator
from tests.publish import heartbeat, publish
from tests.reading import reading
from tests.running import Surroundings

AT_ONCE = 4  # cases
WITHIN_S = 60.0  # on a machine that is busy
SUBMIT_WITHIN_S = 30.0  # there too the operator, in this process, answers: an `unknown` is one that a crash has left
LEFT_AFTER_S = 5.5  # what is `sending` for so long after its permit is taken for a dead process's
PEOPLE = range(1, 5)
STOPS = 1


@dataclass
class Case:
    """A dispatch-svc that dies and comes back, its operator, and what was asked of it."""

    surroundings: Surroundings
    operator: Operator
    settings: dict[str, Any]
    asked: list[MessageRequested] = field(default_factory=list)
    later: list[MessageRequested] = field(default_factory=list)  # asked for once it has come back
    opt_outs: int = 0  # which it knows then

    @asynccontextmanager
    async def process(self, dies_at: Point | None = None) -> AsyncIterator[Process]:
        """Its clock of consent is running, and it knows the sender, the campaign and the people."""
        process = await start(build, Settings(**self.settings), dies_at)
        try:
            await eventually(self._knows, WITHIN_S)
            yield process
        finally:
            process.kill()
            process.join()

    async def ask(self, *requests: MessageRequested) -> None:
        self.asked += requests
        await publish(self.surroundings, CAMPAIGN_REQUESTS, requests)

    async def rows(self, query: str) -> list[Any]:
        async with self.surroundings.sql("dispatch") as sql:
            return list(await sql.fetch(query))

    async def statuses(self) -> dict[str, int]:
        return {row[0]: row[1] for row in await self.rows("SELECT status, count(*) FROM message GROUP BY status")}

    def become(self, **statuses: int) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            assert await self.statuses() == statuses
            return True

        return look

    async def _knows(self) -> bool:
        [[known]] = await self.rows(
            "SELECT (SELECT count(*) FROM subject WHERE version > 0) = 4 AND EXISTS (SELECT FROM sender)"
            " AND EXISTS (SELECT FROM campaign) AND EXISTS (SELECT FROM consumer_offset"
            " WHERE consumer_group = 'dispatch.consents' AND as_of IS NOT NULL)"
            f" AND (SELECT count(enforced_at) FROM enforcement) = {self.opt_outs}"
        )
        return bool(known)


Scene = Callable[[Case, Point | None], Awaitable[None]]


async def sending(case: Case, point: Point | None) -> None:
    """Four requests; without a point it is killed as the operator has them and has not answered."""
    if point is None:
        case.operator.open.clear()
    async with case.process(point) as process:
        await case.ask(*(requested(n) for n in PEOPLE))
        if point is None:
            await eventually(lambda: _has(case, len(PEOPLE)))
            process.kill()
        await _died(process)
    case.operator.open.set()


async def recovering(case: Case, point: Point | None) -> None:
    """Dies twice: the second time as it resolves what the first time left."""
    await sending(case, Point("committed", "dispatch.store:insert_messages"))
    async with case.process(point) as process:
        await _died(process)


async def waking(case: Case, point: Point | None) -> None:
    """They wait for their campaign, which goes on."""
    await publish(case.surroundings, CONTROLS, [controlled("paused", version=2)])
    async with case.process(point) as process:
        await eventually(lambda: _is_paused(case))
        await case.ask(*(requested(n) for n in PEOPLE))
        await eventually(case.become(deferred=len(PEOPLE)))
        await publish(case.surroundings, CONTROLS, [controlled("running", version=3)])
        await _died(process)


async def renewing(case: Case, point: Point | None) -> None:
    """Two are at the operator, the others wait for their turn until their permits have lapsed: seconds later, or on a
    busy machine the first two are not there yet. (With one submit at once, no more than two would be taken in one
    batch.)"""
    case.settings |= {"gateway_batch": 1, "gateway_submits": 2, "permit_ttl_s": 2.5}
    case.operator.open.clear()
    async with case.process(point) as process:
        await case.ask(*(requested(n) for n in PEOPLE))
        await _died(process)
    case.operator.open.set()


async def stopping(case: Case, point: Point | None) -> None:
    """A person opts out; what is asked for them once that is enforced does not go."""
    async with case.process(point) as process:
        await publish(case.surroundings, STATES, [opted_out(STOPS)], as_of=now())
        await _died(process)
    case.opt_outs = 1
    case.later = [requested(n) for n in PEOPLE]


async def told(case: Case, point: Point | None) -> None:
    """The operator's receipts."""
    async with case.process(point) as process:
        await case.ask(*(requested(n) for n in PEOPLE))
        await eventually(case.become(accepted=len(PEOPLE)))
        await publish(case.surroundings, INBOUND_RECEIPTS, _receipts(case))
        await _died(process)


IN = "dispatch.store:"
SUBMIT = "dispatch.gateways.over_http:HttpGateway.submit"
RELAY = "common.outbox:Relay._publish"


@dataclass(frozen=True)
class At:
    """`submitted`: how many the operator has by then. `unknown`: how many are, after it has come back, where the
    gateway is not idempotent; where it is, none. The others are accepted, if nothing else is said (`becomes`)."""

    what: str
    scene: Scene
    point: Point | None
    unknown: int = 0
    submitted: int = 0
    becomes: dict[str, int] = field(default_factory=dict)


ALL = len(PEOPLE)
ONE_DENIED = {"denied": 1, "accepted": ALL - 1}
POINTS: dict[int, At] = {
    1: At("read, not decided", sending, Point("before", "dispatch.clearance:Clearance.decide")),
    2: At("in tx 1", sending, Point("after", IN + "insert_messages")),
    3: At("after tx 1, before the submit", sending, Point("committed", IN + "insert_messages"), unknown=ALL),
    4: At("before the request is written", sending, Point("before", SUBMIT), unknown=ALL),
    5: At("the operator has it and has not answered", sending, None, unknown=ALL, submitted=ALL),
    6: At("answered, before tx 2", sending, Point("after", SUBMIT), unknown=ALL, submitted=ALL),
    7: At("in tx 2", sending, Point("after", IN + "accept"), unknown=ALL, submitted=ALL),
    8: At("after tx 2", sending, Point("committed", IN + "accept"), submitted=ALL),
    9: At("relay, before the send", sending, Point("before", RELAY), submitted=ALL),
    10: At("relay, after the ack, before the delete", sending, Point("after", RELAY), submitted=ALL),
    11: At("recovery, in its tx", recovering, Point("after", IN + "claim_left_sending"), unknown=ALL),
    12: At("recovery, after its tx", recovering, Point("committed", IN + "claim_left_sending"), unknown=ALL),
    13: At("waking, in its tx", waking, Point("after", IN + "claim_due")),
    14: At("waking, after its tx", waking, Point("committed", IN + "claim_due"), unknown=ALL),
    15: At("renewing a permit, in its tx", renewing, Point("after", IN + "still_ours"), unknown=ALL, submitted=2),
    16: At("renewing, after its tx", renewing, Point("committed", IN + "still_ours"), unknown=ALL, submitted=2),
    17: At("an opt-out, in its tx", stopping, Point("after", IN + "enforce"), becomes=ONE_DENIED),
    18: At("an opt-out, after its tx", stopping, Point("committed", IN + "enforce"), becomes=ONE_DENIED),
    19: At("receipts, in their tx", told, Point("after", IN + "put_receipts"), submitted=ALL),
    20: At("receipts, after their tx", told, Point("committed", IN + "put_receipts"), submitted=ALL),
}


@pytest.mark.timeout(400)  # 30 processes begin, and as many again
@pytest.mark.parametrize("idempotent", [False, True])
async def test_killed_at_each_point_of_the_pipeline(
    postgres: Postgres, broker: Broker, unique: str, *, idempotent: bool
) -> None:
    points = [n for n in POINTS if POINTS[n].unknown or not idempotent]  # to the others it makes no difference
    everywhere = {n: Surroundings(postgres, broker, f"{unique}n{n}", partitions=1) for n in points}
    for surroundings in everywhere.values():
        await surroundings.database("dispatch")
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with turns:
            try:
                await _dies_and_comes_back(everywhere[number], POINTS[number], idempotent=idempotent)
            except Exception as error:
                error.add_note(f"at point {number}: {POINTS[number].what}")
                raise

    async with asyncio.TaskGroup() as cases:
        for number in points:
            cases.create_task(one(number))


async def _dies_and_comes_back(surroundings: Surroundings, at: At, *, idempotent: bool) -> None:
    async with operator() as op, _case(surroundings, op, idempotent=idempotent) as case:
        await at.scene(case, at.point)
        assert len(op.messages) == at.submitted
        async with case.process():
            await case.ask(*case.later)
            unknown = 0 if idempotent else at.unknown
            await eventually(case.become(**at.becomes or _all(unknown=unknown, accepted=ALL - unknown)), WITHIN_S)
            await publish(surroundings, INBOUND_RECEIPTS, _receipts(case))
            await eventually(lambda: _says_what_the_operator_says(case))
            await _is_told(case)
    sent = op.references
    assert idempotent or len(set(sent)) == len(sent), "sent twice"
    assert len({(m["reference"], m["to"], m["text"]) for m in op.messages}) == len(set(sent))


async def _says_what_the_operator_says(case: Case) -> bool:
    """What it has is accepted and delivered, and nothing else is."""
    rows = await case.rows("SELECT message_id, status, receipt FROM message")
    assert {str(row["message_id"]) for row in rows} == {request.message_id for request in case.asked}, "lost"
    delivered = {str(row["message_id"]) for row in rows if (row["status"], row["receipt"]) == ("accepted", "delivered")}
    assert delivered == set(case.operator.references)
    assert {row["status"] for row in rows} <= {"accepted", "unknown", "denied"}
    return True


async def _is_told(case: Case) -> None:
    """The last that is published of each message is what the ledger says, and of each opt-out that it is enforced."""
    query = "SELECT message_id::text, version, status, receipt FROM message"
    ledger = {row["message_id"]: tuple(row) for row in await case.rows(query)}
    async with reading(case.surroundings, DISPATCH_MESSAGES) as read:

        async def everything() -> bool:
            told = sorted((e for e in await read() if isinstance(e, MessageChanged)), key=lambda e: e.version)
            newest = {e.message_id: (e.message_id, e.version, e.status, e.receipt) for e in told}
            assert newest == ledger
            return True

        await eventually(everything)
        enforced = {event.reference for event in await read() if isinstance(event, OptOutEnforced)}
    assert len(enforced) == len(await case.rows("SELECT FROM enforcement"))


@asynccontextmanager
async def _case(surroundings: Surroundings, handler: Operator, *, idempotent: bool) -> AsyncIterator[Case]:
    settings = await surroundings.settings(
        "dispatch",
        roles={"worker", "relay", "projection"},
        gateway_url=handler.url,
        gateway_token=TOKEN,
        gateway_idempotent=idempotent,
        hours="demonstration",
        submit_timeout_s=SUBMIT_WITHIN_S,
        settle_margin_s=LEFT_AFTER_S - SUBMIT_WITHIN_S,
        drain_s=SUBMIT_WITHIN_S + 1,  # nobody is stopped: they are killed
        max_staleness_s=60.0,  # on a busy machine the watermarks come late, and then all is deferred first
    )
    await publish(surroundings, SENDERS, [sender_changed()])
    await publish(surroundings, CONTROLS, [controlled("running")])
    await publish(surroundings, STATES, [opted_in(n) for n in PEOPLE])
    async with heartbeat(surroundings, STATES):
        yield Case(surroundings, handler, settings)


async def _died(process: Process) -> None:
    assert await ended(process, WITHIN_S) == -signal.SIGKILL


async def _is_paused(case: Case) -> bool:
    return bool(await case.rows("SELECT FROM campaign WHERE control = 'paused'"))


async def _has(case: Case, many: int) -> bool:
    return len(case.operator.messages) == many


def _receipts(case: Case) -> list[ReceiptReceived]:
    return [receipt("delivered", reference=reference) for reference in sorted(set(case.operator.references))]


def _all(**statuses: int) -> dict[str, int]:
    return {status: many for status, many in statuses.items() if many}
