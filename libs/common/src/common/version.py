"""Issue versions for facts of which other services keep the newest. Pure.

A version is higher than the version before, and than any version issued in an earlier second: a restored database, or a
promoted standby that lagged, has forgotten versions, and a STOP under a repeated version would be ignored (ADR-0059).
"""

from datetime import UTC, datetime

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)  # no version counted by one is known to be higher; an int4 lasts until 2093


def following(version: int, now: datetime) -> int:
    """Return the version after `version`."""
    return max(version + 1, at_least(now))


def at_least(now: datetime) -> int:
    return int((now - EPOCH).total_seconds())
