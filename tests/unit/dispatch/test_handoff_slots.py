"""Who waits for a slot at the gateway, and for how long; for an answer; and for a gateway whose breaker is open."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from common.contracts.campaign import Category
from common.db.timer import uptime_s
from dispatch.gate.candidate import Permit, requested
from dispatch.gate.deciding import _no_way
from dispatch.gateways import (
    HTTP_PROVIDERS,
    Account,
    Capabilities,
    HttpGateway,
    Misconfigured,
    NotNow,
    Result,
    SendError,
    Submit,
    Throttled,
    ThrottledUntil,
    Unanswered,
    Unreachable,
)
from dispatch.gateways.circuit_breaker import Health
from dispatch.gateways.pool import Rates, Traffic
from dispatch.gateways.routing import Route
from dispatch.lane import Lane
from dispatch.messages.reasons import Reason
from dispatch.messages.store import DecisionId
from dispatch.sending import outcomes, pipeline
from dispatch.sending.mark_writer import MarkWriter
from dispatch.sending.pipeline import Handoff
from tests.support import builders
from tests.support.eventually import eventually
from tests.support.ledger import message
from tests.support.operators.accounts import ACCOUNTS, submit
from tests.support.operators.faults import fault_server

HOME, ISLANDS = "simulator", "simulator.islands"


async def _marked(decisions: Mapping[DecisionId, Sequence[UUID]]) -> set[DecisionId]:
    """As a ledger in which no recovery has closed a decision."""
    return set(decisions)


def _handoff(traffic: Traffic | None = None) -> Handoff:
    nothing: Any = None  # neither a slot nor a submit needs a database and a gate
    handoff = Handoff(database=nothing, traffic=traffic or Traffic([]), clearance=nothing, submits_in_flight=1)
    handoff._marks = {lane: MarkWriter(_marked) for lane in Lane}
    return handoff


@pytest.fixture
async def handoff() -> AsyncIterator[Handoff]:
    """A gateway for one place, another for another; and codes may go by that."""
    gateways = [
        HttpGateway(name, HTTP_PROVIDERS["simulator"], Account("simulator", name, secret="a-token"), timeout_s=1.0)
        for name in (HOME, ISLANDS)
    ]
    codes = Route(ISLANDS, categories=frozenset({"transactional"}))
    routes = [Route(HOME, frozenset({"FR"})), Route(ISLANDS, frozenset({"RE", "YT"})), codes]
    traffic = Traffic(gateways, routes)
    yield _handoff(traffic)
    await traffic.close()


def _permit(category: Category = "marketing", oadc: str = "LUNE") -> Permit:
    candidate = requested(builders.requested(1, category=category), 0)
    return Permit(candidate, builders.number(1), "Offre. STOP au 36111", oadc, "36111", HOME, float("inf"), message())


def _waits(handoff: Handoff, permit: Permit, error: Misconfigured | Unreachable) -> bool:
    again = handoff._again(permit, error)
    assert again is not None
    return again > datetime.now(UTC)


@pytest.mark.parametrize("error", [Misconfigured("no_money"), Unreachable()])
async def test_what_could_not_leave_waits_unless_a_way_of_its_own_is_open(
    handoff: Handoff, error: Misconfigured | Unreachable
) -> None:
    handoff._note_failures(HOME, [_permit()], [error])
    assert _waits(handoff, _permit(), error), "the other gateway takes messages, and not this one"
    assert not _waits(handoff, _permit("transactional"), error)


async def test_what_bears_a_name_that_is_refused_waits_and_no_other(handoff: Handoff) -> None:
    error = Misconfigured("sender_not_approved", of_sender=True)
    handoff._note_failures(HOME, [_permit()], [error])
    assert _waits(handoff, _permit(), error)
    assert not _waits(handoff, _permit(oadc="SOLEIL"), error)


async def test_what_waits_for_somebody_says_so_when_it_is_decided_again(handoff: Handoff) -> None:
    for error, reason in (
        (Unreachable(), Reason.GATEWAY_UNREACHABLE),
        (Misconfigured("no_money"), Reason.GATEWAY_NEEDS_SOMEBODY),
    ):
        traffic = Traffic([*handoff.traffic.gateways.values()], [Route(HOME)])
        _handoff(traffic)._note_failures(HOME, [_permit()], [error])
        ways = traffic.ways(territory="FR", sender_id="lune", oadc="LUNE", category="marketing")
        verdict = _no_way(_permit().candidate, ways, datetime.now(UTC))
        assert (verdict.reasons, verdict.until > datetime.now(UTC)) == ((reason,), True)


async def test_a_code_probes_a_half_open_gateway_while_marketing_does() -> None:
    """That may last as long as a submit may, and a code is of no use by then."""
    async with fault_server() as server:
        server.fault = "silent"
        known = Account("simulator", HOME, secret="a-token", url=server.url)
        gateway = HttpGateway(HOME, HTTP_PROVIDERS["simulator"], known, timeout_s=60.0)
        handoff = _handoff(Traffic([gateway]))
        handoff.traffic._health[HOME, ""] = Health(trips=1)
        sending = []
        lanes: list[tuple[Category, int]] = [("marketing", 1), ("marketing", 1), ("transactional", 2)]
        for category, begun in lanes:
            sending.append(asyncio.create_task(handoff.send([_permit(category)])))

            async def asked(many: int = begun) -> bool:
                return len(server.requests) == many

            await eventually(asked)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        await gateway.close()


async def test_a_permit_that_has_lapsed_gets_no_slot_however_many_are_free() -> None:
    """Else its batch would take one, find that it has lapsed, and take one again: nothing else would ever run."""
    slots = asyncio.Semaphore(3)
    assert not await _handoff()._slot(slots, uptime_s())
    assert not slots.locked()


async def test_a_permit_that_holds_gets_a_slot_that_is_free() -> None:
    slots = asyncio.Semaphore(1)
    assert await _handoff()._slot(slots, uptime_s() + 60)
    assert slots.locked()


class Suspended:
    """The clocks of a machine that has not run for an hour, and where one is not told."""

    def __init__(self) -> None:
        self.for_s = 0.0

    def clock_gettime(self, which: int) -> float:
        return time.clock_gettime(which) + (self.for_s if which == time.CLOCK_BOOTTIME else 0.0)

    def monotonic(self) -> float:
        return time.monotonic()


async def test_a_permit_lapses_while_the_machine_is_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have taken its message for a dead one's meanwhile, and told that an opt-out is enforced."""
    clocks = Suspended()
    for module in ("common.db.timer", "dispatch.sending.pipeline"):
        monkeypatch.setattr(f"{module}.time", clocks)
    until = uptime_s() + 60
    assert await _handoff()._slot(asyncio.Semaphore(1), until)
    clocks.for_s = 3600.0
    assert not await _handoff()._slot(asyncio.Semaphore(1), until)


async def test_a_submit_that_outlives_its_gateways_word_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SUBMIT_LATE_S", 0.2)
    async with fault_server() as server:
        server.fault = "silent"
        account = ACCOUNTS["twilio"].at(server.url)
        gateway = HttpGateway("twilio", HTTP_PROVIDERS["twilio"], account, timeout_s=60.0)
        gateway.timeout_s = 2.0  # is what it says, and not what it does
        candidate = requested(builders.requested(1), 0)
        permit = Permit(
            candidate, builders.number(1), "Offre", "MAISONLUNE", "36111", "twilio", float("inf"), message()
        )
        async with asyncio.timeout(30.0):
            rows, late = await _handoff(Traffic([gateway]))._submit([permit, permit])
        await gateway.close()
    assert rows is not None
    assert late == []
    assert [row.status for row in rows] == ["unknown", "unknown"]
    assert len(server.requests) == 2


async def test_a_gateway_is_told_until_when_a_message_may_reach_the_person() -> None:
    async with fault_server() as server:
        server.fault, server.answer = None, ACCOUNTS["twilio"].accepted(submit(1))
        account = ACCOUNTS["twilio"].at(server.url)
        gateway = HttpGateway("twilio", HTTP_PROVIDERS["twilio"], account, timeout_s=60.0)
        ends = datetime.now(UTC) + timedelta(hours=2)
        permit = msgspec.structs.replace(_permit(), gateway="twilio", deliver_by=ends)
        rows, _ = await _handoff(Traffic([gateway]))._submit([permit])
        await gateway.close()
    assert rows is not None
    assert [row.status for row in rows] == ["accepted"]
    [[told]] = [re.findall(rb"ValidityPeriod=([0-9]+)", each) for each in server.requests]
    assert 3600 < int(told) <= 7200


async def test_nothing_waits_for_its_turn_beyond_the_end_of_its_use(handoff: Handoff) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=2.5)
    permit = _permit()
    permit = msgspec.structs.replace(permit, candidate=msgspec.structs.replace(permit.candidate, send_before=ends))
    limited = _handoff(Traffic([*handoff.traffic.gateways.values()], rates={HOME: Rates(gateway=1.0)}))
    going, later = limited._within_the_rate([permit] * 10)
    waiting = [outcome.due_at for outcome in later if outcome.due_at]
    assert (len(going), len(waiting)) == (1, 9)
    assert waiting[0] < ends
    assert waiting[2:] == [ends] * 7
    handoff.traffic.pause(HOME, 60.0, told=True)
    assert handoff._again(permit, Throttled(60.0)) == ends


async def _pauses(handoff: Handoff, error: SendError, monkeypatch: pytest.MonkeyPatch, times: int) -> list[float]:
    """How long its breaker stays open by the same answer, after each probe."""
    now, pauses = time.monotonic(), []
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for _ in range(times):
        handoff._note_failures(HOME, [_permit(), _permit()], [error, type(error)(1.0)])
        pauses.append(handoff.traffic._health[HOME, ""].open_until - now)
        now += pauses[-1]
        assert handoff.traffic.breaker(HOME) == "half_open", "with one message"
    return pauses


async def test_a_gateway_that_does_not_say_how_long_is_asked_ever_later(
    handoff: Handoff, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = await _pauses(handoff, Throttled(1.0), monkeypatch, 6)
    assert all(2**n / 2 <= pause <= 2**n for n, pause in enumerate(pauses))
    handoff.traffic.answered(HOME, [], 0.1)
    assert (await _pauses(handoff, Throttled(1.0), monkeypatch, 1))[0] <= 1.0


async def test_a_gateway_that_says_how_long_is_asked_then(handoff: Handoff, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await _pauses(handoff, ThrottledUntil(7.0), monkeypatch, 4) == pytest.approx([7.0] * 4)


async def test_what_is_put_off_for_itself_waits_and_its_gateway_takes_others(handoff: Handoff) -> None:
    error = NotNow(300.0)
    handoff._note_failures(HOME, [_permit()], [error])
    assert handoff.traffic.breaker(HOME) == "closed"
    again = handoff._again(_permit(), error)
    assert again is not None
    assert again - datetime.now(UTC) > timedelta(seconds=290)
    row = outcomes.answered(_permit(), error, datetime.now(UTC), again, echoes_reference=False)
    assert (row.status, row.due_at) == ("deferred", again)


class Operator:
    """Loses so many answers of each submit, or one that is everybody's."""

    name, batch, timeout_s = HOME, 32, 1.0

    def __init__(self, batch: int) -> None:
        self.capabilities = Capabilities(batch=batch)
        self.loses: int | SendError = 0

    async def submit(self, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        if isinstance(self.loses, SendError):
            raise self.loses
        lost = [Unanswered(f"the connection of {n}") for n in range(self.loses)]
        return [*lost, *(Result("accepted", None, None) for _ in messages[self.loses :])]

    async def look_up(self, reference: str, subject_id: str) -> Result | None:
        return None

    async def close(self) -> None:
        pass


async def _breaker_after(operator: Operator, handoff: Handoff, submits: int, loses: int | SendError) -> str:
    operator.loses = loses
    for _ in range(submits):
        await handoff._submit([_permit()] * operator.batch)
    return handoff.traffic.breaker(HOME)


@pytest.mark.parametrize(("batch", "until_open"), [(1, 1), (32, 40)])
async def test_lost_answers_open_the_breaker_once_they_are_most_whatever_a_request_holds(
    batch: int, until_open: int
) -> None:
    operator = Operator(batch)
    handoff = _handoff(Traffic([operator]))
    for loses in (0, 1, 4, 12):
        assert await _breaker_after(operator, handoff, 50, loses) == "closed", f"{loses} of 32"
    assert await _breaker_after(operator, handoff, 50, 0) == "closed"
    assert await _breaker_after(operator, handoff, until_open, 20) == "open"


async def test_one_request_without_an_answer_opens_no_breaker_however_many_it_holds() -> None:
    operator = Operator(32)
    handoff = _handoff(Traffic([operator]))
    for submits in (50, 3, 3):
        assert await _breaker_after(operator, handoff, submits, 0) == "closed"
        assert await _breaker_after(operator, handoff, 1, Unanswered("silence")) == "closed"
    assert await _breaker_after(operator, handoff, 20, Unanswered("silence")) == "open"
