"""Answer a person's request for a copy: publish the data held by this service, encrypted.

The service stores no copy. A repeated request is answered again; consent-svc keeps the first answer.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import COPIES, COPY_PARTS
from common.contracts.rights import CopyGathered, CopyRequested
from common.db.shards import WHOLE, Part
from common.kafka import outbox
from common.kafka.subscription import After, Received, Subscription
from common.keyring import FieldKeys, Unreadable

PART_BYTES = 400_000  # encryption adds a third; a part must fit a Kafka record

Item = Mapping[str, object]  # {"kind": "contact", …}: plain values, instants, and lists or objects of these
Gather = Callable[[AsyncConnection, str, str], Awaitable[Sequence[Item]]]


@dataclass(frozen=True, slots=True)
class Copier:
    """Answers copy requests. `gather(tx, subject_id, controller_id)` returns all that a controller holds, in clear.

    `part`: of a service each of whose shards answers.
    """

    service: str
    keys: FieldKeys
    gather: Gather
    part: Part = WHOLE

    def subscription(self) -> Subscription:
        return Subscription(f"{self.service}.copies", COPIES, self.answer)

    async def answer(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        for received in batch:
            if isinstance(received.event, CopyRequested):
                parts = await self.parts(tx, received.event)
                await outbox.append(tx, COPY_PARTS, parts)
        return None

    async def parts(self, tx: AsyncConnection, asked: CopyRequested) -> list[CopyGathered]:
        """Return the parts of an answer, at least one."""
        pieces = list(_pieces(await self.gather(tx, asked.subject_id, asked.controller_id)))
        now = datetime.now(UTC)
        return [
            CopyGathered(
                copy_id=asked.copy_id,
                subject_id=asked.subject_id,
                service=self.service,
                place=place,
                of=len(pieces),
                items=self.keys.seal(piece, context(asked.copy_id, self.service, place, self.part.shard)),
                gathered_at=now,
                shard=self.part.shard,
                shards=self.part.of,
            )
            for place, piece in enumerate(pieces)
        ]


def context(copy_id: str, service: str, place: int, shard: str = "") -> str:
    """Return the encryption context of a part."""
    return f"copy:{copy_id}:{service}:{place}{shard}"


def opened(keys: FieldKeys, sealed: str | None, context: str) -> str | None:
    """Return a decrypted field; `None` if absent or unreadable: the rest of the copy must not stop."""
    try:
        return None if sealed is None else keys.unseal(sealed, context)
    except Unreadable:
        return None


def _pieces(items: Sequence[Item]) -> Iterator[str]:
    """Split the items into JSON lists of at most PART_BYTES; every item must be shorter."""
    piece: list[str] = []
    size = 0
    for item in items:
        written = msgspec.json.encode(item).decode()
        if piece and size + len(written) > PART_BYTES:
            yield f"[{','.join(piece)}]"
            piece, size = [], 0
        piece.append(written)
        size += len(written)
    yield f"[{','.join(piece)}]"
