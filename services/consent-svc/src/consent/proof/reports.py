"""Reports over HTTP on messages sent after a STOP."""

from datetime import datetime
from operator import itemgetter
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from common.service import Resources, resources
from common.settings import ServiceSettings
from common.web.auth import Caller, require
from common.web.fields import Storable
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position
from consent.proof import retroactive

router = APIRouter(prefix="/v1")


class RetroactiveMessage(BaseModel):
    """A message which went out after the person's STOP, while the STOP was not yet on record or not yet enforced."""

    message_id: str
    campaign_id: str | None
    subject_id: str
    sender_id: str
    purpose: str
    handed_off_at: datetime
    evidence_id: str = Field(description="The STOP: its receipt is at /v1/receipts/{evidence_id}.")
    stopped_at: datetime = Field(description="The time of the STOP at source; the earliest possible instant.")
    known_at: datetime = Field(
        description="The time of the STOP's record. A message handed off later left before the STOP was enforced."
    )
    in_doubt: bool = Field(description="The STOP is timed to the second, and the message left within that second.")
    found_at: datetime


@router.get("/retroactive-messages")
async def get_retroactive_messages(
    caller: Annotated[Caller, Depends(require("consent:read"))],
    held: Annotated[Resources[ServiceSettings], Depends(resources)],
    sender_id: Annotated[Storable | None, Query(max_length=200)] = None,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[RetroactiveMessage]:
    """List the marketing messages which went out after a person's STOP, in order of discovery.

    The STOP was not yet on record, or not yet enforced. A message is listed only where the STOP covers the sender and
    the purpose. The list covers the senders of the token, or only `sender_id`.
    """
    if sender_id is not None:
        caller.may_use(sender_id)
    sender_ids = [sender_id] if sender_id is not None else None if caller.senders is None else sorted(caller.senders)
    async with held.database.begin() as tx:
        found = await retroactive.page(tx, sender_ids, position(cursor, int) or 0, limit)
    return Page[RetroactiveMessage](
        items=[
            RetroactiveMessage(
                **{name: getattr(message, name) for name in retroactive.Retroactive.__slots__}, found_at=found_at
            )
            for _, message, found_at in found
        ],
        next=next_of(found, limit, itemgetter(0)),
    )
