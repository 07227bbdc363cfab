"""Erase a person from campaign-svc: contacts, links, clicks and conversions, of all senders or of a controller's.

An unfinished upload may hold the person: the erasure ends those that no caller goes on with.

The recipient rows stay, under the keyed hash: a campaign's tallies sum over them. The planner denies an unrequested
recipient as `contact_gone`. Imports of the number are refused until consent-svc lifts the erasure.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import store as audience
from campaign.conversions import store as conversions
from campaign.imports import store as imports
from campaign.links import links
from common.db.database import Database
from common.db.shards import WHOLE, Part
from common.privacy.erasing import UPLOADS_SILENT_FOR, Erased, Eraser, Whom


def eraser(database: Database, part: Part = WHOLE) -> Eraser:
    return Eraser("campaign", database, erase, part=part)


async def erase(tx: AsyncConnection, asked: Mapping[Whom, datetime]) -> Mapping[Whom, Erased]:
    contacts = await audience.delete_contacts(tx, asked)
    forgotten = await links.forget(tx, asked)
    converted = await conversions.forget(tx, asked)
    await imports.end_silent(tx, asked, datetime.now(UTC) - UPLOADS_SILENT_FOR)
    return {
        whom: {
            "contacts": contacts.get(whom, 0),
            "links": forgotten.get(whom, 0),
            "conversions": converted.get(whom, 0),
        }
        for whom in asked
    }
