"""The queries of the gate: the knowledge behind a decision."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.campaign import Control
from common.contracts.consent import Consent, Suppression
from common.db.database import PLANNED_NOW, fetch_many
from dispatch.gate.rules import Subject
from dispatch.messages.by_day import of_people

_consents = msgspec.json.Decoder(tuple[Consent, ...])
_suppressions = msgspec.json.Decoder(tuple[Suppression, ...])


async def subjects(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, Subject]:
    rows = await fetch_many(
        tx,
        "SELECT subject_id, version, consents::text, suppressions::text, erased, unreadable, held_since FROM subject"
        " WHERE subject_id = ANY(string_to_array($1, ' '))",
        " ".join(subject_ids),
    )
    return {
        subject_id: Subject(version, _consents.decode(consents), _suppressions.decode(suppressions), *more)
        for subject_id, version, consents, suppressions, *more in rows
    }


async def controls(tx: AsyncConnection, campaign_ids: Collection[str]) -> dict[str, Control]:
    """Return the control of each campaign. An earlier statement has locked the campaigns (`watermark`).

    A statement that waits for a lock sees the state before the wait, so the locking statement cannot read controls. A
    resume waits for this transaction, and wakes the messages deferred here afterwards.
    """
    if not campaign_ids:
        return {}
    rows = await fetch_many(
        tx, "SELECT campaign_id, control FROM campaign WHERE campaign_id = ANY($1::text[])", list(campaign_ids)
    )
    return {row[0]: row[1] for row in rows}


async def blocks(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the blocking gateways of each blocked subject."""
    rows = await fetch_many(
        tx,
        "SELECT subject_id, gateway FROM provider_block WHERE subject_id = ANY(string_to_array($1, ' '))",
        " ".join(subject_ids),
    )
    closed: dict[str, frozenset[str]] = {}
    for subject_id, gateway in rows:
        closed[subject_id] = closed.get(subject_id, frozenset()) | {gateway}
    return closed


async def lock_counts(tx: AsyncConnection, partition: int) -> None:
    """Lock the marketing counts of a partition until the transaction ends. Includes `plan_now`."""
    await fetch_many(tx, f"SELECT pg_advisory_xact_lock(hashtext('placet.counts'), $1), {PLANNED_NOW}", partition)


async def recent_marketing(
    tx: AsyncConnection, subject_ids: Sequence[str], but: Sequence[UUID], since: datetime
) -> Counter[tuple[str, str]]:
    """Count marketing messages sent or being sent from `since` on, by (subject_id, sender_id)."""
    rows = await tx.execute(
        text(
            "SELECT m.subject_id, m.sender_id, count(*) AS had FROM message AS m"
            f" WHERE {of_people('CAST(:ids AS text[])', since=':since')}"
            " AND m.category = 'marketing' AND m.status IN ('sending', 'accepted', 'unknown')"
            " AND coalesce(m.handed_off_at, m.decided_at) >= :since AND m.message_id <> ALL(CAST(:but AS uuid[]))"
            " GROUP BY m.subject_id, m.sender_id"
        ),
        {"ids": list(subject_ids), "but": list(but), "since": since},
    )
    return Counter({(row.subject_id, row.sender_id): row.had for row in rows})
