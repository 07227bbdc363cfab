"""What an approval is of: a hash of all that a person agreed to. Pure.

Text with where its links lead, languages, folding, purpose, audience, sectors, end, start, pace, variants, and the
sender as people see it: if one of them changes, the hash is another and the approval is of something else.
"""

import hashlib
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

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
# agreed to as well, where they say anything: what was approved before there were any still is
SINCE = ("timing", "recurring", "trial")
SEEN = ("brand", "oadc", "stop_code", "country")


def digest(
    campaign: Mapping[str, Any],
    sender: Mapping[str, Any],
    at: datetime | None,
    link_host: str | None = None,
    stop_added: str = "",
) -> str:
    """`campaign` has AGREED and SINCE, `sender` has SEEN; `at` None: at once, whenever that is. `link_host`: of the
    links in its text, where it has any. `stop_added`: by the operator, behind it. 64 hexadecimal digits."""
    agreed = {name: campaign[name] for name in AGREED} | {name: sender[name] for name in SEEN}
    agreed |= {name: campaign[name] for name in SINCE if campaign[name]}
    agreed["send_before"] = _instant(agreed["send_before"])
    agreed["at"] = _instant(at)
    if link_host is not None:  # without, what was agreed to before there were links stays what it was
        agreed["link_host"] = link_host
    if stop_added:
        agreed["stop_added"] = stop_added
    return hashlib.sha256(msgspec.json.encode(agreed, order="deterministic")).hexdigest()


def may_approve(person: str, authors: Collection[str]) -> bool:
    """Nobody approves what they wrote a word of."""
    return person not in authors


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()
