"""What somebody has read of a campaign before they edit it, as an ETag: of all that an edit replaces, part by part, so
that it can be told which parts have changed since. What happens to a campaign by itself (its counts, its status while
it goes) is not in it. Pure.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

DIGITS = 8  # of each part

_TAG = re.compile(r'"([^"]*)"')


def tag(parts: Mapping[str, Any]) -> str:
    """`parts` by their names, as JSON has them; always the same names in one release."""
    return "".join(
        hashlib.sha256(msgspec.json.encode(parts[name], order="deterministic")).hexdigest()[:DIGITS]
        for name in sorted(parts)
    )


def etag(tag: str) -> str:
    return f'"{tag}"'


def changed(if_match: str, parts: Mapping[str, Any]) -> list[str] | None:
    """Which parts have changed since any of the tags of the header `If-Match` was read; None where it is met.
    Empty: it cannot be told. A proxy that compresses makes a tag weak (`W/`), and it is ours all the same."""
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
