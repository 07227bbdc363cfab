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
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from common.database import Database
from common.service import Service, running

WARM = ["dispatch.service", "uvicorn", "asyncpg", "httpx"]  # imported once: each process is a fork of one that has them
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(WARM)


@dataclass(frozen=True)
class Point:
    """`function`: "module:name" or "module:Class.name", of a coroutine. What comes out of it as empty was nothing to
    do, and no point to die at.

    before, after   the call
    committed       the transaction in which it was called, its first argument
    """

    when: Literal["before", "after", "committed"]
    function: str


Process = BaseProcess


async def start(build: Callable[[Any], Service[Any]], settings: Any, dies_at: Point | None = None) -> Process:
    """A service in a process of its own, in its background roles. The first one takes as long as the imports do."""
    process = processes.Process(target=_run, args=(build, settings, dies_at), daemon=True)
    await asyncio.to_thread(process.start)
    return process


async def ended(process: Process, within_s: float) -> int | None:
    """Its exit code; None where it still runs."""
    await asyncio.to_thread(process.join, within_s)
    return process.exitcode


def _run(build: Callable[[Any], Service[Any]], settings: Any, dies_at: Point | None) -> None:
    logging.disable(logging.WARNING)
    if dies_at is not None:
        _arm(dies_at)
    asyncio.run(_until_killed(build(settings)))


async def _until_killed(service: Service[Any]) -> None:
    async with running(service):
        await asyncio.Event().wait()


def _arm(point: Point) -> None:
    module_name, _, path = point.function.partition(":")
    owner: Any = importlib.import_module(module_name)
    *classes, name = path.split(".")
    for step in classes:
        owner = getattr(owner, step)
    function = getattr(owner, name)

    @functools.wraps(function)
    async def dying(*args: Any, **more: Any) -> Any:
        if point.when == "before":
            _die()
        found = await function(*args, **more)
        if found is not None and not found:
            return found
        if point.when == "after":
            _die()
        last.append(args[0])
        return found

    setattr(owner, name, dying)
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
