"""The organisation and the controller of each sender, read from the table `sender` of the service.

Neither ever changes, so the sender is remembered once found. A copy of the table may be ahead of a change that fails,
and then every call reads. Where new senders arrive by Kafka, a sender that is not found is read again for a while. The
wait for another organisation's sender is the wait for an unknown sender, so that the time of an answer tells nothing.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.db.shards import Shard, Shards

FIRST_PAUSE_S = 0.05


class _Owner(NamedTuple):
    organisation: str
    controller: str


class Organisations:
    """The senders of every organisation. Without a database there is none.

    `remembers`: whether each row read is one that stays.
    """

    def __init__(self, database: Database | None, arrive_within_s: float = 0.0, *, remembers: bool = True) -> None:
        self._database = database
        self._arrive_within_s = arrive_within_s
        self._remembers = remembers
        self._known: dict[str, _Owner] = {}

    async def has(self, organisation: str, sender_id: str) -> bool:
        """Return whether the sender is the organisation's, after a wait for a new one."""
        for pause in pauses(self._arrive_within_s):
            if await self.among(organisation, [sender_id]):
                return True
            await asyncio.sleep(pause)
        return bool(await self.among(organisation, [sender_id]))

    async def among(
        self, organisation: str, sender_ids: Collection[str], tx: AsyncConnection | None = None
    ) -> frozenset[str]:
        """Return those of the senders that are the organisation's. `tx`: an open transaction of the caller, if any."""
        return frozenset(await self.controllers(organisation, sender_ids, tx))

    async def controllers(
        self, organisation: str, sender_ids: Collection[str], tx: AsyncConnection | None = None
    ) -> dict[str, str]:
        """Return the controller of each of the senders that are the organisation's. `tx`: as for `among`."""
        # a sender of a stranger is read like one that nobody has: memory would answer sooner
        known = {one: self._known[one] for one in sender_ids if self._is_theirs(one, organisation)}
        unread = [one for one in sender_ids if one not in known]
        if unread and tx is not None:
            known |= await self._read(tx, unread)
        elif unread and self._database is not None:
            async with self._database.begin() as own:
                known |= await self._read(own, unread)
        return {one: owner.controller for one, owner in known.items() if owner.organisation == organisation}

    async def countries(self, sender_ids: Collection[str], tx: AsyncConnection | None = None) -> dict[str, list[str]]:
        """Return the countries of each sender on record, its own first. Read anew: a sender may change these."""
        if tx is not None:
            return await _countries(tx, sender_ids)
        if self._database is None or not sender_ids:
            return {}
        async with self._database.begin() as own:
            return await _countries(own, sender_ids)

    def _is_theirs(self, sender_id: str, organisation: str) -> bool:
        owner = self._known.get(sender_id)
        return owner is not None and owner.organisation == organisation

    async def _read(self, tx: AsyncConnection, sender_ids: Collection[str]) -> dict[str, _Owner]:
        rows = await tx.execute(
            text(
                "SELECT sender_id, organisation_id, controller FROM sender WHERE sender_id = ANY(CAST(:ids AS text[]))"
            ),
            {"ids": list(sender_ids)},
        )
        found = {row.sender_id: _Owner(row.organisation_id, row.controller) for row in rows}
        if self._remembers:
            self._known |= found
        return found

    async def of(self, organisation: str, tx: AsyncConnection | None = None) -> frozenset[str]:
        """Return every sender of the organisation. `tx`: as for `among`."""
        if tx is not None:
            return await _every(tx, organisation)
        if self._database is None:
            return frozenset()
        async with self._database.begin() as own:
            return await _every(own, organisation)


def of_shards(
    shards: Shards, shard_of: Callable[[str], Shard] | None, arrive_within_s: float = 0.0, *, copied: bool = False
) -> Callable[[str], Organisations]:
    """Return the function that gives an organisation's callers the senders, read from the right database.

    `shard_of`: where shards are of organisations, the shard with an organisation's data: the registry of another may
    know fewer senders than the data names. Otherwise the process's own database tells. `copied`: the senders of a shard
    are copies of those of the first. A transaction given to `among` may be of any shard.
    """
    remembers = not (copied and shards.divided)
    senders = {shard.name: Organisations(shard.database, arrive_within_s, remembers=remembers) for shard in shards.each}
    own = senders[shards.own.name]
    return lambda organisation: own if shard_of is None else senders[shard_of(organisation).name]


async def _every(tx: AsyncConnection, organisation: str) -> frozenset[str]:
    rows = await tx.execute(
        text("SELECT sender_id FROM sender WHERE organisation_id = :organisation"), {"organisation": organisation}
    )
    return frozenset(rows.scalars())


async def _countries(tx: AsyncConnection, sender_ids: Collection[str]) -> dict[str, list[str]]:
    rows = await tx.execute(
        text("SELECT sender_id, countries FROM sender WHERE sender_id = ANY(CAST(:ids AS text[])) ORDER BY sender_id"),
        {"ids": list(sender_ids)},
    )
    return {row.sender_id: row.countries for row in rows}


def pauses(within_s: float) -> Iterator[float]:
    """Yield the pauses between the reads of a wait, `within_s` in all.

    Each is twice as long as the one before: a sender on its way is found soon, and a wrong id costs few transactions.
    """
    pause = FIRST_PAUSE_S
    while within_s > 0:
        yield min(pause, within_s)
        within_s -= pause
        pause *= 2


NO_SENDERS: Final = Organisations(None)
