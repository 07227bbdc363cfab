"""Define a campaign as read from the database. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple

import msgspec

from campaign.accounts import Tallies
from campaign.audience.selection import Selection
from campaign.message.folding import Folding
from campaign.message.variants import OWN, Choice, Trial
from campaign.message.wording import Wording, wording
from campaign.schedule.lifecycle import Priority, Status
from campaign.schedule.recurrence import Recurring
from campaign.schedule.timing import Timing


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The campaign's own texts, and those of the A/B test."""

    text: str
    language: str
    translations: Mapping[str, str]
    folding: Folding
    trial: Trial | None

    def wording_of(self, variant: str, link_host: str | None, stop_page: str | None) -> Wording:
        """Return a variant's wording. Raises ValueError for an unknown variant, TextRefused."""
        source, translations = self.text, self.translations
        if variant != OWN:
            others = self.trial.variants if self.trial is not None else ()
            other = next((each for each in others if each.name == variant), None)
            if other is None:
                raise ValueError(f"the campaign has no text for the variant `{variant}`")
            source, translations = other.text, other.translations
        return wording(source, self.language, translations, self.folding, link_host, stop_page)


@dataclass(frozen=True, kw_only=True)
class Content(Texts):
    """The part of a campaign that an edit replaces."""

    name: str
    purpose: str
    sectors: tuple[str, ...]
    selection: Selection
    rest_days: int | None
    send_before: datetime | None
    timing: Timing
    recurring: Recurring | None
    priority: Priority

    @property
    def parts(self) -> dict[str, object]:
        """Return the content as JSON values, as stored and hashed."""
        return {
            "name": self.name,
            "purpose": self.purpose,
            "text": self.text,
            "language": self.language,
            "translations": self.translations,
            "folding": self.folding.value,
            "sectors": list(self.sectors),
            "selection": msgspec.to_builtins(self.selection),
            "rest_days": self.rest_days,
            "send_before": None if self.send_before is None else self.send_before.astimezone(UTC),
            "timing": self.timing.model_dump(mode="json", exclude_defaults=True),
            "recurring": None if self.recurring is None else self.recurring.model_dump(mode="json"),
            "trial": None if self.trial is None else self.trial.model_dump(mode="json"),
            "priority": self.priority.value,
        }


class Owner(NamedTuple):
    """The sender of a campaign, which never changes."""

    sender_id: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A campaign's status and position. No content is decoded: an unreadable campaign still has progress."""

    campaign_id: str
    sender_id: str
    status: Status
    starts_at: datetime | None
    started_at: datetime | None
    send_before: datetime | None
    ended_at: datetime | None
    cursor: str
    expanded: bool
    repeats: int  # in a row, the last page mostly unanswered
    repeat_at: datetime | None
    page_at: datetime | None  # begin of the newest page of repeats
    page_size: int
    failures: int
    written: str  # transaction that wrote the row

    @property
    def begun(self) -> bool:
        return self.started_at is not None

    @property
    def scheduled_start(self) -> datetime:
        """Return the start, once scheduled."""
        assert self.starts_at is not None, "scheduling sets the start"
        return self.starts_at


@dataclass(frozen=True, kw_only=True)
class Campaign(Progress, Content):
    """A campaign with content, schedule and tallies."""

    position: int
    series_id: str | None
    missed: int
    winner: str | None
    choice: Choice | None
    created_by: str
    edited_by: tuple[str, ...]
    created_at: datetime
    archived_at: datetime | None
    fingerprint: str
    agreed: str | None
    agreed_start: datetime | None
    approval_needed: bool
    acknowledged: tuple[str, ...]
    at: datetime | None
    sent_back: str | None
    next_slot: datetime | None
    retry_at: datetime | None
    link_host: str | None
    stop_page: str | None
    tallies: Tallies

    @property
    def authors(self) -> tuple[str, ...]:
        return (self.created_by, *self.edited_by)

    @cached_property
    def wordings(self) -> dict[str, Wording]:
        """Return every wording, by variant, OWN first."""
        names = [OWN, *self.trial.names] if self.trial else [OWN]
        return {name: self.wording_of(name, self.link_host, self.stop_page) for name in names}
