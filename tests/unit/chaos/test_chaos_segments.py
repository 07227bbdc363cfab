"""Where a log is cut, and batches that another producer packed."""

import gzip
from uuid import uuid4

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from chaos.segments import CODECS, Batch, Codec, batches, cut_before, lost, packed, xxh32
from common.contracts import Watermark
from common.kafka.broker import NUMBER

RECORDS_AT = 61


def batch(first: int, *types: str) -> bytes:
    """A batch as a broker keeps it, whose first record has this offset."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    for number, kind in enumerate(types):
        headers = [("ce_type", kind.encode()), ("ce_id", str(uuid4()).encode())]
        builder.append(number, 1_772_445_600_000, b"key", b"value", headers)
    return first.to_bytes(8, "big") + bytes(builder.build())[8:]


MARK, FACT = Watermark.type, "consent.state_changed.v1"
LOG = [batch(0, MARK), batch(1, FACT, FACT), batch(3, MARK, MARK), batch(5, MARK, FACT), batch(7, MARK)]


def test_a_log_is_its_batches_and_a_torn_one_at_the_end_is_none() -> None:
    found = list(batches(b"".join(LOG) + batch(8, FACT)[:-3]))
    assert [(each.first, each.last, each.fact) for each in found] == [
        (0, 0, False),
        (1, 2, True),
        (3, 4, False),
        (5, 6, True),
        (7, 7, False),
    ]
    assert [each.at for each in found] == [sum(map(len, LOG[:n])) for n in range(len(LOG))]


@pytest.mark.parametrize(("facts", "first"), [(1, 5), (2, 1), (3, None)])
def test_a_cut_takes_as_many_batches_with_facts_as_asked_and_what_stands_behind_them(
    facts: int, first: int | None
) -> None:
    found = cut_before(b"".join(LOG), facts)
    assert (found and found.first) == first


def test_a_cut_leaves_something_and_watermarks_alone_are_no_loss() -> None:
    assert cut_before(batch(0, FACT) + batch(1, MARK), 1) is None
    assert cut_before(batch(0, MARK) + batch(1, MARK), 1) is None


def test_the_end_of_a_transaction_is_no_fact() -> None:
    control = bytearray(batch(0, FACT))
    control[22] |= 0x20
    assert [each.fact for each in batches(bytes(control))] == [False]


@pytest.mark.parametrize("codec", CODECS)
def test_a_packed_batch_is_whole_by_its_crc_and_names_its_codec(codec: Codec) -> None:
    found = packed(b"nobody", b"value", [("ce_type", b"of nobody's")], codec)
    assert list(batches(found)) == [Batch(0, len(found), 0, 0, True)]
    assert MemoryRecords(found).next_batch().validate_crc()
    assert found[22] == CODECS.index(codec) + 1


def test_what_gzip_packed_is_read_as_it_was() -> None:
    (record,) = MemoryRecords(packed(b"nobody", b"value", [("ce_type", b"x")], "gzip")).next_batch()
    assert (record.key, record.value, list(record.headers)) == (b"nobody", b"value", [("ce_type", b"x")])


def test_the_other_codecs_frames_hold_the_same_records() -> None:
    plain = gzip.decompress(packed(b"nobody", b"value", [], "gzip")[RECORDS_AT:])[1:]  # timestamps differ in no byte
    length = len(plain) + 1
    assert packed(b"nobody", b"value", [], "snappy")[RECORDS_AT:].startswith(bytes([length, length - 1 << 2]))
    assert packed(b"nobody", b"value", [], "snappy").endswith(plain)
    assert packed(b"nobody", b"value", [], "lz4").endswith(plain + bytes(4))
    assert packed(b"nobody", b"value", [], "zstd").endswith(plain)


def test_the_hash_of_an_lz4_frames_descriptor_is_the_one_that_every_such_frame_has() -> None:
    assert xxh32(b"\x60\x40") >> 8 & 0xFF == 0x82


def numbered(first: int, *numbers: int) -> bytes:
    """A batch of records with these numbers, whose first record has this offset."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1 << 20)
    for at, number in enumerate(numbers):
        builder.append(at, 1_772_445_600_000, b"key", b"value", [(NUMBER, str(number).encode())])
    return first.to_bytes(8, "big") + bytes(builder.build())[8:]


@pytest.mark.parametrize(
    ("next_offset", "last_number", "log", "misses"),
    [
        (3, 3, [numbered(0, 1, 2), batch(2, MARK), numbered(4, 4)], False),  # number 3 was read before it was lost
        (3, 3, [numbered(0, 1, 2), numbered(2, 4)], True),  # number 4 lies below the place
        (2, 2, [numbered(0, 1, 2), batch(2, MARK), numbered(3, 4)], True),  # number 3 was lost unread
        (2, 2, [numbered(0, 1, 2), numbered(2, 3, 4)], False),
        (2, 2, [numbered(0, 1, 2)], False),  # nothing tells
    ],
)
def test_a_reader_misses_what_it_had_not_read_and_what_came_below_its_place(
    next_offset: int, last_number: int, log: list[bytes], misses: bool
) -> None:
    assert lost(b"".join(log), next_offset, last_number) is misses
