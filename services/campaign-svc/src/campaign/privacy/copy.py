"""Copy a person's data held by campaign-svc, for a request of access.

The copy holds contacts with every attribute, places in audiences, links with clicks, and test sends.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.links import links
from campaign.privacy import store
from common.keyring import FieldKeys
from common.privacy.copying import Copier, Item, opened


def copier(keys: FieldKeys) -> Copier:
    async def gather(tx: AsyncConnection, subject_id: str) -> Sequence[Item]:
        contacts = [
            {
                "kind": "contact",
                "sender_id": row.sender_id,
                "number": opened(keys, row.number, f"number:{subject_id}"),
                "attributes": msgspec.json.decode(row.attributes),
                "corrected": msgspec.json.decode(row.corrected),
                "created_at": row.created_at,
                "updated_at": row.updated_at,
            }
            for row in await store.contacts_of(tx, subject_id)
        ]
        audiences = [
            {
                "kind": "recipient",
                "sender_id": row.sender_id,
                "campaign_id": row.campaign_id,
                "campaign": row.name,
                "purpose": row.purpose,
                "status": row.status,
                "reasons": row.reasons,
                "receipt": row.receipt,
                "handed_off_at": row.handed_off_at,
            }
            for row in await store.audiences_of(tx, subject_id)
        ]
        sent = [
            {
                "kind": "link",
                "sender_id": row.sender_id,
                "campaign_id": row.campaign_id,
                "target": row.target,
                "clicks": row.clicks,
                "first_clicked_at": row.first_clicked_at,
                "last_clicked_at": row.last_clicked_at,
            }
            for row in await links.of_person(tx, subject_id)
        ]
        tests = [
            {"kind": "test", "sender_id": row.sender_id, "campaign_id": row.campaign_id, "campaign": row.name}
            | {"message_id": row.message_id, "asked_at": row.asked_at}
            for row in await store.tests_with(tx, subject_id)
        ]
        return [*contacts, *audiences, *sent, *tests]

    return Copier("campaign", keys, gather)
