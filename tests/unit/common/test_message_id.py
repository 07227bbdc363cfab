"""Message ids: one per cause for ever, in the order of time, and UUIDs that any database knows."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.sms.message_id import EPOCH, began, message_id, written, written_around

instants = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 hypothesis wants them naive
parts = st.lists(st.text(), max_size=4)


@given(instants, parts)
def test_it_is_a_uuid_of_version_8(at: datetime, of: list[str]) -> None:
    found = message_id(at, *of)
    assert found.version == 8
    assert found.variant == uuid.RFC_4122


@given(instants, parts)
def test_its_first_48_bits_are_the_milliseconds(at: datetime, of: list[str]) -> None:
    assert message_id(at, *of).int >> 80 == (at - EPOCH) // timedelta(milliseconds=1)


@given(instants, parts)
def test_when_it_began_can_be_read_of_it_to_the_millisecond(at: datetime, of: list[str]) -> None:
    read = began(message_id(at, *of))
    assert read is not None
    assert timedelta(0) <= at - read < timedelta(milliseconds=1)
    assert began(uuid.uuid5(uuid.NAMESPACE_URL, "made elsewhere")) is None


@given(instants, instants, parts, parts)
def test_ids_sort_as_their_instants(first: datetime, second: datetime, of: list[str], other: list[str]) -> None:
    early, late = sorted((first, second))
    if late - early >= timedelta(milliseconds=1):
        assert message_id(early, *of) < message_id(late, *other)
        assert str(message_id(early, *of)) < str(message_id(late, *other))


@given(instants, parts, parts)
def test_one_cause_is_one_id_and_two_are_two(at: datetime, of: list[str], other: list[str]) -> None:
    """Whatever a caller's Idempotency-Key is made of: no key can be written that looks like two parts."""
    assert (message_id(at, *of) == message_id(at, *other)) == (of == other)


@given(instants, parts, st.text(), parts)
def test_one_of_many_is_written_as_it_is_alone(at: datetime, before: list[str], one: str, after: list[str]) -> None:
    assert (
        written_around(at, before, after)(one)
        == written(at, *before, one, *after)
        == str(message_id(at, *before, one, *after))
    )


def test_it_is_frozen() -> None:
    """A change here sends again everything that a replay or a caller's retry meets."""
    at = datetime(2026, 1, 6, 10, 0, 0, 1000, UTC)
    assert str(message_id(at, "campaign", "subject", "1")) == "019b92bf-c501-8738-a27d-a321b2b5ca5b"


@pytest.mark.parametrize("microseconds", [0, 1, 999, 1000, 1999, 999_999])
def test_a_millisecond_is_cut_not_rounded(microseconds: int) -> None:
    at = datetime(2026, 1, 6, 10, 0, 0, microseconds, UTC)
    assert message_id(at).int >> 80 == 1767693600000 + microseconds // 1000
