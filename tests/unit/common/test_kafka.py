"""A record's value is read as what it says it is, or not at all."""

import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from common import kafka
from common.contracts.consent import SenderChanged
from tests.builders import sender_changed

HEADERS = [("ce_type", SenderChanged.type.encode())]


@pytest.mark.parametrize("text", ["\0", "a\0", "\\\0", '"\0'])
def test_a_nul_anywhere_is_undecodable(text: str) -> None:
    with pytest.raises(kafka.Undecodable, match="NUL"):
        kafka.decode(kafka.encode(sender_changed(brand=text)), HEADERS)


@pytest.mark.parametrize("text", [r"\u0000", r"\\u0000", "u0000", "\x01", "\\"])
def test_what_only_looks_like_one_is_read_as_it_is(text: str) -> None:
    event = sender_changed(brand=text)
    assert kafka.decode(kafka.encode(event), HEADERS) == event


@given(st.text(max_size=70), st.integers(1, 60))
def test_a_key_is_in_the_partition_where_any_client_of_kafka_puts_it(key: str, partitions: int) -> None:
    assert kafka.partition_of(key, partitions) == (murmur2(key.encode()) & 0x7FFFFFFF) % partitions
