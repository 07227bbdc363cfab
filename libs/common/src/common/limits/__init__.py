"""Limit what an organisation and a token may do: calls, messages, spend, numbers, places. Pure.

The limits are data (`PLACET_LIMITS`): a `default`, and for each organisation the fields that differ. `null` is no
limit. A malformed file is refused as a whole. A token may carry narrower limits in its claim `limits`; a claim never
widens. Without a file `default-1.json` holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import resources
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from common.sms.prices import amount_of

PARIS = ZoneInfo("Europe/Paris")
ANYWHERE = "*"
# ISO 3166-1 of French numbers; GP also stands for BL and MF, which share +590
FRENCH = frozenset(("FR", "GP", "MQ", "GF", "RE", "YT", "PM", "BL", "MF", "NC", "PF", "WF"))

Count = Annotated[int, Meta(ge=1, le=10**12)]
Euros = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,4})?\Z")]
Place = Annotated[str, Meta(pattern=r"^([A-Z]{2}|\*)\Z")]


class LimitsUnreadable(ValueError):
    """A malformed file of limits. The message names the position."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of an organisation; `None`: no limit.

    Each service counts calls by itself. Days and months are those of Europe/Paris. `per_number_hour`,
    `per_number_day`: requested messages to one number outside marketing. `places`: destinations besides France, "*" for
    all.
    """

    requests_per_second: Count | None = None
    token_requests_per_second: Count | None = None  # of each token
    lookups_per_second: Count | None = None  # calls about a number, by each token
    numbers_per_minute: Count | None = None  # in calls with many, by each token
    messages_per_day: Count | None = None
    spend_per_month: Euros | None = None
    per_number_hour: Count | None = None
    per_number_day: Count | None = None
    places: tuple[Place, ...] = ()

    def allow(self, place: str) -> bool:
        """Return whether messages may go to a territory (ISO 3166-1; an unknown one is foreign)."""
        return place in FRENCH or place in self.places or ANYWHERE in self.places

    @property
    def spend(self) -> int | None:
        """Return the spend of a month, in ten-thousandths of a euro."""
        return None if self.spend_per_month is None else amount_of(self.spend_per_month)


UNLIMITED = Limits(places=(ANYWHERE,))


class Narrower(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The claim `limits` of a token: its own share of its organisation's limits."""

    requests_per_second: Count | None = None
    lookups_per_second: Count | None = None
    numbers_per_minute: Count | None = None
    messages_per_day: Count | None = None
    spend_per_month: Euros | None = None
    per_number_hour: Count | None = None
    per_number_day: Count | None = None
    places: tuple[Place, ...] | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    """The limits of a caller. `own`: of the token alone, beside those of the organisation."""

    organisation: Limits = UNLIMITED
    own: Limits = UNLIMITED


NO_LIMITS = Granted()


@dataclass(frozen=True)
class Limited:
    """The limits of every organisation."""

    version: str
    default: Limits
    organisations: Mapping[str, Limits] = field(default_factory=dict)

    def of(self, organisation: str) -> Limits:
        return self.organisations.get(organisation, self.default)

    def granted(self, organisation: str, claim: object = None) -> Granted:
        """Return the limits of a token. Raises LimitsUnreadable for a malformed claim."""
        limits = self.of(organisation)
        if claim is None:
            return Granted(limits, _own(limits, Narrower()))
        try:
            narrower = msgspec.convert(claim, Narrower)
        except msgspec.ValidationError as error:
            raise LimitsUnreadable(f"limits: {error}") from error
        places = limits.places if narrower.places is None else _both(limits.places, narrower.places)
        narrowed = replace(
            limits,
            per_number_hour=_least(limits.per_number_hour, narrower.per_number_hour),
            per_number_day=_least(limits.per_number_day, narrower.per_number_day),
            places=places,
        )
        return Granted(narrowed, _own(limits, narrower))


def _own(limits: Limits, narrower: Narrower) -> Limits:
    return Limits(
        token_requests_per_second=_least(limits.token_requests_per_second, narrower.requests_per_second),
        lookups_per_second=_least(limits.lookups_per_second, narrower.lookups_per_second),
        numbers_per_minute=_least(limits.numbers_per_minute, narrower.numbers_per_minute),
        messages_per_day=narrower.messages_per_day,
        spend_per_month=narrower.spend_per_month,
    )


def _least(one: int | None, other: int | None) -> int | None:
    stated = [each for each in (one, other) if each is not None]
    return min(stated, default=None)


def _both(places: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Return the places of both lists, where "*" holds every place."""
    if ANYWHERE in places:
        return others
    return places if ANYWHERE in others else tuple(place for place in places if place in others)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,40}\Z")]
    default: Limits
    organisations: dict[Annotated[str, Meta(min_length=1, max_length=200)], msgspec.Raw] = {}


def read(content: bytes) -> Limited:
    """Return the limits of a file's content. Raises LimitsUnreadable."""
    try:
        file = msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LimitsUnreadable(f"limits: {error}") from error
    usual, organisations = msgspec.structs.asdict(file.default), {}
    for name, fields in file.organisations.items():
        try:
            stated = msgspec.json.decode(fields, type=dict[str, object])
            organisations[name] = msgspec.convert({**usual, **stated}, Limits)
        except msgspec.ValidationError as error:
            raise LimitsUnreadable(f"limits of {name}: {error}") from error
    return Limited(file.version, file.default, organisations)


@lru_cache
def shipped() -> Limited:
    """Return the limits of a deployment without a file."""
    return read((resources.files(__name__) / "default-1.json").read_bytes())


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit of one holder in one window, [`since`, `until`)."""

    name: str
    holder: str
    limit: int
    since: datetime
    until: datetime

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.holder


def second_of(now: datetime) -> tuple[datetime, datetime]:
    since = now.replace(microsecond=0)
    return since, since + timedelta(seconds=1)


def minute_of(now: datetime) -> tuple[datetime, datetime]:
    since = now.replace(second=0, microsecond=0)
    return since, since + timedelta(minutes=1)


def day_of(now: datetime) -> tuple[datetime, datetime]:
    """Return the day of Europe/Paris with this instant."""
    day = now.astimezone(PARIS).replace(hour=0, minute=0, second=0, microsecond=0)
    return day.astimezone(UTC), (day + timedelta(days=1)).astimezone(UTC)


def month_of(now: datetime) -> tuple[datetime, datetime]:
    """Return the month of Europe/Paris with this instant."""
    first = now.astimezone(PARIS).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return first.astimezone(UTC), following.astimezone(UTC)
