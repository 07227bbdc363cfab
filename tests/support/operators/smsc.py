"""Start an SMSC's process, and read its lines. A process that is killed and started again keeps its port.

The processes are `smpp`, and `jasmin`, which shares no line with our client.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

OURS, JASMINS = "tests.support.operators.smpp", "tests.support.operators.jasmin"


@dataclass
class Smsc:
    port: int
    module: str = OURS
    process: asyncio.subprocess.Process | None = None
    facts: list[dict[str, Any]] = field(default_factory=list)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self.module, str(self.port), stdout=asyncio.subprocess.PIPE
        )
        assert self.process.stdout is not None
        assert json.loads(await self.process.stdout.readline())["kind"] == "up"

    async def heard(self, many: int, kind: str = "submit") -> list[dict[str, Any]]:
        """So many of that kind, once it has printed them."""
        assert self.process is not None
        assert self.process.stdout is not None
        while sum(fact["kind"] == kind for fact in self.facts) < many:
            self.facts.append(json.loads(await asyncio.wait_for(self.process.stdout.readline(), 10)))
        return [fact for fact in self.facts if fact["kind"] == kind]

    async def stop(self) -> None:
        """By SIGKILL. What it said until then is among the facts."""
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.kill()
        assert self.process.stdout is not None
        self.facts += map(json.loads, (await self.process.stdout.read()).splitlines())
        await self.process.wait()

    @property
    def submits(self) -> list[dict[str, Any]]:
        """All of them, once it is stopped."""
        return [fact for fact in self.facts if fact["kind"] == "submit"]


@asynccontextmanager
async def smsc(module: str = OURS) -> AsyncIterator[Smsc]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        running = Smsc(free.getsockname()[1], module)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()
