"""The copy of a person's data: a controller's messages with text and decision.

An enforced opt-out and a provider's block name no controller, and stand in no copy. Nor does the version of the
consent, which is the same for every controller.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from common.keyring import FieldKeys
from common.privacy.copying import Copier, Item, opened
from dispatch.messages.disclosure import disclosed
from dispatch.messages.row import MessageRow
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
    "decided_at",
    "region",
    "gateway",
    "receipt",
    "receipt_at",
)


def copier(keys: FieldKeys) -> Copier:
    async def gather(tx: AsyncConnection, subject_id: str, controller_id: str) -> Sequence[Item]:
        return [_item(keys, row) for row in await store.messages_of(tx, subject_id, controller_id)]

    return Copier("dispatch", keys, gather)


def _item(keys: FieldKeys, row: MessageRow) -> Item:
    facts, reasons = disclosed(row.facts, row.reasons)
    return {
        "kind": "message",
        **{name: getattr(row, name) for name in TOLD},
        "reasons": reasons,
        "facts": facts,
        "number": opened(keys, row.number, f"number:{row.subject_id}"),
        "text": opened(keys, row.text, f"text:{row.message_id}"),
    }
