"""Erase a person from campaign-svc: contacts of every sender, links and clicks.

The recipient rows stay, under the keyed hash: a campaign's tallies sum over them. The planner denies an unrequested
recipient as `contact_gone`. Imports of the number are refused until consent-svc lifts the erasure.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import store as audience
from campaign.links import links
from common.db.database import Database
from common.privacy.erasing import Erased, Eraser


def eraser(database: Database) -> Eraser:
    return Eraser("campaign", database, erase)


async def erase(tx: AsyncConnection, asked: Mapping[str, datetime]) -> Mapping[str, Erased]:
    contacts = await audience.delete_contacts(tx, list(asked))
    forgotten = await links.forget(tx, list(asked))
    return {i: {"contacts": contacts.get(i, 0), "links": forgotten.get(i, 0)} for i in asked}
