"""Copy a person's data held by campaign-svc, for a request of access."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.conversions import store as conversions
from campaign.links import links
from campaign.privacy import store
from common.db.shards import WHOLE, Part
from common.keyring import FieldKeys
from common.privacy.copying import Copier, Item, opened


def copier(keys: FieldKeys, part: Part = WHOLE) -> Copier:
    async def gather(tx: AsyncConnection, subject_id: str, controller_id: str) -> Sequence[Item]:
        contacts = [
            {
                "kind": "contact",
                "sender_id": contact.sender_id,
                "number": opened(keys, contact.number, f"number:{subject_id}"),
                "attributes": contact.attributes,
                "corrected": contact.corrected,
                "created_at": contact.created_at,
                "updated_at": contact.updated_at,
            }
            for contact in await store.contacts_of(tx, subject_id, controller_id)
        ]
        audiences = [
            {
                "kind": "recipient",
                "sender_id": each.sender_id,
                "campaign_id": each.campaign_id,
                "campaign": each.campaign,
                "purpose": each.purpose,
                "status": each.status,
                "reasons": each.reasons,
                "receipt": each.receipt,
                "handed_off_at": each.handed_off_at,
            }
            for each in await store.audiences_of(tx, subject_id, controller_id)
        ]
        sent = [
            {
                "kind": "link",
                "sender_id": link.sender_id,
                "campaign_id": link.campaign_id,
                "target": link.target,
                "clicks": link.clicks,
                "first_clicked_at": link.first_clicked_at,
                "last_clicked_at": link.last_clicked_at,
            }
            for link in await links.of_person(tx, subject_id, controller_id)
        ]
        tests = [
            {"kind": "test", "sender_id": test.sender_id, "campaign_id": test.campaign_id, "campaign": test.campaign}
            | {"message_id": test.message_id, "asked_at": test.asked_at}
            for test in await store.tests_with(tx, subject_id, controller_id)
        ]
        converted = [
            {
                "kind": "conversion",
                "sender_id": sender_id,
                "reference": each.reference,
                "value": None if each.value is None else str(each.value),
                "currency": each.currency,
                "occurred_at": each.occurred_at,
            }
            for sender_id, each in await conversions.of_person(tx, subject_id, controller_id)
        ]
        return [*contacts, *audiences, *sent, *tests, *converted]

    return Copier("campaign", keys, gather, part)
