"""Define the bodies and problems of the campaigns' HTTP."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from campaign.audience.frequency import MOST_DAYS
from campaign.audience.selection import SegmentVersionId, Selection
from campaign.message.folding import Folding
from campaign.message.variants import Choice, Trial
from campaign.message.writing import Attribute, Costly, Language, Length, Text, Translations, Value
from campaign.planning.waiting import Waiting
from campaign.preflight.findings import Sector
from campaign.schedule.lifecycle import Priority, Status
from campaign.schedule.recurrence import Recurring
from campaign.schedule.timing import Timing
from common.contracts.dispatch import Status as MessageStatus
from common.web.fields import Label, NumberFree, Storable
from common.web.problems import Conflict, PreconditionFailed


class CampaignPastIt(Conflict):
    """The campaign's status does not allow this action: for example, a finished campaign cannot be paused.

    Read the campaign, and decide by its status.
    """

    slug, title = "campaign-not-there", "The campaign's status does not allow the action"


class CampaignOver(Conflict):
    """The time of the campaign is over: no message could leave before its end.

    Write a new campaign, or edit the times where the status allows an edit.
    """

    slug, title = "campaign-over", "The campaign's time is over"


class CampaignEdited(PreconditionFailed):
    """The campaign was edited after the read that gave this `If-Match`.

    Read the campaign again, apply the change to its present content, and send the new `ETag` as `If-Match`.
    """

    slug, title = "campaign-edited", "The campaign has changed since the read"


Chosen = Annotated[Value, NumberFree]


class ChosenSegment(BaseModel):
    """A version of a segment: its expression selects the audience."""

    model_config = ConfigDict(extra="forbid")

    segment_id: Storable = Field(max_length=64)
    version: int = Field(ge=1, le=2**31 - 1, description="The number of the version, from 1.")


class Audience(BaseModel):
    """The sender's contacts a campaign is for: exactly one of `all`, `where` and `segment`.

    `where` selects contacts whose attributes all have one of the values named. `segment` names a version of a segment,
    evaluated when the campaign starts.
    """

    model_config = ConfigDict(extra="forbid")

    all: Literal[True] | None = Field(None, description="`true`: every contact of the sender.")
    where: dict[Attribute, Chosen | Annotated[list[Chosen], Field(min_length=1, max_length=500)]] | None = Field(
        None,
        min_length=1,
        max_length=10,
        description="The values that each attribute may have, by attribute: up to 10 attributes, each with a value"
        " or a list of up to 500.",
    )
    segment: ChosenSegment | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Audience":
        if [self.all, self.where, self.segment].count(None) != 2:
            raise ValueError("one of `all`, `where` and `segment`")
        return self

    @property
    def selection(self) -> Selection:
        """Return the selection as stored: each condition is a list of values."""
        if self.segment is not None:
            return Selection(segment=SegmentVersionId(self.segment.segment_id, self.segment.version))
        if self.where is None:
            return Selection(all=True)
        return Selection(
            where={name: value if isinstance(value, list) else [value] for name, value in self.where.items()}
        )


class NewCampaign(BaseModel):
    """A campaign as written by its author."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "maison-lune",
                    "name": "Soldes d'hiver",
                    "purpose": "promotions",
                    "text": "{first_name|Bonjour}, -20 % chez Maison Lune jusqu'à samedi. {stop}",
                    "audience": {"where": {"loyalty": ["or", "argent"]}},
                }
            ]
        },
    )

    sender_id: Storable = Field(min_length=1, max_length=40)
    name: Label = Field(
        min_length=1,
        max_length=120,
        description="The name of the campaign, for the people who work on it: no message shows the name.",
    )
    purpose: Storable = Field(min_length=1, max_length=64, description="A purpose of the sender.")
    text: Text
    language: Language = Field(
        "fr", description="The language of `text`, for contacts without a `language` or without a translation."
    )
    translations: Translations = {}
    folding: Folding = Field(
        Folding.NONE,
        description="Replace characters outside GSM-7 by similar characters: quotes and dashes (`typographic`), also"
        " accents in the text (`accents`), also accents in contacts' attributes (`names`)."
        " `/v1/texts/preview` shows the changes.",
    )
    sectors: list[Sector] = Field(
        [], max_length=5, description="The product advertised, if the law has rules for the product."
    )
    audience: Audience
    rest_days: int | None = Field(
        None,
        ge=1,
        le=MOST_DAYS,
        description="Leave out contacts with a message from the sender's campaigns within so many days.",
    )
    send_before: AwareDatetime | None = Field(
        None, description="Messages expire at this instant; default: three days after the start."
    )
    timing: Timing = Field(Timing(), description="Due times and pace of the messages.")
    recurring: Recurring | None = Field(
        None,
        description="The rule of a recurring campaign. Each occurrence is a campaign with an audience of its own,"
        " and its messages expire at the next occurrence. Times of day are in the sender's time zone.",
    )
    trial: Trial | None = Field(
        None,
        description="An A/B test: other texts for a part of the audience, a holdout, and the choice of the best text.",
    )
    priority: Priority = Field(
        Priority.NORMAL,
        description="Priority among campaigns under way: the next higher priority requests four recipients for each"
        " recipient of this priority.",
    )


class Statistics(BaseModel):
    """Tallies of a campaign's recipients.

    At every instant audience = pending + denied + deferred + handed_off + expired,
    and handed_off = accepted + rejected + unknown.
    """

    audience: int = Field(description="People in the frozen audience; 0 before the start.")
    pending: int
    denied: int
    deferred: int
    expired: int
    handed_off: int
    accepted: int
    rejected: int
    unknown: int
    delivered: int = Field(description='Messages with a DLR "delivered" so far.')
    undelivered: int
    excluded: dict[str, int] = Field(description="Contacts selected and left out when the audience was frozen.")
    denied_reasons: dict[str, int] = Field(description="A recipient denied for two reasons counts for both.")


class SendingWaits(BaseModel):
    """Marketing is on hold: the gate's knowledge of consents is too old, for some recipients or for all.

    Transactional messages still leave.
    """

    since: datetime = Field(description="The beginning of the hold.")
    consents_as_of: datetime | None = Field(
        description="The oldest watermark among the partitions at the start of the hold; null: a partition had none."
    )


class Failing(BaseModel):
    """The campaign's next step keeps failing, through the campaign's own content or a fault of the service.

    A step is to start, to go on, to deny recipients never requested, or to end. Other campaigns go first until
    `again_at`. The log of campaign-svc holds the error under the campaign's id. To retry at once, pause and resume the
    campaign, or schedule the campaign again.
    """

    attempts: int = Field(description="The failures of this step in a row.")
    again_at: datetime = Field(description="The time of the next attempt.")


class Campaign(BaseModel):
    """A campaign with its content, its progress and its live tallies."""

    campaign_id: str
    sender_id: str
    name: str = Field(description="The name of the campaign, for the people who work on it: no message shows the name.")
    purpose: str
    text: str = Field(description="The text, with its fields unfilled.")
    language: str
    translations: dict[str, str] = Field(description="The text in other languages, by language.")
    folding: Folding
    sectors: list[str] = Field(description="The product advertised, where the law has rules for the product.")
    audience: dict[str, object] = Field(
        description="The selection of contacts: `all`, `where` or `segment`, as in `NewCampaign`."
    )
    rest_days: int | None = Field(
        description="The days without a message from the sender's campaigns that a contact needs; null: no such rule."
    )
    status: Status
    sent_back: str | None = Field(
        description="The reason for a scheduled campaign's return to draft: at its start the campaign was"
        " `not_what_was_approved`, lacked a needed approval (`approval_missing`), or its segment selected no"
        " contact (`nobody_selected`); or, after a change of the sender, the errors found, separated by"
        " commas (`stop_mention_missing`, or errors of a pre-flight)."
    )
    created_at: datetime
    timing: Timing
    recurring: Recurring | None
    series_id: str | None = Field(
        description="The id of the recurring campaign that this campaign is an occurrence of."
    )
    trial: Trial | None
    winner: str | None = Field(description="The variant chosen by an A/B test; `a` is the campaign's own text.")
    choice: Choice | None = Field(description="The choice of the winner, once a campaign with a `winner` has started.")
    missed: int = Field(description="Occurrences skipped: not started before the next occurrence, or paused.")
    priority: Priority
    at: datetime | None = Field(
        description="The scheduled start. With `local_time`, recipients in time zones further east are due earlier."
    )
    starts_at: datetime | None = Field(
        description="The instant at which the planner starts the campaign; null before scheduling."
    )
    opens_at: datetime | None = Field(description="The earliest instant of a hand-off to the sender's own country.")
    started_at: datetime | None = Field(description="The time of the start, when the audience was frozen; null before.")
    ended_at: datetime | None = Field(description="The time of the end, by completion or cancellation; null before.")
    archived_at: datetime | None = Field(
        description="Lists leave an archived campaign out; an edit or a schedule brings the campaign back."
    )
    send_before: datetime | None = Field(
        description="Messages expire at this instant; null: three days after the start."
    )
    length: Length = Field(
        description="Segments of the shortest message of `text`; contacts' attributes may add segments."
    )
    costly: list[Costly] = Field(
        description="Characters of `text` outside GSM-7: with them an SMS holds less than half as many characters."
    )
    paused_because: list[str] = Field(
        description="The reasons for an automatic pause. `gateway_needs_somebody`: a provider's account or credit"
        " needs a person; resume the campaign afterwards. `series_paused`: the recurring campaign was paused; the"
        " occurrence resumes with the series. Empty after a pause by a person."
    )
    sending_waits: SendingWaits | None = Field(
        description="The hold on marketing of a running campaign. The campaign goes on by itself."
    )
    failing: Failing | None = Field(description="Failures of the campaign's next step.")
    waiting_for: list[Waiting] = Field(
        description="The events that the campaign waits for. Empty after its end, once each recipient has a decision."
    )
    statistics: Statistics


class UnreadableCampaign(BaseModel):
    """A campaign paused or cancelled whose stored content cannot be read.

    The pause or the cancellation holds. The log of campaign-svc holds the error under the campaign's id.
    """

    campaign_id: str
    sender_id: str
    status: Status
    starts_at: datetime | None = Field(
        description="The instant at which the planner starts the campaign; null before scheduling."
    )
    started_at: datetime | None = Field(description="The time of the start, when the audience was frozen; null before.")
    send_before: datetime | None = Field(
        description="Messages expire at this instant; null: three days after the start."
    )


class EditedCampaign(NewCampaign):
    """A campaign's new content, as in `NewCampaign`. The sender cannot change."""


class Schedule(BaseModel):
    """The start, and the acknowledged warnings of the pre-flight."""

    model_config = ConfigDict(extra="forbid")

    at: AwareDatetime | None = Field(None, description="Default: now. Required with `timing.local_time`.")
    acknowledge: list[Annotated[Storable, Field(max_length=200)]] = Field(
        [], max_length=100, description="Ids of the pre-flight's warnings. Scheduling needs all of them."
    )


class VariantResult(BaseModel):
    """Results of one text, counted as in the campaign's statistics."""

    variant: str
    asked_for: int = Field(description="Recipients whose message with this text was requested.")
    handed_off: int
    reached: int = Field(
        description="Recipients with the outcome accepted or unknown. The winner's rate is a share of these recipients."
    )
    delivered: int
    opted_out: int = Field(description="Recipients who opted out within 7 days, without a later message in between.")
    clicked: int = Field(description="Recipients with the outcome accepted or unknown who followed a link.")


class Variants(BaseModel):
    """The results of an A/B test, text by text, and the choice of the best."""

    items: list[VariantResult] = Field(description="The texts, the campaign's own (`a`) first.")
    winner: str | None = Field(
        description="The letter of the chosen text; null before the choice, and without a `winner` in the test."
    )
    choice: Choice | None


class Recipient(BaseModel):
    """A member of the audience, without the number. `subject_id`: the person's id with the sender's controller."""

    message_id: str
    subject_id: str
    status: MessageStatus = Field(description="The status of the message, as dispatch-svc reported last.")
    reasons: list[str] = Field(
        description="Every reason of a denial, a delay or an expiry, stable for programs; empty without one."
    )
    receipt: str | None
