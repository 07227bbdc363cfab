"""Waiting without polling: Postgres notifications, and events with a deadline."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from common.db.database import Database

log = logging.getLogger(__name__)

RECONNECT_S = 1.0


async def either(first: asyncio.Event, second: asyncio.Event | None, seconds: float | None) -> None:
    """Return when either event is set, or after `seconds`, if any."""
    if second is None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # a task for each wait would cost as much as most looks
                await first.wait()
        return
    waits = [asyncio.ensure_future(event.wait()) for event in (first, second)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


class Listener:
    """A context which calls `wake` with the payload of each NOTIFY on `channel`.

    A notification is a hint: each user also polls.
    """

    def __init__(self, database: Database, channel: str, wake: Callable[[str], None]) -> None:
        self._database = database
        self._channel = channel
        self._wake = wake
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _listen(self) -> None:
        while True:
            connection = None
            try:
                lost = asyncio.Event()
                connection = await self._database.connect()
                connection.add_termination_listener(lambda _, lost=lost: lost.set())
                await connection.add_listener(self._channel, lambda *told: self._wake(str(told[-1])))
                await lost.wait()
            except OSError as error:
                log.warning(
                    "the listener lost its connection", extra={"channel": self._channel, "why": type(error).__name__}
                )
            except Exception:
                log.exception("the listener lost its connection", extra={"channel": self._channel})
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(RECONNECT_S)
