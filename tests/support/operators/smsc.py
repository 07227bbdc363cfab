"""Start an SMSC's process, and read its lines. A process that is killed and started again keeps its port.

The processes are `smpp`, and `jasmin`, Node's and Java's, which share no line with our client.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any

from stack.jars import fetched

OURS, JASMINS = "tests.support.operators.smpp", "tests.support.operators.jasmin"
NPMS = "npm"  # the package `smpp`
NODE_PROGRAM = str(Path(sys.executable).with_name("node"))  # a wheel
NODE = Path(__file__).parent / "node"
CLOUDHOPPERS = "cloudhopper"  # com.fizzed:ch-smpp, of Maven Central
JAVA = Path(__file__).parent / "java"
LIGHT = ("-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto")


@dataclass
class Smsc:
    port: int
    module: str = OURS
    process: asyncio.subprocess.Process | None = None
    facts: list[dict[str, Any]] = field(default_factory=list)

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            *_program(self.module),
            str(self.port),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Node's wheel starts another process
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

    async def listen(self) -> None:
        """Take what the process says, until it ends. Meanwhile nobody else reads."""
        assert self.process is not None
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.facts.append(json.loads(line))

    def deliver(self, name: str, **fields: Any) -> None:
        """Have an MO or a DLR delivered, as `jasmin` says."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"name": name, **fields}).encode() + b"\n")

    def order(self, what: str, **more: Any) -> None:
        """Have the SMSC answer every submit that the account is throttled (`s`), or unbind every session."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"order": what, **more}).encode() + b"\n")

    def kill(self) -> None:
        """Kill it and whatever it has started, which would keep port and output."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """By SIGKILL. What it said until then is among the facts."""
        if self.process is None:
            return
        self.kill()
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


def _program(module: str) -> list[str]:
    if module == NPMS:
        assert (NODE / "node_modules").exists(), "the npm package is missing: run `make test`, or `npm ci` there"
        return [NODE_PROGRAM, str(NODE / "smsc.js")]
    if module == CLOUDHOPPERS:
        return [which("java") or "java", *LIGHT, "-cp", _compiled(), "Smsc"]
    return [sys.executable, "-m", module]


def _compiled() -> str:
    """Return the class path of the Java program, compiled where its source is newer."""
    source, classes = JAVA / "Smsc.java", JAVA / "classes"
    libs = fetched(JAVA / "pom.xml", JAVA / "libs", one="ch-smpp-*.jar", of="Cloudhopper")
    jars = ":".join(map(str, sorted(libs.glob("*.jar"))))
    with (JAVA / "compiling").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        made = classes / "Smsc.class"
        if not made.exists() or made.stat().st_mtime < source.stat().st_mtime:
            compiler = "org.eclipse.jdt.internal.compiler.batch.Main"
            options = ("-17", "-nowarn", "-cp", jars, "-d", str(classes), str(source))
            subprocess.run([which("java") or "java", *LIGHT, "-cp", jars, compiler, *options], check=True)
    return f"{jars}:{classes}"
