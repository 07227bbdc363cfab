"""Compress the large payloads of the outbox. Pure: a row says in its type that its payload is compressed."""

from collections.abc import Sequence

import cramjam

PACKED = "placet.packed_row.v1;"  # prefix of the type of a row with a compressed payload
PACK_BYTES = 4_096  # from here on: a seventh of the WAL for a batch of changes, and less work for Postgres and us
PACK_LEVEL = 1  # of Zstandard: an eighth of zlib's time, and no more bytes


def all_as_stored(
    types: Sequence[str], payloads: Sequence[bytes | None]
) -> tuple[Sequence[str], Sequence[bytes | None]]:
    """Return the types and the payloads of rows."""
    if all(payload is None or len(payload) < PACK_BYTES for payload in payloads):
        return types, payloads
    rows = [as_stored(type_, payload) for type_, payload in zip(types, payloads, strict=True)]
    return [type_ for type_, _ in rows], [payload for _, payload in rows]


def as_stored(type_: str, payload: bytes | None) -> tuple[str, bytes | None]:
    """Return the type and the payload of a row: a large payload is compressed."""
    if payload is None or len(payload) < PACK_BYTES:
        return type_, payload
    return f"{PACKED}{type_}", packed(payload)


def packed(payload: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(payload, PACK_LEVEL))


def unpacked(type_: str, payload: bytes | None) -> tuple[str, bytes | None]:
    """Return the type and the payload as they were appended."""
    if not type_.startswith(PACKED):
        return type_, payload
    return type_.removeprefix(PACKED), bytes(cramjam.zstd.decompress(payload or b""))
