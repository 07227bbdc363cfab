"""A batch of reports costs what it holds, however many recipients its campaign has."""

import pytest
from sqlalchemy import text

from campaign.accounts import Standing
from campaign.campaigns import recipients
from campaign.campaigns.reports import reports_of
from common.db.database import fetch_many
from tests.service.campaign.campaigns import Campaigns, changed
from tests.support.builders import now

pytestmark = pytest.mark.brokerless

OTHERS, MANY = 4_000, 200
RECIPIENTS = """
INSERT INTO recipient (campaign_id, subject_id, status, reasons, version)
SELECT :campaign_id, 'person-' || lpad(n::text, 5, '0'), 'pending', '{}', n % 2 FROM generate_series(1, :others) AS n
"""
READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'recipient'"
WRITTEN = "SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'recipient'"


@pytest.mark.parametrize("analyzed", [True, False])
async def test_reports_read_the_recipients_they_are_of_and_no_others(campaigns: Campaigns, analyzed: bool) -> None:
    campaign_id = await campaigns.started(1)
    async with campaigns.database.begin() as tx:
        await tx.execute(text(RECIPIENTS), {"campaign_id": campaign_id, "others": OTHERS})
        if analyzed:
            await tx.execute(text("ANALYZE recipient"))
    reports = [changed(campaign_id, f"person-{n:05}", 1, "accepted") for n in range(1, MANY + 1)]
    strangers = [changed(campaign_id, f"stranger-{n}", 1, "accepted") for n in range(9)]
    async with campaigns.database.begin() as tx:
        before = (await fetch_many(tx, READ))[0][0]
        moved = await recipients.update_recipients(tx, reports_of([*reports, *strangers], now()))
        read = (await fetch_many(tx, READ))[0][0] - before
        written = (await fetch_many(tx, WRITTEN))[0][0]

    assert {each.before for each in moved} == {Standing()}
    older = len(reports[1::2])  # at version 0 until now
    assert (sum(each.recipients for each in moved), written) == (older, older)
    assert 0 < read <= MANY
