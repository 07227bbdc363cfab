"""Message ids: derived, so that a duplicate falls out as the same primary key, and time-ordered, so that the ledger's
index stays warm. Pure."""

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ONE_MS = timedelta(milliseconds=1)

_FREE = ~(0xF << 76 | 0x3 << 62)  # the bits that RFC 9562 leaves to us
_VERSION_8 = 0x8 << 76 | 0x2 << 62  # the others: version and variant


def message_id(started_at: datetime, *parts: str) -> UUID:
    """UUIDv8 (RFC 9562): 48 bits of milliseconds of `started_at`, then a hash of `parts`.

    The same arguments give the same id for ever: (campaign start, campaign, subject, step), or (any fixed instant,
    caller, Idempotency-Key).
    """
    milliseconds = (started_at - EPOCH) // ONE_MS & ((1 << 48) - 1)
    # with their lengths: no part, whatever a caller puts into it, can look like two
    digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).digest()
    value = (milliseconds << 80) | int.from_bytes(digest[:10], "big")
    return UUID(int=value & _FREE | _VERSION_8)


def began(identity: UUID) -> datetime | None:
    """The `started_at` it was made of, to the millisecond; None where it was not made here."""
    return EPOCH + (identity.int >> 80) * ONE_MS if identity.version == 8 else None
