"""The erasure of a person, or of one controller's data: numbers and texts of messages.

The erasure of everything also takes the reference to the text behind each opt-out, which may concern any controller.

Waiting messages are denied first (`erased`), except a code or a notice requested since. While a message is being handed
off, the person is not erased: the operator has number and text in hand, and the outcome must find its row; the next
poll follows half a second later. The rows stay, with verdicts and outcomes: the tallies add up, and the consent
projection goes on denying.

People of one partition are erased in one transaction, whose wait for an opt-out delays no other partition.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.kafka.broker import partition_of
from common.privacy.erasing import Erased, Eraser, Whom
from dispatch.lane import Lane
from dispatch.messages import enforcement, events, rights_store
from dispatch.messages import store as messages
from dispatch.privacy import store


def eraser(database: Database, partitions: int) -> Eraser:
    erasing = Erasing(partitions)
    return Eraser("dispatch", database, erasing.erase, erasing.partition)


@dataclass(frozen=True, slots=True)
class Erasing:
    partitions: int

    def partition(self, subject_id: str) -> int:
        return partition_of(subject_id, self.partitions)

    async def erase(self, tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> Mapping[Whom, Erased]:
        """Erase people of one partition; a person with a hand-off under way is absent from the tallies."""
        [partition] = {self.partition(whom.subject_id) for whom in asked}
        await messages.lock_partition(tx, partition, Lane.MARKETING, planned_now=True)
        sending = await store.lock_what_goes(tx, asked)
        await events.append_changes(tx, await rights_store.deny_waiting(tx, asked))
        still = {whom: at for whom, at in asked.items() if whom not in sending}
        emptied = await rights_store.empty_messages(tx, still)
        await enforcement.enforce(tx, [whom.subject_id for whom in still])
        await enforcement.empty_enforcements(tx, [whom.subject_id for whom in still if whom.controller_id is None])
        return {whom: {"messages": emptied.get(whom, 0)} for whom in still}
