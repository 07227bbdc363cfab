"""Tell the senders of this shard's organisations from those of other shards.

Each shard reads every topic in full, and keeps what names a sender of the shard. Before the registry tells of a sender,
events that name the sender are kept.
"""

from collections.abc import Collection, Iterable
from typing import Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.senders import store
from common.db.shards import Shards
from common.kafka.broker import partition_of


class OfSender(Protocol):
    @property
    def sender_id(self) -> str: ...


T = TypeVar("T", bound=OfSender)


class Own:
    """The senders of a shard. Without shards there are no strangers, and nothing is looked up."""

    def __init__(self, shards: Shards | None = None, of: int = 1) -> None:
        """`of`: the count of slots."""
        self._slots = frozenset(shards.own.partitions) if shards is not None and shards.divided else None
        self._of = of
        self._is_own: dict[str, bool] = {}  # the organisation of a sender never changes

    @property
    def all(self) -> bool:
        """Return whether there are no strangers."""
        return self._slots is None

    async def strangers(self, tx: AsyncConnection, sender_ids: Collection[str]) -> Collection[str]:
        """Return the senders among these that are known to be of another shard."""
        if self._slots is None:
            return ()
        if unread := {one for one in sender_ids if one not in self._is_own}:
            for sender_id, organisation_id in (await store.organisations_of(tx, unread)).items():
                self._is_own[sender_id] = partition_of(organisation_id, self._of) in self._slots
        return {one for one in sender_ids if self._is_own.get(one) is False}

    async def kept(self, tx: AsyncConnection, told: Iterable[T]) -> Iterable[T]:
        """Return the items of the shard's senders, and of senders not known yet."""
        if self._slots is None:
            return told
        every = list(told)
        strangers = await self.strangers(tx, {each.sender_id for each in every})
        return [each for each in every if each.sender_id not in strangers]


EVERYBODY = Own()
