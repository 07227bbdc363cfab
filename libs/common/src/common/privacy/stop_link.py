"""Write, read and find personal stop links, by which a person stops a sender's marketing without an account. Pure.

    https://p.maison-lune.example/s/maison-lune/                                       a sender's stop page
    https://p.maison-lune.example/s/maison-lune/Uk3…                                   a person's stop link
    https://p.maison-lune.example/m/maison-lune/Ba9…                                   a person's preference link

campaign-svc writes the link into a text, dispatch-svc verifies the link in the final text, consent-svc serves the page.
A link is signed and stored nowhere: after the loss of a database, the links in people's phones still stop. The token
has 37 letters and digits, since phones leave a last `-` out of a detected link:

    2 bytes    the last day of validity, in days since 1970
    16 bytes   the person's inner id without the key id: an outer key that is replaced breaks no link
    9 bytes    HMAC of the link's kind, the sender id and the bytes before
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal
from urllib.parse import unquote

from common.keyring import LinkKeys
from common.sms.subject_id import SUBJECT_HEX_CHARS, digits_of

Kind = Literal["stop link", "preference link"]

PATH, PREFERENCES_PATH = "/s", "/m"
VALID_FOR = timedelta(days=3 * 366)  # a consent lasts 36 months after the person's last contact (DOMAIN 1.4)
PREFERENCES_VALID_FOR = timedelta(days=30)  # a preference link shows data of the person
TOKEN_CHARS = 37
DAY_BYTES, SUBJECT_BYTES, TAG_BYTES = 2, SUBJECT_HEX_CHARS // 2, 9
BODY_BYTES = DAY_BYTES + SUBJECT_BYTES
BYTES = BODY_BYTES + TAG_BYTES
FIRST_DAY = date(1970, 1, 1)

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_TOKEN = re.compile(rf"[0-9A-Za-z]{{{TOKEN_CHARS}}}", re.ASCII)
_SPACE = r" \t\r\n\u00a0\u202f"


@dataclass(frozen=True, slots=True)
class StopLink:
    """The content of a token. `person`: the digits of the inner id."""

    person: str
    last_day: date


def stop_page(page_url: str, sender_id: str) -> str:
    """Return the address of a sender's stop page; a token follows."""
    return f"{pages_of(page_url)}{sender_id}/"


def pages_of(page_url: str) -> str:
    """Return the address that the stop pages of all senders begin with."""
    return f"{page_url.rstrip('/')}{PATH}/"


def preference_page(stop_page: str) -> str:
    """Return the address beside a sender's stop page that the sender's preference links begin with."""
    sender_id = stop_page.rstrip("/").rpartition("/")[2]
    return f"{stop_page.removesuffix(f'{PATH}/{sender_id}/')}{PREFERENCES_PATH}/{sender_id}/"


def any_token() -> str:
    """Return a placeholder where only the length counts."""
    return "x" * TOKEN_CHARS


def token(keys: LinkKeys, sender_id: str, subject_id: str, now: datetime, kind: Kind = "stop link") -> str:
    """Return the token of a person. A text written again on the same day has the same token."""
    valid_for = VALID_FOR if kind == "stop link" else PREFERENCES_VALID_FOR
    last_day = (now.astimezone(UTC) + valid_for).date()
    body = (last_day - FIRST_DAY).days.to_bytes(DAY_BYTES, "big") + bytes.fromhex(digits_of(keys.inner(subject_id)))
    return _written(body + keys.tag(_signed(kind, sender_id, body))[:TAG_BYTES])


def read(written: str, keys: LinkKeys, sender_id: str, kind: Kind = "stop link") -> StopLink | None:
    """Return the content, or None unless signed here for this sender and kind. The caller checks `last_day`."""
    raw = _raw(written)
    if raw is None:
        return None
    body, tag = raw[:BODY_BYTES], raw[BODY_BYTES:]
    if not keys.holds(_signed(kind, sender_id, body), tag):
        return None
    last_day = FIRST_DAY + timedelta(days=int.from_bytes(body[:DAY_BYTES], "big"))
    return StopLink(body[DAY_BYTES:].hex(), last_day)


def is_over(link: StopLink, now: datetime) -> bool:
    return now.astimezone(UTC).date() > link.last_day


def names_stop_link(text: str, page: str | None) -> bool:
    """Return whether `text` has something of the form of a stop link of this sender. No signature is verified."""
    return any(True for _ in _tokens(text, page))


def has_stop_link(text: str, page: str | None, keys: LinkKeys, sender_id: str, subject_id: str, now: datetime) -> bool:
    """Return whether `text` has this person's valid stop link of this sender, on the sender's stop page."""
    return any(_is_own(written, keys, sender_id, subject_id, now, "stop link") for written in _tokens(text, page))


def names_page(text: str, stop_page: str | None) -> bool:
    """Return whether `text` has the address of any sender's stop page or preference page beside `stop_page`."""
    return any(True for _ in _addresses(text, stop_page))


def has_foreign_link(
    text: str, stop_page: str | None, keys: LinkKeys | None, sender_id: str, subject_id: str, now: datetime
) -> bool:
    """Return whether `text` has a stop or preference page's address that is no valid link of this person and sender.

    Another person's link would stop that person's marketing, or show that person's data. Without `keys` no link is
    the person's.
    """
    own: dict[str, Kind] = {f"{PATH}/{sender_id}/": "stop link", f"{PREFERENCES_PATH}/{sender_id}/": "preference link"}

    def is_own(address: str) -> bool:
        for start, kind in own.items():
            if keys is not None and address.startswith(start):
                return _is_own(address[len(start) :][:TOKEN_CHARS], keys, sender_id, subject_id, now, kind)
        return False

    return not all(is_own(address) for address in _addresses(text, stop_page))


def _addresses(text: str, stop_page: str | None) -> Iterator[str]:
    """Yield the path, as written, of each address in the text that a browser opens as a page beside `stop_page`.

    A browser folds the letters of the host, skips invisible ones, and resolves `%73` and `..` in the path.
    """
    if stop_page is None:
        return
    for found in _on_host(stop_page.partition("://")[2].rsplit("/", 3)[0]).finditer(_visible(text)):
        path = posixpath.normpath(unquote(found[1]).replace("\\", "/")).lstrip("/")
        if f"/{path.partition('/')[0]}" in (PATH, PREFERENCES_PATH):
            yield found[1]


@lru_cache(maxsize=256)
def _on_host(host: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(host)}\.?(?::\d*)?(?=([/\\]\S*))", re.IGNORECASE)


def _visible(text: str) -> str:
    """Return the text with plain forms of its letters, without invisible characters."""
    if text.isascii():
        return text
    seen = unicodedata.normalize("NFKC", text)
    for char in {*seen}:
        if not char.isascii() and unicodedata.category(char) == "Cf":
            seen = seen.replace(char, "")
    return seen


def _tokens(text: str, page: str | None) -> Iterator[str]:
    """Yield what follows `page` in each address that a phone reads as the link alone."""
    return (found[1] for found in _link_on(page).finditer(text)) if page else iter(())


@lru_cache(maxsize=256)
def _link_on(page: str) -> re.Pattern[str]:
    """Return the pattern of a link that stands apart: any other character beside may make another address."""
    token = rf"([0-9A-Za-z]{{{TOKEN_CHARS}}})"
    return re.compile(rf"(?<![^{_SPACE}(]){re.escape(page)}{token}(?=[.,;:!?)]?(?:[{_SPACE}]|\Z))")


def _is_own(written: str, keys: LinkKeys, sender_id: str, subject_id: str, now: datetime, kind: Kind) -> bool:
    found = read(written, keys, sender_id, kind)
    return found is not None and found.person == digits_of(keys.inner(subject_id)) and not is_over(found, now)


def _signed(kind: Kind, sender_id: str, body: bytes) -> bytes:
    return f"{kind}\n{sender_id}\n".encode() + body


def _written(raw: bytes) -> str:
    number, digits = int.from_bytes(raw, "big"), []
    for _ in range(TOKEN_CHARS):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _raw(written: str) -> bytes | None:
    """Return the bytes; None for other characters, another length, or a number that no bytes write."""
    if not _TOKEN.fullmatch(written):
        return None
    number = 0
    for digit in written:
        number = number * len(_DIGITS) + _VALUES[digit]
    return number.to_bytes(BYTES, "big") if number < 1 << (8 * BYTES) else None
