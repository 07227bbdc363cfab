"""The shape every event shares: inert, frozen, additive within a version.

Types are named `<owner>.<fact in the past tense>.v<N>`. An event carries the resulting state and its version, so that
a projection is an upsert guarded by `stored.version < event.version`. Producers fill every field; consumers ignore the
fields they do not know. On the wire: binary-mode CloudEvents 1.0, see `common.kafka.broker`.

Nothing here holds a rule: the service that owns a fact owns its logic.
"""

from datetime import datetime
from typing import Annotated, ClassVar

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]  # always with its offset from UTC


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A fact that a service publishes. `type` is its CloudEvents type."""

    type: ClassVar[str]

    @property
    def key(self) -> str:
        """The Kafka key: decides the partition, and what compaction keeps. Never a phone number."""
        raise TypeError(f"{type(self).__name__} names no key")


class Watermark(Event, frozen=True, kw_only=True):
    """`as_of`: all that any service acknowledged before this instant is in what precedes this record.

    `last_number`: the number of the last record that the publisher has put into this partition; 0: none. A reader that
    has not come to this number misses a record, and does not apply the watermark (ADR-0004).
    Published to every partition on its own, hence the partition in the key (compacted topics refuse null keys).
    """

    type: ClassVar[str] = "placet.watermark_published.v1"

    partition: int
    as_of: Instant
    last_number: int
    subject_keys: dict[str, str] = msgspec.field(default_factory=dict)  # a fingerprint of each, by its key id

    @property
    def key(self) -> str:
        return f"watermark-{self.partition}"
