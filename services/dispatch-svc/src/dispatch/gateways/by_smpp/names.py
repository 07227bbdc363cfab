"""The names of MOs: an SMSC names none, and delivers an MO again, by any session, until it has an acknowledgement.

A delivery like one whose acknowledgement may be lost is that MO again, and gets its name, so that inbound-svc journals
one MO. A row of `mo_name` keeps the name before the event leaves: the next process finds it after a crash, as does
another process on the account. The row goes once the SMSC has certainly read the acknowledgement: a person who
writes STOP twice is heard twice.

A whole MO ends the person's other names: STOP, START and STOP are three MOs, whatever was acknowledged. So of two MOs
of a person that both come again, each has a second name. A part of an MO ends no name, as parts come in any order.

Number and text are in the table as a keyed hash. Without the database the names of this process count alone: an MO may
be journalled twice, and is never lost.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import uuid4

from sqlalchemy import Boolean, Column, Index, PrimaryKeyConstraint, Table, Text

from common.db.database import Database, fetch_many
from dispatch.schema import instant, metadata

log = logging.getLogger(__name__)

REPEATS_WITHIN_S = 300.0  # of the last delivery of an MO whose acknowledgement the SMSC may not have read
REFUSED_REPEATS_WITHIN_S = 3600.0
ASKS_S = 2.0  # an SMSC waits for its acknowledgement
NAMES = 20_000  # of this process

mo_name = Table(
    "mo_name",  # a row for each MO whose acknowledgement the SMSC may not have read
    metadata,
    Column("gateway", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("person", Text, nullable=False),
    Column("is_part", Boolean, nullable=False),
    Column("name", Text, nullable=False),
    instant("repeats_until", nullable=False),
    PrimaryKeyConstraint("gateway", "fingerprint"),
)
Index("mo_name_person_ix", mo_name.c.gateway, mo_name.c.person)
Index("mo_name_repeats_until_ix", mo_name.c.repeats_until)


class Said(NamedTuple):
    """What tells an MO from others. `words`: of the whole delivery."""

    words: str
    number: str
    is_part: bool


@dataclass(slots=True, eq=False)
class Name:
    """The name of an MO whose delivery may come again until `repeats_until`. `person`: a keyed hash of its number."""

    fingerprint: str
    person: str
    is_part: bool
    repeats_until: float
    name: str = field(default_factory=lambda: f"mo-{uuid4().hex}")


class Names:
    """The names of one account's MOs. `keyed`: makes a keyed hash."""

    def __init__(self, gateway: str, keyed: Callable[[str], str], database: Database | None) -> None:
        self._gateway = gateway
        self._keyed = keyed
        self._database = database
        self._known: OrderedDict[str, Name] = OrderedDict()
        self._whole: dict[str, Name] = {}  # the last whole MO of each person
        self._gone: dict[str, Name] = {}  # rows to delete
        self._deleting: asyncio.Task[None] | None = None

    async def of(self, deliveries: Sequence[Said]) -> list[Name]:
        """Return the name of each delivery, in the order of coming."""
        found = [self._name(*each) for each in deliveries]
        if found and self._database is not None:
            try:
                async with asyncio.timeout(ASKS_S):
                    await self._keep(self._database, found)
            except Exception as error:  # the names of this process count
                why = type(error).__name__
                log.warning("names of MOs were not kept", extra={"gateway": self._gateway, "why": why})
        return found

    async def refused(self, names: Sequence[Name]) -> None:
        """Keep the names of MOs that come again for certain, when the SMSC likes: their events may be in the log."""
        for name in names:
            name.repeats_until = time.monotonic() + REFUSED_REPEATS_WITHIN_S
        if not names or self._database is None:
            return
        try:
            async with asyncio.timeout(ASKS_S):
                await self._database.run(
                    "UPDATE mo_name SET repeats_until = clock_timestamp() + $2::float8 * interval '1 s'"
                    " WHERE gateway = $1 AND fingerprint = ANY($3::text[])",
                    self._gateway,
                    REFUSED_REPEATS_WITHIN_S,
                    [name.fingerprint for name in names],
                )
        except Exception as error:
            log.warning("names of MOs were not kept longer", extra={"why": type(error).__name__})

    def proven(self, name: Name) -> None:
        """Forget a name: the SMSC has read the acknowledgement, and delivers the MO no more."""
        if self._known.get(name.fingerprint) is name:
            self._forget(name)
            if self._database is not None and (self._deleting is None or self._deleting.done()):
                self._deleting = asyncio.create_task(self._delete(self._database))

    async def close(self) -> None:
        if self._deleting is not None:
            await self._deleting

    def _name(self, words: str, number: str, is_part: bool) -> Name:
        fingerprint, person = self._keyed(words), self._keyed(number)
        now = time.monotonic()
        found = self._known.get(fingerprint)
        if found is not None and found.repeats_until < now:
            self._forget(found)
            found = None
        if not is_part and (last := self._whole.get(person)) is not None and last is not found:
            self._forget(last)
        if found is None:
            found = Name(fingerprint, person, is_part, now)
        found.repeats_until = max(found.repeats_until, now + REPEATS_WITHIN_S)
        self._known[fingerprint] = found
        self._known.move_to_end(fingerprint)
        if not is_part:
            self._whole[person] = found
        while len(self._known) > NAMES:
            self._forget(next(iter(self._known.values())))
        return found

    def _forget(self, name: Name) -> None:
        del self._known[name.fingerprint]
        if self._whole.get(name.person) is name:
            del self._whole[name.person]
        if self._database is not None:
            self._gone[name.fingerprint] = name

    async def _keep(self, database: Database, names: Sequence[Name]) -> None:
        """Keep the names, or take those that another process, or an earlier one, has kept."""
        async with database.begin() as tx:
            await fetch_many(tx, "SELECT pg_advisory_xact_lock(hashtext('placet.names'), hashtext($1))", self._gateway)
            for name in names:
                if not name.is_part:
                    await fetch_many(
                        tx,
                        "DELETE FROM mo_name WHERE gateway = $1 AND person = $2 AND fingerprint <> $3 AND NOT is_part",
                        self._gateway,
                        name.person,
                        name.fingerprint,
                    )
                [[kept]] = await fetch_many(
                    tx,
                    "INSERT INTO mo_name (gateway, fingerprint, person, is_part, name, repeats_until)"
                    " VALUES ($1, $2, $3, $4, $5, clock_timestamp() + $6::float8 * interval '1 s')"
                    " ON CONFLICT (gateway, fingerprint) DO UPDATE SET"
                    " name = CASE WHEN $7::boolean OR mo_name.repeats_until < clock_timestamp()"
                    " THEN excluded.name ELSE mo_name.name END,"
                    " repeats_until = greatest(mo_name.repeats_until, excluded.repeats_until)"
                    " RETURNING name",
                    self._gateway,
                    name.fingerprint,
                    name.person,
                    name.is_part,
                    name.name,
                    REPEATS_WITHIN_S,
                    name.fingerprint in self._gone,
                )
                name.name = kept
        for name in names:
            self._gone.pop(name.fingerprint, None)  # the row is of another MO now

    async def _delete(self, database: Database) -> None:
        while gone := dict(self._gone):
            try:
                await database.run(
                    "DELETE FROM mo_name USING unnest($2::text[], $3::text[]) AS gone (fingerprint, name)"
                    " WHERE gateway = $1 AND mo_name.fingerprint = gone.fingerprint AND mo_name.name = gone.name",
                    self._gateway,
                    list(gone),
                    [each.name for each in gone.values()],
                )
            except Exception as error:  # `_gone` still tells the next delivery
                log.warning("names of MOs were not deleted", extra={"why": type(error).__name__})
                return
            for fingerprint, name in gone.items():
                if self._gone.get(fingerprint) is name:
                    del self._gone[fingerprint]
