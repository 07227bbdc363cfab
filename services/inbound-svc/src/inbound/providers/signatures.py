"""Common parts of signature schemes. Pure."""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from inbound.providers.provider import RETRIES_FOR, NotGenuine, Once

TOLERANCE = timedelta(minutes=5)  # DOMAIN 3.2
REMEMBERED = RETRIES_FOR  # without a signed time

KEYS_REMEMBERED = 256  # of the accounts' secrets, which are in memory anyway
INSIDE, OUTSIDE = bytes(byte ^ 0x36 for byte in range(256)), bytes(byte ^ 0x5C for byte in range(256))

_UNIX_SECONDS = re.compile(r"[0-9]{1,11}", re.ASCII)


def octets(text: str) -> bytes:
    """Return a text as the bytes sent.

    Bytes which are not UTF-8 and halves of surrogate pairs survive.
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def header(headers: Mapping[str, str], name: str) -> str:
    """Return a header. Raises NotGenuine."""
    value = headers.get(name, "")
    if not value:
        raise NotGenuine("signature_missing")
    return value


def matches(given: Iterable[str], expected: Iterable[bytes]) -> None:
    """Check, in constant time, that a given signature is among the expected. Raises NotGenuine."""
    ours = list(expected)
    results = [hmac.compare_digest(octets(one), other) for one in given for other in ours]
    if not any(results):
        raise NotGenuine("signature_wrong")


def unix_time(stamp: str) -> datetime:
    """Return a unix time in seconds. Raises NotGenuine."""
    if not _UNIX_SECONDS.fullmatch(stamp):
        raise NotGenuine("timestamp_outside_window")
    return datetime.fromtimestamp(int(stamp), UTC)


def within(at: datetime, now: datetime) -> None:
    """Check that `at` is within TOLERANCE of `now`. Raises NotGenuine."""
    if abs(now - at) > TOLERANCE:
        raise NotGenuine("timestamp_outside_window")


def once(nonce: str, at: datetime) -> Once:
    """Return the nonce to remember until a signature made at `at` is too old.

    The nonce is hashed: any length and content.
    """
    return Once(hashlib.sha256(octets(nonce)).hexdigest(), at + TOLERANCE)


@lru_cache(maxsize=KEYS_REMEMBERED)
def _halves(key: bytes) -> tuple["hashlib._Hash", "hashlib._Hash"]:
    """Return the two hashes of RFC 2104, keyed."""
    block = hashlib.sha256().block_size
    padded = (hashlib.sha256(key).digest() if len(key) > block else key).ljust(block, b"\0")
    return hashlib.sha256(padded.translate(INSIDE)), hashlib.sha256(padded.translate(OUTSIDE))


def hmac_sha256(key: bytes, signed: bytes) -> bytes:
    """Return the MAC. The halves keyed in advance take half the time of the hmac module."""
    keyed_inside, keyed_outside = _halves(key)
    inside, outside = keyed_inside.copy(), keyed_outside.copy()
    inside.update(signed)
    outside.update(inside.digest())
    return outside.digest()


def hmac_base64(key: bytes, signed: bytes) -> bytes:
    return base64.b64encode(hmac_sha256(key, signed))


def hs256_claims(token: str, keys: Iterable[bytes]) -> Mapping[str, object]:
    """Return the claims of a compact JWT, signed with HS256 only. Raises NotGenuine."""
    head, _, rest = token.partition(".")
    body, _, mac = rest.partition(".")
    signed = octets(f"{head}.{body}")
    expected = [base64.urlsafe_b64encode(hmac.new(key, signed, hashlib.sha256).digest()).rstrip(b"=") for key in keys]
    matches([mac], expected)
    if _decoded(head).get("alg") != "HS256":
        raise NotGenuine("signature_wrong")
    return _decoded(body)


def claimed_time(claims: Mapping[str, object], name: str) -> datetime:
    """Return a time claim of a token. Raises NotGenuine."""
    value = claims.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 10**11:
        raise NotGenuine("timestamp_outside_window")
    return datetime.fromtimestamp(value, UTC)


def claimed(claims: Mapping[str, object], name: str) -> str:
    """Return a text claim, or ""."""
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def is_hash_of(content: bytes, given: str) -> None:
    """Check that `given` is the SHA-256 of `content` in hexadecimal. Raises NotGenuine."""
    matches([given.lower()], [hashlib.sha256(content).hexdigest().encode()])


def _decoded(segment: str) -> Mapping[str, object]:
    try:
        padded = segment.encode("ascii") + b"=" * (-len(segment) % 4)
        value: object = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise NotGenuine("signature_wrong") from error
    if not isinstance(value, dict):
        raise NotGenuine("signature_wrong")
    return value
