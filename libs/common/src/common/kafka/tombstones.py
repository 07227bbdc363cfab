"""Tombstones: records without a value, by which a compacted topic forgets what it holds under a key."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import Topic
from common.kafka import outbox

TOMBSTONE = "placet.tombstone.v1"


async def append(tx: AsyncConnection, topic: Topic, keys: Sequence[str]) -> list[int]:
    """Write tombstones for publication; return their outbox ids."""
    if not keys:
        return []
    encoded = [key.encode() for key in keys]
    return await outbox.append_records(tx, topic.name, encoded, [TOMBSTONE] * len(keys), [None] * len(keys))
