"""Serve campaigns over HTTP: write, edit, schedule, pause, resume, cancel, show.

This module opens the transaction and checks the body against the sender and the law. `control` decides every change of
a campaign's status.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign import accounts
from campaign.audience import segments
from campaign.audience.frequency import MOST_DAYS
from campaign.campaigns import recipients
from campaign.campaigns import store as campaigns
from campaign.message.folding import Folding
from campaign.message.text import parse
from campaign.message.variants import OWN, Choice, Result, Trial
from campaign.message.writing import (
    Attribute,
    Costly,
    Language,
    Length,
    Text,
    Translations,
    Value,
    checked,
    costly,
    length_of,
)
from campaign.planning import control
from campaign.planning import store as planning
from campaign.planning.waiting import Stage, Waiting, waits
from campaign.preflight import checks
from campaign.preflight.findings import Sector
from campaign.results import results
from campaign.schedule import recurrence
from campaign.schedule import revision as edition
from campaign.schedule.lifecycle import Action, NotPossible, Priority, Status, ends_by, message_of, step
from campaign.schedule.recurrence import Recurring
from campaign.schedule.timing import Place, Timetable, Timing, starts
from campaign.senders import registry
from campaign.senders import store as senders
from campaign.senders.store import Sender
from common.contracts.dispatch import Status as MessageStatus
from common.law import Policy, at_hand_off, covers, zones
from common.service import Resources, resources
from common.web.auth import Caller, require
from common.web.fields import Position, Storable
from common.web.problems import Conflict, Invalid, NotFound, PastItsTime, PreconditionFailed, Reason

router = APIRouter(prefix="/v1", tags=["campaigns"])

PAST_TOLERANCE = timedelta(minutes=1)  # clock skew and network delay of a caller's "now"

Held = Annotated[Resources[Any], Depends(resources)]
Author = Annotated[Caller, Depends(require("campaign:write"))]
Reader = Annotated[Caller, Depends(require("campaign:read"))]
Limit = Annotated[int, Query(ge=1, le=1000)]

_DECODED = ("audience", "translations", "timing", "recurring", "trial", "choice")  # stored as JSON, decoded one by one
_WRITTEN = (
    *("name", "purpose", "text", "language", "translations", "folding", "sectors", "selection", "rest_days"),
    *("send_before", "timing", "recurring", "trial", "priority"),
)
_SAID_AS = {"selection": "audience"}  # field names of the API, by column


class KeyReused(Conflict):
    slug, title = "idempotency-key-reused", "This Idempotency-Key came before with another request"


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


class Campaigns(BaseModel):
    items: list[Campaign]
    next: str | None = Field(description="Pass it as `cursor`; null at the end.")


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


class Recipients(BaseModel):
    items: list[Recipient]
    next: str | None = Field(description="Pass it as `cursor`; null at the end.")


@router.post("/campaigns", status_code=201)
async def write_campaign(
    body: NewCampaign,
    response: Response,
    held: Held,
    caller: Author,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Campaign:
    """Create a draft.

    Repeating a request with the same `Idempotency-Key` answers 200 with the campaign's current state. Reusing the key
    for another request answers 409.
    """
    caller.may_use(body.sender_id)
    now = datetime.now(UTC)
    _checked(body, await registry.known(held.database, body.sender_id), now, held.settings.policy)
    campaign_id = _campaign_id(caller, idempotency_key)
    fingerprint = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    async with held.database.begin() as tx:
        await _segment_checked(tx, body)
        new = await campaigns.insert_campaign(
            tx,
            {
                **_written(body),
                "campaign_id": campaign_id,
                "sender_id": body.sender_id,
                "created_by": caller.subject,
                "created_at": now,
                "fingerprint": fingerprint,
            },
        )
        row = await _found(tx, caller, campaign_id)
        if row.fingerprint != fingerprint:
            raise KeyReused("the key belongs to another campaign", reasons=[Reason("Idempotency-Key", "reused")])
        shown = await _shown(tx, held, [row])
    if not new:
        response.status_code = 200
    response.headers["Location"] = f"/v1/campaigns/{campaign_id}"
    response.headers["ETag"] = edition.etag(edition.tag(_parts(row)))
    return shown[0]


@router.get("/campaigns")
async def list_campaigns(
    held: Held,
    caller: Reader,
    cursor: Position | None = None,
    series_id: Annotated[Storable | None, Query(max_length=64)] = None,
    limit: Limit = 50,
) -> Campaigns:
    """List the campaigns of the senders your token covers, newest first.

    `series_id` limits the list to the occurrences of a recurring campaign.
    """
    covered = None if caller.senders is None else sorted(caller.senders)
    async with held.database.begin() as tx:
        rows = await campaigns.campaigns_before(tx, cursor, covered, series_id, limit)
        items = await _shown(tx, held, rows)
    return Campaigns(items=items, next=str(rows[-1].position) if len(rows) == limit else None)


@router.get("/campaigns/{campaign_id}")
async def get_campaign(campaign_id: Storable, response: Response, held: Held, caller: Reader) -> Campaign:
    """Return a campaign.

    The `ETag` covers the campaign's content and schedule; send the tag as `If-Match` when editing.
    """
    async with held.database.begin() as tx:
        row = await _found(tx, caller, campaign_id)
        response.headers["ETag"] = edition.etag(edition.tag(_parts(row)))
        return (await _shown(tx, held, [row]))[0]


@router.put("/campaigns/{campaign_id}")
async def edit_campaign(
    campaign_id: Storable,
    body: EditedCampaign,
    response: Response,
    held: Held,
    caller: Author,
    if_match: Annotated[
        str | None,
        Header(description="The `ETag` that its edit is of. 412 where somebody has changed it since, and nothing is."),
    ] = None,
) -> Campaign:
    """Replace the content of a campaign not yet started.

    A scheduled campaign becomes a draft again, and approvals of earlier content no longer count. Without `If-Match`,
    the edit overwrites changes made by others in the meantime.
    """
    now = datetime.now(UTC)

    async def edit(tx: AsyncConnection, row: Row[Any]) -> None:
        _may(row, Action.EDIT)
        checks.not_too_far("send_before", body.send_before, now)
        if if_match is not None:
            _unchanged(row, body, if_match)
        if body.sender_id != row.sender_id:
            raise Invalid("a campaign stays its sender's", reasons=[Reason("sender_id", "another_sender")])
        sender = await senders.find_sender(tx, row.sender_id)
        assert sender is not None
        _checked(body, sender, now, held.settings.policy)
        await _segment_checked(tx, body)
        await campaigns.edit_campaign(tx, {**_written(body), "campaign_id": campaign_id, "by": caller.subject})
        await campaigns.leave_occurrences(tx, campaign_id, control.SERIES_PAUSED)
        response.headers["ETag"] = edition.etag(edition.tag(_parts_of(body)))

    return await _act(held, caller, campaign_id, Action.EDIT, edit)


@router.post("/campaigns/{campaign_id}/schedule")
async def schedule_campaign(
    campaign_id: Storable, held: Held, caller: Author, body: Schedule | None = None
) -> Campaign:
    """Schedule the campaign to start at `at`, or now. A campaign not yet started may be rescheduled.

    Scheduling checks the texts, and applies the audience findings of the last pre-flight if the campaign is unchanged
    since. The request is refused on an error, on a warning missing from `acknowledge`, or on a missing approval.
    """
    now = datetime.now(UTC)
    at, acknowledged = (body.at, body.acknowledge) if body else (None, [])

    async def check(tx: AsyncConnection, row: Row[Any]) -> None:
        _may(row, Action.SCHEDULE)
        if at is not None and at < now - PAST_TOLERANCE:
            raise Invalid("`at` has passed", reasons=[Reason("at", "in_the_past")])
        checks.not_too_far("at", at, now)
        pace = campaigns.timing_of(row)
        if at is None and pace.local_time:
            raise Invalid("whose local time is that?", reasons=[Reason("at", "needed_for_local_time")])
        sender = await senders.find_sender(tx, row.sender_id)
        assert sender is not None
        # the sender's STOP code may have changed since the text was written
        checked(row.text, row.language, msgspec.json.decode(row.translations), Folding(row.folding), sender)
        policy = held.settings.policy
        table = checks.table_of(row, sender, at or now, now, policy)
        opens_at = table.opens_at(sender.country)
        if covers(sender.country, policy) and (opens_at is None or opens_at >= table.ends_by):
            raise Invalid(
                f"no message may leave before {opens_at.isoformat() if opens_at else 'the rules change'},"
                " and `send_before` is earlier",
                reasons=[Reason("send_before", "before_the_window_opens")],
            )
        closes_at = max((closes for _, closes in table.window(Place(sender.country))), default=table.starts_at)
        if pace.spread_minutes is not None and closes_at > table.ends_by:
            raise Invalid(
                f"the last would be due at {closes_at.isoformat()}, and the campaign ends before",
                reasons=[Reason("timing.spread_minutes", "beyond_the_end")],
            )
        trial = campaigns.trial_of(row)
        if trial is not None and trial.winner is not None and trial.soonest(table) >= table.ends_by:
            raise Invalid(
                "the others would wait for it beyond the campaign's end",
                reasons=[Reason("trial.winner.after_hours", "after_the_end")],
            )
        needed = await checks.clear(tx, row, sender, at, acknowledged, held.settings)
        digest = checks.agreed(row, sender, None)
        await campaigns.set_start(
            tx,
            campaign_id,
            table.at or now,
            table.starts_at,
            digest,
            acknowledged,
            agreed_start=at,
            approval_needed=needed,
        )
        if row.status == Status.PAUSED and row.recurring is not None:
            await control.resume_occurrences(tx, row, now)

    return await _act(held, caller, campaign_id, Action.SCHEDULE, check)


@router.post("/campaigns/{campaign_id}/pause")
async def pause_campaign(campaign_id: Storable, held: Held, caller: Author) -> Campaign:
    """Pause the campaign: the gate hands nothing off once the pause has reached the gate.

    Messages decided in the meantime wait for `resume`. A scheduled campaign does not start, even where the audience is
    already being selected. Pausing a recurring campaign stops new occurrences, and pauses those scheduled or running.
    """

    async def with_occurrences(tx: AsyncConnection, row: Row[Any]) -> None:
        _may(row, Action.PAUSE)
        if row.recurring is not None:
            await control.pause_occurrences(tx, row, datetime.now(UTC))

    return await _act(held, caller, campaign_id, Action.PAUSE, with_occurrences)


@router.post("/campaigns/{campaign_id}/resume")
async def resume_campaign(campaign_id: Storable, held: Held, caller: Author) -> Campaign:
    """Resume a paused campaign.

    A campaign paused before its start begins at its time, or at once if the time has passed. The request is refused
    with `campaign-over` where no message could leave before the end: schedule the campaign again. A recurring campaign
    begins the last occurrence held by the pause, unless the next has come or the occurrence has ended.
    """
    now = datetime.now(UTC)

    async def rejoin(tx: AsyncConnection, row: Row[Any]) -> None:
        _may(row, Action.RESUME)
        if row.status != Status.PAUSED or row.started_at is not None:
            return
        sender = await senders.find_sender(tx, row.sender_id)
        assert sender is not None
        if (rule := campaigns.recurring_of(row)) is None:
            _still_of_use(row, sender, now, held.settings.policy)
        else:
            await _skip_what_is_over(tx, row, rule, sender, now, held.settings.policy)
            await control.resume_occurrences(tx, row, now)

    return await _act(held, caller, campaign_id, Action.RESUME, rejoin)


@router.post("/campaigns/{campaign_id}/cancel")
async def cancel_campaign(campaign_id: Storable, held: Held, caller: Author) -> Campaign:
    """Cancel the campaign for good.

    Recipients not yet reached get no message; messages already with the operator cannot be recalled. Recipients not yet
    requested stay `pending` for some seconds, then become `denied`. A cancelled recurring campaign has no more
    occurrences, and occurrences paused together with the campaign are cancelled too.
    """

    async def with_occurrences(tx: AsyncConnection, row: Row[Any]) -> None:
        _may(row, Action.CANCEL)
        if row.status == Status.PAUSED and row.recurring is not None:
            await control.cancel_occurrences(tx, row, datetime.now(UTC))

    return await _act(held, caller, campaign_id, Action.CANCEL, with_occurrences)


@router.get("/campaigns/{campaign_id}/variants")
async def list_variants(campaign_id: Storable, held: Held, caller: Reader) -> Variants:
    """Return the results so far of each text of an A/B test, including the campaign's own text.

    People held out count among the campaign's denied recipients, with the reason `holdout`.
    """
    async with held.database.begin() as tx:
        row = await _found(tx, caller, campaign_id)
        trial = campaigns.trial_of(row)
        found = await results.by_variant(tx, row) if trial and row.started_at else {}
    names = [OWN, *trial.names] if trial else []
    return Variants(
        items=[VariantResult(variant=name, **asdict(found.get(name, Result()))) for name in names],
        winner=row.winner,
        choice=campaigns.choice_of(row),
    )


@router.get("/campaigns/{campaign_id}/recipients")
async def list_recipients(
    campaign_id: Storable,
    held: Held,
    caller: Reader,
    status: MessageStatus | None = None,
    cursor: Annotated[Storable, Query(max_length=64)] = "",
    limit: Limit = 200,
) -> Recipients:
    """List the frozen audience, with each recipient's status and reasons.

    Answers 410 once the recipients are no longer kept, months after the campaign's end. The tallies on the campaign
    stay.
    """
    async with held.database.begin() as tx:
        row = await _found(tx, caller, campaign_id)
        kept: timedelta = held.settings.keep.recipients
        if row.ended_at is not None and row.ended_at < datetime.now(UTC) - kept:
            raise PastItsTime(
                f"recipients are kept for {kept.days} days after the end", reasons=[Reason("campaign_id", "past")]
            )
        rows = await recipients.recipients_after(tx, campaign_id, cursor, status, limit)
    items = [
        Recipient(
            message_id=message_of(campaign_id, row.starts_at, each.subject_id),
            subject_id=each.subject_id,
            status=each.status,
            reasons=caller.told(each.reasons),
            receipt=each.receipt,
        )
        for each in rows
    ]
    return Recipients(items=items, next=rows[-1].subject_id if len(rows) == limit else None)


async def _act(
    held: Resources[Any],
    caller: Caller,
    campaign_id: str,
    action: Action,
    check: Callable[[AsyncConnection, Row[Any]], Awaitable[None]] | None = None,
) -> Campaign:
    """Lock the campaign, run `check`, take the action, and return the campaign.

    A repeated action succeeds again.
    """
    async with held.database.begin() as tx:
        row = await _found(tx, caller, campaign_id, lock=True)
        try:
            if check is not None:
                await check(tx, row)
            await control.take(tx, row, action, datetime.now(UTC))
        except NotPossible as refused:
            raise CampaignPastIt(str(refused), reasons=[Reason("status", refused.status.value)]) from refused
        return (await _shown(tx, held, [await _found(tx, caller, campaign_id)]))[0]


async def _found(tx: AsyncConnection, caller: Caller, campaign_id: str, *, lock: bool = False) -> Row[Any]:
    row = await campaigns.find_campaign(tx, campaign_id, lock=lock)
    if row is None:
        raise NotFound("no such campaign", reasons=[Reason("campaign_id", "unknown_campaign")])
    caller.may_use(row.sender_id)
    return row


async def _shown(tx: AsyncConnection, held: Resources[Any], rows: Sequence[Row[Any]]) -> list[Campaign]:
    reasons = await campaigns.reasons_of(tx, [row.campaign_id for row in rows])
    hold = await planning.hold_of_marketing(tx)
    held_up = SendingWaits(since=hold.since, consents_as_of=hold.consents_as_of) if hold else None
    policy, now = held.settings.policy, datetime.now(UTC)
    hours = await planning.first_hours(
        tx, [r.campaign_id for r in rows if r.status == Status.RUNNING and not r.expanded]
    )
    settled = await planning.being_settled(
        tx, sorted({r.sender_id for r in rows if r.status == Status.SCHEDULED and r.starts_at <= now}), now
    )
    found = []
    for row in rows:
        sender = await senders.find_sender(tx, row.sender_id)
        assert sender is not None
        wording = campaigns.wording_of(row)
        template = wording.templates[wording.language]
        fields = dict(row._mapping)
        paused_because = sorted(reasons.get((row.campaign_id, "paused"), {}))
        opens_at = _table(row, sender, policy).opens_at(sender.country) if row.starts_at else None
        choice = campaigns.choice_of(row)
        draft = row.status == Status.DRAFT
        stage = Stage(
            status=Status(row.status),
            begun=row.started_at is not None,
            expanded=row.expanded,
            undecided=row.pending + row.deferred,
            starts_at=row.starts_at,
            ends_at=ends_by(row.starts_at, row.send_before) if row.starts_at else None,
            opens_at=opens_at,
            retry_at=row.retry_at,
            next_slot=row.next_slot,
            next_hour=hours.get(row.campaign_id),
            chosen_at=choice.at if choice is not None and row.winner is None else None,
            approval_missing=draft and await checks.lacks_approval(tx, row, sender),
            with_series=control.SERIES_PAUSED in paused_because,
            marketing_held=hold is not None,
            settles_first=settled.get(row.sender_id),
        )
        found.append(
            Campaign(
                **{name: fields[name] for name in Campaign.model_fields if name in fields and name not in _DECODED}
                | {"send_before": ends_by(row.starts_at, row.send_before) if row.starts_at else row.send_before},
                translations=msgspec.json.decode(row.translations),
                audience=msgspec.json.decode(row.selection),
                timing=campaigns.timing_of(row),
                recurring=campaigns.recurring_of(row),
                trial=campaigns.trial_of(row),
                choice=choice,
                opens_at=opens_at,
                length=length_of(template.sample(sender.stop_code) + sender.stop_added),
                costly=costly(row.text),
                paused_because=paused_because,
                sending_waits=held_up if row.status == Status.RUNNING else None,
                failing=Failing(attempts=row.failures, again_at=row.retry_at)
                if row.failures > campaigns.PASSING_FAILURES
                else None,
                waiting_for=waits(stage, now),
                statistics=Statistics(
                    audience=row.audience,
                    **{name: fields[name] for name in accounts.COUNTS},
                    handed_off=sum(fields[name] for name in accounts.OUTCOMES),
                    excluded=reasons.get((row.campaign_id, "excluded"), {}),
                    denied_reasons=reasons.get((row.campaign_id, "denied"), {}),
                ),
            )
        )
    return found


def _may(row: Row[Any], action: Action) -> None:
    """Check that the campaign's status allows the action. Raises NotPossible."""
    step(Status(row.status), action, begun=row.started_at is not None)


def _unchanged(row: Row[Any], body: NewCampaign, if_match: str) -> None:
    """Refuse an edit of a campaign changed since the `If-Match` tag was read.

    An edit equal to the campaign's current content passes, so that a retry succeeds. Raises CampaignEdited.
    """
    parts = _parts(row)
    changed = edition.changed(if_match, parts)
    if changed is None or parts == _parts_of(body):
        return
    by = f"; who edited it last is {row.edited_by[-1]}" if row.edited_by else ""
    raise CampaignEdited(
        f"it has been changed since it was read{by}: read it again, and edit what it is now",
        reasons=[Reason(name, "changed") for name in changed] or [Reason("If-Match", "stale")],
    )


def _still_of_use(row: Row[Any], sender: Sender, now: datetime, policy: Policy) -> None:
    """Refuse to resume an unstarted campaign whose messages could no longer leave. Raises CampaignOver."""
    table = _table(row, sender, policy)
    if now < table.ends_by:
        opening = table.opening(Place(sender.country), max(now, row.starts_at))
        if not covers(sender.country, policy) or (opening is not None and opening[0] < table.ends_by):
            return
    raise CampaignOver(
        f"no message may leave before {table.ends_by.isoformat()}, its end: schedule it anew, or cancel it",
        reasons=[Reason("send_before", "passed")],
    )


async def _skip_what_is_over(
    tx: AsyncConnection, row: Row[Any], rule: Recurring, sender: Sender, now: datetime, policy: Policy
) -> None:
    """Move a paused recurring campaign to the occurrence to begin next.

    The next occurrence is the last one already due, while still of use, else the following. Raises CampaignOver where
    no occurrence is left.
    """
    gate, timing = at_hand_off(policy), campaigns.timing_of(row)
    zone = zones(sender.country, gate)[0]
    at, missed = recurrence.latest(rule, zone, row.at, now)
    following = recurrence.first(rule, zone, at + timedelta.resolution)
    begins = starts(timing, at, sender.country, row.starts_at, gate)
    if ends_by(begins, None) <= now:
        if following is None:
            raise CampaignOver(
                "none comes any more: schedule it anew, or cancel it", reasons=[Reason("recurring.until", "passed")]
            )
        at, missed, begins = following, missed + 1, starts(timing, following, sender.country, now, gate)
    if missed:
        await campaigns.set_next(tx, row.campaign_id, at, begins, missed)


def _table(row: Row[Any], sender: Sender, policy: Policy) -> Timetable:
    """Build the timetable of a campaign with a start."""
    ends = ends_by(row.starts_at, row.send_before)
    return Timetable(campaigns.timing_of(row), sender.country, row.starts_at, row.at, ends, at_hand_off(policy))


def _checked(body: NewCampaign, sender: Sender, now: datetime, policy: Policy) -> None:
    """Check the body against the sender and the law. Raises Invalid naming the field."""
    if body.purpose not in sender.purposes:
        raise Invalid("the sender has no such purpose", reasons=[Reason("purpose", "unknown_purpose")])
    if body.send_before is not None and body.send_before <= now:
        raise Invalid("`send_before` has passed", reasons=[Reason("send_before", "in_the_past")])
    checks.not_too_far("send_before", body.send_before, now)
    checked(body.text, body.language, body.translations, body.folding, sender)
    for each in body.trial.variants if body.trial else ():
        try:
            checked(each.text, body.language, each.translations, body.folding, sender)
        except Invalid as refused:
            reasons = [Reason(f"trial.{each.name}.{r.field}", r.reason) for r in refused.reasons]
            raise Invalid(str(refused), reasons=reasons) from refused
    if body.trial and body.trial.winner and body.trial.winner.by == "most_clicks":
        _all_linked(body)
    if body.recurring is not None:
        _checked_rule(body.recurring, body.send_before, sender, now, policy)


def _all_linked(body: NewCampaign) -> None:
    """Refuse an A/B test by clicks where some text has no link to follow. Raises Invalid."""
    assert body.trial is not None
    texts = {"text": (body.text, body.translations)}
    texts |= {f"trial.{each.name}.text": (each.text, each.translations) for each in body.trial.variants}
    for field, (source, translations) in texts.items():
        if not all(parse(each).links for each in (source, *translations.values())):
            raise Invalid("by clicks wins what has links", reasons=[Reason(field, "link_missing")])


def _checked_rule(rule: Recurring, send_before: datetime | None, sender: Sender, now: datetime, policy: Policy) -> None:
    zone = zones(sender.country, policy)[0]
    if send_before is not None:
        raise Invalid(
            "an occurrence ends when the next comes", reasons=[Reason("send_before", "not_of_one_that_recurs")]
        )
    checks.not_too_far("recurring.until", max(rule.until, now), now)  # a past `until` is refused below
    if recurrence.too_often(rule, zone, now):
        raise Invalid("less than an hour apart", reasons=[Reason("recurring.cron", "too_often")])
    if recurrence.first(rule, zone, now) is None:
        raise Invalid("it never comes before its end", reasons=[Reason("recurring.until", "never_comes")])


async def _segment_checked(tx: AsyncConnection, body: NewCampaign) -> None:
    """Refuse a segment of another sender, or an unknown version. Raises Invalid."""
    if (chosen := body.audience.segment) is None:
        return
    found = await segments.find(tx, chosen.segment_id, chosen.version)
    if found is None or found.sender_id != body.sender_id:
        raise Invalid(
            "the sender has no such version of a segment", reasons=[Reason("audience.segment", "unknown_segment")]
        )


def _written(body: NewCampaign) -> dict[str, Any]:
    """Return the author's content in its stored form."""
    return {
        "name": body.name,
        "purpose": body.purpose,
        "text": body.text,
        "language": body.language,
        "translations": msgspec.json.encode(body.translations).decode(),
        "folding": body.folding.value,
        "sectors": sorted(set(body.sectors)),
        "selection": msgspec.json.encode(body.audience.selection).decode(),
        "rest_days": body.rest_days,
        "send_before": body.send_before,
        "timing": body.timing.model_dump_json(exclude_defaults=True),
        "recurring": body.recurring.model_dump_json() if body.recurring else None,
        "trial": body.trial.model_dump_json() if body.trial else None,
        "priority": body.priority.value,
    }


def _parts(row: Row[Any]) -> dict[str, Any]:
    """Return the parts an edit would replace, as hashed by `edition.tag`."""
    return _edited({name: row._mapping[name] for name in _WRITTEN}) | {
        "schedule": [row.agreed_start, row.agreed] if row.agreed is not None else None
    }


def _parts_of(body: NewCampaign) -> dict[str, Any]:
    """Return the parts as this edit would leave them."""
    return _edited(_written(body)) | {"schedule": None}


def _edited(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts in comparable form: JSON decoded, instants in UTC."""
    shown = {_SAID_AS.get(name, name): value for name, value in written.items()}
    for name in ("translations", "audience", "timing", "recurring", "trial"):
        if shown[name] is not None:
            shown[name] = msgspec.json.decode(shown[name])
    if shown["send_before"] is not None:
        shown["send_before"] = shown["send_before"].astimezone(UTC)
    return shown


def _campaign_id(caller: Caller, key: str | None) -> str:
    seed = f"{caller.subject}\x1f{key}" if key is not None else str(uuid4())
    return f"cmp-{hashlib.sha256(seed.encode()).hexdigest()[:24]}"
