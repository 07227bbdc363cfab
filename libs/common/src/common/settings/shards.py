"""The settings of a service in shards, each with a database and a relay of its own: some partitions of the people, or
some slots of the organisations.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from common.settings import ServiceSettings

NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
PARTITIONS, OF_OWNERS = "partitions", "slots"
SLOTS = 1_024  # of organisations; another count would move them
SPAN = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


class HeldSettings(BaseModel):
    """A shard: the places that its database holds. `database_url`: of its database."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: str = Field(repr=False)

    @property
    def places(self) -> tuple[int, ...]:
        raise TypeError(f"{type(self).__name__} names no places")


def spans(told: str) -> Sequence[int]:
    """Return the places of `0-5`, or of `0-2,6`, in order. Raises ValueError."""
    found = set[int]()
    for part in told.replace(" ", "").split(","):
        span = SPAN.fullmatch(part)
        if span is None or (end := int(span[2] or span[1])) < int(span[1]):
            raise ValueError(f"{part!r} names no partitions or slots: write 0-5, or 0-2,6")
        found |= set(range(int(span[1]), end + 1))
    return tuple(sorted(found))


def _spans(value: Any) -> Any:
    return spans(value) if isinstance(value, str) else value


Places = Annotated[tuple[int, ...], Field(min_length=1), BeforeValidator(_spans)]


class ShardSettings(HeldSettings):
    """A shard of people. `partitions`: as `0-5`, or `0-2,6`."""

    partitions: Places

    @property
    def places(self) -> tuple[int, ...]:
        return self.partitions


class SlotsSettings(HeldSettings):
    """A shard of organisations. `slots`: as `0-511`, of 1,024."""

    slots: Places

    @property
    def places(self) -> tuple[int, ...]:
        return self.slots


class DividedSettings(ServiceSettings):
    """The settings of a service that may be divided into shards, of people or of organisations."""

    shard: str | None = None
    """The shard of this process, whose `database_url` is `PLACET_DATABASE_URL`."""

    @property
    def told(self) -> Mapping[str, HeldSettings]:
        """Return the shards by name."""
        return {}

    @property
    def places_are(self) -> str:
        """Return what the shards share out, in a word."""
        return PARTITIONS

    @property
    def own_places(self) -> Sequence[int]:
        return range(self.places) if self.shard is None else self.told[self.shard].places

    @property
    def own_shard(self) -> str:
        return self.shard or ""

    @property
    def divided(self) -> Sequence[tuple[str, Sequence[int], str]]:
        told = [(name, each.places, each.database_url) for name, each in self.told.items()]
        return sorted(told, key=lambda shard: shard[1])

    @model_validator(mode="after")
    def _each_place_is_in_one_shard(self) -> "DividedSettings":
        told = self.told
        if not told:
            if self.shard is not None:
                raise ValueError("PLACET_SHARD names no shard of PLACET_SHARDS: set both, or neither")
            return self
        if wrong := sorted(name for name in told if not NAME.fullmatch(name)):
            raise ValueError(f"shard {wrong[0]!r}: use a letter and then up to 15 of a-z and 0-9, as a group's name")
        if self.shard is None or self.shard not in told:
            raise ValueError(f"set PLACET_SHARD to the shard of this process: one of {', '.join(told)}")
        if told[self.shard].database_url != self.database_url:
            raise ValueError("PLACET_DATABASE_URL is not the database of PLACET_SHARD: give both the same")
        urls = {each.database_url for each in told.values()}
        if len(urls) < len(told):
            raise ValueError("PLACET_SHARDS: two shards have one database: give each its own")
        held = sorted(place for each in told.values() for place in each.places)
        if held != list(range(self.places)):
            raise ValueError(
                f"PLACET_SHARDS: give each of the {self.places_are} 0 to {self.places - 1} to one shard, and to one"
                " only"
            )
        return self


class ShardedSettings(DividedSettings):
    """The settings of a service that may be divided by the partitions of people."""

    shards: dict[str, ShardSettings] = Field(default_factory=dict)
    """The shards of the service by name, each with its `partitions` and `database_url`, the same for each of its
    processes (docs/scale.md). The shard of partition 0 keeps what is counted over all. Without: one database for
    everybody.
    """

    @property
    def told(self) -> Mapping[str, HeldSettings]:
        return self.shards

    @property
    def own_partitions(self) -> Sequence[int]:
        return self.own_places

    @property
    def people_are_divided(self) -> bool:
        return self.shard is not None

    @model_validator(mode="after")
    def _people_stay_in_their_partitions(self) -> "ShardedSettings":
        if self.shards and len(self.subject_keys.outer.keys) > 1:
            raise ValueError(
                "the ring of PLACET_SUBJECT_KEYS has an older outer key: ids that move change their partition, so move"
                " them before the service is divided (docs/runbook.md)"
            )
        return self


class SlottedSettings(DividedSettings):
    """The settings of a service that may be divided by organisation: each is in a slot, by a hash of its id."""

    shards: dict[str, SlotsSettings] = Field(default_factory=dict)
    """The shards of the service by name, each with its `slots` and `database_url`, the same for each of its processes
    (docs/scale.md). An organisation is in one of 1,024 slots, by a hash of its id. The shard of slot 0 keeps what is
    counted over all. Without: one database for every organisation.
    """

    @property
    def told(self) -> Mapping[str, HeldSettings]:
        return self.shards

    @property
    def places(self) -> int:
        return SLOTS

    @property
    def places_are(self) -> str:
        return OF_OWNERS
