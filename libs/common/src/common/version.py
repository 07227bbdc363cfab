"""Versions of what others keep the newest of: each higher than the one before, and than any of an earlier second. Pure.

They count, but not by one: a database that was restored, or whose standby was behind when it took over, has forgotten
versions that others have seen. Given a second time, they would be taken for what is known already, and a STOP for none
(ADR-0059).
"""

from datetime import UTC, datetime

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)  # of no version is known that had counted so far; an int4 holds it until 2093


def following(version: int, now: datetime) -> int:
    """The version after this one."""
    return max(version + 1, at_least(now))


def at_least(now: datetime) -> int:
    return int((now - EPOCH).total_seconds())
