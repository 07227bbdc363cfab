"""HTTP: the messages and DLRs of a person's timeline."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from common.service import Resources, resources
from common.sms.msisdn import NumberRefused, parse
from common.web.auth import Caller, require
from common.web.problems import Invalid, Reason
from common.web.timeline import Moment, Timeline, TimelineAsked
from dispatch.messages import lists
from dispatch.messages.disclosure import disclosed
from dispatch.messages.row import MessageRow

router = APIRouter(prefix="/v1", tags=["dispatch"])


@router.post("/timeline", operation_id="message_timelines.get")
async def get_timeline(
    body: TimelineAsked,
    held: Annotated[Resources[Any], Depends(resources)],
    caller: Annotated[Caller, Depends(require("message:read", looks_up=True))],
) -> Timeline:
    """Return a person's messages from the senders your token covers, and their DLRs.

    Kinds: `message`, with status and reasons, at the time of the request; `receipt`, at the operator's time.
    """
    covered = await caller.covered()
    countries = await caller.countries(body.country, covered, held.settings.country)
    try:
        number = parse(body.number, countries=countries, fictional=held.settings.fictional_numbers).e164
    except NumberRefused as refused:
        reason = Reason("number", refused.reason, refused.remedy)
        raise Invalid("`number` is not a mobile number", reasons=[reason]) from refused
    who = held.subject_keys.subject_id(number)
    async with held.database_of(who).begin() as tx:
        rows = await lists.of_person(tx, who, covered, None, body.limit + 1)
        controllers = await caller.controllers({row.sender_id for row in rows}, tx)
    moments = [
        moment
        for row in rows
        for moment in _moments(row, held.edge_ids.of(controllers[row.sender_id]).shown(row.subject_id), caller)
    ]
    return Timeline.of(moments, body.limit)


def _moments(row: MessageRow, who: str, caller: Caller) -> Iterator[Moment]:
    reasons = row.reasons if caller.everywhere else disclosed(row.facts, row.reasons)[1]
    about = Moment(
        at=row.requested_at,
        kind="message",
        sender_id=row.sender_id,
        subject_id=who,
        purpose=row.purpose,
        campaign_id=row.campaign_id,
        id=str(row.message_id),
        status=row.status,
        detail=" ".join(reasons) or None,
    )
    yield about
    if row.receipt is not None and row.receipt_at is not None:
        changes = {"at": row.receipt_at, "kind": "receipt", "status": row.receipt, "detail": row.code}
        yield about.model_copy(update=changes)
