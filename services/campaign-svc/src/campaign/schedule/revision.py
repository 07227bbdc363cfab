"""Compute a campaign's ETag, and name the parts changed since an older ETag. Pure.

Parts are hashed separately, so that a refused edit can name the changed parts. Progress is not hashed: sending never
invalidates an editor's ETag.
"""

import hashlib
import re
from collections.abc import Mapping

import msgspec

DIGITS = 8  # per part

_TAG = re.compile(r'"([^"]*)"')


def tag(parts: Mapping[str, object]) -> str:
    """Return the tag of `parts` (JSON values by name). Within a release the names must be the same."""
    return "".join(
        hashlib.sha256(msgspec.json.encode(parts[name], order="deterministic")).hexdigest()[:DIGITS]
        for name in sorted(parts)
    )


def etag(tag: str) -> str:
    return f'"{tag}"'


def changed(if_match: str, parts: Mapping[str, object]) -> list[str] | None:
    """Return the names of the parts changed since the `If-Match` tag, or `None` for a match.

    An empty list: the changed parts are unknown, because the header holds no usable tag, or several. Weak tags (`W/`)
    match too: a compressing proxy weakens tags.
    """
    now = tag(parts)
    read = _TAG.findall(if_match)
    if if_match.strip() == "*" or now in read:
        return None
    known = [each for each in read if len(each) == len(now)]
    if len(known) != 1:
        return []
    return [
        name
        for place, name in enumerate(sorted(parts))
        if known[0][place * DIGITS : (place + 1) * DIGITS] != now[place * DIGITS : (place + 1) * DIGITS]
    ]
