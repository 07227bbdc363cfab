"""Parts of what campaign-svc takes.

Written by `make client` from the OpenAPI documents: edit the services, not this file.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict


class Audience(TypedDict):
    """The sender's contacts a campaign is for: exactly one of `all`, `where` and `segment`.

    `where` selects contacts whose attributes all have one of the values named. `segment` names a version of a
    segment, evaluated when the campaign starts.
    """

    all: NotRequired[Literal[True] | None]
    """`true`: every contact of the sender."""
    where: NotRequired[Mapping[str, str | Sequence[str]] | None]
    """The values that each attribute may have, by attribute: up to 10 attributes, each with a value or a list of
    up to 500.
    """
    segment: NotRequired[ChosenSegment | None]


class Cap(TypedDict):
    """A limit on messages to a person."""

    messages: int
    """The most messages to a person within `days`."""
    days: int
    """The length of the window in days."""


class ChosenSegment(TypedDict):
    """A version of a segment: its expression selects the audience."""

    segment_id: str
    """The id of the segment, `seg-` and 24 hexadecimal digits."""
    version: int
    """The number of the version, from 1."""


class FieldBody(TypedDict):
    """A field of the text, with the limits of its value."""

    name: str
    """The name of the field, written `{name}` in the text."""
    max_chars: NotRequired[int]
    """The most characters of a value; a longer value is refused."""
    links: NotRequired[bool]
    """The value may hold a link."""
    prices: NotRequired[bool]
    """The value may be a price, or part of a price."""


class NewContact(TypedDict):
    """A contact to create or to update, by the number."""

    number: str
    """A mobile number in any usual notation. A writing that could be two people's is refused as `ambiguous`."""
    country: NotRequired[str | None]
    """The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2. Default: the sender's
    country and those abroad; without a sender, those of the senders that the token covers.
    """
    attributes: NotRequired[Mapping[str, str | bool | int | float | None]]
    """Attributes left out keep their values. `timezone` (Europe/Paris) takes precedence over the number's
    territory, `postcode` adds regional holidays, `language` chooses the text.
    """


class NewConversion(TypedDict):
    """A conversion of a person. `reference`: the order, or another name of yours, once for each conversion of a
    sender.
    """

    number: NotRequired[str | None]
    """A mobile number in any usual notation."""
    country: NotRequired[str | None]
    """The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2. Default: the sender's
    country and those abroad; without a sender, those of the senders that the token covers.
    """
    subject_id: NotRequired[str | None]
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""
    reference: str
    """The order's number, or another name of yours: a reference counts once for a sender."""
    value: NotRequired[str | None]
    """A decimal amount in `currency`."""
    currency: NotRequired[str | None]
    """ISO 4217, such as EUR; with a `value`."""
    occurred_at: dt.datetime
    """The time of the conversion, in RFC 3339 with an offset."""


class Recurring(TypedDict):
    """A cron rule with an end. `0 10 * * MON`: every Monday at 10:00 on the sender's clock, before `until`."""

    cron: str
    """Minute, hour, day of the month, month, day of the week."""
    until: dt.datetime
    """The end of the rule: no occurrence at or after this instant."""


class Timing(TypedDict):
    """The pace an author gives a campaign."""

    local_time: NotRequired[bool]
    """`at` is each recipient's local time: 10:00 is 10:00 in Paris, in Fort-de-France and in Nouméa. A recipient
    whose hour has passed at the start is due at that hour of the next day.
    """
    spread_minutes: NotRequired[int | None]
    """Spread messages evenly over so many minutes from the earliest hand-off, within permitted hours."""
    per_second: NotRequired[int | None]
    """The most messages in any second."""
    per_hour: NotRequired[int | None]
    """The most messages in any hour, spread evenly."""


class Trial(TypedDict):
    """An A/B test; percentages are of the audience.

    Without a `winner`, the campaign's own text goes to all remaining recipients.
    """

    variants: NotRequired[Sequence[Variant]]
    """The other texts, up to five; empty for a holdout alone."""
    percent: NotRequired[int | None]
    """The share of the campaign's own text. Required with a `winner`."""
    holdout_percent: NotRequired[int]
    """The share of contacts held out for comparison."""
    winner: NotRequired[Winner | None]


class Variant(TypedDict):
    """Another text in the campaign's language."""

    name: str
    """One letter; `a` is the campaign's own text."""
    text: str
    """The text; its fields are those of the campaign's own text."""
    translations: NotRequired[Mapping[str, str]]
    """The text in other languages, by two letters of ISO 639-1."""
    percent: int
    """The share of the audience that gets this text, in percent."""


class Who(TypedDict):
    """A person, by either `number` or `subject_id`, the person's id with the sender's controller."""

    number: NotRequired[str | None]
    """A mobile number in any usual notation."""
    country: NotRequired[str | None]
    """The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2. Default: the sender's
    country and those abroad; without a sender, those of the senders that the token covers.
    """
    subject_id: NotRequired[str | None]
    """The person, by the id with the sender's controller (`sub_…`); no answer has the number."""


class Winner(TypedDict):
    """The best text goes to the rest, the recipients outside the first groups.

    The rest waits until `after_hours` after the last message of the first groups. If too little time would
    remain before the campaign ends, the best text so far is chosen earlier.
    """

    by: NotRequired[Literal["fewest_opt_outs", "most_clicks"]]
    """The share of recipients with the outcome accepted or unknown who opted out, or who followed a counted link
    (each text then needs a counted link). The choice is among texts that reached at least 30 people; the first
    of equal texts wins. With fewer than two such texts, `a` wins.
    """
    after_hours: int
    """Hours from the last message of the first groups to the choice."""
