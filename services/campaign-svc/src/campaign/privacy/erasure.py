"""What campaign-svc erases of a person: their contacts, with every attribute, of every sender; their links, and that
they clicked.

The rows of audiences stay, under the keyed hash: where each recipient stands is what the accounts of a campaign add up
to. Who is in an audience and not yet asked for is denied as `contact_gone`. A file that brings the number again is
refused that line (`store.refuse_erased`) until consent says that the person came back.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign import store
from campaign.links import links
from common.db.database import Database
from common.privacy.erasing import Erased, Eraser


def eraser(database: Database) -> Eraser:
    return Eraser("campaign", database, erase)


async def erase(tx: AsyncConnection, asked: Mapping[str, datetime]) -> Mapping[str, Erased]:
    contacts = await store.delete_contacts(tx, list(asked))
    forgotten = await links.forget(tx, list(asked))
    return {i: {"contacts": contacts.get(i, 0), "links": forgotten.get(i, 0)} for i in asked}
