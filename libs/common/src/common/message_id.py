"""Message ids: derived, so that a duplicate falls out as the same primary key, and time-ordered, so that the ledger's
index stays warm. Pure."""

import hashlib
from datetime import UTC, datetime
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def message_id(started_at: datetime, *parts: str) -> UUID:
    """UUIDv8 (RFC 9562): 48 bits of milliseconds of `started_at`, then a hash of `parts`.

    The same arguments give the same id for ever: (campaign start, campaign, subject, step), or (any fixed instant,
    caller, Idempotency-Key).
    """
    milliseconds = int((started_at - EPOCH).total_seconds() * 1000) & ((1 << 48) - 1)
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    value = (milliseconds << 80) | int.from_bytes(digest[:10], "big")
    value = (value & ~(0xF << 76)) | (0x8 << 76)  # version 8
    value = (value & ~(0x3 << 62)) | (0x2 << 62)  # RFC variant
    return UUID(int=value)
