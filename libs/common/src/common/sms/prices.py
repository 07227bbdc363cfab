"""Price messages from a table of prices per SMS (`PLACET_PRICES`, ADR-0073). Pure, apart from reading the file.

Amounts are whole ten-thousandths of a euro: 450 is 0.0450 EUR. Sums of such amounts are exact. A message without a
price costs `None`, never zero: the price is unknown. A malformed file is refused as a whole. `examples/prices.json`
has the form.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

PER_EURO = 10_000

Category = Literal["marketing", "transactional", "service"]  # as the contracts'

_Said = Annotated[str, Meta(min_length=1, max_length=500)]
_Key = tuple[str, Category, str | None]  # place, category, sender


class PricesUnreadable(ValueError):
    """A malformed or contradictory table. The message names the position."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True): ...


class _Line(_Part, frozen=True):
    """The price of one SMS to `place`, in euros, with its source.

    `place`: ISO 3166-1 alpha-2 of the number, with the French overseas territories under their own codes (GP, MQ, GF,
    RE, YT, PM, NC, PF, WF). `categories`: all by default. A line with `sender` goes before a line without.
    """

    place: Annotated[str, Meta(pattern=r"^[A-Z]{2}\Z")]
    price: Annotated[str, Meta(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4})?\Z")]
    source: _Said
    categories: Annotated[tuple[Category, ...], Meta(min_length=1)] = get_args(Category)
    sender: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class _Edition(_Part, frozen=True):
    """The prices in force from the start of a day, in UTC, until the next edition's day."""

    valid_from: date
    prices: tuple[_Line, ...]


class _File(_Part, frozen=True):
    version: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,40}\Z")]
    editions: Annotated[tuple[_Edition, ...], Meta(min_length=1)]


@dataclass(frozen=True)
class Prices:
    """The prices per SMS. `version` names the file, `days` the first days of `tables`, in ascending order."""

    version: str
    days: tuple[date, ...]
    tables: tuple[Mapping[_Key, int], ...]

    def cost(
        self,
        place: str,
        segments: int,
        *,
        at: datetime,
        category: Category = "marketing",
        sender_id: str | None = None,
    ) -> int | None:
        """Return the cost of a message handed off `at`, in ten-thousandths of a euro; `None`: no price is known.

        Raise ValueError without a segment: every message has one.
        """
        return self.most(place, segments, since=at, until=at, category=category, sender_id=sender_id)

    def most(
        self,
        place: str,
        segments: int,
        *,
        since: datetime,
        until: datetime,
        category: Category = "marketing",
        sender_id: str | None = None,
    ) -> int | None:
        """Return the highest `cost` of a message handed off from `since` to `until`; `None` if one is not known."""
        if segments < 1:
            raise ValueError(f"a message has at least one SMS, not {segments}")
        first, last = (bisect_right(self.days, at.astimezone(UTC).date()) - 1 for at in (since, until))
        if first < 0:
            return None
        found = 0
        for table in self.tables[first : last + 1]:
            price = table.get((place, category, sender_id)) or table.get((place, category, None))
            if price is None:
                return None
            found = max(found, price * segments)
        return found or None


NO_PRICES = Prices("none", (), ())


def euros(amount: int) -> Decimal:
    """Return an amount in euros, for people."""
    return Decimal(amount).scaleb(-4)


def read(content: bytes) -> Prices:
    """Return the prices of a file's content. Raise PricesUnreadable."""
    try:
        file = msgspec.json.decode(content, type=_File)
    except msgspec.DecodeError as error:  # of the form too
        raise PricesUnreadable(f"prices: {error}") from error
    except UnicodeDecodeError as error:
        raise PricesUnreadable("prices: write the file in UTF-8") from error
    editions = sorted(file.editions, key=lambda edition: edition.valid_from)
    days = tuple(edition.valid_from for edition in editions)
    if len(set(days)) < len(days):
        raise PricesUnreadable(f"prices {file.version}: two editions have the same `valid_from`; keep one")
    return Prices(file.version, days, tuple(map(_table, editions)))


def _table(edition: _Edition) -> Mapping[_Key, int]:
    table: dict[_Key, int] = {}
    for line in edition.prices:
        if (price := amount_of(line.price)) == 0:
            raise PricesUnreadable(
                f"prices of {edition.valid_from}: {line.place} costs nothing; leave out a place without a price"
            )
        for category in line.categories:
            key = line.place, category, line.sender
            if key in table:
                raise PricesUnreadable(
                    f"prices of {edition.valid_from}: {line.place} has two prices for {category}; keep one"
                )
            table[key] = price
    return table


def amount_of(euros: str) -> int:
    """Return the amount in ten-thousandths of a euro."""
    whole, _, rest = euros.partition(".")
    return int(whole) * PER_EURO + int(rest.ljust(4, "0"))
