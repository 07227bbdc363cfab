"""Decides which names (OADC) a sender may not take. Pure.

AF2M keeps two lists against usurpation: names always blocked, and names blocked unless their owner has authorised the
use (DOMAIN 1.7). AF2M gives the lists to operators' partners and does not publish them, so the names are a setting.
"""

from collections.abc import Collection

ALIKE = str.maketrans("015L", "OISI")  # characters that look like another letter on a telephone


def is_refused(oadc: str, refused: Collection[str]) -> bool:
    """Return whether `oadc` equals or looks like a refused name, whatever the case."""
    return _read(oadc) in {_read(one) for one in refused}


def _read(oadc: str) -> str:
    return oadc.upper().translate(ALIKE)
