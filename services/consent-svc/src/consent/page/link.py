"""Make and read a short link's token: expiry, id and signature in 28 characters that fit an SMS. Pure.

    4 bytes   expires_at, in seconds since 1970
    8 bytes   the link's id, random
    9 bytes   HMAC of both: a stranger must guess 136 bits

A forged or old token is refused without a database query: a stranger cannot learn whether a link ever existed
(ADR-0021).
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from common.keyring import LinkKeys

EXPIRY_BYTES, ID_BYTES, TAG_BYTES = 4, 8, 9
TOKEN = re.compile(r"[A-Za-z0-9_-]{28}", re.ASCII)  # no padding, so each link has a single spelling
FORM_BYTES = 12
BROWSER = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)  # 128 random bits
FORM = re.compile(r"[A-Za-z0-9_-]{16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Link:
    """The content of a token. `link_id` is hex."""

    link_id: str
    expires_at: datetime


def token(link: Link, keys: LinkKeys, kind: bytes = b"link") -> str:
    """Return the token, with `expires_at` cut to the second. Another `kind` never reads as this."""
    body = int(link.expires_at.timestamp()).to_bytes(EXPIRY_BYTES, "big") + bytes.fromhex(link.link_id)
    return _text(body + keys.tag(kind + body)[:TAG_BYTES])


def read(written: str, keys: LinkKeys, kind: bytes = b"link") -> Link | None:
    """Return the link, or None if not signed here. The caller checks the expiry."""
    if not TOKEN.fullmatch(written):
        return None
    raw = base64.urlsafe_b64decode(written)
    body, tag = raw[:-TAG_BYTES], raw[-TAG_BYTES:]
    if not keys.holds(kind + body, tag):
        return None
    expires_at = datetime.fromtimestamp(int.from_bytes(body[:EXPIRY_BYTES], "big"), UTC)
    return Link(body[EXPIRY_BYTES:].hex(), expires_at)


def form(keys: LinkKeys, *of: object) -> str:
    """Return the value that a form must send back, bound to `of`: a form that has changed the ledger fits no more."""
    return _text(keys.tag(_form(of))[:FORM_BYTES])


def form_holds(sent: str, keys: LinkKeys, *of: object) -> bool:
    return bool(FORM.fullmatch(sent)) and keys.holds(_form(of), base64.urlsafe_b64decode(sent))


def browser_hash(browser: str) -> str:
    """Return the stored form of a browser id: 128 random bits need no more than a plain hash."""
    return hashlib.sha256(browser.encode()).hexdigest()


def _form(of: tuple[object, ...]) -> bytes:
    return "\n".join(("form", *map(str, of))).encode()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()  # multiples of three bytes: no padding
