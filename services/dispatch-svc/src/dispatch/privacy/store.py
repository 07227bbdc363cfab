"""The queries of copies and erasures: the data of a person."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many


async def messages_of(tx: AsyncConnection, subject_id: str) -> list[Row[Any]]:
    """Return the person's messages, oldest first."""
    rows = await tx.execute(
        text("SELECT * FROM message WHERE subject_id = :id ORDER BY requested_at, message_id"), {"id": subject_id}
    )
    return list(rows)


async def enforcements_of(tx: AsyncConnection, subject_id: str) -> list[Row[Any]]:
    rows = await tx.execute(text("SELECT * FROM enforcement WHERE subject_id = :id ORDER BY id"), {"id": subject_id})
    return list(rows)


async def blocks_of(tx: AsyncConnection, subject_id: str) -> list[Row[Any]]:
    rows = await tx.execute(text("SELECT * FROM provider_block WHERE subject_id = :id ORDER BY id"), {"id": subject_id})
    return list(rows)


async def lock_what_goes(tx: AsyncConnection, subject_ids: Sequence[str]) -> set[str]:
    """Lock these people's messages that wait, are `sending`, or hold a number or text; return people with a hand-off.

    A single statement locks all rows, in the order of ids, as DLRs and outcomes do. So an outcome that takes back a
    `sending` message comes wholly before or wholly after.
    """
    rows = await fetch_many(
        tx,
        "SELECT subject_id, status FROM message WHERE subject_id = ANY($1::text[]) AND (number IS NOT NULL"
        " OR text IS NOT NULL OR status IN ('pending', 'deferred', 'sending')) ORDER BY message_id FOR UPDATE",
        list(subject_ids),
    )
    return {subject_id for subject_id, status in rows if status == "sending"}
