"""Processes that kill themselves at a chosen point of the code: `kill -9`, from within, and no switch for it in what
runs in production. A point names a function; one that is not there any more ends the process with an error, and its
test."""

import asyncio
import functools
import importlib
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Any, Literal

from common.db.database import Database
from common.service import Service, running
from tests.support.running import serving

# Imported once: each process is a fork of one that has them
WARM = [__name__, "dispatch.service", "uvicorn", "asyncpg", "httpx"]
# In the ledger of dispatch-svc, for messages that a dead process has left `sending`. A test that waits instead has a
# short timeout, by which a sweep takes messages of a live process for left ones on a machine that stands still
TIME_PASSES = "UPDATE sending SET since = since - interval '1 minute'"
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(WARM)


@dataclass(frozen=True)
class Point:
    """`function`: "module:name" or "module:Class.name", of a coroutine. What comes out of it as empty was nothing to
    do, and no point to die at.

    before, after   the call
    committed       the transaction in which it was called, its first argument

    `within`: another one, in a call of which it counts; where several transactions call the function, it says which.
    """

    when: Literal["before", "after", "committed"]
    function: str
    within: str | None = None


class Crash(Exception):
    """Raised by a test within a transaction: this process dies before the commit."""


Process = BaseProcess


def not_yet() -> Event:
    """Until it is set, a process that is given it passes its point: what happens as it starts is none."""
    return processes.Event()


async def start(
    build: Callable[[Any], Service[Any]],
    settings: Any,
    dies_at: Point | None = None,
    armed: Event | None = None,
    at: socket.socket | None = None,
) -> Process:
    """A service in a process of its own, in its background roles; with `at`, it answers there too. Asked to end, it
    stops as planned. The first one takes as long as the imports do."""
    process = processes.Process(target=_run, args=(build, settings, dies_at, armed, at), daemon=True)
    process.start()  # in no other thread: see `ended`
    return process


async def ended(process: Process, within_s: float) -> int | None:
    """Its exit code; None where it still runs. That can be read once from where it is told, and whatever asks for it
    does that, `start` for all processes: so this thread alone does. Another one only waits for it to be there."""
    await asyncio.to_thread(connection.wait, [process.sentinel], within_s)
    return process.exitcode


def _run(
    build: Callable[[Any], Service[Any]],
    settings: Any,
    dies_at: Point | None,
    armed: Event | None,
    at: socket.socket | None,
) -> None:
    logging.disable(logging.WARNING)
    if dies_at is not None:
        _arm(dies_at, armed)
    asyncio.run(_until_killed(build(settings), at))


async def _until_killed(service: Service[Any], at: socket.socket | None) -> None:
    asked_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_end.set)
    async with running(service) if at is None else serving(service, at):
        await asked_to_end.wait()


def _found(function: str) -> tuple[Any, str]:
    """Where it is, and its name there."""
    module_name, _, path = function.partition(":")
    owner: Any = importlib.import_module(module_name)
    *classes, name = path.split(".")
    for step in classes:
        owner = getattr(owner, step)
    return owner, name


def _arm(point: Point, armed: Event | None) -> None:
    inside = ContextVar("inside", default=point.within is None)
    owner, name = _found(point.function)
    function = getattr(owner, name)

    @functools.wraps(function)
    async def dying(*args: Any, **more: Any) -> Any:
        counts = inside.get() and (armed is None or armed.is_set())
        if counts and point.when == "before":
            _die()
        found = await function(*args, **more)
        if not counts or (found is not None and not found):
            return found
        if point.when == "after":
            _die()
        last.append(args[0])
        return found

    setattr(owner, name, dying)
    if point.within is not None:
        owner, name = _found(point.within)
        around = getattr(owner, name)

        @functools.wraps(around)
        async def entering(*args: Any, **more: Any) -> Any:
            before = inside.set(True)
            try:
                return await around(*args, **more)
            finally:
                inside.reset(before)

        setattr(owner, name, entering)
    last: list[Any] = []  # transactions
    begin = Database.begin

    @asynccontextmanager
    async def dying_begin(self: Database) -> Any:
        async with begin(self) as tx:
            yield tx
        if any(tx is marked for marked in last):
            _die()

    Database.begin = dying_begin  # type: ignore[method-assign]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
