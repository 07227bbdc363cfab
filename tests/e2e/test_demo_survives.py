"""Promise 4, and all the others: kill -9 of any one service in the middle of the demo, a restart, and every check of
the report still holds."""

from pathlib import Path

import pytest
from rich.console import Console

from stack.demo import demonstrate
from stack.running import Stack
from tests.eventually import eventually
from tests.infrastructure import KAFKA


@pytest.mark.timeout(400)
@pytest.mark.parametrize("service", ["dispatch", "campaign", "consent", "inbound"])
async def test_the_demo_survives_a_kill_of(service: str, tmp_path: Path) -> None:
    killed = []

    async def kill_and_restart(stack: Stack) -> None:
        """Once the operator has begun to receive, so that messages are in flight."""

        async def receiving() -> bool:
            return stack.simulator_log.exists() and stack.simulator_log.stat().st_size > 200_000

        await eventually(receiving, within_s=60)
        stack.kill(service)
        killed.append(service)
        await stack.restart(service)

    console = Console(record=True, width=120, quiet=True)
    report = await demonstrate(tmp_path, console=console, during=kill_and_restart, kafka=KAFKA, durable=False)
    assert killed == [service]
    assert report.stops > 100
    assert report.messages > 10_000
    broken = [check for check in report.checks if not check.holds]
    assert broken == [], broken
