"""Erase consent-svc's data about a person.

Kept: the keyed hash with its opt-outs, and each ledger line without personal fields.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.privacy.erasing import Erased, Eraser
from consent.double_opt_in import requests as double_opt_ins
from consent.ledger import recorder
from consent.rights import copies, rectifications, store


def eraser(database: Database) -> Eraser:
    return Eraser("consent", database, erase)


async def erase(tx: AsyncConnection, asked: Mapping[str, datetime]) -> Mapping[str, Erased]:
    entries = await recorder.erase(tx, asked)
    links = await store.delete_links(tx, list(asked))
    made = await copies.delete(tx, list(asked))
    said = await rectifications.empty(tx, list(asked))
    questions = await double_opt_ins.forget(tx, list(asked))
    return {
        subject_id: {
            "evidence": entries.get(subject_id, 0),
            "links": links.get(subject_id, 0),
            "copies": made.get(subject_id, 0),
            "rectifications": said.get(subject_id, 0),
            "questions": questions.get(subject_id, 0),
        }
        for subject_id in asked
    }
