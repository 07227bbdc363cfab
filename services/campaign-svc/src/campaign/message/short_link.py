"""Define tracked links: the target, the form in an SMS, and a person's token. Pure.

    {link https://maison-lune.example/soldes}        in a template
    https://m.maison-lune.example/l/4kQ8s0ZbTn1W     in a person's SMS

The token is an HMAC of campaign, person and target, cut to 12 letters and digits: only the key makes tokens, and a
rewritten message has the same token. Phones leave a last `-` out of a detected link, hence letters and digits. 62^12 is
71 bits (ADR-0038 weighs the risk).
"""

import hmac
import re
from collections.abc import Callable, Iterable

from common.keyring import LinkKeys
from common.privacy import stop_link
from common.sms.subject_id import InnerId

PATH = "/l/"
TOKEN_CHARS = 12
TOKEN = re.compile(rf"[0-9A-Za-z]{{{TOKEN_CHARS}}}", re.ASCII)
MAX_TARGET_CHARS = 500
MAX_HOST_CHARS = 60
# ask a `Token` for the person's stop link, or link to the preference page, which have no target
STOP_LINK, PREFERENCES = "stop_link", "preferences"

_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)+(?:[a-z]{{2,63}}|xn--[a-z0-9-]{{2,59}})", re.ASCII)
# no user before the host and no backslash: browsers would see another host than persons
_TARGET = re.compile(
    rf"https://({_HOST.pattern})(?::\d{{2,5}})?(?:[/?#][\w\-.~:/?#\[\]@!$&'()*+,;=%]*)?", re.ASCII | re.IGNORECASE
)

Token = Callable[[str], str]  # of a target


def host_of(target: str) -> str | None:
    """Return the host of an absolute https URL in ASCII, otherwise `None`."""
    if len(target) > MAX_TARGET_CHARS:
        return None
    found = _TARGET.fullmatch(target)
    return found[1].lower() if found else None


def is_host(written: str) -> bool:
    return len(written) <= MAX_HOST_CHARS and _HOST.fullmatch(written) is not None


def url(host: str, token: str) -> str:
    return f"https://{host}{PATH}{token}"


def any_token(target: str) -> str:
    """Return a placeholder where only the token's length counts."""
    return stop_link.any_token() if target in (STOP_LINK, PREFERENCES) else "x" * TOKEN_CHARS


def token(keys: LinkKeys, campaign_id: str, subject_id: str, target: str) -> str:
    return _written(keys.tag(_said(campaign_id, keys.inner(subject_id), target)))


def is_ours(written: str, keys: LinkKeys, campaign_id: str, subject_id: str, target: str) -> bool:
    """Return whether a key of ours made the token: a forged row makes no link."""
    tags: Iterable[bytes] = keys.tags(_said(campaign_id, keys.inner(subject_id), target))
    return any(hmac.compare_digest(_written(tag), written) for tag in tags)


def _said(campaign_id: str, inner: InnerId, target: str) -> bytes:
    return "\n".join(("click", campaign_id, inner, target)).encode()


def _written(tag: bytes) -> str:
    number, letters = int.from_bytes(tag, "big"), []
    for _ in range(TOKEN_CHARS):
        number, letter = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[letter])
    return "".join(letters)
