"""The copy of a person's data: messages with text and decision, enforced opt-outs, provider blocks."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from common.keyring import FieldKeys
from common.privacy.copying import Copier, Item, opened
from dispatch.privacy import store

TOLD = (
    "message_id",
    "campaign_id",
    "sender_id",
    "category",
    "purpose",
    "template",
    "requested_at",
    "status",
    "reasons",
    "decided_at",
    "consent_version",
    "region",
    "facts",
    "gateway",
    "receipt",
    "receipt_at",
)


def copier(keys: FieldKeys) -> Copier:
    async def gather(tx: AsyncConnection, subject_id: str) -> Sequence[Item]:
        messages = [
            {
                "kind": "message",
                **{name: getattr(row, name) for name in TOLD},
                "number": opened(keys, row.number, f"number:{subject_id}"),
                "text": opened(keys, row.text, f"text:{row.message_id}"),
            }
            for row in await store.messages_of(tx, subject_id)
        ]
        enforced = [
            {
                "kind": "opt_out_enforced",
                "source": row.source,
                "reference": row.reference,
                "received_at": row.received_at,
                "enforced_at": row.enforced_at,
            }
            for row in await store.enforcements_of(tx, subject_id)
        ]
        blocks = [
            {"kind": "provider_block", "gateway": row.gateway, "code": row.code, "since": row.since}
            for row in await store.blocks_of(tx, subject_id)
        ]
        return [*messages, *enforced, *blocks]

    return Copier("dispatch", keys, gather)
