"""Marks that fail, are refused, or are never answered."""

import asyncio
from collections.abc import Mapping, Sequence
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from common.telemetry import continue_trace, traceparent
from dispatch.gate.candidate import Permit, requested
from dispatch.messages.store import DecisionId
from dispatch.sending.mark_writer import MarkWriter
from tests.support import builders
from tests.support.ledger import message

PERMIT = Permit(
    requested(builders.requested(1), 0), builders.number(1), "Offre", "MAISONLUNE", "36111", "telnyx", 0.0, message()
)


def _not_begun(result: str) -> float:
    return REGISTRY.get_sample_value("sms_dispatch_submits_not_begun_total", {"result": result}) or 0


async def test_a_mark_that_fails_rests_longer_each_time_and_at_once_again_after_one_that_is_stored() -> None:
    """The caller decides again after each refusal: the rests bound the decisions."""
    fails, rests = [True, True, True, False, True, False], list[float]()

    async def mark(decisions: Mapping[DecisionId, Sequence[UUID]]) -> set[DecisionId]:
        if fails.pop(0):
            raise ConnectionResetError
        return set(decisions)

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    writer, before, decisions = MarkWriter(mark, rest), _not_begun("failed"), 0
    for _ in range(2):
        while not await writer.may_begin([PERMIT]):
            decisions += 1
            assert len(rests) == decisions, "it rests before the answer"
    assert decisions == 4
    assert rests[0] < rests[1] < rests[2]
    assert rests[3] == rests[0]
    assert _not_begun("failed") - before == 4


async def test_a_submit_of_a_closed_decision_does_not_begin_and_need_not_rest() -> None:
    async def mark(_: Mapping[DecisionId, Sequence[UUID]]) -> set[DecisionId]:
        return set()

    async def rest(_: float) -> None:
        raise AssertionError

    before = _not_begun("closed")
    assert not await MarkWriter(mark, rest).may_begin([PERMIT])
    assert _not_begun("closed") - before == 1


async def test_a_statement_goes_on_with_the_trace_of_its_first_submit() -> None:
    traces, seen, goes_on = [f"00-{n:032x}-{1:016x}-01" for n in (1, 2, 3)], list[str | None](), asyncio.Event()
    is_there = asyncio.Event()

    async def mark(decisions: Mapping[DecisionId, Sequence[UUID]]) -> set[DecisionId]:
        seen.append(traceparent())
        is_there.set()
        await goes_on.wait()
        return set(decisions)

    async def submit(trace: str) -> bool:
        continue_trace(trace)
        return await writer.may_begin([PERMIT])

    writer = MarkWriter(mark)
    submits = [asyncio.create_task(submit(traces[0]))]
    await is_there.wait()
    submits += [asyncio.create_task(submit(trace)) for trace in traces[1:]]
    await asyncio.sleep(0)
    goes_on.set()
    assert await asyncio.gather(*submits) == [True] * 3
    assert seen == traces[:2], "the third shares the statement of the second"


@pytest.mark.parametrize("cancelled_as_it", ["begins", "marks", "rests"])
async def test_whoever_waits_for_a_writer_that_is_cancelled_is_answered(cancelled_as_it: str) -> None:
    """Also those who would have shared its next statement. Their submits do not begin."""
    is_there = asyncio.Event()

    async def stands() -> None:
        is_there.set()
        await asyncio.Event().wait()

    async def mark(_: Mapping[DecisionId, Sequence[UUID]]) -> set[DecisionId]:
        if cancelled_as_it == "rests":
            raise ConnectionResetError
        await stands()
        return set()

    async def rest(_: float) -> None:
        await stands()

    writer = MarkWriter(mark, rest)
    first = asyncio.create_task(writer.may_begin([PERMIT]))
    await (asyncio.sleep(0) if cancelled_as_it == "begins" else is_there.wait())
    second = asyncio.create_task(writer.may_begin([PERMIT]))
    if cancelled_as_it != "begins":
        await asyncio.sleep(0)
    assert writer.writer is not None
    writer.writer.cancel()
    async with asyncio.timeout(30):
        assert list(await asyncio.gather(first, second)) == [False, False]
