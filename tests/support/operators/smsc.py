"""Start an SMSC's process, and read its lines. A process that is killed and started again keeps its port.

The processes are `smpp`, and `jasmin` and Node's, which share no line with our client.
"""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OURS, JASMINS = "tests.support.operators.smpp", "tests.support.operators.jasmin"
NPMS = "npm"  # the package `smpp`
NODE_PROGRAM = str(Path(sys.executable).with_name("node"))  # a wheel
NODE = Path(__file__).parent / "node"


@dataclass
class Smsc:
    port: int
    module: str = OURS
    process: asyncio.subprocess.Process | None = None
    facts: list[dict[str, Any]] = field(default_factory=list)

    async def start(self) -> None:
        if self.module == NPMS:
            assert (NODE / "node_modules").exists(), "the npm package is missing: run `make test`, or `npm ci` there"
        self.process = await asyncio.create_subprocess_exec(
            *((NODE_PROGRAM, str(NODE / "smsc.js")) if self.module == NPMS else (sys.executable, "-m", self.module)),
            str(self.port),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert json.loads(await self.process.stdout.readline())["kind"] == "up"

    async def heard(self, many: int, kind: str = "submit") -> list[dict[str, Any]]:
        """So many of that kind, once it has printed them."""
        assert self.process is not None
        assert self.process.stdout is not None
        while sum(fact["kind"] == kind for fact in self.facts) < many:
            self.facts.append(json.loads(await asyncio.wait_for(self.process.stdout.readline(), 30)))
        return [fact for fact in self.facts if fact["kind"] == kind]

    def deliver(self, name: str, **fields: Any) -> None:
        """Have an MO or a DLR delivered, as `jasmin` says."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"name": name, **fields}).encode() + b"\n")

    async def stop(self) -> None:
        """By SIGKILL. What it said until then is among the facts."""
        if self.process is None:
            return
        if self.process.returncode is None:
            self.process.kill()
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
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
