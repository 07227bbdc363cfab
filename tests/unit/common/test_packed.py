"""A row of the outbox is published as it was appended."""

from hypothesis import given
from hypothesis import strategies as st

from common.kafka.packing import PACK_BYTES, PACKED, packed, unpacked


@given(st.binary(max_size=2 * PACK_BYTES))
def test_a_compressed_payload_comes_back(payload: bytes) -> None:
    assert unpacked(f"{PACKED}consent.state_changed.v1", packed(payload)) == ("consent.state_changed.v1", payload)


def test_nothing_else_is_opened() -> None:
    assert unpacked("consent.state_changed.v1", b"x{}") == ("consent.state_changed.v1", b"x{}")
