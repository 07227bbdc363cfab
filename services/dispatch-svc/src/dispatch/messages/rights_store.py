"""Rectify and erase what the ledger holds of a person. The caller owns the transaction."""

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.campaign import MessageReworded
from common.db.database import fetch_many
from common.privacy.erasing import TO_ERASE, Whom, columns, counted, meant
from dispatch.messages.by_day import of_people
from dispatch.messages.events import Changed, states
from dispatch.messages.reasons import Reason
from dispatch.messages.status import WAITING, Status
from dispatch.messages.store import OF_A_CHANGE


async def reword(tx: AsyncConnection, reworded: Mapping[UUID, MessageReworded]) -> bool:
    """Store the new text and region of each of these messages that still waits.

    Return False, and change no row, while any of the messages is being handed off. An event for another subject changes
    no row.
    """
    if not reworded:
        return True
    rows = await tx.execute(
        text(
            "SELECT message_id, subject_id, status FROM message WHERE message_id = ANY(CAST(:ids AS uuid[]))"
            " ORDER BY message_id FOR UPDATE"
        ),
        {"ids": list(reworded)},
    )
    theirs = [row for row in rows if reworded[row.message_id].subject_id == row.subject_id]
    if any(row.status == Status.SENDING for row in theirs):
        return False
    waiting = [row.message_id for row in theirs if row.status in WAITING]
    await tx.execute(
        text(
            "UPDATE message AS m SET text = v.text, region = nullif(coalesce(v.region, m.region), '')"
            " FROM unnest(CAST(:ids AS uuid[]), CAST(:texts AS text[]), CAST(:regions AS text[]))"
            " AS v(message_id, text, region) WHERE m.message_id = v.message_id"
        ),
        {
            "ids": waiting,
            "texts": [reworded[identity].text or "" for identity in waiting],
            "regions": [reworded[identity].region for identity in waiting],
        },
    )
    return True


async def deny_waiting(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> list[Changed]:
    """Deny the waiting messages of people who asked for erasure (`asked`: when), and return the changes.

    Marketing is denied altogether, any other message only if requested before. The caller holds the partition's lock,
    and has locked the rows (`lock_what_goes`).
    """
    rows = await fetch_many(
        tx,
        "WITH waiting AS (SELECT m.message_id FROM message AS m"
        " JOIN unnest($1::text[], $2::text[], $3::timestamptz[]) AS a(subject_id, controller_id, at)"
        f" ON a.subject_id = m.subject_id AND {meant('m.sender_id')}"
        f" WHERE {of_people('$1::text[]')}"
        " AND m.status IN ('pending', 'deferred') AND (m.category = 'marketing' OR m.requested_at <= a.at)"
        " ORDER BY m.message_id FOR UPDATE OF m)"
        " UPDATE message AS m SET status = 'denied', reasons = ARRAY[$4::text], due_at = NULL,"
        " decided_at = coalesce(m.decided_at, now()), version = m.version + 1"
        f" FROM waiting AS w WHERE m.message_id = w.message_id RETURNING {OF_A_CHANGE}",
        *columns(asked).values(),
        Reason.ERASED.value,
    )
    return states(rows)


async def empty_messages(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Erase numbers and texts of these people's ended messages; return how many."""
    rows = await tx.execute(
        text(
            f"WITH found AS (SELECT m.message_id, a.controller_id FROM message AS m JOIN {TO_ERASE}"
            f" ON a.subject_id = m.subject_id AND {meant('m.sender_id')}"
            f" WHERE {of_people('CAST(:subjects AS text[])')} AND (m.number IS NOT NULL OR m.text IS NOT NULL)"
            " AND m.status NOT IN ('pending', 'deferred', 'sending') ORDER BY m.message_id FOR UPDATE OF m),"
            " emptied AS (UPDATE message AS m SET number = NULL, text = NULL FROM found AS f"
            " WHERE m.message_id = f.message_id RETURNING m.subject_id, f.controller_id)"
            " SELECT subject_id, controller_id, count(*) FROM emptied GROUP BY subject_id, controller_id"
        ),
        columns(asked),
    )
    return counted(rows)
