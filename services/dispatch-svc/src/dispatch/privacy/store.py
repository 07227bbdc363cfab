"""The queries of copies and erasures: the data of a person."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import fetch_many, plan_now
from common.privacy.erasing import TO_ERASE, Whom, columns, meant
from dispatch.messages.by_day import of_people
from dispatch.messages.row import MessageRow, columns_of
from dispatch.messages.status import Status


async def messages_of(tx: AsyncConnection, subject_id: str, controller_id: str) -> list[MessageRow]:
    """Return the person's messages of the controller's senders, oldest first."""
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        f"SELECT {columns_of('m')} FROM message AS m WHERE {of_people('ARRAY[$1::text]')}"
        f" AND {meant('m.sender_id', '$2::text')}"
        " ORDER BY m.requested_at, m.message_id",
        subject_id,
        controller_id,
    )
    return [MessageRow.read(row) for row in rows]


async def lock_what_goes(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> set[Whom]:
    """Lock these people's messages that wait, are `sending`, or have content; return people with a hand-off.

    A single statement locks all rows in the order of ids, as DLRs and outcomes do: an outcome that takes back a
    `sending` message comes wholly before or wholly after.
    """
    rows = await tx.execute(
        text(
            f"SELECT a.subject_id, a.controller_id, m.status FROM message AS m JOIN {TO_ERASE}"
            f" ON a.subject_id = m.subject_id AND {meant('m.sender_id')}"
            f" WHERE {of_people('CAST(:subjects AS text[])')} AND (m.number IS NOT NULL"
            " OR m.text IS NOT NULL OR m.status IN ('pending', 'deferred', 'sending'))"
            " ORDER BY m.message_id FOR UPDATE OF m"
        ),
        columns(asked),
    )
    return {Whom(row.subject_id, row.controller_id) for row in rows if row.status == Status.SENDING}
