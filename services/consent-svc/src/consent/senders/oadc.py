"""The name a message comes from: which ones nobody may take. Pure.

AF2M keeps two lists against usurpation: names that are always blocked, and names that are blocked unless their owner
has authorised it (DOMAIN 1.7). It gives them to operators' partners and publishes neither, so they are a setting.
"""

from collections.abc import Collection

ALIKE = str.maketrans("015L", "OISI")  # what looks like another letter on a telephone


def is_refused(oadc: str, refused: Collection[str]) -> bool:
    """Whether it is one of these, whatever its case, or passes for one."""
    return _read(oadc) in {_read(one) for one in refused}


def _read(oadc: str) -> str:
    return oadc.upper().translate(ALIKE)
