"""Check a campaign's content, and put the content in comparable form."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.api.bodies import CampaignEdited, NewCampaign
from campaign.audience import segments
from campaign.campaigns.campaign import Campaign, Content
from campaign.message.text import parse
from campaign.message.writing import checked
from campaign.preflight import checks
from campaign.schedule import recurrence
from campaign.schedule import revision as edition
from campaign.schedule.recurrence import Recurring
from campaign.senders.store import Sender
from common.law import Policy, zones
from common.web.problems import Invalid, Reason

_SAID_AS = {"selection": "audience"}  # names of the API


def unchanged(campaign: Campaign, body: NewCampaign, if_match: str) -> None:
    """Refuse an edit of a campaign changed since the `If-Match` tag was read.

    An edit equal to the current content passes, so that a retry succeeds. Raises CampaignEdited.
    """
    parts = stored_parts(campaign)
    changed = edition.changed(if_match, parts)
    if changed is None or parts == parts_of(body):
        return
    by = f"; who edited it last is {campaign.edited_by[-1]}" if campaign.edited_by else ""
    raise CampaignEdited(
        f"it has been changed since it was read{by}: read it again, and edit what it is now",
        reasons=[Reason(name, "changed") for name in changed] or [Reason("If-Match", "stale")],
    )


def body_checked(body: NewCampaign, sender: Sender, now: datetime, policy: Policy) -> None:
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
    """Refuse an A/B test by clicks where some text has no link. Raises Invalid."""
    assert body.trial is not None
    texts = {"text": (body.text, body.translations)}
    texts |= {f"trial.{each.name}.text": (each.text, each.translations) for each in body.trial.variants}
    for field, (source, translations) in texts.items():
        if not all(parse(each).links for each in (source, *translations.values())):
            raise Invalid(
                "every text needs a tracked link when clicks choose the winner", reasons=[Reason(field, "link_missing")]
            )


def _checked_rule(rule: Recurring, send_before: datetime | None, sender: Sender, now: datetime, policy: Policy) -> None:
    zone = zones(sender.country, policy)[0]
    if send_before is not None:
        raise Invalid(
            "an occurrence ends when the next comes", reasons=[Reason("send_before", "not_of_one_that_recurs")]
        )
    checks.not_too_far("recurring.until", max(rule.until, now), now)
    if recurrence.too_often(rule, zone, now):
        raise Invalid(
            "occurrences of `recurring.cron` are less than an hour apart",
            reasons=[Reason("recurring.cron", "too_often")],
        )
    if recurrence.first(rule, zone, now) is None:
        raise Invalid(
            "the rule has no occurrence before `recurring.until`: choose a later end",
            reasons=[Reason("recurring.until", "never_comes")],
        )


async def segment_checked(tx: AsyncConnection, body: NewCampaign) -> None:
    """Refuse a segment of another sender, or an unknown version. Raises Invalid."""
    if (chosen := body.audience.segment) is None:
        return
    found = await segments.find(tx, chosen.segment_id, chosen.version)
    if found is None or found.sender_id != body.sender_id:
        raise Invalid(
            "the sender has no such version of a segment", reasons=[Reason("audience.segment", "unknown_segment")]
        )


def written(body: NewCampaign) -> Content:
    """Return the author's content."""
    return Content(
        name=body.name,
        purpose=body.purpose,
        text=body.text,
        language=body.language,
        translations=body.translations,
        folding=body.folding,
        sectors=tuple(sorted(set(body.sectors))),
        selection=body.audience.selection,
        rest_days=body.rest_days,
        send_before=body.send_before,
        timing=body.timing,
        recurring=body.recurring,
        trial=body.trial,
        priority=body.priority,
    )


def stored_parts(campaign: Campaign) -> dict[str, object]:
    """Return the parts an edit would replace."""
    schedule = [campaign.agreed_start, campaign.agreed] if campaign.agreed is not None else None
    return _named(campaign) | {"schedule": schedule}


def parts_of(body: NewCampaign) -> dict[str, object]:
    """Return the parts as this edit would leave them."""
    return _named(written(body)) | {"schedule": None}


def _named(content: Content) -> dict[str, object]:
    """Return the content's parts under the field names of the API."""
    return {_SAID_AS.get(name, name): value for name, value in content.parts.items()}
