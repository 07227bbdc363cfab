"""Nothing goes over a limit: of a number, a day, a month, a place; by HTTP or by campaign, whatever runs at once."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from common.contracts.campaign import CampaignControlled
from common.contracts.consent import ConsentStateChanged
from common.db.allowances import Allowances, Charge
from common.db.database import Database
from common.kafka.subscription import Received
from common.law import at_hand_off, load
from common.limits import Quota, day_of, read
from common.sms.prices import read as prices_of
from dispatch.audit.replay import Replay, lines
from dispatch.gate import clearance, deciding
from dispatch.gate.candidate import requested as candidate_of
from dispatch.gate.clearance import Clearance
from dispatch.gate.rules import Allow, Defer
from dispatch.gateways import pool
from dispatch.gateways.gateway import Capabilities, longest_sent
from dispatch.gateways.pool import Traffic
from dispatch.gateways.routing import Route, ways
from dispatch.lane import Due
from dispatch.messages.reasons import Reason
from dispatch.projection import store as projection
from dispatch.projection.limits import Limits
from dispatch.quotas.budget import Budget, Over
from dispatch.sending.pipeline import Handoff, Intake
from dispatch.sending.timers import Timers
from tests.service.dispatch.test_decision_records import Unasked
from tests.service.dispatch.test_lanes import CODE, NOTICE, Lanes, lanes, opened
from tests.support.builders import (
    SENDER,
    codes_sender_changed,
    controlled,
    field_keys,
    now,
    number,
    opted_in,
    opted_out,
    requested,
    sender_changed,
    subject,
    subject_keys,
)
from tests.support.eventually import eventually, is_so
from tests.support.running import ORGANISATION, Surroundings, bearer

pytestmark = pytest.mark.brokerless

__all__ = ["lanes"]  # the fixture: senders and templates

OFFER = {"sender_id": SENDER, "to": number(1), "category": "marketing", "purpose": "promotions"}
OFFER |= {"text": "-20 % samedi. STOP au 36111"}
PRICES = {
    "version": "t-1",
    "editions": [
        {"valid_from": "2020-01-01", "prices": [{"place": "FR", "price": "0.05", "source": "a test"}]},
    ],
}
PEOPLE = range(1, 13)
ABROAD = "+12025550123"


def file(folder: Path, **default: Any) -> Path:
    found = folder / "limits.json"
    found.write_text(json.dumps({"version": "t-1", "default": default}))
    return found


async def refusals(lanes: Lanes, body: Any, status: int = 429, **more: Any) -> tuple[str, str, dict[str, str]]:
    answer = await lanes.client.post("/v1/messages", json=body, **more)
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert number(1)[3:] not in answer.text
    [reason] = problem["reasons"]
    return problem["type"], reason["reason"], dict(answer.headers)


async def test_a_number_gets_so_many_messages_an_hour_and_a_refusal_leaves_its_audit_alone(
    lanes: Lanes, surroundings: Surroundings, tmp_path: Path
) -> None:
    async with opened(surroundings, limits=file(tmp_path, per_number_hour=2, per_number_day=3)) as strict:
        for body in (CODE, {**NOTICE, "send_before": (now() + timedelta(days=2)).isoformat()}):
            await strict.post(body)
        kind, reason, headers = await refusals(strict, CODE)
        assert (kind, reason) == ("/problems/limit-reached", "per_number_hour")
        assert 3500 < int(headers["retry-after"]) <= 3600
        await strict.post({**CODE, "to": number(2)})  # another number, another sender's marketing
        await strict.post(OFFER)
        assert await strict.rows("SELECT count(*) FROM message") == [(4,)]
        [audit] = await strict.audits()
        assert (audit["result"], audit["reasons"], audit["message_id"]) == ("refused", ["per_number_hour"], None)
        async with surroundings.sql("dispatch") as sql:
            await sql.execute("UPDATE message SET requested_at = requested_at - interval '2 hours'")
        await strict.post(CODE)
        assert (await refusals(strict, CODE))[1] == "per_number_day"
        async with surroundings.sql("dispatch") as sql:
            await sql.execute("UPDATE message SET status = 'denied', due_at = NULL WHERE category = 'service'")
        await strict.post(CODE)  # a denied message does not count


async def test_of_many_requests_at_once_to_two_processes_a_number_gets_no_more_than_its_limit(
    lanes: Lanes, surroundings: Surroundings, tmp_path: Path
) -> None:
    limits = file(tmp_path, per_number_hour=5)
    async with opened(surroundings, limits=limits) as one, opened(surroundings, limits=limits) as other:
        several = {"messages": [CODE, {**CODE, "to": number(2)}, CODE]}
        asked = [each.client.post("/v1/messages", json=several) for each in (one, other) for _ in range(5)]
        answers = await asyncio.gather(*asked)
        assert {answer.status_code for answer in answers} <= {202, 429}
        counted = "SELECT count(*) FROM message GROUP BY subject_id"
        assert await one.rows(counted) == [(5,), (5,)]


async def test_a_repeat_counts_once_and_is_answered_at_the_limit(
    lanes: Lanes, surroundings: Surroundings, tmp_path: Path
) -> None:
    limits = file(tmp_path, per_number_hour=1, messages_per_day=3)
    async with opened(surroundings, limits=limits) as one, opened(surroundings, limits=limits) as other:
        for key, body in (("k-1", CODE), ("k-3", OFFER)):
            named = {"Idempotency-Key": key}
            answers = await asyncio.gather(
                *(each.client.post("/v1/messages", json=body, headers=named) for each in (one, other) for _ in range(4))
            )
            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.json()["message_id"] for answer in answers}) == 1
        await other.post({**CODE, "to": number(2)})
        assert (await refusals(one, {**CODE, "to": number(3)}))[1] == "messages_per_day"
        refused = {"Idempotency-Key": "k-2"}
        assert (await refusals(one, {**CODE, "to": number(3)}, headers=refused))[1] == "messages_per_day"
        assert await one.rows("SELECT count(*) FROM keyed_request") == [(2,)], "a refusal claims no key"


async def test_a_day_is_shared_by_processes_and_outlives_a_restart_and_each_token_keeps_its_share(
    lanes: Lanes, surroundings: Surroundings, tmp_path: Path
) -> None:
    limits = file(tmp_path, messages_per_day=6)
    narrow = bearer(limits={"messages_per_day": 2})
    batch = {"messages": [{**CODE, "to": number(n)} for n in (1, 2, 3)]}
    async with opened(surroundings, limits=limits) as one, opened(surroundings, limits=limits) as other:
        found = (await one.post(batch, headers=narrow))["results"]
        assert [each["status"] for each in found] == ["pending", "pending", None]
        refused = found[2]["refused"]
        assert (refused["status"], refused["reasons"][0]["reason"]) == (429, "token_messages_per_day")
        assert (await refusals(other, CODE, headers=narrow))[1] == "token_messages_per_day"
        answer = await other.client.post("/v1/messages", json=OFFER)
        assert re.search('"messages_per_day";r=[23];t=', answer.headers["ratelimit"]), "a lease of the other is taken"
        assert answer.headers["ratelimit-policy"].startswith('"messages_per_day";q=6;w=')
    async with opened(surroundings, limits=limits) as again:
        statuses = [each["status"] for each in (await again.post({"messages": [CODE] * 4}))["results"]]
        assert statuses == ["pending"] * 3 + [None]
        kind, reason, headers = await refusals(again, {"messages": [CODE, OFFER]})
        assert (kind, reason) == ("/problems/limit-reached", "messages_per_day")
        assert int(headers["retry-after"]) <= (day_of(now())[1] - now()).total_seconds() + 2
        assert await again.rows("SELECT count(*) FROM message") == [(6,)]


async def test_a_month_spends_so_much_by_the_price_of_each_sms_and_nothing_without_a_price(
    lanes: Lanes, surroundings: Surroundings, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps(PRICES))
    limits = file(tmp_path, spend_per_month="0.20", messages_per_day=3, places=["*"])
    async with opened(surroundings, limits=limits, prices=prices) as strict:
        long = {**NOTICE, "text": "a" * 161, "category": "transactional", "sender_id": CODE["sender_id"]}
        await strict.post(CODE)
        await strict.post(long)
        assert (await refusals(strict, long))[1] == "spend_per_month"
        await strict.post(CODE)
        assert (await refusals(strict, CODE))[1] == "spend_per_month", "the month lasts longer than the day"
        abroad = {**CODE, "to": ABROAD}
        assert (await refusals(strict, abroad, 403))[:2] == ("/problems/not-allowed-by-limits", "price_unknown")


async def test_a_foreign_place_is_closed_until_the_limits_name_the_place(
    lanes: Lanes, surroundings: Surroundings, tmp_path: Path
) -> None:
    abroad = {**CODE, "to": ABROAD}
    async with opened(surroundings, limits=file(tmp_path, places=["BE"])) as strict:
        assert (await refusals(strict, abroad, 403))[:2] == ("/problems/not-allowed-by-limits", "place_not_allowed")
        await strict.post(CODE)
    async with opened(surroundings, limits=file(tmp_path, places=["US"])) as wide:
        await wide.post(abroad)
        nowhere = bearer(limits={"places": []})
        assert (await refusals(wide, abroad, 403, headers=nowhere))[1] == "place_not_allowed"
        await wide.post(CODE, headers=nowhere)


class Campaigns:
    """Workers that decide on a campaign's messages. An operator is never asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opened: list[Any] = []

    def worker(self, *gateways: Unasked, **limits: Any) -> "Worker":
        """`gateways`: the cheapest first."""
        found = Worker(self.url, limits, gateways or (Unasked(),))
        self.opened += [found.database, found.allowances.database]
        return found


class Worker:
    def __init__(self, url: str, limits: dict[str, Any], gateways: Sequence[Unasked]) -> None:
        self.database = Database(url, pool_size=4)
        self.allowances = Allowances(Database(url, pool_size=1))
        file = {"version": "t-1", "default": limits}
        self.budget = Budget(self.allowances, read(json.dumps(file).encode()))
        self.clearance = Clearance(
            subject_keys=subject_keys,
            field_keys=field_keys,
            traffic=Traffic(gateways, [Route(each.name, price=Decimal(n)) for n, each in enumerate(gateways)]),
            policy=at_hand_off(load("demonstration")),
            limits=Limits(max_staleness=timedelta(minutes=5)),
            permit_ttl_s=60.0,
            budget=self.budget,
            prices=prices_of(json.dumps(PRICES).encode()),
        )
        self.handoff = Handoff(self.database, self.clearance.traffic, self.clearance, 4)
        self.intake = Intake(self.clearance, self.handoff, batch=100, partitions=1)
        self.timers = Timers(
            self.database,
            self.clearance,
            self.handoff,
            batch=100,
            partitions=range(1),
            sending_timeout=timedelta(minutes=1),
        )

    async def take(self, events: Sequence[Any], *, fails: bool = False) -> None:
        batch = [Received(event, "", 0, n, now(), None) for n, event in enumerate(events)]
        async with self.database.begin() as tx:
            await self.intake.take_marketing(tx, batch)
            if fails:
                raise ConnectionError

    async def rows(self) -> list[tuple[Any, ...]]:
        async with self.database.begin() as tx:
            return [tuple(row) for row in await tx.execute(text("SELECT status, reasons, due_at FROM message"))]

    async def statuses(self) -> list[str]:
        return sorted(row[0] for row in await self.rows())

    async def wake(self) -> None:
        async with self.database.begin() as tx:
            await tx.execute(text("UPDATE message SET due_at = now() WHERE due_at IS NOT NULL"))
        await self.timers._decide_due(0, Due.MARKETING)


@pytest.fixture
async def campaigns(surroundings: Surroundings) -> AsyncIterator[Campaigns]:
    url = await surroundings.database("dispatch")
    database = Database(url, pool_size=1)
    async with database.begin() as tx:
        await projection.put_sender(tx, sender_changed())
        await projection.put_sender(tx, codes_sender_changed())
        await projection.put_control(tx, controlled("running"))
        await projection.put_subjects(tx, [opted_in(n) for n in PEOPLE])
        await tx.execute(
            text(
                "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
                " VALUES ('dispatch.consents', 'consent.states.v1', 0, 0, now() + interval '50 ms')"
            )
        )
    found = Campaigns(url)
    async with AsyncExitStack() as leaving:
        leaving.push_async_callback(database.close)
        yield found
        for each in found.opened:
            await each.close()


def asked(*people: int, **more: Any) -> list[Any]:
    more.setdefault("requested_at", now() - timedelta(minutes=1))
    return [requested(n, **more) for n in people]


async def test_a_campaign_goes_up_to_its_day_and_the_rest_waits_for_the_next(campaigns: Campaigns) -> None:
    week = now() + timedelta(days=7)
    one, other = campaigns.worker(messages_per_day=5), campaigns.worker(messages_per_day=5)
    await asyncio.gather(one.take(asked(1, 2, 3, 4, send_before=week)), other.take(asked(5, 6, 7, 8, send_before=week)))
    assert await one.statuses() == ["deferred"] * 3 + ["sending"] * 5
    waiting = [(reasons, due) for status, reasons, due in await one.rows() if status == "deferred"]
    assert {tuple(reasons) for reasons, _ in waiting} == {("messages_per_day",)}
    assert all(due < now() + timedelta(seconds=31) for _, due in waiting), "idle leases may come back"
    await other.wake()
    assert await one.statuses() == ["deferred"] * 3 + ["sending"] * 5, "the day is not over"
    later = min(day_of(now())[1], now() + timedelta(hours=6)) - timedelta(minutes=1)
    assert all(due > later for status, _, due in await one.rows() if status == "deferred")
    raised = campaigns.worker(messages_per_day=7)
    await raised.wake()
    assert await one.statuses() == ["deferred"] + ["sending"] * 7
    await raised.take(asked(9, send_before=day_of(now())[1]))
    assert await one.statuses() == ["deferred"] * 2 + ["sending"] * 7, "the first refusal may be a lease of another"
    await raised.wake()
    assert ("denied", ["messages_per_day"], None) in await one.rows(), "its limit opens after `send_before`"
    async with one.database.begin() as tx:
        ids = list((await tx.execute(text("SELECT message_id FROM message"))).scalars())
    assert [line async for line in lines(one.database, Replay(), ids)] == []


async def test_what_is_denied_repeated_or_rolled_back_does_not_count(campaigns: Campaigns) -> None:
    worker = campaigns.worker(messages_per_day=4)
    first = asked(1, 2)
    await worker.take([*first, *asked(500, 501, 502)])  # nobody of them has opted in
    await worker.take(first)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await worker.take(asked(3, 4), fails=True)
    await worker.take(asked(3, 4, 5, send_before=day_of(now())[1]))
    await worker.wake()
    assert await worker.statuses() == ["denied"] * 4 + ["sending"] * 4


async def test_a_message_counts_once_however_often_it_is_decided(campaigns: Campaigns) -> None:
    worker = campaigns.worker(messages_per_day=2)
    async with worker.database.begin() as tx:
        await projection.put_control(tx, controlled("paused", version=2))
    await worker.take(asked(1, 2))
    await worker.wake()
    async with worker.database.begin() as tx:
        await projection.put_control(tx, controlled("running", version=3))
    await worker.wake()
    assert await worker.statuses() == ["sending"] * 2


async def test_a_message_counts_once_although_knowledge_is_behind_after_its_charge(campaigns: Campaigns) -> None:
    worker = campaigns.worker(messages_per_day=2)

    async def after(state: ConsentStateChanged, control: CampaignControlled) -> list[Any]:
        async with worker.database.begin() as tx:
            await projection.put_subjects(tx, [state])
            await projection.put_control(tx, control)
        await (worker.wake() if await worker.rows() else worker.take([first]))
        return [reasons for _, reasons, _ in await worker.rows()]

    [first] = asked(1, requested_at=now() + timedelta(minutes=5))
    assert await after(opted_in(1), controlled("paused", version=2)) == [["campaign_paused"]]
    assert await after(opted_out(1), controlled("paused", version=2)) == [["knowledge_behind"]]
    assert await after(opted_in(1, version=3), controlled("running", version=3)) == [[]]
    await worker.take(asked(2))
    assert await worker.statuses() == ["sending"] * 2


async def test_an_answer_to_a_person_is_never_over_a_limit(campaigns: Campaigns) -> None:
    worker = campaigns.worker(messages_per_day=1, spend_per_month="0.01", per_number_hour=1)
    answers = asked(*PEOPLE, category="service", purpose=None, campaign_id=None)
    async with worker.database.begin() as tx:
        await worker.intake.take(tx, [Received(event, "", 0, n, now(), None) for n, event in enumerate(answers)])
    assert set(await worker.statuses()) <= {"sending", "pending"}
    await worker.handoff.codes.close()


async def test_a_campaign_spends_by_price_and_goes_to_no_place_closed_by_its_limits(campaigns: Campaigns) -> None:
    worker = campaigns.worker(spend_per_month="0.15")
    await worker.take(asked(*range(1, 6), send_before=now() + timedelta(hours=1)))
    person, identity = subject_keys.subject_id(ABROAD), str(UUID(int=7, version=4))
    sealed = field_keys.seal(ABROAD, f"number:{person}")
    await worker.take([requested(1, message_id=identity, subject_id=person, number=sealed)])
    await worker.wake()
    found = [(status, *reasons) for status, reasons, _ in await worker.rows()]
    assert sorted(each for each in found if each[1:2] != ("place_not_allowed",)) == [
        *[("denied", "spend_per_month")] * 2,
        *[("sending",)] * 3,
    ]
    assert sum(each[:2] == ("denied", "place_not_allowed") for each in found) == 1


async def test_a_lease_that_hangs_holds_up_neither_the_gate_nor_its_message_for_long(campaigns: Campaigns) -> None:
    worker = campaigns.worker(messages_per_day=5)
    await worker.take(asked(1, 2))
    async with worker.database.begin() as tx, asyncio.timeout(60):
        await tx.execute(text("SELECT 1 FROM allowance FOR UPDATE"))
        await worker.take(asked(3, send_before=now() + timedelta(hours=1)))
        await worker.wake()  # under the partition's lock all the time
        assert await worker.statuses() == ["deferred"] + ["sending"] * 2
        [(_, reasons, due)] = [row for row in await worker.rows() if row[0] == "deferred"]
        assert (reasons, due < now() + timedelta(seconds=2)) == (["no_lease"], True)

    async def sent() -> bool:
        await worker.wake()
        return await worker.statuses() == ["sending"] * 3

    await eventually(sent)


async def test_a_block_that_is_stored_while_a_lease_is_late_counts(campaigns: Campaigns) -> None:
    worker = campaigns.worker(messages_per_day=5)
    await worker.take(asked(1, 2))
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND query LIKE '%allowance%'"
    )

    async def asks_for_a_lease() -> bool:
        [(waiting,)] = await worker.database.read(waits)
        return bool(waiting)

    async with worker.database.begin() as tx:
        await tx.execute(text("SELECT 1 FROM allowance FOR UPDATE"))
        taken = asyncio.ensure_future(worker.take(asked(3)))
        await eventually(asks_for_a_lease)
        await tx.execute(
            text("INSERT INTO provider_block (gateway, subject_id, since) VALUES ('simulator', :person, now())"),
            {"person": subject(3)},
        )
    await taken
    assert [tuple(reasons) for status, reasons, _ in await worker.rows() if status != "sending"] == [
        ("provider_block",)
    ]


async def test_a_late_lease_takes_nothing_from_the_time_in_which_room_may_come(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = campaigns.worker(messages_per_day=1), campaigns.worker(messages_per_day=1)
    today = Quota("messages_per_day", ORGANISATION, 1, *day_of(now()))
    assert await other.allowances.use([Charge(today, 1)]) is None
    async with one.database.begin() as tx:
        await tx.execute(text("SELECT 1 FROM allowance FOR UPDATE"))
        with monkeypatch.context() as hurried:
            hurried.setattr(clearance, "LEASED_WITHIN_S", 0.1)
            await one.take(asked(3, send_before=today.until))
    assert await one.statuses() == ["deferred"]
    await eventually(lambda: is_so(one.allowances.was_empty(today)))
    await one.wake()
    [(status, reasons, _)] = await one.rows()
    assert (status, reasons) == ("deferred", ["messages_per_day"]), "the limit itself refuses for the first time"
    other.allowances.give_back([Charge(today, 1)])
    await other.allowances.close()
    await campaigns.worker(messages_per_day=1).wake()
    assert await one.statuses() == ["sending"]


async def test_a_refusal_of_a_day_before_does_not_count_as_the_first_of_this_one(campaigns: Campaigns) -> None:
    worker = campaigns.worker(messages_per_day=1)
    await worker.take(asked(1, 2, send_before=day_of(now())[1]))
    async with worker.database.begin() as tx:
        await tx.execute(text("UPDATE message SET decided_at = decided_at - interval '2 days' WHERE due_at > now()"))
    await worker.wake()
    assert await worker.statuses() == ["deferred", "sending"]
    await worker.wake()
    assert await worker.statuses() == ["denied", "sending"], "refused twice on one day"


async def test_the_costs_of_a_batch_are_counted_in_turns_and_by_one_look_up_of_routes(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = campaigns.worker(spend_per_month="100")
    turns, counted, looked_up = 0, Counter[int](), 0

    def sent(*of: Any) -> str:
        counted[turns] += 1
        return longest_sent(*of)

    def routed(*of: Any, **more: Any) -> Any:
        nonlocal looked_up
        looked_up += 1
        return ways(*of, **more)

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(clearance, "longest_sent", sent)
    monkeypatch.setattr(pool, "ways", routed)
    turning = asyncio.create_task(turn())
    await worker.take(asked(*PEOPLE, *range(500, 700)))
    turning.cancel()
    assert sum(counted.values()) == len(PEOPLE) + 200
    assert max(counted.values()) <= clearance.TURN
    assert looked_up == 2, "for the costs, and for the gateway"


async def test_a_refusal_by_a_day_that_ends_before_the_decision_does_not_count_for_the_next_day() -> None:
    [event] = asked(1)
    ended = now() - timedelta(seconds=1)
    over = Over(Reason.MESSAGES_PER_DAY, "5", ended - timedelta(days=1), ended)
    verdict = deciding._over(over, Allow(), candidate_of(event, 0), now())
    assert isinstance(verdict, Defer)
    assert verdict.reasons == (Reason.NO_LEASE,)


class Adding(Unasked):
    """An operator that appends the STOP mention to each text."""

    name = "adding"
    capabilities = Capabilities(adds_stop=True)


LONG = f"Maison Lune : {'a' * 128} STOP au 36111"  # one SMS; two with another mention


async def test_the_mention_that_the_operator_appends_is_paid_for_before_the_message_leaves(
    campaigns: Campaigns,
) -> None:
    worker = campaigns.worker(Adding(), spend_per_month="0.09")
    await worker.take(asked(1, text=LONG))
    assert [row[:2] for row in await worker.rows()] == [("deferred", ["spend_per_month"])]
    await worker.take(asked(2))
    assert await worker.statuses() == ["deferred", "sending"]


async def test_a_deferred_message_is_paid_for_as_any_gateway_may_send_the_message_later(campaigns: Campaigns) -> None:
    worker = campaigns.worker(Unasked(), Adding(), spend_per_month="0.14")
    async with worker.database.begin() as tx:
        await projection.put_control(tx, controlled("paused", version=2))
    await worker.take(asked(1, text=LONG))
    await worker.take(asked(2))
    async with worker.database.begin() as tx:
        await projection.put_control(tx, controlled("running", version=3))
    worker.clearance.traffic.failed("simulator", "misconfigured")
    await worker.wake()
    async with worker.database.begin() as tx:
        left = await tx.execute(text("SELECT gateway, cost FROM message WHERE status = 'sending'"))
    assert [tuple(row) for row in left] == [("adding", 1000)], "the rest of the month pays for no other"


async def test_an_accepted_offer_is_paid_for_with_the_longest_mention_that_a_gateway_appends(
    lanes: Lanes, surroundings: Surroundings, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps(PRICES))
    adding = [{"provider": "kannel", "user": "u", "secret": "s", "url": "http://127.0.0.1:1", "adds_stop": True}]
    limits = file(tmp_path, spend_per_month="0.09", places=["*"])
    async with opened(surroundings, limits=limits, prices=prices, gateways=adding) as strict:
        assert (await refusals(strict, {**OFFER, "text": LONG}))[1] == "spend_per_month"
        await strict.post(OFFER)
