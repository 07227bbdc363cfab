"""The HTTP API: transactional sends, the full decision of a message, enforced opt-outs, provider blocks.

[name]: a point at which `tests/service/dispatch/test_fail_points.py` kills the process: a send, before its 202
[before-post-commit, after-post-commit].
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

import msgspec
from fastapi import APIRouter, Depends, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.kafka.broker import partition_of
from common.keyring import FieldKeys
from common.law import Policy, country_of, region_of
from common.law.stop_mention import mentions_stop
from common.service import Resources, resources
from common.sms.message_id import EPOCH, message_id
from common.sms.msisdn import NumberRefused, parse
from common.sms.sms_length import GSM7_PART, MAX_SEGMENTS, length
from common.web.auth import Caller, require
from common.web.idempotency import Key, KeyReused
from common.web.pagination import LIMIT, Cursor, Limit, Page, next_of, position, whole_page
from common.web.problems import Invalid, NotFound, Reason
from dispatch.lane import lane_of
from dispatch.messages import store as messages
from dispatch.messages.row import MessageRow
from dispatch.messages.status import Status
from dispatch.projection import store as projection
from dispatch.sending import store as sending

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["dispatch"])

KEPT = timedelta(days=1)  # send_before when the caller names none: a code or a notice is useless later
SENDER_ARRIVES_WITHIN_S = 2.0  # a sender registered a moment ago is still in transit
TEXT_CHARS = MAX_SEGMENTS * GSM7_PART

SLUG = r"^[a-z0-9][a-z0-9_-]{0,63}$"

Held = Annotated[Resources[Any], Depends(resources)]
Sends = Annotated[
    Caller, Depends(require("message:send:transactional", "message:send:service", "message:send:marketing"))
]


class Send(BaseModel):
    """A message to one person, outside any campaign."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "maison-lune",
                    "to": "06 39 98 01 02",
                    "text": "Votre code : 4821",
                    "category": "transactional",
                }
            ]
        },
    )

    sender_id: str = Field(pattern=SLUG)
    to: str = Field(min_length=1, max_length=64, description="A mobile number in any usual notation.")
    text: str = Field(min_length=1, max_length=TEXT_CHARS, pattern=r"\S", description="At most ten SMS.")
    category: Literal["transactional", "marketing"]
    purpose: str | None = Field(None, pattern=SLUG, description="The consent's purpose; required for marketing.")
    send_before: AwareDatetime | None = Field(
        None, description="The message expires at this instant; default: in a day."
    )
    postcode: str | None = Field(
        None, max_length=16, description="The postcode of the person's address, for regional holidays and hours."
    )


class Sent(BaseModel):
    message_id: UUID
    status: str


@router.post("/messages", status_code=202)
async def send(
    body: Send,
    held: Held,
    caller: Sends,
    response: Response,
    key: Key = None,
) -> Sent:
    """Accept a message, for the gate to decide on at once. 202: the ledger has the message.

    Each lane has its own scope."""
    caller.may(f"message:send:{body.category}")
    caller.may_use(body.sender_id)
    now = datetime.now(UTC)
    try:
        msisdn = parse(body.to, fictional=held.settings.fictional_numbers)
    except NumberRefused as refused:
        raise Invalid("`to` is not a mobile number", reasons=[Reason("to", str(refused.reason))]) from refused
    if body.send_before is not None and body.send_before <= now:
        raise Invalid("`send_before` has passed", reasons=[Reason("send_before", "in_the_past")])
    if (counted := length(body.text)).segments > MAX_SEGMENTS:
        raise Invalid(
            f"{counted.segments} SMS ({counted.encoding}), at most {MAX_SEGMENTS}", reasons=[Reason("text", "too_long")]
        )
    subject_id = held.subject_keys.subject_id(msisdn.e164)
    identity = message_id(EPOCH, caller.subject, key) if key is not None else message_id(now, str(uuid4()))
    partition = partition_of(subject_id, held.settings.partitions)
    async with _sender(held, body.sender_id) as (tx, sender):
        if body.category == "marketing":
            _check_marketing(body, sender)
        new = await messages.insert_messages(
            tx,
            [
                MessageRow(
                    message_id=identity,
                    status=Status.PENDING,
                    reasons=(),
                    campaign_id=None,
                    sender_id=body.sender_id,
                    purpose=body.purpose,
                    category=body.category,
                    subject_id=subject_id,
                    partition=partition,
                    number=held.field_keys.seal(msisdn.e164, f"number:{subject_id}"),
                    text=held.field_keys.seal(body.text, f"text:{identity}"),
                    requested_at=now,
                    send_before=body.send_before or now + KEPT,
                    version=1,
                    policy_version="",
                    due_at=now,
                    region=_region(body, msisdn.territory, held.settings.policy),
                )
            ],
        )
        if new:
            await messages.tell_due(tx, partition, lane_of(body.category))
            status = Status.PENDING
        else:
            row = await _found(tx, identity)
            if not _same_request(row, body, subject_id, held.field_keys):
                raise KeyReused
            status = row.status
    response.headers["Location"] = f"/v1/messages/{identity}"
    return Sent(message_id=identity, status=status)


def _region(body: Send, territory: str, policy: Policy) -> str | None:
    """Return the region of the postcode, in the country of the number."""
    country = country_of(territory, policy)
    return region_of(body.postcode, country, policy) if body.postcode and country else None


def _same_request(row: MessageRow, body: Send, subject_id: str, keys: FieldKeys) -> bool:
    return (row.subject_id, row.sender_id, row.category, row.purpose, row.send_before) == (
        subject_id,
        body.sender_id,
        body.category,
        body.purpose,
        body.send_before or row.requested_at + KEPT,
        # a null text was erased since
    ) and (row.text is None or keys.unseal(row.text, f"text:{row.message_id}") == body.text)


def _check_marketing(body: Send, sender: projection.Sender) -> None:
    if body.purpose is None:
        raise Invalid("marketing needs a purpose", reasons=[Reason("purpose", "missing")])
    if body.purpose not in sender.purposes:
        raise Invalid("the sender has no such purpose", reasons=[Reason("purpose", "unknown_purpose")])
    if not mentions_stop(body.text, sender.stop_code):
        raise Invalid(
            f"a marketing text must tell how to stop: « STOP au {sender.stop_code} »",
            reasons=[Reason("text", "stop_mention_missing")],
        )


@asynccontextmanager
async def _sender(held: Resources[Any], sender_id: str) -> AsyncIterator[tuple[AsyncConnection, projection.Sender]]:
    """Open a transaction in which the sender is known.

    Raise NotFound after SENDER_ARRIVES_WITHIN_S.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SENDER_ARRIVES_WITHIN_S
    while True:
        async with held.database.begin() as tx:
            found = (await projection.senders(tx, [sender_id])).get(sender_id)
            if found is not None:
                yield tx, found
                return
        if loop.time() >= deadline:
            raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
        await asyncio.sleep(0.05)


class Decision(BaseModel):
    """A message with its full decision. `subject_id` stands for the person; the number is never shown."""

    message_id: UUID
    campaign_id: str | None
    sender_id: str
    subject_id: str
    category: str
    purpose: str | None
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
