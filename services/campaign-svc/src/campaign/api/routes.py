"""Serve campaigns over HTTP: write, edit, schedule, pause, resume, cancel, show.

`control` decides every change of a campaign's status.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.api import content, view
from campaign.api.bodies import (
    Campaign,
    CampaignEdited,
    CampaignOver,
    CampaignPastIt,
    EditedCampaign,
    NewCampaign,
    Recipient,
    Schedule,
    UnreadableCampaign,
    VariantResult,
    Variants,
)
from campaign.campaigns import access, recipients
from campaign.campaigns import store as campaigns
from campaign.campaigns.access import CampaignUnreadable
from campaign.campaigns.campaign import Campaign as Stored
from campaign.campaigns.campaign import Progress
from campaign.message.variants import OWN, Result
from campaign.message.writing import checked
from campaign.planning import control
from campaign.preflight import checks
from campaign.preflight.checks import NotReady
from campaign.results import results
from campaign.schedule import recurrence
from campaign.schedule import revision as edition
from campaign.schedule.lifecycle import Action, NotPossible, Status, ends_by, message_of, step
from campaign.schedule.recurrence import Recurring
from campaign.schedule.timing import Place, starts
from campaign.senders import registry
from campaign.senders import store as senders
from campaign.senders.caller import of_caller
from campaign.senders.store import Sender
from common.contracts.dispatch import Status as MessageStatus
from common.law import Policy, at_hand_off, covers, zones
from common.service import Resources
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.idempotency import Key, claim, derived_id, fingerprint_of, keyed, same
from common.web.openapi import refuses, tells
from common.web.pagination import LIMIT, SORTED, Cursor, Limit, OfSender, Page, Sort, next_of, position, subject_of
from common.web.problems import Invalid, NotFound, PastItsTime, Reason

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["campaigns"])

PAST_TOLERANCE = timedelta(minutes=1)  # clock skew and network delay

Held = Annotated[Resources[Any], Depends(of_caller)]
Author = Annotated[Caller, Depends(require("campaign:write"))]
Brakes = Annotated[Caller, Depends(require("campaign:write", limited=False))]  # no limit delays a brake
Reader = Annotated[Caller, Depends(require("campaign:read"))]


@router.post(
    "/campaigns",
    operation_id="campaigns.create",
    status_code=201,
    response_model=Campaign,
    responses=tells(201, "Location", "ETag") | refuses(NotFound, CampaignUnreadable),
)
async def write_campaign(
    body: NewCampaign,
    request: Request,
    held: Held,
    caller: Author,
    key: Key = None,
) -> Response:
    """Create a draft.

    A repeat of the request with the same `Idempotency-Key` gets the first answer: the draft as it was created.
    """
    now = datetime.now(UTC)
    sender = await registry.known(held.database, caller, body.sender_id)
    campaign_id = derived_id("cmp", caller, key)
    fingerprint = await fingerprint_of(request, held.subject_keys)
    async with held.database.begin() as tx:
        claimed = await claim(tx, await keyed(request, caller, key, held.subject_keys))
        if claimed.answer is not None:
            return claimed.answer.response()
        content.body_checked(body, sender, now, held.settings.policy)
        await content.segment_checked(tx, body)
        await campaigns.insert_campaign(
            tx,
            campaign_id,
            body.sender_id,
            content.written(body),
            created_by=caller.subject,
            created_at=now,
            fingerprint=fingerprint,
        )
        campaign = await access.found(tx, caller, campaign_id)
        same(campaign.fingerprint, fingerprint)
        [shown] = await view.shown(tx, held, [campaign])
        etag = edition.etag(edition.tag(content.stored_parts(campaign)))
        return await claimed.keep(tx, shown, 201, {"Location": f"/v1/campaigns/{campaign_id}", "ETag": etag})


@router.get("/campaigns", operation_id="campaigns.list")
async def list_campaigns(
    held: Held,
    caller: Reader,
    sender_id: OfSender = None,
    status: Annotated[Status | None, Query(description="Only campaigns in this state.")] = None,
    series_id: Annotated[
        Storable | None, Query(max_length=64, description="Only occurrences of this recurring campaign, by its id.")
    ] = None,
    archived: Annotated[bool, Query(description="True: the archived campaigns in place of the others.")] = False,
    sort: Sort = "newest",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Campaign]:
    """List the campaigns of the senders your token covers, without the archived campaigns.

    The order is that of the creation. `series_id` limits the list to the occurrences of a recurring campaign. A
    campaign whose stored content cannot be read is missing from its page; the log of campaign-svc holds the error under
    the campaign's id.
    """
    listed = campaigns.Listed(await caller.covered(sender_id), series_id, status, archived)
    async with held.database.begin() as tx:
        page, positions = await campaigns.campaigns_behind(tx, position(cursor, int), listed, limit, SORTED[sort])
        items = await view.shown(tx, held, page)
    return Page[Campaign](items=items, next=next_of(positions, limit, int))


@router.get(
    "/campaigns/{campaign_id}", operation_id="campaigns.get", responses=tells(200, "ETag") | refuses(CampaignUnreadable)
)
async def get_campaign(campaign_id: Storable, response: Response, held: Held, caller: Reader) -> Campaign:
    """Return a campaign.

    The `ETag` covers the campaign's content and schedule; send the tag as `If-Match` when editing.
    """
    async with held.database.begin() as tx:
        campaign = await access.found(tx, caller, campaign_id)
        response.headers["ETag"] = edition.etag(edition.tag(content.stored_parts(campaign)))
        return (await view.shown(tx, held, [campaign]))[0]


@router.put(
    "/campaigns/{campaign_id}",
    operation_id="campaigns.update",
    responses=tells(200, "ETag") | refuses(CampaignPastIt, CampaignUnreadable, CampaignEdited),
)
async def edit_campaign(
    campaign_id: Storable,
    body: EditedCampaign,
    response: Response,
    held: Held,
    caller: Author,
    if_match: Annotated[
        str | None,
        Header(
            description="The `ETag` of the version to edit. 412 after a change by another caller; the edit has no"
            " effect."
        ),
    ] = None,
) -> Campaign:
    """Replace the content of a campaign not yet started.

    A scheduled campaign becomes a draft again, and approvals of earlier content no longer count. Without `If-Match`,
    the edit overwrites changes made by others in the meantime.
    """
    now = datetime.now(UTC)

    async def edit(tx: AsyncConnection, campaign: Stored) -> None:
        _may(campaign, Action.EDIT)
        checks.not_too_far("send_before", body.send_before, now)
        if if_match is not None:
            content.unchanged(campaign, body, if_match)
        if body.sender_id != campaign.sender_id:
            raise Invalid(
                "`sender_id` of a campaign cannot change: make another campaign",
                reasons=[Reason("sender_id", "another_sender")],
            )
        sender = await senders.find_sender(tx, campaign.sender_id)
        assert sender is not None
        content.body_checked(body, sender, now, held.settings.policy)
        await content.segment_checked(tx, body)
        await campaigns.edit_campaign(tx, campaign_id, content.written(body), caller.subject)
        await campaigns.leave_occurrences(tx, campaign_id, control.SERIES_PAUSED)
        response.headers["ETag"] = edition.etag(edition.tag(content.parts_of(body)))

    return await _act(held, caller, campaign_id, Action.EDIT, edit)


@router.post(
    "/campaigns/{campaign_id}/schedule",
    operation_id="campaigns.schedule",
    responses=refuses(NotReady, CampaignPastIt, CampaignUnreadable),
)
async def schedule_campaign(
    campaign_id: Storable, held: Held, caller: Author, body: Schedule | None = None
) -> Campaign:
    """Schedule the campaign to start at `at`, or now. A campaign not yet started may be rescheduled.

    Scheduling checks the texts, and applies the audience findings of the last pre-flight if the campaign is unchanged
    since. The request is refused on an error, on a warning missing from `acknowledge`, or on a missing approval.
    """
    now = datetime.now(UTC)
    at, acknowledged = (body.at, body.acknowledge) if body else (None, [])

    async def check(tx: AsyncConnection, campaign: Stored) -> None:
        _may(campaign, Action.SCHEDULE)
        if at is not None and at < now - PAST_TOLERANCE:
            raise Invalid("`at` has passed", reasons=[Reason("at", "in_the_past")])
        checks.not_too_far("at", at, now)
        if at is None and campaign.timing.local_time:
            raise Invalid(
                "`at` is required when `timing.local_time` is set", reasons=[Reason("at", "needed_for_local_time")]
            )
        sender = await senders.find_sender(tx, campaign.sender_id)
        assert sender is not None
        # the sender's STOP code may have changed since the text was written
        checked(campaign.text, campaign.language, campaign.translations, campaign.folding, sender)
        policy = held.settings.policy
        table = checks.table_of(campaign, sender, at or now, now, policy)
        opens_at = table.opens_at(sender.country)
        if covers(sender.country, policy) and (opens_at is None or opens_at >= table.ends_by):
            raise Invalid(
                f"no message may leave before {opens_at.isoformat() if opens_at else 'the rules change'},"
                " and `send_before` is earlier",
                reasons=[Reason("send_before", "before_the_window_opens")],
            )
        closes_at = max((closes for _, closes in table.window(Place(sender.country))), default=table.starts_at)
        if campaign.timing.spread_minutes is not None and closes_at > table.ends_by:
            raise Invalid(
                f"the last would be due at {closes_at.isoformat()}, and the campaign ends before",
                reasons=[Reason("timing.spread_minutes", "beyond_the_end")],
            )
        trial = campaign.trial
        if trial is not None and trial.winner is not None and trial.soonest(table) >= table.ends_by:
            raise Invalid(
                "the others would wait for it beyond the campaign's end",
                reasons=[Reason("trial.winner.after_hours", "after_the_end")],
            )
        needed = await checks.clear(tx, campaign, sender, at, acknowledged, policy)
        digest = checks.agreed(campaign, sender, None)
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
        if campaign.status is Status.PAUSED and campaign.recurring is not None:
            await control.resume_occurrences(tx, campaign, now)

    return await _act(held, caller, campaign_id, Action.SCHEDULE, check)


@router.post(
    "/campaigns/{campaign_id}/pause",
    operation_id="campaigns.pause",
    responses=refuses(CampaignPastIt, CampaignUnreadable),
)
async def pause_campaign(campaign_id: Storable, held: Held, caller: Brakes) -> Campaign | UnreadableCampaign:
    """Pause the campaign: the gate hands nothing off once the pause has reached the gate.

    Messages decided in the meantime wait for `resume`. A scheduled campaign does not start, even where the audience is
    already being selected. Pausing a recurring campaign stops new occurrences, and pauses those scheduled or running.
    """

    return await _brake(held, caller, campaign_id, Action.PAUSE, control.pause_occurrences)


@router.post(
    "/campaigns/{campaign_id}/resume",
    operation_id="campaigns.resume",
    responses=refuses(CampaignPastIt, CampaignOver, CampaignUnreadable),
)
async def resume_campaign(campaign_id: Storable, held: Held, caller: Author) -> Campaign:
    """Resume a paused campaign.

    A campaign paused before its start begins at its time, or at once if the time has passed. The request is refused
    with `campaign-over` where no message could leave before the end: schedule the campaign again. A recurring campaign
    begins the last occurrence held by the pause, unless the next has come or the occurrence has ended.
    """
    now = datetime.now(UTC)

    async def rejoin(tx: AsyncConnection, campaign: Stored) -> None:
        _may(campaign, Action.RESUME)
        if campaign.status is not Status.PAUSED or campaign.begun:
            return
        sender = await senders.find_sender(tx, campaign.sender_id)
        assert sender is not None
        if (rule := campaign.recurring) is None:
            _still_of_use(campaign, sender, now, held.settings.policy)
        else:
            await _skip_what_is_over(tx, campaign, rule, sender, now, held.settings.policy)
            await control.resume_occurrences(tx, campaign, now)

    return await _act(held, caller, campaign_id, Action.RESUME, rejoin)


@router.post(
    "/campaigns/{campaign_id}/cancel",
    operation_id="campaigns.cancel",
    responses=refuses(CampaignPastIt, CampaignUnreadable),
)
async def cancel_campaign(campaign_id: Storable, held: Held, caller: Brakes) -> Campaign | UnreadableCampaign:
    """Cancel the campaign for good.

    Recipients not yet reached get no message; messages already with the operator cannot be recalled. Recipients not yet
    requested stay `pending` for some seconds, then become `denied`. A cancelled recurring campaign has no more
    occurrences, and occurrences paused together with the campaign are cancelled too.
    """

    return await _brake(held, caller, campaign_id, Action.CANCEL, control.cancel_occurrences)


@router.post(
    "/campaigns/{campaign_id}/archive",
    operation_id="campaigns.archive",
    responses=refuses(CampaignPastIt, CampaignUnreadable),
)
async def archive_campaign(campaign_id: Storable, held: Held, caller: Author) -> Campaign:
    """Archive a draft, or a campaign that has ended: lists leave an archived campaign out.

    Nothing else changes: statistics, exports and proofs stay. An edit or a schedule brings a draft back.
    """
    now = datetime.now(UTC)

    async def archive(tx: AsyncConnection, campaign: Stored) -> None:
        _may(campaign, Action.ARCHIVE)
        await campaigns.set_archived(tx, campaign_id, now)

    return await _change(held, caller, campaign_id, archive)


@router.post(
    "/campaigns/{campaign_id}/unarchive",
    operation_id="campaigns.unarchive",
    responses=refuses(CampaignPastIt, CampaignUnreadable),
)
async def unarchive_campaign(campaign_id: Storable, held: Held, caller: Author) -> Campaign:
    """Bring an archived campaign back to the lists."""

    async def unarchive(tx: AsyncConnection, campaign: Stored) -> None:
        await campaigns.set_archived(tx, campaign_id, None)

    return await _change(held, caller, campaign_id, unarchive)


@router.get(
    "/campaigns/{campaign_id}/variants", operation_id="campaigns.get_variants", responses=refuses(CampaignUnreadable)
)
async def list_variants(campaign_id: Storable, held: Held, caller: Reader) -> Variants:
    """Return the results so far of each text of an A/B test, including the campaign's own text.

    People held out count among the campaign's denied recipients, with the reason `holdout`.
    """
    async with held.database.begin() as tx:
        campaign = await access.found(tx, caller, campaign_id)
        trial = campaign.trial
        found = await results.by_variant(tx, campaign) if trial and campaign.begun else {}
    names = [OWN, *trial.names] if trial else []
    return Variants(
        items=[VariantResult(variant=name, **asdict(found.get(name, Result()))) for name in names],
        winner=campaign.winner,
        choice=campaign.choice,
    )


@router.get(
    "/campaigns/{campaign_id}/recipients",
    operation_id="campaigns.list_recipients",
    responses=refuses(CampaignUnreadable, PastItsTime),
)
async def list_recipients(
    campaign_id: Storable,
    held: Held,
    caller: Reader,
    status: Annotated[MessageStatus | None, Query(description="Only recipients whose message has this status.")] = None,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Recipient]:
    """List the frozen audience, with each recipient's status and reasons.

    The order is the same in each reading, and means nothing.

    Answers 410 once the recipients are no longer kept, months after the campaign's end. The tallies on the campaign
    stay.
    """
    async with held.database.begin() as tx:
        kept = held.settings.keep.recipients
        campaign = await access.with_recipients(tx, caller, campaign_id, kept, datetime.now(UTC))
        ids = held.edge_ids.of(await caller.controller_of(campaign.sender_id, tx))
        who = position(cursor, str)
        after = subject_of(who, ids) if who is not None else ""
        page = await recipients.recipients_after(tx, campaign_id, after, status, limit)
    items = [
        Recipient(
            message_id=message_of(campaign_id, campaign.scheduled_start, held.subject_keys.inner(each.subject_id)),
            subject_id=ids.shown(each.subject_id),
            status=each.status,
            reasons=each.reasons,
            receipt=each.receipt,
        )
        for each in page
    ]
    items.sort(key=attrgetter("subject_id"))  # the order of the people's own ids would join two controllers' lists
    return Page[Recipient](items=items, next=next_of(page, limit, lambda each: ids.shown(each.subject_id)))


async def _act(
    held: Resources[Any],
    caller: Caller,
    campaign_id: str,
    action: Action,
    check: Callable[[AsyncConnection, Stored], Awaitable[None]],
) -> Campaign:
    """Lock the campaign, run `check`, take the action, and return the campaign.

    A repeated action succeeds again.
    """

    async def act(tx: AsyncConnection, campaign: Stored) -> None:
        await check(tx, campaign)
        await control.take(tx, campaign, action, datetime.now(UTC))

    return await _change(held, caller, campaign_id, act)


async def _change(
    held: Resources[Any],
    caller: Caller,
    campaign_id: str,
    change: Callable[[AsyncConnection, Stored], Awaitable[None]],
) -> Campaign:
    """Lock the campaign, make the change, and return the campaign."""
    async with held.database.begin() as tx:
        campaign = await access.found(tx, caller, campaign_id, lock=True)
        try:
            await change(tx, campaign)
        except NotPossible as refused:
            raise _past_it(refused) from refused
        return (await view.shown(tx, held, [await access.found(tx, caller, campaign_id)]))[0]


async def _brake(
    held: Resources[Any],
    caller: Caller,
    campaign_id: str,
    action: Action,
    on_occurrences: Callable[[AsyncConnection, Progress, datetime], Awaitable[None]],
) -> Campaign | UnreadableCampaign:
    """Pause or cancel the campaign with its occurrences, and return the campaign after the commit.

    The step reads no content, and no error while showing the campaign undoes the step. A repeated action succeeds
    again.
    """
    async with held.database.begin() as tx:
        campaign = await access.covered(tx, caller, await campaigns.lock_progress(tx, campaign_id))
        now = datetime.now(UTC)
        try:
            _may(campaign, action)
            await on_occurrences(tx, campaign, now)
            await control.take(tx, campaign, action, now)
        except NotPossible as refused:
            raise _past_it(refused) from refused
        stopped = await campaigns.lock_progress(tx, campaign_id)
    try:
        async with held.database.begin() as tx:
            return (await view.shown(tx, held, [await access.found(tx, caller, campaign_id)]))[0]
    except Exception:
        log.exception("a stopped campaign cannot be shown", extra={"campaign_id": campaign_id})
    return UnreadableCampaign.model_validate(stopped, from_attributes=True)


def _past_it(refused: NotPossible) -> CampaignPastIt:
    return CampaignPastIt(str(refused), reasons=[Reason("status", refused.status.value)])


def _may(campaign: Progress, action: Action) -> None:
    """Check that the campaign's status allows the action. Raises NotPossible."""
    step(campaign.status, action, begun=campaign.begun)


def _still_of_use(campaign: Stored, sender: Sender, now: datetime, policy: Policy) -> None:
    """Refuse to resume an unstarted campaign whose messages could no longer leave. Raises CampaignOver."""
    table = view.table(campaign, sender, policy)
    if now < table.ends_by:
        opening = table.opening(Place(sender.country), max(now, campaign.scheduled_start))
        if not covers(sender.country, policy) or (opening is not None and opening[0] < table.ends_by):
            return
    raise CampaignOver(
        f"no message may leave before {table.ends_by.isoformat()}, its end: schedule it anew, or cancel it",
        reasons=[Reason("send_before", "passed")],
    )


async def _skip_what_is_over(
    tx: AsyncConnection, campaign: Stored, rule: Recurring, sender: Sender, now: datetime, policy: Policy
) -> None:
    """Move a paused recurring campaign to the occurrence to begin next.

    The last occurrence already due comes next while still of use, else the following. Raises CampaignOver where no
    occurrence is left.
    """
    assert campaign.at is not None, "scheduling sets the first occurrence"
    gate, timing = at_hand_off(policy), campaign.timing
    zone = zones(sender.country, gate)[0]
    at, missed = recurrence.latest(rule, zone, campaign.at, now)
    following = recurrence.first(rule, zone, at + timedelta.resolution)
    begins = starts(timing, at, sender.country, campaign.scheduled_start, gate)
    if ends_by(begins, None) <= now:
        if following is None:
            raise CampaignOver(
                "none comes any more: schedule it anew, or cancel it", reasons=[Reason("recurring.until", "passed")]
            )
        at, missed, begins = following, missed + 1, starts(timing, following, sender.country, now, gate)
    if missed:
        await campaigns.set_next(tx, campaign.campaign_id, at, begins, missed)
