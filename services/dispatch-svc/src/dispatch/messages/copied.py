"""Encode rows of messages in COPY's binary format. Pure.

The columns that most messages of a batch share are encoded once, and stand in front of a message's own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from struct import Struct
from typing import Any
from uuid import UUID

from dispatch.messages.row import COLUMNS, MessageRow

OWN = ("message_id", "subject_id", "number", "text", "consent_version", "facts")
COMMON = tuple(name for name in COLUMNS if name not in OWN)
ORDER = (*COMMON, *OWN)  # of the columns as encoded

BEGIN = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # no flags, no extension of the header
END = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
EPOCH, MICROSECOND = datetime(2000, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
TEXT_OID = 25

_short, _int, _long = Struct("!h"), Struct("!i"), Struct("!q")
_size = _int.pack
_array, _bounds = Struct("!iii"), Struct("!ii")
_FIELDS = _short.pack(len(ORDER))
_own: Callable[[MessageRow], tuple[UUID, str, str | None, str | None, int | None, str | None]] = attrgetter(*OWN)
_common: Callable[[MessageRow], tuple[object, ...]] = attrgetter(*COMMON)


def encoded(rows: Sequence[MessageRow]) -> Iterator[bytes]:
    """Yield each row, in the order `ORDER` of columns."""
    shared: dict[tuple[object, ...], bytes] = {}
    last: tuple[object, ...] | None = None
    begin = b""
    for row in rows:
        common = _common(row)
        if common != last:
            last = common
            if (known := shared.get(common)) is None:
                known = shared[common] = _FIELDS + b"".join(map(_field, COMMON, common)) + _size(UUID_BYTES)
            begin = known
        message_id, subject_id, number, text, consent_version, facts = _own(row)
        version = NULL if consent_version is None else INTEGER_BEGINS + _size(consent_version)
        yield b"".join((begin, message_id.bytes, _text(subject_id), _text(number), _text(text), version, _text(facts)))


def _text(value: str | None) -> bytes:
    if value is None:
        return NULL
    raw = value.encode()
    return _size(len(raw)) + raw


def _field(name: str, value: object) -> bytes:
    """Return a column with its length."""
    if value is None:
        return NULL
    raw = _ENCODERS[COLUMNS[name][0]](value)
    return _size(len(raw)) + raw


def _texts(values: Sequence[str]) -> bytes:
    if not values:
        return _array.pack(0, 0, TEXT_OID)
    return _array.pack(1, 0, TEXT_OID) + _bounds.pack(len(values), 1) + b"".join(map(_text, values))


UUID_BYTES, INTEGER_BEGINS = 16, _size(_int.size)
_ENCODERS: Mapping[str, Callable[[Any], bytes]] = {
    "uuid": lambda value: bytes(value.bytes),
    "text": str.encode,
    "text[]": _texts,
    "boolean": lambda value: b"\1" if value else b"\0",
    "integer": _int.pack,
    "smallint": _short.pack,
    "timestamptz": lambda value: _long.pack((value - EPOCH) // MICROSECOND),
}
