"""`kill -9` of dispatch-svc at each point of its pipeline, by a gateway that takes a reference twice as one SMS and by
one that does not: nothing is lost, nothing leaves twice, and `unknown` is what nobody can know.

A real process dies, another one takes over. Four messages of one partition share a batch, so what becomes of one
becomes of all, if nothing else is said; what the operator has, it tells in receipts at the end, and then the ledger and
the operator say the same. The docstring of each module names its points: `tests/contract/test_fail_points.py` checks
that, and demands points of each transaction on a message's way.
"""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event as Armed
from typing import Any

import asyncpg
import httpx
import pytest

from common.contracts import (
    CAMPAIGN_REQUESTS,
    CONTROLS,
    DISPATCH_MESSAGES,
    DISPATCH_REQUESTS,
    INBOUND_RECEIPTS,
    SENDERS,
    STATES,
)
from common.contracts.campaign import MessageRequested
from common.contracts.dispatch import OptOutEnforced
from common.contracts.inbound import ReceiptReceived
from dispatch.service import Settings, build
from tests.support.builders import (
    CODES_SENDER,
    codes_sender_changed,
    controlled,
    now,
    number,
    opted_in,
    opted_out,
    receipt,
    requested,
    reworded,
    sender_changed,
)
from tests.support.eventually import eventually
from tests.support.failing import TIME_PASSES, Point, Process, ended, not_yet, start
from tests.support.infrastructure import Broker, Postgres
from tests.support.operators.http import TOKEN, Operator, operator
from tests.support.publish import heartbeat, publish
from tests.support.reading import changes_in, reading
from tests.support.running import Surroundings, bearer

AT_ONCE = 4  # cases
SCENES = 3  # of a point, until a process dies there
WITHIN_S = 60.0  # on a machine that is busy
SUBMIT_WITHIN_S = 30.0  # there too the operator, in this process, answers: an `unknown` is one that a crash has left
PEOPLE = range(1, 5)
ALL = len(PEOPLE)
STOPS = 1
RIGHT = "Maison Lune : Nina, -20 % ce samedi. STOP au 36111"
DISLIKED = "Maison Lune : voyance offerte. STOP au 36111"


class Missed(AssertionError):
    """The process has passed its point: on a machine that stands still, a timer does a step before the step's own
    place in the pipeline."""


@dataclass
class Case:
    """A dispatch-svc that dies and comes back, its operator, and what was asked of it."""

    surroundings: Surroundings
    operator: Operator
    settings: dict[str, Any]
    ledger: asyncpg.Connection  # looked at again and again: a connection of each look would take most of the time
    asked: set[str] = field(default_factory=set)  # message ids
    then: Callable[[], Awaitable[None]] | None = None  # what is to be done once it has come back
    told: bool = False  # the receipts, before it died
    opt_outs: int = 0  # that it knows once it is back
    control: int = 1  # the version that it knows by then

    @asynccontextmanager
    async def process(
        self, dies_at: Point | None = None, armed: Armed | None = None, at: socket.socket | None = None, **more: Any
    ) -> AsyncIterator[Process]:
        """Its clock of consent is running, and it knows the sender, the campaign and the people."""
        async with self.second(dies_at, armed, at, **more) as process:
            await eventually(self._knows, WITHIN_S)
            yield process

    @asynccontextmanager
    async def second(
        self, dies_at: Point | None, armed: Armed | None = None, at: socket.socket | None = None, **more: Any
    ) -> AsyncIterator[Process]:
        """One that may die at once: all that it needs is in the ledger."""
        process = await start(build, Settings(**self.settings | more), dies_at, armed, at)
        try:
            yield process
        finally:
            process.kill()
            process.join()

    async def died(self, process: Process) -> None:
        """Return once it is dead, and the time has passed after which what it left `sending` is a dead process's.
        Raises Missed where it lives on."""
        code = await ended(process, WITHIN_S)
        if code is None:
            raise Missed
        assert code == -signal.SIGKILL
        await self.ledger.execute(TIME_PASSES)

    async def ask(self, *requests: MessageRequested) -> None:
        self.asked |= {request.message_id for request in requests}
        for topic, marketing in ((CAMPAIGN_REQUESTS, True), (DISPATCH_REQUESTS, False)):
            await publish(self.surroundings, topic, [r for r in requests if (r.category == "marketing") == marketing])

    async def rows(self, query: str) -> list[Any]:
        return list(await self.ledger.fetch(query))

    async def statuses(self) -> dict[str, int]:
        return {row[0]: row[1] for row in await self.rows("SELECT status, count(*) FROM message GROUP BY status")}

    def become(self, **statuses: int) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            assert await self.statuses() == statuses
            return True

        return look

    def has(self, many: int) -> Callable[[], Awaitable[bool]]:
        """The operator."""

        async def look() -> bool:
            return len(self.operator.messages) == many

        return look

    def finds(self, row: str) -> Callable[[], Awaitable[bool]]:
        """Is there such a row?"""

        async def look() -> bool:
            return bool(await self.rows(f"SELECT FROM {row} LIMIT 1"))

        return look

    async def _knows(self) -> bool:
        [[known]] = await self.rows(
            "SELECT (SELECT count(*) FROM subject WHERE version > 0) = 4 AND EXISTS (SELECT FROM sender)"
            f" AND EXISTS (SELECT FROM campaign WHERE version >= {self.control})"
            " AND EXISTS (SELECT FROM consumer_offset WHERE consumer_group = 'dispatch.consents' AND as_of IS NOT NULL)"
            f" AND (SELECT count(enforced_at) FROM enforcement) = {self.opt_outs}"
        )
        return bool(known)


Scene = Callable[[Case, Point | None], Awaitable[None]]
Asks = Callable[[int], MessageRequested]


async def sending(case: Case, point: Point | None, request: Asks = requested) -> None:
    """Four requests; without a point it is killed as the operator has them and has not answered."""
    if point is None:
        case.operator.open.clear()
    async with case.process(point) as process:
        await case.ask(*map(request, PEOPLE))
        if point is None:
            await eventually(case.has(ALL))
            process.kill()
        await case.died(process)
    case.operator.open.set()


async def sending_codes(case: Case, point: Point | None) -> None:
    await sending(case, point, _code)


async def refused(case: Case, point: Point | None) -> None:
    """The operator takes no batch with the last of them in it: they go in halves, one after the other."""
    case.operator.dislikes = DISLIKED
    # a permit that lapses on a busy machine is decided again, and not begun by the kill
    case.settings |= {"gateway_submits": 1, "permit_ttl_s": 5.0}
    await sending(case, point, lambda n: requested(n, text=DISLIKED) if n == ALL else requested(n))


async def throttled(case: Case, point: Point | None) -> None:
    """The operator asks to wait."""
    case.operator.answer = "throttle"
    await sending(case, point)
    case.operator.answer = "accept"


async def recovering(case: Case, point: Point | None) -> None:
    """Dies twice: the second time as it resolves what the first time left, whose submit had begun."""
    await sending(case, Point("after", MARK))
    async with case.second(point) as process:
        await case.died(process)


async def giving_back(case: Case, point: Point | None) -> None:
    """Dies twice: the second time as it resolves what the first time left, and no submit had begun."""
    await sending(case, Point("committed", MESSAGES + "insert_messages"))
    async with case.second(point) as process:
        await case.died(process)


async def waiting(case: Case, point: Point | None) -> None:
    """Killed while two are at a slow operator, and the others wait for their turn."""
    case.settings |= {"gateway_batch": 1, "gateway_submits": 2}
    case.operator.open.clear()
    async with case.process(point) as process:
        await case.ask(*map(requested, PEOPLE))
        await eventually(case.has(2))
        process.kill()
        await case.died(process)
    case.operator.open.set()


async def opting_out_meanwhile(case: Case, point: Point | None) -> None:
    """A person opts out after it has died: the process that applies opt-outs knows of it before the other is back."""
    await sending(case, point)
    async with case.process(roles={"projection"}):
        await publish(case.surroundings, STATES, [opted_out(STOPS)], as_of=now())
        await eventually(case.finds("enforcement"), WITHIN_S)
    case.opt_outs = 1


async def _waiting(case: Case) -> None:
    """They wait for their campaign, which is paused."""
    await publish(case.surroundings, CONTROLS, [controlled("paused", version=2)])
    await eventually(case.finds("campaign WHERE control = 'paused'"))
    await case.ask(*map(requested, PEOPLE))
    await eventually(case.become(deferred=ALL))


async def waking(case: Case, point: Point | None) -> None:
    """The campaign goes on."""
    await _told_after_the_pause(case, point, "running")


async def cancelling(case: Case, point: Point | None) -> None:
    """Or never will."""
    await _told_after_the_pause(case, point, "cancelled")


async def _told_after_the_pause(case: Case, point: Point | None, control: str) -> None:
    armed = not_yet()
    async with case.process(point, armed) as process:
        await _waiting(case)
        armed.set()
        await publish(case.surroundings, CONTROLS, [controlled(control, version=3)])
        await case.died(process)
    case.control = 3


async def pausing(case: Case, point: Point | None) -> None:
    """What is asked for once it is back waits for the campaign."""
    armed = not_yet()
    async with case.process(point, armed) as process:
        armed.set()
        await publish(case.surroundings, CONTROLS, [controlled("paused", version=2)])
        await case.died(process)
    case.control = 2
    case.then = lambda: case.ask(*map(requested, PEOPLE))


async def rewording(case: Case, point: Point | None) -> None:
    """What they say is put right while they wait, and then the campaign goes on."""
    waiting = [requested(n) for n in PEOPLE]
    right = [reworded(request, RIGHT) for request in waiting]
    async with case.process(point) as process:
        await publish(case.surroundings, CONTROLS, [controlled("paused", version=2)])
        await eventually(case.finds("campaign WHERE control = 'paused'"))
        await case.ask(*waiting)
        await eventually(case.become(deferred=ALL))
        await publish(case.surroundings, CAMPAIGN_REQUESTS, right)
        await case.died(process)
    case.control = 2

    async def is_right() -> bool:
        return {row["text"] for row in await case.rows("SELECT text FROM message")} == {each.text for each in right}

    async def goes_on() -> None:
        await eventually(is_right, WITHIN_S)
        await publish(case.surroundings, CONTROLS, [controlled("running", version=3)])
        await eventually(case.has(ALL), WITHIN_S)
        assert {message["text"] for message in case.operator.messages} == {RIGHT}

    case.then = goes_on


async def renewing(case: Case, point: Point | None) -> None:
    """Two are at the operator; then the others, which wait for their turn, have their permits renewed. (With one submit
    at once, no more than two would be taken in one batch.)"""
    case.settings |= {"gateway_batch": 1, "gateway_submits": 2}
    case.operator.open.clear()
    armed = not_yet()
    async with case.process(point, armed) as process:
        await case.ask(*map(requested, PEOPLE))
        await eventually(case.has(2))
        armed.set()
        await case.died(process)
    case.operator.open.set()


async def ending(case: Case, point: Point | None) -> None:
    """Two are at the operator, the others wait for their turn, and it is asked to end: what has not left it gives
    back."""
    case.settings |= {"gateway_batch": 1, "gateway_submits": 2}
    case.operator.open.clear()
    async with case.process(point) as process:
        await case.ask(*map(requested, PEOPLE))
        await eventually(case.has(2))
        process.terminate()
        await case.died(process)
    case.operator.open.set()


async def stopping(case: Case, point: Point | None) -> None:
    """A person opts out; what is asked for them once that is enforced does not go."""
    async with case.process(point) as process:
        await publish(case.surroundings, STATES, [opted_out(STOPS)], as_of=now())
        await case.died(process)
    case.opt_outs = 1
    case.then = lambda: case.ask(*map(requested, PEOPLE))


async def stopping_too_late(case: Case, point: Point | None) -> None:
    """A person opts out whose message is at the operator: enforced once it is answered."""
    case.operator.open.clear()
    async with case.process(point) as process:
        await case.ask(*map(requested, PEOPLE))
        await eventually(case.has(ALL))
        await publish(case.surroundings, STATES, [opted_out(STOPS)], as_of=now())
        await eventually(case.finds("enforcement WHERE enforced_at IS NULL"))
        case.operator.open.set()
        await case.died(process)
    case.opt_outs = 1


async def left_open(case: Case, point: Point | None) -> None:
    """Dies twice: the second time as the sweep enforces what the first time left open."""
    await stopping_too_late(case, Point("after", ENFORCEMENT + "enforce", PIPELINE + "Handoff._enforce"))
    async with case.second(point) as process:
        await case.died(process)


async def told(case: Case, point: Point | None) -> None:
    """The operator's receipts."""
    async with case.process(point) as process:
        await case.ask(*map(requested, PEOPLE))
        await eventually(case.become(accepted=ALL))
        await publish(case.surroundings, INBOUND_RECEIPTS, _receipts(case))
        case.told = True
        await case.died(process)


async def told_early(case: Case, point: Point | None) -> None:
    """Receipts of an operator that names its own ids alone, before it has told them."""
    case.settings |= {"gateway_echoes_reference": False}
    case.operator.open.clear()
    async with case.process(point) as process:
        await case.ask(*map(requested, PEOPLE))
        await eventually(case.has(ALL))
        early = [receipt("delivered", gateway_id=f"op-{reference}") for reference in case.operator.references]
        await publish(case.surroundings, INBOUND_RECEIPTS, early)
        case.told = True
        await eventually(case.finds("early_receipt"))
        case.operator.open.set()
        await case.died(process)


async def posting(case: Case, point: Point | None) -> None:
    """A code over HTTP. Whoever got no answer asks again, with the same key; and so does who got one."""
    with socket.create_server(("127.0.0.1", 0)) as at:
        async with case.process(point, at=at, roles={"api", "worker", "relay", "projection"}) as process:
            await _post(at, STOPS)
            await case.died(process)
    case.then = lambda: _post_again(case)


async def _post_again(case: Case) -> None:
    with socket.create_server(("127.0.0.1", 0)) as at:
        async with case.second(None, at=at, roles={"api"}):
            for _ in range(2):
                answers = [await _post(at, n) for n in PEOPLE]
                assert [answer and answer.status_code for answer in answers] == [202] * ALL
                case.asked |= {answer.json()["message_id"] for answer in answers if answer}
            assert len(case.asked) == ALL


async def _post(at: socket.socket, n: int) -> httpx.Response | None:
    """None where it dies before it has answered."""
    body = {"sender_id": CODES_SENDER, "to": number(n), "text": "Votre code : 4821", "category": "transactional"}
    headers = {**bearer(), "Idempotency-Key": f"code-{n}"}
    host, port = at.getsockname()
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", headers=headers, timeout=WITHIN_S) as client:
        try:
            return await client.post("/v1/messages", json=body)
        except httpx.TransportError:
            return None


def _code(n: int) -> MessageRequested:
    return requested(n, campaign_id=None, purpose=None, category="transactional", text="Votre code : 4821")


MESSAGES = "dispatch.messages.store:"
WAKING = "dispatch.messages.waking_store:"
RIGHTS = "dispatch.messages.rights_store:"
ENFORCEMENT = "dispatch.messages.enforcement:"
SENDING = "dispatch.sending.store:"
PROJECTION = "dispatch.projection.store:"
PIPELINE = "dispatch.sending.pipeline:"
TIMERS = "dispatch.sending.timers:Timers."
SUBMIT = "dispatch.gateways.over_http:HttpGateway.submit"
RELAY = "common.kafka.outbox:Relay._publish"


@dataclass(frozen=True)
class At:
    """`submitted`: how many the operator has by then. `unknown`: how many are, after it has come back, where the
    gateway is not idempotent; where it is, none. The others are accepted, if nothing else is said (`becomes`, and
    `again` where the gateway is idempotent)."""

    scene: Scene
    point: Point | None
    unknown: int = 0
    submitted: int = 0
    becomes: dict[str, int] = field(default_factory=dict)
    again: dict[str, int] = field(default_factory=dict)
    gateways: Sequence[bool] = (False, True)  # idempotent?

    def tried_by(self, *, idempotent: bool) -> bool:
        """Where nothing was left `sending`, that makes no difference."""
        return idempotent in self.gateways and (self.unknown > 0 or not idempotent)

    def ends(self, *, idempotent: bool) -> dict[str, int]:
        unknown = 0 if idempotent else self.unknown
        otherwise = {status: many for status, many in (("unknown", unknown), ("accepted", ALL - unknown)) if many}
        return (self.again if idempotent else self.becomes) or otherwise


ONE_DENIED = {"denied": 1, "accepted": ALL - 1}
ONE_UNKNOWN = {"unknown": 1, "accepted": ALL - 1}
NO_AGAIN = (False,)  # what happens to what is left `sending` is tried at other points of the same lane
ENFORCE = PIPELINE + "Handoff._enforce"
MARK = MESSAGES + "begin_at_once"
LEFT_OPEN = TIMERS + "_enforce_left_open"
TAKE = PIPELINE + "Intake.take"
APPLY = "dispatch.projection.apply:apply_states"
RECEIPTS = "dispatch.sending.receipts:apply_receipts"
CODES_DUE = TIMERS + "_wake_codes_of"
POSTED = "dispatch.accepting.api:_insert"
POINTS: dict[str, At] = {
    "before-decide": At(sending, Point("before", "dispatch.gate.clearance:Clearance.decide")),
    "before-insert-commit": At(sending, Point("after", MESSAGES + "insert_messages", TAKE + "_marketing")),
    "after-insert-commit": At(
        sending,
        Point("committed", MESSAGES + "insert_messages", TAKE + "_marketing"),
    ),
    "before-submit": At(sending, Point("before", SUBMIT), unknown=ALL),
    "during-submit": At(sending, None, unknown=ALL, submitted=ALL),
    "after-submit": At(sending, Point("after", SUBMIT), unknown=ALL, submitted=ALL),
    "before-outcomes-commit": At(sending, Point("after", MESSAGES + "accept"), unknown=ALL, submitted=ALL),
    "after-outcomes-commit": At(sending, Point("committed", MESSAGES + "accept"), submitted=ALL),
    "before-publish": At(sending, Point("before", RELAY), submitted=ALL),
    "after-publish": At(sending, Point("after", RELAY), submitted=ALL),
    "before-recovery-commit": At(recovering, Point("after", SENDING + "claim_left_sending"), unknown=ALL),
    "after-recovery-commit": At(recovering, Point("committed", SENDING + "claim_left_sending"), unknown=ALL),
    "before-due-commit": At(waking, Point("after", SENDING + "claim_due")),
    "after-due-commit": At(waking, Point("committed", SENDING + "claim_due")),
    "before-renewal-commit": At(renewing, Point("after", SENDING + "still_ours"), unknown=2, submitted=2),
    "after-renewal-commit": At(renewing, Point("committed", SENDING + "still_ours"), unknown=2, submitted=2),
    "before-opt-out-commit": At(stopping, Point("after", ENFORCEMENT + "enforce", APPLY), becomes=ONE_DENIED),
    "after-opt-out-commit": At(stopping, Point("committed", ENFORCEMENT + "enforce", APPLY), becomes=ONE_DENIED),
    "before-receipts-commit": At(told, Point("after", MESSAGES + "put_receipts", RECEIPTS), submitted=ALL),
    "after-receipts-commit": At(told, Point("committed", MESSAGES + "put_receipts", RECEIPTS), submitted=ALL),
    "before-enforcement-commit": At(
        stopping_too_late,
        Point("after", ENFORCEMENT + "enforce", ENFORCE),
        submitted=ALL,
    ),
    "after-enforcement-commit": At(
        stopping_too_late,
        Point("committed", ENFORCEMENT + "enforce", ENFORCE),
        submitted=ALL,
    ),
    "before-open-enforcement-commit": At(
        left_open,
        Point("after", ENFORCEMENT + "enforce", LEFT_OPEN),
        submitted=ALL,
    ),
    "after-open-enforcement-commit": At(
        left_open,
        Point("committed", ENFORCEMENT + "enforce", LEFT_OPEN),
        submitted=ALL,
    ),
    "before-wake-commit": At(waking, Point("after", WAKING + "wake_controlled")),
    "after-wake-commit": At(waking, Point("committed", WAKING + "wake_controlled")),
    "before-woken-note-commit": At(
        cancelling,
        Point("after", PROJECTION + "note_woken"),
        becomes={"denied": ALL},
    ),
    "after-woken-note-commit": At(cancelling, Point("committed", PROJECTION + "note_woken"), becomes={"denied": ALL}),
    "before-text-update-commit": At(rewording, Point("after", RIGHTS + "reword")),
    "after-text-update-commit": At(rewording, Point("committed", RIGHTS + "reword")),
    "after-hand-back-commit": At(
        ending,
        Point("committed", MESSAGES + "settle"),
        unknown=2,
        submitted=2,
        gateways=NO_AGAIN,
    ),
    "before-early-receipts-commit": At(
        told_early,
        Point("after", SENDING + "take_matching_early_receipts"),
        submitted=ALL,
    ),
    "after-early-receipts-commit": At(
        told_early,
        Point("committed", SENDING + "take_matching_early_receipts"),
        submitted=ALL,
    ),
    "before-control-commit": At(pausing, Point("after", PROJECTION + "put_control"), becomes={"deferred": ALL}),
    "after-control-commit": At(pausing, Point("committed", PROJECTION + "put_control"), becomes={"deferred": ALL}),
    "after-half-batch-submit": At(
        refused,
        Point("after", SUBMIT),
        unknown=ALL,
        submitted=2,
        again=ONE_UNKNOWN,
    ),
    "before-throttled-commit": At(throttled, Point("after", MESSAGES + "settle"), unknown=ALL, gateways=NO_AGAIN),
    "after-throttled-commit": At(throttled, Point("committed", MESSAGES + "settle")),
    "before-transactional-insert-commit": At(sending_codes, Point("after", MESSAGES + "insert_messages", TAKE)),
    "after-transactional-insert-commit": At(
        sending_codes,
        Point("committed", MESSAGES + "insert_messages", TAKE),
    ),
    "after-transactional-submit": At(sending_codes, Point("after", SUBMIT), unknown=ALL, submitted=ALL),
    "after-transactional-due-commit": At(
        posting,
        Point("committed", SENDING + "claim_due", CODES_DUE),
    ),
    "before-post-commit": At(posting, Point("after", MESSAGES + "insert_messages", POSTED)),
    "after-post-commit": At(posting, Point("committed", MESSAGES + "insert_messages", POSTED)),
    "after-insert-commit-then-opt-out": At(
        opting_out_meanwhile,
        Point("committed", MESSAGES + "insert_messages", TAKE + "_marketing"),
        becomes=ONE_DENIED,
    ),
    "after-submit-then-opt-out": At(
        opting_out_meanwhile,
        Point("after", SUBMIT),
        unknown=ALL,
        submitted=ALL,
        again=ONE_UNKNOWN,
        gateways=(True,),
    ),
    "before-mark": At(sending, Point("before", MARK)),
    "after-mark-then-opt-out": At(
        opting_out_meanwhile,
        Point("after", MARK),
        unknown=ALL,
        again=ONE_UNKNOWN,
    ),
    "before-give-back-commit": At(giving_back, Point("after", SENDING + "claim_left_sending")),
    "after-give-back-commit": At(giving_back, Point("committed", SENDING + "claim_left_sending")),
    "during-submit-others-waiting": At(waiting, None, unknown=2, submitted=2),
}


@pytest.mark.timeout(600)  # 60 processes begin, and as many again
@pytest.mark.parametrize("idempotent", [False, True])
async def test_killed_at_each_point_of_the_pipeline(
    postgres: Postgres, broker: Broker, unique: str, *, idempotent: bool
) -> None:
    points = [name for name, at in POINTS.items() if at.tried_by(idempotent=idempotent)]
    await Surroundings(postgres, broker, unique, partitions=1).database("dispatch")  # the template, once
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(n: int, name: str) -> None:
        async with turns:
            for scene in range(1, SCENES + 1):
                surroundings = Surroundings(postgres, broker, f"{unique}n{n}s{scene}", partitions=1)
                try:
                    await _dies_and_comes_back(surroundings, POINTS[name], idempotent=idempotent)
                    return
                except Missed:
                    if scene == SCENES:
                        raise AssertionError(f"{SCENES} times no process died at the point {name}") from None
                except Exception as error:
                    error.add_note(f"at the point {name}")
                    raise

    async with asyncio.TaskGroup() as cases:
        for n, name in enumerate(points, start=1):
            cases.create_task(one(n, name))


async def _dies_and_comes_back(surroundings: Surroundings, at: At, *, idempotent: bool) -> None:
    async with operator() as op, _case(surroundings, op, idempotent=idempotent) as case:
        await at.scene(case, at.point)
        assert len(op.messages) == at.submitted
        becomes = at.ends(idempotent=idempotent)
        async with case.process():
            if case.then is not None:
                await case.then()
            await eventually(case.become(**becomes), WITHIN_S)
            if not case.told:
                await publish(surroundings, INBOUND_RECEIPTS, _receipts(case))
            await eventually(lambda: _says_what_the_operator_says(case))
            await _is_told(case)
    sent = op.references
    assert len({(m["reference"], m["to"], m["text"]) for m in op.messages}) == len(set(sent))
    if idempotent:  # once more, what may still go, and not again and again
        assert len(sent) == at.submitted + becomes["accepted"]
    else:
        assert len(set(sent)) == len(sent), "sent twice"


async def _says_what_the_operator_says(case: Case) -> bool:
    """What it has is accepted and delivered, and nothing else is."""
    rows = await case.rows("SELECT message_id, status, receipt FROM message")
    assert {str(row["message_id"]) for row in rows} == case.asked, "lost"
    delivered = {str(row["message_id"]) for row in rows if (row["status"], row["receipt"]) == ("accepted", "delivered")}
    assert delivered == set(case.operator.references)
    assert {row["status"] for row in rows} <= {"accepted", "unknown", "denied", "deferred"}
    return True


async def _is_told(case: Case) -> None:
    """The last that is published of each message is what the ledger says, and of each opt-out that it is enforced."""
    query = "SELECT message_id::text, version, status, receipt FROM message"
    ledger = {row["message_id"]: tuple(row) for row in await case.rows(query)}
    async with reading(case.surroundings, DISPATCH_MESSAGES) as read:

        async def everything() -> bool:
            told = sorted(changes_in(await read()), key=lambda e: e.version)
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
        drain_s=SUBMIT_WITHIN_S + 1,  # nobody is stopped: they are killed
    )
    await publish(surroundings, SENDERS, [sender_changed(), codes_sender_changed()])
    await publish(surroundings, CONTROLS, [controlled("running")])
    await publish(surroundings, STATES, [opted_in(n) for n in PEOPLE])
    async with heartbeat(surroundings, STATES), surroundings.sql("dispatch") as ledger:
        yield Case(surroundings, handler, settings, ledger)


def _receipts(case: Case) -> list[ReceiptReceived]:
    return [receipt("delivered", reference=reference) for reference in sorted(set(case.operator.references))]
