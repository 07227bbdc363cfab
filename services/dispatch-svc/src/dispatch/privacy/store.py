"""The queries of copies and erasures: the data of a person."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many
from dispatch.messages.row import MessageRow, columns_of
from dispatch.messages.status import Status


class Enforcement(NamedTuple):
    source: str
    reference: str | None
    received_at: datetime
    enforced_at: datetime | None


class Block(NamedTuple):
    gateway: str
    code: str | None
    since: datetime


async def messages_of(tx: AsyncConnection, subject_id: str) -> list[MessageRow]:
    """Return the person's messages, oldest first."""
    rows = await fetch_many(
        tx,
        f"SELECT {columns_of('m')} FROM message AS m WHERE subject_id = $1 ORDER BY requested_at, message_id",
        subject_id,
    )
    return [MessageRow.read(row) for row in rows]


async def enforcements_of(tx: AsyncConnection, subject_id: str) -> list[Enforcement]:
    fields = ", ".join(Enforcement._fields)
    rows = await fetch_many(tx, f"SELECT {fields} FROM enforcement WHERE subject_id = $1 ORDER BY id", subject_id)
    return [Enforcement(*row) for row in rows]


async def blocks_of(tx: AsyncConnection, subject_id: str) -> list[Block]:
    fields = ", ".join(Block._fields)
    rows = await fetch_many(tx, f"SELECT {fields} FROM provider_block WHERE subject_id = $1 ORDER BY id", subject_id)
    return [Block(*row) for row in rows]


async def lock_what_goes(tx: AsyncConnection, subject_ids: Sequence[str]) -> set[str]:
    """Lock these people's messages that wait, are `sending`, or have content; return people with a hand-off.

    A single statement locks all rows in the order of ids, as DLRs and outcomes do: an outcome that takes back a
    `sending` message comes wholly before or wholly after.
    """
    rows = await fetch_many(
        tx,
        "SELECT subject_id, status FROM message WHERE subject_id = ANY($1::text[]) AND (number IS NOT NULL"
        " OR text IS NOT NULL OR status IN ('pending', 'deferred', 'sending')) ORDER BY message_id FOR UPDATE",
        list(subject_ids),
    )
    return {subject_id for subject_id, status in rows if status == Status.SENDING}
