"""A short link's token: when it expires, its id, and our signature, in 28 characters that fit an SMS. Pure.

    4 bytes   expires_at, in seconds since 1970
    8 bytes   the link's id, random
    9 bytes   HMAC of both: who has not been given a link must guess 136 bits

What is forged or altered is refused by the signature alone, without a look at the database, and so is what has expired:
nothing tells a stranger whether a link ever was. The key is not in the database, so neither are the links.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from common.privacy.keyring import LinkKeys

EXPIRY_BYTES, ID_BYTES, TAG_BYTES = 4, 8, 9
TOKEN = re.compile(r"[A-Za-z0-9_-]{28}", re.ASCII)  # 21 bytes exactly: no padding, so each link is written one way
FORM_BYTES = 12
BROWSER = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)  # 128 random bits
FORM = re.compile(r"[A-Za-z0-9_-]{16}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Link:
    """What a token says. `link_id`: the 8 bytes, as hex."""

    link_id: str
    expires_at: datetime


def token(link: Link, keys: LinkKeys, kind: bytes = b"link") -> str:
    """`expires_at` counts to the second. A link of one `kind` is none of another."""
    body = int(link.expires_at.timestamp()).to_bytes(EXPIRY_BYTES, "big") + bytes.fromhex(link.link_id)
    return _text(body + keys.tag(kind + body)[:TAG_BYTES])


def read(written: str, keys: LinkKeys, kind: bytes = b"link") -> Link | None:
    """None: not one of ours. It may have expired: that is for the caller to see."""
    if not TOKEN.fullmatch(written):
        return None
    raw = base64.urlsafe_b64decode(written)
    body, tag = raw[:-TAG_BYTES], raw[-TAG_BYTES:]
    if not keys.holds(kind + body, tag):
        return None
    expires_at = datetime.fromtimestamp(int.from_bytes(body[:EXPIRY_BYTES], "big"), UTC)
    return Link(body[EXPIRY_BYTES:].hex(), expires_at)


def form(keys: LinkKeys, *of: object) -> str:
    """What a form must send back to be taken: what it is for, the link, the browser, and what was held when it was made
    (the ledger's length). So it counts once: what it changes, it no longer fits."""
    return _text(keys.tag(_form(of))[:FORM_BYTES])


def form_holds(sent: str, keys: LinkKeys, *of: object) -> bool:
    return bool(FORM.fullmatch(sent)) and keys.holds(_form(of), base64.urlsafe_b64decode(sent))


def browser_hash(browser: str) -> str:
    """In which form we keep who used a link. `browser`: 128 random bits, so a plain hash keeps them."""
    return hashlib.sha256(browser.encode()).hexdigest()


def _form(of: tuple[object, ...]) -> bytes:
    return "\n".join(("form", *map(str, of))).encode()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()  # multiples of three bytes: no padding
