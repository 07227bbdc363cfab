"""Reports over HTTP on messages sent after a STOP."""

from dataclasses import asdict
from datetime import datetime
from operator import attrgetter
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from common.db import everywhere
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.web.auth import Caller, require
from common.web.edge_id import ControllerIds
from common.web.pagination import LIMIT, Cursor, Limit, OfSender, Page, cursor_of, positions
from consent.proof import retroactive
from consent.proof.retold import about_all
from consent.proof.retroactive import Found

router = APIRouter(prefix="/v1")


class RetroactiveMessage(BaseModel):
    """A message which went out after the person's STOP, while the STOP was not yet on record or not yet enforced.

    `subject_id`: the person's id with the sender's controller."""

    message_id: str
    campaign_id: str | None = Field(description="The campaign that requested the message; null outside campaigns.")
    subject_id: str
    sender_id: str
    purpose: str
    handed_off_at: datetime
    evidence_id: str = Field(
        description="The STOP. The receipt of a STOP to the sender or its controller is at /v1/receipts/{evidence_id};"
        " a STOP to every sender has the name of the controller's bundles."
    )
    stopped_at: datetime = Field(description="The time of the STOP at source; the earliest possible instant.")
    known_at: datetime = Field(
        description="The time of the STOP's record. A message handed off later left before the STOP was enforced."
    )
    in_doubt: bool = Field(description="The STOP is timed to the second, and the message left within that second.")
    found_at: datetime = Field(description="The time of the discovery.")


@router.get("/retroactive-messages", operation_id="retroactive_messages.list")
async def get_retroactive_messages(
    caller: Annotated[Caller, Depends(require("consent:read"))],
    held: Annotated[Resources[ServiceSettings], Depends(resources)],
    sender_id: OfSender = None,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[RetroactiveMessage]:
    """List the marketing messages which went out after a person's STOP, in order of discovery.

    The STOP was not yet on record, or not yet enforced. A message is listed only where the STOP covers the sender and
    the purpose. The list covers the senders of the token, or only `sender_id`.
    """
    sender_ids = await caller.covered(sender_id)
    places = positions(cursor, len(held.shards.each))
    found, behind = await everywhere.merged(
        held.shards,
        places,
        limit,
        lambda tx, after, many: retroactive.page(tx, sender_ids, after, many),
        attrgetter("position"),
        attrgetter("found_at"),
    )
    controllers = await caller.controllers({each.message.sender_id for each in found})
    return Page[RetroactiveMessage](
        items=[
            _view(each, held.edge_ids.of(controllers[each.message.sender_id]))
            for each in found
            if each.message.sender_id in controllers  # the registration has failed since the first read
        ],
        next=cursor_of(behind) if behind is not None else None,
    )


def _view(found: Found, ids: ControllerIds) -> RetroactiveMessage:
    told = asdict(found.message) | {"subject_id": ids.shown(found.message.subject_id), "found_at": found.found_at}
    if found.of_all:
        told["evidence_id"] = about_all(found.message.evidence_id, told["subject_id"])
    return RetroactiveMessage(**told)
