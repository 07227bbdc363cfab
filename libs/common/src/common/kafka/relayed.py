"""Let callers wait until the relay has published their events, whichever process relays them."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from common.db.database import Database
from common.db.notify import Listener, either

log = logging.getLogger(__name__)

RELAYED = "outbox_relayed"  # NOTIFY channel: ids that Kafka acknowledged, now deleted; as `spans`
TOLD_CHARS = 7_900  # Postgres takes 8,000 bytes
IDLE_S = 0.25  # of a standby, and of callers that wait
LEADS_S = 1.0  # since its last turn with rows: the relay of this process still leads, as far as this process knows


def spans(ids: Sequence[int]) -> str:
    """Return rising ids as "3-17 20-21", or "" where too long: the listener must query."""
    found: list[list[int]] = []
    for one in ids:
        if found and one == found[-1][1] + 1:
            found[-1][1] = one
        else:
            found.append([one, one])
    told = " ".join(f"{first}-{last}" for first, last in found)
    return told if len(told) <= TOLD_CHARS else ""


def ids_of(told: str) -> list[int]:
    """Return the ids of `spans`."""
    found: list[int] = []
    for span in told.split():
        first, _, last = span.partition("-")
        found.extend(range(int(first), int(last) + 1))
    return found


class _Waiter:
    """A caller that waits for Kafka."""

    def __init__(self, facts: Mapping[UUID, Sequence[int]], events: Mapping[int, UUID]) -> None:
        self.left = set(facts)
        self.rows = [row for ids in facts.values() for row in ids]
        self.events = events
        self.unpublished = set(self.rows)
        self.done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.since = time.monotonic()

    @property
    def knows_its_events(self) -> bool:
        """Return whether a relay of this process tells of all rows."""
        return self.events.keys() >= set(self.rows)

    def answer(self, told: bool) -> None:
        if not self.done.done():
            self.done.set_result(told)


class Relayed:
    """Waits until Kafka has acknowledged the events of facts, whichever process relays them.

    A fact is a row written in the transaction of its events, under an id never used again. A missing outbox row proves
    nothing: a failover may lose the row and use its id again. A fact without outbox rows is proof: a relay deleted the
    rows after the acknowledgement. `proof` is that query: of the facts $1 (uuid[]) return those without any row in the
    outbox, in a single statement.

    A relay of this process tells at once (`published`), which saves the query: while that relay leads, a notification
    asks for nobody whose events are known, and a poll does, should the relay have died meanwhile. The id of the
    event, drawn once, shows that the row of this outbox id is the caller's own.
    """

    def __init__(self, database: Database, proof: str, look_every_s: float = IDLE_S) -> None:
        self._database = database
        self._proof = proof
        self._look_every_s = look_every_s
        self._waiters: set[_Waiter] = set()
        self._by_row: dict[int, set[_Waiter]] = defaultdict(set)
        self._newest = 0  # highest id known as published
        self._leads_until = 0.0
        self._asked: set[UUID] = set()
        self._woken = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Listen to the relay, and poll, until `stop`."""
        async with Listener(self._database, RELAYED, self._heard):
            while not stop.is_set():
                await either(stop, self._woken, self._look_every_s)
                self._ask_of_old()
                self._woken.clear()
                asked, self._asked = self._asked, set()
                if asked:
                    try:
                        self._proven({fact for (fact,) in await self._database.read(self._proof, list(asked))})
                    except Exception as error:  # callers wait on
                        log.warning("the outbox cannot be polled", extra={"why": type(error).__name__})

    def _heard(self, told: str) -> None:
        if not told:
            self._ask(self._waiters)
        told_here = time.monotonic() < self._leads_until
        for row in ids_of(told):
            self._newest = max(self._newest, row)
            waiting = [each for each in self._by_row.get(row, ()) if not each.done.done()]
            self._ask([each for each in waiting if not (told_here and each.knows_its_events)])

    def published(self, rows: Mapping[int, UUID]) -> None:
        """Answer the callers whose events these are, by outbox id.

        Call after the commit that deletes the rows, which Kafka has acknowledged.
        """
        self._leads_until = time.monotonic() + LEADS_S
        for row, event in rows.items():
            for waiter in self._by_row.get(row, ()):
                if waiter.events.get(row) == event:
                    waiter.unpublished.discard(row)
                    if not waiter.unpublished:
                        waiter.answer(True)
        self._newest = max(self._newest, *rows)

    def _ask_of_old(self) -> None:
        """Ask, however busy the others are, for each caller who has waited for a look: a notification can be missed."""
        now = time.monotonic()
        for waiter in self._waiters:
            if now >= waiter.since + self._look_every_s:
                waiter.since = now
                self._ask([waiter])

    def _ask(self, waiters: Iterable[_Waiter]) -> None:
        for waiter in waiters:
            self._asked |= waiter.left
            self._woken.set()

    def _proven(self, facts: set[UUID]) -> None:
        for waiter in self._waiters:
            waiter.left -= facts
            if not waiter.left:
                self._newest = max([self._newest, *waiter.rows])
                waiter.answer(True)

    async def wait(
        self, facts: Mapping[UUID, Sequence[int]], timeout_s: float, events: Mapping[int, UUID] | None = None
    ) -> bool:
        """Return True once Kafka has the events of all `facts` (with their outbox ids), False after `timeout_s`.

        `events`: the ids of the events, by outbox id, where the caller knows them.
        """
        if not facts:
            return True
        waiter = _Waiter(facts, events or {})
        self._waiters.add(waiter)
        for row in waiter.rows:
            self._by_row[row].add(waiter)
        if min(waiter.rows, default=0) <= self._newest:
            self._ask([waiter])  # perhaps published already
        given_up = asyncio.get_running_loop().call_later(timeout_s, waiter.answer, False)  # far less than a timeout
        try:
            return await waiter.done
        finally:
            given_up.cancel()
            self._waiters.discard(waiter)
            for row in waiter.rows:
                self._by_row[row].discard(waiter)
                if not self._by_row[row]:
                    del self._by_row[row]
