"""The HTTP API: messages with their decisions, messages before a text in review, enforced opt-outs, provider blocks."""

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db import everywhere
from common.keyring import FieldKeys, Unreadable
from common.privacy import sent_before
from common.privacy.copying import opened
from common.service import Resources, resources
from common.sms.msisdn import NumberRefused, parse
from common.sms.prices import euros
from common.web.auth import Caller, require
from common.web.fields import NumberCountry, Storable
from common.web.openapi import refuses
from common.web.pagination import LIMIT, SORTED, Cursor, Limit, Page, Sort, cursor_of, next_of, position, whole_page
from common.web.problems import Invalid, NotFound, Reason
from common.web.span import Since, Until, span
from dispatch.messages import lists
from dispatch.messages import store as messages
from dispatch.messages.disclosure import disclosed
from dispatch.messages.lists import Listed, Place, Sent
from dispatch.messages.row import MessageRow
from dispatch.messages.status import Status
from dispatch.sending import store as sending

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["dispatch"])

Held = Annotated[Resources[Any], Depends(resources)]

SHOWN_BEFORE = 3  # messages before a text
DIGIT = re.compile(r"\d")


class Decision(BaseModel):
    """A message with its full decision. `subject_id`: the person's id with the sender's controller; no answer has the
    number. `consent_version`: for the platform's operator; null for others, since it is the same for every controller.
    """

    message_id: UUID
    campaign_id: str | None = Field(description="The campaign that requested the message; null outside campaigns.")
    sender_id: str
    subject_id: str
    category: str
    purpose: str | None = Field(
        description="The purpose of the consent behind the decision; null outside marketing, except for a question"
        " to the person."
    )
    template: str | None = Field(
        description="`<template_id>@<number>`, or `free_text`; null unless requested over HTTP."
    )
    status: str = Field(description="pending, denied, deferred, sending, accepted, rejected, unknown or expired.")
    reasons: list[str] = Field(
        description="Every reason of a denial, a delay or an expiry, stable for programs; empty for a permit."
    )
    due_at: datetime | None = Field(description="The time of a deferred message's next decision.")
    requested_at: datetime
    send_before: datetime
    decided_at: datetime | None = Field(description="The time of the newest decision; null before the first.")
    policy_version: str = Field(description="The edition of the law that the decision stood on, such as `france-3`.")
    consent_version: int | None = Field(
        description="The version of the person's consent at the decision; null for callers other than the"
        " platform's operator."
    )
    as_of: datetime | None = Field(description="The watermark of the decision.")
    facts: Any = Field(description="The decision record, for `python -m dispatch replay`; or null.")
    gateway: str | None = Field(
        description="The gateway of the hand-off, by its name in the settings; null before a permit."
    )
    gateway_message_id: str | None = Field(
        description="The operator's id of the message, for its support; null before an answer."
    )
    receipt: str | None
    code: str | None = Field(description="The operator's own code of a rejection or of the DLR; null without a code.")
    segments: int | None = Field(description="The SMS of the text as sent; null before a permit.")
    cost: Decimal | None = Field(
        description="In euros, at the price in force at the decision to send; charged if the status is accepted or"
        " unknown. Null if the table names no price."
    )
    prices: str | None = Field(description="The version of the price table behind `cost`.")
    version: int = Field(description="The version of this answer: each change of the message has a higher one.")


@router.get("/messages/{identity}", operation_id="messages.get")
async def get_message(
    identity: Annotated[UUID, Path(description="The id of the message.")],
    held: Held,
    caller: Annotated[Caller, Depends(require("message:read"))],
) -> Decision:
    """Return the verdict of a message, all its reasons, and the decision record.

    Only the platform's operator sees each reason that other senders' data may explain: `other_controller`, `erased`,
    `consent_unreadable`, `provider_block`. A sender sees such a reason where no other reason denies the message.
    """
    found = [row for row in await everywhere.of_each(held.shards, lambda tx: messages.found(tx, identity)) if row]
    async with held.database.begin() as tx:
        row = await caller.theirs(tx, found[0] if found else None, _no_message())
        ids = held.edge_ids.of(await caller.controller_of(row.sender_id, tx))
    facts, reasons = (row.facts, list(row.reasons)) if caller.everywhere else disclosed(row.facts, row.reasons)
    told = {
        "subject_id": ids.shown(row.subject_id),
        "consent_version": row.consent_version if caller.everywhere else None,
        "reasons": reasons,
        "facts": facts and msgspec.json.decode(facts),
        "cost": None if row.cost is None else euros(row.cost),
    }
    return Decision.model_validate(msgspec.structs.asdict(row) | told)


def _no_message() -> NotFound:
    return NotFound("no such message", reasons=[Reason("message_id", "unknown_message")])


class ListedMessage(BaseModel):
    """A message in a list. `subject_id`: the person's id with the sender's controller; no answer has the number.

    `GET /v1/messages/{identity}` has the full decision.
    """

    message_id: UUID
    campaign_id: str | None = Field(description="The campaign that requested the message; null outside campaigns.")
    sender_id: str
    subject_id: str
    category: str
    purpose: str | None = Field(
        description="The purpose of the consent behind the decision; null outside marketing, except for a question"
        " to the person."
    )
    template: str | None = Field(description="As of the full decision.")
    status: Status
    reasons: list[str] = Field(
        description="Every reason of a denial, a delay or an expiry, stable for programs; empty for a permit."
    )
    requested_at: datetime
    decided_at: datetime | None = Field(description="The time of the newest decision; null before the first.")
    handed_off_at: datetime | None = Field(description="The start of the hand-off; a crash may lose the start.")
    receipt: str | None
    receipt_at: datetime | None = Field(description="The DLR's time at source.")
    code: str | None = Field(description="The operator's code of a rejection or of the DLR.")
    segments: int | None = Field(description="The SMS of the text as sent; null before a permit.")
    cost: Decimal | None = Field(description="In euros; charged if the status is accepted or unknown.")


class Search(BaseModel):
    """The messages to a number. `sender_id`: of this sender alone."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"number": "06 39 98 12 34"}]})

    number: str = Field(min_length=1, max_length=64, description="A mobile number in any usual notation.")
    country: NumberCountry = None
    sender_id: Storable | None = Field(
        None,
        max_length=200,
        description="Only messages of this sender. Default: of every sender that the token covers.",
    )
    cursor: str | None = Field(None, max_length=1000, description="`next` of the page before.")
    limit: int = Field(LIMIT, ge=1, le=1000, description="Items of a page at most.")


@router.get("/messages", operation_id="messages.list")
async def list_messages(
    sender_id: Annotated[Storable, Query(min_length=1, max_length=200)],
    held: Held,
    caller: Annotated[Caller, Depends(require("message:read"))],
    campaign_id: Annotated[Storable | None, Query(max_length=64)] = None,
    status: Annotated[Status | None, Query(description="Only messages of this status.")] = None,
    since: Since = None,
    until: Until = None,
    sort: Sort = "newest",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[ListedMessage]:
    """List the messages of a sender requested in a time: of campaigns, and of `POST /v1/messages`.

    The order is that of the requests. `campaign_id` and `status` narrow the list: a rare status in a long time takes a
    while.
    """
    begin, end = span(since, until, datetime.now(UTC))
    after = position(cursor, Place)
    await caller.may_use(sender_id)
    listed = Listed(sender_id, begin, end, campaign_id, status)
    of_each = await everywhere.of_each(held.shards, lambda tx: lists.of_sender(tx, listed, after, limit, SORTED[sort]))
    found = list(islice(merge(*of_each, key=lists.place_of, reverse=sort == "newest"), limit))
    async with held.database.begin() as tx:
        items = await _listed(tx, held, caller, found)
    return Page[ListedMessage](items=items, next=next_of(found, limit, lists.place_of))


@router.post("/messages/search", operation_id="messages.search", responses=refuses(NotFound))
async def search_messages(
    body: Search, held: Held, caller: Annotated[Caller, Depends(require("message:read", looks_up=True))]
) -> Page[ListedMessage]:
    """List the messages to one person from the senders your token covers, newest first."""
    covered = await caller.covered(body.sender_id)
    countries = await caller.countries(body.country, covered, held.settings.country)
    try:
        number = parse(body.number, countries=countries, fictional=held.settings.fictional_numbers).e164
    except NumberRefused as refused:
        reason = Reason("number", refused.reason, refused.remedy)
        raise Invalid("`number` is not a mobile number", reasons=[reason]) from refused
    after = position(body.cursor, Place)
    who = held.subject_keys.subject_id(number)
    async with held.database_of(who).begin() as tx:
        found = await lists.of_person(tx, who, covered, after, body.limit)
        items = await _listed(tx, held, caller, found)
    return Page[ListedMessage](items=items, next=next_of(found, body.limit, lists.place_of))


async def _listed(
    tx: AsyncConnection, held: Resources[Any], caller: Caller, found: Sequence[MessageRow]
) -> list[ListedMessage]:
    controllers = await caller.controllers({row.sender_id for row in found}, tx)
    items = []
    for row in found:
        told = {
            "subject_id": held.edge_ids.of(controllers[row.sender_id]).shown(row.subject_id),
            "reasons": list(row.reasons) if caller.everywhere else disclosed(row.facts, row.reasons)[1],
            "cost": None if row.cost is None else euros(row.cost),
        }
        items.append(ListedMessage.model_validate(msgspec.structs.asdict(row) | told))
    return items


class BeforeReviews(BaseModel):
    """The texts in review before which to look, by their tickets."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"sent_before": ["v1.xZ0"]}]})

    sent_before: list[Annotated[str, Field(min_length=1, max_length=1000)]] = Field(
        min_length=1,
        max_length=200,
        examples=[["v1.xZ0"]],
        description="`sent_before` of each item of `GET /v1/reviews`, not older than an hour.",
    )


class SentMessage(BaseModel):
    """A message that a person was sent. `subject_id`: the person's id with the sender's controller."""

    message_id: UUID
    campaign_id: str | None = Field(description="The campaign that requested the message; null outside campaigns.")
    sender_id: str
    subject_id: str
    category: str
    sent_at: datetime = Field(
        description="The start of the hand-off; where a crash lost the start, the time of the decision to send."
    )
    text: str | None = Field(
        description="The text; of a transactional message without digits, since a code may still be valid. Null after"
        " an erasure, and after the retention of texts."
    )


class BeforeReview(BaseModel):
    """The messages before a text in review."""

    mo_id: str
    messages: list[SentMessage] = Field(
        description="The last three that left for the person before the text, the newest first: of the senders of the"
        " code that the person wrote to; of every sender, where no sender has the code."
    )


class BeforeReviewsAnswer(BaseModel):
    """The messages before several texts in review."""

    items: list[BeforeReview] = Field(description="An item for each ticket, in request order.")


@router.post("/messages/before-reviews", operation_id="messages.before_reviews")
async def list_before_reviews(
    body: BeforeReviews,
    held: Held,
    caller: Annotated[Caller, Depends(require("review:read", platform=True))],
) -> BeforeReviewsAnswer:
    """Return what people were sent before texts in review, so that a reviewer understands the reply.

    A ticket of `GET /v1/reviews` names the person and the text: no other person's messages are shown, and none after
    the text.
    """
    texts = [_ticket(held.field_keys, each, place) for place, each in enumerate(body.sent_before)]
    found = chain.from_iterable(await everywhere.of_each(held.shards, lambda tx: lists.before(tx, texts, SHOWN_BEFORE)))
    log.info("messages before reviews were shown", extra={"by": caller.subject, "mo_ids": [t.mo_id for t in texts]})
    of: list[list[SentMessage]] = [[] for _ in texts]
    for sent in found:
        of[sent.place].append(_sent(held, sent))
    items = [BeforeReview(mo_id=each.mo_id, messages=sent) for each, sent in zip(texts, of, strict=True)]
    return BeforeReviewsAnswer(items=items)


def _ticket(keys: FieldKeys, said: str, place: int) -> sent_before.Before:
    try:
        return sent_before.read(keys, said, datetime.now(UTC))
    except Unreadable as error:
        reason = Reason(f"sent_before[{place}]", "no_ticket")
        raise Invalid("list the reviews again: the ticket is not one of the last hour", reasons=[reason]) from error


def _sent(held: Resources[Any], sent: Sent) -> SentMessage:
    row = sent.row
    words = opened(held.field_keys, row.text, f"text:{row.message_id}")
    told = {
        "subject_id": held.edge_ids.of(sent.controller).shown(row.subject_id),
        "sent_at": sent.at,
        "text": DIGIT.sub("•", words) if words and row.category == "transactional" else words,
    }
    return SentMessage.model_validate(msgspec.structs.asdict(row) | told)


class Enforcement(BaseModel):
    """An opt-out applied here. `subject_id`: the platform's own id of the person, for the platform's operator alone."""

    subject_id: str = Field(description="The platform's own id of the person.")
    consent_version: int = Field(description="The version of the person's consent that holds the opt-out.")
    source: str = Field(description="The source of the opt-out in the ledger, such as `mo` for a text of the person.")
    reference: str | None = Field(description="For an MO: provider/account/provider message id.")
    received_at: datetime
    applied_at: datetime = Field(description="The time at which the gate began to deny by the opt-out.")
    enforced_at: datetime | None = Field(
        description="From then on no hand-off begins that the opt-out forbids; null while such a hand-off is on"
        " its way."
    )


@router.get("/enforcements", operation_id="enforcements.list")
async def list_enforcements(
    held: Held,
    caller: Annotated[Caller, Depends(require("message:read", platform=True))],
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Enforcement]:
    """List opt-outs applied here, oldest first, with the instant since which no forbidden hand-off begins.

    An opt-out concerns a person, not one sender: the list needs a token for every sender.
    """
    rows, behind = await _page(held, "enforcement", cursor, limit)
    items = [Enforcement.model_validate(dict(row._mapping)) for row in rows]
    return Page[Enforcement](items=items, next=None if behind is None else cursor_of(behind))


async def _page(
    held: Resources[Any], table: Literal["enforcement", "provider_block"], cursor: str | None, limit: int
) -> tuple[Sequence[Any], int | None]:
    statement = text(f"SELECT * FROM {table} WHERE id > :after ORDER BY id LIMIT :limit")

    async def of_shard(tx: AsyncConnection, after: int, most: int) -> Sequence[Any]:
        async def read() -> Sequence[Any]:
            return (await tx.execute(statement, {"after": after, "limit": most})).all()

        return await whole_page(tx, table, most, read, attrgetter("id"))

    return await everywhere.page(held.shards, position(cursor, int) or 0, limit, of_shard, attrgetter("id"))


class ProviderBlock(BaseModel):
    """A block. `subject_id`: the platform's own id of the person, for the platform's operator alone."""

    gateway: str
    subject_id: str = Field(description="The platform's own id of the person.")
    code: str | None = Field(description="The provider's code, which may mean a wrong number or an opt-out.")
    since: datetime = Field(description="The time of the first DLR that reported the block.")


@router.get("/provider-blocks", operation_id="provider_blocks.list")
async def list_provider_blocks(
    held: Held,
    caller: Annotated[Caller, Depends(require("message:read", platform=True))],
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[ProviderBlock]:
    """List people to whom a provider does not deliver and gives no reason, oldest first.

    Each block needs review: the cause may be the person's wish. A blocked person gets no marketing by any gateway,
    and nothing by the blocking gateway.
    """
    rows, behind = await _page(held, "provider_block", cursor, limit)
    items = [ProviderBlock.model_validate(dict(row._mapping)) for row in rows]
    return Page[ProviderBlock](items=items, next=None if behind is None else cursor_of(behind))


@router.delete("/provider-blocks/{gateway}/{subject_id}", operation_id="provider_blocks.delete", status_code=204)
async def remove_provider_block(
    gateway: str,
    subject_id: Annotated[str, Path(description="The platform's own id of the person, as the list has it.")],
    held: Held,
    caller: Annotated[Caller, Depends(require("message:write", platform=True))],
) -> None:
    """Remove a block, so that the gateway may deliver to this person again.

    Marketing resumes, by any gateway, once the person has no other block. Messages denied meanwhile stay denied.
    """
    async with held.database_of(subject_id).begin() as tx:
        removed = await sending.unblock(tx, gateway, subject_id)
    if removed is None:
        raise NotFound("no such block", reasons=[Reason("subject_id", "not_blocked")])
    log.info("a provider block is removed", extra={"gateway": gateway, "subject_id": removed, "by": caller.subject})
