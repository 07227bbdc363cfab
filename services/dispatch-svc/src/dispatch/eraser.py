"""What dispatch-svc erases of a person: the numbers and texts of their messages, and by which text an opt-out was said.

What still waits is denied first (`erased`). While one is being handed off nothing is: the operator has its number and
text in hand, and its outcome must find its row; the next look comes half a second later. The rows stay, under the keyed
hash, with their verdicts and outcomes: the accounts add up, and the consent projection goes on denying.

A request of before the erasure that comes late is denied by the gate, whatever its category, and stored without number
and text (`clearance.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.database import Database
from common.erasing import Erased, Eraser
from common.kafka import partition_of
from dispatch import store


def eraser(database: Database, partitions: int) -> Eraser:
    return Eraser("dispatch", database, Erasing(partitions).erase)


@dataclass(frozen=True, slots=True)
class Erasing:
    partitions: int

    async def erase(self, tx: AsyncConnection, subject_ids: Sequence[str]) -> Mapping[str, Erased]:
        for partition in sorted({partition_of(subject_id, self.partitions) for subject_id in subject_ids}):
            await store.lock_partition(tx, partition)
        await store.append_changes(tx, await store.deny_waiting(tx, subject_ids))
        sending = await store.sending_to(tx, subject_ids)
        still = [subject_id for subject_id in subject_ids if subject_id not in sending]
        emptied = await store.empty_messages(tx, still)
        await store.enforce(tx, still, datetime.now(UTC))
        await store.empty_enforcements(tx, still)
        return {subject_id: {"messages": emptied.get(subject_id, 0)} for subject_id in still}
