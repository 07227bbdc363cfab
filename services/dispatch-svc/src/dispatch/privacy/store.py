"""The queries of copies and erasures: what is held of a person."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many


async def messages_of(tx: AsyncConnection, subject_id: str) -> list[Row[Any]]:
    """One person's, oldest first."""
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
    """All of these people's that has not ended, or has a number or a text, is as it is from now on; returns those to
    whom something is being handed off. At once and in the order of ids, as receipts and outcomes lock: an outcome that
    takes back what was `sending` is before this or after."""
    rows = await fetch_many(
        tx,
        "SELECT subject_id, status FROM message WHERE subject_id = ANY($1::text[]) AND (number IS NOT NULL"
        " OR text IS NOT NULL OR status IN ('pending', 'deferred', 'sending')) ORDER BY message_id FOR UPDATE",
        list(subject_ids),
    )
    return {subject_id for subject_id, status in rows if status == "sending"}
