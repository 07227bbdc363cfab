"""A row that breaks a promise is found, by the rule that it breaks; rows that break none are not."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from common.database import Database
from common.kafka import partition_of
from common.law import load
from dispatch import store
from dispatch.gate import Limits
from dispatch.invariants import LOOK_EVERY_S, Checker
from tests.builders import field_keys, now, requested
from tests.infrastructure import Postgres

pytestmark = pytest.mark.brokerless

TIMEOUT = timedelta(seconds=14)
TOO_LONG = TIMEOUT + timedelta(seconds=LOOK_EVERY_S + 1)


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"))
    yield database
    await database.engine.dispose()


async def _plant(database: Database, **broken: Any) -> str:
    """A message of a minute ago that went as it should, but for what is `broken`."""
    wanted = requested(1)
    at = now() - timedelta(minutes=1)
    kept = {
        **{name: getattr(wanted, name) for name in wanted.__struct_fields__},
        "message_id": UUID(wanted.message_id),
        "partition": partition_of(wanted.subject_id, 3),
        "status": "accepted",
        "reasons": (),
        "due_at": None,
        "policy_version": "demonstration-1",
        "consent_version": 1,
        "as_of": at - timedelta(seconds=1),
        "decided_at": at - timedelta(milliseconds=500),
        "gateway": "simulator",
        "facts": None,
    }
    later = {"handed_off_at": at, "gateway_message_id": f"op-{wanted.message_id}"}
    async with database.begin() as tx:
        await store.insert_messages(tx, [{**kept, **{k: v for k, v in broken.items() if k not in later}}])
        await tx.exec_driver_sql(
            "UPDATE message SET handed_off_at = $1, gateway_message_id = $2 WHERE message_id = $3",
            (*(broken.get(k, v) for k, v in later.items()), kept["message_id"]),
        )
    return wanted.message_id


async def _opted_out(database: Database, enforced_at: datetime, consent_version: int = 2) -> None:
    async with database.begin() as tx:
        await tx.exec_driver_sql(
            "INSERT INTO enforcement"
            " (subject_id, partition, consent_version, source, received_at, applied_at, enforced_at)"
            " VALUES ($1, 0, $2, 'mo', $3, $3, $3)",
            (requested(1).subject_id, consent_version, enforced_at),
        )


async def _found(database: Database, hours: str = "demonstration", days: int = 1) -> dict[str, list[str]]:
    checker = Checker(database, field_keys, load(hours), Limits(), TIMEOUT)
    return await checker.violations(now() - timedelta(days=days), now() - timedelta(seconds=30), now())


async def test_what_went_as_it_should_breaks_no_rule(database: Database) -> None:
    await _plant(database)
    await _plant(database, category="transactional", purpose=None, as_of=None, consent_version=None)
    await _plant(database, status="deferred", due_at=now(), handed_off_at=None)
    await _plant(database, status="sending", decided_at=now(), handed_off_at=None, gateway_message_id=None)
    await _opted_out(database, now() - timedelta(seconds=59))  # after it had left
    await _opted_out(database, now() - timedelta(minutes=9), consent_version=1)  # and the consent is newer
    assert await _found(database) == {}


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


async def test_two_messages_that_the_operator_calls_one(database: Database) -> None:
    messages = {await _plant(database, gateway_message_id="op-1") for _ in range(2)}
    [(rule, found)] = (await _found(database)).items()
    assert (rule, set(found)) == ("two_messages_in_one", messages)


async def test_a_message_that_left_at_night(database: Database) -> None:
    sunday_night = datetime(2026, 11, 22, 2, tzinfo=UTC)
    when = {"as_of": sunday_night, "decided_at": sunday_night, "handed_off_at": sunday_night}
    message = await _plant(database, **when)
    await _plant(database, **when, category="transactional", purpose=None)
    assert await _found(database, "france", days=3_650) == {"out_of_hours": [message]}
    assert await _found(database, "demonstration", days=3_650) == {}
