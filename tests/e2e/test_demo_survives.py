"""Promise 4, and all the others: kill -9 of each service in turn in the middle of the demo, a restart of each, and
every check of the report still holds, also on the code that two organisations share and against the hostile caller."""

import asyncio
from pathlib import Path

import pytest
from rich.console import Console

from stack.demo.demonstration import demonstrate
from stack.running import Stack
from tests.support.eventually import eventually
from tests.support.infrastructure import KAFKA

FOUR = ("dispatch", "campaign", "consent", "inbound")
FIRST_AT, THEN_EVERY = 1000, 1000  # messages that the operator has when the next one dies


@pytest.mark.timeout(600)
async def test_the_demo_survives_a_kill_of_each_service(tmp_path: Path) -> None:
    killed_at: dict[str, int] = {}

    async def kill_and_restart(stack: Stack) -> None:
        """While the operator receives, so that messages are in flight. Once one is back the campaign may have ended, so
        the next does not wait for it."""
        async with asyncio.TaskGroup() as restarting:
            for turn, service in enumerate(FOUR):

                async def receiving(least: int = FIRST_AT + turn * THEN_EVERY) -> int:
                    return received if (received := _received(stack)) >= least else 0

                received = await eventually(receiving, within_s=120)
                stack.kill(service)
                killed_at[service] = received
                restarting.create_task(stack.restart(service))

    console = Console(record=True, width=120, quiet=True)
    report = await demonstrate(tmp_path, console=console, during=kill_and_restart, kafka=KAFKA, durable=False)
    assert tuple(killed_at) == FOUR
    assert report.stops > 100
    assert report.messages > 10_000
    # of the two campaigns the second has fewer people, those who had not stopped: more than half was the first one's
    assert max(killed_at.values()) < report.messages / 2, f"the campaign had ended: nothing was tested: {killed_at}"
    broken = [check for check in report.checks if not check.holds]
    assert broken == [], "\n".join([*map(str, broken), *report.explained])


def _received(stack: Stack) -> int:
    """How many messages the operator has, as its log says."""
    return stack.simulator_log.read_bytes().count(b'{"kind":"submit"') if stack.simulator_log.exists() else 0
