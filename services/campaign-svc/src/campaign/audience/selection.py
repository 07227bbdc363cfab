"""Define which of the sender's contacts a campaign is for. Pure."""

from collections.abc import Mapping, Sequence

import msgspec


class SegmentVersionId(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    segment_id: str
    version: int


class Selection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Every contact, the contacts meeting `where`, or a segment: exactly one of the three."""

    all: bool = False
    where: Mapping[str, Sequence[str]] | None = None  # allowed values, by attribute
    segment: SegmentVersionId | None = None

    def __post_init__(self) -> None:
        if [self.all, self.where is not None, self.segment is not None].count(True) != 1:
            raise ValueError("a selection has exactly one of `all`, `where` and `segment`")
