"""Own conversions. The caller owns the transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec
from sqlalchemy import Column, Index, Numeric, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.schema import instant, metadata
from common.db.database import plan_now
from common.privacy.erasing import TO_ERASE, Whom, columns, counted

conversion = Table(
    "conversion",
    metadata,
    Column("sender_id", Text, nullable=False),
    Column("reference", Text, nullable=False),  # the caller's, such as an order
    Column("subject_id", Text, nullable=False),
    Column("value", Numeric(14, 2), nullable=True),
    Column("currency", Text, nullable=True),
    instant("occurred_at"),
    instant("recorded_at"),
    PrimaryKeyConstraint("sender_id", "reference"),
    Index("conversion_occurred_ix", "sender_id", "occurred_at"),
    Index("conversion_subject_ix", "subject_id"),
    Index("conversion_recorded_ix", "recorded_at"),  # of `pruning.py`
)


class Conversion(NamedTuple):
    """A purchase, or another act that the sender hopes for. `value`: in `currency` (ISO 4217)."""

    reference: str
    subject_id: str
    value: Decimal | None
    currency: str | None
    occurred_at: datetime


async def add(tx: AsyncConnection, sender_id: str, conversions: Sequence[Conversion], now: datetime) -> set[str]:
    """Store the conversions with new references; return these references. A known reference changes no row."""
    if not conversions:
        return set()
    references, subjects, values, currencies, instants = map(list, zip(*conversions, strict=True))
    rows = await tx.execute(
        text(
            "INSERT INTO conversion (sender_id, reference, subject_id, value, currency, occurred_at, recorded_at)"
            " SELECT :sender_id, c.reference, c.subject_id, CAST(c.value AS numeric), c.currency, c.occurred_at, :now"
            " FROM unnest(CAST(:references AS text[]), CAST(:subjects AS text[]), CAST(:values AS text[]),"
            " CAST(:currencies AS text[]), CAST(:instants AS timestamptz[]))"
            " AS c(reference, subject_id, value, currency, occurred_at)"
            " ORDER BY c.reference ON CONFLICT DO NOTHING RETURNING reference"
        ),
        {
            "sender_id": sender_id,
            "references": references,
            "subjects": subjects,
            "values": [None if value is None else str(value) for value in values],
            "currencies": currencies,
            "instants": instants,
            "now": now,
        },
    )
    return set(rows.scalars())


class Group(NamedTuple):
    """A part of a campaign's audience. `value`: of the conversions, by currency."""

    people: int
    converted: int
    conversions: int
    value: Mapping[str, Decimal]


NOBODY = Group(0, 0, 0, {})
_amounts = msgspec.json.Decoder(dict[str, Decimal])


async def by_group(
    tx: AsyncConnection, campaign_id: str, sender_id: str, since: datetime, until: datetime, *, drawn: bool
) -> dict[bool, Group]:
    """Count the audience's conversions to the sender within [`since`, `until`), by whether people were held out.

    Each recipient is in the group drawn for the recipient, whatever became of the message. `drawn`: leave out
    recipients whose group is not drawn: their request was still to come, or the campaign was cancelled before.
    """
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "WITH converted AS MATERIALIZED (SELECT subject_id, sum(n)::bigint AS n,"
            " jsonb_object_agg(currency, value::text) FILTER (WHERE currency IS NOT NULL) AS value"
            " FROM (SELECT subject_id, currency, count(*) AS n, sum(value) AS value FROM conversion"
            " WHERE sender_id = :sender_id AND occurred_at >= :since AND occurred_at < :until"
            " GROUP BY subject_id, currency) AS c GROUP BY subject_id),"
            " member AS MATERIALIZED (SELECT r.status = 'denied' AND 'holdout' = ANY(r.reasons) AS held_out,"
            " c.subject_id, c.n, c.value FROM recipient AS r LEFT JOIN converted AS c USING (subject_id)"
            " WHERE r.campaign_id = :id AND NOT (:drawn AND r.variant IS NULL"
            " AND (r.status = 'pending' OR 'campaign_cancelled' = ANY(r.reasons)))),"
            " worth AS (SELECT held_out, jsonb_object_agg(currency, value::text)::text AS value FROM"
            " (SELECT m.held_out, v.key AS currency, sum(v.value::numeric) AS value"
            " FROM member AS m, jsonb_each_text(m.value) AS v GROUP BY m.held_out, v.key) AS each GROUP BY held_out)"
            " SELECT m.held_out, count(*) AS people, count(m.subject_id) AS converted,"
            " coalesce(sum(m.n), 0)::bigint AS conversions, coalesce(max(w.value), '{}') AS value"
            " FROM member AS m LEFT JOIN worth AS w USING (held_out) GROUP BY m.held_out"
        ),
        {"id": campaign_id, "sender_id": sender_id, "since": since, "until": until, "drawn": drawn},
    )
    return {row.held_out: Group(row.people, row.converted, row.conversions, _amounts.decode(row.value)) for row in rows}


async def of_person(tx: AsyncConnection, subject_id: str, controller_id: str) -> list[tuple[str, Conversion]]:
    """Return one person's conversions, each with the sender of the controller, oldest first."""
    rows = await tx.execute(
        text(
            "SELECT c.sender_id, c.reference, c.subject_id, c.value, c.currency, c.occurred_at FROM conversion AS c"
            " JOIN sender AS s ON s.sender_id = c.sender_id AND s.controller = :controller"
            " WHERE c.subject_id = :id ORDER BY c.occurred_at, c.reference"
        ),
        {"id": subject_id, "controller": controller_id},
    )
    return [(sender_id, Conversion(*columns)) for sender_id, *columns in rows]


async def forget(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> dict[Whom, int]:
    """Delete these people's conversions; return how many."""
    rows = await tx.execute(
        text(
            f"WITH gone AS (DELETE FROM conversion AS c USING sender AS s CROSS JOIN {TO_ERASE}"
            " WHERE s.sender_id = c.sender_id AND c.subject_id = a.subject_id"
            " AND (a.controller_id IS NULL OR s.controller = a.controller_id)"
            " RETURNING c.subject_id, a.controller_id)"
            " SELECT subject_id, controller_id, count(*) FROM gone GROUP BY subject_id, controller_id"
        ),
        columns(asked),
    )
    return counted(rows)
