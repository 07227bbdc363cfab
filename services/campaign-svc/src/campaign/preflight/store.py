"""Own approvals, the last pre-flight of each campaign, and test sends. The caller owns the transaction."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy import ARRAY, Column, Index, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import segment_language as segment
from campaign.audience.frequency import Limit
from campaign.audience.segment_language import Condition
from campaign.campaigns.recipients import LEFT_OUT, limited
from campaign.schema import instant, metadata

campaign_approval = Table(
    "campaign_approval",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("approved_by", Text, nullable=False),
    instant("approved_at"),
    PrimaryKeyConstraint("campaign_id", "digest", "approved_by"),
)


campaign_pre_flight = Table(
    "campaign_pre_flight",
    metadata,
    Column("campaign_id", Text, primary_key=True),
    Column("digest", Text, nullable=False),  # campaign's digest without a start
    instant("at", nullable=True),  # start examined; null: at once
    Column("findings", ARRAY(Text), nullable=False),
    instant("made_at"),
)


test_send = Table(
    "test_send",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("asked_by", Text, nullable=False),
    instant("asked_at"),
    Column("call", Text, nullable=False),  # the requests under one Idempotency-Key of a caller
    Column("fingerprint", Text, nullable=False),  # keyed hash of the request and its texts
    PrimaryKeyConstraint("campaign_id", "message_id"),
    Index("test_send_asked_ix", "asked_at"),
    Index("test_send_subject_ix", "subject_id"),
)


async def needs_approval(tx: AsyncConnection, sender_id: str) -> bool:
    return bool(await tx.scalar(text("SELECT approval FROM sender_rule WHERE sender_id = :id"), {"id": sender_id}))


async def add_approval(tx: AsyncConnection, campaign_id: str, digest: str, approved_by: str, now: datetime) -> None:
    await tx.execute(
        text(
            "INSERT INTO campaign_approval (campaign_id, digest, approved_by, approved_at)"
            " VALUES (:id, :digest, :by, :now) ON CONFLICT DO NOTHING"
        ),
        {"id": campaign_id, "digest": digest, "by": approved_by, "now": now},
    )


class Approval(msgspec.Struct, frozen=True):
    digest: str
    approved_by: str
    approved_at: datetime


async def approvals_of(tx: AsyncConnection, campaign_id: str) -> list[Approval]:
    """Return a campaign's approvals, oldest first, also from before an edit."""
    rows = await tx.execute(
        text(
            "SELECT digest, approved_by, approved_at FROM campaign_approval WHERE campaign_id = :id"
            " ORDER BY approved_at, approved_by"
        ),
        {"id": campaign_id},
    )
    return [Approval(*row) for row in rows]


async def approvals_after(
    tx: AsyncConnection, campaign_id: str, after: tuple[datetime, str, str] | None, limit: int
) -> list[Approval]:
    """Return a page of `approvals_of`. `after`: the time, the author and the digest of an approval."""
    at, by, digest = after or (datetime.min.replace(tzinfo=UTC), "", "")
    rows = await tx.execute(
        text(
            "SELECT digest, approved_by, approved_at FROM campaign_approval WHERE campaign_id = :id"
            " AND (approved_at, approved_by, digest) > (CAST(:at AS timestamptz), :by, :digest)"
            " ORDER BY approved_at, approved_by, digest LIMIT :limit"
        ),
        {"id": campaign_id, "at": at, "by": by, "digest": digest, "limit": limit},
    )
    return [Approval(*row) for row in rows]


async def put_pre_flight(
    tx: AsyncConnection, campaign_id: str, digest: str, at: datetime | None, findings: Sequence[str], now: datetime
) -> None:
    await tx.execute(
        text(
            "INSERT INTO campaign_pre_flight (campaign_id, digest, at, findings, made_at)"
            " VALUES (:id, :digest, :at, CAST(:findings AS text[]), :now) ON CONFLICT (campaign_id) DO UPDATE"
            " SET digest = excluded.digest, at = excluded.at, findings = excluded.findings, made_at = excluded.made_at"
        ),
        {"id": campaign_id, "digest": digest, "at": at, "findings": list(findings), "now": now},
    )


class PreFlight(msgspec.Struct, frozen=True):
    """A pre-flight made before."""

    at: datetime | None
    findings: Sequence[str]


async def last_pre_flight(tx: AsyncConnection, campaign_id: str, digest: str) -> PreFlight | None:
    """Return the last pre-flight, if made for this digest."""
    rows = await tx.execute(
        text("SELECT at, findings FROM campaign_pre_flight WHERE campaign_id = :id AND digest = :digest"),
        {"id": campaign_id, "digest": digest},
    )
    found = rows.one_or_none()
    return None if found is None else PreFlight(*found)


class Selected(msgspec.Struct, frozen=True, gc=False):
    """A contact of the audience. `number`: encrypted. `attributes`, `told`: JSON."""

    subject_id: str
    number: str
    attributes: str
    told: str | None  # consents; `None`: none published
    left_out: str | None  # frequency limit excluding the contact


async def selected_after(
    tx: AsyncConnection,
    sender_id: str,
    selected: Condition,
    limits: Sequence[tuple[Limit, Sequence[str]]],
    subject_id: str,
    limit: int,
) -> list[Selected]:
    """Return a page of the contacts the campaign would be for, by subject id.

    The cost stays in proportion to the page. LIMIT is a literal: Postgres plans a parameter as a tenth of the table.
    The joined table starts at the page too: otherwise Postgres may read the table from its beginning.
    """
    rows = await tx.execute(
        text(
            "SELECT c.subject_id, c.number, c.attributes::text AS attributes, k.told::text AS told,"
            f" {LEFT_OUT if limits else 'CAST(NULL AS text)'} AS left_out"
            f" FROM {segment.FROM} AND k.subject_id > :after WHERE c.sender_id = :sender_id AND {selected.sql}"
            f" AND c.subject_id > :after ORDER BY c.subject_id LIMIT {limit:d}"
        ),
        {
            "sender_id": sender_id,
            "after": subject_id,
            **selected.values,
            **(limited(limits) if limits else {}),
        },
    )
    return [Selected(*row) for row in rows]


async def contacts_and_standings(
    tx: AsyncConnection, sender_id: str, subject_ids: Sequence[str]
) -> dict[str, tuple[str | None, str | None]]:
    """Return attributes and consents as JSON, if any, by subject id."""
    rows = await tx.execute(
        text(
            "SELECT s.id, c.attributes::text AS attributes, k.told::text AS told"
            " FROM unnest(CAST(:ids AS text[])) AS s(id)"
            " LEFT JOIN contact AS c ON c.sender_id = :sender_id AND c.subject_id = s.id"
            " LEFT JOIN standing AS k ON k.subject_id = s.id"
        ),
        {"ids": list(subject_ids), "sender_id": sender_id},
    )
    return {row.id: (row.attributes, row.told) for row in rows}


class TestSend(msgspec.Struct, frozen=True):
    __test__ = False

    message_id: str
    subject_id: str
    variant: str
    asked_by: str
    asked_at: datetime


async def add_tests(
    tx: AsyncConnection, campaign_id: str, call: str, fingerprint: str, tests: Sequence[TestSend]
) -> set[str]:
    """Insert test sends of one call; return the new message ids."""
    rows = await tx.execute(
        text(
            "INSERT INTO test_send (campaign_id, message_id, subject_id, variant, asked_by, asked_at, call,"
            " fingerprint)"
            " SELECT :campaign_id, t.message_id, t.subject_id, t.variant, :asked_by, :asked_at, :call, :fingerprint"
            " FROM unnest(CAST(:ids AS text[]), CAST(:subjects AS text[]), CAST(:variants AS text[]))"
            " AS t(message_id, subject_id, variant)"
            " ON CONFLICT DO NOTHING RETURNING message_id"
        ),
        {
            "campaign_id": campaign_id,
            "ids": [test.message_id for test in tests],
            "subjects": [test.subject_id for test in tests],
            "variants": [test.variant for test in tests],
            "call": call,
            "fingerprint": fingerprint,
            "asked_by": tests[0].asked_by,
            "asked_at": tests[0].asked_at,
        },
    )
    return set(rows.scalars())


async def fingerprint_of_call(tx: AsyncConnection, campaign_id: str, call: str) -> str | None:
    """Return the fingerprint of the call's first request, if any."""
    found: str | None = await tx.scalar(
        text("SELECT fingerprint FROM test_send WHERE campaign_id = :id AND call = :call LIMIT 1"),
        {"id": campaign_id, "call": call},
    )
    return found


async def tests_since(tx: AsyncConnection, campaign_id: str, since: datetime) -> int:
    return int(
        await tx.scalar(
            text("SELECT count(*) FROM test_send WHERE campaign_id = :id AND asked_at > :since"),
            {"id": campaign_id, "since": since},
        )
        or 0
    )


async def tests_of(
    tx: AsyncConnection, campaign_id: str, before: tuple[datetime, str] | None, limit: int
) -> list[TestSend]:
    """Return a campaign's test sends, newest first. `before`: the time and the message id of a test send."""
    at, message_id = before or (datetime.max.replace(tzinfo=UTC), "")
    rows = await tx.execute(
        text(
            "SELECT message_id, subject_id, variant, asked_by, asked_at FROM test_send WHERE campaign_id = :id"
            " AND (asked_at, message_id) < (CAST(:at AS timestamptz), :message_id)"
            " ORDER BY asked_at DESC, message_id DESC LIMIT :limit"
        ),
        {"id": campaign_id, "at": at, "message_id": message_id, "limit": limit},
    )
    return [TestSend(*row) for row in rows]
