"""Serve a campaign's results over HTTP: breakdowns, recipients as CSV, the trace of one recipient.

The statistics count recipients in one snapshot, not the live tallies (`accounts.py`): each breakdown adds up to the
total.
"""

import csv
import io
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import OUTCOMES, STANDINGS, UNDELIVERED
from campaign.audience.opt_outs import ANSWERS
from campaign.campaigns import access
from campaign.campaigns.campaign import Campaign
from campaign.results.results import CLICKED, answering_to
from campaign.schedule.lifecycle import message_of
from common.db.database import Database
from common.service import Resources, resources
from common.sms.msisdn import NumberRefused, parse
from common.spreadsheet import cell
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.problems import Invalid, Reason

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
    "clicks",
    "first_clicked_at",
    "opted_out_at",
)

Held = Annotated[Resources[Any], Depends(resources)]
Reader = Annotated[Caller, Depends(require("campaign:read"))]
Tracer = Annotated[Caller, Depends(require("campaign:trace"))]


class Counts(BaseModel):
    """Numbers of people.

    audience = pending + denied + deferred + handed_off + expired, and handed_off = accepted + rejected + unknown.
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


class OfVariant(Counts):
    variant: str | None = Field(
        description="Null for a campaign with a single text, and for recipients not requested yet."
    )


class OfTerritory(Counts):
    territory: str | None = Field(description="The number's territory; null after the contact's deletion.")


class OfHour(Counts):
    hour: datetime | None = Field(description="The hour of the hand-off in UTC; null without a hand-off.")


class OfReason(BaseModel):
    status: str
    reason: str
    recipients: int = Field(description="A recipient with two reasons counts for both.")


class OfLink(BaseModel):
    link: int
    target: str
    people: int
    clicks: int


class CampaignStatistics(BaseModel):
    as_of: datetime
    total: Counts
    variants: list[OfVariant]
    territories: list[OfTerritory]
    hours: list[OfHour]
    reasons: list[OfReason]
    links: list[OfLink]


class WhoseTrace(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"number": "06 39 98 01 02"}]})

    number: Storable = Field(min_length=1, max_length=40)


class Followed(BaseModel):
    target: str
    clicks: int
    first_clicked_at: datetime | None
    last_clicked_at: datetime | None


class Trace(BaseModel):
    """The course of one message. With `in_audience` false, only `subject_id` is set."""

    subject_id: str
    in_audience: bool
    message_id: str | None = Field(
        None, description="The message's id; dispatch-svc returns the full decision at `/v1/messages/{id}`."
    )
    variant: str | None = None
    status: str | None = None
    reasons: list[str] = []
    handed_off_at: datetime | None = None
    receipt: str | None = None
    receipt_at: datetime | None = None
    links: list[Followed] = []
    opted_out_at: datetime | None = Field(None, description="The opt-out attributed to this message.")


@router.get("/campaigns/{campaign_id}/statistics")
async def get_statistics(campaign_id: Storable, held: Held, caller: Reader) -> CampaignStatistics:
    """Return a campaign's counts by variant, territory, hour, reason and link, all as of one instant.

    Answers 410 once the recipients are no longer kept.
    """
    now = datetime.now(UTC)
    async with held.database.begin() as tx:
        await tx.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))
        campaign = await access.with_recipients(tx, caller, campaign_id, held.settings.keep.recipients, now)
        of = answering_to(campaign)
        rows = await tx.execute(text(_COUNTED), of)
        counted = [_Counted(each.by, each.variant, each.territory, each.hour, _counts(each._asdict())) for each in rows]
        reasons = (await tx.execute(text(_REASONS), {"id": campaign_id})).all()
        links = (await tx.execute(text(_LINKS), {"id": campaign_id})).all()
    return CampaignStatistics(
        as_of=now,
        total=next(Counts(**each.counts) for each in counted if each.by == _TOTAL),
        variants=[OfVariant(variant=each.variant, **each.counts) for each in counted if each.by == _BY_VARIANT],
        territories=[
            OfTerritory(territory=each.territory, **each.counts) for each in counted if each.by == _BY_TERRITORY
        ],
        hours=[OfHour(hour=each.hour, **each.counts) for each in counted if each.by == _BY_HOUR],
        reasons=[OfReason(**each._mapping) for each in reasons],
        links=[OfLink(**each._mapping) for each in links],
    )


@router.get(
    "/campaigns/{campaign_id}/recipients.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}}},
)
async def export_recipients(campaign_id: Storable, held: Held, caller: Reader) -> StreamingResponse:
    """Return all recipients as CSV, a line each, without numbers.

    The export reads page after page: a recipient's line shows the state at the time of reading. Answers 410 once the
    recipients are no longer kept.
    """
    async with held.database.begin() as tx:
        kept = held.settings.keep.recipients
        campaign = await access.with_recipients(tx, caller, campaign_id, kept, datetime.now(UTC))
    name = f"attachment; filename={campaign_id}.csv"
    return StreamingResponse(
        _Export(held.database, campaign, caller).lines(), media_type="text/csv", headers={"Content-Disposition": name}
    )


@router.post("/campaigns/{campaign_id}/trace")
async def trace_recipient(campaign_id: Storable, body: WhoseTrace, held: Held, caller: Tracer) -> Trace:
    """Return the course of one person's message in a campaign, found by the person's number.

    The trace shows whether the person was in the audience, the decision and its reasons, hand-off, DLR, clicks, and an
    opt-out in answer. Each trace is logged with the caller. Answers 410 once the recipients are no longer kept.
    """
    try:
        number = parse(body.number, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        raise Invalid(str(refused), reasons=[Reason("number", refused.reason.value)]) from refused
    subject_id = held.subject_keys.subject_id(number.e164)
    async with held.database.begin() as tx:
        kept = held.settings.keep.recipients
        campaign = await access.with_recipients(tx, caller, campaign_id, kept, datetime.now(UTC))
        told = await _recipients(tx, campaign, subject_id=subject_id, limit=1)
        followed = (await tx.execute(text(_FOLLOWED), {"id": campaign_id, "subject_id": subject_id})).all()
    log.info(
        "a recipient was traced",
        extra={"campaign_id": campaign_id, "subject_id": subject_id, "by": caller.subject},
    )
    if not told:
        return Trace(subject_id=subject_id, in_audience=False)
    [one] = told
    return Trace(
        subject_id=subject_id,
        in_audience=True,
        message_id=message_of(campaign_id, campaign.scheduled_start, subject_id),
        variant=one.variant,
        status=one.status,
        reasons=caller.told(one.reasons),
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
    " date_trunc('hour', r.handed_off_at, 'UTC') AS hour, r.status, r.receipt, c.subject_id AS clicked,"
    " a.subject_id AS answered FROM recipient AS r"
    " LEFT JOIN contact AS k ON k.sender_id = :sender_id AND k.subject_id = r.subject_id"
    " LEFT JOIN clicked AS c ON c.subject_id = r.subject_id LEFT JOIN answers AS a ON a.subject_id = r.subject_id"
    " WHERE r.campaign_id = :id)"
    " SELECT grouping(variant, territory, hour) AS by, variant, territory, hour, count(*) AS audience,"
    " count(*) FILTER (WHERE status IN ('pending', 'sending')) AS pending,"
    + "".join(f" count(*) FILTER (WHERE status = '{name}') AS {name}," for name in STANDINGS if name != "pending")
    + " count(*) FILTER (WHERE receipt = 'delivered') AS delivered,"
    f" count(*) FILTER (WHERE receipt IN {UNDELIVERED}) AS undelivered,"
    " count(clicked) AS clicked, count(answered) AS opted_out"
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
    counts: Mapping[str, int]


def _counts(columns: Mapping[str, int]) -> Mapping[str, int]:
    told = {name: columns[name] for name in Counts.model_fields if name != "handed_off"}
    return {**told, "handed_off": sum(told[name] for name in OUTCOMES)}


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
            " r.receipt_at, l.clicks, l.first_clicked_at, a.at AS opted_out_at FROM page AS r"
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
    """The CSV file of one campaign's recipients."""

    database: Database
    campaign: Campaign
    caller: Caller

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the file, with a byte-order mark: without it, spreadsheets misread the encoding."""
        yield _csv([COLUMNS]).encode("utf-8-sig")
        after = ""
        while True:
            async with self.database.begin() as tx:
                page = await _recipients(tx, self.campaign, after=after, limit=PAGE)
            if page:
                yield _csv([self._cells(each) for each in page]).encode()
            if len(page) < PAGE:
                return
            after = page[-1].subject_id

    def _cells(self, each: _RecipientResult) -> list[str]:
        told = {
            **each._asdict(),
            "message_id": message_of(self.campaign.campaign_id, self.campaign.scheduled_start, each.subject_id),
            "reasons": " ".join(self.caller.told(each.reasons)),
        }
        return [cell(told[name]) for name in COLUMNS]


def _csv(rows: Sequence[Sequence[str]]) -> str:
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()
