"""Importing contacts: the body is read as it arrives, in a thread, and either all of it counts or nothing does.

Never the whole file in memory, nor a number on disk that is not sealed. Lines wait in a temporary table until the file
has been read to its end; then contacts change in one statement. A broken file, a dropped connection or a crash leaves
no trace of the import.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from campaign import attributes, senders, store
from campaign.contacts_file import EXPLANATIONS, Chunk, FileRefused, LineProblem, Reading, WrongColumns
from campaign.store import ImportedRow
from common.auth import Caller, require
from common.fields import Storable
from common.keyring import FieldKeys, SubjectKeys
from common.problems import Conflict, Invalid, Malformed, NotFound, Reason, TooLarge
from common.service import Resources, resources
from common.telemetry import counter

router = APIRouter(prefix="/v1", tags=["contacts"])

LINES = counter("sms_campaign_import_lines_total", "Lines of imported files, by what became of them.", ["result"])

STALLED_S = 30.0  # between two pieces of a body
AT_ONCE = 3  # imports of one process; each holds a database connection while its body arrives

Held = Annotated[Resources[Any], Depends(resources)]
Writer = Annotated[Caller, Depends(require("contact:write"))]
_slots = asyncio.Semaphore(AT_ONCE)


class KeyReused(Conflict):
    slug, title = "idempotency-key-reused", "This Idempotency-Key came before with another request"


class InProgress(Conflict):
    slug, title = "import-in-progress", "A request with this Idempotency-Key is being worked on"


class Read(BaseModel):
    """How the file was understood: to be looked at where its contacts look wrong."""

    format: Literal["csv", "ndjson"]
    charset: str
    delimiter: str | None = Field(description="Between the cells of CSV.")
    encoded_twice: bool = Field(
        description="Letters in it look like UTF-8 that somebody read as something else and saved again: Ã© for é."
    )


class Import(BaseModel):
    """What became of a file. `lines` = created + updated + duplicates + refused; blank lines and the header are not
    counted."""

    import_id: str
    sender_id: str
    created_at: datetime
    lines: int
    created: int = Field(description="Contacts new to this sender.")
    updated: int = Field(description="Contacts known before.")
    duplicates: int = Field(description="Lines whose number comes again further down; the last one stands.")
    refused: int
    reasons: dict[str, int] = Field(
        description="How many lines were refused, by reason; of an attribute, its name follows after a colon."
    )
    read_as: Read | None = Field(description="Null of imports of before this was kept.")


class Refusal(BaseModel):
    """`line` is where it begins in the file, the first being 1. The number is not repeated."""

    line: int
    reason: str
    detail: str


class Refusals(BaseModel):
    items: list[Refusal]
    next: str | None = Field(description="Pass it as `cursor`; null at the end.")


@router.post(
    "/imports",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "text/csv": {
                    "schema": {"type": "string"},
                    "example": "number;first_name;city\n06 39 98 01 02;Zoé;Nîmes\n",
                },
                "application/x-ndjson": {
                    "schema": {"type": "string"},
                    "example": '{"number": "06 39 98 01 02", "first_name": "Zoé", "points": 120}\n',
                },
            },
        }
    },
)
async def import_contacts(
    request: Request,
    response: Response,
    held: Held,
    caller: Writer,
    sender_id: Annotated[Storable, Query(min_length=1, max_length=40)],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Import:
    """Take the contacts of a file: CSV with a header row, or NDJSON; one column or field with the number, the others as
    attributes. Which of the two it is shows in its first character, and `read_as` says it.

    Cells are separated by `,` `;` tab or `|`; UTF-8, UTF-16 or Windows-1252. Known contacts keep the attributes the
    file does not have. Lines that cannot be used are refused one by one, with a reason. An attribute that nobody knew
    holds numbers, dates or booleans from now on, if all its values here do; else texts.
    """
    caller.may_use(sender_id)
    await senders.known(held.database, sender_id)
    body = _Body(request, held.settings.import_max_bytes)
    import_id = _import_id(caller, idempotency_key)
    async with _slots:
        if idempotency_key is not None and (done := await _find(held, import_id)) is not None:
            async for _ in body:
                pass
            response.status_code = 200
            return _same(done, sender_id, body.fingerprint(held.subject_keys, sender_id))
        values = await _take(held, caller, sender_id, import_id, body)
    response.headers["Location"] = f"/v1/imports/{import_id}"
    return Import.model_validate(values)


@router.get("/imports/{import_id}")
async def get_import(import_id: Storable, held: Held, caller: Writer) -> Import:
    return Import.model_validate(await _visible(held, caller, import_id))


@router.get("/imports/{import_id}/refusals")
async def list_refusals(
    import_id: Storable,
    held: Held,
    caller: Writer,
    cursor: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,  # a line: its column is an integer
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Refusals:
    """The refused lines, in the order of the file."""
    await _visible(held, caller, import_id)
    async with held.database.begin() as tx:
        rows = await store.refusals_after(tx, import_id, cursor, limit)
    items = [Refusal(line=r.line, reason=r.reason, detail=_explained(r.reason)) for r in rows]
    return Refusals(items=items, next=str(rows[-1].line) if len(rows) == limit else None)


def _explained(reason: str) -> str:
    """Of an attribute, its name stands after a colon."""
    return EXPLANATIONS.get(reason.partition(":")[0], reason)


async def _take(held: Resources[Any], caller: Caller, sender_id: str, import_id: str, body: "_Body") -> dict[str, Any]:
    """The one transaction of an import."""
    lines = 0
    reasons: Counter[str] = Counter()
    async with held.database.begin() as tx:
        if not await store.claim_import(tx, import_id):
            raise InProgress("send it again when the other has ended", reasons=[Reason("Idempotency-Key", "in_use")])
        await store.open_staging(tx)
        known = await attributes.kinds_of(tx, sender_id)
        reading = Reading(body.pieces(), known, fictional=held.settings.fictional_numbers)
        chunks = reading.chunks()
        try:
            step = await asyncio.to_thread(_sealed, chunks, held.subject_keys, held.field_keys)
            while step is not None:
                chunk, rows = step
                # the next is read while the database takes this one
                ahead = asyncio.ensure_future(asyncio.to_thread(_sealed, chunks, held.subject_keys, held.field_keys))
                try:
                    await store.stage(tx, rows, [(import_id, each.line, each.reason) for each in chunk.refusals])
                finally:
                    await asyncio.wait([ahead])
                lines += len(chunk.contacts) + len(chunk.refusals)
                reasons.update(refusal.reason for refusal in chunk.refusals)
                step = await ahead
        except WrongColumns as error:
            raise Invalid(str(error), reasons=[Reason("body", error.reason)]) from error
        except FileRefused as error:
            raise Malformed(str(error), reasons=[Reason("body", error.reason)]) from error
        if erased := await store.refuse_erased(tx, import_id):
            reasons[LineProblem.ERASED.value] = erased
        now = datetime.now(UTC)
        created, updated = await store.put_staged(tx, sender_id, now)
        await attributes.learn(tx, sender_id, reading.inferred, now)
        values: dict[str, Any] = {
            "import_id": import_id,
            "sender_id": sender_id,
            "created_by": caller.subject,
            "created_at": now,
            "fingerprint": body.fingerprint(held.subject_keys, sender_id),
            "lines": lines,
            "created": created,
            "updated": updated,
            "duplicates": lines - reasons.total() - created - updated,
            "refused": reasons.total(),
            "reasons": dict(reasons),
            "read_as": asdict(reading.read_as),
        }
        await store.insert_import(tx, values)
    for result in ("created", "updated", "duplicates", "refused"):
        LINES.labels(result).inc(values[result])
    return values


def _sealed(
    chunks: Iterator[Chunk], subject_keys: SubjectKeys, field_keys: FieldKeys
) -> tuple[Chunk, list[ImportedRow]] | None:
    """The next chunk and its rows, or None at the end. Runs in a thread: parsing and sealing are all computation."""
    chunk = next(chunks, None)
    if chunk is None:
        return None
    encode = msgspec.json.Encoder().encode
    ids = [subject_keys.subject_id(contact.e164) for contact in chunk.contacts]
    numbers = field_keys.seal_all(
        [(contact.e164, f"number:{subject_id}") for contact, subject_id in zip(chunk.contacts, ids, strict=True)]
    )
    rows = [
        (line, subject_id, number, encode(held).decode(), territory)
        for (line, _, territory, held), subject_id, number in zip(chunk.contacts, ids, numbers, strict=True)
    ]
    return chunk, rows


class _Body:
    """A request's body in pieces, counted and hashed on their way. Raises TooLarge, and Malformed when it stops."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._stream = request.stream()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._digest = hashlib.sha256()
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.startswith("multipart/") or kind in ("application/json", "application/x-www-form-urlencoded"):
            raise Malformed(
                "send the file itself as the body, as text/csv or application/x-ndjson",
                reasons=[Reason("body", "content_type")],
            )
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > max_bytes:
            raise self._too_large()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await self._next()) is not None:
            yield piece

    def pieces(self) -> Iterator[bytes]:
        """The same for a worker thread: each `next` waits there, while the loop goes on."""
        loop = asyncio.get_running_loop()
        return iter(lambda: asyncio.run_coroutine_threadsafe(self._next(), loop).result(2 * STALLED_S), None)

    def fingerprint(self, keys: SubjectKeys, sender_id: str) -> str:
        """Of the request. Keyed: a file of one line could be tried out number by number."""
        return keys.subject_id(f"import {sender_id} {self._digest.hexdigest()}")

    async def _next(self) -> bytes | None:
        try:
            async with asyncio.timeout(STALLED_S):
                piece = await anext(self._stream, None)
        except TimeoutError as error:
            raise Malformed("the body stopped arriving", reasons=[Reason("body", "stalled")]) from error
        except ClientDisconnect as error:
            raise Malformed("the body ended early", reasons=[Reason("body", "disconnected")]) from error
        if piece is not None:
            self._bytes += len(piece)
            if self._bytes > self._max_bytes:
                raise self._too_large()
            self._digest.update(piece)
        return piece

    def _too_large(self) -> TooLarge:
        return TooLarge(f"at most {self._max_bytes} bytes; split the file", reasons=[Reason("body", "too_large")])


def _import_id(caller: Caller, key: str | None) -> str:
    seed = f"{caller.subject}\x1f{key}" if key is not None else str(uuid4())
    return f"imp-{hashlib.sha256(seed.encode()).hexdigest()[:24]}"


async def _find(held: Resources[Any], import_id: str) -> Any:
    async with held.database.begin() as tx:
        return await store.find_import(tx, import_id)


async def _visible(held: Resources[Any], caller: Caller, import_id: str) -> Any:
    found = await _find(held, import_id)
    if found is None:
        raise NotFound("no such import", reasons=[Reason("import_id", "unknown_import")])
    caller.may_use(found["sender_id"])
    return found


def _same(done: Any, sender_id: str, fingerprint: str) -> Import:
    if done["fingerprint"] != fingerprint:
        raise KeyReused("the key belongs to another file", reasons=[Reason("Idempotency-Key", "reused")])
    return Import.model_validate(done)
