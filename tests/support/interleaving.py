"""Transactions in every order of their statements, on a real Postgres.

An actor is a coroutine that uses a `Stepped` database, in as many transactions as it likes. It stands before each of
its statements until the scheduler lets it go (COMMIT is a statement, BEGIN is none; a statement outside a transaction
commits). So one statement is under way at a
time, beside those that wait for a lock. A statement that waits is told from one that takes its time by
`pg_blocking_pids`, never by a clock. What the code under test does between two statements belongs to the first of them,
unless the actor `stands_after` that one as well, as where the code reads a clock next.

An order is a list of the actors' names. All orders are run in which the scheduler takes the turn at most `freezes`
times from an actor that could go on: with one, each process stands still before each of its statements while the others
do what they like. An actor that has ended or waits for a lock loses its turn for nothing. No order is run twice.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy import event

from common.db.database import Database

Act = Callable[[], Awaitable[object]]
Begin = Callable[[], Awaitable[Mapping[str, Act]]]
Check = Callable[[asyncpg.Connection], Awaitable[object]]

# no other transaction can tell when these ran; the last two are the driver's own, of types that it has not met yet
NO_STEPS = (
    *("BEGIN", "ROLLBACK", "SELECT set_config(", "SELECT pg_notify("),
    *("SELECT current_setting('jit')", "WITH RECURSIVE typeinfo_tree("),
)
LOOK_EVERY_S = 0.005  # at who waits for a lock: how long a statement takes decides nothing
BLOCKED = "SELECT pid FROM unnest($1::integer[]) AS p(pid) WHERE cardinality(pg_blocking_pids(pid)) > 0"


@dataclass(eq=False)
class _Actor:
    name: str
    no_steps: tuple[str, ...]
    stands_after: tuple[str, ...]
    moved: asyncio.Event  # the scheduler's: an actor stands, or has ended
    at: str | None = None  # the statement that it stands before
    under_way: int | None = None  # the backend that runs its statement
    commits: bool = False  # by the statement that it stands before, or ran last
    may_go: asyncio.Event = field(default_factory=asyncio.Event)
    task: "asyncio.Task[object] | None" = None

    @property
    def ended(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def is_ready(self) -> bool:
        return self.at is not None and not self.ended

    async def stand_before(self, statement: str) -> None:
        self.at = statement
        self.moved.set()
        self.may_go.clear()
        await self.may_go.wait()

    def go(self) -> str:
        told, self.at = str(self.at), None
        self.may_go.set()
        return told


_acting: ContextVar[_Actor | None] = ContextVar("acting", default=None)


async def stand(before: str) -> None:
    """A step of the running actor that is no statement: a submit that begins."""
    if actor := _acting.get():
        await actor.stand_before(before)


async def stand_after(statement: str, act: Act) -> "asyncio.Task[object]":
    """A process that stands still for good: the server has answered this statement, and it has not read that."""
    moved = asyncio.Event()
    actor = _Actor("stands still", NO_STEPS, (statement,), moved)
    actor.task = task = asyncio.create_task(_acts(actor, act))
    task.add_done_callback(lambda _: moved.set())
    while not task.done() and not (actor.at or "").startswith("(after)"):
        moved.clear()
        if actor.is_ready:
            actor.go()
        await moved.wait()
    return task


class _Steps:
    """asyncpg's protocol, which every statement passes through, SQLAlchemy's as well as those of the raw driver."""

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)

    async def query(self, query: str, *more: Any, **named: Any) -> Any:
        return await self._step(query, lambda: self._protocol.query(query, *more, **named))

    async def bind_execute(self, state: Any, *more: Any, **named: Any) -> Any:
        return await self._step(state.query, lambda: self._protocol.bind_execute(state, *more, **named))

    async def copy_in(self, copy_stmt: str, *more: Any, **named: Any) -> Any:
        return await self._step(copy_stmt, lambda: self._protocol.copy_in(copy_stmt, *more, **named))

    async def _step(self, sql: str, call: Callable[[], Awaitable[Any]]) -> Any:
        actor = _acting.get()
        statement = " ".join(sql.split())
        if actor is None or statement.startswith(actor.no_steps):
            return await call()
        actor.commits = statement.startswith("COMMIT") or not self._protocol.is_in_transaction()
        await actor.stand_before(statement)
        actor.under_way = self._protocol.get_server_pid()
        try:
            answer = await call()
        finally:
            actor.under_way = None
        if statement.startswith(actor.stands_after):
            await actor.stand_before(f"(after) {statement}")
        return answer


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    def __init__(self, protocol: Any, *more: Any) -> None:
        super().__init__(_Steps(protocol), *more)


class Stepped(Database):
    """A database whose statements are steps where an actor runs them, and are as ever elsewhere."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        super().__init__(url, pool_size=pool_size, name="stepped")

        def stepped(_dialect: object, _record: object, _args: object, more: dict[str, Any]) -> None:
            more["connection_class"] = _Connection

        event.listen(self.engine.sync_engine, "do_connect", stepped)

    async def connected(self) -> "Stepped":
        """With all of its connections open: what the driver asks of a new one is no step."""
        size = self.engine.pool.size()  # type: ignore[attr-defined]
        opened = [await self.engine.connect() for _ in range(size)]
        for connection in opened:
            await connection.close()
        return self


@dataclass(frozen=True)
class Choice:
    ready: tuple[str, ...]
    taken: str


@dataclass
class Interleaving:
    """`watcher`: a connection of its own, for the checks. `always`: holds after each commit, of what is committed."""

    watcher: asyncpg.Connection
    always: Check | None = None
    freezes: int = 2
    no_steps: tuple[str, ...] = ()
    stands_after: tuple[str, ...] = ()
    orders: int = 0
    steps: list[str] = field(default_factory=list)  # of the order that runs

    async def every_order(self, begin: Begin, ended: Check | None = None) -> None:
        """`begin`: makes things as they are before, and names the actors, anew for each order. `ended`: holds after
        each order. Raises what fails, with the order that it failed in."""
        left: list[tuple[str, ...]] = [()]
        while left:
            first = left.pop()
            made = await self._one_order(first, begin, ended)
            self.orders += 1
            for place in range(len(first), len(made)):
                before = tuple(choice.taken for choice in made[:place])
                for other in made[place].ready:
                    order = (*before, other)
                    if other != made[place].taken and _freezes(order, made) <= self.freezes:
                        left.append(order)

    async def _one_order(self, first: Sequence[str], begin: Begin, ended: Check | None) -> list[Choice]:
        self.steps, made, acts = [], list[Choice](), await begin()
        moved, has_committed = asyncio.Event(), True
        actors = [_Actor(name, (*NO_STEPS, *self.no_steps), self.stands_after, moved) for name in acts]
        for actor in actors:
            actor.task = asyncio.create_task(_acts(actor, acts[actor.name]))
            actor.task.add_done_callback(lambda _: moved.set())
        try:
            while True:
                await self._until_quiet(actors, moved)
                if self.always is not None and has_committed:
                    await self.always(self.watcher)
                ready = tuple(actor.name for actor in actors if actor.is_ready)
                if not ready:
                    break
                last = made[-1].taken if made else ""
                default = last if last in ready else ready[0]
                wanted = first[len(made)] if len(made) < len(first) else default
                taken = wanted if wanted in ready else default
                made.append(Choice(ready, taken))
                going = next(actor for actor in actors if actor.name == taken)
                statement, has_committed = going.go(), going.commits
                self.steps.append(f"{taken}: {statement[:90]}")
            for actor in actors:
                assert actor.task is not None
                await actor.task
            if ended is not None:
                await ended(self.watcher)
        except Exception as error:
            error.add_note("in this order:\n  " + "\n  ".join(self.steps))
            raise
        finally:
            for actor in actors:
                assert actor.task is not None
                actor.task.cancel()
            await asyncio.gather(*(actor.task for actor in actors if actor.task), return_exceptions=True)
        return made

    async def _until_quiet(self, actors: Sequence[_Actor], moved: asyncio.Event) -> None:
        """Each has ended, stands before a statement, or waits for a lock that another of these holds."""
        while going := [actor for actor in actors if not actor.ended and not actor.is_ready]:
            moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await moved.wait()
                    continue
            asked = {actor: actor.under_way for actor in going}
            if None in asked.values():
                continue
            blocked = {pid for (pid,) in await self.watcher.fetch(BLOCKED, list(asked.values()))}
            still = all(actor.under_way == pid and pid in blocked for actor, pid in asked.items())
            if still and any(actor.is_ready for actor in actors):
                return
            # where nobody could go on, Postgres ends the deadlock with an error of one of them


async def _acts(actor: _Actor, act: Act) -> object:
    _acting.set(actor)
    return await act()


def _freezes(order: Sequence[str], made: Sequence[Choice]) -> int:
    """How often the turn was taken from an actor that could go on."""
    return sum(
        order[place] != order[place - 1] and order[place - 1] in made[place].ready for place in range(1, len(order))
    )


@contextlib.asynccontextmanager
async def watching(url: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
