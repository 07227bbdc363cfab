"""Where operators deliver MOs and receipts. The signature is the authentication: no token here.

Verified over the raw body, journalled and put in the outbox in one transaction, answered once Kafka has acknowledged
the events. Anything less is an error that makes the operator try again; what was journalled meanwhile is published by
the relay, once, and the retry finds it done. A 2xx before that would let a STOP be acknowledged and not yet count
(DESIGN 6).
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Request, Response
from starlette.requests import ClientDisconnect

from common import outbox
from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS, Event, Topic
from common.contracts.inbound import MessageReceived, ReceiptReceived
from common.message_id import EPOCH, message_id
from common.msisdn import as_received
from common.problems import (
    Invalid,
    Malformed,
    NotFound,
    Problem,
    Reason,
    TooLarge,
    Unauthorised,
    Unavailable,
)
from common.service import Resources, resources
from common.telemetry import counter, histogram
from inbound import store
from inbound.keywords import classify
from inbound.providers import (
    PROVIDERS,
    Account,
    Callback,
    Kind,
    Message,
    NotGenuine,
    Receipt,
    Unreadable,
    WrongField,
)
from inbound.store import Identity, Item, Origin

log = logging.getLogger(__name__)

EVENT_TEXT_CHARS = 4_096  # an SMS has 1,530 at most; a record must fit Kafka. The journal keeps the whole body
RETRY_AFTER_S = 5
TOPICS: Mapping[Kind, Topic] = {"messages": INBOUND_MESSAGES, "receipts": INBOUND_RECEIPTS}

CALLBACKS = counter(
    "sms_inbound_callbacks_total",
    "Callbacks by what they were answered: accepted, duplicate, or the slug of the problem.",
    ["provider", "kind", "result"],
)
INTENTS = counter("sms_inbound_intents_total", "MOs journalled, by what their text means.", ["intent"])
ACKNOWLEDGED = histogram(
    "sms_inbound_acknowledge_seconds",
    "From the request to its 2xx: journalled and acknowledged by Kafka.",
    ["kind"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Kept, and in the log. The body is what the provider expects; some want 204."},
    400: {"description": "The body cannot be read"},
    401: {"description": "The signature is missing, wrong, or too old; nothing is kept"},
    404: {"description": "No such provider account"},
    413: {"description": "More than the provider ever sends: 1 MiB as JSON, 64 KiB as a form"},
    422: {"description": "A field is missing or of the wrong form; it is named"},
    503: {"description": "Not safely kept yet: send it again after Retry-After seconds"},
}

Held = Annotated[Resources[Any], Depends(resources)]
Entry = tuple[Item, Event]


def router(accounts: Sequence[Account], publish_timeout_s: float) -> APIRouter:
    """The callback routes of these provider accounts."""
    routes = APIRouter(prefix="/v1/callbacks/{provider}/{account}", tags=["callbacks"])
    known = {(account.provider, account.account): account for account in accounts}

    async def receive(request: Request, held: Resources[Any], name: tuple[str, str], kind: Kind) -> Response:
        account = known.get(name)
        try:
            if account is None:
                raise NotFound("no such provider account")
            return await _receive(request, held, account, kind, publish_timeout_s)
        except Problem as problem:
            CALLBACKS.labels(account.provider if account else "unknown", kind, problem.slug).inc()
            raise

    @routes.post("/messages", response_class=Response, responses=ANSWERS, summary="MOs: what people text back")
    async def messages(provider: str, account: str, request: Request, held: Held) -> Response:
        return await receive(request, held, (provider, account), "messages")

    @routes.post("/receipts", response_class=Response, responses=ANSWERS, summary="Delivery receipts")
    async def receipts(provider: str, account: str, request: Request, held: Held) -> Response:
        return await receive(request, held, (provider, account), "receipts")

    return routes


async def _receive(
    request: Request, held: Resources[Any], account: Account, kind: Kind, publish_timeout_s: float
) -> Response:
    loop = asyncio.get_running_loop()
    started, received_at = loop.time(), datetime.now(UTC)
    provider = PROVIDERS[account.provider]
    origin = Origin(account.provider, account.account, kind)
    callback = Callback(_target(request), _headers(request), await _body(request, provider.max_body_bytes))
    try:
        provider.verify(callback, account, received_at)
        entries: list[Entry]
        if kind == "messages":
            parsed = provider.parse_messages(callback.body)
            entries = [_message(held, origin, message, received_at) for message in parsed]
        else:
            entries = [_receipt(origin, receipt, received_at) for receipt in provider.parse_receipts(callback.body)]
    except NotGenuine as refused:
        raise Unauthorised("the signature is not valid", reasons=[Reason(None, refused.reason)]) from refused
    except Unreadable as unreadable:
        raise Malformed(str(unreadable), reasons=[Reason("body", "unreadable")]) from unreadable
    except WrongField as wrong:
        raise Invalid(f"not valid: {wrong.field}", reasons=[Reason(wrong.field, wrong.reason)]) from wrong

    new = await _published(held, origin, callback.body, entries, received_at, started + publish_timeout_s)
    CALLBACKS.labels(account.provider, kind, "accepted" if new else "duplicate").inc()
    ACKNOWLEDGED.labels(kind).observe(loop.time() - started)
    answer = provider.answer(kind)
    return Response(answer.body, answer.status, media_type=answer.media_type)


async def _published(
    held: Resources[Any], origin: Origin, body: bytes, entries: Sequence[Entry], received_at: datetime, deadline: float
) -> bool:
    """Journalled and acknowledged by Kafka: True if anything was new. Raises Unavailable when not so by `deadline`."""
    loop = asyncio.get_running_loop()
    done = new = False
    try:
        async with asyncio.timeout_at(deadline):
            new, outbox_ids = await _journal(held, origin, body, entries, received_at)
            done = await held.relayed.wait(outbox_ids, max(0.0, deadline - loop.time()))
    except TimeoutError:
        pass
    except Exception as error:  # whatever it is, the operator must come again: there may be a STOP in it
        log.error("a callback was not kept", exc_info=error, extra=_named(origin, entries[0][0]))
    if not done:
        raise Unavailable("not kept safely yet: send it again", headers={"Retry-After": str(RETRY_AFTER_S)})
    return new


async def _journal(
    held: Resources[Any], origin: Origin, body: bytes, entries: Sequence[Entry], received_at: datetime
) -> tuple[bool, list[int]]:
    """The transaction. (whether anything was new, outbox ids of all events these entries stand for)."""
    callback_id = uuid4()
    async with held.database.begin() as tx:
        new = await store.add_items(tx, origin, callback_id, [item for item, _ in entries])
        fresh: dict[Identity, Entry] = {}
        for item, event in entries:  # in the provider's order; once, should the body repeat itself
            if item.identity in new:
                fresh.setdefault(item.identity, (item, event))
        outbox_ids: list[int] = []
        if fresh:
            outbox_ids += await outbox.append(tx, TOPICS[origin.kind], [event for _, event in fresh.values()])
            raw = body.decode("latin-1")  # a character a byte: what is unsealed is what was sent
            sealed = held.field_keys.seal(raw, f"callback:{callback_id}")
            await store.add_callback(tx, origin, callback_id, received_at, sealed, outbox_ids)
        if known := {item.identity for item, _ in entries} - new:
            outbox_ids += await store.outbox_ids_of(tx, origin, known)
    for item, _ in fresh.values():
        if item.intent:
            INTENTS.labels(item.intent).inc()
            log.info("an MO is journalled", extra={"subject_id": item.subject_id, **_named(origin, item)})
    return bool(fresh), outbox_ids


def _named(origin: Origin, item: Item) -> dict[str, str]:
    """How a log line names an item: nothing personal."""
    return {
        "provider": origin.provider,
        "account": origin.account,
        "provider_message_id": item.provider_message_id,
    }


def _message(held: Resources[Any], origin: Origin, message: Message, received_at: datetime) -> Entry:
    """An MO understood. Its number is never refused: a STOP counts whoever sends it."""
    number = as_received(message.sender)
    subject_id = held.subject_keys.subject_id(number)
    mo_id = str(message_id(EPOCH, "mo", origin.provider, origin.account, message.provider_message_id))
    understood = classify(message.text)
    event = MessageReceived(
        mo_id=mo_id,
        subject_id=subject_id,
        provider=origin.provider,
        account=origin.account,
        provider_message_id=message.provider_message_id,
        number=held.field_keys.seal(number, f"number:{subject_id}"),
        short_code=message.short_code,
        text=held.field_keys.seal(message.text[:EVENT_TEXT_CHARS], f"text:{mo_id}"),
        intent=understood.intent,
        rule=understood.rule,
        score=understood.score,
        occurred_at=_not_after(message.sent_at, received_at),
        received_at=received_at,
    )
    item = Item(
        message.provider_message_id,
        subject_id=subject_id,
        intent=understood.intent,
        rule=understood.rule,
        score=understood.score,
    )
    return item, event


def _receipt(origin: Origin, receipt: Receipt, received_at: datetime) -> Entry:
    event = ReceiptReceived(
        provider=origin.provider,
        account=origin.account,
        provider_message_id=receipt.provider_message_id,
        reference=receipt.reference,
        state=receipt.state,
        code=receipt.code,
        occurred_at=_not_after(receipt.at, received_at),
        received_at=received_at,
    )
    return Item(receipt.provider_message_id, state=receipt.state), event


def _not_after(provider_time: datetime | None, received_at: datetime) -> datetime:
    """The provider's time, but never in our future: it would outrank what the person does next."""
    return received_at if provider_time is None else min(provider_time, received_at)


async def _body(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise TooLarge(
                    f"at most {max_bytes} bytes",
                    reasons=[Reason("body", "too_large")],
                    headers={"Connection": "close"},
                )
    except ClientDisconnect as gone:
        raise Malformed("the body ended early", reasons=[Reason("body", "unreadable")]) from gone
    return bytes(body)


def _target(request: Request) -> str:
    """Path and query with their escapes as they were sent: what the signature was made over."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


def _headers(request: Request) -> dict[str, str]:
    """Lower-case names; a repeated header is one, joined by commas."""
    return {name: ", ".join(request.headers.getlist(name)) for name in request.headers}
