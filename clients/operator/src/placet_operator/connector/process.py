"""The connector as a process of the kit: started, killed, started again."""

import asyncio
import os
import shlex
import signal
from asyncio.subprocess import DEVNULL, Process

import aiohttp

from placet_operator.checking import Broken, until

STARTS_WITHIN_S, ENDS_WITHIN_S = 60.0, 10.0


class Connector:
    """A command that runs the connector in the foreground."""

    def __init__(self, command: str, at: str, http: aiohttp.ClientSession) -> None:
        self._command = shlex.split(command)
        self._at = at
        self._http = http
        self._process: Process | None = None

    async def start(self) -> None:
        """Return once an HTTP server answers, whatever the answer. Raises Broken."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdin=DEVNULL, stdout=DEVNULL, start_new_session=True
        )
        await until(self._answers, STARTS_WITHIN_S, "the command of --start does not answer at --at")

    async def kill(self) -> None:
        """Send SIGKILL to the command and its children."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        os.killpg(self._process.pid, how)
        try:
            async with asyncio.timeout(ENDS_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def _answers(self) -> bool | None:
        if self._process is not None and self._process.returncode is not None:
            raise Broken(f"the command of --start ended with {self._process.returncode}")
        try:
            async with self._http.get(f"{self._at}/livez", allow_redirects=False):
                return True
        except (aiohttp.ClientError, OSError):
            return None
