"""Define the bodies of the pre-flight, of approvals, and of the rules for a sender's campaigns."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from campaign.audience.frequency import MOST_DAYS
from campaign.message.short_link import MAX_HOST_CHARS
from campaign.preflight.checks import Approved
from campaign.preflight.findings import Severity
from common.law import Aspect
from common.web.fields import Storable

MAX_ADDED_CHARS = 40  # of a mention an operator appends


class When(BaseModel):
    """The start to forecast or to approve."""

    model_config = ConfigDict(extra="forbid")

    at: AwareDatetime | None = Field(None, description="The start to forecast. Default: at once.")


class Against(BaseModel):
    """A finding against the campaign, with the rule and its source."""

    id: str = Field(description="The id that acknowledges a warning. The same finding keeps its id.")
    rule: str
    severity: Severity = Field(description="An error prevents scheduling; a warning needs an acknowledgement.")
    says: str = Field(description="The finding, in words for the author.")
    found: str | None = Field(
        description="The words concerned. In braces: the field whose values break the rule; no finding holds a person's"
        " own words."
    )
    people: int | None = Field(description="People whose value of the field breaks the rule; null without a field.")
    source: str = Field(description="The source of the rule: a law, an authority, or an operator.")
    needs_approval: bool = Field(
        description="True: with this finding, the campaign needs an approval by another person."
    )


class Holiday(BaseModel):
    """A public holiday on which the law permits no advertising by SMS."""

    name: str = Field(description="The name of the holiday.")
    source: str = Field(description="The rule's source.")


class Closed(BaseModel):
    """A rule that forbids sending there at the wanted time, so that sending waits until `opens_at`."""

    aspect: Aspect
    rule: str
    source: str = Field(description="The source of the rule.")
    holiday: Holiday | None = Field(description="The holiday that closes the day, if any.")


class Place(BaseModel):
    """Forecast for one territory, over the people who would get the message."""

    territory: str
    people: int = Field(description="People of the territory who would get the message.")
    segments: int = Field(description="The SMS of their messages.")
    cost: Decimal | None = Field(description="In euros; null where the price table names no price.")
    opens_at: datetime = Field(
        description="The earliest hand-off to the territory; `waits` has the people with a later hand-off."
    )
    closed_by: list[Closed] = Field(
        description="The rules that close the territory at the campaign's start; empty if none does."
    )


class Wait(BaseModel):
    """People who wait longer than the first of their territory, because of a rule of their own place.

    Good Friday and 26 December, for instance, are holidays in Alsace and Moselle only. A wait needs no acknowledgement:
    the text needs no change, and another start removes the wait.
    """

    territory: str
    region: str | None = Field(
        description="ISO 3166-2, from the contacts' postcode: FR-6AE is Alsace, FR-57 Moselle. Null: the place is known"
        " from the number only."
    )
    people: int = Field(description="People of the place who wait.")
    opens_at: datetime = Field(description="The earliest hand-off to these people.")
    too_late: bool = Field(
        description="True if the campaign ends before. These people count as `send_before_passed` in `reasons` and have"
        " no other reason."
    )
    closed_by: list[Closed] = Field(
        description="The rules that close the place at the earliest hand-off to the territory; at the campaign's"
        " start if no person of the territory would get the message."
    )


class Cost(BaseModel):
    """The expected cost: the segments of each person's message, at the price of the person's territory.

    Of several prices in force until the campaign's end, the highest counts; of several texts that may win an A/B test,
    the longest. The real cost is in the statistics.
    """

    prices: str = Field(description="The version of the price table; `none` without a table.")
    currency: Literal["EUR"] = Field("EUR", description="The currency of all costs.")
    total: Decimal | None = Field(
        description="The cost for people in territories with a price; null if no territory has a price."
    )
    unpriced: int = Field(description="People in territories without a price.")
    unpriced_territories: list[str] = Field(description="The territories without a price, most people first.")


class LimitsLeft(BaseModel):
    """The organisation's limits, and what is left of the day."""

    messages_per_day: int | None = Field(description="Null: no limit.")
    messages_left: int | None = Field(
        description="Left on the day of the start, after the messages which campaigns have requested that day. Messages"
        " outside campaigns count too, and are not known here."
    )
    spend_per_month: Decimal | None = Field(description="In euros; null: no limit.")


class Lengths(BaseModel):
    """Lengths of the rendered messages, including names and STOP mention."""

    segments: dict[int, int] = Field(description="People by number of segments.")
    least: int | None = Field(description="SMS of the shortest message; null without a message.")
    median: int | None = Field(description="SMS of the median message; null without a message.")
    most: int | None = Field(description="SMS of the longest message; null without a message.")
    units_least: int | None = Field(
        description="Septets or UTF-16 units of the shortest message; null without a message."
    )
    units_median: int | None = Field(
        description="Septets or UTF-16 units of the median message; null without a message."
    )
    units_most: int | None = Field(
        description="Septets or UTF-16 units of the longest message; null without a message."
    )
    ucs2: int = Field(description="People whose message is UCS-2.")
    ucs2_by_contact: int = Field(
        description="People whose message is UCS-2 because of the contact's attributes, not of the text."
    )


class PreFlight(BaseModel):
    """What a campaign would reach and cost, and the findings against its scheduling."""

    digest: str = Field(description="The digest of text, audience, sender and start, for the approval.")
    at: datetime | None = Field(description="The start that the caller named; null: at once.")
    occurrences: list[datetime] = Field(
        description="The next occurrences of a recurring campaign; the forecast is for the first occurrence."
    )
    made_at: datetime = Field(description="The time of the forecast.")
    consents_as_of: datetime | None = Field(
        description="The forecast counts consents acknowledged before this instant; null during the first read of"
        " consents."
    )
    audience: int = Field(description="Contacts that the selection has now.")
    would_get: int = Field(description="People who would get the message.")
    would_not: int = Field(description="People of the audience who would not get the message; `reasons` says why.")
    reasons: dict[str, int] = Field(description="A person with two reasons counts for both.")
    under_review: int = Field(description="People who would get the message only after the review of their text.")
    languages: dict[str, int] = Field(description="People who would get the message, by the language of their text.")
    lengths: Lengths
    cost: Cost
    territories: list[Place] = Field(description="The forecast by territory, most people first.")
    waits: list[Wait] = Field(
        description="People of `territories` with a later hand-off, or without a hand-off in time, most people first."
    )
    opens_at: datetime | None = Field(description="The earliest hand-off to anybody; null without a hand-off in time.")
    finishes_at: datetime | None = Field(
        description="The last hand-off at `rate_per_s`, within the hours and holidays of each person's place; without a"
        " rate, the latest instant of the earliest hand-offs."
    )
    rate_per_s: float | None = Field(description="The lower of the operator's rate and the campaign's rate.")
    limits: LimitsLeft
    findings: list[Against] = Field(
        description="The findings, errors and warnings; scheduling needs every error mended and every warning"
        " acknowledged."
    )
    compliance: str = Field(description="The version of the rules.")
    approval: Approved


class NewApproval(When):
    """An approval of the campaign as a pre-flight showed the campaign."""

    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="The digest of the pre-flight for the same `at`.")


class Approval(BaseModel):
    """An approval of a campaign by a second person."""

    digest: str = Field(
        description="The digest of the pre-flight that the approval is of; another content or start needs another"
        " approval."
    )
    approved_by: str
    approved_at: datetime


class Cap(BaseModel):
    """A limit on messages to a person."""

    model_config = ConfigDict(extra="forbid")

    messages: int = Field(ge=1, le=1000, description="The most messages to a person within `days`.")
    days: int = Field(ge=1, le=MOST_DAYS, description="The length of the window in days.")


class SenderRules(BaseModel):
    """The rules for a sender's campaigns."""

    model_config = ConfigDict(extra="forbid")

    approval: bool = Field(
        False, description="A campaign needs an approval by a person who has not written any part of the campaign."
    )
    cap: Cap | None = Field(
        None, description="The most messages from the sender's campaigns to a person within so many days."
    )
    link_host: str | None = Field(
        None,
        max_length=MAX_HOST_CHARS,
        description="The host name of the sender's short links; its path `/l/` leads to campaign-svc:"
        " m.maison-lune.example. A link has the length of this name and 23 characters.",
    )
    stop_added: Storable | None = Field(
        None,
        min_length=1,
        max_length=MAX_ADDED_CHARS,
        description="The exact text that the operator appends to each message, with the blank or line break before: «"
        " STOP au 36111» for some operators. Texts of the sender then need no STOP mention, and the segments"
        " include the addition. Set the addition only if every gateway of the sender appends the addition:"
        " the gate checks each message again.",
    )
