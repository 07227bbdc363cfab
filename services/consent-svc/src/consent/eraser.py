"""Erase consent-svc's data about a person: all of it, or one controller's.

Kept: the keyed hash with its opt-outs, and each ledger line without personal fields. The number of a person is shared
by the controllers that hold a line about the person: the last erasure takes it.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.privacy.erasing import UPLOADS_SILENT_FOR, Erased, Eraser, Whom
from consent.double_opt_in import requests as double_opt_ins
from consent.imports import files
from consent.inbound import shared_codes
from consent.ledger import recorder
from consent.rights import copies, rectifications, store


def eraser(database: Database, uploads: Database | None = None) -> Eraser:
    """Return the eraser of the people in a database.

    `uploads`: the database of the files, where another. An upload that may name a person goes with the person's data.
    An erasure waits while the database does not answer.
    """
    return Eraser("consent", database, partial(erase, uploads=uploads), lock=recorder.lock)


async def erase(
    tx: AsyncConnection, asked: Mapping[Whom, datetime], uploads: Database | None = None
) -> Mapping[Whom, Erased]:
    entries = await recorder.erase(tx, asked)
    links = await store.delete_links(tx, asked)
    made = await copies.delete(tx, asked)
    said = await rectifications.empty(tx, asked)
    questions = await double_opt_ins.forget(tx, asked)
    await shared_codes.forget(tx, asked)
    silent_since = datetime.now(UTC) - UPLOADS_SILENT_FOR
    if uploads is None:
        await files.forget_abandoned(tx, silent_since, asked)
    else:
        async with uploads.begin() as of_uploads:
            await files.forget_abandoned(of_uploads, silent_since, asked)
    return {
        whom: {
            "evidence": entries.get(whom, 0),
            "links": links.get(whom, 0),
            "copies": made.get(whom, 0),
            "rectifications": said.get(whom, 0),
            "questions": questions.get(whom, 0),
        }
        for whom in asked
    }
