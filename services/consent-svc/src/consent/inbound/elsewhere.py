"""Find the people of other shards: a record that names a person by a wrong id may concern a person of another.

The evidence about them is committed in their shard before the batch is. A batch that comes again finds the evidence.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from common.db.database import Database
from common.service import Resources

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The shards of a process. `held`: None where there is one database."""

    held: Resources[Any] | None = None

    @classmethod
    def of(cls, held: Resources[Any]) -> "Elsewhere":
        return cls(held if held.shards.divided else None)

    def parts(self, things: Iterable[T], person: Callable[[T], str]) -> dict[Database, list[T]]:
        """Return the things about people of other shards, by database. `person`: the subject id of a thing."""
        found: dict[Database, list[T]] = defaultdict(list)
        if self.held is not None:
            for each in things:
                if (database := self.held.database_of(person(each))) is not self.held.database:
                    found[database].append(each)
        return found


NOWHERE = Elsewhere()
