"""Serve a campaign's results over HTTP: breakdowns, recipients as CSV, the trace of one recipient.

The statistics count recipients in one snapshot, not the live tallies (`accounts.py`): each breakdown adds up to the
total.
"""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import OUTCOMES, STANDINGS, UNDELIVERED
from campaign.audience.opt_outs import ANSWERS
from campaign.campaigns import access
from campaign.campaigns.access import CampaignUnreadable
from campaign.campaigns.campaign import Campaign
from campaign.conversions import store as conversions
from campaign.results.lift import CONFIDENCE, Share, lift
from campaign.results.results import CLICKED, answering_to
from campaign.schedule.lifecycle import later, message_of
from campaign.senders.caller import of_caller
from common.contracts.dispatch import CHARGED
from common.db.database import Database
from common.service import Resources
from common.sms.msisdn import NumberRefused, parse
from common.sms.prices import euros
from common.sms.subject_id import Inner
from common.spreadsheet import ENCODING, cell, lines
from common.web.auth import Caller, require
from common.web.edge_id import ControllerIds
from common.web.fields import NumberCountry, Storable
from common.web.openapi import refuses
from common.web.problems import Invalid, PastItsTime, Reason
from common.web.streaming import Streamed

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["statistics"])

PAGE = 2000
COLUMNS = (
    "message_id",
    "subject_id",
    "variant",
    "territory",
    "status",
    "reasons",
    "handed_off_at",
    "receipt",
    "receipt_at",
    "segments",
    "cost",
    "clicks",
    "first_clicked_at",
    "opted_out_at",
)
CSV = {
    "schema": {"type": "string", "format": "binary"},
    "example": ",".join(COLUMNS) + "\r\n01900000-0000-8000-8000-0000000000a1,sub_5f2b8c0d,a,FR,accepted\r\n",
}

Held = Annotated[Resources[Any], Depends(of_caller)]
Reader = Annotated[Caller, Depends(require("campaign:read"))]
Tracer = Annotated[Caller, Depends(require("campaign:trace", looks_up=True))]


class Counts(BaseModel):
    """Numbers of people.

    audience = pending + denied + deferred + handed_off + expired, and handed_off = accepted + rejected + unknown.
    """

    audience: int = Field(description="People in this part of the audience.")
    pending: int
    denied: int
    deferred: int
    expired: int
    handed_off: int
    accepted: int
    rejected: int
    unknown: int
    delivered: int
    undelivered: int
    clicked: int = Field(
        description="Recipients with the outcome accepted or unknown who followed a link; visits that look like a"
        " machine's do not count."
    )
    opted_out: int = Field(
        description="Recipients who opted out within 7 days of this message, without a later message from a sender they"
        " opted out of."
    )


class Costed(Counts):
    """Numbers of people, and the real cost.

    Only messages with the outcome accepted or unknown are charged, at the price in force when each was sent.
    """

    segments: int = Field(description="Of the charged messages, as sent.")
    cost: Decimal | None = Field(
        description="In euros, of the charged messages with a price; null if none of the charged messages has a price."
    )
    unpriced: int = Field(description="Charged messages without a price: their cost is unknown.")


class OfVariant(Costed):
    """The counts of one text."""

    variant: str | None = Field(
        description="Null for a campaign with a single text, and for recipients not requested yet."
    )


class OfTerritory(Costed):
    """The counts of one territory."""

    territory: str | None = Field(description="The number's territory; null after the contact's deletion.")


class OfHour(Costed):
    """The counts of one hour of hand-offs."""

    hour: datetime | None = Field(description="The hour of the hand-off in UTC; null without a hand-off.")


class OfReason(BaseModel):
    """The recipients with one status and one reason."""

    status: str = Field(description="The status of the recipients' messages.")
    reason: str
    recipients: int = Field(description="A recipient with two reasons counts for both.")


class OfLink(BaseModel):
    """A tracked link of the texts, with its counted visits."""

    link: int = Field(description="The number of the link within the campaign.")
    target: str = Field(description="The address that the link leads to.")
    people: int = Field(description="People with at least one counted click.")
    clicks: int = Field(description="Counted clicks; visits that look like a machine's do not count.")


class ConversionGroup(BaseModel):
    """A part of the audience, as drawn when each message was to be requested, whatever became of the message.

    In an A/B test, recipients who still wait for their request are in neither group.
    """

    people: int = Field(description="People in the group.")
    converted: int = Field(description="People with at least one conversion.")
    conversions: int = Field(description="Conversions of the group within the time.")
    rate: float | None = Field(description="The share of people who converted; null for an empty group.")
    value: dict[str, Decimal] = Field(description="The sum of the conversions' values, by currency.")


class ConversionLift(BaseModel):
    """How much larger the share of the messaged people is than that of the holdout.

    The interval is Newcombe's, of two Wilson scores (Statistics in Medicine 17, 1998, 873-890). An interval that
    includes 0 shows no effect.
    """

    difference: float = Field(description="0.02: two people more of each hundred.")
    low: float = Field(description="The lower end of the interval of the difference.")
    high: float = Field(description="The upper end of the interval of the difference.")
    confidence: float = Field(description="How often such an interval includes the true difference.")
    relative: float | None = Field(description="The difference by the holdout's share; null where the share is 0.")


class CampaignConversions(BaseModel):
    """The conversions of the audience to the sender within a time, the same for both groups."""

    since: datetime = Field(description="The campaign's start.")
    until: datetime = Field(description="The end of the time in which conversions count.")
    messaged: ConversionGroup = Field(description="Everybody but the holdout, denied recipients included.")
    holdout: ConversionGroup | None
    lift: ConversionLift | None = Field(description="Null without a holdout.")


class CampaignStatistics(BaseModel):
    """The counts of a campaign at one instant; each breakdown adds up to the total."""

    as_of: datetime = Field(description="The instant of the count.")
    total: Costed
    variants: list[OfVariant] = Field(description="The counts by text.")
    territories: list[OfTerritory] = Field(description="The counts by territory.")
    hours: list[OfHour] = Field(description="The counts by hour of the hand-off.")
    reasons: list[OfReason] = Field(description="The recipients by status and reason, most recipients first.")
    links: list[OfLink] = Field(description="The tracked links, in the order of their numbers.")
    conversions: CampaignConversions | None = Field(description="Null before the campaign's start.")


class WhoseTrace(BaseModel):
    """The person whose message to trace."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"number": "06 39 98 01 02"}]})

    number: Storable = Field(
        min_length=1,
        max_length=40,
        description="A mobile number in any usual notation.",
    )
    country: NumberCountry = None


class Followed(BaseModel):
    """A link of the message, with its clicks."""

    target: str = Field(description="The address that the link leads to.")
    clicks: int = Field(description="Counted clicks of this person.")
    first_clicked_at: datetime | None = Field(description="The first counted click; null without a click.")
    last_clicked_at: datetime | None = Field(description="The last counted click; null without a click.")


class Trace(BaseModel):
    """The course of one message. `subject_id`: the person's id with the sender's controller.

    With `in_audience` false, only `subject_id` is set.
    """

    subject_id: str
    in_audience: bool = Field(description="False: the person is not in the audience.")
    message_id: str | None = Field(
        None, description="The message's id; dispatch-svc returns the full decision at `/v1/messages/{id}`."
    )
    variant: str | None = Field(
        None,
        description="The text of an A/B test, by its letter; null for a campaign with a single text, and before"
        " the request.",
    )
    status: str | None = Field(None, description="The status of the message, as dispatch-svc reported last.")
    reasons: list[str] = Field(
        [], description="Every reason of a denial, a delay or an expiry, stable for programs; empty without one."
    )
    handed_off_at: datetime | None = Field(None, description="The start of the hand-off; null without a hand-off.")
    receipt: str | None = None
    receipt_at: datetime | None = None
    links: list[Followed] = Field([], description="The message's own links.")
    opted_out_at: datetime | None = Field(None, description="The opt-out attributed to this message.")


@router.get(
    "/campaigns/{campaign_id}/statistics",
    operation_id="statistics.get",
    responses=refuses(CampaignUnreadable, PastItsTime),
)
async def get_statistics(
    campaign_id: Storable,
    held: Held,
    caller: Reader,
    converts_within_days: Annotated[
        int, Query(ge=1, le=90, description="Conversions count from the start to so many days after the end.")
    ] = 7,
) -> CampaignStatistics:
    """Return a campaign's counts by variant, territory, hour, reason and link, and its conversions, as of one instant.

    Answers 410 once the recipients are no longer kept.
    """
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        await tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        campaign = await access.with_recipients(tx, caller, campaign_id, held.settings.keep.recipients, now)
        of = answering_to(campaign)
        rows = await tx.execute(text(_COUNTED), of)
        counted = [_Counted(each.by, each.variant, each.territory, each.hour, _costed(each._asdict())) for each in rows]
        reasons = (await tx.execute(text(_REASONS), {"id": campaign_id})).all()
        links = (await tx.execute(text(_LINKS), {"id": campaign_id})).all()
        converted = await _conversions(tx, campaign, timedelta(days=converts_within_days), now)
    return CampaignStatistics(
        as_of=now,
        total=next(each.counts for each in counted if each.by == _TOTAL),
        variants=[OfVariant(variant=each.variant, **dict(each.counts)) for each in counted if each.by == _BY_VARIANT],
        territories=[
            OfTerritory(territory=each.territory, **dict(each.counts)) for each in counted if each.by == _BY_TERRITORY
        ],
        hours=[OfHour(hour=each.hour, **dict(each.counts)) for each in counted if each.by == _BY_HOUR],
        reasons=[OfReason(**each._mapping) for each in reasons],
        links=[OfLink(**each._mapping) for each in links],
        conversions=converted,
    )


async def _conversions(
    tx: AsyncConnection, campaign: Campaign, within: timedelta, now: datetime
) -> CampaignConversions | None:
    if campaign.started_at is None:
        return None
    until = later(campaign.ended_at or now, within)
    tested, since = campaign.trial is not None, campaign.started_at
    groups = await conversions.by_group(tx, campaign.campaign_id, campaign.sender_id, since, until, drawn=tested)
    messaged, held_out = groups.get(False, conversions.NOBODY), groups.get(True)
    found = lift(_share(messaged), _share(held_out)) if held_out is not None else None
    return CampaignConversions(
        since=since,
        until=until,
        messaged=_group(messaged),
        holdout=None if held_out is None else _group(held_out),
        lift=None if found is None else ConversionLift(**found._asdict(), confidence=CONFIDENCE),
    )


def _share(group: conversions.Group) -> Share:
    return Share(group.converted, group.people)


def _group(group: conversions.Group) -> ConversionGroup:
    rate = _share(group).rate if group.people else None
    return ConversionGroup.model_validate(group._asdict() | {"rate": rate})


@router.get(
    "/campaigns/{campaign_id}/recipients.csv",
    operation_id="statistics.export_recipients",
    response_class=Streamed,
    responses={200: {"content": {"text/csv": CSV}}, **refuses(CampaignUnreadable, PastItsTime)},
)
async def export_recipients(campaign_id: Storable, held: Held, caller: Reader) -> Streamed:
    """Return all recipients as CSV, a line each, without numbers.

    The export reads page after page: a recipient's line shows the state at the time of reading. Answers 410 once the
    recipients are no longer kept.
    """
    async with held.database.begin() as tx:
        kept = held.settings.keep.recipients
        campaign = await access.with_recipients(tx, caller, campaign_id, kept, datetime.now(UTC))
        ids = held.edge_ids.of(await caller.controller_of(campaign.sender_id, tx))
    name = f"attachment; filename={campaign_id}.csv"
    return Streamed(
        _Export(held.database, campaign, ids, held.subject_keys.inner).lines(),
        media_type="text/csv",
        headers={"Content-Disposition": name},
    )


@router.post(
    "/campaigns/{campaign_id}/trace",
    operation_id="statistics.trace",
    responses=refuses(CampaignUnreadable, PastItsTime),
)
async def trace_recipient(campaign_id: Storable, body: WhoseTrace, held: Held, caller: Tracer) -> Trace:
    """Return the course of one person's message in a campaign, found by the person's number.

    The trace shows whether the person was in the audience, the decision and its reasons, hand-off, DLR, clicks, and an
    opt-out in answer. Each trace is logged with the caller. Answers 410 once the recipients are no longer kept.
    """
    async with held.database.begin() as tx:
        kept = held.settings.keep.recipients
        campaign = await access.with_recipients(tx, caller, campaign_id, kept, datetime.now(UTC))
        countries = await caller.countries(body.country, [campaign.sender_id], held.settings.country, tx)
        try:
            number = parse(body.number, countries=countries, fictional=held.settings.fictional_numbers)
        except NumberRefused as refused:
            reason = Reason("number", refused.reason.value, refused.remedy)
            raise Invalid(str(refused), reasons=[reason]) from refused
        subject_id = held.subject_keys.subject_id(number.e164)
        ids = held.edge_ids.of(await caller.controller_of(campaign.sender_id, tx))
        told = await _recipients(tx, campaign, subject_id=subject_id, limit=1)
        followed = (await tx.execute(text(_FOLLOWED), {"id": campaign_id, "subject_id": subject_id})).all()
    log.info(
        "a recipient was traced",
        extra={"campaign_id": campaign_id, "subject_id": subject_id, "by": caller.subject},
    )
    if not told:
        return Trace(subject_id=ids.shown(subject_id), in_audience=False)
    [one] = told
    return Trace(
        subject_id=ids.shown(subject_id),
        in_audience=True,
        message_id=message_of(campaign_id, campaign.scheduled_start, held.subject_keys.inner(subject_id)),
        variant=one.variant,
        status=one.status,
        reasons=one.reasons,
        handed_off_at=one.handed_off_at,
        receipt=one.receipt,
        receipt_at=one.receipt_at,
        links=[Followed(**each._mapping) for each in followed],
        opted_out_at=one.opted_out_at,
    )


_TOTAL, _BY_HOUR, _BY_VARIANT, _BY_TERRITORY = 7, 6, 3, 5  # of grouping(): a bit per column left out

_COUNTED = (
    f"WITH answers AS MATERIALIZED ({ANSWERS}), clicked AS MATERIALIZED ({CLICKED}),"
    " told AS (SELECT r.variant, k.territory,"
    " date_trunc('hour', r.handed_off_at, 'UTC') AS hour, r.status, r.receipt, r.segments, r.cost,"
    " c.subject_id AS clicked,"
    " a.subject_id AS answered FROM recipient AS r"
    " LEFT JOIN contact AS k ON k.sender_id = :sender_id AND k.subject_id = r.subject_id"
    " LEFT JOIN clicked AS c ON c.subject_id = r.subject_id LEFT JOIN answers AS a ON a.subject_id = r.subject_id"
    " WHERE r.campaign_id = :id)"
    " SELECT grouping(variant, territory, hour) AS by, variant, territory, hour, count(*) AS audience,"
    " count(*) FILTER (WHERE status IN ('pending', 'sending')) AS pending,"
    + "".join(f" count(*) FILTER (WHERE status = '{name}') AS {name}," for name in STANDINGS if name != "pending")
    + " count(*) FILTER (WHERE receipt = 'delivered') AS delivered,"
    f" count(*) FILTER (WHERE receipt IN {UNDELIVERED}) AS undelivered,"
    " count(clicked) AS clicked, count(answered) AS opted_out,"
    " coalesce(sum(segments), 0) AS segments, sum(cost) AS cost,"
    f" count(*) FILTER (WHERE status IN {CHARGED} AND cost IS NULL) AS unpriced"
    " FROM told GROUP BY GROUPING SETS ((), (variant), (territory), (hour)) ORDER BY by, variant, territory, hour"
)
_REASONS = (
    "SELECT status, reason, count(*) AS recipients FROM recipient AS r, unnest(r.reasons) AS reason"
    " WHERE r.campaign_id = :id GROUP BY status, reason ORDER BY recipients DESC, status, reason"
)
_LINKS = (
    "SELECT t.place AS link, t.target, count(l.subject_id) AS people, coalesce(sum(l.clicks), 0) AS clicks"
    " FROM campaign_link AS t LEFT JOIN link AS l"
    " ON l.campaign_id = t.campaign_id AND l.place = t.place AND l.clicks > 0"
    " WHERE t.campaign_id = :id GROUP BY t.place, t.target ORDER BY t.place"
)
_FOLLOWED = (
    "SELECT t.target, l.clicks, l.first_clicked_at, l.last_clicked_at FROM link AS l"
    " JOIN campaign_link AS t USING (campaign_id, place)"
    " WHERE l.campaign_id = :id AND l.subject_id = :subject_id ORDER BY t.place"
)


class _Counted(NamedTuple):
    """A row of _COUNTED."""

    by: int
    variant: str | None
    territory: str | None
    hour: datetime | None
    counts: Costed


def _costed(columns: Mapping[str, int | None]) -> Costed:
    """Return the counts of a row of _COUNTED. Without a price the cost is zero only if no message lacks a price."""
    cost = columns["cost"] if columns["unpriced"] else columns["cost"] or 0
    handed_off = sum(columns[name] or 0 for name in OUTCOMES)
    return Costed.model_validate({**columns, "handed_off": handed_off, "cost": None if cost is None else euros(cost)})


class _RecipientResult(NamedTuple):
    """A recipient with results."""

    subject_id: str
    variant: str | None
    territory: str | None
    status: str
    reasons: Sequence[str]
    handed_off_at: datetime | None
    receipt: str | None
    receipt_at: datetime | None
    segments: int | None
    cost: int | None
    clicks: int | None
    first_clicked_at: datetime | None
    opted_out_at: datetime | None


async def _recipients(
    tx: AsyncConnection, campaign: Campaign, *, limit: int, after: str = "", subject_id: str | None = None
) -> list[_RecipientResult]:
    """Return recipients with results: a page after `after`, or one person."""
    told = await tx.execute(
        text(
            "WITH page AS MATERIALIZED (SELECT * FROM recipient WHERE campaign_id = :id"
            " AND subject_id > :after AND (CAST(:subject_id AS text) IS NULL OR subject_id = :subject_id)"
            f" ORDER BY subject_id LIMIT {limit:d}),"
            f" answers AS MATERIALIZED ({ANSWERS.replace('JOIN recipient AS r', 'JOIN page AS r')})"
            " SELECT r.subject_id, r.variant, k.territory, r.status, r.reasons, r.handed_off_at, r.receipt,"
            " r.receipt_at, r.segments, r.cost, l.clicks, l.first_clicked_at, a.at AS opted_out_at FROM page AS r"
            " LEFT JOIN contact AS k ON k.sender_id = :sender_id AND k.subject_id = r.subject_id"
            " LEFT JOIN LATERAL (SELECT sum(clicks) AS clicks, min(first_clicked_at) AS first_clicked_at FROM link"
            " WHERE link.campaign_id = :id AND link.subject_id = r.subject_id) AS l ON true"
            " LEFT JOIN answers AS a ON a.subject_id = r.subject_id ORDER BY r.subject_id"
        ),
        {
            **answering_to(campaign),
            "after": after,
            "subject_id": subject_id,
        },
    )
    return [_RecipientResult(*row) for row in told]


@dataclass(frozen=True, slots=True)
class _Export:
    """The CSV file of one campaign's recipients. `ids`: of people with the sender's controller."""

    database: Database
    campaign: Campaign
    ids: ControllerIds
    inner: Inner

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the file.

        The lines of a page stand in the order of the ids shown: the order of the subject ids would join two files.
        """
        yield lines([COLUMNS]).encode(ENCODING)
        after = ""
        while True:
            async with self.database.begin() as tx:
                page = await _recipients(tx, self.campaign, after=after, limit=PAGE)
            if page:
                cells = {self.ids.shown(each.subject_id): each for each in page}
                yield lines(self._cells(who, cells[who]) for who in sorted(cells)).encode()
            if len(page) < PAGE:
                return
            after = page[-1].subject_id

    def _cells(self, who: str, each: _RecipientResult) -> list[str]:
        told = {
            **each._asdict(),
            "subject_id": who,
            "message_id": message_of(
                self.campaign.campaign_id, self.campaign.scheduled_start, self.inner(each.subject_id)
            ),
            "reasons": " ".join(each.reasons),
            "cost": None if each.cost is None else euros(each.cost),
        }
        return [cell(told[name]) for name in COLUMNS]
