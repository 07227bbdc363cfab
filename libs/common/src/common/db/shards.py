"""The databases of a service: one, or one for each shard, with the people of some partitions, or the organisations of
some slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.db.database import Database
from common.settings import ServiceSettings


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


@dataclass(frozen=True, slots=True)
class Shards:
    """The shards of a service, in the order of their first places. `own`: of this process."""

    each: Sequence[Shard]
    own: Shard

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

    async def close(self) -> None:
        for shard in self.each:
            await shard.database.close()
