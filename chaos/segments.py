"""A partition's log as Kafka writes it: record batches, the place of a cut, and batches of another producer. Pure.

The codecs need no library: each stores its bytes uncompressed, in a frame that every decoder reads.
"""

import gzip
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from common.contracts import Watermark
from common.kafka.broker import NUMBER, Headers

Codec = Literal["gzip", "snappy", "lz4", "zstd"]
CODECS: tuple[Codec, ...] = ("gzip", "snappy", "lz4", "zstd")

# base offset, length of the rest, leader epoch, magic, CRC, attributes, last offset delta
_BEGINNING = struct.Struct(">qiibIhi")
_FRAME = struct.calcsize(">qi")  # not counted by the length
_CRC_AT, _ATTRIBUTES_AT = 17, 21  # the CRC covers the bytes after it
_RECORDS_AT = 61
_CONTROL = 0x20  # attribute of a transaction's end, which no reader gets
_CODES = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_LITERAL_BYTES = 60  # longest element of Snappy with its length in the tag
_BLOCK_BYTES = 64 * 1024  # of LZ4, as in the descriptor


@dataclass(frozen=True, slots=True)
class Batch:
    """A record batch. `at`, `size`: in the file. `first`, `last`: offsets. `fact`: more than watermarks."""

    at: int
    size: int
    first: int
    last: int
    fact: bool


def batches(log: bytes) -> Iterator[Batch]:
    """Yield the whole batches of a segment, without a torn batch at the end."""
    at = 0
    while at + _RECORDS_AT <= len(log):
        first, length, _, _, _, attributes, delta = _BEGINNING.unpack_from(log, at)
        size = _FRAME + length
        if length <= 0 or at + size > len(log):
            return
        marks = log.count(Watermark.type.encode(), at, at + size)
        yield Batch(at, size, first, first + delta, not attributes & _CONTROL and marks < delta + 1)
        at += size


def cut_before(log: bytes, facts: int) -> Batch | None:
    """Return the first batch to lose, so that the last `facts` batches with facts are lost.

    `None`: the log has fewer, or would be empty.
    """
    with_facts = [batch for batch in batches(log) if batch.fact]
    return with_facts[-facts] if len(with_facts) >= facts and with_facts[-facts].at > 0 else None


def lost(log: bytes, next_offset: int, last_number: int) -> bool:
    """Return whether a reader at `next_offset`, with all numbers to `last_number`, misses a record.

    A log that lost only records already read, and wrote none below `next_offset` since, hides nothing.
    """
    ahead, newest = set[int](), last_number
    whole = MemoryRecords(log[: max((batch.at + batch.size for batch in batches(log)), default=0)])
    while whole.has_next() and (batch := whole.next_batch()) is not None:
        if batch.is_control_batch:
            continue
        for record in batch:
            if (number := dict(record.headers).get(NUMBER)) is not None:
                newest = max(newest, int(number))
                if record.offset >= next_offset:
                    ahead.add(int(number))
    return not ahead.issuperset(range(last_number + 1, newest + 1))


def packed(key: bytes | None, value: bytes | None, headers: Headers, codec: Codec) -> bytes:
    """Return a batch of a record, compressed as by another producer."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    builder.append(0, None, key, value, headers)
    plain = bytes(builder.build())
    records = _FRAMES[codec](plain[_RECORDS_AT:])
    batch = bytearray(plain[:_RECORDS_AT] + records)
    struct.pack_into(">i", batch, 8, len(batch) - _FRAME)
    struct.pack_into(">h", batch, _ATTRIBUTES_AT, _CODES[codec])
    struct.pack_into(">I", batch, _CRC_AT, calc_crc32c(bytes(batch[_ATTRIBUTES_AT:])))
    return bytes(batch)


def _snappy(data: bytes) -> bytes:
    """Return a raw block of literals, which Kafka's readers take without the Java library's framing."""
    parts = [data[at : at + _LITERAL_BYTES] for at in range(0, len(data), _LITERAL_BYTES)]
    return _varint(len(data)) + b"".join(bytes([(len(part) - 1) << 2]) + part for part in parts)


def _lz4(data: bytes) -> bytes:
    """Return a frame of uncompressed blocks."""
    descriptor = b"\x60\x40"  # version 1, independent blocks of 64 KB
    parts = [data[at : at + _BLOCK_BYTES] for at in range(0, len(data), _BLOCK_BYTES)]
    blocks = b"".join(struct.pack("<I", len(part) | 1 << 31) + part for part in parts)
    return b"\x04\x22\x4d\x18" + descriptor + bytes([xxh32(descriptor) >> 8 & 0xFF]) + blocks + bytes(4)


def _zstd(data: bytes) -> bytes:
    """Return a frame of a raw block, at most 128 KB."""
    header = b"\x28\xb5\x2f\xfd" + b"\xa0" + struct.pack("<I", len(data))  # a segment, its size in 4 bytes
    return header + struct.pack("<I", len(data) << 3 | 1)[:3] + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def xxh32(data: bytes) -> int:
    """Return xxHash (seed 0) of fewer than 4 bytes, enough for LZ4's descriptor."""
    assert len(data) < 4
    digest = 374761393 + len(data)
    for byte in data:
        digest = digest + byte * 374761393 & 0xFFFFFFFF
        digest = (digest << 11 | digest >> 21) * 2654435761 & 0xFFFFFFFF
    digest = (digest ^ digest >> 15) * 2246822519 & 0xFFFFFFFF
    digest = (digest ^ digest >> 13) * 3266489917 & 0xFFFFFFFF
    return digest ^ digest >> 16


_FRAMES = {"gzip": gzip.compress, "snappy": _snappy, "lz4": _lz4, "zstd": _zstd}
