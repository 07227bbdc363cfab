"""The settings of a service in shards: some partitions of the people, with a database and a relay of their own."""

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from common.settings import ServiceSettings

NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
SPAN = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


class ShardSettings(BaseModel):
    """A shard. `partitions`: as `0-5`, or `0-2,6`. `database_url`: of its database."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    partitions: tuple[int, ...] = Field(min_length=1)
    database_url: str = Field(repr=False)

    @field_validator("partitions", mode="before")
    @classmethod
    def _spans(cls, value: Any) -> Any:
        return spans(value) if isinstance(value, str) else value


def spans(told: str) -> Sequence[int]:
    """Return the partitions of `0-5`, or of `0-2,6`, in order. Raises ValueError."""
    found = set[int]()
    for part in told.replace(" ", "").split(","):
        span = SPAN.fullmatch(part)
        if span is None or (end := int(span[2] or span[1])) < int(span[1]):
            raise ValueError(f"{part!r} names no partitions: write 0-5, or 0-2,6")
        found |= set(range(int(span[1]), end + 1))
    return tuple(sorted(found))


class ShardedSettings(ServiceSettings):
    """The settings of a service that may be divided into shards."""

    shards: dict[str, ShardSettings] = Field(default_factory=dict)
    """The shards of the service by name, each with its `partitions` and `database_url`, the same for each of its
    processes (docs/scale.md). The shard of partition 0 keeps what is counted over all. Without: one database for
    everybody.
    """
    shard: str | None = None
    """The shard of this process, whose `database_url` is `PLACET_DATABASE_URL`."""

    @property
    def own_partitions(self) -> Sequence[int]:
        return range(self.partitions) if self.shard is None else self.shards[self.shard].partitions

    @property
    def own_shard(self) -> str:
        return self.shard or ""

    @property
    def divided(self) -> Sequence[tuple[str, Sequence[int], str]]:
        told = [(name, each.partitions, each.database_url) for name, each in self.shards.items()]
        return sorted(told, key=lambda shard: shard[1])

    @model_validator(mode="after")
    def _everybody_is_in_one_shard(self) -> "ShardedSettings":
        if not self.shards:
            if self.shard is not None:
                raise ValueError("PLACET_SHARD names no shard of PLACET_SHARDS: set both, or neither")
            return self
        if wrong := sorted(name for name in self.shards if not NAME.fullmatch(name)):
            raise ValueError(f"shard {wrong[0]!r}: use a letter and then up to 15 of a-z and 0-9, as a group's name")
        if self.shard not in self.shards:
            raise ValueError(f"set PLACET_SHARD to the shard of this process: one of {', '.join(self.shards)}")
        if self.shards[self.shard].database_url != self.database_url:
            raise ValueError("PLACET_DATABASE_URL is not the database of PLACET_SHARD: give both the same")
        urls = {each.database_url for each in self.shards.values()}
        if len(urls) < len(self.shards):
            raise ValueError("PLACET_SHARDS: two shards have one database: give each its own")
        held = sorted(partition for each in self.shards.values() for partition in each.partitions)
        if held != list(range(self.partitions)):
            raise ValueError(
                f"PLACET_SHARDS: give each of the partitions 0 to {self.partitions - 1} to one shard, and to one only"
            )
        if len(self.subject_keys.outer.keys) > 1:
            raise ValueError(
                "the ring of PLACET_SUBJECT_KEYS has an older outer key: ids that move change their partition, so move"
                " them before the service is divided (docs/runbook.md)"
            )
        return self
