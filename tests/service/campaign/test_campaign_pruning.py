"""campaign-svc keeps nobody longer than needed: contacts nobody brings any more, audiences of what has long ended; and
the accounts go on adding up without them."""

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from campaign.privacy.pruning import Periods, policy
from campaign.service import Settings
from common.privacy.pruning import Pruner
from tests.service.campaign.campaigns import Campaigns, changed, csv_of
from tests.support.builders import number, subject
from tests.support.holdings import holdings, spellings
from tests.support.running import AUTH_KEY
from tests.unit.common.test_settings import REQUIRED

pytestmark = pytest.mark.brokerless


async def rows(campaigns: Campaigns, query: str, *args: Any) -> Sequence[Any]:
    async with campaigns.surroundings.sql("campaign") as sql:
        return [tuple(row) for row in await sql.fetch(query, *args)]


async def pass_days(campaigns: Campaigns, days: float) -> None:
    """Everything is older by as much; then what is past its time goes."""
    for table, column in {"contact": "updated_at", "contact_import": "created_at", "campaign": "ended_at"}.items():
        await rows(campaigns, f"UPDATE {table} SET {column} = {column} - $1 * interval '1 day'", days)
    pruner = Pruner(campaigns.database, policy(Periods()), batch=2)
    while await pruner.prune():
        pass


async def ended(campaigns: Campaigns, *people: int) -> str:
    """A campaign to these people that all got but the last, who had opted out."""
    campaign_id = await campaigns.started(*people)
    while await campaigns.planner.expand():
        pass
    await campaigns.report(
        *(changed(campaign_id, subject(n), 1, "accepted", receipt="sent") for n in people[:-1]),
        changed(campaign_id, subject(people[-1]), 1, "denied", reasons=("opted_out",)),
    )
    assert await campaigns.status(campaign_id) == "finished"
    return campaign_id


async def test_an_audience_goes_13_months_after_its_campaign_ended_and_the_accounts_go_on_adding_up(
    campaigns: Campaigns,
) -> None:
    done, running = await ended(campaigns, *range(5)), await campaigns.started(*range(3))
    before = await campaigns.statistics(done)
    await pass_days(campaigns, 395)
    assert len((await campaigns.get(f"campaigns/{done}/recipients"))["items"]) == 5

    await pass_days(campaigns, 2)
    assert set(await rows(campaigns, "SELECT campaign_id FROM recipient")) == {(running,)}
    gone = await campaigns.client.get(f"/v1/campaigns/{done}/recipients")
    assert (gone.status_code, gone.json()["reasons"][0]["field"]) == (410, "campaign_id")
    late = [changed(done, subject(n), 2, "accepted", receipt="delivered") for n in range(5)]
    await campaigns.report(*late)
    assert await campaigns.statistics(done) == before
    assert before["denied_reasons"] == {"opted_out": 1}
    assert len((await campaigns.get(f"campaigns/{running}/recipients"))["items"]) == 5


async def test_while_it_is_being_taken_away_an_audience_is_told_as_gone_and_not_in_part(campaigns: Campaigns) -> None:
    done = await ended(campaigns, *range(5))
    await rows(campaigns, "UPDATE campaign SET ended_at = ended_at - interval '397 days'")
    await Pruner(campaigns.database, policy(Periods()), batch=2).prune()
    assert await rows(campaigns, "SELECT count(*) FROM recipient") == [(3,)]
    assert (await campaigns.client.get(f"/v1/campaigns/{done}/recipients")).status_code == 410


async def test_a_contact_that_no_file_brings_for_three_years_goes(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(5)))
    await pass_days(campaigns, 1090)
    await campaigns.imported(csv_of(1))
    await pass_days(campaigns, 5)
    assert await rows(campaigns, "SELECT count(*) FROM contact") == [(5,)]
    await pass_days(campaigns, 2)
    assert await rows(campaigns, "SELECT subject_id FROM contact") == [(subject(1),)]
    async with campaigns.surroundings.sql("campaign") as sql:
        assert await holdings(sql, spellings(number(0))) == []


async def test_an_import_goes_with_its_refused_lines_and_the_same_file_is_then_a_new_one(campaigns: Campaigns) -> None:
    bad = csv_of(1) + "".join("no number;;\n" for _ in range(5))
    first = await campaigns.imported(bad, headers={"Idempotency-Key": "k"})
    await pass_days(campaigns, 395)
    again = await campaigns.imported(bad, headers={"Idempotency-Key": "k"})
    assert (again["import_id"], again["created"], again["refused"]) == (first["import_id"], 1, 5)
    await pass_days(campaigns, 2)
    assert await rows(campaigns, "SELECT count(*) FROM contact_import") == [(0,)]
    assert await rows(campaigns, "SELECT count(*) FROM import_refusal") == [(0,)]
    new = await campaigns.imported(bad, headers={"Idempotency-Key": "k"})
    assert (new["created"], new["updated"], new["refused"]) == (0, 1, 5)


async def test_a_key_goes_after_five_weeks_and_then_still_makes_no_second_thing(campaigns: Campaigns) -> None:
    key = {"Idempotency-Key": "saturday"}
    first = await campaigns.written(headers=key)
    await campaigns.put(f"campaigns/{first['campaign_id']}", json={"name": "Dimanche"})
    for days, kept, name in ((34, 1, first["name"]), (2, 0, "Dimanche")):
        await rows(campaigns, "UPDATE keyed_request SET created_at = created_at - $1::integer * interval '1 day'", days)
        await pass_days(campaigns, 0)
        assert await rows(campaigns, "SELECT count(*) FROM keyed_request") == [(kept,)]
        again = await campaigns.written(201, headers=key)
        assert (again["campaign_id"], again["name"]) == (first["campaign_id"], name)


async def test_reports_are_counted_while_a_batch_is_under_way(campaigns: Campaigns) -> None:
    done, running = await ended(campaigns, *range(5)), await campaigns.started(*range(3))
    async with campaigns.surroundings.sql("campaign") as sql, sql.transaction():
        await sql.execute("DELETE FROM recipient WHERE campaign_id = $1", done)  # a batch that does not end
        await campaigns.report(changed(running, subject(1), 1, "accepted"))
        assert (await campaigns.statistics(running))["accepted"] == 1


def test_no_link_leads_on_for_longer_than_it_is_kept() -> None:
    def told(link_days: int) -> Settings:
        return Settings(**REQUIRED, auth_key=AUTH_KEY, link_days=link_days, keep=Periods(recipients_days=40))

    told(40)
    with pytest.raises(ValidationError, match=r"recipients_days must not be below link_days"):
        told(41)
