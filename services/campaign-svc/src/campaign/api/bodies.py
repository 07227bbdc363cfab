"""Define the bodies and problems of the campaigns' HTTP."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from campaign.audience.frequency import MOST_DAYS
from campaign.message.folding import Folding
from campaign.message.variants import Choice, Trial
from campaign.message.writing import Attribute, Costly, Language, Length, Text, Translations, Value
from campaign.planning.waiting import Waiting
from campaign.preflight.findings import Sector
from campaign.schedule.lifecycle import Priority, Status
from campaign.schedule.recurrence import Recurring
from campaign.schedule.timing import Timing
from common.contracts.dispatch import Status as MessageStatus
from common.web.fields import Storable
from common.web.problems import Conflict, PreconditionFailed


class CampaignPastIt(Conflict):
    slug, title = "campaign-not-there", "The campaign is past it, or not there yet"


class CampaignOver(Conflict):
    slug, title = "campaign-over", "Its time has gone by"


class CampaignEdited(PreconditionFailed):
    slug, title = "campaign-edited", "The campaign is not what was read"


class ChosenSegment(BaseModel):
    model_config = ConfigDict(extra="forbid")

    segment_id: Storable = Field(max_length=64)
    version: int = Field(ge=1, le=2**31 - 1)


class Audience(BaseModel):
    """The sender's contacts a campaign is for: exactly one of `all`, `where` and `segment`.

    `where` selects contacts whose attributes all have one of the values named. `segment` names a version of a segment,
    evaluated when the campaign starts.
    """

    model_config = ConfigDict(extra="forbid")

    all: Literal[True] | None = None
    where: dict[Attribute, Value | Annotated[list[Value], Field(min_length=1, max_length=500)]] | None = Field(
        None, min_length=1, max_length=10
    )
    segment: ChosenSegment | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Audience":
        if [self.all, self.where, self.segment].count(None) != 2:
            raise ValueError("one of `all`, `where` and `segment`")
        return self

    @property
    def selection(self) -> dict[str, Any]:
        """Return the selection as stored: each condition is a list of values."""
        if self.segment is not None:
            return {"segment": self.segment.model_dump()}
        if self.where is None:
            return {"all": True}
        return {"where": {name: value if isinstance(value, list) else [value] for name, value in self.where.items()}}


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
    name: Storable = Field(min_length=1, max_length=120)
    purpose: Storable = Field(min_length=1, max_length=64, description="One of the sender's: what the consent is for.")
    text: Text
    language: Language = Field("fr", description="Of `text`: for contacts without a `language`, or with another one.")
    translations: Translations = {}
    folding: Folding = Field(
        Folding.NONE,
        description="Characters outside GSM-7 replaced by their likes: quotes and dashes (`typographic`), also accents"
        " of the text (`accents`), also those of what contacts hold (`names`). `/v1/texts/preview` shows what changes.",
    )
    sectors: list[Sector] = Field([], max_length=5, description="What it advertises, where that has rules of its own.")
    audience: Audience
    rest_days: int | None = Field(
        None,
        ge=1,
        le=MOST_DAYS,
        description="Who got a message of its sender's campaigns within so many days is left out.",
    )
    send_before: AwareDatetime | None = Field(
        None, description="After this its messages expire; default: three days from its start."
    )
    timing: Timing = Field(Timing(), description="When each message is due, and how many leave at once.")
    recurring: Recurring | None = Field(
        None,
        description="It comes again and again: each occurrence is a campaign of its own, with its own audience, whose"
        " messages expire when the next comes. Times of day are the sender's.",
    )
    trial: Trial | None = Field(
        None, description="Other texts for a part of the audience, people held out, and how the best text is found."
    )
    priority: Priority = Field(
        Priority.NORMAL,
        description="Among campaigns that go on at once: four people of the next higher are asked for beside one.",
    )


class Statistics(BaseModel):
    """Tallies of a campaign's recipients.

    At every instant audience = pending + denied + deferred + handed_off + expired,
    and handed_off = accepted + rejected + unknown.
    """

    audience: int
    pending: int
    denied: int
    deferred: int
    expired: int
    handed_off: int
    accepted: int
    rejected: int
    unknown: int
    delivered: int = Field(description="Said so by the operator, so far.")
    undelivered: int
    excluded: dict[str, int] = Field(description="Contacts selected and left out when the audience was frozen.")
    denied_reasons: dict[str, int] = Field(description="A recipient denied for two reasons counts for both.")


class SendingWaits(BaseModel):
    """Marketing is on hold: the gate's knowledge of consents is too old, for some recipients or for all.

    Transactional messages still leave.
    """

    since: datetime
    consents_as_of: datetime | None = Field(
        description="What was known of them, where that is oldest, when this was noticed; null: nothing."
    )


class Failing(BaseModel):
    """The campaign's next step keeps failing, through the campaign's own content or a fault of the service.

    A step is to start, to go on, to deny recipients never requested, or to end. Other campaigns go first until
    `again_at`. The log of campaign-svc holds the error under the campaign's id. To retry at once, pause and resume the
    campaign, or schedule the campaign again.
    """

    attempts: int
    again_at: datetime


class Campaign(BaseModel):
    campaign_id: str
    sender_id: str
    name: str
    purpose: str
    text: str
    language: str
    translations: dict[str, str]
    folding: Folding
    sectors: list[str]
    audience: dict[str, Any]
    rest_days: int | None
    status: Status
    sent_back: str | None = Field(
        description="Why what was scheduled is a draft again: when it was due it was `not_what_was_approved`, or needed"
        " an approval that it had not (`approval_missing`), or its segment selected nobody (`nobody_selected`); or,"
        " since its sender had changed, these errors were in it, with commas between (`stop_mention_missing`, or as of"
        " a pre-flight)."
    )
    created_at: datetime
    timing: Timing
    recurring: Recurring | None
    series_id: str | None = Field(description="Of the campaign that recurs, where this is one of its occurrences.")
    trial: Trial | None
    winner: str | None = Field(description="Of a trial, once it is known: `a` is the campaign's own text.")
    choice: Choice | None = Field(description="Of the winner, from the start of a campaign on that looks for one.")
    missed: int = Field(description="Occurrences that nobody was there to begin before the next, or that a pause kept.")
    priority: Priority
    at: datetime | None = Field(
        description="As it was scheduled. Where clocks are ahead, people's own show it earlier."
    )
    starts_at: datetime | None
    opens_at: datetime | None = Field(description="When a message may first leave for the sender's own country.")
    started_at: datetime | None
    ended_at: datetime | None
    send_before: datetime | None
    length: Length = Field(description="Of the shortest message of `text`; what contacts hold may add to it.")
    costly: list[Costly] = Field(description="Characters of `text` that more than halve what an SMS holds.")
    paused_because: list[str] = Field(
        description="Why it was paused by itself: `gateway_needs_somebody` is an account with a provider, or its money:"
        " resume it once that is seen to. `series_paused`: the campaign that recurs was, and goes on with it. Empty"
        " where a person paused it."
    )
    sending_waits: SendingWaits | None = Field(
        description="Of a campaign that is running: nothing is wrong with it, and it goes on by itself."
    )
    failing: Failing | None = Field(description="Of a campaign whose next step fails time after time.")
    waiting_for: list[Waiting] = Field(
        description="What has to happen before it goes on or ends. Empty once it has ended and each of its recipients"
        " has been decided about."
    )
    statistics: Statistics


class EditedCampaign(NewCampaign):
    """A campaign's new content, as in `NewCampaign`. The sender cannot change."""


class Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    at: AwareDatetime | None = Field(None, description="Default: now; with `timing.local_time`, needed.")
    acknowledge: list[Annotated[Storable, Field(max_length=200)]] = Field(
        [], max_length=100, description="Warnings of the pre-flight, by id: all of them, or it is not scheduled."
    )


class VariantResult(BaseModel):
    """Results of one text, counted as in the campaign's statistics."""

    variant: str
    asked_for: int
    handed_off: int
    reached: int = Field(description="Accepted or unknown: whom it may have reached. The winner's rate is of these.")
    delivered: int
    opted_out: int = Field(description="Who opted out in answer to it: within 7 days, and got no later one.")
    clicked: int = Field(description="Whom it may have reached and who followed a link of theirs.")


class Variants(BaseModel):
    items: list[VariantResult]
    winner: str | None
    choice: Choice | None


class Recipient(BaseModel):
    """A member of the audience. `subject_id` stands for the person; the API never shows the number."""

    message_id: str
    subject_id: str
    status: MessageStatus
    reasons: list[str]
    receipt: str | None
