"""Decide whether a campaign may be scheduled, and start."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import segment_language as segment
from campaign.audience import segments
from campaign.audience.attributes import kinds_of
from campaign.authors import may_approve
from campaign.campaigns.campaign import Campaign
from campaign.message import text as texts
from campaign.preflight import approval, findings, store
from campaign.preflight.forecast import of_samples
from campaign.schedule import recurrence
from campaign.schedule.lifecycle import FURTHEST, KEPT
from campaign.schedule.timing import Timetable, timetable
from campaign.senders import store as senders
from campaign.senders.store import Sender
from common.law import Policy, zones
from common.texts.findings import Finding
from common.web.problems import Conflict, Invalid, Reason


class NotReady(Conflict):
    """Findings of the pre-flight keep the campaign from its start; `reasons` names each.

    Mend the campaign, or have it approved where a finding asks for an approval, and schedule again.
    """

    slug, title = "campaign-not-ready", "The campaign has open findings"


class Approved(BaseModel):
    """Whether the campaign needs an approval, and the approvals so far."""

    needed: bool = Field(description="True: the sender's rules, or a finding, ask for an approval by another person.")
    by: list[str] = Field(description="The people who approved exactly this content and start.")


def not_too_far(field: str, instant: datetime | None, now: datetime) -> None:
    """Refuse an instant further than FURTHEST from now. Raises Invalid."""
    if instant is not None and abs(instant - now) > FURTHEST:
        raise Invalid("the instant is more than two years from now", reasons=[Reason(field, "too_far")])


def table_of(campaign: Campaign, sender: Sender, at: datetime, now: datetime, policy: Policy) -> Timetable:
    """Build the timetable of a campaign starting `at`.

    A recurring campaign's timetable is of the first occurrence from `at` on, ending when the second comes. Raises
    Invalid where no occurrence is left.
    """
    rule, send_before = campaign.recurring, campaign.send_before
    if rule is not None:
        found = list(islice(recurrence.occurrences(rule, zones(sender.country, policy)[0], at), 2))
        if not found:
            raise Invalid(
                "the rule has no occurrence before `recurring.until`: choose a later end",
                reasons=[Reason("recurring.until", "never_comes")],
            )
        at, send_before = found[0], min(found[1], found[0] + KEPT) if len(found) == 2 else None
    return timetable(campaign.timing, sender.country, at, send_before, now, policy)


def agreed(campaign: Campaign, sender: Sender, at: datetime | None) -> str:
    """Return the approval digest of the campaign's current state."""
    wordings = campaign.wordings.values()
    link_host = sender.link_host if any(wording.targets for wording in wordings) else None
    stop_page = sender.stop_page if any(wording.stops_by_link for wording in wordings) else None
    return approval.digest(
        campaign.parts | {"sender_id": campaign.sender_id},
        {name: getattr(sender, name) for name in approval.SEEN},
        at,
        link_host,
        sender.stop_added,
        stop_page,
    )


async def clear(
    tx: AsyncConnection,
    campaign: Campaign,
    sender: Sender,
    at: datetime | None,
    acknowledged: Sequence[str],
    policy: Policy,
) -> bool:
    """Check that the campaign may be scheduled to start `at`; return whether an approval was needed.

    Raises NotReady with every blocking finding, or with the missing approval.
    """
    now = datetime.now(UTC)
    selected = await segments.of_campaign(tx, campaign.sender_id, campaign.selection, at or now, policy)
    if campaign.selection.segment and not await segments.selects_somebody(tx, campaign.sender_id, selected):
        raise NotReady(
            "the segment of the campaign selects no contact", reasons=[Reason("audience", "nobody_selected")]
        )
    found = await _found(tx, campaign, sender, at)
    rules = findings.load().rules
    against = [f for f in found if rules[f.rule].severity == "error" or f.id not in acknowledged]
    if against:
        raise NotReady(
            "errors are to be mended, warnings to be acknowledged by their ids",
            reasons=[
                Reason("acknowledge" if rules[f.rule].severity == "warning" else "text", f.id, rules[f.rule].says)
                for f in against
            ],
        )
    approved = await approval_of(tx, campaign, sender, at, tuple(found))
    if approved.needed and not approved.by:
        raise NotReady(
            "somebody else must approve exactly this, to start exactly then",
            reasons=[Reason("approval", "approval_missing")],
        )
    return approved.needed


async def against_start(tx: AsyncConnection, campaign: Campaign) -> str | None:
    """Return why a due campaign may not start, as shown in `sent_back`.

    Since scheduling, the sender or the need of an approval may have changed.
    """
    sender = await senders.find_sender(tx, campaign.sender_id)
    assert sender is not None
    found = await _found(tx, campaign, sender, campaign.agreed_start)
    changed = campaign.agreed != agreed(campaign, sender, None)
    if changed:
        rules = findings.load().rules
        errors = [*_refused(campaign, sender), *(f.id for f in found if rules[f.rule].severity == "error")]
        if errors:
            return ", ".join(errors)
    approved = await approval_of(tx, campaign, sender, campaign.agreed_start, tuple(found))
    if (approved.needed or campaign.approval_needed) and not approved.by:
        return "not_what_was_approved" if changed else "approval_missing"
    return None


async def lacks_approval(tx: AsyncConnection, campaign: Campaign, sender: Sender) -> bool:
    """Return whether a draft lacks an approval for the start of its last pre-flight."""
    last = await store.last_pre_flight(tx, campaign.campaign_id, agreed(campaign, sender, None))
    at = None if last is None else last.at
    approved = await approval_of(tx, campaign, sender, at, tuple(await _found(tx, campaign, sender, at)))
    return approved.needed and not approved.by


async def pass_on_approvals(tx: AsyncConnection, series: Campaign, occurrence: Campaign, sender: Sender) -> None:
    """Copy the approvals of a recurring campaign to one of its occurrences."""
    approved = agreed(series, sender, series.agreed_start)
    for each in await store.approvals_of(tx, series.campaign_id):
        if each.digest == approved:
            digest = agreed(occurrence, sender, series.agreed_start)
            await store.add_approval(tx, occurrence.campaign_id, digest, each.approved_by, each.approved_at)


async def _found(tx: AsyncConnection, campaign: Campaign, sender: Sender, at: datetime | None) -> dict[Finding, None]:
    """Return the findings in the texts, and those of the unchanged campaign's last pre-flight.

    Findings in OF_A_START count only for the start of that pre-flight.
    """
    compliance = findings.load()
    samples = of_samples(
        campaign.wordings.values(),
        brand=sender.brand,
        oadc=sender.oadc,
        stop_code=sender.stop_code,
        stop_added=sender.stop_added,
        sectors=campaign.sectors,
        compliance=compliance,
    )
    found = dict.fromkeys((*samples, *await unknown_fields(tx, campaign)))
    last = await store.last_pre_flight(tx, campaign.campaign_id, agreed(campaign, sender, None))
    if last is None:
        return found
    for each in last.findings:
        rule, _, what = each.partition(":")
        if rule not in compliance.rules:  # dropped since
            continue
        if last.at == at or rule not in findings.OF_A_START:
            found[Finding(rule, what)] = None
    return found


async def unknown_fields(tx: AsyncConnection, campaign: Campaign) -> list[Finding]:
    """Return the fields of the texts unknown among the sender's contacts.

    With such a field nobody gets the text, or everybody the fallback. A sender without contacts may name any field.
    """
    known = await kinds_of(tx, campaign.sender_id)
    named = {name for wording in campaign.wordings.values() for name in wording.fields}
    unknown = sorted(named - known.keys())
    if not unknown or not await segments.selects_somebody(tx, campaign.sender_id, segment.EVERYBODY):
        return []
    return [Finding("unknown_attribute", name) for name in unknown]


def _refused(campaign: Campaign, sender: Sender) -> list[str]:
    """Return why the texts cannot be sent, each reason once."""
    refused: dict[str, None] = {}
    for wording in campaign.wordings.values():
        for template in wording.templates.values():
            try:
                texts.check(template, sender.stop_code, sender.stop_added, sender.stop_page)
            except texts.TextRefused as error:
                refused[error.reason.value] = None
    return list(refused)


async def approval_of(
    tx: AsyncConnection, campaign: Campaign, sender: Sender, at: datetime | None, found: Sequence[Finding]
) -> Approved:
    """Return whether an approval is needed, and who gave one. An approver who edited the campaign later does not
    count."""
    needed = await store.needs_approval(tx, campaign.sender_id)
    rules = findings.load().rules
    digest = agreed(campaign, sender, at)
    return Approved(
        needed=needed or any(rules[f.rule].needs_approval for f in found),
        by=[
            each.approved_by
            for each in await store.approvals_of(tx, campaign.campaign_id)
            if each.digest == digest and may_approve(each.approved_by, campaign.authors)
        ],
    )
