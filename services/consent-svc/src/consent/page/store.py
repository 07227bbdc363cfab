"""Read the link to a preference page. The table belongs to `rights`."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from consent.rights.store import PreferenceLink


async def find_link(tx: AsyncConnection, link_id: str) -> PreferenceLink | None:
    rows = await tx.execute(
        text(
            "SELECT link_id, subject_id, number, sender_id, expires_at, browser, whole, given_to FROM preference_link"
            " WHERE link_id = :id"
        ),
        {"id": link_id},
    )
    row = rows.one_or_none()
    return PreferenceLink(**row._mapping) if row else None
