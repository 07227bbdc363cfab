"""Derive message ids. Pure.

Derived ids give a duplicate the same primary key. Ids are ordered by time: recent inserts touch the same pages of the
ledger's index.
"""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ONE_MS = timedelta(milliseconds=1)

_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # RFC 9562's two bits, then a digit's last two


def message_id(started_at: datetime, *parts: str) -> UUID:
    """Return a UUIDv8 (RFC 9562): 48 bits of milliseconds of `started_at`, then a hash of `parts`.

    Parts: (campaign, subject, step), or (caller, Idempotency-Key) with any fixed instant.
    """
    return UUID(written(started_at, *parts))


def written(started_at: datetime, *parts: str) -> str:
    """Return `message_id` as a text."""
    return _drawn(_begins(started_at), _told(parts))


def of_digits(started_at: datetime, digits: str) -> str:
    """Return an id in the form of `written`, with 32 hexadecimal digits in place of the hash of parts."""
    return _formed(_begins(started_at), digits)


def written_around(started_at: datetime, before: Sequence[str], after: Sequence[str]) -> Callable[[str], str]:
    """Return a function from the middle part to `written` of all parts, in half the time."""
    begins, head, tail = _begins(started_at), _told(before), _told(after)
    return lambda part: _drawn(begins, f"{head}{len(part)}:{part}{tail}")


def _begins(started_at: datetime) -> str:
    began = f"{(started_at - EPOCH) // ONE_MS & ((1 << 48) - 1):012x}"
    return f"{began[:8]}-{began[8:]}-8"


def _told(parts: Sequence[str]) -> str:
    """Join the parts with their lengths, so that no part can pass for two."""
    return "".join([f"{len(part)}:{part}" for part in parts])


def _drawn(begins: str, told: str) -> str:
    return _formed(begins, hashlib.sha256(told.encode()).hexdigest())


def _formed(begins: str, drawn: str) -> str:
    return f"{begins}{drawn[1:4]}-{_VARIANT[drawn[4]]}{drawn[5:8]}-{drawn[8:20]}"


def began(identity: UUID) -> datetime | None:
    """Return the `started_at` in an id, to the millisecond; `None` for another version."""
    return EPOCH + (identity.int >> 80) * ONE_MS if identity.version == 8 else None
