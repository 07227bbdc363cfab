"""A row that breaks a promise is found, by the rule that it breaks; rows that break none are not."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from common.db.database import Database
from common.law import load
from dispatch.audit.invariants import LOOK_EVERY_S, RULES, Checker
from dispatch.gate import record
from dispatch.messages import store as messages_store
from dispatch.messages.status import Status
from dispatch.privacy.pruning import LATE_DAYS
from dispatch.projection.limits import Limits
from tests.support.builders import now, subject
from tests.support.ledger import message

pytestmark = pytest.mark.brokerless

TIMEOUT = timedelta(seconds=14)
EARLIER = datetime(2026, 1, 7, 9, tzinfo=UTC)
OPTED_IN: dict[str, Any] = {"state": "opted_in", "at": EARLIER, "basis": "opt_in", "proven": True}
OPTED_OUT = {"state": "opted_out", "at": EARLIER + timedelta(days=1)}
HARDLY_LATE: dict[str, Any] = {"handed_off_at": None, "gateway_message_id": None}  # decided before the last look
TOO_LONG = TIMEOUT + timedelta(seconds=LOOK_EVERY_S + 1)


def _facts(to: str = "FR", consent: dict[str, Any] | None = OPTED_IN, **person: Any) -> str:
    """A record as `record.py` keeps it: where to, and what was known of the person."""
    known = record.Person(consent=record.Standing(**consent) if consent else None, **person)
    shared, own = record.Shared(limits=record._bounds(Limits())), record.Own(to=to, person=known)
    return f"{msgspec.json.encode(shared).decode()[:-1]},{msgspec.json.encode(own).decode()[1:]}"


async def _plant(database: Database, **broken: Any) -> str:
    """A message of a minute ago that went as it should, but for what is `broken`."""
    at = now() - timedelta(minutes=1)
    kept = message(
        1,
        "accepted",
        as_of=at - timedelta(seconds=1),
        decided_at=at - timedelta(milliseconds=500),
        facts=_facts(),
    )
    later = {
        "handed_off_at": at,
        "gateway_message_id": f"op-{kept.message_id}",
        "known_as": None,
        "unknown_since": None,
    }
    async with database.begin() as tx:
        rest = {k: v for k, v in broken.items() if k not in later}
        rest["status"] = next((known for known in Status if known == rest.get("status", "accepted")), "forgotten")
        await messages_store.insert_messages(tx, [row := replace(kept, **rest)])
        await tx.exec_driver_sql("UPDATE sending SET since = decided_at WHERE decided_at = $1", (row.decided_at,))
        await tx.exec_driver_sql(
            "UPDATE message SET handed_off_at = $1, gateway_message_id = $2, known_as = $3, unknown_since = $4"
            " WHERE message_id = $5",
            (*(broken.get(k, v) for k, v in later.items()), kept.message_id),
        )
    return str(kept.message_id)


async def _opted_out(database: Database, enforced_at: datetime, consent_version: int = 2) -> None:
    async with database.begin() as tx:
        await tx.exec_driver_sql(
            "INSERT INTO enforcement"
            " (subject_id, partition, consent_version, source, received_at, applied_at, enforced_at)"
            " VALUES ($1, 0, $2, 'mo', $3, $3, $3)",
            (subject(1), consent_version, enforced_at),
        )


async def _found(database: Database, hours: str = "demonstration", days: float = 1) -> dict[str, list[str]]:
    checker = Checker(database, load(hours), Limits(), TIMEOUT)
    return await checker.violations(now() - timedelta(days=days), now() - timedelta(seconds=30))


async def test_what_went_as_it_should_breaks_no_rule(database: Database) -> None:
    await _plant(database)
    await _plant(database, category="transactional", purpose=None, as_of=None, consent_version=None)
    await _plant(database, status="deferred", due_at=now(), handed_off_at=None)
    await _plant(database, status="sending", decided_at=now(), handed_off_at=None, gateway_message_id=None)
    await _plant(database, status="sending", **HARDLY_LATE)
    await _plant(database, status="unknown", unknown_since=now())
    await _plant(database, status="denied", handed_off_at=None, gateway_message_id=None)
    await _opted_out(database, now() - timedelta(seconds=59))  # after it had left
    await _opted_out(database, now() - timedelta(minutes=9), consent_version=1)  # to another sender, by its record
    await _plant(database, consent_version=4, facts=_facts(stopped=EARLIER - timedelta(days=1)))  # and came back
    await _plant(database, facts=_facts(consent={**OPTED_IN, "until": now()}))  # after it was decided
    question: dict[str, Any] = {"category": "service", "as_of": now()}
    await _plant(database, **question, facts=_facts(consent={"state": "pending", "at": EARLIER}, stopped=EARLIER))
    assert await _found(database) == {}


@pytest.mark.parametrize(
    "facts",
    [
        _facts(consent=OPTED_OUT, stopped=OPTED_OUT["at"]),
        _facts(stopped=OPTED_IN["at"]),  # a tie is an opt-out
        _facts(stopped=OPTED_IN["at"] + timedelta(seconds=1)),
        _facts(consent=None),
        _facts(consent={**OPTED_IN, "proven": False}),
        _facts(consent={**OPTED_IN, "until": EARLIER}),
        _facts(consent={"state": "pending", "at": EARLIER}),
        _facts(erased=True),
        _facts(unreadable=True),
        '{"to":"FR"}',
        '{"to":',
        None,
    ],
)
async def test_a_message_that_left_though_its_own_decision_had_the_stop_in_sight(
    database: Database, facts: str | None
) -> None:
    """On the STOP's own version or a later one, which `after_enforcement` lets pass; or on no consent at all."""
    message = await _plant(database, consent_version=2, facts=facts)
    await _plant(database, category="transactional", purpose=None, facts=facts)
    await _opted_out(database, now() - timedelta(minutes=2))
    found = await _found(database)
    assert found.pop("against_its_record") == [message]
    assert not found or facts in (None, '{"to":'), "of these nobody knows where either"


@pytest.mark.parametrize(
    "person",
    [{"stopped": now() + timedelta(days=1)}, {"consent": {"state": "opted_out", "at": now() + timedelta(days=1)}}],
)
async def test_a_question_that_left_after_its_stop(database: Database, person: dict[str, Any]) -> None:
    message = await _plant(database, category="service", facts=_facts(**person))
    assert await _found(database) == {"against_its_record": [message]}


async def test_a_message_that_left_after_the_stop_was_enforced(database: Database) -> None:
    message = await _plant(database)
    await _opted_out(database, now() - timedelta(minutes=2))
    assert await _found(database) == {"after_enforcement": [message]}


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        ("on_stale_consent", {"as_of": timedelta(minutes=2)}),
        ("on_stale_consent", {"as_of": None}),
        ("left_but_not_counted", {"status": "denied"}),
        ("left_but_not_counted", {"status": "deferred", "due_at": timedelta(0)}),
        ("sending_for_ever", {"status": "sending", "handed_off_at": None, "decided_at": TOO_LONG}),
    ],
)
async def test_a_row_that_no_promise_allows(database: Database, rule: str, broken: dict[str, Any]) -> None:
    planted = {name: now() - value if isinstance(value, timedelta) else value for name, value in broken.items()}
    message = await _plant(database, **planted)
    assert await _found(database) == {rule: [message]}


@pytest.mark.parametrize("looked_before", [False, True])
async def test_what_a_crash_left_or_a_database_that_was_away_is_the_sweeps_first(
    database: Database, caplog: pytest.LogCaptureFixture, looked_before: bool
) -> None:
    checker = Checker(database, load("france"), Limits(), TIMEOUT)
    if looked_before:
        await checker.look()
    swept = await _plant(database, status="sending", handed_off_at=None, decided_at=now() - TOO_LONG)
    left = await _plant(database, status="sending", handed_off_at=None, decided_at=now() - TOO_LONG)
    await checker.look()
    assert "a promise is broken" not in caplog.messages
    async with database.begin() as tx:
        await tx.exec_driver_sql("UPDATE message SET status = 'denied' WHERE message_id = $1", (UUID(swept),))
    await _plant(database, status="sending", handed_off_at=None, decided_at=now() - TOO_LONG)
    await checker.look()
    [broken] = [vars(record) for record in caplog.records if record.message == "a promise is broken"]
    assert (broken["rule"], broken["messages"]) == ("sending_for_ever", left)


@pytest.mark.parametrize(
    "broken",
    [
        {"status": "unknown", "unknown_since": None},  # nobody asks what became of it
        {"status": "accepted", "unknown_since": timedelta(0)},  # it is in two terms
        {"status": "accepted", "due_at": timedelta(0)},
        {"status": "forgotten", "handed_off_at": None},  # it is in none
    ],
)
async def test_a_message_that_no_sum_has_or_two_have(database: Database, broken: dict[str, Any]) -> None:
    planted = {name: now() - value if isinstance(value, timedelta) else value for name, value in broken.items()}
    message = await _plant(database, **planted)
    assert await _found(database) == {"does_not_add_up": [message]}


async def test_a_message_that_is_sending_and_in_no_batch_is_lost(database: Database) -> None:
    """Neither the sweep nor an opt-out would see it, and no other rule does."""
    message = await _plant(database, status="sending", **HARDLY_LATE)
    await _plant(database, status="sending", **HARDLY_LATE)
    async with database.begin() as tx:
        await tx.exec_driver_sql("DELETE FROM sending WHERE $1 = ANY(message_ids)", (UUID(message),))
    assert await _found(database) == {"does_not_add_up": [message]}


async def test_what_was_decided_lately_is_found_without_reading_the_ledger(database: Database) -> None:
    async with database.begin() as tx:
        await tx.exec_driver_sql("SET LOCAL enable_seqscan = off")
        query = RULES["does_not_add_up"].replace(":since", "now() - interval '1 minute'").replace(":until", "now()")
        plan = "\n".join(row[0] for row in await tx.exec_driver_sql(f"EXPLAIN {query}"))
    assert "message_decided_ix" in plan


async def test_two_messages_that_the_operator_calls_one(database: Database) -> None:
    messages = {await _plant(database, gateway_message_id="op-1") for _ in range(2)}
    [(rule, found)] = (await _found(database)).items()
    assert (rule, set(found)) == ("two_messages_in_one", messages)


async def test_a_message_that_the_operator_calls_as_one_of_before_the_last_look(database: Database) -> None:
    """Its receipts name nothing else: they would be taken for the other's."""
    earlier = now() - timedelta(hours=3)
    known = {"gateway_message_id": "op-1", "known_as": "op-1"}
    first = await _plant(database, **known, as_of=earlier, decided_at=earlier, handed_off_at=earlier)
    await _plant(database, gateway_message_id="op-2", known_as="op-2")
    second = await _plant(database, **known)
    [(rule, found)] = (await _found(database, days=1 / 24)).items()
    assert (rule, sorted(found)) == ("two_messages_in_one", sorted([first, second]))


async def test_an_operator_may_use_an_id_again_once_no_receipt_comes_for_the_first(database: Database) -> None:
    earlier = now() - timedelta(days=LATE_DAYS, hours=1)
    known = {"gateway_message_id": "op-1", "known_as": "op-1"}
    await _plant(database, **known, as_of=earlier, decided_at=earlier, handed_off_at=earlier)
    await _plant(database, **known)
    assert await _found(database) == {}


SUNDAY_NIGHT = datetime(2026, 11, 22, 2, tzinfo=UTC)
TUESDAY = datetime(2026, 11, 24, 10, 30, 59, tzinfo=UTC)  # 11:30 in Paris, 6:30 in Fort-de-France
SATURDAY = datetime(2020, 12, 26, 10, 30, tzinfo=UTC)  # a holiday in Moselle


async def _leaves(database: Database, at: datetime, **more: Any) -> str:
    return await _plant(database, as_of=at, decided_at=at, handed_off_at=at, **more)


async def test_a_message_that_left_at_night(database: Database) -> None:
    message = await _leaves(database, SUNDAY_NIGHT)
    await _leaves(database, SUNDAY_NIGHT, category="transactional", purpose=None)
    assert await _found(database, "france", days=3_650) == {"out_of_hours": [message]}
    assert await _found(database, "demonstration", days=3_650) == {}


async def test_a_message_that_left_where_it_was_early_or_a_holiday_or_nobody_knows_where(database: Database) -> None:
    await _leaves(database, TUESDAY)
    await _leaves(database, SATURDAY)
    wrong = {
        await _leaves(database, TUESDAY, facts=_facts("MQ")),
        await _leaves(database, SATURDAY, region="FR-57"),
        await _leaves(database, TUESDAY, facts=None),
        await _leaves(database, SUNDAY_NIGHT, number=None),  # it was erased meanwhile
    }
    found = await _found(database, "france", days=3_650)
    assert set(found["out_of_hours"]) == wrong


async def test_one_of_a_whole_campaign_that_left_at_night_is_found(database: Database) -> None:
    await _leaves(database, TUESDAY)
    async with database.begin() as tx:
        columns = ", ".join(
            c.name for c in messages_store.message.columns if c.name not in ("message_id", "gateway_message_id")
        )
        await tx.exec_driver_sql(
            f"INSERT INTO message (message_id, {columns})"
            f" SELECT gen_random_uuid(), {columns} FROM message, generate_series(1, 2000)"
        )
    message = await _leaves(database, SUNDAY_NIGHT)
    assert await _found(database, "france", days=3_650) == {"out_of_hours": [message]}


async def test_of_what_breaks_a_rule_a_look_counts_only_so_many(database: Database, monkeypatch: Any) -> None:
    monkeypatch.setattr("dispatch.audit.invariants.MOST", 2)
    for _ in range(3):
        await _plant(database, as_of=None)
        await _leaves(database, SUNDAY_NIGHT)
    found = await _found(database, "france", days=3_650)
    assert {rule: len(messages) for rule, messages in found.items()} == {"on_stale_consent": 2, "out_of_hours": 2}
