"""Campaigns over HTTP: written, scheduled, paused, resumed, cancelled, watched.

An edge: opens the transaction, checks what the body says against the sender and the law, and lets the door to a
campaign's status (`control`) decide.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign import accounts, control, pre_flight, segments, senders, store
from campaign.findings import Sector
from campaign.folding import Folding
from campaign.frequency import MOST_DAYS
from campaign.lifecycle import Action, NotPossible, Status, ends_by, message_of, step
from campaign.store import Sender
from campaign.writing import (
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
from common.auth import Caller, require
from common.contracts.dispatch import Status as MessageStatus
from common.fields import Position, Storable
from common.law import covers, next_permitted
from common.problems import Conflict, Invalid, NotFound, PastItsTime, Reason
from common.service import Resources, resources

router = APIRouter(prefix="/v1", tags=["campaigns"])

PAST_TOLERANCE = timedelta(minutes=1)  # "now" as another machine's clock and the network make it

Held = Annotated[Resources[Any], Depends(resources)]
Author = Annotated[Caller, Depends(require("campaign:write"))]
Reader = Annotated[Caller, Depends(require("campaign:read"))]
Limit = Annotated[int, Query(ge=1, le=1000)]

_DECODED = ("audience", "translations")  # shown as what they are, kept as JSON


class KeyReused(Conflict):
    slug, title = "idempotency-key-reused", "This Idempotency-Key came before with another request"


class CampaignPastIt(Conflict):
    slug, title = "campaign-not-there", "The campaign is past it, or not there yet"


class ChosenSegment(BaseModel):
    model_config = ConfigDict(extra="forbid")

    segment_id: Storable = Field(max_length=64)
    version: int = Field(ge=1, le=2**31 - 1)


class Audience(BaseModel):
    """Which contacts of the sender: `{"all": true}`, those whose attributes all have one of the values named, or those
    that a version of a segment selects when the campaign starts."""

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
        """As it is stored: every condition a list of values."""
        if self.segment is not None:
            return {"segment": self.segment.model_dump()}
        if self.where is None:
            return {"all": True}
        return {"where": {name: value if isinstance(value, list) else [value] for name, value in self.where.items()}}


class NewCampaign(BaseModel):
    """A campaign as its author writes it."""

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


class Statistics(BaseModel):
    """At every instant audience = pending + denied + deferred + handed_off + expired,
    and handed_off = accepted + rejected + unknown."""

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
        description="Why what was scheduled is a draft again: when it was due it was `not_what_was_approved`, or its"
        " segment selected nobody (`nobody_selected`)."
    )
    created_at: datetime
    starts_at: datetime | None
    opens_at: datetime | None = Field(description="When a message may first leave for the sender's own country.")
    started_at: datetime | None
    ended_at: datetime | None
    send_before: datetime | None
    length: Length = Field(description="Of the shortest message of `text`; what contacts hold may add to it.")
    costly: list[Costly] = Field(description="Characters of `text` that more than halve what an SMS holds.")
    statistics: Statistics


class Campaigns(BaseModel):
    items: list[Campaign]
    next: str | None = Field(description="Pass it as `cursor`; null at the end.")


class EditedCampaign(NewCampaign):
    """As `NewCampaign`; the sender stays who it is."""


class Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    at: AwareDatetime | None = Field(None, description="Default: now.")
    acknowledge: list[Annotated[Storable, Field(max_length=200)]] = Field(
        [], max_length=100, description="Warnings of the pre-flight, by id: all of them, or it is not scheduled."
    )


class Recipient(BaseModel):
    """`subject_id` stands for the person; the number is not shown."""

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
    """A draft. With an `Idempotency-Key`, the same request again answers 200 with the campaign as it now is."""
    caller.may_use(body.sender_id)
    now = datetime.now(UTC)
    _checked(body, await senders.known(held.database, body.sender_id), now)
    campaign_id = _campaign_id(caller, idempotency_key)
    fingerprint = hashlib.sha256(body.model_dump_json().encode()).hexdigest()
    async with held.database.begin() as tx:
        await _segment_checked(tx, body)
        new = await store.insert_campaign(
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
    return shown[0]


@router.get("/campaigns")
async def list_campaigns(held: Held, caller: Reader, cursor: Position | None = None, limit: Limit = 50) -> Campaigns:
    """Newest first, of the senders the token covers."""
    covered = None if caller.senders is None else sorted(caller.senders)
    async with held.database.begin() as tx:
        rows = await store.campaigns_before(tx, cursor, covered, limit)
        items = await _shown(tx, held, rows)
    return Campaigns(items=items, next=str(rows[-1].position) if len(rows) == limit else None)


@router.get("/campaigns/{campaign_id}")
async def get_campaign(campaign_id: Storable, held: Held, caller: Reader) -> Campaign:
    async with held.database.begin() as tx:
        return (await _shown(tx, held, [await _found(tx, caller, campaign_id)]))[0]


@router.put("/campaigns/{campaign_id}")
async def edit_campaign(campaign_id: Storable, body: EditedCampaign, held: Held, caller: Author) -> Campaign:
    """Say it anew, before it has started. Where it was scheduled it is so no more; approvals of what it was count for
    nothing."""
    now = datetime.now(UTC)

    async def edit(tx: AsyncConnection, row: Row[Any]) -> None:
        step(Status(row.status), Action.EDIT)
        if body.sender_id != row.sender_id:
            raise Invalid("a campaign stays its sender's", reasons=[Reason("sender_id", "another_sender")])
        sender = await store.find_sender(tx, row.sender_id)
        assert sender is not None
        _checked(body, sender, now)
        await _segment_checked(tx, body)
        await store.edit_campaign(tx, {**_written(body), "campaign_id": campaign_id, "by": caller.subject})

    return await _act(held, caller, campaign_id, Action.EDIT, edit)


@router.post("/campaigns/{campaign_id}/schedule")
async def schedule_campaign(
    campaign_id: Storable, held: Held, caller: Author, body: Schedule | None = None
) -> Campaign:
    """Start it at `at`, or now. Before its start it may be scheduled anew.

    What the pre-flight finds of the text is found here too; what the last pre-flight found of the audience holds, if
    nothing has changed since. Errors refuse it, and so do warnings that are not acknowledged, and an approval that is
    needed and missing.
    """
    now = datetime.now(UTC)
    at, acknowledged = (body.at, body.acknowledge) if body else (None, [])
    starts_at = at or now

    async def check(tx: AsyncConnection, row: Row[Any]) -> None:
        step(Status(row.status), Action.SCHEDULE)
        if starts_at < now - PAST_TOLERANCE:
            raise Invalid("`at` has passed", reasons=[Reason("at", "in_the_past")])
        sender = await store.find_sender(tx, row.sender_id)
        assert sender is not None
        # the sender's code may have changed since it was written
        checked(row.text, row.language, msgspec.json.decode(row.translations), Folding(row.folding), sender)
        ends, policy = ends_by(starts_at, row.send_before), held.settings.policy
        if covers(sender.country, policy) and next_permitted(starts_at, sender.country, policy, before=ends) is None:
            opens_at = next_permitted(starts_at, sender.country, policy)
            raise Invalid(
                f"no message may leave before {opens_at.isoformat() if opens_at else 'the rules change'},"
                " and `send_before` is earlier",
                reasons=[Reason("send_before", "before_the_window_opens")],
            )
        await pre_flight.clear(tx, row, sender, at, acknowledged, held.settings)
        await store.set_start(tx, campaign_id, starts_at, pre_flight.agreed(row, sender, None), acknowledged)

    return await _act(held, caller, campaign_id, Action.SCHEDULE, check)


@router.post("/campaigns/{campaign_id}/pause")
async def pause_campaign(campaign_id: Storable, held: Held, caller: Author) -> Campaign:
    """Nothing of it is handed off once the gate has heard; what is decided meanwhile waits for `resume`."""
    return await _act(held, caller, campaign_id, Action.PAUSE)


@router.post("/campaigns/{campaign_id}/resume")
async def resume_campaign(campaign_id: Storable, held: Held, caller: Author) -> Campaign:
    return await _act(held, caller, campaign_id, Action.RESUME)


@router.post("/campaigns/{campaign_id}/cancel")
async def cancel_campaign(campaign_id: Storable, held: Held, caller: Author) -> Campaign:
    """For good. Whoever has not got it will not; what is already with the operator cannot be called back."""
    return await _act(held, caller, campaign_id, Action.CANCEL)


@router.get("/campaigns/{campaign_id}/recipients")
async def list_recipients(
    campaign_id: Storable,
    held: Held,
    caller: Reader,
    status: MessageStatus | None = None,
    cursor: Annotated[Storable, Query(max_length=64)] = "",
    limit: Limit = 200,
) -> Recipients:
    """The frozen audience, and where each of it stands with the reasons. Some months after the campaign has ended there
    is none any more; its statistics stay."""
    async with held.database.begin() as tx:
        row = await _found(tx, caller, campaign_id)
        kept: timedelta = held.settings.keep.recipients
        if row.ended_at is not None and row.ended_at < datetime.now(UTC) - kept:
            raise PastItsTime(
                f"recipients are kept for {kept.days} days after the end", reasons=[Reason("campaign_id", "past")]
            )
        rows = await store.recipients_after(tx, campaign_id, cursor, status, limit)
    items = [
        Recipient(
            message_id=message_of(campaign_id, row.starts_at, each.subject_id),
            subject_id=each.subject_id,
            status=each.status,
            reasons=each.reasons,
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
    """Lock, check, step, and show what came of it. Asking for what already is answers with it."""
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
    row = await store.find_campaign(tx, campaign_id, lock=lock)
    if row is None:
        raise NotFound("no such campaign", reasons=[Reason("campaign_id", "unknown_campaign")])
    caller.may_use(row.sender_id)
    return row


async def _shown(tx: AsyncConnection, held: Resources[Any], rows: Sequence[Row[Any]]) -> list[Campaign]:
    reasons = await store.reasons_of(tx, [row.campaign_id for row in rows])
    policy = held.settings.policy
    found = []
    for row in rows:
        sender = await store.find_sender(tx, row.sender_id)
        assert sender is not None
        wording = store.wording_of(row)
        template = wording.templates[wording.language]
        fields = dict(row._mapping)
        found.append(
            Campaign(
                **{name: fields[name] for name in Campaign.model_fields if name in fields and name not in _DECODED}
                | {"send_before": ends_by(row.starts_at, row.send_before) if row.starts_at else row.send_before},
                translations=msgspec.json.decode(row.translations),
                audience=msgspec.json.decode(row.selection),
                opens_at=next_permitted(row.starts_at, sender.country, policy) if row.starts_at else None,
                length=length_of(template.sample(sender.stop_code)),
                costly=costly(row.text),
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


def _checked(body: NewCampaign, sender: Sender, now: datetime) -> None:
    """Raises Invalid with the field."""
    if body.purpose not in sender.purposes:
        raise Invalid("the sender has no such purpose", reasons=[Reason("purpose", "unknown_purpose")])
    if body.send_before is not None and body.send_before <= now:
        raise Invalid("`send_before` has passed", reasons=[Reason("send_before", "in_the_past")])
    checked(body.text, body.language, body.translations, body.folding, sender)


async def _segment_checked(tx: AsyncConnection, body: NewCampaign) -> None:
    """Raises Invalid where its segment is not one of its sender's."""
    if (chosen := body.audience.segment) is None:
        return
    found = await segments.find(tx, chosen.segment_id, chosen.version)
    if found is None or found.sender_id != body.sender_id:
        raise Invalid(
            "the sender has no such version of a segment", reasons=[Reason("audience.segment", "unknown_segment")]
        )


def _written(body: NewCampaign) -> dict[str, Any]:
    """What its author wrote, as it is stored."""
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
    }


def _campaign_id(caller: Caller, key: str | None) -> str:
    seed = f"{caller.subject}\x1f{key}" if key is not None else str(uuid4())
    return f"cmp-{hashlib.sha256(seed.encode()).hexdigest()[:24]}"
