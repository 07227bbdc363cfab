"""The callbacks of operators: MOs and DLRs. The signature authenticates a callback, or a secret path, a password or an
address list.

A callback is verified over the raw body, then journalled and put in the outbox in one transaction, shared with
callbacks of the same moment (`common.batch`). The 2xx follows once Kafka has acknowledged the events. Any other answer
makes the operator retry; the relay publishes journalled events once. With an earlier 2xx, a STOP would be acknowledged
without counting yet (ADR-0004).
"""

import asyncio
import hashlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args

from fastapi import APIRouter, Request, Response
from msgspec import structs
from starlette.routing import Route

from common.batch import AT_ONCE, Together
from common.service import Resources
from common.telemetry import counter, histogram
from common.web.openapi import refuses
from common.web.problems import (
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotFound,
    Problem,
    Reason,
    TooLarge,
    Unauthorised,
    Unavailable,
)
from inbound import journal, shortcut
from inbound.journal import Arrival, Entry, Kept
from inbound.keywords import Public
from inbound.providers import (
    PROVIDERS,
    Account,
    Callback,
    Kind,
    Message,
    NotGenuine,
    Undocumented,
    Unreadable,
    WrongField,
    capabilities,
    look_at_head,
    signed,
)
from inbound.store import Origin

log = logging.getLogger(__name__)

T = TypeVar("T")

PREFIX = "/v1/callbacks/{provider}/{account}"
METHODS = ("POST", "GET")
RETRY_AFTER_S = 5
CHALLENGE = 'Basic realm="callbacks"'  # Twilio's first call has no password, its second needs the realm
PATIENCE_S = 0.03  # of DLRs with those before them: some journal transactions
RETURNING_S = 0.002  # an operator with an answer sends the next DLR within
OURS = 0.8  # of the time a provider waits; the rest is for the network

CALLBACKS = counter(
    "sms_inbound_callbacks_total",
    "Callbacks, by answer: accepted, duplicate, ignored (no MO and no DLR), or the problem's slug.",
    ["provider", "kind", "result"],
)
ACKNOWLEDGED = histogram(
    "sms_inbound_acknowledge_seconds",
    "Time from a callback's request to its 2xx: journalled, and acknowledged by Kafka.",
    ["kind"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

SAID = {
    200: "Kept, and in the log. The body is what the provider expects.",
    204: "Kept, and in the log, for a provider that expects no body.",
    400: "The body cannot be read",
    401: "The signature, secret or address is missing, wrong, or too old; nothing is kept",
    404: "No such provider account, or a callback that the provider does not document",
    405: "This provider does not call by GET",
    413: "More than the provider ever sends: 1 MiB as JSON, 64 KiB as a form",
    422: "A field is missing or of the wrong form; it is named",
    503: "Not safely kept yet: send it again after Retry-After seconds",
}

ANSWERS = {
    status: {**answer, "description": SAID[int(status)]}
    for status, answer in {
        200: {},
        204: {},
        **refuses(Malformed, Unauthorised, NotFound, MethodNotAllowed, TooLarge, Invalid, Unavailable),
    }.items()
}


class OnTheirWay:
    """The callbacks whose events are on their way to Kafka.

    Most operators send a DLR a callback, over few connections, and send no other before an answer. A transaction for
    each few DLRs would cost more than the DLRs. So the next transaction waits until the callbacks of the one before are
    answered, and takes all that the operator has sent by then. No MO waits so.
    """

    def __init__(self) -> None:
        self._many = 0
        self._none = asyncio.Event()

    def __enter__(self) -> None:
        self._many += 1

    def __exit__(self, *_: object) -> None:
        self._many -= 1
        if not self._many:
            self._none.set()

    async def answered(self) -> None:
        """Return once the callbacks are answered, after PATIENCE_S at most, and their operators had time to go on."""
        if self._many:
            self._none.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await self._none.wait()
        await asyncio.sleep(RETURNING_S)


@dataclass(frozen=True, slots=True)
class Writers:
    """The batch writers of a shard. `nonces`: of callbacks whose items are not all beside their nonce."""

    by_kind: Mapping[Kind, tuple[Together[Arrival, Kept], AbstractContextManager[None]]]
    nonces: Together[Arrival, bool]


def _writers() -> Writers:
    dlrs, at_once = OnTheirWay(), AT_ONCE // 2
    return Writers(
        # apart, as a DLR among the MOs bars their shortcut, and the lock of a DLR holds up no STOP
        {
            "messages": (Together(journal.write, shortcut.write, at_once=at_once), nullcontext()),
            "receipts": (Together(journal.write, shortcut.write_receipts, at_once=at_once, rest=dlrs.answered), dlrs),
        },
        Together(journal.are_replayed),
    )


def callbacks(accounts: Sequence[Account], publish_timeout_s: float) -> tuple[list[Route], APIRouter]:
    """Return the callback routes, and a router which describes them in OpenAPI.

    Starlette serves a route in a tenth of the time FastAPI takes.
    """
    known = {(account.provider, account.account): account for account in accounts}
    answers = {
        (account.provider, kind): _answer(account.provider, kind) for account in accounts for kind in get_args(Kind)
    }
    writers: dict[str, Writers] = defaultdict(_writers)  # by shard

    def endpoint(kind: Kind) -> Callable[[Request], Awaitable[Response]]:
        async def called(request: Request) -> Response:
            asked = request.path_params
            account = known.get((asked["provider"], asked["account"]))
            try:
                if account is None:
                    raise NotFound("no such provider account")
                held: Resources[Any] = request.scope["state"]["resources"]
                came = await _receive(request, held, account, kind, asked.get("secret"), writers, publish_timeout_s)
                return answers[account.provider, came]
            except Problem as problem:
                CALLBACKS.labels(account.provider if account else "unknown", kind, problem.slug).inc()
                raise

        return called

    kinds: tuple[tuple[Kind, str], ...] = (
        ("messages", "MOs: what people text back"),
        ("receipts", "Delivery receipts"),
    )
    quick, described = [], APIRouter(prefix=PREFIX, tags=["callbacks"])
    for fence, of_whom in (("", ""), ("/{secret}", ", of a provider that signs nothing")):
        for kind, summary in kinds:
            path, called = f"{fence}/{kind}", endpoint(kind)
            route = Route(PREFIX + path, called, methods=METHODS)
            route.methods = set(METHODS)  # without HEAD
            quick.append(route)
            for method in METHODS:
                described.add_api_route(
                    path,
                    called,
                    methods=[method],
                    response_class=Response,
                    responses=ANSWERS,
                    summary=summary + of_whom,
                    description=f"{summary}{of_whom}. The provider's own format; its signature, or a secret or an"
                    " address, authenticates the call.",
                    operation_id="_".join([f"callbacks.{kind}", *(["with_secret"] if fence else []), method.lower()]),
                    openapi_extra={"parameters": [_in_path(name) for name in route.param_convertors]},
                )
    return quick, described


def _in_path(name: str) -> dict[str, object]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "title": name.title()}}


async def _receive(
    request: Request,
    held: Resources[Any],
    account: Account,
    addressed: Kind,
    secret: str | None,
    writers: Mapping[str, Writers],
    publish_timeout_s: float,
) -> Kind:
    """Keep a callback; return the kind of its items, whose answer is due."""
    loop = asyncio.get_running_loop()
    started, received_at = loop.time(), datetime.now(UTC)
    provider = PROVIDERS[account.provider]
    method: str = request.scope["method"]
    if method == "GET" and not provider.takes_get:
        raise MethodNotAllowed("this provider does not call by GET", headers={"Allow": "POST"})
    target, headers, client = _target(request), _headers(request), request.scope.get("client")
    address = client[0] if client else ""
    try:
        look_at_head(Callback(target, headers, b"", method, address, secret), account)
        body = await _body(request, provider.max_body_bytes)
        callback = Callback(target, headers, body, method, address, secret)
        once = signed(callback, account, received_at)
        kind = provider.kind_of(callback, addressed)
        origin = Origin(account.provider, account.account, kind)
        entries: list[Entry]
        wrong: WrongField | None = None
        if kind == "messages":
            messages, wrong = _read(provider.parse_messages, callback)
            does = capabilities(account)
            entries = [
                journal.message_entry(
                    held,
                    origin,
                    _named_message(held, account, callback, m),
                    received_at,
                    answered=does.answers_stop,
                    retries_for=does.retries_for,
                    public=Public(account.language, account.country),
                )
                for m in messages
            ]
        else:
            receipts, wrong = _read(provider.parse_receipts, callback)
            entries = journal.receipt_entries(held, origin, receipts, received_at)
        deadline = started + min(publish_timeout_s, OURS * provider.answer_within_s)
        arrival = Arrival(origin, entries, _content(callback), received_at, once)
        new = bool(entries) and await _published(held, writers, arrival, deadline, is_whole=wrong is None)
        if wrong:
            raise wrong  # raised after the readable items are kept
    except NotGenuine as refused:
        challenge = {"WWW-Authenticate": CHALLENGE} if account.basic else {}
        raise Unauthorised(
            "the callback is not genuine", reasons=[Reason(None, refused.reason)], headers=challenge
        ) from refused
    except Undocumented as gap:
        raise NotFound(str(gap), reasons=[Reason(None, "undocumented")]) from gap
    except Unreadable as unreadable:
        raise Malformed(str(unreadable), reasons=[Reason("body", "unreadable")]) from unreadable
    except WrongField as wrong:
        raise Invalid(f"not valid: {wrong.field}", reasons=[Reason(wrong.field, wrong.reason)]) from wrong

    CALLBACKS.labels(account.provider, kind, "accepted" if new else "duplicate" if entries else "ignored").inc()
    ACKNOWLEDGED.labels(kind).observe(loop.time() - started)
    return kind


def _answer(provider: str, kind: Kind) -> Response:
    """Return the response that the provider expects, for all requests."""
    answer = PROVIDERS[provider].answer(kind)
    return Response(answer.body, answer.status, media_type=answer.media_type)


def _read(parse: Callable[[Callback], Sequence[T]], callback: Callback) -> tuple[Sequence[T], WrongField | None]:
    """Return the readable items, and the error of the others."""
    try:
        return parse(callback), None
    except WrongField as wrong:
        return wrong.readable, wrong


async def _published(
    held: Resources[Any], writers: Mapping[str, Writers], arrival: Arrival, deadline: float, *, is_whole: bool
) -> bool:
    """Journal the arrival, each item in its shard, and wait for Kafka's acknowledgement of all; return whether any
    entry was new.

    Raises NotGenuine for a replayed nonce, Unavailable at `deadline`, and where a shard does not answer: the operator
    repeats the callback, and the other shards recognise their items.
    """
    if not held.shards.divided:
        new = await _published_in(held, writers[held.shards.own.name], arrival, deadline)
        if new is None:
            raise _not_yet()
        return new
    parts = journal.parted(held, arrival, is_whole=is_whole)
    if arrival.once is not None:
        home = held.shard_of(arrival.once.nonce)
        if [shard for shard, _ in parts] == [home]:
            parts = [(home, structs.replace(parts[0][1], once=arrival.once))]
        else:
            await _use_nonce(held.of_shard(home), writers[home.name], arrival, deadline)
    if len(parts) == 1:
        [(shard, part)] = parts
        done = [await _published_in(held.of_shard(shard), writers[shard.name], part, deadline)]
    else:
        done = await asyncio.gather(
            *(_published_in(held.of_shard(shard), writers[shard.name], part, deadline) for shard, part in parts)
        )
    if None in done:
        raise _not_yet()
    return any(done)


def _not_yet() -> Unavailable:
    return Unavailable("not kept safely yet: send it again", headers={"Retry-After": str(RETRY_AFTER_S)})


async def _use_nonce(held: Resources[Any], writers: Writers, arrival: Arrival, deadline: float) -> None:
    """Store the nonce of a callback whose items are in other shards. Raises NotGenuine, Unavailable."""
    try:
        within_s = max(0.0, deadline - asyncio.get_running_loop().time())
        replayed = await writers.nonces.written(held, arrival, within_s)
    except Exception as error:
        log.error("a nonce was not stored", extra={"account": arrival.origin.account, "why": type(error).__name__})
        raise _not_yet() from error
    if replayed:
        raise NotGenuine("nonce_used_before")


async def _published_in(held: Resources[Any], writers: Writers, arrival: Arrival, deadline: float) -> bool | None:
    """Journal an arrival of one shard, and wait for Kafka's acknowledgement; return whether any entry was new.

    Return None where Kafka has not all of it by `deadline`. Raises NotGenuine for a replayed nonce.
    """
    loop = asyncio.get_running_loop()
    together, on_their_way = writers.by_kind[arrival.origin.kind]
    done = new = False
    try:
        kept = await together.written(held, arrival, max(0.0, deadline - loop.time()))
        if kept.replayed:
            raise NotGenuine("nonce_used_before")
        journal.tell(kept)
        new = bool(kept.fresh)
        with on_their_way:
            done = await held.relayed.wait(kept.stands_for, max(0.0, deadline - loop.time()), kept.event_ids)
    except NotGenuine:
        raise
    except TimeoutError:
        pass
    except Exception as error:  # the operator must retry: the callback may hold a STOP
        named = journal.named(arrival.origin, arrival.entries[0].item)
        log.error("a callback was not stored", exc_info=error, extra=named)
    return new if done else None


def _content(callback: Callback) -> bytes:
    """Return a callback's content: the body, or the query of a GET."""
    return callback.target.partition("?")[2].encode("latin-1") if callback.method == "GET" else callback.body


def _named_message(held: Resources[Any], account: Account, callback: Callback, message: Message) -> Message:
    """Return the MO with an id of ours if without any, and with the account's short code.

    The id is keyed: its ingredients could be guessed. Without the time as written, a second STOP would pass for a
    duplicate of the first.
    """
    short_code = message.short_code or account.short_code
    if message.provider_message_id is not None:
        return message if short_code == message.short_code else structs.replace(message, short_code=short_code)
    said = f"{hashlib.sha256(_content(callback)).hexdigest()} {message.sender} {message.sent_at} {message.written_at}"
    keyed = held.subject_keys.of_text(said).rpartition("-")[2]
    return structs.replace(message, provider_message_id=f"derived-{keyed}", short_code=short_code)


async def _body(request: Request, max_bytes: int) -> bytes:
    pieces, arrived, more = list[bytes](), 0, True  # a buffer that grows, beside others, leaves holes everywhere
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Malformed("the body ended early", reasons=[Reason("body", "unreadable")])
        pieces.append(message.get("body", b""))
        arrived += len(pieces[-1])
        if arrived > max_bytes:
            raise TooLarge(
                f"at most {max_bytes:,} bytes",
                reasons=[Reason("body", "too_large")],
                headers={"Connection": "close"},
            )
        more = message.get("more_body", False)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _target(request: Request) -> str:
    """Return path and query as sent: the signature covers the escapes."""
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


def _headers(request: Request) -> dict[str, str]:
    """Return the headers by their names, in lower case as the server gives them; repeated ones joined by commas."""
    sent = request.scope["headers"]
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent}
    if len(headers) == len(sent):
        return headers
    headers.clear()
    for raw_name, raw in sent:
        name, value = raw_name.decode("latin-1"), raw.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
