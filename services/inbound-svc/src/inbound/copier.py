"""The copy of a person's data in inbound-svc: texts to the controller's codes as received, and reviewers' decisions.

A raw callback with texts of other people, or to other controllers, is left out. So is a text from before the controller
had the code.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from common.keyring import FieldKeys
from common.privacy.copying import Copier, Item, opened
from inbound import store
from inbound.reviews import queue


def copier(keys: FieldKeys) -> Copier:
    async def gather(tx: AsyncConnection, subject_id: str, controller_id: str) -> Sequence[Item]:
        texts = [
            {
                "kind": "text",
                "provider": each.provider,
                "account": each.account,
                "provider_message_id": each.provider_message_id,
                "received_at": each.received_at,
                "intent": each.intent,
                "rule": each.rule,
                "as_received": opened(keys, each.body, f"callback:{each.callback_id}"),
            }
            for each in await store.texts_of(tx, subject_id, controller_id)
        ]
        reviews = [
            {
                "kind": "review",
                "text": opened(keys, review.event.text, f"text:{review.event.mo_id}"),
                "received_at": review.event.received_at,
                "intent": review.decided.intent if review.decided else None,
                "note": opened(keys, review.decided.note, f"note:{review.event.mo_id}") if review.decided else None,
                "decided_at": review.decided.at if review.decided else None,
            }
            for review in await queue.reviews_of(tx, subject_id, controller_id)
        ]
        return [*texts, *reviews]

    return Copier("inbound", keys, gather)
