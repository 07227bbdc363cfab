"""The names of MOs: an SMSC names none, and delivers an MO again, by any session, until it has an acknowledgement.

A delivery like one whose acknowledgement may be lost may be that MO again, or the same words written again. So a
delivery has an id of its own, and names the MO that the delivery may repeat. inbound-svc takes both for one MO, unless
the words may stop marketing: a STOP written again must count, as the person may have opted in meanwhile.

A row of `mo_name` keeps the name before the event leaves: the next process finds it after a crash, as does another
process on the account. The row goes once the SMSC has certainly read the acknowledgement. A session that has
acknowledged an MO does not get that MO again, so the same words in that session are another MO.

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

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, Text

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
    Column("name", Text, nullable=False),
    instant("repeats_until", nullable=False),
    PrimaryKeyConstraint("gateway", "fingerprint"),
)
Index("mo_name_repeats_until_ix", mo_name.c.repeats_until)


def _new_id() -> str:
    return f"mo-{uuid4().hex}"


class Said(NamedTuple):
    """A delivery. `words`: what tells its MO from others, the number included. `session`: by which it came."""

    words: str
    session: object


@dataclass(slots=True, eq=False)
class Name:
    """The name of an MO whose delivery may come again until `repeats_until`.

    `acknowledged_by`: the last session that acknowledged the MO.
    """

    fingerprint: str
    repeats_until: float
    name: str = field(default_factory=_new_id)
    acknowledged_by: object = None


class Named(NamedTuple):
    """A delivery under its own id. `repeats`: the MO that the delivery may be once more, None of a new MO."""

    name: Name
    message_id: str
    repeats: str | None


class Names:
    """The names of one account's MOs. `keyed`: makes a keyed hash."""

    def __init__(self, gateway: str, keyed: Callable[[str], str], database: Database | None) -> None:
        self._gateway = gateway
        self._keyed = keyed
        self._database = database
        self._known: OrderedDict[str, Name] = OrderedDict()
        self._gone: dict[str, Name] = {}  # rows to delete
        self._deleting: asyncio.Task[None] | None = None

    async def of(self, deliveries: Sequence[Said]) -> list[Named]:
        """Return the name of each delivery, in the order of coming."""
        found = [self._name(each) for each in deliveries]
        new = {id(name): name.name for name, is_new in found if is_new}
        if found and self._database is not None:
            try:
                async with asyncio.timeout(ASKS_S):
                    await self._keep(self._database, [name for name, _ in found])
            except Exception as error:  # the names of this process count
                why = type(error).__name__
                log.warning("names of MOs were not kept", extra={"gateway": self._gateway, "why": why})
        return [
            Named(name, name.name, None) if is_new and new[id(name)] == name.name else Named(name, _new_id(), name.name)
            for name, is_new in found
        ]

    def acknowledged(self, name: Name, session: object) -> None:
        """Note that the session tells the SMSC that the MO is safe."""
        name.acknowledged_by = session

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

    def _name(self, said: Said) -> tuple[Name, bool]:
        """Return the name of a delivery, and whether it is a new one."""
        fingerprint = self._keyed(said.words)
        now = time.monotonic()
        found = self._known.get(fingerprint)
        if found is not None and (found.repeats_until < now or found.acknowledged_by is said.session):
            self._forget(found)
            found = None
        is_new = found is None
        if found is None:
            found = Name(fingerprint, now)
        found.repeats_until = max(found.repeats_until, now + REPEATS_WITHIN_S)
        self._known[fingerprint] = found
        self._known.move_to_end(fingerprint)
        while len(self._known) > NAMES:
            self._forget(next(iter(self._known.values())))
        return found, is_new

    def _forget(self, name: Name) -> None:
        del self._known[name.fingerprint]
        if self._database is not None:
            self._gone[name.fingerprint] = name

    async def _keep(self, database: Database, names: Sequence[Name]) -> None:
        """Keep the names, or take those that another process, or an earlier one, has kept."""
        async with database.begin() as tx:
            await fetch_many(tx, "SELECT pg_advisory_xact_lock(hashtext('placet.names'), hashtext($1))", self._gateway)
            for name in names:
                [[kept]] = await fetch_many(
                    tx,
                    "INSERT INTO mo_name (gateway, fingerprint, name, repeats_until)"
                    " VALUES ($1, $2, $3, clock_timestamp() + $4::float8 * interval '1 s')"
                    " ON CONFLICT (gateway, fingerprint) DO UPDATE SET"
                    " name = CASE WHEN $5::boolean OR mo_name.repeats_until < clock_timestamp()"
                    " THEN excluded.name ELSE mo_name.name END,"
                    " repeats_until = greatest(mo_name.repeats_until, excluded.repeats_until)"
                    " RETURNING name",
                    self._gateway,
                    name.fingerprint,
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
