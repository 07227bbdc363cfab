"""Keep opt-outs published by consent-svc, and attribute each to a campaign.

An opt-out belongs to at most one campaign of an organisation: the campaign whose message, of the senders and purposes
closed, last reached the person within ANSWERS_WITHIN. Opt-outs which answer no message (a provider's list, a DLR, a
rectification) belong to no campaign. Queries attribute, so the order of events from different services does not matter.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import ConsentStateChanged

ANSWERS_WITHIN = timedelta(days=7)
NO_ANSWERS = ("provider_list", "sender_list", "receipt", "rectification")
_FAR = datetime(9999, 1, 1, tzinfo=UTC)
REACHED = ("accepted", "unknown")  # the person may have read the message


async def keep(tx: AsyncConnection, events: Iterable[ConsentStateChanged]) -> None:
    """Store the opt-outs of these events. A repeated opt-out changes no row."""
    rows = sorted(
        {
            (event.subject_id, cause.evidence_id, consent.sender_id, consent.purpose, consent.occurred_at)
            for event in events
            for cause in event.causes
            if cause.kind == "opt_out" and cause.source not in NO_ANSWERS
            for consent in event.consents
            if consent.state == "opted_out" and consent.evidence_id == cause.evidence_id
        }
    )
    if not rows:
        return
    subjects, evidence, senders, purposes, instants = map(list, zip(*rows, strict=True))
    await tx.execute(
        text(
            "INSERT INTO opt_out (subject_id, evidence_id, sender_id, purpose, at)"
            " SELECT * FROM unnest(CAST(:subjects AS text[]), CAST(:evidence AS text[]), CAST(:senders AS text[]),"
            " CAST(:purposes AS text[]), CAST(:instants AS timestamptz[])) ON CONFLICT DO NOTHING"
        ),
        {
            "subjects": subjects,
            "evidence": evidence,
            "senders": senders,
            "purposes": purposes,
            "instants": instants,
        },
    )


# (subject_id, at): persons who opted out in answer to campaign :id, and when first
ANSWERS = (
    "SELECT o.subject_id, min(o.at) AS at FROM opt_out AS o"
    " JOIN recipient AS r ON r.campaign_id = :id AND r.subject_id = o.subject_id"
    " WHERE o.sender_id = :sender_id AND o.purpose = :purpose AND o.at BETWEEN :answers_from AND :answers_to"
    " AND r.status = ANY(CAST(:reached AS text[])) AND r.handed_off_at <= o.at"
    " AND o.at < r.handed_off_at + CAST(:within AS interval)"
    # no later message came from a campaign, of the same organisation, closed by the same opt-out
    " AND NOT EXISTS (SELECT FROM sender AS own JOIN sender AS k ON k.organisation_id = own.organisation_id"
    " JOIN opt_out AS s ON s.sender_id = k.sender_id"
    " JOIN campaign AS c ON c.sender_id = s.sender_id AND c.purpose = s.purpose AND c.started_at IS NOT NULL"
    " AND (c.ended_at IS NULL OR c.ended_at >= r.handed_off_at) AND c.campaign_id <> :id"
    " JOIN recipient AS l ON l.campaign_id = c.campaign_id AND l.subject_id = o.subject_id"
    " WHERE own.sender_id = :sender_id AND s.subject_id = o.subject_id AND s.evidence_id = o.evidence_id"
    " AND l.status = ANY(CAST(:reached AS text[])) AND l.handed_off_at <= o.at"
    " AND (l.handed_off_at, l.campaign_id) > (r.handed_off_at, r.campaign_id)) GROUP BY o.subject_id"
)


def answering(
    campaign_id: str, sender_id: str, purpose: str, started_at: datetime | None, ended_at: datetime | None
) -> dict[str, object]:
    """Return the parameters of ANSWERS."""
    return {
        "id": campaign_id,
        "sender_id": sender_id,
        "purpose": purpose,
        "answers_from": started_at or _FAR,
        "answers_to": _FAR if ended_at is None else ended_at + ANSWERS_WITHIN,
        "reached": list(REACHED),
        "within": ANSWERS_WITHIN,
    }
