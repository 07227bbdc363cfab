"""Several texts for parts of an audience, people held out, and the rest who get the best text."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from campaign.audience.draw import lot
from campaign.message.variants import HOLDOUT, REST, Trial
from campaign.schedule.timing import Pace, Timing
from tests.service.campaign.campaigns import TEXT, Campaigns, changed, csv_of
from tests.service.campaign.test_links import followed
from tests.service.campaign.test_timing import HOUR, MINUTE, MONDAY, SECOND, asked, scheduled, set_clock
from tests.support.builders import SENDER, field_keys, inner, now, opted_in, opted_out, subject
from tests.support.running import bearer

pytestmark = pytest.mark.brokerless

PEOPLE = range(150)  # 30 and more have each text
SAME_LOTS = {"Idempotency-Key": "trial"}  # the id of a campaign, and with it everybody's lot
TRIAL: dict[str, Any] = {
    "variants": [{"name": "b", "text": "B {stop} Maison Lune", "percent": 30}],
    "percent": 30,
    "holdout_percent": 10,
    "winner": {"after_hours": 4},
}


def groups(campaign_id: str) -> dict[str, str]:
    trial = Trial.model_validate(TRIAL)
    return {subject(n): trial.of(lot(campaign_id, inner(subject(n)), "variant")) for n in PEOPLE}


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
    await campaigns.told(opted_out(lost, 2, occurred_at=now()))
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


async def begun(campaigns: Campaigns, **fields: Any) -> str:
    """A campaign on MONDAY, nobody asked for yet."""
    await campaigns.imported(csv_of(*PEOPLE))
    campaign_id: str = (await campaigns.written(headers=SAME_LOTS, **{"trial": TRIAL, **fields}))["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule", json={"at": MONDAY.isoformat()})
    set_clock(campaigns, MONDAY)
    assert await campaigns.planner.start_due()
    return campaign_id


async def choice(campaigns: Campaigns, campaign_id: str) -> tuple[Any, ...]:
    """Of the winner: which, when, what it waits for, whether at the last moment, and why that one."""
    shown = await campaigns.get(f"campaigns/{campaign_id}")
    told = await campaigns.get(f"campaigns/{campaign_id}/variants")
    assert (told["winner"], told["choice"]) == (shown["winner"], shown["choice"])
    found = shown["choice"]
    at = datetime.fromisoformat(found["at"])
    return shown["winner"], at, found["waits_for"], found["last_moment"], found["because"]


LAST_MOMENT = MONDAY + 72 * HOUR - HOUR  # it ends on Thursday at 10:00, and an hour is left for the rest


async def test_a_pause_over_the_time_chooses_nothing_and_each_of_the_first_counts_until_it_has_an_end(
    campaigns: Campaigns,
) -> None:
    campaign_id = await begun(campaigns)
    await campaigns.post(f"campaigns/{campaign_id}/pause")
    resumed = MONDAY + 5 * HOUR
    assert await asked(campaigns, resumed) == []
    await campaigns.post(f"campaigns/{campaign_id}/resume")
    group = groups(campaign_id)
    first, rest = ([s for s in sorted(group) if group[s] in names] for names in ("ab", (REST,)))
    assert await asked(campaigns, resumed) == first
    assert await choice(campaigns, campaign_id) == (None, LAST_MOMENT, "first_groups", True, None)
    left = {"handed_off_at": resumed}
    ends = ("denied", "expired", "rejected", "unknown")
    await campaigns.report(
        *(changed(campaign_id, s, 1, end, **left) for s, end in zip(first, ends, strict=False)),
        *(changed(campaign_id, s, 1, "accepted", **left) for s in first[4:-1]),
    )
    for version, status in enumerate(("pending", "deferred", "sending"), 1):
        await campaigns.report(changed(campaign_id, first[-1], version, status))
        assert await asked(campaigns, resumed + (4 + version) * HOUR) == [], status
        assert (await choice(campaigns, campaign_id))[2] == "first_groups"
    last = resumed + 8 * HOUR
    await campaigns.report(changed(campaign_id, first[-1], 4, "accepted", handed_off_at=last))
    assert await asked(campaigns, last + MINUTE) == []
    assert await choice(campaigns, campaign_id) == (None, last + 4 * HOUR, "after_hours", False, None)
    assert await asked(campaigns, last + 4 * HOUR - SECOND) == []
    assert await asked(campaigns, last + 4 * HOUR) == rest
    assert await choice(campaigns, campaign_id) == ("a", last + 4 * HOUR, None, False, "equal")


async def test_what_the_gate_holds_back_is_waited_for(campaigns: Campaigns) -> None:
    campaign_id = await begun(campaigns)
    first = await asked(campaigns, MONDAY)
    held = {"reasons": ("stale",), "until": MONDAY + 9 * HOUR}
    await campaigns.report(*(changed(campaign_id, s, 1, "deferred", **held) for s in first))
    assert await asked(campaigns, MONDAY + 9 * HOUR) == []
    assert await choice(campaigns, campaign_id) == (None, LAST_MOMENT, "first_groups", True, None)
    left = {"handed_off_at": MONDAY + 9 * HOUR}
    await campaigns.report(*(changed(campaign_id, s, 2, "accepted", **left) for s in first))
    assert await asked(campaigns, MONDAY + 13 * HOUR) != []


async def test_a_pace_slower_than_the_time_is_waited_for_until_the_rest_needs_what_is_left(
    campaigns: Campaigns,
) -> None:
    ends, timing = MONDAY + 9 * HOUR, {"per_hour": 20}
    campaign_id = await begun(campaigns, timing=timing, send_before=ends.isoformat())
    assert len(await asked(campaigns, MONDAY)) == 1
    assert len(await asked(campaigns, MONDAY + 5 * HOUR)) == 1
    rest = Pace.of(Timing(**timing)).takes(len(PEOPLE) * 30 // 100)
    assert 2 * HOUR < rest < 3 * HOUR
    assert await choice(campaigns, campaign_id) == (None, ends - rest, "first_groups", True, None)
    assert len(await asked(campaigns, ends - rest - SECOND)) == 1
    assert (await choice(campaigns, campaign_id))[0] is None
    looked = ends - rest + MINUTE
    await asked(campaigns, looked)
    assert await choice(campaigns, campaign_id) == ("a", looked, None, True, "too_few")


async def test_who_is_due_later_is_one_of_the_first_all_the_same(campaigns: Campaigns) -> None:
    """All that have been asked for have theirs."""
    campaign_id = await begun(campaigns, timing={"spread_minutes": 240})
    at, waits_for, first = MONDAY, "first_groups", set[str]()
    while waits_for == "first_groups" and at < MONDAY + 5 * HOUR:
        came = await asked(campaigns, at)
        waits_for = (await choice(campaigns, campaign_id))[2]
        await campaigns.report(*(changed(campaign_id, s, 1, "accepted", handed_off_at=at) for s in came))
        first |= set(came)
        at += 20 * MINUTE
    assert (waits_for, first) == ("after_hours", {s for s, name in groups(campaign_id).items() if name in "ab"})


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
    assert [(v["variant"], v["handed_off"], v["reached"], v["clicked"]) for v in told["items"]] == [
        ("a", len(got) + 1, len(got), 1),
        ("b", len(clicking["b"]), len(clicking["b"]), 3),
    ]
    assert await as_statistics_have_it(campaigns, campaign_id)
    later = now() + timedelta(days=6)
    campaigns.planner._now = lambda: datetime(later.year, later.month, later.day, 11, tzinfo=UTC)
    await expanded(campaigns)
    assert (await campaigns.get(f"campaigns/{campaign_id}"))["winner"] == "b"


async def as_statistics_have_it(campaigns: Campaigns, campaign_id: str) -> bool:
    """Every number that both tell of each text."""
    told = (await campaigns.get(f"campaigns/{campaign_id}/variants"))["items"]
    counted = (await campaigns.get(f"campaigns/{campaign_id}/statistics"))["variants"]
    shared = told[0].keys() & counted[0].keys()
    assert shared == {"variant", "handed_off", "delivered", "opted_out", "clicked"}
    return [{name: each[name] for name in shared} for each in told] == [
        {name: each[name] for name in shared} for each in counted if each["variant"] is not None
    ]


async def test_what_another_campaign_drives_away_is_held_against_no_text_of_a_trial(campaigns: Campaigns) -> None:
    campaign_id = await begun(campaigns)
    first = await asked(campaigns, MONDAY)
    await campaigns.report(*(changed(campaign_id, s, 1, "accepted", handed_off_at=MONDAY) for s in first))
    group = groups(campaign_id)
    in_a, in_b = ([n for n in PEOPLE if group[subject(n)] == name] for name in "ab")
    other = await scheduled(campaigns, MONDAY + HOUR, name="another")
    await asked(campaigns, MONDAY + HOUR)
    later = {"handed_off_at": MONDAY + HOUR}
    await campaigns.report(*(changed(other, subject(n), 1, "accepted", **later) for n in in_b[:9]))
    await campaigns.told(*(opted_out(n, occurred_at=MONDAY + 2 * HOUR) for n in (*in_b[:9], *in_a[:2], in_b[-1])))
    told = await campaigns.get(f"campaigns/{campaign_id}/variants")
    assert [(v["variant"], v["opted_out"]) for v in told["items"]] == [("a", 2), ("b", 1)]
    assert await as_statistics_have_it(campaigns, campaign_id)
    assert len(await asked(campaigns, MONDAY + 4 * HOUR, campaign_id)) > 0
    assert await choice(campaigns, campaign_id) == ("b", MONDAY + 4 * HOUR, None, False, "best")


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
