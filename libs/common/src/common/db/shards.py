"""The databases of a service: one, or one for each shard, with the people of some partitions, or the organisations of
some slots.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.db.database import Database
from common.db.notify import either
from common.settings import ServiceSettings

log = logging.getLogger(__name__)

KEPT_EVERY_S = 30.0
ANSWERS_WITHIN_S = 2.0  # of another shard


class OtherShard(RuntimeError):
    """The database holds other places than the settings say. The text has the remedy."""


class Part(NamedTuple):
    """The part of an answer about a person that a shard gives, where each has some: of so many shards."""

    shard: str = ""
    of: int = 1


WHOLE = Part()


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard. `name`: empty where the service has one database. `partitions`: of its people, or its slots."""

    name: str
    partitions: Sequence[int]
    database: Database


@dataclass(slots=True)
class Refused:
    """The first refusal of a connection by its `check`, while the process runs."""

    why: OtherShard | None = None
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, why: OtherShard) -> None:
        self.why = self.why or why
        self.told.set()


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a service, in the order of their first places. `own`: of this process."""

    each: Sequence[Shard]
    own: Shard
    refused: Refused = field(default_factory=Refused)

    @classmethod
    def opened(cls, settings: ServiceSettings, service: str) -> "Shards":
        """Return the databases of a service. A database of another shard connects at its first statement."""

        def database(url: str) -> Database:
            return Database(url, pool_size=settings.database_pool, name=service)

        if not settings.divided:
            return cls.undivided(database(settings.database_url), settings.places)
        each = tuple(Shard(name, partitions, database(url)) for name, partitions, url in settings.divided)
        return cls(each, next(shard for shard in each if shard.name == settings.own_shard))

    @classmethod
    def undivided(cls, database: Database, partitions: int) -> "Shards":
        """Return the only database of a service."""
        only = Shard("", range(partitions), database)
        return cls((only,), only)

    @property
    def first(self) -> Shard:
        """Return the shard that keeps what is counted over all: that of place 0."""
        return self.of(0)

    @property
    def divided(self) -> bool:
        return len(self.each) > 1

    @property
    def own_part(self) -> Part:
        return Part(self.own.name, len(self.each)) if self.divided else WHOLE

    def of(self, partition: int) -> Shard:
        """Return the shard of a partition, or of a slot."""
        return next(shard for shard in self.each if partition in shard.partitions)

    async def watched(self, stop: asyncio.Event) -> None:
        """Keep a connection with each checked shard, so that `divide` refuses while the process runs. Raises OtherShard
        once a database is refused.

        A connection that was cut is back within KEPT_EVERY_S, or is refused: a division may have ended meanwhile.
        """
        while not stop.is_set() and self.refused.why is None:
            for shard in self.each:
                if shard is not self.own and shard.database.check is not None:
                    try:
                        async with asyncio.timeout(ANSWERS_WITHIN_S):
                            await shard.database.ping()
                    except Exception as error:  # calls say so
                        log.info("a shard does not answer", extra={"shard": shard.name, "why": type(error).__name__})
            if self.refused.why is None:
                await either(stop, self.refused.told, KEPT_EVERY_S)
        if self.refused.why is not None:
            raise OtherShard(
                "a database of the service was divided while the process ran, so start the process anew with the new"
                f" PLACET_SHARDS: {self.refused.why}"
            ) from self.refused.why

    async def close(self) -> None:
        for shard in self.each:
            await shard.database.close()
