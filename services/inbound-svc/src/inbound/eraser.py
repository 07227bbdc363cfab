"""Erasure in inbound-svc: raw callbacks, texts in the review queue, parts of long texts.

The items stay, under the keyed hash: a redelivered callback is a duplicate and restores nothing. A late text of before
the erasure is journalled without its content; a later text begins a new conversation.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.privacy.erasing import Erased, Eraser
from inbound import queue, store


def eraser(database: Database) -> Eraser:
    return Eraser("inbound", database, erase)


async def erase(tx: AsyncConnection, asked: Mapping[str, datetime]) -> Mapping[str, Erased]:
    reviews = await queue.forget(tx, asked)
    parts = await store.delete_parts(tx, list(asked))
    callbacks = await store.empty_callbacks(tx, list(asked))
    return {
        subject_id: {
            "callbacks": callbacks.get(subject_id, 0),
            "reviews": reviews.get(subject_id, 0),
            "parts": parts.get(subject_id, 0),
        }
        for subject_id in asked
    }
