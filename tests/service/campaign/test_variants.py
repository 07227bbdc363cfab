"""Several texts for parts of an audience, people held out, and the rest who get the best text."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from campaign.draw import lot
from campaign.variants import HOLDOUT, REST, Trial
from tests.builders import SENDER, field_keys, now, opted_in, opted_out, subject
from tests.running import bearer
from tests.service.campaign.campaigns import TEXT, Campaigns, changed, csv_of
from tests.service.campaign.test_links import followed

pytestmark = pytest.mark.brokerless

PEOPLE = range(60)
SAME_LOTS = {"Idempotency-Key": "trial"}  # the id of a campaign, and with it everybody's lot
TRIAL: dict[str, Any] = {
    "variants": [{"name": "b", "text": "B {stop} Maison Lune", "percent": 30}],
    "percent": 30,
    "holdout_percent": 10,
    "winner": {"after_hours": 4},
}


def groups(campaign_id: str) -> dict[str, str]:
    trial = Trial.model_validate(TRIAL)
    return {subject(n): trial.of(lot(campaign_id, subject(n), "variant")) for n in PEOPLE}


async def expanded(campaigns: Campaigns) -> None:
    while await campaigns.planner.expand():
        pass


async def test_the_rest_get_the_text_that_fewest_opted_out_of_and_who_is_held_out_gets_none(
    campaigns: Campaigns,
) -> None:
    campaign_id = await campaigns.started(*PEOPLE, headers=SAME_LOTS, trial=TRIAL)
    group = groups(campaign_id)
    assert set(group.values()) == {"a", "b", HOLDOUT, REST}
    await expanded(campaigns)
    first = await campaigns.requests()
    assert {r.subject_id for r in first} == {s for s, name in group.items() if name in ("a", "b")}
    for request in first:
        written = field_keys.unseal(request.text, f"text:{request.message_id}")
        assert written.startswith("B STOP au") == (group[request.subject_id] == "b")
    found = await campaigns.statistics(campaign_id)
    sizes = Counter(group.values())
    assert found["denied_reasons"] == {HOLDOUT: sizes[HOLDOUT]}
    # all are handed off; of those who got the campaign's own text, one opts out
    await campaigns.report(*(changed(campaign_id, r.subject_id, 1, "accepted") for r in first))
    lost = next(n for n in PEOPLE if group[subject(n)] == "a")
    await campaigns.told(*(opted_in(n) for n in PEOPLE))
    await campaigns.told(opted_out(lost, 2))
    told = await campaigns.get(f"campaigns/{campaign_id}/variants")
    assert (told["winner"], [(v["variant"], v["handed_off"], v["opted_out"]) for v in told["items"]]) == (
        None,
        [("a", sizes["a"], 1), ("b", sizes["b"], 0)],
    )
    later = now() + timedelta(days=6)  # four hours after the next opening, whatever day it is
    campaigns.planner._now = lambda: datetime(later.year, later.month, later.day, 11, tzinfo=UTC)
    await expanded(campaigns)
    rest = (await campaigns.requests())[len(first) :]
    assert {r.subject_id for r in rest} == {s for s, name in group.items() if name == REST}
    assert all(field_keys.unseal(r.text, f"text:{r.message_id}").startswith("B STOP au") for r in rest)
    assert (await campaigns.get(f"campaigns/{campaign_id}"))["winner"] == "b"
    await campaigns.statistics(campaign_id)


async def test_by_clicks_the_rest_get_the_text_whose_links_more_people_followed(campaigns: Campaigns) -> None:
    linked = "Maison Lune {link https://maison-lune.example/soldes} {stop}"
    trial = {**TRIAL, "winner": {"by": "most_clicks", "after_hours": 4}}
    await campaigns.put(f"senders/{SENDER}/rules", json={"link_host": "m.maison-lune.example"})
    for wrong, field in ((TRIAL["variants"], "trial.b.text"), ([{**TRIAL["variants"][0], "text": linked}], "text")):
        text = linked if field != "text" else TEXT
        refused = await campaigns.written(422, text=text, trial={**trial, "variants": wrong})
        assert [(r["field"], r["reason"]) for r in refused["reasons"]] == [(field, "link_missing")]
    trial["variants"] = [{**TRIAL["variants"][0], "text": f"B {linked}"}]
    campaign_id = await campaigns.started(*PEOPLE, headers=SAME_LOTS, text=linked, trial=trial)
    group = groups(campaign_id)
    await expanded(campaigns)
    first = await campaigns.requests()
    # who clicks before a word of dispatch has come, or got nothing after all, is not counted with those who got it
    clicking = {name: [r for r in first if group[r.subject_id] == name] for name in ("a", "b")}
    lost, *got = clicking["a"]
    for request in (lost, got[0], *clicking["b"][:3]):
        await followed(campaigns, short_link_in(request))
    await campaigns.report(
        changed(campaign_id, lost.subject_id, 1, "rejected"),
        *(changed(campaign_id, r.subject_id, 1, "accepted") for r in first if r is not lost),
    )
    told = await campaigns.get(f"campaigns/{campaign_id}/variants")
    assert [(v["variant"], v["handed_off"], v["clicked"]) for v in told["items"]] == [
        ("a", len(got), 1),
        ("b", len(clicking["b"]), 3),
    ]
    later = now() + timedelta(days=6)
    campaigns.planner._now = lambda: datetime(later.year, later.month, later.day, 11, tzinfo=UTC)
    await expanded(campaigns)
    assert (await campaigns.get(f"campaigns/{campaign_id}"))["winner"] == "b"


def short_link_in(request: Any) -> str:
    written = field_keys.unseal(request.text, f"text:{request.message_id}")
    return str(written.partition("https://m.maison-lune.example")[2].split()[0])


async def test_a_trial_that_cannot_be_is_refused_and_an_approval_is_of_all_of_it(campaigns: Campaigns) -> None:
    variant = TRIAL["variants"][0]
    for trial, field, reason in (
        ({**TRIAL, "holdout_percent": 40}, "trial", "value_error"),
        ({**TRIAL, "variants": [{**variant, "text": "B"}]}, "trial.b.text", "stop_mention_missing"),
        ({**TRIAL, "variants": [{**variant, "name": "a"}]}, "trial.variants.0.name", "string_pattern_mismatch"),
    ):
        refused = await campaigns.written(422, trial=trial)
        assert (refused["reasons"][0]["field"], refused["reasons"][0]["reason"]) == (field, reason)
    await campaigns.put(f"senders/{SENDER}/rules", json={"approval": True})
    await campaigns.imported(csv_of(*PEOPLE))
    await campaigns.told(*(opted_in(n) for n in PEOPLE))
    path = f"campaigns/{(await campaigns.written(headers=SAME_LOTS, trial=TRIAL))['campaign_id']}"
    looked_at = await campaigns.post(f"{path}/pre-flight")
    assert looked_at["reasons"] == {HOLDOUT: Counter(groups(path.split("/")[1]).values())[HOLDOUT]}
    assert looked_at["would_get"] + looked_at["would_not"] == len(PEOPLE)
    approval = {"digest": looked_at["digest"]}
    await campaigns.post(f"{path}/approvals", 201, json=approval, headers=bearer(subject="somebody else"))
    for change in (
        {"holdout_percent": 11},
        {"variants": [{**variant, "text": "B! {stop} Maison Lune"}]},
        {"variants": [{**variant, "percent": 31}]},
        {"winner": {"after_hours": 5}},
    ):
        await campaigns.put(path, json={"trial": {**TRIAL, **change}})
        await campaigns.post(f"{path}/schedule", 409)
    ends = (now() + timedelta(hours=3)).isoformat()
    await campaigns.put(path, json={"trial": TRIAL, "text": TEXT, "send_before": ends})
    assert (await campaigns.post(f"{path}/schedule", 422))["reasons"][0]["field"] in (
        "trial.winner.after_hours",
        "send_before",  # at night
    )
    await campaigns.put(path, json={"trial": TRIAL})
    assert (await campaigns.post(f"{path}/schedule"))["status"] == "scheduled"
