"""Decides which names (OADC) a sender may not take. Pure.

AF2M keeps lists of names always blocked, and names blocked unless their owner authorises (DOMAIN 1.7), and does not
publish the lists: the names are a setting.
"""

from collections.abc import Collection

ALIKE = str.maketrans("015L", "OISI")  # alike on a telephone


def is_refused(oadc: str, refused: Collection[str]) -> bool:
    """Return whether `oadc` equals or looks like a refused name."""
    return _read(oadc) in {_read(one) for one in refused}


def _read(oadc: str) -> str:
    return oadc.upper().translate(ALIKE)
