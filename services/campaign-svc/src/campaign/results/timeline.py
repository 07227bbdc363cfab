"""HTTP: the contacts, audiences, clicks and conversions of a person's timeline."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy import text

from campaign.senders.caller import of_caller
from common.service import Resources
from common.sms.msisdn import NumberRefused, parse
from common.web.auth import Caller, require
from common.web.problems import Invalid, Reason
from common.web.timeline import Moment, Timeline, TimelineAsked

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["statistics"])

_OF_PERSON = (
    "SELECT 'contact_created' AS kind, c.created_at AS at, c.sender_id, NULL AS purpose, NULL AS campaign_id,"
    " NULL AS id, NULL AS status, NULL AS detail FROM contact AS c"
    " WHERE c.sender_id = ANY(CAST(:senders AS text[])) AND c.subject_id = :id"
    " UNION ALL SELECT 'contact_updated', c.updated_at, c.sender_id, NULL, NULL, NULL, NULL, NULL FROM contact AS c"
    " WHERE c.sender_id = ANY(CAST(:senders AS text[])) AND c.subject_id = :id AND c.updated_at > c.created_at"
    " UNION ALL SELECT 'audience', g.started_at, g.sender_id, g.purpose, g.campaign_id, NULL, r.status,"
    " nullif(array_to_string(r.reasons, ' '), '') FROM campaign AS g"
    " JOIN recipient AS r ON r.campaign_id = g.campaign_id AND r.subject_id = :id"
    " WHERE g.sender_id = ANY(CAST(:senders AS text[])) AND g.started_at IS NOT NULL"
    " UNION ALL SELECT 'click', l.last_clicked_at, g.sender_id, g.purpose, g.campaign_id, NULL, NULL, t.target"
    " FROM campaign AS g JOIN link AS l ON l.campaign_id = g.campaign_id AND l.subject_id = :id"
    " JOIN campaign_link AS t ON t.campaign_id = l.campaign_id AND t.place = l.place"
    " WHERE g.sender_id = ANY(CAST(:senders AS text[])) AND l.last_clicked_at IS NOT NULL"
    " UNION ALL SELECT 'conversion', c.occurred_at, c.sender_id, NULL, NULL, c.reference, NULL,"
    " c.value || ' ' || c.currency FROM conversion AS c"
    " WHERE c.sender_id = ANY(CAST(:senders AS text[])) AND c.subject_id = :id"
    " ORDER BY at DESC LIMIT :limit"
)


@router.post("/timeline", operation_id="contact_timelines.get")
async def get_timeline(
    body: TimelineAsked,
    held: Annotated[Resources[Any], Depends(of_caller)],
    caller: Annotated[Caller, Depends(require("campaign:trace", looks_up=True))],
) -> Timeline:
    """Return what the senders your token covers know of a person: contact, audiences, last clicks and conversions.

    Kinds: `contact_created`, `contact_updated`; `audience`, with the recipient's status and reasons, at the campaign's
    start; `click`, the last on a link, with the target; `conversion`, with its value. Each timeline is logged with the
    caller.
    """
    covered = await caller.covered()
    countries = await caller.countries(body.country, covered, held.settings.country)
    try:
        number = parse(body.number, countries=countries, fictional=held.settings.fictional_numbers).e164
    except NumberRefused as refused:
        reason = Reason("number", refused.reason, refused.remedy)
        raise Invalid("`number` is not a mobile number", reasons=[reason]) from refused
    subject_id = held.subject_keys.subject_id(number)
    controllers = await caller.controllers(covered)
    async with held.database.begin() as tx:
        rows = await tx.execute(
            text(_OF_PERSON), {"id": subject_id, "senders": sorted(controllers), "limit": body.limit + 1}
        )
        found = [row._asdict() for row in rows]
    log.info("a timeline was shown", extra={"subject_id": subject_id, "by": caller.subject})
    moments = [
        Moment(**each, subject_id=held.edge_ids.of(controllers[each["sender_id"]]).shown(subject_id)) for each in found
    ]
    return Timeline.of(moments, body.limit)
