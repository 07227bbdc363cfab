"""Read back through Placet's API what became of an operator's event.

An MO is found by its time: each event of a run says another `sent_at`, which the list of replies shows.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from time import monotonic

import aiohttp

from placet_client import AsyncPlacet, Forbidden, NotFound
from placet_client.answers.inbound import Reply
from placet_operator.checking import Broken, NotSeen, until

ARRIVAL = timedelta(minutes=5)  # before the run, for a clock that differs
MOST_REPLIES = 5000
POLL_S = 0.1


@dataclass
class Reading:
    """Placet's API, for the sender of one code. `began`: of the run."""

    placet: AsyncPlacet = field(repr=False)
    sender_id: str
    within_s: float
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _times: Iterator[int] = field(default_factory=lambda: count(1), repr=False)
    _listing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    _listed: Mapping[datetime, list[Reply]] = field(default_factory=dict, repr=False)
    _listed_at: float = 0.0

    def moment(self, before: timedelta = timedelta(0)) -> datetime:
        """Return a time that no other event of this run has, `before` the run."""
        return self.began - before - timedelta(milliseconds=next(self._times))

    async def replies(self, at: datetime) -> list[Reply]:
        """Return the texts that are read as of this time. One listing serves all who asked before it began."""
        asked = monotonic()
        async with self._listing:
            if self._listed_at <= asked:
                self._listed_at = monotonic()
                self._listed = await self._list()
        return self._listed.get(at, [])

    async def _list(self) -> dict[datetime, list[Reply]]:
        found: dict[datetime, list[Reply]] = defaultdict(list)
        async for reply in self.placet.replies.list(sender_id=self.sender_id, since=self.began - ARRIVAL, limit=100):
            found[reply.occurred_at].append(reply)
            if len(found) >= MOST_REPLIES:
                break
        return dict(found)

    async def read(self, at: datetime) -> Reply:
        """Return the one reading of an MO. Raises Broken."""

        async def look() -> list[Reply] | None:
            return await self.replies(at) or None

        found = await until(look, self.within_s, "an acknowledged MO is in no list of replies", POLL_S)
        if len(found) > 1:
            raise Broken(f"one MO is listed {len(found)} times")
        return found[0]

    async def is_stop(self, at: datetime, what: str) -> None:
        """Raise Broken unless the MO is read as a STOP, or is held for a reviewer."""
        reply = await self.read(at)
        if reply.intent != "stop" and reply.state != "held":
            raise Broken(f"{what} is read as {reply.intent!r}")

    async def is_nothing(self, at: datetime, what: str) -> None:
        """Raise Broken for an MO of that time; ask once what was sent before it has been read."""
        if await self.replies(at):
            raise Broken(f"{what} was refused, and counts")

    async def stopped(self, number: str) -> None:
        """Wait until consent-svc has the person's opt-out. Raises Broken."""
        purposes = (await self.placet.senders.get(self.sender_id)).purposes
        purpose = purposes[0].id

        async def look() -> bool | None:
            answer = await self.placet.consents.check(sender_id=self.sender_id, purpose=purpose, numbers=[number])
            return (answer.results[0].state == "opted_out") or None

        await until(look, self.within_s, "consent-svc has no opt-out of a person whose STOP was acknowledged", POLL_S)

    async def dead_letter(self, topic: str, partition: int, offset: int) -> str:
        """Return the reason of a record's dead letter. Raises Broken, NotSeen."""

        async def look() -> str | None:
            try:
                async for item in self.placet.dead_letters.list("inbound", limit=100):
                    if (item.topic, item.partition, item.offset) == (topic, partition, offset):
                        return item.reason
            except (Forbidden, NotFound):
                raise NotSeen("the token may not list dead letters (dead-letter:read)") from None
            return None

        return await until(look, self.within_s, "a record that cannot be read is in no list of dead letters", POLL_S)


async def is_ready(http: aiohttp.ClientSession, url: str) -> None:
    """Raise Broken unless inbound-svc says that it is ready."""
    async with http.get(f"{url}/readyz", allow_redirects=False) as answer:
        if answer.status == 503:
            raise Broken("inbound-svc is not ready")
