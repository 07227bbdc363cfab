"""A service's part in a copy: it hears that a person asks for all that is held of them, and tells its share, sealed.

Nothing is kept of it: one transaction reads, and puts the answer in the outbox. Asked twice, it is told twice, and
consent-svc keeps the first.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import COPIES, COPY_PARTS
from common.contracts.rights import CopyGathered, CopyRequested
from common.kafka import outbox
from common.kafka.consumer import After, Received, Subscription
from common.privacy.keyring import FieldKeys, Unreadable

PART_BYTES = 400_000  # before it is sealed, which makes a third more of it: a record has to fit Kafka

Item = Mapping[str, Any]  # {"kind": "contact", …}: plain values, instants, lists and objects of them
Gather = Callable[[AsyncConnection, str], Awaitable[Sequence[Item]]]


@dataclass(frozen=True, slots=True)
class Copier:
    """`gather(tx, subject_id)`: all that the service holds of a person, in clear."""

    service: str
    keys: FieldKeys
    gather: Gather

    def subscription(self) -> Subscription:
        return Subscription(f"{self.service}.copies", COPIES, self.answer)

    async def answer(self, tx: AsyncConnection, batch: list[Received]) -> After | None:
        for received in batch:
            if isinstance(received.event, CopyRequested):
                parts = await self.parts(tx, received.event)
                await outbox.append(tx, COPY_PARTS, parts)
        return None

    async def parts(self, tx: AsyncConnection, asked: CopyRequested) -> list[CopyGathered]:
        """At least one: that nothing is held is an answer as well."""
        pieces = list(_pieces(await self.gather(tx, asked.subject_id)))
        now = datetime.now(UTC)
        return [
            CopyGathered(
                copy_id=asked.copy_id,
                subject_id=asked.subject_id,
                service=self.service,
                place=place,
                of=len(pieces),
                items=self.keys.seal(piece, context(asked.copy_id, self.service, place)),
                gathered_at=now,
            )
            for place, piece in enumerate(pieces)
        ]


def context(copy_id: str, service: str, place: int) -> str:
    """Of a part's sealed items."""
    return f"copy:{copy_id}:{service}:{place}"


def opened(keys: FieldKeys, sealed: str | None, context: str) -> str | None:
    """A sealed field for a copy; None where there is none, or it opens no more: the rest is told all the same."""
    try:
        return None if sealed is None else keys.unseal(sealed, context)
    except Unreadable:
        return None


def _pieces(items: Sequence[Item]) -> Iterator[str]:
    """The items as JSON lists of at most PART_BYTES each, one item being no longer than that."""
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
