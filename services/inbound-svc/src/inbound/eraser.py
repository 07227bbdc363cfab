"""Erasure in inbound-svc: raw callbacks, texts in the review queue, parts of long texts.

A controller's erasure takes the texts to codes of which every sender is the controller's, received since the controller
had the code. A text to another code may be meant for another controller, and a STOP to a code that no sender had waits
for a person: the erasure of everything takes both. A callback that holds such texts beside others loses
all: nothing else is known of it but the operator's own copy.

The items stay, under the keyed hash: a redelivered callback is a duplicate and restores nothing. A late text of before
the erasure is journalled without its content; a later text begins a new conversation.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import INBOUND_MESSAGES
from common.db.database import Database
from common.kafka import outbox
from common.keyring import FieldKeys
from common.privacy.erasing import Erased, Eraser, Whom
from inbound import store
from inbound.journal import emptied
from inbound.reviews import queue


def in_effect(review: queue.Review) -> bool:
    return review.decided is not None and review.decided.told


def eraser(database: Database, keys: FieldKeys) -> Eraser:
    async def erase(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> Mapping[Whom, Erased]:
        gone = await queue.forget(tx, asked)
        # nobody will read these texts: without an answer, marketing of the other controllers would wait for ever
        unread = [review.event for whom, review in gone if whom.controller_id is not None and not in_effect(review)]
        answers = [structs.replace(emptied(keys, event), revision=event.revision + 1) for event in unread]
        await outbox.append(tx, INBOUND_MESSAGES, answers)
        reviews = Counter(whom for whom, _ in gone)
        parts = await store.delete_parts(tx, asked)
        callbacks = await store.empty_callbacks(tx, asked)
        return {
            whom: {"callbacks": callbacks.get(whom, 0), "reviews": reviews[whom], "parts": parts.get(whom, 0)}
            for whom in asked
        }

    return Eraser("inbound", database, erase)
