"""Message ids: derived, so that a duplicate falls out as the same primary key, and time-ordered, so that the ledger's
index stays warm. Pure."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ONE_MS = timedelta(milliseconds=1)

_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # the last two bits of a digit, after RFC 9562's two


def message_id(started_at: datetime, *parts: str) -> UUID:
    """UUIDv8 (RFC 9562): 48 bits of milliseconds of `started_at`, then a hash of `parts`.

    The same arguments give the same id for ever: (campaign start, campaign, subject, step), or (any fixed instant,
    caller, Idempotency-Key).
    """
    return UUID(written(started_at, *parts))


def written(started_at: datetime, *parts: str) -> str:
    """`message_id` as a text."""
    return _drawn(_begins(started_at), _told(parts))


def written_around(started_at: datetime, before: Sequence[str], after: Sequence[str]) -> Callable[[str], str]:
    """`written` of the part between those, in half of its time: each recipient of a campaign has one."""
    begins, head, tail = _begins(started_at), _told(before), _told(after)
    return lambda part: _drawn(begins, f"{head}{len(part)}:{part}{tail}")


def _begins(started_at: datetime) -> str:
    began = f"{(started_at - EPOCH) // ONE_MS & ((1 << 48) - 1):012x}"
    return f"{began[:8]}-{began[8:]}-8"


def _told(parts: Sequence[str]) -> str:
    """With their lengths: no part, whatever a caller puts into it, can look like two."""
    return "".join([f"{len(part)}:{part}" for part in parts])


def _drawn(begins: str, told: str) -> str:
    drawn = hashlib.sha256(told.encode()).hexdigest()
    return f"{begins}{drawn[1:4]}-{_VARIANT[drawn[4]]}{drawn[5:8]}-{drawn[8:20]}"


def began(identity: UUID) -> datetime | None:
    """The `started_at` it was made of, to the millisecond; None where it was not made here."""
    return EPOCH + (identity.int >> 80) * ONE_MS if identity.version == 8 else None
