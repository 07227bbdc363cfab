"""The HTTP API: the full decision of a message, enforced opt-outs, provider blocks."""

import logging
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.service import Resources, resources
from common.web.auth import Caller, require
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position, whole_page
from common.web.problems import NotFound, Reason
from dispatch.messages import store as messages
from dispatch.messages.row import MessageRow
from dispatch.sending import store as sending

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["dispatch"])

Held = Annotated[Resources[Any], Depends(resources)]


class Decision(BaseModel):
    """A message with its full decision. `subject_id` stands for the person; the number is never shown."""

    message_id: UUID
    campaign_id: str | None
    sender_id: str
    subject_id: str
    category: str
    purpose: str | None
    template: str | None = Field(
        description="`<template_id>@<number>`, or `free_text`; null unless requested over HTTP."
    )
    status: str = Field(description="pending, denied, deferred, sending, accepted, rejected, unknown or expired.")
    reasons: list[str]
    due_at: datetime | None = Field(description="The time of a deferred message's next decision.")
    requested_at: datetime
    send_before: datetime
    decided_at: datetime | None
    policy_version: str
    consent_version: int | None
    as_of: datetime | None = Field(description="The watermark of the decision.")
    facts: Any = Field(description="The decision record, for `python -m dispatch replay`; or null.")
    gateway: str | None
    gateway_message_id: str | None
    receipt: str | None
    code: str | None
    version: int


@router.get("/messages/{identity}")
async def get_message(
    identity: UUID, held: Held, caller: Annotated[Caller, Depends(require("message:read"))]
) -> Decision:
    """Return the verdict of a message, all its reasons, and the decision record.

    Only a token for every sender sees `other_controller`: the person is opted in to another sender.
    """
    async with held.database.begin() as tx:
        row = await _found(tx, identity)
    caller.may_use(row.sender_id)
    told = {"reasons": caller.told(row.reasons), "facts": row.facts and _shown(row.facts, caller)}
    return Decision.model_validate(msgspec.structs.asdict(row) | told)


def _shown(facts: str, caller: Caller) -> Any:
    """Return the decision record without an opt-in to another sender, unless this caller may see every sender."""
    kept = msgspec.json.decode(facts)
    if caller.senders is not None:
        kept.get("person", {}).pop("elsewhere", None)
        if "reasons" in (told := kept.get("told", {})):
            told["reasons"] = caller.told(told["reasons"])
    return kept


async def _found(tx: AsyncConnection, identity: UUID) -> MessageRow:
    row = await messages.found(tx, identity)
    if row is None:
        raise NotFound("no such message", reasons=[Reason("message_id", "unknown_message")])
    return row


class Enforcement(BaseModel):
    subject_id: str
    consent_version: int
    source: str
    reference: str | None = Field(description="For an MO: provider/account/provider message id.")
    received_at: datetime
    applied_at: datetime
    enforced_at: datetime | None


@router.get("/enforcements")
async def list_enforcements(
    held: Held,
    caller: Annotated[Caller, Depends(require("message:read"))],
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Enforcement]:
    """List opt-outs applied here, oldest first, with the instant since which no forbidden hand-off begins.

    An opt-out concerns a person, not one sender: the list needs a token for every sender.
    """
    caller.may_use_all()
    async with held.database.begin() as tx:
        rows = await _page(tx, "enforcement", cursor, limit)
    items = [Enforcement.model_validate(dict(row._mapping)) for row in rows]
    return Page[Enforcement](items=items, next=next_of(rows, limit, attrgetter("id")))


async def _page(
    tx: AsyncConnection, table: Literal["enforcement", "provider_block"], cursor: str | None, limit: int
) -> Any:
    after = position(cursor, int) or 0

    async def read() -> Sequence[Any]:
        statement = text(f"SELECT * FROM {table} WHERE id > :after ORDER BY id LIMIT :limit")
        return (await tx.execute(statement, {"after": after, "limit": limit})).all()

    return await whole_page(tx, table, limit, read, attrgetter("id"))


class ProviderBlock(BaseModel):
    gateway: str
    subject_id: str
    code: str | None = Field(description="The provider's code, which may mean a wrong number or an opt-out.")
    since: datetime


@router.get("/provider-blocks")
async def list_provider_blocks(
    held: Held,
    caller: Annotated[Caller, Depends(require("message:read"))],
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[ProviderBlock]:
    """List people to whom a provider does not deliver and gives no reason, oldest first.

    Each block needs review: the cause may be the person's wish. A blocked person gets no marketing by any gateway,
    and nothing by the blocking gateway.
    """
    caller.may_use_all()
    async with held.database.begin() as tx:
        rows = await _page(tx, "provider_block", cursor, limit)
    items = [ProviderBlock.model_validate(dict(row._mapping)) for row in rows]
    return Page[ProviderBlock](items=items, next=next_of(rows, limit, attrgetter("id")))


@router.delete("/provider-blocks/{gateway}/{subject_id}", status_code=204)
async def remove_provider_block(
    gateway: str, subject_id: str, held: Held, caller: Annotated[Caller, Depends(require("message:write"))]
) -> None:
    """Remove a block, so that the gateway may deliver to this person again.

    Marketing resumes, by any gateway, once the person has no other block. Messages denied meanwhile stay denied.
    """
    caller.may_use_all()
    async with held.database.begin() as tx:
        removed = await sending.unblock(tx, gateway, subject_id)
    if removed is None:
        raise NotFound("no such block", reasons=[Reason("subject_id", "not_blocked")])
    log.info("a provider block is removed", extra={"gateway": gateway, "subject_id": removed, "by": caller.subject})
