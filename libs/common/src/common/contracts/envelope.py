"""Define the shape shared by all events: inert, frozen, additive within a version.

Event types are named `<owner>.<fact in the past tense>.v<N>`. An event carries the resulting state and its version, so
a projection is an upsert guarded by `stored.version < event.version`. Producers fill every field; consumers ignore
unknown fields. On the wire an event is a binary-mode CloudEvents 1.0 message, see `common.kafka.broker`.

This module holds no rule: the service that owns a fact owns its logic.
"""

from datetime import datetime
from typing import Annotated, ClassVar

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]  # always with an offset from UTC


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):  # inert: no cycle for the collector to find
    """A fact published by a service. `type` is its CloudEvents type."""

    type: ClassVar[str]

    @property
    def key(self) -> str:
        """Return the Kafka key, which decides the partition and the unit of compaction. Never a phone number."""
        raise TypeError(f"{type(self).__name__} names no key")


class Watermark(Event, frozen=True, kw_only=True):
    """A promise of completeness for one partition.

    The records before a watermark include every fact acknowledged by any service before `as_of`. `last_number` is the
    number of the publisher's last record in the partition; 0: the partition has no record. A reader behind this number
    misses a record and does not apply the watermark (ADR-0004). The publisher writes a watermark to each partition, so
    the key holds the partition (compacted topics refuse null keys).
    """

    type: ClassVar[str] = "placet.watermark_published.v1"

    partition: int
    as_of: Instant
    last_number: int
    subject_keys: dict[str, str] = msgspec.field(default_factory=dict)  # fingerprint of each subject key, by key id

    @property
    def key(self) -> str:
        return f"watermark-{self.partition}"
