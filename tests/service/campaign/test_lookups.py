"""A batch of reports costs what it holds, however many recipients its campaign has."""

import pytest
from sqlalchemy import text

from campaign.planning import store
from common.db.database import fetch_many
from tests.service.campaign.campaigns import Campaigns, changed

pytestmark = pytest.mark.brokerless

OTHERS, MANY = 4_000, 200
RECIPIENTS = """
INSERT INTO recipient (campaign_id, subject_id, status, reasons, version)
SELECT :campaign_id, 'person-' || lpad(n::text, 5, '0'), 'pending', '{}', n % 2 FROM generate_series(1, :others) AS n
"""
READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'recipient'"
LOCKED = "SELECT count(*) FROM recipient WHERE xmax <> 0 AND xmax = pg_current_xact_id_if_assigned()::xid"


@pytest.mark.parametrize("locked", [False, True])
async def test_reports_read_the_recipients_they_are_of_and_no_others(campaigns: Campaigns, locked: bool) -> None:
    campaign_id = await campaigns.started(1)
    async with campaigns.database.begin() as tx:
        await tx.execute(text(RECIPIENTS), {"campaign_id": campaign_id, "others": OTHERS})
        await tx.execute(text("ANALYZE recipient"))
    reports = [changed(campaign_id, f"person-{n:05}", 1, "accepted") for n in range(1, MANY + 1)]
    strangers = [changed(campaign_id, f"stranger-{n}", 1, "accepted") for n in range(9)]
    async with campaigns.database.begin() as tx:
        before = (await fetch_many(tx, READ))[0][0]
        found = await store.older(tx, [*reports, *strangers], locked=locked)
        read = (await fetch_many(tx, READ))[0][0] - before
        held = (await fetch_many(tx, LOCKED))[0][0]

    assert set(found) == {(campaign_id, each.subject_id) for each in reports[1::2]}  # at version 0 until now
    assert {each.version for each in found.values()} == {0}
    assert 0 < read <= MANY * (1 + locked)  # a lock reads a row again
    assert held == (len(found) if locked else 0)
