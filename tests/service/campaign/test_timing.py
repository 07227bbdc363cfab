"""When the people of a campaign are asked for: at their own hour, at its pace, in turn with other campaigns, and each
once whatever stops the planner."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from campaign.planning.planner import pause
from campaign.preflight import checks
from campaign.schedule.lifecycle import Status
from tests.service.campaign.campaigns import DAY, Campaigns, csv_of, next_monday
from tests.support.builders import now, number, opted_in, subject

pytestmark = pytest.mark.brokerless

MONDAY = next_monday()
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


async def scheduled(campaigns: Campaigns, at: datetime = MONDAY, **fields: Any) -> str:
    campaign_id: str = (await campaigns.written(**fields))["campaign_id"]
    await campaigns.post(f"campaigns/{campaign_id}/schedule", json={"at": at.isoformat()})
    return campaign_id


def set_clock(campaigns: Campaigns, at: datetime) -> None:
    campaigns.planner._now = lambda: at


async def asked(campaigns: Campaigns, at: datetime, campaign_id: str | None = None) -> list[str]:
    """Whom the planner asks for once its clock shows `at`, and it has nothing more to do then."""
    before = len(await campaigns.requests())
    set_clock(campaigns, at)
    while await campaigns.planner.start_due():
        pass
    while await campaigns.planner.expand():
        pass
    requests = (await campaigns.requests())[before:]
    return sorted(r.subject_id for r in requests if campaign_id in (None, r.campaign_id))


async def test_each_is_asked_for_at_their_own_hour_and_a_cancellation_denies_who_waits(campaigns: Campaigns) -> None:
    zones = ["", "America/Martinique", "Indian/Reunion", "Pacific/Tahiti"]
    rows = "".join(f"{number(n)};{zone};Zoé\n" for n, zone in enumerate(zones))
    await campaigns.imported(f"number;timezone;first_name\n{rows}")
    wanted = await campaigns.written(timing={"local_time": True})
    refused = await campaigns.post(f"campaigns/{wanted['campaign_id']}/schedule", 422)
    assert refused["reasons"][0]["reason"] == "needed_for_local_time"
    campaign_id = await scheduled(campaigns, timing={"local_time": True})
    shown = await campaigns.get(f"campaigns/{campaign_id}")
    assert datetime.fromisoformat(shown["at"]) == MONDAY
    assert datetime.fromisoformat(shown["starts_at"]) == MONDAY - 11 * HOUR, "10:00 in Wallis, where the sun is first"
    assert datetime.fromisoformat(shown["opens_at"]) == MONDAY
    assert await asked(campaigns, MONDAY - 11 * HOUR) == []
    # 10:00 in Réunion is 07:00 in Paris, where the number is from: not before 08:00 there
    assert await asked(campaigns, MONDAY - 2 * HOUR - SECOND) == []
    assert await asked(campaigns, MONDAY - 2 * HOUR) == [subject(2)]
    assert await asked(campaigns, MONDAY) == [subject(0)]
    assert await asked(campaigns, MONDAY + 5 * HOUR) == [subject(1)], "10:00 in Fort-de-France"
    assert (await campaigns.statistics(campaign_id))["pending"] == 4
    await campaigns.cancelled(campaign_id)
    found = await campaigns.statistics(campaign_id)
    assert (found["pending"], found["denied_reasons"]) == (3, {"campaign_cancelled": 1}), "the gate has the others"
    assert await asked(campaigns, MONDAY + 99 * HOUR) == []


async def test_a_spread_lays_people_out_over_its_window_and_a_pause_holds_them(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(40)))
    sunday = MONDAY - timedelta(days=1)
    campaign_id = await scheduled(campaigns, sunday, timing={"spread_minutes": 240})
    opens = MONDAY - 2 * HOUR
    assert await asked(campaigns, sunday) == []
    by_hour = []
    for hours in range(4):
        if hours == 2:
            await campaigns.post(f"campaigns/{campaign_id}/pause")
            assert await asked(campaigns, opens + 2 * HOUR) == []
            await campaigns.post(f"campaigns/{campaign_id}/resume")
        by_hour.append(len(await asked(campaigns, opens + (hours + 1) * HOUR - SECOND)))
    assert sum(by_hour) == len({r.subject_id for r in await campaigns.requests()}) == 40
    assert min(by_hour) >= 1, "spread, and not at once"
    assert await asked(campaigns, opens + 5 * HOUR) == []
    assert await campaigns.status(campaign_id) == Status.RUNNING  # until the gate has told of each


async def test_what_is_scheduled_into_a_holiday_is_told_why_it_waits_and_nothing_of_it_is_planned_within(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thursday 25 December 2031; in Alsace the day after it is one too (code du travail, L. 3134-13)."""
    monkeypatch.setattr(checks, "FURTHEST", 10 * 366 * DAY)  # such a year may be far
    christmas = datetime(2031, 12, 25, 9, tzinfo=UTC)
    opens, in_alsace = (datetime(2031, 12, day, 7, tzinfo=UTC) for day in (26, 27))  # 08:00 in Paris
    postcodes = {1: "75011", 2: "67000", 3: "", 4: "68200"}
    rows = "".join(f"{number(n)};Zoé;{postcode}\n" for n, postcode in postcodes.items())
    await campaigns.imported(f"number;first_name;postcode\n{rows}")
    await campaigns.told(*(opted_in(n) for n in postcodes))
    timing = {"spread_minutes": 60}
    path = f"campaigns/{(await campaigns.written(timing=timing))['campaign_id']}"
    alsatian = (await campaigns.written(timing=timing, audience={"where": {"postcode": "67000"}}))["campaign_id"]

    async def seen(path: str, at: datetime) -> tuple[int, datetime, set[str]]:
        """How many would get it, when the first of it may leave, and why not at once."""
        [place] = (await campaigns.post(f"{path}/pre-flight", json={"at": at.isoformat()}))["territories"]
        assert all(why["rule"] and why["source"] for why in place["closed_by"])
        why = {str(why["aspect"]) for why in place["closed_by"]}
        return place["people"], datetime.fromisoformat(place["opens_at"]), why

    day_after = christmas + timedelta(days=1)
    assert await seen(path, christmas) == (4, opens, {"holiday"})
    assert await seen(path, day_after) == (4, day_after, set())
    assert await seen(f"campaigns/{alsatian}", day_after) == (1, in_alsace, {"holiday"})
    [wait] = (await campaigns.post(f"{path}/pre-flight", json={"at": day_after.isoformat()}))["waits"]
    why = wait.pop("closed_by")
    opens_then = wait.pop("opens_at")
    assert (wait, datetime.fromisoformat(opens_then)) == (
        {"territory": "FR", "region": "FR-6AE", "people": 2, "too_late": False},
        in_alsace,
    )
    assert {(each["aspect"], each["holiday"]["name"]) for each in why} == {("holiday", "Saint-Étienne")}
    assert all(each["rule"] and each["source"] and each["holiday"]["source"] for each in why)
    brief = await campaigns.written(send_before=(day_after + 8 * HOUR).isoformat())
    found = await campaigns.post(f"campaigns/{brief['campaign_id']}/pre-flight", json={"at": day_after.isoformat()})
    assert (found["would_get"], found["reasons"]) == (2, {"send_before_passed": 2})
    assert [(w["region"], w["people"], w["too_late"]) for w in found["waits"]] == [("FR-6AE", 2, True)]
    shown = await campaigns.post(f"{path}/schedule", json={"at": christmas.isoformat()})
    assert (shown["status"], datetime.fromisoformat(shown["opens_at"])) == ("scheduled", opens)
    assert await asked(campaigns, christmas) == []
    assert await asked(campaigns, opens - SECOND) == []
    assert await asked(campaigns, opens + HOUR) == sorted([subject(1), subject(3)])
    assert await asked(campaigns, in_alsace - SECOND) == []
    assert await asked(campaigns, in_alsace + HOUR) == sorted([subject(2), subject(4)])


async def test_no_more_leave_in_a_second_than_it_says_and_a_clock_set_back_stops_nothing(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(30)))
    await scheduled(campaigns, timing={"per_second": 5})
    real = MONDAY + 2 * HOUR
    left: Counter[int] = Counter()
    for tenth in range(100):
        shown = real if tenth < 40 else real - HOUR
        left[tenth] = len(await asked(campaigns, shown))
        real += SECOND / 10
    assert left.total() == 30
    assert max(sum(left[tenth + n] for n in range(10)) for tenth in range(90)) <= 5
    assert sum(left[tenth] for tenth in range(40, 60)) >= 5, "after the clock was set back too"


async def test_nobody_is_passed_over_where_those_behind_them_need_no_slot(campaigns: Campaigns) -> None:
    """Recipients are read some at a time: of the first, most wait for a slot; of the next, all are gone."""
    await campaigns.imported(csv_of(*range(12)))
    await scheduled(campaigns, timing={"per_second": 1})
    at, left = MONDAY + 2 * HOUR, set(await asked(campaigns, MONDAY))
    ordered = sorted(subject(n) for n in range(12))
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute("DELETE FROM contact WHERE subject_id = ANY($1)", ordered[4:8])
    for second in range(60):
        left |= set(await asked(campaigns, at + 2 * second * SECOND))
    assert sorted(left) == ordered[:4] + ordered[8:]


async def test_who_would_be_asked_for_after_the_end_is_denied_and_said(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(30)))
    ends = MONDAY + HOUR
    spread = await campaigns.written(send_before=ends.isoformat(), timing={"spread_minutes": 120})
    at = {"at": MONDAY.isoformat()}
    refused = await campaigns.post(f"campaigns/{spread['campaign_id']}/schedule", 422, json=at)
    assert refused["reasons"][0]["reason"] == "beyond_the_end"
    campaign_id = await scheduled(campaigns, send_before=ends.isoformat(), timing={"per_hour": 20})
    sent = [len(await asked(campaigns, MONDAY + minutes * MINUTE)) for minutes in (0, 2, 4, 59)]
    assert sent == [1, 0, 1, 1], "one in three minutes; what was missed is not made up for"
    assert await asked(campaigns, ends) == []
    found = await campaigns.statistics(campaign_id)
    assert (found["denied"], found["denied_reasons"]) == (27, {"send_before_passed": 27})


async def test_a_large_campaign_and_a_small_one_take_turns(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(60)))
    large = await scheduled(campaigns, now() + MINUTE, name="large")
    set_clock(campaigns, now() + 2 * MINUTE)
    assert await campaigns.planner.start_due()
    for _ in range(2):
        assert await campaigns.planner.expand()
    small = await scheduled(campaigns, now() + MINUTE, name="small")
    urgent = await scheduled(campaigns, now() + MINUTE, name="urgent", priority="high")
    while await campaigns.planner.start_due():
        pass
    chunks = []
    while await campaigns.planner.expand():
        chunks.append((await campaigns.requests())[-1].campaign_id)
    assert Counter(chunks) >= Counter({large: 4, small: 6, urgent: 6})
    # four of the urgent one for each of the others, and then those in turn
    assert chunks[:6].count(urgent) >= 3
    assert {large, small} <= set(chunks[:7])
    others = [each for each in chunks if each != urgent]
    assert abs(others[:8].count(large) - others[:8].count(small)) <= 1
    requests = await campaigns.requests()
    assert len({r.message_id for r in requests}) == len(requests) == 180
    per_campaign = Counter(r.campaign_id for r in requests)
    assert per_campaign == Counter({large: 60, small: 60, urgent: 60}), "two to the same people: each once of each"


async def chunks(campaigns: Campaigns, many: int) -> list[str]:
    """Of which campaign each is; all of them ask for somebody."""
    found = []
    for _ in range(many):
        before = len(await campaigns.requests())
        assert await campaigns.planner.expand()
        [campaign_id] = {r.campaign_id for r in (await campaigns.requests())[before:]}
        found.append(campaign_id)
    return found


def those(many: int) -> dict[str, Any]:
    return {"where": {"first_name": [f"Zoé {n}" for n in range(many)]}}


async def test_who_sleeps_is_no_measure_for_who_joins_and_has_nothing_to_make_up_for_when_it_wakes(
    campaigns: Campaigns,
) -> None:
    await campaigns.imported(csv_of(*range(120)))
    sleeper = await scheduled(campaigns, audience=those(20), timing={"spread_minutes": 240})
    large = await scheduled(campaigns, name="large")
    set_clock(campaigns, MONDAY)
    while await campaigns.planner.start_due():
        pass
    while len(await campaigns.requests()) < 60:
        assert await campaigns.planner.expand()
    newcomer = await scheduled(campaigns, name="newcomer", audience=those(40))
    assert await campaigns.planner.start_due()
    for _ in range(2):
        assert set(await chunks(campaigns, 2)) == {large, newcomer}
    set_clock(campaigns, MONDAY + 5 * HOUR)
    assert set(await chunks(campaigns, 3)) == {large, newcomer, sleeper}


async def test_who_joins_while_all_others_sleep_leaves_them_their_turn(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(120)))
    sleeper = await scheduled(campaigns, timing={"spread_minutes": 240})
    assert await asked(campaigns, MONDAY) == []
    newcomer = await scheduled(campaigns, name="newcomer")
    assert await campaigns.planner.start_due()
    assert set(await chunks(campaigns, 2)) == {newcomer}
    set_clock(campaigns, MONDAY + 5 * HOUR)
    assert set(await chunks(campaigns, 2)) == {newcomer, sleeper}


async def failing(campaigns: Campaigns, campaign_id: str) -> tuple[int, datetime] | None:
    found = (await campaigns.get(f"campaigns/{campaign_id}"))["failing"]
    return found and (found["attempts"], datetime.fromisoformat(found["again_at"]))


async def test_a_campaign_that_cannot_be_started_lets_others_go_first_and_says_so(campaigns: Campaigns) -> None:
    await campaigns.imported(csv_of(*range(3)))
    broken = await scheduled(campaigns, MONDAY - HOUR)
    other = await scheduled(campaigns, name="other")
    async with campaigns.surroundings.sql("campaign") as sql:
        change = "UPDATE campaign SET selection = $2 WHERE campaign_id = $1"
        await sql.execute(change, broken, '{"segment": {"segment_id": "seg-none", "version": 1}}')
        at = MONDAY
        for attempts in (1, 2):
            set_clock(campaigns, at)
            assert await campaigns.planner.start_due()
            assert await failing(campaigns, broken) == (None if attempts == 1 else (2, at + 2 * SECOND))
        assert await campaigns.planner.start_due()
        assert (await campaigns.status(broken), await campaigns.status(other)) == ("scheduled", "running")
        assert not await campaigns.planner.start_due(), "it is not its turn"
        at += 2 * SECOND
        set_clock(campaigns, at)
        assert await campaigns.planner.start_due()
        assert await failing(campaigns, broken) == (3, at + 6 * SECOND), "each pause is longer"
        await sql.execute(change, broken, '{"all": true}')
    set_clock(campaigns, at + 6 * SECOND)
    assert await campaigns.planner.start_due()
    assert (await campaigns.status(broken), await failing(campaigns, broken)) == ("running", None)


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (
            "UPDATE campaign SET timing = '{\"per_moon\": 1}' WHERE campaign_id = $1",
            "UPDATE campaign SET timing = '{}'",
        ),
        (
            "UPDATE contact SET attributes = '{\"first_name\": 3}' FROM campaign AS c"
            " WHERE c.campaign_id = $1 AND attributes ->> 'first_name' = 'Zoé 3'",
            "UPDATE contact SET attributes = '{\"first_name\": \"Zoé 3\"}' WHERE attributes ->> 'first_name' = '3'",
        ),
    ],
)
@pytest.mark.parametrize("then", ["waits", "is resumed", "clocks are set back"])
async def test_a_campaign_that_cannot_be_gone_on_with_lets_others_go_first_and_says_so(
    campaigns: Campaigns, spoil: str, mend: str, then: str
) -> None:
    await campaigns.imported(csv_of(*range(30)))
    broken = await scheduled(campaigns)
    other = await scheduled(campaigns, name="other", audience=those(3))
    set_clock(campaigns, MONDAY)
    assert await campaigns.planner.start_due()
    assert await campaigns.planner.start_due()
    async with campaigns.surroundings.sql("campaign") as sql:
        await sql.execute(spoil, broken)
        steps = [await campaigns.planner.expand() for _ in range(8)]
        await sql.execute(mend)
    asked_for = Counter(r.campaign_id for r in await campaigns.requests())
    assert asked_for[other] == 3
    assert await failing(campaigns, broken) == (2, MONDAY + 2 * SECOND)
    assert sum(steps) == 2 + 1 + asked_for[broken] // 10
    assert await asked(campaigns, MONDAY + SECOND) == []
    if then == "is resumed":
        for action in ("pause", "resume"):
            await campaigns.post(f"campaigns/{broken}/{action}")
    later = {"waits": 2 * SECOND, "is resumed": SECOND, "clocks are set back": -HOUR}[then]
    await asked(campaigns, MONDAY + later)
    asked_for = Counter(r.campaign_id for r in await campaigns.requests())
    assert asked_for == {broken: 30, other: 3}
    assert await failing(campaigns, broken) is None


def test_pauses_between_attempts_grow_to_some_minutes() -> None:
    pauses = [pause(failures) for failures in range(1, 2000)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0 * SECOND, 10 * MINUTE)


@pytest.mark.parametrize("timing", [{}, {"spread_minutes": 120, "per_second": 50}])
async def test_a_planner_that_dies_at_any_statement_leaves_nobody_out_and_nobody_twice(
    campaigns: Campaigns, timing: dict[str, Any]
) -> None:
    people = range(35)
    await campaigns.imported(csv_of(*people))
    campaign_id = await scheduled(campaigns, timing=timing)
    clock = MONDAY
    set_clock(campaigns, clock)
    assert await campaigns.planner.start_due()
    engine = campaigns.database.engine.sync_engine
    left = [math.inf]

    def die(*_: Any) -> None:
        left[0] -= 1
        if left[0] <= 0:
            raise ConnectionError("killed, and does nothing more")

    event.listen(engine, "before_cursor_execute", die)
    event.listen(engine, "commit", die)
    died, point = 0, 1
    while len(await campaigns.requests()) < len(people):
        clock += MINUTE
        set_clock(campaigns, clock)
        left[0] = point
        try:
            await campaigns.planner.expand()
            point = 1
        except ConnectionError:
            died, point = died + 1, point + 1
        left[0] = math.inf
    assert died >= 4 * 6, "at each statement of each chunk"
    asked_for = [r.subject_id for r in await campaigns.requests()]
    assert sorted(asked_for) == sorted(subject(n) for n in people)
    assert (await campaigns.statistics(campaign_id))["pending"] == len(people)
