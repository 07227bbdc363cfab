"""A short link holds as it was made, and in no other spelling."""

import base64
import string
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from common.keyring import LinkKeys
from common.settings import KeyRingSettings
from consent.page.link import Link, form, form_holds, read, token
from tests.support.builders import subject_keys

ALPHABET = string.ascii_letters + string.digits + "-_"


def ring(current: str, *more: str) -> LinkKeys:
    keys = {name: base64.b64encode(name.encode() * 32).decode() for name in (current, *more)}
    return LinkKeys(KeyRingSettings.model_validate({"current": current, "keys": keys}), subject_keys)


KEYS, ROTATED, STRANGER = ring("a"), ring("b", "a"), ring("c")

links = st.builds(
    Link,
    st.binary(min_size=8, max_size=8).map(bytes.hex),
    st.integers(0, 2**32 - 1).map(lambda second: datetime.fromtimestamp(second, UTC)),
)


@given(links)
def test_a_link_is_read_as_it_was_made_and_survives_a_rotation_of_keys(link: Link) -> None:
    written = token(link, KEYS)
    assert len(written) == 28
    assert read(written, KEYS) == link
    assert read(written, ROTATED) == link
    assert read(written, STRANGER) is None


@given(links, st.integers(0, 27), st.sampled_from(ALPHABET))
def test_no_character_of_a_link_can_be_another(link: Link, at: int, character: str) -> None:
    written = token(link, KEYS)
    altered = written[:at] + character + written[at + 1 :]
    assert (read(altered, KEYS) is None) == (altered != written)


@given(st.text(max_size=60))
def test_what_we_did_not_write_opens_nothing_and_breaks_nothing(written: str) -> None:
    assert read(written, KEYS) is None
    assert not form_holds(written, KEYS, "copy")


@given(st.lists(st.text(string.ascii_lowercase, min_size=1), min_size=1, max_size=4), st.integers(0, 9))
def test_a_form_holds_for_what_it_was_made_for(of: list[str], entries: int) -> None:
    made = form(KEYS, entries, *of)
    assert form_holds(made, ROTATED, entries, *of)
    assert not form_holds(made, KEYS, entries + 1, *of)
    assert not form_holds(made, KEYS, entries, *of[:-1])
    assert not form_holds(made, STRANGER, entries, *of)
