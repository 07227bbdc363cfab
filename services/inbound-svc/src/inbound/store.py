"""inbound-svc's tables, and the statements over them: the journal of callbacks. The caller owns the transaction.

A callback is one request of an operator, its raw body sealed; its items are the MOs or receipts in it, each once per
(provider, account, kind, provider message id, receipt state). The primary key of an item is what makes a duplicate a
duplicate, also between two requests at once: the second waits for the first to commit. Nothing personal is in clear.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    DateTime,
    Double,
    ForeignKey,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from common import consumer, outbox
from common.database import new_metadata
from inbound.providers import Kind

metadata = new_metadata()
outbox.define(metadata)
consumer.define(metadata)

callback = Table(
    "callback",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("provider", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("kind", Text, nullable=False),  # messages, receipts
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("body", Text, nullable=False),  # raw, sealed, context "callback:<id>"
    Column("outbox_ids", ARRAY(BigInteger), nullable=False),  # of its events; gone from the outbox once published
)

callback_item = Table(
    "callback_item",
    metadata,
    Column("provider", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("provider_message_id", Text, nullable=False),
    Column("state", Text, nullable=False),  # of a receipt; "" for an MO
    # deferred: the items come first, to learn which of them are new
    Column("callback_id", Uuid, ForeignKey("callback.id", deferrable=True, initially="DEFERRED"), nullable=False),
    Column("subject_id", Text, nullable=True),  # of an MO, as all below
    Column("intent", Text, nullable=True),
    Column("rule", Text, nullable=True),
    Column("score", Double, nullable=True),
    PrimaryKeyConstraint("provider", "account", "kind", "provider_message_id", "state"),
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a callback came from."""

    provider: str
    account: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Item:
    """One MO or one receipt, as the journal keeps it."""

    provider_message_id: str
    state: str = ""
    subject_id: str | None = None
    intent: str | None = None
    rule: str | None = None
    score: float | None = None

    @property
    def identity(self) -> "Identity":
        return self.provider_message_id, self.state


Identity = tuple[str, str]  # (provider message id, receipt state or "")


async def add_items(tx: AsyncConnection, origin: Origin, callback_id: UUID, items: Sequence[Item]) -> set[Identity]:
    """Journal the items that are not there yet, and say which those are. Waits for whoever is adding the same ones."""
    in_order = sorted({item.identity: item for item in items}.values(), key=lambda item: item.identity)  # no deadlock
    rows = await tx.execute(
        text(
            "INSERT INTO callback_item (provider, account, kind, callback_id,"
            " provider_message_id, state, subject_id, intent, rule, score)"
            " SELECT :provider, :account, :kind, :callback_id, i.*"
            " FROM unnest(CAST(:ids AS text[]), CAST(:states AS text[]), CAST(:subject_ids AS text[]),"
            " CAST(:intents AS text[]), CAST(:rules AS text[]), CAST(:scores AS double precision[])) AS i"
            " ON CONFLICT DO NOTHING"
            " RETURNING provider_message_id, state"
        ),
        {
            "provider": origin.provider,
            "account": origin.account,
            "kind": origin.kind,
            "callback_id": callback_id,
            "ids": [item.provider_message_id for item in in_order],
            "states": [item.state for item in in_order],
            "subject_ids": [item.subject_id for item in in_order],
            "intents": [item.intent for item in in_order],
            "rules": [item.rule for item in in_order],
            "scores": [item.score for item in in_order],
        },
    )
    return {(row.provider_message_id, row.state) for row in rows}


async def add_callback(
    tx: AsyncConnection,
    origin: Origin,
    callback_id: UUID,
    received_at: datetime,
    sealed_body: str,
    outbox_ids: Sequence[int],
) -> None:
    """Journal the request whose items were new, with the outbox ids of their events."""
    await tx.execute(
        callback.insert(),
        {
            "id": callback_id,
            "provider": origin.provider,
            "account": origin.account,
            "kind": origin.kind,
            "received_at": received_at,
            "body": sealed_body,
            "outbox_ids": list(outbox_ids),
        },
    )


async def outbox_ids_of(tx: AsyncConnection, origin: Origin, items: Collection[Identity]) -> list[int]:
    """The events of the callbacks that brought these items, published by now or not."""
    rows = await tx.execute(
        text(
            "SELECT DISTINCT unnest(c.outbox_ids) AS id"
            " FROM unnest(CAST(:ids AS text[]), CAST(:states AS text[])) AS wanted(provider_message_id, state)"
            " JOIN callback_item AS i USING (provider_message_id, state)"
            " JOIN callback AS c ON c.id = i.callback_id"
            " WHERE i.provider = :provider AND i.account = :account AND i.kind = :kind"
        ),
        {
            "provider": origin.provider,
            "account": origin.account,
            "kind": origin.kind,
            "ids": [provider_message_id for provider_message_id, _ in items],
            "states": [state for _, state in items],
        },
    )
    return [row.id for row in rows]
