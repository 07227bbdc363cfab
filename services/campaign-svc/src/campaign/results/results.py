"""Count the results of each text of a campaign.

The rules are the statistics', so the winner of an A/B test matches the statistics shown.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import OUTCOMES
from campaign.audience.opt_outs import ANSWERS, answering
from campaign.campaigns.campaign import Campaign
from campaign.message.variants import Result

# (subject_id): recipients whom the message may have reached, with a counted click
CLICKED = (
    "SELECT DISTINCT l.subject_id FROM link AS l"
    " JOIN recipient AS r ON r.campaign_id = l.campaign_id AND r.subject_id = l.subject_id"
    " WHERE l.campaign_id = :id AND l.clicks > 0 AND r.status = ANY(CAST(:reached AS text[]))"
)


def answering_to(campaign: Campaign) -> dict[str, object]:
    """Return the parameters of ANSWERS and CLICKED."""
    return answering(campaign.campaign_id, campaign.sender_id, campaign.purpose, campaign.started_at, campaign.ended_at)


async def by_variant(tx: AsyncConnection, campaign: Campaign) -> dict[str, Result]:
    """Return the results so far, by variant."""
    rows = await tx.execute(
        text(
            f"WITH answers AS MATERIALIZED ({ANSWERS}), clicked AS MATERIALIZED ({CLICKED})"
            " SELECT r.variant, count(*) AS asked_for,"
            " count(*) FILTER (WHERE r.status = ANY(CAST(:outcomes AS text[]))) AS handed_off,"
            " count(*) FILTER (WHERE r.status = ANY(CAST(:reached AS text[]))) AS reached,"
            " count(*) FILTER (WHERE r.receipt = 'delivered') AS delivered,"
            " count(a.subject_id) AS opted_out, count(c.subject_id) AS clicked FROM recipient AS r"
            " LEFT JOIN answers AS a ON a.subject_id = r.subject_id"
            " LEFT JOIN clicked AS c ON c.subject_id = r.subject_id"
            " WHERE r.campaign_id = :id AND r.variant IS NOT NULL GROUP BY r.variant"
        ),
        {
            **answering_to(campaign),
            "outcomes": list(OUTCOMES),
        },
    )
    return {variant: Result(*counts) for variant, *counts in rows}
