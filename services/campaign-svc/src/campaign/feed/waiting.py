"""Let readers wait for new events of their organisation's feed.

A single task of the process looks for all of its readers: a reader in wait costs neither a connection nor a query.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from campaign.feed import store
from common.db.database import Database
from common.telemetry import forget_span

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
MOST_OF_AN_ORGANISATION = 50  # readers of a process

_of: WeakKeyDictionary[Database, "Waiting"] = WeakKeyDictionary()


def waiting_of(database: Database) -> "Waiting":
    """Return the readers in wait of this process."""
    found = _of.get(database)
    if found is None:
        found = _of[database] = Waiting()
    return found


class Waiting:
    """The readers in wait, by organisation."""

    def __init__(self) -> None:
        self._readers: Counter[str] = Counter()
        self._asked: dict[asyncio.Future[None], tuple[str, int]] = {}
        self._looking: asyncio.Task[None] | None = None

    @contextmanager
    def place(self, organisation_id: str) -> Iterator[bool]:
        """Take a reader's place; False where the organisation has too many readers."""
        free = self._readers[organisation_id] < MOST_OF_AN_ORGANISATION
        self._readers[organisation_id] += free
        try:
            yield free
        finally:
            self._readers[organisation_id] -= free

    async def beyond(self, database: Database, organisation_id: str, position: int, within_s: float) -> None:
        """Return once the feed has an event behind the position, or after `within_s`."""
        found: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked[found] = organisation_id, position
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(database))
        try:
            await asyncio.wait([found], timeout=within_s)
        finally:
            del self._asked[found]

    async def _look(self, database: Database) -> None:
        forget_span()  # of one of the readers
        while self._asked:
            try:
                async with database.begin() as tx:
                    last = await store.last_positions(
                        tx, {organisation_id for organisation_id, _ in self._asked.values()}
                    )
            except Exception as error:  # readers wait on
                log.warning("the feeds cannot be looked at", extra={"why": type(error).__name__})
                last = {}
            for found, (organisation_id, position) in self._asked.items():
                if last.get(organisation_id, 0) > position and not found.done():
                    found.set_result(None)
            await asyncio.sleep(LOOK_EVERY_S)
