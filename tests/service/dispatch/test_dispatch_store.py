"""What dispatch's statements keep, whatever order things come in: real Postgres, no service around."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from common.database import Database
from common.kafka import partition_of
from dispatch import store
from tests.builders import controlled, now, opted_in, requested, sender_changed, subject
from tests.infrastructure import Postgres


@pytest.fixture
async def database(postgres: Postgres, unique: str) -> AsyncIterator[Database]:
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"))
    yield database
    await database.engine.dispose()


async def test_an_older_sender_never_replaces_a_newer_one(database: Database) -> None:
    async with database.begin() as tx:
        await store.put_sender(tx, sender_changed(version=2, oadc="LUNE2"))
        await store.put_sender(tx, sender_changed(version=1, oadc="LUNE1"))
        held = await store.senders(tx, ["maison-lune"])
    assert held["maison-lune"].oadc == "LUNE2"


async def test_an_older_control_never_replaces_a_newer_one(database: Database) -> None:
    async with database.begin() as tx:
        await store.put_control(tx, controlled("cancelled", version=3))
        await store.put_control(tx, controlled("running", version=2))
        assert await store.controls(tx, ["c1"]) == {"c1": "cancelled"}


async def test_a_subject_is_unreadable_until_a_newer_state_is_read(database: Database) -> None:
    async with database.begin() as tx:
        await store.put_subjects(tx, [opted_in(1, version=3)])
        await store.mark_unreadable(tx, subject(1))
        await store.put_subjects(tx, [opted_in(1, version=3)])
        assert (await store.subjects(tx, [subject(1)]))[subject(1)].unreadable
        await store.put_subjects(tx, [opted_in(1, version=4)])
        assert not (await store.subjects(tx, [subject(1)]))[subject(1)].unreadable


@pytest.mark.parametrize(
    ("was", "told", "becomes"),
    [
        ("sending", "accepted", "accepted"),
        ("sending", "deferred", "deferred"),
        ("unknown", "accepted", "accepted"),
        ("unknown", "rejected", "rejected"),
        ("unknown", "deferred", "unknown"),
        ("accepted", "rejected", "accepted"),
        ("accepted", "unknown", "accepted"),
        ("rejected", "accepted", "rejected"),
        ("denied", "accepted", "denied"),
        ("expired", "accepted", "expired"),
    ],
)
async def test_an_outcome_settles_what_is_open_and_never_what_is_final(
    database: Database, was: str, told: str, becomes: str
) -> None:
    row = _message(was)
    outcome = {
        "message_id": row["message_id"],
        "status": told,
        "reasons": "[]",
        "due_at": None,
        "gateway": "simulator",
        "gateway_message_id": "op-1",
        "code": None,
        "handed_off_at": None,
    }
    async with database.begin() as tx:
        await store.insert_messages(tx, [row])
        changed = await store.settle(tx, [outcome])
        (found,) = await store.messages_of_receipts(tx, [row["message_id"]], [], [])
    assert found.status == becomes
    assert [c.event.status for c in changed] == ([becomes] if found.version == 2 else [])
    assert (found.version == 2) == (was != becomes)


def _message(status: str) -> dict[str, Any]:
    wanted = requested(1)
    fields = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
    return {
        **fields,
        "message_id": UUID(wanted.message_id),
        "partition": partition_of(wanted.subject_id, 3),
        "requested_at": now() - timedelta(minutes=1),
        "status": status,
        "reasons": "[]",
        "due_at": None,
        "policy_version": "demonstration-2",
        "consent_version": 1,
        "as_of": now(),
        "decided_at": now(),
        "gateway": None,
        "facts": None,
    }
