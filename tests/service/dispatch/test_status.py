"""Every statement that writes a message keeps to the table of statuses (`messages/status.py`): a row in every status,
every statement with everything it may be asked for. Real Postgres, no service around."""

import ast
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

import dispatch
from common.contracts.campaign import MessageReworded
from common.db.database import Database, fetch_many
from common.privacy.erasing import Whom
from dispatch.messages import rights_store, waking_store
from dispatch.messages import store as messages
from dispatch.messages.row import MessageRow
from dispatch.messages.status import FIRST, STEPS, Cause, Status, may_follow
from tests.support.builders import now, subject
from tests.support.ledger import accepted, message, receipted

pytestmark = pytest.mark.brokerless

Statement = Callable[[AsyncConnection, Sequence[MessageRow]], Awaitable[object]]
SOURCE = Path(dispatch.__file__).parent
WAITING_FOR = ("under_review", "campaign_paused")


def _decides(to: Status) -> Statement:
    due_at = now() if to in (Status.PENDING, Status.DEFERRED) else None
    return lambda tx, rows: messages.update_decisions(tx, [replace(row, status=to, due_at=due_at) for row in rows])


def _settles(to: Status) -> Statement:
    due_at = now() if to is Status.DEFERRED else None
    return lambda tx, rows: messages.settle(
        tx, [accepted(row, status=to, due_at=due_at, handed_off_at=None) for row in rows]
    )


def _receives(*, proves: bool) -> Statement:
    return lambda tx, rows: messages.put_receipts(tx, [receipted(row.message_id, proves=proves) for row in rows])


async def _rewords(tx: AsyncConnection, rows: Sequence[MessageRow]) -> None:
    for row in rows:
        new = MessageReworded(
            message_id=str(row.message_id),
            campaign_id="c1",
            subject_id=row.subject_id,
            text="sealed",
            reworded_at=now(),
        )
        await rights_store.reword(tx, {row.message_id: new})


STATEMENTS: dict[tuple[str, Cause | None], list[Statement]] = {
    ("update_decisions", Cause.DECISION): [_decides(to) for to in sorted(FIRST)],
    ("accept", Cause.OUTCOME): [lambda tx, rows: messages.accept(tx, [(accepted(row), row) for row in rows])],
    ("settle", Cause.OUTCOME): [
        _settles(to) for to in (Status.ACCEPTED, Status.REJECTED, Status.UNKNOWN, Status.DEFERRED)
    ],
    ("put_receipts", Cause.RECEIPT): [_receives(proves=proves) for proves in (True, False)],
    ("deny_waiting", Cause.ERASURE): [lambda tx, rows: rights_store.deny_waiting(tx, {Whom(subject(1), None): now()})],
    ("empty_messages", None): [lambda tx, rows: rights_store.empty_messages(tx, {Whom(subject(1), None): now()})],
    ("wake_held", None): [lambda tx, rows: waking_store.wake_held(tx, [subject(1)], now() - timedelta(hours=2))],
    ("wake_controlled", None): [lambda tx, rows: waking_store.wake_controlled(tx, "c1", 100, cancelled=True)],
    ("reword", None): [_rewords],
    ("lift_versions", None): [
        lambda tx, rows: messages.lift_versions(tx, dict.fromkeys((row.message_id for row in rows), 9))
    ],
}


def _updates() -> Iterator[str]:
    """The functions of dispatch with a statement that updates a message."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef) and "UPDATE message" in ast.unparse(node):
                yield node.name


def test_every_statement_that_updates_a_message_is_held_against_the_table() -> None:
    assert sorted(_updates()) == sorted(name for name, _ in STATEMENTS)


async def test_a_status_follows_only_what_the_table_says_and_each_row_of_the_table_happens(database: Database) -> None:
    seen: dict[tuple[Status, Cause], set[Status]] = defaultdict(set)
    for (name, cause), statements in STATEMENTS.items():
        for statement in statements:
            for received in (None, "sent"):  # a DLR may be on record, with the submit's answer still to come
                for was, becomes in (await _changed(database, statement, received)).items():
                    if becomes is was:
                        continue
                    assert cause is not None, f"{name} makes {was} {becomes}"
                    assert becomes in may_follow(was, cause), f"{name} makes {was} {becomes}"
                    seen[was, cause].add(becomes)
    assert seen == STEPS


async def _changed(database: Database, statement: Statement, received: str | None) -> dict[Status, Status]:
    """The status of a message in each status after the statement."""
    rows = [
        message(
            1,
            was,
            requested_at=now() - timedelta(hours=1),
            due_at=now() + timedelta(hours=1) if was in (Status.PENDING, Status.DEFERRED) else None,
            reasons=WAITING_FOR if was is Status.DEFERRED else (),
        )
        for was in Status
    ]
    rows = [replace(row, as_of=rows[0].as_of, decided_at=rows[0].decided_at) for row in rows]
    async with database.begin() as tx:
        await tx.execute(text("TRUNCATE message, sending"))
        await messages.insert_messages(tx, rows)
        await tx.execute(text("UPDATE message SET receipt = :receipt"), {"receipt": received})
        await statement(tx, rows)
        found = await fetch_many(tx, "SELECT message_id, status FROM message")
    now_is = {message_id: Status(status) for message_id, status in found}
    return {row.status: now_is[row.message_id] for row in rows}
