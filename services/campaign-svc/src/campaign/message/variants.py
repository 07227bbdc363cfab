"""Assign recipients to a campaign's texts or the holdout, and choose the winning text. Pure.

Groups are drawn by hash bucket (`draw.py`): each is a fair sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from campaign.message.text import MAX_TEMPLATE_CHARS
from campaign.schedule.timing import HOUR, Place, Timetable
from common.web.fields import Storable

OWN = "a"  # the campaign's own text
HOLDOUT = "holdout"  # also the reason of the denials
REST = "rest"
MOST_VARIANTS = 5
LEAST_REACHED = 30  # below, a single person is more than 3 %
LEAST_FOR_REST = HOUR  # of permitted hours

Because = Literal["best", "equal", "too_few"]


class Variant(BaseModel):
    """Another text in the campaign's language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[b-z]$", description="One letter; `a` is the campaign's own text.")]
    text: Storable = Field(
        max_length=MAX_TEMPLATE_CHARS, description="The text; its fields are those of the campaign's own text."
    )
    translations: dict[Annotated[str, Field(pattern=r"^[a-z]{2}$")], Storable] = Field(
        {}, max_length=20, description="The text in other languages, by two letters of ISO 639-1."
    )
    percent: int = Field(ge=1, le=99, description="The share of the audience that gets this text, in percent.")


class Winner(BaseModel):
    """The best text goes to the rest, the recipients outside the first groups.

    The rest waits until `after_hours` after the last message of the first groups. If too little time would remain
    before the campaign ends, the best text so far is chosen earlier.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["fewest_opt_outs", "most_clicks"] = Field(
        "fewest_opt_outs",
        description="The share of recipients with the outcome accepted or unknown who opted out, or who followed a"
        " counted link (each text then needs a counted link). The choice is among texts that reached at least"
        f" {LEAST_REACHED} people; the first of equal texts wins. With fewer than two such texts, `a` wins.",
    )
    after_hours: int = Field(ge=1, le=48, description="Hours from the last message of the first groups to the choice.")

    @property
    def after(self) -> timedelta:
        return timedelta(hours=self.after_hours)


class Choice(BaseModel):
    """The choice of the best text: when, and what the choice waits for."""

    model_config = ConfigDict(frozen=True)

    at: datetime = Field(
        description="The time of the choice; while the choice waits for the first groups, the latest time."
    )
    waits_for: Literal["first_groups", "after_hours"] | None = Field(
        description="`first_groups`: each recipient of the first groups gets a decision first. `after_hours`: these"
        " hours pass after the last message of the first groups. Null: the choice is made."
    )
    last_moment: bool = Field(
        description="True if the choice falls at the last moment that leaves the remaining recipients enough time"
        " before the campaign's end, at its pace and within the hours of its country."
    )
    because: Because | None = Field(
        None,
        description="`best`: the text did best. `equal`: the text is the first of several equal texts. `too_few`:"
        f" fewer than two texts reached {LEAST_REACHED} people each, so the campaign's own text wins.",
    )


@dataclass(frozen=True, slots=True)
class FirstGroups:
    """The recipients who do not wait for the winner.

    `over`: each has got the message or never will.
    """

    over: bool
    last_at: datetime | None = None


class Trial(BaseModel):
    """An A/B test; percentages are of the audience.

    Without a `winner`, the campaign's own text goes to all remaining recipients.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[Variant, ...] = Field(
        (), max_length=MOST_VARIANTS, description="The other texts, up to five; empty for a holdout alone."
    )
    percent: int | None = Field(
        None, ge=1, le=99, description="The share of the campaign's own text. Required with a `winner`."
    )
    holdout_percent: int = Field(0, ge=0, le=50, description="The share of contacts held out for comparison.")
    winner: Winner | None = None

    @model_validator(mode="after")
    def _adds_up(self) -> "Trial":
        names = self.names
        if len(names) != len(set(names)):
            raise ValueError("two variants have the same name")
        if (self.winner is None) != (self.percent is None):
            raise ValueError("`percent` goes with a `winner`: without one, the own text is for all who are left")
        if self.winner is not None and not self.variants:
            raise ValueError("one text alone wins nothing")
        if self.rest_percent <= 0:
            raise ValueError("the groups are more than everybody, or leave nobody for the rest")
        return self

    @property
    def names(self) -> list[str]:
        """Return the variants' names, without OWN."""
        return [each.name for each in self.variants]

    @property
    def rest_percent(self) -> int:
        """Return the percentage outside all groups."""
        return 100 - self.holdout_percent - sum(each.percent for each in self.variants) - (self.percent or 0)

    def soonest(self, timetable: Timetable) -> datetime:
        """Return when the best text can be chosen at the earliest."""
        assert self.winner is not None
        window = timetable.window(Place(timetable.country))
        return max((closes for _, closes in window), default=timetable.starts_at) + self.winner.after

    def last_moment(self, timetable: Timetable, rest: timedelta) -> datetime:
        """Return the last moment with enough permitted hours for the `rest` before the end, or `soonest`."""
        soonest, left = self.soonest(timetable), max(rest, LEAST_FOR_REST)
        for opens, closes in reversed(timetable.openings(Place(timetable.country), soonest, timetable.ends_by)):
            if closes - opens >= left:
                return closes - left
            left -= closes - opens
        return soonest

    def choice(self, timetable: Timetable, groups: FirstGroups, rest: timedelta, now: datetime) -> Choice:
        """Return when the best text is chosen, as things stand.

        The time is `after_hours` after the first groups' last message. `rest`: how long requesting the rest takes.
        """
        assert self.winner is not None
        last_moment = self.last_moment(timetable, rest)
        if not groups.over:
            return Choice(at=last_moment, waits_for="first_groups", last_moment=True)
        at = now if groups.last_at is None else groups.last_at + self.winner.after
        return Choice(at=min(at, last_moment), waits_for="after_hours", last_moment=last_moment < at)

    def of(self, lot: float) -> str:
        """Return OWN, a variant, HOLDOUT or REST for a bucket."""
        left = lot * 100 - self.holdout_percent
        if left < 0:
            return HOLDOUT
        for each in self.variants:
            if left < each.percent:
                return each.name
            left -= each.percent
        return OWN if self.percent is None or left < self.percent else REST


@dataclass(frozen=True, slots=True)
class Result:
    """A text's recipients, by result."""

    asked_for: int = 0
    handed_off: int = 0
    reached: int = 0
    delivered: int = 0
    opted_out: int = 0
    clicked: int = 0


def winner(trial: Trial, results: Mapping[str, Result]) -> tuple[str, Because]:
    """Return the text with the lowest share of opt-outs, or the highest of clicks, and the reason.

    The first of equals wins; OWN, if fewer than two texts can be compared.
    """
    clicks = trial.winner is not None and trial.winner.by == "most_clicks"
    found = {name: results.get(name, Result()) for name in (OWN, *trial.names)}
    shares = {
        name: (-each.clicked if clicks else each.opted_out) / each.reached
        for name, each in found.items()
        if each.reached >= LEAST_REACHED
    }
    if len(shares) < 2:
        return OWN, "too_few"
    best, *equals = (name for name, share in shares.items() if share == min(shares.values()))
    return best, "equal" if equals else "best"
