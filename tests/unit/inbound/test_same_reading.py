"""The fast readers of a callback give what Python's own give."""

import hashlib
import hmac
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inbound.providers import Callback, Unreadable
from inbound.providers.bodies import json_of
from inbound.providers.signatures import hmac_sha256

PIECES = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b'"',
        b"\\",
        b"u",
        b"d83d",
        b"de00",
        b"0",
        b"1",
        b"9",
        b"-",
        b"+",
        b".",
        b"e",
    ),
    *(b"E", b"true", b"null", b"NaN", b"a", b"\xc3\xa9", b"\xff", b"\x00", b"\x1f", b" ", b"\n", b'"a"', b'"b":', b"/"),
    b"12345678901234567890",
]


def said(body: bytes) -> str:
    try:
        return repr(json.loads(body.decode()))
    except (ValueError, RecursionError):
        return "unreadable"


@settings(max_examples=2_000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=9).map(b"".join))
@example(b'{"text": "STOP \\ud83d"}')
@example(b'{"id": 123456789012345678901234567890, "id": 1e400}')
@example(b"1" * 5_000)
@example(b"[" * 600 + b"]" * 600)
@example(b"[" * 100_000)
@example(b"\xef\xbb\xbf{}")
def test_a_body_is_read_as_python_reads_json(body: bytes) -> None:
    callback = Callback("/", {}, body)
    if (expected := said(body)) == "unreadable":
        with pytest.raises(Unreadable):
            json_of(callback)
    else:
        assert repr(json_of(callback)) == expected


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=300))
def test_a_mac_is_that_of_the_hmac_module(key: bytes, message: bytes) -> None:
    assert hmac_sha256(key, message) == hmac.digest(key, message, hashlib.sha256)
