"""Campaigns driven at random over the API and by the planner, against a real Postgres.

Campaigns are written, edited, scheduled, paused, resumed and cancelled: plain ones, of an empty audience, with a pace,
that recur, with other texts. The planner takes a step now and then, by a clock that goes on; what dispatch would report
comes late and in any order; Kafka loses requests and reports; and the next step of one campaign may fail. After each
step, of every campaign:

    promise 4    audience = pending + denied + deferred + handed_off + expired, each as its recipients say
    the gate     no recipient is asked for twice, but by a request that says it is repeated

Once faults have ended, the planner has run for long enough and dispatch has reported of each request:

    promise 10   each campaign has ended with nothing left to decide, or waits for a person who can end that wait, or
                 for a time that has not come; and it says so
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, cast

import httpx
import hypothesis
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import text

from common.contracts import CAMPAIGN_REQUESTS
from common.contracts.dispatch import MessageChanged
from common.kafka.broker import partition_of
from tests.service.campaign import faults
from tests.service.campaign.campaigns import (
    DAY,
    LEDGER,
    OUTCOMES,
    PARTITIONS,
    WRITTEN,
    Campaigns,
    balanced,
    changed,
    csv_of,
    next_monday,
    opened,
)
from tests.support.infrastructure import Broker, Postgres
from tests.support.running import Surroundings
from tests.support.seed import seed

pytestmark = pytest.mark.brokerless

MONDAY = next_monday()
PEOPLE = range(7)
ROUNDS = 200  # of all steps of the planner: more than there are campaigns
# what is done to a campaign before it is left to itself; `begin`: the planner starts what is due; `occur`: one of that,
# which of a series is to make the campaign that it starts next; `lose`: whom it asks for then, Kafka forgets
WAYS = (
    ("cancel",),
    ("schedule", "cancel"),
    ("schedule", "pause"),
    ("schedule", "pause", "cancel"),
    ("schedule", "occur", "pause"),
    ("schedule", "occur", "pause", "cancel"),
    ("schedule", "begin"),
    ("schedule", "begin", "pause"),
    ("schedule", "begin", "cancel"),
    ("schedule", "begin", "pause", "cancel"),
    ("schedule", "begin", "pause", "edit"),
    ("schedule", "begin", "lose"),
    ("schedule", "begin", "lose", "pause"),
    ("schedule", "begin", "lose", "cancel"),
)
EMPTIED = ("campaign", "campaign_accounts", "campaign_reason", "recipient", "outbox", "broken", "campaign_pre_flight")
DONE = ("finished", "cancelled")
# who or what each reason waits for, once the machine is at rest
PERSONS = {"scheduling", "approval", "resumption"}
TIMES = {"start", "window", "hour", "pace", "winner"}

DAILY = {"cron": "0 10 * * *", "until": (MONDAY + 3 * DAY).isoformat()}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rested": {"rest_days": 2},
    "empty": {"audience": {"where": {"city": "Nulle part"}}},
    "spread": {"timing": {"spread_minutes": 120}},
    "paced": {"timing": {"per_hour": 100}},
    "recurs": {"recurring": DAILY},
    "trial": {"trial": {"variants": [{"name": "b", "text": "Samedi. {stop}", "percent": 50}], "holdout_percent": 10}},
    "winner": {
        "trial": {
            "variants": [{"name": "b", "text": "Samedi. {stop}", "percent": 30}],
            "percent": 30,
            "winner": {"after_hours": 2},
        }
    },
}
REPORTED = ("accepted", "rejected", "unknown", "denied", "expired", "deferred")
FINAL = REPORTED[:-1]
STANDINGS = {*LEDGER, *OUTCOMES} - {"handed_off"}


class Machine(RuleBasedStateMachine):
    """One sender, its planner, and dispatch, which is played."""

    def __init__(self, runner: asyncio.Runner, campaigns: Campaigns) -> None:
        super().__init__()
        self.run: Callable[[Any], Any] = runner.run
        self.campaigns = campaigns
        self.clock = MONDAY
        self.written = 0
        self.versions: dict[tuple[str, str], int] = {}

    @initialize()
    def begins(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        async with self.campaigns.surroundings.sql("campaign") as sql:
            for table in EMPTIED:
                await sql.execute(f"DELETE FROM {table}")
        self._goes_to(MONDAY)

    # --- people -----------------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(sorted(KINDS)), scheduled=st.booleans())
    def writes(self, kind: str, *, scheduled: bool) -> None:
        self.run(self._write(kind, scheduled=scheduled))

    async def _write(self, kind: str, *, scheduled: bool) -> str:
        self.written += 1
        found = await self.campaigns.written(name=f"{kind} {self.written}", **KINDS[kind])
        if scheduled:
            await self._act(found["campaign_id"], "schedule")
        return str(found["campaign_id"])

    @rule(kind=st.sampled_from(sorted(KINDS)), way=st.sampled_from(WAYS))
    def goes_a_way(self, kind: str, way: tuple[str, ...]) -> None:
        self.run(self._go(kind, way))

    async def _go(self, kind: str, way: tuple[str, ...]) -> None:
        campaign_id = await self._write(kind, scheduled=False)
        for step in way:
            if step in ("begin", "occur"):
                await self._some(self.campaigns.planner.deny_unrequested, ROUNDS)  # its sender's next waits for that
                await self._some(self.campaigns.planner.start_due, ROUNDS if step == "begin" else 1)
            elif step == "lose":
                await self._some(self.campaigns.planner.expand, ROUNDS)
                await self._lose_requests()
            elif step == "edit":
                await self._edit(await self.campaigns.get(f"campaigns/{campaign_id}"))
            else:
                await self._act(campaign_id, step)

    async def _some(self, step: Callable[[], Awaitable[bool]], most: int) -> None:
        for _ in range(most):
            if not await step():
                return

    @rule(which=st.integers(0, 5), action=st.sampled_from(("schedule", "pause", "resume", "cancel", "cancel", "edit")))
    def acts(self, which: int, action: str) -> None:
        self.run(self._act_on(which, action))

    async def _act_on(self, which: int, action: str) -> None:
        items = await self._items()
        if not items:
            return
        campaign = items[which % len(items)]
        if action == "edit":
            await self._edit(campaign)
        else:
            await self._act(campaign["campaign_id"], action)

    async def _edit(self, campaign: dict[str, Any]) -> None:
        kind = campaign["name"].partition(" ")[0]
        said = {**WRITTEN, **KINDS[kind], "name": campaign["name"], "text": f"{self.written} fois. {{stop}}"}
        if campaign["series_id"] is not None:
            said.pop("recurring", None)
        self._allowed(await self.campaigns.client.put(f"/v1/campaigns/{campaign['campaign_id']}", json=said))

    async def _act(self, campaign_id: str, action: str) -> None:
        at = {"at": max(self.clock, MONDAY).isoformat()} if action == "schedule" else {}
        self._allowed(await self.campaigns.client.post(f"/v1/campaigns/{campaign_id}/{action}", json=at))

    def _allowed(self, answer: httpx.Response) -> None:
        """It was done, or it is refused for what the campaign is by now."""
        assert answer.status_code in (200, 409, 422), answer.text

    # --- the planner, dispatch, time ---------------------------------------------------------------------------------

    @rule(step=st.sampled_from(("start_due", "expand", "expand", "deny_unrequested", "repeat_requests", "finish_done")))
    def plans(self, step: str) -> None:
        self.run(getattr(self.campaigns.planner, step)())

    @rule()
    def plans_everything(self) -> None:
        assert self.run(faults.rounds(self.campaigns.planner, ROUNDS)) < ROUNDS, "the planner comes to rest"

    @rule(many=st.integers(1, 10), status=st.sampled_from(REPORTED))
    def reports(self, many: int, status: str) -> None:
        self.run(self._report(many, status))

    async def _report(self, many: int, status: str) -> None:
        """Of messages that were asked for and are not over, so many, each in its person's partition."""
        by_partition: dict[int, list[MessageChanged]] = defaultdict(list)
        for event in await self._reported(many, status):
            by_partition[partition_of(event.subject_id, PARTITIONS)].append(event)
        for partition, events in by_partition.items():
            await self.campaigns.report(*events, partition=partition)

    @rule(many=st.integers(1, 10), status=st.sampled_from(REPORTED))
    def loses_reports(self, many: int, status: str) -> None:
        self.run(self._reported(many, status))

    @rule()
    def loses_requests(self) -> None:
        self.run(self._lose_requests())

    async def _lose_requests(self) -> None:
        async with self.campaigns.surroundings.sql("campaign") as sql:
            await sql.execute("DELETE FROM outbox WHERE topic = $1", CAMPAIGN_REQUESTS.name)

    async def _reported(self, many: int, status: str) -> list[MessageChanged]:
        if not (requests := {(r.campaign_id, r.subject_id) for r in await self.campaigns.requests()}):
            return []
        async with self.campaigns.database.begin() as tx:
            rows = await tx.execute(
                text("SELECT campaign_id, subject_id FROM recipient WHERE status = ANY(:open)"),
                {"open": ["pending", "deferred"]},
            )
            open_ = [(row.campaign_id, row.subject_id) for row in rows]
        events: list[MessageChanged] = []
        for place in sorted(requests.intersection(open_))[:many]:
            self.versions[place] = version = self.versions.get(place, 0) + 1
            events.append(changed(*place, version, status, reasons=("r",), decided_at=self.clock))
        return events

    @rule(hours=st.sampled_from((0.01, 1, 5, 24)))
    def time_goes_by(self, hours: float) -> None:
        self._goes_to(self.clock + timedelta(hours=hours))

    def _goes_to(self, at: datetime) -> None:
        self.clock = at
        self.campaigns.planner._now = lambda: at

    @rule(which=st.integers(0, 5))
    def fails_from_now_on(self, which: int) -> None:
        self.run(self._break(which))

    async def _break(self, which: int) -> None:
        """One at a time."""
        await faults.mend(self.campaigns)
        if items := await self._items():
            await faults.break_(self.campaigns, items[which % len(items)]["campaign_id"])

    # --- what holds -------------------------------------------------------------------------------------------------

    async def _items(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.campaigns.get("campaigns?limit=1000"))["items"]
        return found

    @invariant()
    def accounts_are_exact(self) -> None:
        self.run(self._accounts_are_exact())

    async def _accounts_are_exact(self) -> None:
        async with self.campaigns.surroundings.sql("campaign") as sql:
            rows = await sql.fetch("SELECT campaign_id, status, count(*) AS many FROM recipient GROUP BY 1, 2")
        counted = {(row["campaign_id"], row["status"]): row["many"] for row in rows}
        for campaign in await self._items():
            told = balanced(campaign["statistics"])
            assert {s: told[s] for s in STANDINGS} == {
                s: counted.get((campaign["campaign_id"], s), 0) for s in STANDINGS
            }
            over = campaign["status"] in DONE and not campaign["statistics"]["pending"]
            assert campaign["waiting_for"] or over, "what goes on says what it waits for"
        asked = [(r.campaign_id, r.subject_id) for r in await self.campaigns.requests() if not r.repeated]
        assert len(asked) == len(set(asked))

    def teardown(self) -> None:
        self.run(self._comes_to_rest())

    async def _comes_to_rest(self) -> None:
        await self._others_go_on()
        await faults.mend(self.campaigns)
        for _ in range(7):  # beyond each end, each pause and the last occurrence
            self._goes_to(self.clock + DAY)
            assert await faults.rounds(self.campaigns.planner, ROUNDS) < ROUNDS
            for status in FINAL:
                await self._report(3, status)
            await self._report(1000, "accepted")
        await faults.rounds(self.campaigns.planner, ROUNDS)
        items = await self._items()
        by_id = {each["campaign_id"]: each for each in items}
        for each in items:
            balanced(each["statistics"])
            assert self._says_why(each, by_id), each

    async def _others_go_on(self) -> None:
        """While one still fails: no other campaign is due and not started, nor left to be denied."""
        assert await faults.rounds(self.campaigns.planner, ROUNDS) < ROUNDS
        for each in await self._items():
            waits = {waiting["reason"] for waiting in each["waiting_for"]}
            assert each["failing"] is not None or not waits & {"denials", "audience", "requests", "end"}, each

    def _says_why(self, campaign: dict[str, Any], by_id: dict[str, dict[str, Any]]) -> bool:
        if campaign["status"] in DONE and campaign["waiting_for"] == []:
            return True
        assert campaign["failing"] is None
        over = campaign["send_before"] is not None and datetime.fromisoformat(campaign["send_before"]) <= self.clock
        assert campaign["started_at"] is None or not over, "nobody need resume it: what was left of it is denied"
        for waiting in campaign["waiting_for"]:
            if waiting["reason"] in PERSONS:
                return True
            if waiting["reason"] == "series":
                return bool(by_id[campaign["series_id"]]["status"] == "paused")
            if waiting["reason"] in TIMES and datetime.fromisoformat(waiting["until"]) > self.clock:
                return True
        return False


@pytest.fixture
def machines(runner: asyncio.Runner, postgres: Postgres, broker: Broker, unique: str) -> Iterator[Campaigns]:
    opening = opened(Surroundings(postgres, broker, unique))
    campaigns: Campaigns = runner.run(opening.__aenter__())
    runner.run(faults.install(campaigns))
    runner.run(campaigns.imported(csv_of(*PEOPLE)))
    yield campaigns
    runner.run(opening.__aexit__(None, None, None))


def test_whatever_is_done_to_campaigns_each_ends_or_says_what_it_waits_for(
    runner: asyncio.Runner, machines: Campaigns
) -> None:
    drawn = seed()
    try:
        run_state_machine_as_test(
            cast(type[Machine], hypothesis.seed(drawn)(lambda: Machine(runner, machines))),
            settings=settings(max_examples=6, stateful_step_count=16, deadline=None, phases=[Phase.generate]),
        )
    except BaseException as error:
        error.add_note(f"PLACET_TEST_SEED={drawn} repeats this")
        raise


def test_each_kind_of_campaign_left_in_each_way_settles_though_the_step_of_one_fails(
    runner: asyncio.Runner, machines: Campaigns
) -> None:
    """One after the other: of all these a run of the machine draws some."""
    machine = Machine(runner, machines)
    machine.begins()
    for way in WAYS:
        for kind in KINDS:
            machine.run(machine._go(kind, way))
            if (way, kind) == (WAYS[0], "plain"):
                machine.fails_from_now_on(0)
    machine.accounts_are_exact()
    machine.teardown()
