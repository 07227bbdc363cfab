"""Which of a campaign's texts somebody gets, who gets none, and which text the rest get. Pure.

    trial = Trial(variants=(Variant(name="b", text=…, percent=10),), percent=10, winner=Winner(after_hours=4))
    trial.of(lot)              "a" for the campaign's own text, "b", HOLDOUT, or REST: they wait for the winner
    winner(trial, results)     the text that drove the fewest people away, or that most followed a link of

Everybody draws a lot (`draw.py`), so each group is a fair sample of the audience, the same whenever it is asked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from campaign.text import MAX_TEMPLATE_CHARS
from campaign.timing import Place, Timetable
from common.fields import Storable

OWN = "a"  # the campaign's own text
HOLDOUT = "holdout"  # the reason why they are not asked for
REST = "rest"
MOST_VARIANTS = 5


class Variant(BaseModel):
    """Another text, in the campaign's language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[b-z]$", description="One letter; `a` is the campaign's own text.")]
    text: Storable = Field(max_length=MAX_TEMPLATE_CHARS)
    translations: dict[Annotated[str, Field(pattern=r"^[a-z]{2}$")], Storable] = Field({}, max_length=20)
    percent: int = Field(ge=1, le=99)


class Winner(BaseModel):
    """Who is in no group yet waits so long after the first have been written to, and then gets the best text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["fewest_opt_outs", "most_clicks"] = Field(
        "fewest_opt_outs",
        description="Of those to whom a text was handed off, the share who opted out, or who followed a link that is"
        " counted (which each text then has).",
    )
    after_hours: int = Field(ge=1, le=48)

    @property
    def after(self) -> timedelta:
        return timedelta(hours=self.after_hours)


class Trial(BaseModel):
    """Percentages are of the audience. Without a `winner` the campaign's own text is for everybody who is left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[Variant, ...] = Field((), max_length=MOST_VARIANTS)
    percent: int | None = Field(None, ge=1, le=99, description="Of the campaign's own text; with a `winner`, needed.")
    holdout_percent: int = Field(0, ge=0, le=50, description="Who get nothing, to compare with.")
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
        named = self.holdout_percent + sum(each.percent for each in self.variants) + (self.percent or 0)
        if named >= 100:
            raise ValueError("the groups are more than everybody, or leave nobody for the rest")
        return self

    @property
    def names(self) -> list[str]:
        """Of the variants; the campaign's own text is OWN besides."""
        return [each.name for each in self.variants]

    def decided_at(self, timetable: Timetable) -> datetime:
        """When the best text is chosen: so long after the last of the first may have left, in the sender's country."""
        assert self.winner is not None
        window = timetable.window(Place(timetable.country))
        return max((closes for _, closes in window), default=timetable.starts_at) + self.winner.after

    def of(self, lot: float) -> str:
        """From 0 to less than 1: OWN, a variant's name, HOLDOUT or REST."""
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
    """Of one text: how many were asked for with it, to how many it was handed off, and what those did since."""

    asked_for: int = 0
    handed_off: int = 0
    delivered: int = 0
    opted_out: int = 0
    clicked: int = 0


def winner(trial: Trial, results: Mapping[str, Result]) -> str:
    """The least share of opt-outs, or the most of clicks. A text that reached nobody wins nothing; of equals, the
    first."""
    clicks = trial.winner is not None and trial.winner.by == "most_clicks"

    def rank(name: str) -> tuple[bool, float]:
        found = results.get(name, Result())
        return found.handed_off == 0, (-found.clicked if clicks else found.opted_out) / max(found.handed_off, 1)

    return min((OWN, *trial.names), key=rank)
