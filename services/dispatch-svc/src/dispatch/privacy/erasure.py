"""What dispatch-svc erases of a person: the numbers and texts of their messages, and by which text an opt-out was said.

What still waits is denied first (`erased`), but for a code or a notice that was asked for since. While a message is
being handed off nothing is erased: the operator has its number and text in hand, and its outcome must find its row; the
next look comes half a second later. All of it is locked before it is looked at, so that it is looked at once. The rows
stay, under the keyed hash, with their verdicts and outcomes: the accounts add up, and the consent projection goes on
denying.

People of one partition are erased in one transaction: while it waits for an opt-out, those of other partitions do not
wait for it.

A request of before the erasure that comes late is denied by the gate, whatever its category, and marketing whenever it
was asked for, until the person has come back; it is stored without number and text (`clearance.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.kafka.broker import partition_of
from common.privacy.erasing import Erased, Eraser
from dispatch import store


def eraser(database: Database, partitions: int) -> Eraser:
    erasing = Erasing(partitions)
    return Eraser("dispatch", database, erasing.erase, erasing.partition)


@dataclass(frozen=True, slots=True)
class Erasing:
    partitions: int

    def partition(self, subject_id: str) -> int:
        return partition_of(subject_id, self.partitions)

    async def erase(self, tx: AsyncConnection, asked: Mapping[str, datetime]) -> Mapping[str, Erased]:
        """Of people of one partition."""
        [partition] = {self.partition(subject_id) for subject_id in asked}
        await store.lock_partition(tx, partition, marketing=True, planned_now=True)
        sending = await store.lock_what_goes(tx, list(asked))
        await store.append_changes(tx, await store.deny_waiting(tx, asked))
        still = [subject_id for subject_id in asked if subject_id not in sending]
        emptied = await store.empty_messages(tx, still)
        await store.enforce(tx, still)
        await store.empty_enforcements(tx, still)
        return {subject_id: {"messages": emptied.get(subject_id, 0)} for subject_id in still}
