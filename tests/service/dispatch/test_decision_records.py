"""What a decision stands on is read with the partition's lock, is kept in its row, and `replay` decides it again: real
Postgres, the real door to the gate, no service around."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from common.contracts.consent import Consent
from common.db.database import Database, fetch_many
from common.kafka.broker import partition_of
from common.law import at_hand_off, load, rules_of
from common.privacy import erasing
from common.privacy.erasing import Whom
from common.privacy.stop_link import token
from dispatch.audit.replay import Replay, lines
from dispatch.gate.candidate import Decision, requested, shared_of, stored
from dispatch.gate.clearance import Clearance
from dispatch.gateways import Capabilities, Result, SendError, Submit
from dispatch.gateways.pool import Traffic
from dispatch.gateways.routing import Route
from dispatch.lane import Lane
from dispatch.messages import rights_store
from dispatch.messages import store as messages_store
from dispatch.messages.row import own_facts_of
from dispatch.privacy.copy import copier
from dispatch.projection import store as projection
from dispatch.projection.limits import Limits
from dispatch.sending import store as sending
from dispatch.sending.mark_writer import by_decision
from dispatch.sending.pipeline import Handoff
from dispatch.sending.timers import Timers
from tests.support import builders
from tests.support.builders import (
    SENDER,
    field_keys,
    link_keys,
    now,
    number,
    opted_in,
    opted_out,
    sender_changed,
    subject,
    subject_keys,
)
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.support.ledger import decided_at

pytestmark = pytest.mark.brokerless

PARTITIONS = 3


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"))
    async with database.begin() as tx:
        await projection.put_sender(tx, sender_changed(abroad=("DE",)))
        await projection.put_control(tx, builders.controlled("running"))
        await projection.put_subjects(tx, [opted_in(1), opted_in(2), opted_out(3, version=4)])
        await tx.execute(
            text(
                "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
                " SELECT 'dispatch.consents', 'consent.states.v1', p, 0, now() + interval '50 ms'"
                " FROM generate_series(0, 2) AS p"
            )
        )
    yield database
    await database.close()


class Unasked:
    """An operator whom nobody asks: what is decided here is not handed off."""

    name = "simulator"
    capabilities = Capabilities(idempotent=True)  # what a crash left may go once more
    batch = 100
    timeout_s = 1.0

    async def submit(self, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        raise AssertionError(f"{len(messages)} messages left")

    async def look_up(self, reference: str, subject_id: str) -> Result | None:
        raise AssertionError("nothing left, so nothing was lost")

    async def close(self) -> None: ...


class Asked(Unasked):
    """An operator that takes all it is asked for."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def submit(self, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        self.taken += [m.reference for m in messages]
        return [Result("accepted", m.reference, None) for m in messages]


@pytest.fixture
def clearance() -> Clearance:
    return Clearance(
        subject_keys=subject_keys,
        field_keys=field_keys,
        traffic=Traffic([Unasked()], partitions=PARTITIONS),
        policy=at_hand_off(load("demonstration")),
        limits=Limits(max_staleness=timedelta(minutes=5)),
        permit_ttl_s=60.0,
        link_keys=link_keys,
    )


async def kept(database: Database, decision: Decision) -> dict[str, Any]:
    """The decision record as the ledger has it."""
    async with database.begin() as tx:
        row = await messages_store.found(tx, decision.row.message_id)
    assert row is not None
    found: dict[str, Any] = json.loads(row.facts or "")
    return found


async def decided(database: Database, clearance: Clearance, *people: int, **more: Any) -> list[Decision]:
    """Messages to these people, each decided and stored; those of a partition in one batch."""
    wanted: dict[int, list[Any]] = {}
    for n in people:
        event = builders.requested(n, **more)
        partition = partition_of(event.subject_id, PARTITIONS)
        wanted.setdefault(partition, []).append(requested(event, partition))
    found = []
    for partition, candidates in wanted.items():
        async with database.begin() as tx:
            await messages_store.lock_partition(tx, partition, Lane.MARKETING)
            found += (decisions := await clearance.decide(tx, partition, candidates))
            await messages_store.insert_messages(tx, [d.row for d in decisions], shared_of(decisions))
    return found


async def replayed(database: Database, replay: Replay, decisions: list[Decision]) -> list[str]:
    return [line async for line in lines(database, replay, [d.candidate.message_id for d in decisions])]


async def test_a_stop_link_counts_where_it_works_and_only_for_its_person_and_its_sender(
    database: Database, clearance: Clearance
) -> None:
    """A French number with an address in Martinique: the code works in the one place, the link in the other."""
    page = "https://p.example/s/maison-lune/"
    async with database.begin() as tx:
        await projection.put_sender(tx, sender_changed(version=2, abroad=("DE",), stop_page=page))

    async def goes(text: str, **more: Any) -> tuple[str, ...]:
        requested_at = now() - timedelta(minutes=1)
        [found] = await decided(database, clearance, 1, text=text, region="MQ", requested_at=requested_at, **more)
        replay = Replay()
        assert await replayed(database, replay, [found]) == []
        return found.row.reasons

    mention, closed = "Maison Lune. STOP au 36111", ("no_means_to_stop_there",)
    mine, later = token(link_keys, SENDER, subject(1), now()), now() - timedelta(days=9999)
    assert await goes(f"{mention} {page}{mine}") == ()
    assert await goes(mention) == closed
    for other in (
        token(link_keys, SENDER, subject(2), now()),
        token(link_keys, "globex", subject(1), now()),
        token(link_keys, SENDER, subject(1), later),
        "x" * len(mine),
    ):
        assert await goes(f"{mention} {page}{mine} {page}{other}") == ("foreign_link",)
    assert await goes(f"{mention} https://q.example/s/maison-lune/{mine}") == closed
    assert await goes(f"Maison Lune. {page}{mine}") == closed, "the link alone is no means in metropolitan France"
    assert await goes("Maison Lune") == ("stop_mention_missing",)
    clearance = replace(clearance, link_keys=None)
    assert await goes(f"{mention} {page}{mine}") == ("foreign_link",), "without keys nothing is verified"
    assert await goes(mention) == closed
    async with database.begin() as tx:
        await projection.put_sender(tx, sender_changed(version=3, abroad=("DE",), reachable_in=("MQ",)))
    assert await goes(mention) == ()
    [decision] = await decided(database, clearance, 1, text=mention, region="MQ")
    assert (await kept(database, decision))["stated"] == ["MQ"]


async def test_a_decision_keeps_what_it_stood_on_and_is_made_again(database: Database, clearance: Clearance) -> None:
    decisions = await decided(database, clearance, 1, 2, 3, 4, requested_at=now() - timedelta(minutes=1))
    by_person = {d.candidate.subject_id: d for d in decisions}
    assert [by_person[subject(n)].row.status for n in (1, 2, 3, 4)] == ["sending", "sending", "denied", "denied"]
    facts = await kept(database, by_person[subject(1)])
    assert facts["person"]["consent"]["state"] == "opted_in"
    assert facts["countries"] == ["DE", "FR"]
    for decision in by_person.values():
        said = json.dumps(await kept(database, decision))
        assert len(said) < 400
        assert number(1)[-9:] not in said
        assert "samedi" not in said
    replay = Replay()
    assert await replayed(database, replay, decisions) == []
    assert replay.summary() == ["4 decisions, 0 are not what their record gives"]
    everything = Replay()
    assert [line async for line in lines(database, everything, sample=10)] == []
    assert [line async for line in lines(database, everything, campaign_id="c1")] == []
    assert everything.looked_at == 8


async def test_a_copy_tells_a_controller_of_a_person_known_to_others_alone_what_it_tells_of_an_unknown_one(
    database: Database, clearance: Clearance
) -> None:
    """And of a person whom others erased, have unreadable, or know to be blocked by a provider; whatever the text."""
    yes = Consent(
        sender_id="globex", purpose="promotions", state="opted_in", basis="opt_in", occurred_at=now(), evidence_id="e"
    )
    others = {4: "other_controller", 6: "consent_unreadable", 7: "erased", 8: "erased", 9: "provider_block"}
    async with database.begin() as tx:
        gone = opted_in(7, consents=(), erased=True)
        await projection.put_subjects(tx, [opted_in(4, consents=(yes,), held_since=now()), gone])
        await projection.mark_unreadable(tx, subject(6), 1)
        await erasing.put(tx, builders.erasure_requested(8))
        await sending.block(tx, [sending.Block("another gateway", subject(9), "30008", now())])
    for words, age in (("Maison Lune. STOP au 36111", 1), ("Maison Lune", 1), ("Maison Lune. STOP au 36111", -1)):
        asked_at = now() + timedelta(minutes=-age)  # younger than the consents known here: all wait
        found = await decided(database, clearance, *others, 5, text=words, requested_at=asked_at)
        rows = {d.candidate.subject_id: d.row for d in found}
        async with database.begin() as tx:
            copies = {n: await copier(field_keys).gather(tx, subject(n), SENDER) for n in (*others, 5)}
        told: dict[int, dict[str, Any]] = {}
        for n, items in copies.items():
            same: list[dict[str, Any]] = [
                dict(each) for each in items if each["message_id"] == rows[subject(n)].message_id
            ]
            [item] = same
            item["facts"] = json.loads(item["facts"])
            item["facts"]["told"].pop("until", None)  # so long after each one's decision
            told[n] = item
        for n, reason in others.items():
            assert age < 0 or reason in rows[subject(n)].reasons, "the platform's operator sees the true reason"
            for field in ("reasons", "facts", "status"):
                assert told[n][field] == told[5][field], (reason, words, field)
            assert rows[subject(n)].version == rows[subject(5)].version
        assert told[5].keys() >= {"reasons", "facts", "text"}
        assert "consent_version" not in told[5]


@pytest.mark.parametrize(
    ("change", "becomes"), [("requested_at = now() - interval '1 min'", "denied"), ("send_before = now()", "expired")]
)
async def test_a_message_to_an_erased_person_waits_and_ends_as_one_to_an_unknown_person_does(
    database: Database, clearance: Clearance, change: str, becomes: str
) -> None:
    async with database.begin() as tx:
        await erasing.put(tx, builders.erasure_requested(8))
    decisions = await decided(database, clearance, 8, 5, requested_at=now() + timedelta(minutes=1))
    assert {(d.row.status, d.row.reasons) for d in decisions} == {("deferred", ("knowledge_behind",))}
    handoff = Handoff(database, clearance.traffic, clearance, 1)
    timers = Timers(database, clearance, handoff, batch=10, partitions=range(3), sending_timeout=timedelta(seconds=-1))
    async with database.begin() as tx:
        await tx.execute(text(f"UPDATE message SET due_at = now(), {change}"))
    while await timers.wake_marketing():
        pass
    async with database.begin() as tx:
        rows = await fetch_many(tx, "SELECT subject_id, status, number IS NULL, text IS NULL FROM message")
    assert set(rows) == {(subject(8), becomes, True, True), (subject(5), becomes, True, True)}


async def test_a_record_that_was_tampered_with_or_names_rules_we_have_not_is_told(
    database: Database, clearance: Clearance
) -> None:
    people = 1, 2, 3, 4
    decisions = await decided(database, clearance, *people, requested_at=now() - timedelta(minutes=1))
    one, two, three, four = (next(d for d in decisions if d.candidate.subject_id == subject(n)) for n in people)
    async with database.begin() as tx:
        for decision, change in (
            (one, f"facts = replace({own_facts_of('message')}, 'opted_in', 'opted_out')"),
            (two, "policy_version = 'france-0'"),
            (three, "facts = '{}'"),
            (four, """facts = replace(facts, '"to":', '"limits":["x"],"to":')"""),
        ):
            await tx.execute(
                text(f"UPDATE message SET {change} WHERE message_id = :id"), {"id": decision.candidate.message_id}
            )
    replay = Replay()
    found = await replayed(database, replay, decisions)
    assert sorted(line.partition(": ")[2].split(" -> ")[-1][:25] for line in found) == [
        "deny opted_out",
        "the record cannot be read",
        "the record cannot be read",
        "the version france-0 is not available"[:25],
    ]
    assert replay.differing == 4


@pytest.mark.parametrize(
    ("person", "change", "told"),
    [
        (1, "status = 'denied', reasons = '{opted_out}'", "the row says denied opted_out, the record allow"),
        (1, "status = 'expired'", "the row says expired, the record allow"),
        (1, "reasons = '{quiet_hours}'", "the row says sending quiet_hours, the record allow"),
        (1, "status = 'deferred', due_at = now()", "the row says deferred, the record allow"),
        (
            1,
            "status = 'deferred', due_at = now(), reasons = '{quiet_hours}'",
            "the row says deferred quiet_hours, the record allow",
        ),
        (3, "status = 'accepted', reasons = '{}'", "the row says accepted, the record deny opted_out, suppressed"),
        (3, "reasons = '{opted_out}'", "the row says denied opted_out, the record deny opted_out, suppressed"),
        (
            3,
            "status = 'deferred', due_at = now()",
            "the row says deferred opted_out, suppressed, the record deny opted_out, suppressed",
        ),
        (1, "status = 'deferred', due_at = now(), reasons = '{gateway_throttled}'", ""),
        (1, "status = 'rejected'", ""),
        (1, "status = 'unknown', unknown_since = now()", ""),
        (1, "status = 'pending', due_at = now()", ""),
    ],
)
async def test_a_row_that_tells_another_verdict_than_its_record(
    database: Database, clearance: Clearance, person: int, change: str, told: str
) -> None:
    [decision] = await decided(database, clearance, person, requested_at=now() - timedelta(minutes=1))
    assert await replayed(database, Replay(), [decision]) == []
    async with database.begin() as tx:
        await tx.execute(text(f"UPDATE message SET {change}"))
    replay = Replay()
    found = await replayed(database, replay, [decision])
    assert found == [f"{decision.candidate.message_id}: {told}"] * bool(told)
    assert replay.differing == bool(told)
    assert await replayed(database, Replay(other=clearance.policy), [decision]) == [], "a dry run asks the record"


async def test_what_an_erasure_denied_while_it_waited_is_named_and_no_difference(
    database: Database, clearance: Clearance
) -> None:
    resting = replace(clearance, traffic=Traffic([Unasked()], [Route("simulator", territories=frozenset({"RE"}))]))
    decisions = await decided(database, resting, 1, requested_at=now() - timedelta(minutes=1))
    assert [d.row.reasons for d in decisions] == [("no_route",)]
    async with database.begin() as tx:
        [erased] = await rights_store.deny_waiting(tx, {Whom(subject(1), None): now()})
    assert erased.state.reasons == ("erased",)
    replay = Replay()
    assert await replayed(database, replay, decisions) == []
    assert replay.summary() == [
        "1 decisions, 0 are not what their record gives",
        "1 denied by an erasure while they waited: their records are of the decision before",
    ]


async def test_other_rules_are_tried_on_what_was_decided(database: Database, clearance: Clearance) -> None:
    decisions = await decided(database, clearance, 1, 3, requested_at=now() - timedelta(minutes=1))
    async with database.begin() as tx:  # on a Sunday morning in France
        await tx.execute(
            text("UPDATE message SET decided_at = :at, as_of = :at, requested_at = :at, send_before = :ends"),
            {"at": datetime(2026, 11, 29, 10, 0, tzinfo=UTC), "ends": datetime(2026, 12, 2, tzinfo=UTC)},
        )
    assert await replayed(database, Replay(), decisions) == []
    replay = Replay(other=at_hand_off(rules_of(date(2026, 11, 25), load("france"))))
    [line] = await replayed(database, replay, decisions)
    assert line.endswith(": allow -> defer closed_weekday until 2026-11-30T07:00:00+00:00")
    assert replay.summary() == ["2 decisions, 1 would be otherwise", "  allow -> defer closed_weekday: 1"]


async def test_a_mark_that_another_law_asks_for_is_in_the_record(database: Database, clearance: Clearance) -> None:
    """It is of no law where the message goes: what begins with it is kept, and nothing of the text."""
    asked = {"requested_at": now() - timedelta(minutes=1)}
    marked = await decided(database, clearance, 1, text="PUBLI -20 % samedi STOP 36111", **asked)
    bare = await decided(database, clearance, 2, **asked)
    assert [(await kept(database, d)).get("mark") for d in (*marked, *bare)] == ["PUBLI", None]
    assert await replayed(database, Replay(), [*marked, *bare]) == []
    async with database.begin() as tx:  # on a Tuesday morning in France
        await tx.execute(
            text("UPDATE message SET decided_at = :at, as_of = :at, requested_at = :at, send_before = :ends"),
            {"at": datetime(2026, 11, 24, 10, 0, tzinfo=UTC), "ends": datetime(2026, 12, 2, tzinfo=UTC)},
        )
    rule = {"id": "r", "layer": "house", "source": "ours", "begins_with": "PUBLI", "places": ["FR"]}
    house = json.dumps({"version": "marked", "about": "Says what it is", "rules": [rule]}).encode()
    [line] = await replayed(database, Replay(other=at_hand_off(load("france-3", house))), [*marked, *bare])
    assert line == f"{bare[0].candidate.message_id}: allow -> deny advertising_mark_missing"


async def test_a_cap_counts_what_is_on_its_way_in_the_same_batch_and_what_went_before(
    database: Database, clearance: Clearance
) -> None:
    capped = replace(clearance, limits=msgspec.structs.replace(clearance.limits, cap=2))
    asked = {"requested_at": now() - timedelta(minutes=1)}
    assert [d.row.status for d in await decided(database, capped, 1, **asked)] == ["sending"]
    two = await decided(database, capped, 1, 1, 2, **asked)
    mine = [d.row for d in two if d.candidate.subject_id == subject(1)]
    assert [(row.status, row.reasons) for row in mine] == [("sending", ()), ("denied", ("frequency_cap",))]
    assert [d.row.status for d in two if d.candidate.subject_id == subject(2)] == ["sending"]
    assert await replayed(database, Replay(), two) == []
    async with database.begin() as tx:
        await tx.execute(text("UPDATE message SET decided_at = decided_at - interval '8 days'"))
    assert [d.row.status for d in await decided(database, capped, 1, **asked)] == ["sending"], "it is of a week"


async def test_a_message_that_is_told_again_counts_for_the_cap_of_another(
    database: Database, clearance: Clearance
) -> None:
    """What it is decided to be now is of no matter: it went, and its row stays as it is."""
    capped = replace(clearance, limits=msgspec.structs.replace(clearance.limits, cap=1))
    [first] = await decided(database, capped, 1, requested_at=now() - timedelta(minutes=1))
    assert first.row.status == "sending"
    other = requested(builders.requested(1, requested_at=now() - timedelta(minutes=1)), first.candidate.partition)
    async with database.begin() as tx:
        again = await capped.decide(tx, first.candidate.partition, [other, first.candidate])
    assert [d.row.reasons for d in again] == [("frequency_cap",), ("frequency_cap",)]


async def test_deciding_again_what_is_being_sent_does_not_count_itself(
    database: Database, clearance: Clearance
) -> None:
    capped = replace(clearance, limits=msgspec.structs.replace(clearance.limits, cap=2))
    first = await decided(database, capped, 1, 1, requested_at=now() - timedelta(minutes=1))
    partition = first[0].candidate.partition
    async with database.begin() as tx:
        stored_now = [msgspec.structs.replace(d.candidate, version=d.row.version) for d in first]
        again = await capped.decide(tx, partition, stored_now)
    assert [d.row.status for d in again] == ["sending", "sending"]


async def test_while_the_breaker_is_open_of_the_gateway_that_adds_the_stop_mention_a_text_without_one_waits(
    database: Database, clearance: Clearance
) -> None:
    """It is not denied for good because the account is out of money, nor does it go without one by another gateway."""
    adds, other = Unasked(), Unasked()
    adds.capabilities, other.name = Capabilities(adds_stop=True), "other"
    traffic = Traffic([adds, other], [Route(adds.name), Route(other.name, price=Decimal(1))], partitions=PARTITIONS)
    waiting = replace(clearance, traffic=traffic)
    asked = {"requested_at": now() - timedelta(minutes=1), "text": "Soldes chez Maison Lune"}
    assert [d.row.gateway for d in await decided(database, waiting, 1, **asked)] == [adds.name]
    traffic.failed(adds.name, "misconfigured")
    decisions = await decided(database, waiting, 1, 2, **asked)
    assert {(d.row.status, d.row.reasons) for d in decisions} == {("deferred", ("gateway_needs_somebody",))}
    assert await replayed(database, Replay(), decisions) == []
    alone = replace(clearance, traffic=Traffic([other], partitions=PARTITIONS))
    [denied] = await decided(database, alone, 1, **asked)
    assert denied.row.reasons == ("stop_mention_missing",)


@pytest.mark.parametrize(("hours", "becomes"), [(22, "accepted"), (24, "unknown")])
async def test_what_its_gateway_may_have_forgotten_is_not_submitted_again(
    database: Database, clearance: Clearance, hours: int, becomes: str
) -> None:
    """The first submit's age counts, also where a crash left it a second time, just now."""
    operator = Asked()
    traffic = Traffic([operator], partitions=PARTITIONS)
    asking = replace(clearance, traffic=traffic)
    first = now() - timedelta(hours=hours)
    [decision] = await decided(database, asking, 1, requested_at=first)
    async with database.begin() as tx:
        await tx.execute(text("UPDATE sending SET since = :first"), {"first": first})
        [row] = await sending.still_ours(tx, [decision.candidate.message_id], [decided_at(decision.row)], again=False)
        [again] = await asking.decide(tx, row.partition, [stored(row)], again=True)
        assert again.permit
        await messages_store.update_decisions(tx, [again.row], shared_of([again]))
        await messages_store.begin(tx, by_decision([again.permit]))
    handoff = Handoff(database, traffic, asking, 1)
    timers = Timers(database, asking, handoff, batch=10, partitions=range(3), sending_timeout=timedelta(seconds=-1))
    await timers.sweep()
    async with database.begin() as tx:
        assert await tx.scalar(text("SELECT status FROM message")) == becomes
    assert operator.taken == ([str(decision.candidate.message_id)] if becomes == "accepted" else [])


WAITING = (
    "SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database WHERE d.datname = current_database()"
    " AND l.locktype = 'advisory' AND NOT l.granted AND l.mode = "
)
WAITING_TO_DECIDE = f"{WAITING}'ShareLock'"
WAITING_TO_APPLY = f"{WAITING}'ExclusiveLock'"


@pytest.mark.parametrize(
    ("way", "category", "becomes"),
    [
        ("it is due", "marketing", "denied"),
        ("it is due", "service", "denied"),  # a question
        ("its permit has lapsed", "marketing", "denied"),
        ("its permit has lapsed", "service", "denied"),
    ],
)
async def test_who_decides_again_waits_for_an_opt_out_that_is_being_applied_and_knows_it(
    database: Database, clearance: Clearance, way: str, category: str, becomes: str
) -> None:
    handoff = Handoff(database, clearance.traffic, clearance, 1)
    timers = Timers(database, clearance, handoff, batch=10, partitions=range(3), sending_timeout=timedelta(seconds=-1))
    wanted = {"category": category} | ({} if category == "marketing" else {"campaign_id": None})
    [decision] = await decided(database, clearance, 1, requested_at=now() - timedelta(minutes=1), **wanted)
    permit = decision.permit
    assert permit is not None
    ways: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "it is due": timers.wake_marketing if category == "marketing" else timers.wake_questions,
        "its permit has lapsed": lambda: handoff._decide_again([permit]),
    }
    async with database.begin() as tx:
        if way == "it is due":
            await tx.execute(text("UPDATE message SET status = 'deferred', due_at = now()"))
    async with database.begin() as applying:
        await messages_store.lock_decisions_out(applying, decision.candidate.partition)
        await projection.put_subjects(applying, [opted_out(1)])
        deciding = asyncio.create_task(ways[way]())

        async def waits() -> bool:
            return deciding.done() or bool(await fetch_many(applying, WAITING_TO_DECIDE))

        await eventually(waits)
        assert not deciding.done()
    await deciding
    async with database.begin() as tx:
        assert await fetch_many(tx, "SELECT status FROM message") == [(becomes,)]


@pytest.mark.parametrize("way", ["it is due", "its permit has lapsed"])
async def test_a_code_that_is_decided_again_waits_for_no_opt_out(
    database: Database, clearance: Clearance, way: str
) -> None:
    handoff = Handoff(database, clearance.traffic, clearance, 1)
    timers = Timers(database, clearance, handoff, batch=10, partitions=range(3), sending_timeout=timedelta(seconds=-1))
    code = {"category": "transactional", "campaign_id": None}
    [decision] = await decided(database, clearance, 1, requested_at=now() - timedelta(minutes=1), **code)
    assert decision.permit is not None
    if way == "it is due":
        async with database.begin() as tx:
            await tx.execute(text("UPDATE message SET status = 'deferred', due_at = now()"))
    async with database.begin() as applying:
        await messages_store.lock_decisions_out(applying, decision.candidate.partition)
        async with asyncio.timeout(30):
            if way == "it is due":
                assert await timers.wake_codes()
            else:
                assert len(await handoff._decide_again([decision.permit])) == 1
    await handoff.codes.end()


async def test_the_sweep_gives_way_to_an_opt_out_that_is_being_applied_and_then_knows_it(
    database: Database, clearance: Clearance
) -> None:
    handoff = Handoff(database, clearance.traffic, clearance, 1)
    timers = Timers(database, clearance, handoff, batch=10, partitions=range(3), sending_timeout=timedelta(seconds=-1))
    [decision] = await decided(database, clearance, 1, requested_at=now() - timedelta(minutes=1))
    assert decision.permit
    await handoff._mark_begun(by_decision([decision.permit]))
    statuses: list[Any] = []
    async with database.begin() as applying:
        await messages_store.lock_decisions_out(applying, decision.candidate.partition)
        await projection.put_subjects(applying, [opted_out(1)])
        async with asyncio.timeout(30):
            await timers.sweep()
        statuses += await fetch_many(applying, "SELECT status FROM message")
    await timers.sweep()
    async with database.begin() as tx:
        statuses += await fetch_many(tx, "SELECT status FROM message")
    assert statuses == [("sending",), ("unknown",)], "which would go once more, were it not for the opt-out"


async def test_a_question_waits_for_neither_a_campaign_nor_an_opt_out_that_waits_for_one(database: Database) -> None:
    async def apply() -> None:
        async with database.begin() as applying:
            await messages_store.lock_decisions_out(applying, 1)

    async with database.begin() as deciding, database.begin() as asking:
        await messages_store.lock_partition(deciding, 1, Lane.MARKETING)
        opting_out = asyncio.create_task(apply())

        async def waits() -> bool:
            return opting_out.done() or bool(await fetch_many(deciding, WAITING_TO_APPLY))

        await eventually(waits)
        async with asyncio.timeout(30):
            await messages_store.lock_partition(asking, 1, Lane.TRANSACTIONAL)
        assert not opting_out.done()
    await opting_out
