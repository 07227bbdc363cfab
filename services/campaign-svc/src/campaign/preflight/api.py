"""Serve the pre-flight, approvals and sender rules over HTTP.

A pre-flight reads the audience in key order, a transaction per page. A thread renders and counts the texts, so that the
event loop stays free.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import consents, frequency, segments
from campaign.audience.draw import lot
from campaign.audience.reach import Standing
from campaign.audience.segment_language import Condition
from campaign.authors import may_approve
from campaign.campaigns import access, recipients
from campaign.campaigns.access import CampaignUnreadable
from campaign.campaigns.campaign import Campaign
from campaign.message.short_link import is_host
from campaign.preflight import checks, findings, store
from campaign.preflight import limits as limits_of
from campaign.preflight.bodies import (
    Against,
    Approval,
    Cap,
    Closed,
    Cost,
    Holiday,
    Lengths,
    LimitsLeft,
    NewApproval,
    Place,
    PreFlight,
    SenderRules,
    Wait,
    When,
)
from campaign.preflight.checks import Approved
from campaign.preflight.forecast import NO_TRIAL, Forecast, Outlook, Plan
from campaign.preflight.store import Selected
from campaign.schedule import recurrence
from campaign.schedule.lifecycle import Status
from campaign.senders import registry
from campaign.senders import store as senders
from campaign.senders.caller import of_caller
from campaign.senders.store import Sender
from common.db.allowances import tallied
from common.db.database import Database
from common.keyring import FieldKeys, Unreadable
from common.law import Closure, begins_with, zones
from common.law.stop_mention import mentions_stop
from common.limits import day_of
from common.service import Resources
from common.sms.msisdn import territory_of
from common.sms.prices import euros
from common.texts.findings import Finding
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.openapi import refuses
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from common.web.problems import Conflict, Forbidden, Invalid, Reason

router = APIRouter(prefix="/v1", tags=["pre-flight"])

PAGE = 2000
OCCURRENCES = 10

Held = Annotated[Resources[Any], Depends(of_caller)]
Author = Annotated[Caller, Depends(require("campaign:write"))]
Reader = Annotated[Caller, Depends(require("campaign:read"))]
Approver = Annotated[Caller, Depends(require("campaign:approve"))]
Ruler = Annotated[Caller, Depends(require("campaign:rules"))]

_attributes = msgspec.json.Decoder(dict[str, str])
_standing = msgspec.json.Decoder(Standing)


class CampaignChanged(Conflict):
    """The campaign, or its forecast, is not what the pre-flight with this digest showed.

    Run a new pre-flight, read it, and approve by its digest.
    """

    slug, title = "campaign-changed", "The campaign has changed since the pre-flight"


@router.post(
    "/campaigns/{campaign_id}/pre-flight", operation_id="pre_flights.create", responses=refuses(CampaignUnreadable)
)
async def look_at_campaign(campaign_id: Storable, held: Held, caller: Reader, body: When | None = None) -> PreFlight:
    """Forecast the campaign as of now, and return the findings against scheduling.

    Scheduling runs the text checks again; findings in the audience are taken from the last pre-flight of an unchanged
    campaign. `at` is required with `timing.local_time`.
    """
    at = body.at if body else None
    now = datetime.now(UTC)
    checks.not_too_far("at", at, now)
    async with held.database.begin() as tx:
        campaign, sender = await campaign_of(tx, caller, campaign_id)
        known = await consents.as_of(tx, held.settings.partitions)
        limits = await recipients.limits_of(tx, campaign, at or now)
        selected = await segments.of_campaign(
            tx, campaign.sender_id, campaign.selection, at or now, held.settings.policy
        )
    if at is None and campaign.timing.local_time:
        raise Invalid(
            "`at` is required when `timing.local_time` is set", reasons=[Reason("at", "needed_for_local_time")]
        )
    plan = plan_of(campaign, sender, at or now, now, held.settings)
    outlook = await _Look(held.database, held.field_keys, campaign, selected, limits, Forecast(plan)).outlook()
    async with held.database.begin() as tx:
        limited = held.settings.limited.of(sender.organisation_id)
        requested = await tallied(tx, limits_of.REQUESTED_OF_DAY, sender.organisation_id, day_of(now)[0])
        left = limits_of.left(limited, requested, at or now, now)
        outlook = replace(
            outlook,
            findings=(*outlook.findings, *limits_of.of_limits(outlook.would_get, outlook.cost, outlook.unpriced, left)),
        )
        unknown = await checks.unknown_fields(tx, campaign)
        names = {finding.found for finding in unknown}
        found = [f for f in outlook.findings if f.rule != "field_nobody_has" or f.found not in names]
        ids = [finding.id for finding in found]  # unknown fields are looked up again when scheduling
        outlook = replace(outlook, findings=(*found, *unknown))
        await store.put_pre_flight(tx, campaign_id, checks.agreed(campaign, sender, None), at, ids, now)
        approved = await checks.approval_of(tx, campaign, sender, at, outlook.findings)
    return _shown(campaign, sender, at, now, known, plan, outlook, approved, left)


@router.post(
    "/campaigns/{campaign_id}/approvals",
    operation_id="approvals.create",
    status_code=201,
    responses=refuses(CampaignChanged, CampaignUnreadable, Conflict),
)
async def approve_campaign(campaign_id: Storable, body: NewApproval, held: Held, caller: Approver) -> Approval:
    """Approve the campaign as the pre-flight with this `digest` showed, to start at `at`.

    The approver must not have written any part of the campaign (403). A later change of text, audience, sender or start
    voids the approval. Answers 409 where the digest no longer matches, or the campaign has started or ended.
    """
    now = datetime.now(UTC)
    checks.not_too_far("at", body.at, now)
    async with held.database.begin() as tx:
        campaign, sender = await campaign_of(tx, caller, campaign_id, lock=True)
        if campaign.begun or campaign.status in (Status.FINISHED, Status.CANCELLED):
            raise Conflict("the campaign has begun", reasons=[Reason("status", campaign.status)])
        if not may_approve(caller.subject, campaign.authors):
            raise Forbidden(
                "the author of a campaign cannot approve it: ask another person",
                reasons=[Reason("approved_by", "own_campaign")],
            )
        if body.digest != checks.agreed(campaign, sender, body.at):
            raise CampaignChanged(
                "it says something else, or to others, or starts at another time",
                reasons=[Reason("digest", "another_campaign")],
            )
        await store.add_approval(tx, campaign_id, body.digest, caller.subject, now)
    return Approval(digest=body.digest, approved_by=caller.subject, approved_at=now)


@router.get("/campaigns/{campaign_id}/approvals", operation_id="approvals.list", responses=refuses(CampaignUnreadable))
async def list_approvals(
    campaign_id: Storable, held: Held, caller: Reader, cursor: Cursor = None, limit: Limit = LIMIT
) -> Page[Approval]:
    """List the approvals of the campaign, oldest first. An approval from before an edit has no effect."""
    async with held.database.begin() as tx:
        await campaign_of(tx, caller, campaign_id)
        given = await store.approvals_after(tx, campaign_id, position(cursor, tuple[datetime, str, str]), limit)
    items = [Approval(**msgspec.structs.asdict(each)) for each in given]
    return Page[Approval](items=items, next=next_of(given, limit, attrgetter("approved_at", "approved_by", "digest")))


@router.get("/senders/{sender_id}/rules", operation_id="sender_rules.get")
async def get_sender_rules(sender_id: Storable, held: Held, caller: Reader) -> SenderRules:
    """Return the rules for the sender's campaigns. consent-svc holds the sender's registration itself."""
    sender = await registry.known(held.database, caller, sender_id)
    async with held.database.begin() as tx:
        cap = await senders.cap_of(tx, sender_id)
        return SenderRules(
            approval=await store.needs_approval(tx, sender_id),
            cap=Cap(messages=cap[0], days=cap[1]) if cap else None,
            link_host=sender.link_host,
            stop_added=sender.stop_added or None,
        )


@router.put("/senders/{sender_id}/rules", operation_id="sender_rules.put")
async def put_sender_rules(sender_id: Storable, body: SenderRules, held: Held, caller: Ruler) -> SenderRules:
    """Replace the rules for the sender's campaigns."""
    sender = await registry.known(held.database, caller, sender_id)
    if body.link_host is not None:
        _own_host(body.link_host)
    if body.stop_added is not None and not mentions_stop(body.stop_added, sender.stop_code):
        raise Invalid(
            f"it says nothing of STOP and {sender.stop_code}", reasons=[Reason("stop_added", "stop_mention_missing")]
        )
    async with held.database.begin() as tx:
        await senders.put_sender_rule(
            tx,
            sender_id,
            approval=body.approval,
            cap=(body.cap.messages, body.cap.days) if body.cap else None,
            link_host=body.link_host,
            stop_added=body.stop_added,
            changed_by=caller.subject,
            now=datetime.now(UTC),
        )
    return body


def _own_host(host: str) -> None:
    """Refuse an invalid host name or a public shortener.

    Operators filter shorteners (DOMAIN 1.11). Raises Invalid.
    """
    if not is_host(host):
        raise Invalid(
            "`link_host` is not a host name in small letters, such as `sms.example.fr`",
            reasons=[Reason("link_host", "no_host")],
        )
    if host.removeprefix("www.") in findings.load().shorteners:
        raise Invalid(
            "`link_host` is a public shortener, which operators filter: use a host of your own",
            reasons=[Reason("link_host", "public_shortener")],
        )


def plan_of(campaign: Campaign, sender: Sender, at: datetime, now: datetime, settings: Any) -> Plan:
    """Build the forecast's plan."""
    table = checks.table_of(campaign, sender, at, now, settings.policy)
    return Plan(
        wordings=campaign.wordings,
        sender_id=campaign.sender_id,
        purpose=campaign.purpose,
        brand=sender.brand,
        oadc=sender.oadc,
        stop_code=sender.stop_code,
        stop_added=sender.stop_added,
        sectors=campaign.sectors,
        timetable=table,
        begins_with=lambda place: begins_with(table.starts_at, place.territory, settings.policy, region=place.region),
        prices=settings.price_table,
        compliance=findings.load(),
        rate_per_s=settings.rate_per_s,
        trial=campaign.trial or NO_TRIAL,
        reachable_in=sender.reachable_in,
        stop_page=sender.stop_page,
    )


@dataclass
class _Look:
    """A pass over a campaign's audience."""

    database: Database
    keys: FieldKeys
    campaign: Campaign
    selected: Condition
    limits: Sequence[tuple[frequency.Limit, Sequence[str]]]
    forecast: Forecast

    async def outlook(self) -> Outlook:
        after = ""
        while True:
            async with self.database.begin() as tx:
                page = await store.selected_after(tx, self.campaign.sender_id, self.selected, self.limits, after, PAGE)
            await asyncio.to_thread(self._count, page)
            if len(page) < PAGE:
                return await asyncio.to_thread(lambda: self.forecast.outlook)
            after = page[-1].subject_id

    def _count(self, page: Sequence[Selected]) -> None:
        campaign = self.campaign
        for contact in page:
            try:
                territory = territory_of(self.keys.unseal(contact.number, f"number:{contact.subject_id}"))
            except Unreadable:
                self.forecast.add_unreadable()
                continue
            standing = None if contact.told is None else _standing.decode(contact.told)
            drawn = (
                0.0
                if campaign.trial is None
                else lot(campaign.campaign_id, self.keys.inner(contact.subject_id), "variant")
            )
            self.forecast.add(_attributes.decode(contact.attributes), territory, standing, contact.left_out, drawn)


async def campaign_of(
    tx: AsyncConnection, caller: Caller, campaign_id: str, *, lock: bool = False
) -> tuple[Campaign, Sender]:
    campaign = await access.found(tx, caller, campaign_id, lock=lock)
    sender = await senders.find_sender(tx, campaign.sender_id)
    assert sender is not None
    return campaign, sender


def _shown(
    campaign: Campaign,
    sender: Sender,
    at: datetime | None,
    now: datetime,
    known: datetime | None,
    plan: Plan,
    outlook: Outlook,
    approved: Approved,
    left: limits_of.Left,
) -> PreFlight:
    segments = sorted(outlook.segments.items())
    least, median, most = outlook.units or (None, None, None)
    return PreFlight(
        digest=checks.agreed(campaign, sender, at),
        at=at,
        occurrences=_occurrences(campaign, plan),
        made_at=now,
        consents_as_of=known,
        audience=outlook.audience,
        would_get=outlook.would_get,
        would_not=outlook.audience - outlook.would_get,
        reasons=dict(outlook.reasons),
        under_review=outlook.under_review,
        languages=dict(outlook.languages),
        lengths=Lengths(
            segments=dict(segments),
            least=segments[0][0] if segments else None,
            median=outlook.median_segments,
            most=segments[-1][0] if segments else None,
            units_least=least,
            units_median=median,
            units_most=most,
            ucs2=outlook.encodings.get("UCS2", 0),
            ucs2_by_contact=outlook.costly_by_contact,
        ),
        cost=Cost(
            prices=plan.prices.version,
            total=None if outlook.cost is None else euros(outlook.cost),
            unpriced=outlook.unpriced,
            unpriced_territories=[place.territory for place in outlook.places if place.cost is None],
        ),
        territories=[
            Place(
                territory=place.territory,
                people=place.people,
                segments=place.segments,
                cost=None if place.cost is None else euros(place.cost),
                opens_at=place.opens_at,
                closed_by=_closed(place.against),
            )
            for place in outlook.places
        ],
        waits=[
            Wait(
                territory=wait.territory,
                region=wait.region,
                people=wait.people,
                opens_at=wait.opens_at,
                too_late=wait.too_late,
                closed_by=_closed(wait.against),
            )
            for wait in outlook.waits
        ],
        opens_at=outlook.opens_at,
        finishes_at=outlook.finishes_at,
        rate_per_s=plan.rate,
        limits=LimitsLeft(
            messages_per_day=left.messages_per_day,
            messages_left=left.messages_left,
            spend_per_month=None if left.spend is None else euros(left.spend),
        ),
        findings=[_against(finding, plan.compliance.rules) for finding in outlook.findings],
        compliance=plan.compliance.version,
        approval=approved,
    )


def _occurrences(campaign: Campaign, plan: Plan) -> list[datetime]:
    rule, table = campaign.recurring, plan.timetable
    if rule is None or table.at is None:
        return []
    zone = zones(table.country, table.policy)[0]
    return list(islice(recurrence.occurrences(rule, zone, table.at), OCCURRENCES))


def _closed(against: Sequence[Closure]) -> list[Closed]:
    """Return each rule once, even if closing several time zones of a place."""
    told = dict.fromkeys((closure.aspect, closure.rule.id, closure.rule.source, closure.holiday) for closure in against)
    return [
        Closed(
            aspect=aspect,
            rule=rule,
            source=source,
            holiday=None if holiday is None else Holiday(name=holiday.name, source=holiday.source),
        )
        for aspect, rule, source, holiday in told
    ]


def _against(finding: Finding, rules: Mapping[str, findings.Rule]) -> Against:
    rule = rules[finding.rule]
    return Against(
        id=finding.id,
        rule=finding.rule,
        severity=rule.severity,
        says=rule.says,
        found=finding.found or None,
        people=finding.people or None,
        source=rule.source,
        needs_approval=rule.needs_approval,
    )
