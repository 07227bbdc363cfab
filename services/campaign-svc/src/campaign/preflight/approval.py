"""Compute the digest an approval is given to. Pure.

The digest covers text with link targets, languages, folding, purpose, audience, sectors, end, start, pace, variants,
and the sender's name, OADC, STOP code and country. A change to any of these changes the digest, and earlier approvals
no longer count.
"""

import hashlib
from collections.abc import Collection, Mapping
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
# Hashed only where set, so digests made before these fields existed still match.
SINCE = ("timing", "recurring", "trial")
SEEN = ("brand", "oadc", "stop_code", "country")


def digest(
    campaign: Mapping[str, object],
    sender: Mapping[str, object],
    at: datetime | None,
    link_host: str | None = None,
    stop_added: str = "",
) -> str:
    """Return the digest, 64 hexadecimal digits.

    `campaign` has the keys AGREED and SINCE, `sender` the keys SEEN. `at` `None`: the campaign starts on scheduling,
    whenever that is. `link_host`: given only where a text has links. `stop_added`: the mention the operator appends.
    """
    agreed = {name: campaign[name] for name in AGREED} | {name: sender[name] for name in SEEN}
    agreed |= {name: campaign[name] for name in SINCE if campaign[name]}
    send_before = campaign["send_before"]
    assert send_before is None or isinstance(send_before, datetime)
    agreed["send_before"] = _instant(send_before)
    agreed["at"] = _instant(at)
    if link_host is not None:  # a text without links keeps the digest made before links existed
        agreed["link_host"] = link_host
    if stop_added:
        agreed["stop_added"] = stop_added
    return hashlib.sha256(msgspec.json.encode(agreed, order="deterministic")).hexdigest()


def may_approve(person: str, authors: Collection[str]) -> bool:
    """Return whether the person wrote no part of the campaign."""
    return person not in authors


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()
