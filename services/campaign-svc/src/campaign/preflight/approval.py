"""Compute the digest an approval is given to. Pure.

A change to any field below changes the digest, and earlier approvals no longer count.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

AGREED = (
    "sender_id",
    "purpose",
    "text",
    "language",
    "translations",
    "folding",
    "selection",
    "rest_days",
    "sectors",
    "send_before",
)
# hashed only where set, so digests from before these fields still match
SINCE = ("timing", "recurring", "trial")
SEEN = ("brand", "oadc", "stop_code", "country")


def digest(
    campaign: Mapping[str, object],
    sender: Mapping[str, object],
    at: datetime | None,
    link_host: str | None = None,
    stop_added: str = "",
    stop_page: str | None = None,
) -> str:
    """Return the digest, 64 hexadecimal digits.

    `at` `None`: the campaign starts on scheduling. `link_host`: only where a text has links. `stop_page`:
    only where a text has a stop link or a preference link.
    """
    agreed = {name: campaign[name] for name in AGREED} | {name: sender[name] for name in SEEN}
    agreed |= {name: campaign[name] for name in SINCE if campaign[name]}
    send_before = campaign["send_before"]
    assert send_before is None or isinstance(send_before, datetime)
    agreed["send_before"] = _instant(send_before)
    agreed["at"] = _instant(at)
    if link_host is not None:
        agreed["link_host"] = link_host
    if stop_page is not None:
        agreed["stop_page"] = stop_page
    if stop_added:
        agreed["stop_added"] = stop_added
    return hashlib.sha256(msgspec.json.encode(agreed, order="deterministic")).hexdigest()


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()
