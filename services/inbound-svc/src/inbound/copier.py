"""The copy of a person's data in inbound-svc: texts to the controller's codes as received, and reviewers' decisions.

A raw callback with texts of other people, or to other controllers, is left out. So is a text from before the controller
had the code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.keyring import FieldKeys
from common.privacy.copying import Copier, Item, opened
from inbound.reviews import queue
from inbound.store import to_a_code_of


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
            for each in await _texts_of(tx, subject_id, controller_id)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """A text of one person. `body`: the raw callback, `None` with a text of another person."""

    provider: str
    account: str
    provider_message_id: str
    intent: str | None
    rule: str | None
    callback_id: UUID
    received_at: datetime
    body: str | None


async def _texts_of(tx: AsyncConnection, subject_id: str, controller_id: str) -> list[_Text]:
    """Return the texts of one person to the controller's codes, oldest first."""
    rows = await tx.execute(
        text(
            "SELECT i.provider, i.account, i.provider_message_id, i.intent, i.rule, c.id AS callback_id, c.received_at,"
            # a callback has one event per item: are all items of this person, to a code of this controller?
            " CASE WHEN cardinality(c.outbox_ids) = (SELECT count(*) FROM callback_item AS o"
            f" WHERE o.subject_id = :id AND o.callback_id = c.id AND {to_a_code_of('o.short_code', 'c.received_at')})"
            " THEN c.body END AS body"
            " FROM callback_item AS i JOIN callback AS c ON c.id = i.callback_id"
            " CROSS JOIN (SELECT CAST(:controller AS text) AS controller_id) AS a"
            f" WHERE i.subject_id = :id AND {to_a_code_of('i.short_code', 'c.received_at')} ORDER BY c.received_at"
        ),
        {"id": subject_id, "controller": controller_id},
    )
    return [_Text(**row._mapping) for row in rows]
