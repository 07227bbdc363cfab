"""A row of the outbox is published as it was appended, whichever process compressed the row."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from common.kafka.outbox import PACK_BYTES, PACKED, packed, unpacked


@given(st.binary(max_size=2 * PACK_BYTES))
def test_a_compressed_payload_comes_back(payload: bytes) -> None:
    assert unpacked(f"{PACKED}consent.state_changed.v1", packed(payload)) == ("consent.state_changed.v1", payload)


@given(st.binary(max_size=2 * PACK_BYTES))
def test_so_does_what_an_older_process_compressed(payload: bytes) -> None:
    older = zlib.compress(payload, 1)
    assert unpacked(f"{PACKED}consent.state_changed.v1", older) == ("consent.state_changed.v1", payload)


def test_nothing_else_is_opened() -> None:
    assert unpacked("consent.state_changed.v1", b"x{}") == ("consent.state_changed.v1", b"x{}")
