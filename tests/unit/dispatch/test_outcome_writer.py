"""Outcomes whose writer is cancelled."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from common.telemetry import continue_trace, traceparent
from dispatch.messages.row import Outcome
from dispatch.sending.outcome_writer import Storing
from tests.support.ledger import accepted, message


def trace(n: int) -> str:
    return f"00-{n + 1:032x}-{1:016x}-01"


FIRST, SECOND = accepted(message(1)), accepted(message(2))


@pytest.mark.parametrize("cancelled_as_it", ["begins", "stores", "retries"])
async def test_outcomes_whose_writer_is_cancelled_are_stored_by_another(cancelled_as_it: str) -> None:
    """Also those who would have shared its next transaction: their messages have left."""
    is_there, in_ledger, stands = asyncio.Event(), set[UUID](), cancelled_as_it != "begins"

    async def store(outcomes: Sequence[Outcome]) -> None:
        if stands:
            if cancelled_as_it == "retries" and not writer.stubborn:
                raise ConnectionResetError
            is_there.set()
            await asyncio.Event().wait()
        in_ledger.update(each.message_id for each in outcomes)

    writer = Storing(store)
    first = asyncio.create_task(writer.stored([FIRST]))
    if stands:
        await is_there.wait()
    second = asyncio.create_task(writer.stored([SECOND]))
    await asyncio.sleep(0)
    stands = False
    for task in (*writer.writers, *writer.stubborn):
        task.cancel()
    async with asyncio.timeout(30):
        await asyncio.gather(first, second)
    assert in_ledger == {FIRST.message_id, SECOND.message_id}


async def test_each_transaction_goes_on_with_the_trace_of_its_first_submit() -> None:
    """Also one that is tried again alone."""
    seen, goes_on = list[tuple[str | None, int]](), asyncio.Event()

    async def store(outcomes: Sequence[Outcome]) -> None:
        seen.append((traceparent(), len(outcomes)))
        await goes_on.wait()
        if len(outcomes) > 1:
            raise ConnectionResetError

    async def submit(n: int, outcome: Outcome) -> None:
        continue_trace(trace(n))
        await writer.stored([outcome])

    writer = Storing(store)
    submits = [asyncio.create_task(submit(0, FIRST))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    submits += [asyncio.create_task(submit(n, SECOND)) for n in (1, 2)]
    await asyncio.sleep(0)
    goes_on.set()
    async with asyncio.timeout(30):
        await asyncio.gather(*submits)
    assert seen == [(trace(0), 1), (trace(1), 2), (trace(1), 1), (trace(2), 1)]


async def test_a_writer_is_not_followed_by_another_once_its_callers_are_gone() -> None:
    """So the end of a process is an end."""
    is_there = asyncio.Event()

    async def store(_: Sequence[Outcome]) -> None:
        is_there.set()
        await asyncio.Event().wait()

    writer = Storing(store)
    caller = asyncio.create_task(writer.stored([FIRST]))
    await is_there.wait()
    (task,) = writer.writers
    for each in (caller, task):
        each.cancel()
    await asyncio.wait((caller, task))
    await asyncio.sleep(0)
    assert not writer.writers
