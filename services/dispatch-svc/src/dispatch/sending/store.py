"""The tables of early DLRs and provider blocks, and the queries of sending: due, left and answered messages."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.inbound import ReceiptState
from common.db.database import fetch_many, plan_now
from dispatch.lane import Due
from dispatch.messages import store as messages
from dispatch.messages.row import MessageRow, columns_of
from dispatch.messages.status import Status
from dispatch.schema import by_column, instant, metadata
from dispatch.sending.outcomes import HandedOff, LostAnswer

early_receipt = Table(
    "early_receipt",
    metadata,
    Column("gateway", Text, nullable=False),
    Column("gateway_message_id", Text, nullable=False),
    Column("receipt", Text, nullable=False),
    Column("code", Text),
    instant("received_at", nullable=False),
    instant("occurred_at"),
    Column("blocked", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("gateway", "gateway_message_id", "receipt"),
    Index("early_receipt_received_ix", "received_at"),
)

provider_block = Table(
    "provider_block",  # a provider refuses this number, perhaps by the person's wish
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("gateway", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("code", Text),
    instant("since", nullable=False),
    UniqueConstraint("gateway", "subject_id"),
    Index("provider_block_subject_ix", "subject_id"),
)


_MESSAGE = columns_of("m")
_EARLY = {
    "gateway": "text",
    "gateway_message_id": "text",
    "receipt": "text",
    "code": "text",
    "received_at": "timestamptz",
    "occurred_at": "timestamptz",
    "blocked": "boolean",
}


class Receipt(NamedTuple):
    """A DLR. `reference`: our message id, if named; an early DLR is stored without."""

    gateway: str
    gateway_message_id: str
    receipt: ReceiptState
    code: str | None
    received_at: datetime
    occurred_at: datetime | None
    blocked: bool
    reference: UUID | None = None


class Named(NamedTuple):
    """A message that a DLR may name: what `receipts` reads of the row."""

    message_id: UUID
    status: Status
    version: int
    sender_id: str
    subject_id: str
    handed_off_at: datetime | None
    gateway: str | None
    gateway_message_id: str | None
    receipt: ReceiptState | None
    receipt_at: datetime | None


class Block(NamedTuple):
    gateway: str
    subject_id: str
    code: str | None
    since: datetime


class LeftSending(NamedTuple):
    """A message left `sending` by a dead process.

    No submit began before `since`. `begun`: the submit of the last decision may have begun.
    """

    row: MessageRow
    since: datetime
    begun: bool


class ToWake(NamedTuple):
    """A campaign with messages to wake."""

    campaign_id: str
    version: int
    cancelled: bool


async def campaigns_to_wake(tx: AsyncConnection) -> list[ToWake]:
    """Return the campaigns with messages to wake."""
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "SELECT campaign_id, version, control = 'cancelled' FROM campaign WHERE woken < version AND control <> $1"
        " ORDER BY campaign_id",
        "paused",  # `plan_now` works only for a statement with parameters
    )
    return [ToWake(*row) for row in rows]


async def due_partitions(tx: AsyncConnection, partitions: Sequence[int], now: datetime, due: Due) -> list[int]:
    """Return those of the partitions with due messages of the kind, the longest wait first.

    A caller that takes few messages then neglects no partition. A lateral query reads each partition alone: else, with
    few statistics, Postgres reads the whole ledger.
    """
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "SELECT p.partition FROM unnest($1::smallint[]) AS p(partition) CROSS JOIN LATERAL"
        f" (SELECT m.due_at FROM message AS m WHERE m.partition = p.partition AND {messages.OF_DUE[due]}"
        " AND m.status IN ('pending', 'deferred') AND m.due_at <= $2 ORDER BY m.due_at LIMIT 1) AS due"
        " ORDER BY due.due_at",
        list(partitions),
        now,
    )
    return [partition for (partition,) in rows]


async def claim_due(
    tx: AsyncConnection,
    partition: int,
    now: datetime,
    limit: int,
    due: Due,
    *,
    waited_for: Collection[str] = (),
) -> list[MessageRow]:
    """Lock and return due messages, oldest first. The transaction is `planned_now`.

    The caller holds the partition's lock, unless it claims codes.
    `waited_for`: gateways whose `pending` messages go on waiting.
    """
    rows = await tx.execute(
        text(
            f"SELECT {_MESSAGE} FROM message AS m WHERE partition = :partition AND {messages.OF_DUE[due]}"
            " AND status IN ('pending', 'deferred') AND due_at <= :now"
            " AND NOT (status = 'pending' AND coalesce(gateway, '') = ANY(CAST(:waited_for AS text[])))"
            " ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED"
        ),
        {"partition": partition, "now": now, "limit": limit, "waited_for": list(waited_for)},
    )
    return [MessageRow.read(row) for row in rows]


async def still_ours(
    tx: AsyncConnection, message_ids: Sequence[UUID], decisions: Collection[datetime], *, again: bool
) -> list[MessageRow]:
    """Lock and return the messages still ours to hand off.

    The last decision is one of `decisions` (`decided_at`), and no submit or DLR is on record. A message marked
    `unknown` meanwhile is ours, because no submit has begun; a resubmit (`again`) is not.
    """
    rows = await tx.execute(
        text(
            f"SELECT {_MESSAGE} FROM message AS m WHERE message_id = ANY(CAST(:ids AS uuid[]))"
            f" AND decided_at = ANY(CAST(:decisions AS timestamptz[])) AND {messages.NO_OUTCOME}"
            " AND (status = 'sending' OR (status = 'unknown' AND NOT :again)) ORDER BY message_id FOR UPDATE"
        ),
        {"ids": list(message_ids), "decisions": list(decisions), "again": again},
    )
    return [MessageRow.read(row) for row in rows]


async def partitions_left_sending(tx: AsyncConnection, after: timedelta) -> list[int]:
    """Return the partitions with messages `sending` by a decision older than `after`."""
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "SELECT DISTINCT s.partition FROM sending AS s CROSS JOIN LATERAL (SELECT FROM message AS m"
        " WHERE m.message_id = ANY(s.message_ids) AND m.status = 'sending'"
        f" AND {messages.decided_long_ago('$1::interval')} LIMIT 1) AS m"
        " WHERE s.since < now() - $1::interval ORDER BY s.partition",
        after,
    )
    return [partition for (partition,) in rows]


async def claim_left_sending(tx: AsyncConnection, partition: int, limit: int) -> list[LeftSending]:
    """Lock and return messages of closed decisions. A live owner renews the decision or records the outcome in time.

    A submit may precede the last decision: `since` is of the first decision's row of `sending`, which stays as long as
    the message is `sending`. The caller has closed the decisions (`messages.close_sending`): without a mark, no submit
    of a closed decision began or ever begins. A decision which its owner is marking at this moment is still open, and
    its messages wait for a later call.
    """
    rows = await tx.execute(
        text(
            f"SELECT {_MESSAGE}, (SELECT min(s.since) FROM sending AS s"
            " WHERE s.partition = :partition AND m.message_id = ANY(s.message_ids)) AS sending_since,"
            f" NOT ({messages.NO_OUTCOME} AND EXISTS (SELECT FROM sending AS s"
            " WHERE s.decided_at = m.decided_at AND s.partition = m.partition)"
            " AND NOT EXISTS (SELECT FROM begun AS b WHERE b.decided_at = m.decided_at AND b.partition = m.partition"
            " AND m.message_id = ANY(b.message_ids))) AS begun"
            " FROM message AS m WHERE m.status = 'sending' AND m.message_id IN"
            " (SELECT unnest(s.message_ids) FROM sending AS s WHERE s.partition = :partition AND s.closed)"
            " AND NOT EXISTS (SELECT FROM sending AS s"
            " WHERE s.decided_at = m.decided_at AND s.partition = m.partition AND NOT s.closed)"
            " ORDER BY m.message_id LIMIT :limit FOR UPDATE OF m SKIP LOCKED"
        ),
        {"partition": partition, "limit": limit},
    )
    return [LeftSending(MessageRow.read(row), since, begun) for *row, since, begun in rows]


async def unknown_of(
    tx: AsyncConnection,
    gateway: str,
    spans: Sequence[tuple[datetime, datetime]],
    after: tuple[datetime, UUID],
    limit: int,
) -> list[LostAnswer]:
    """Return a page of a gateway's `unknown` messages, oldest first, by `unknown_since` within `spans`.

    `after`: the end of the page before.
    """
    await plan_now(tx)
    rows = await tx.execute(
        text(
            f"SELECT {', '.join(f'm.{c}' for c in LostAnswer._fields)}"
            " FROM unnest(CAST(:since AS timestamptz[]), CAST(:before AS timestamptz[])) AS d(since, before)"
            " CROSS JOIN LATERAL (SELECT message_id, subject_id, partition, gateway, unknown_since FROM message"
            " WHERE unknown_since >= d.since AND unknown_since < d.before AND status = 'unknown'"
            " AND (unknown_since, message_id) > (CAST(:after AS timestamptz), CAST(:after_id AS uuid))"
            " AND gateway = :gateway ORDER BY unknown_since, message_id LIMIT :limit) AS m"
            " ORDER BY m.unknown_since, m.message_id LIMIT :limit"
        ),
        {
            "gateway": gateway,
            "since": [since for since, _ in spans],
            "before": [before for _, before in spans],
            "after": after[0],
            "after_id": after[1],
            "limit": limit,
        },
    )
    return [LostAnswer(*row) for row in rows]


async def lock_messages(tx: AsyncConnection, message_ids: Sequence[UUID]) -> None:
    """Lock messages in the order of ids, as DLRs do."""
    await fetch_many(
        tx, "SELECT FROM message WHERE message_id = ANY($1::uuid[]) ORDER BY message_id FOR UPDATE", message_ids
    )


async def left_already(tx: AsyncConnection, message_ids: Sequence[UUID]) -> dict[UUID, HandedOff]:
    """Return the recorded hand-off of each message, if any."""
    rows = await tx.execute(
        text(
            f"SELECT {', '.join(HandedOff._fields)} FROM message"
            " WHERE message_id = ANY(CAST(:ids AS uuid[])) AND handed_off_at IS NOT NULL"
        ),
        {"ids": list(message_ids)},
    )
    return {row.message_id: HandedOff(*row)._replace(status=Status(row.status)) for row in rows}


async def open_enforcements_of(tx: AsyncConnection, applied_before: datetime) -> dict[str, datetime]:
    """Return the subjects with an open opt-out, and when the first was received."""
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "SELECT subject_id, min(received_at) FROM enforcement WHERE enforced_at IS NULL AND applied_at < $1"
        " GROUP BY subject_id",
        applied_before,
    )
    return dict(map(tuple, rows))


async def messages_of_receipts(
    tx: AsyncConnection,
    references: Sequence[UUID],
    gateway_ids: Sequence[str],
    gateways: Sequence[str],
    *,
    locked: bool = True,
) -> list[Named]:
    """Return the messages of DLRs, by our id or by the gateway's, `locked` or as they are now.

    A subquery looks up the gateway's ids: for an OR, Postgres reads the whole ledger.
    """
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        f"SELECT {', '.join(Named._fields)} FROM message WHERE message_id = ANY($1::uuid[]"
        " || ARRAY(SELECT k.message_id FROM unnest($2::text[], $3::text[]) AS r(gateway, known_as)"
        " CROSS JOIN LATERAL (SELECT message_id FROM message WHERE gateway = r.gateway AND known_as = r.known_as"
        f" OFFSET 0) AS k)) ORDER BY message_id{' FOR UPDATE' if locked else ''}",
        list(references),
        list(gateways),
        list(gateway_ids),
    )
    return [Named(message_id, Status(status), *more) for message_id, status, *more in rows]


async def block(tx: AsyncConnection, rows: Sequence[Block]) -> None:
    """Block these subjects at these gateways. The first block stays."""
    columns = {"gateway": "text", "subject_id": "text", "code": "text", "since": "timestamptz"}
    arrays = ", ".join(f"CAST(:{c} AS {kind}[])" for c, kind in columns.items())
    await tx.execute(
        text(
            f"INSERT INTO provider_block ({', '.join(columns)}) SELECT v.* FROM unnest({arrays})"
            f" AS v({', '.join(columns)}) ORDER BY gateway, subject_id ON CONFLICT DO NOTHING"
        ),
        by_column(rows, columns),
    )


async def unblock(tx: AsyncConnection, gateway: str, subject_id: str) -> str | None:
    """Remove the block. Return the subject, or `None`."""
    removed: str | None = await tx.scalar(
        text("DELETE FROM provider_block WHERE gateway = :gateway AND subject_id = :id RETURNING subject_id"),
        {"gateway": gateway, "id": subject_id},
    )
    return removed


async def keep_early_receipts(tx: AsyncConnection, rows: Sequence[Receipt]) -> None:
    """Store DLRs without a message: not answered yet, or not ours."""
    arrays = ", ".join(f"CAST(:{c} AS {kind}[])" for c, kind in _EARLY.items())
    await tx.execute(
        text(f"INSERT INTO early_receipt ({', '.join(_EARLY)}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"),
        by_column(rows, _EARLY),
    )


async def take_matching_early_receipts(tx: AsyncConnection, limit: int) -> list[Receipt]:
    """Remove and return early DLRs whose message is known now."""
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "DELETE FROM early_receipt e USING (SELECT e.gateway, e.gateway_message_id FROM early_receipt e"
            " JOIN message m ON (m.gateway, m.known_as) = (e.gateway, e.gateway_message_id) LIMIT :limit) found"
            " WHERE (e.gateway, e.gateway_message_id) = (found.gateway, found.gateway_message_id)"
            f" RETURNING {', '.join(f'e.{c}' for c in _EARLY)}"
        ),
        {"limit": limit},
    )
    return [Receipt(*row) for row in rows]
