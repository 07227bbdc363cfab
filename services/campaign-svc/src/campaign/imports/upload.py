"""HTTP: import a file of contacts, at once or in resumable parts (`common.web.upload`).

Pieces are encrypted on arrival: memory never holds the whole file, and the disk never holds a plain number. No line
counts before the whole file has arrived and been read.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.audience import contacts_file
from campaign.audience.contact_fields import EXPLANATIONS
from campaign.imports import store
from campaign.imports import worker as importing
from campaign.senders import registry
from campaign.senders.caller import of_caller
from common.files.refused import FileRefused, WrongColumns
from common.keyring import SubjectKeys
from common.service import Resources
from common.web.auth import NOBODY, Caller, require
from common.web.fields import NumberCountry, Storable
from common.web.idempotency import Key, KeyInProgress, KeyReused, derived_id, same
from common.web.openapi import refuses, tells
from common.web.pagination import LIMIT, SORTED, Cursor, Limit, OfSender, Page, Sort, next_of, position
from common.web.problems import Invalid, Malformed, NotFound, NotTheMediaType, Problem, Reason, TooLarge
from common.web.upload import (
    BODY,
    Length,
    Offset,
    OffsetMismatch,
    Stream,
    Upload,
    UploadComplete,
    UploadInProgress,
    UploadRoute,
    discovery,
    media_type,
)

router = APIRouter(prefix="/v1", tags=["contacts"], route_class=UploadRoute)

AT_ONCE = 3  # imports per process; each holds a database connection
PIECE_BYTES = 1_000_000

Held = Annotated[Resources[Any], Depends(of_caller)]
Writer = Annotated[Caller, Depends(require("contact:write"))]
Reader = Annotated[Caller, Depends(require("contact:read", "contact:write"))]
_slots = asyncio.Semaphore(AT_ONCE)

FILE = {
    "requestBody": {
        "required": False,
        "content": {
            "text/csv": {
                "schema": {"type": "string", "format": "binary"},
                "example": "number;first_name;city\n06 39 98 01 02;Zoé;Nîmes\n",
            },
            "application/x-ndjson": {
                "schema": {"type": "string", "format": "binary"},
                "example": '{"number": "06 39 98 01 02", "first_name": "Zoé", "points": 120}\n',
            },
        },
    }
}


class Read(BaseModel):
    """How the parser understood the file: look here if the contacts look wrong."""

    format: Literal["csv", "ndjson"] = Field(description="The format, told by the first character of the file.")
    charset: str = Field(description="The character set that the parser found, such as `utf-8` or `windows-1252`.")
    delimiter: str | None = Field(description="The separator of CSV cells.")
    encoded_twice: bool = Field(description="Some letters look like UTF-8 decoded wrongly and saved again: Ã© for é.")
    other_numbers: list[str] = Field(
        [], description="Further columns of phone numbers: campaign-svc stores none of their values."
    )


class Import(BaseModel):
    """An import, as far as its lines are recorded.

    `lines` = created + updated + duplicates + refused, without blank lines and the header.
    """

    import_id: str
    sender_id: str
    status: Literal["uploading", "recording", "done", "failed"] = Field(
        description="`failed`: recording failed several times and was given up. The lines up to `line` are recorded;"
        " send the remaining lines as another import."
    )
    created_at: datetime
    bytes: int | None = Field(description="The whole file's length; null until the caller names the length.")
    received_bytes: int = Field(description="Bytes of the file received: the offset to continue the upload from.")
    line: int = Field(description="The last recorded line of the file, counted from 1.")
    lines: int = Field(description="Lines recorded so far, without blank lines and the header.")
    created: int = Field(description="Contacts new to this sender.")
    updated: int = Field(description="Contacts known before.")
    duplicates: int = Field(description="Lines with the number of a later line; the last line counts.")
    refused: int = Field(description="Lines refused; the list of refusals has each with its reason.")
    reasons: dict[str, int] = Field(
        description="Refused lines by reason; for an attribute, followed by a colon and the attribute's name."
    )
    read_as: Read | None = Field(description="Null until the whole file is here.")


class Refusal(BaseModel):
    """A refused line, without its number. `line`: where the line begins in the file, from 1."""

    line: int = Field(description="The line of the file at which the refused line begins, from 1.")
    reason: str
    detail: str


@router.post(
    "/imports",
    operation_id="contact_imports.create",
    status_code=201,
    openapi_extra=FILE,
    responses=tells(201, "Location") | refuses(NotFound, KeyInProgress),
)
async def import_contacts(
    request: Request,
    response: Response,
    held: Held,
    caller: Writer,
    sender_id: Annotated[Storable, Query(min_length=1, max_length=40)],
    country: NumberCountry = None,
    key: Key = None,
    length: Length = None,
    defer_length: Annotated[str | None, Header(alias="Upload-Defer-Length", pattern="^1$")] = None,
) -> Import:
    """Import the contacts of a file: CSV with a header row, or NDJSON.

    The first character tells the format (`read_as`). A column or field holds the number, the others are attributes. Of
    several number columns the import takes a mobile's first and drops the others (`other_numbers`).

    CSV cells are separated by `,` `;` tab or `|`; the file is UTF-8, UTF-16 or Windows-1252. Known contacts keep the
    attributes absent from the file. Each unusable line is refused with a reason. An unknown attribute becomes a number,
    date or boolean if all its values in the file are such, else text.

    The answer comes when all lines are recorded. `Upload-Length`, or `Upload-Defer-Length: 1`, with an empty body opens
    an import, or gets the first answer under this Idempotency-Key; the file then goes to its `Location`. A whole file
    under the key of an incomplete import restarts the import; the same file under the key of a complete import answers
    the import.
    """
    await registry.known(held.database, caller, sender_id)
    _check_media_type(request)
    body = Stream(request, held.settings.import_max_bytes)
    import_id = derived_id("imp", caller, key)
    async with _claimed(held, import_id, KeyInProgress()) as claim:
        found = await _find(held, import_id)
        response.headers["Location"] = f"/v1/imports/{import_id}"
        if found is not None and found["sender_id"] != sender_id:
            raise KeyReused
        if length is not None or defer_length is not None:
            if await anext(aiter(body), None) is not None:
                raise Malformed("send the file to the import's `Location`", reasons=[Reason("body", "not_here")])
            _check_length(length, held.settings.import_max_bytes)
            if found is None:
                await _open(held, import_id, sender_id, caller, length, country)
            elif length is not None and found["bytes"] != length:
                raise KeyReused
            return _as_opened(await _find(held, import_id), length)
        if found is not None and found["complete"]:
            async for _ in body:
                pass
            same(found["fingerprint"], _fingerprint(held.subject_keys, sender_id, body.digest))
        else:
            await _open(held, import_id, sender_id, caller, None, country)
            try:
                await _arrive(held, claim, import_id, body, lambda received: True)
            except TooLarge:
                await _forget(held, import_id)
                raise
            except Malformed:
                if key is None:  # no caller could resume the import
                    await _forget(held, import_id)
                raise
        await importing.record(held, claim, import_id)
    return _view(await _find(held, import_id))


@router.get("/imports", operation_id="contact_imports.list")
async def list_imports(
    held: Held,
    caller: Reader,
    sender_id: OfSender = None,
    sort: Sort = "newest",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Import]:
    """List the imports of the senders your token covers, by the time of their opening."""
    covered = await caller.covered(sender_id)
    async with held.database.begin() as tx:
        found = await store.listed(tx, covered, position(cursor, tuple[datetime, str]), limit, SORTED[sort])
    return Page[Import](
        items=[_view(each) for each in found], next=next_of(found, limit, itemgetter("created_at", "import_id"))
    )


@router.options("/imports", operation_id="contact_imports.discover", status_code=204)
async def discover_uploads(held: Held, caller: Writer) -> Response:
    """Return the version and the extensions of tus, and the size of a file at most."""
    return discovery(held.settings.import_max_bytes)


@router.head(
    "/imports/{import_id}",
    operation_id="contact_imports.get_offset",
    response_class=Response,
    responses=tells(200, "Upload-Offset", "Upload-Length"),
)
async def tell_offset(import_id: Storable, held: Held, caller: Writer) -> Response:
    """Return how much of the file has arrived: an interrupted upload goes on from `Upload-Offset`."""
    return _upload(await visible(held, caller, import_id)).told(200)


@router.patch(
    "/imports/{import_id}",
    operation_id="contact_imports.upload",
    status_code=204,
    openapi_extra=BODY,
    responses=tells(204, "Upload-Offset", "Upload-Length")
    | refuses(OffsetMismatch, UploadComplete, UploadInProgress, NotTheMediaType),
)
async def upload(
    import_id: Storable, request: Request, held: Held, caller: Writer, offset: Offset, length: Length = None
) -> Response:
    """Take the bytes of the file from `Upload-Offset` on.

    The last bytes start a check of the whole file: an unusable file is refused, and its import deleted. Recording
    continues after the answer.

    409 for a wrong offset: `HEAD` tells the right one.
    """
    await visible(held, caller, import_id)
    async with _claimed(held, import_id, UploadInProgress()) as claim:
        whole = _upload(await visible(held, caller, import_id)).going_on(offset, length)
        most = held.settings.import_max_bytes
        _check_length(whole, most)
        body = Stream(request, (most if whole is None else whole) - offset)
        if length is not None and length > offset:  # else the length comes with the completion
            async with held.database.begin() as tx:
                await store.put_length(tx, import_id, length)
        await _arrive(held, claim, import_id, body, lambda received: received == whole)
    return _upload(await visible(held, caller, import_id)).told(204)


@router.get("/imports/{import_id}", operation_id="contact_imports.get")
async def get_import(import_id: Storable, held: Held, caller: Reader) -> Import:
    """Return how far the file has arrived, and how far its lines are recorded."""
    return _view(await visible(held, caller, import_id))


@router.get("/imports/{import_id}/refusals", operation_id="contact_imports.list_refusals")
async def list_refusals(
    import_id: Storable,
    held: Held,
    caller: Reader,
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Refusal]:
    """List the refused lines in file order."""
    await visible(held, caller, import_id)
    async with held.database.begin() as tx:
        rows = await store.refusals_after(tx, import_id, position(cursor, int) or 0, limit)
    items = [Refusal(line=r.line, reason=r.reason, detail=_explained(r.reason)) for r in rows]
    return Page[Refusal](items=items, next=next_of(rows, limit, attrgetter("line")))


def _explained(reason: str) -> str:
    """Explain a reason, without the attribute's name after its colon."""
    return EXPLANATIONS.get(reason.partition(":")[0], reason)


@asynccontextmanager
async def _claimed(held: Resources[Any], import_id: str, busy: Problem) -> AsyncIterator[AsyncConnection]:
    """Hold the import's lock. Raises `busy` where another holds the lock."""
    async with _slots, held.database.begin() as claim:
        if not await store.claim_import(claim, import_id):
            raise busy
        yield claim


async def _open(
    held: Resources[Any], import_id: str, sender_id: str, caller: Caller, length: int | None, country: str | None
) -> None:
    """Open an import without any earlier bytes. The caller has claimed the import."""
    async with held.database.begin() as tx:
        await store.forget_import(tx, import_id)
        await store.open_import(tx, import_id, sender_id, caller.subject, length, country, datetime.now(UTC))


async def _forget(held: Resources[Any], import_id: str) -> None:
    async with held.database.begin() as tx:
        await store.forget_import(tx, import_id)


async def _arrive(
    held: Resources[Any], claim: AsyncConnection, import_id: str, body: Stream, is_whole: Callable[[int], bool]
) -> None:
    """Store the body in pieces, and complete the file with its last piece. Keep the bytes received before a break.

    A break behind the last byte loses the last piece: a client that reads an offset equal to the length sends nothing
    more. `is_whole`: whether a file of so many bytes is complete.
    """
    found = await _find(held, import_id)
    piece, received, waiting, whole = found["pieces"], found["received_bytes"], bytearray(), False

    async def keep() -> None:
        nonlocal piece
        async with held.database.begin() as tx:
            await _add(tx, held, import_id, piece, waiting)
        piece += 1
        waiting.clear()

    try:
        async for part in body:
            if len(waiting) >= PIECE_BYTES:
                await keep()
            waiting += part
            received += len(part)
        whole = is_whole(received)
    finally:
        if waiting and not whole and received != found["bytes"]:
            await keep()
    if whole:
        await _complete(held, claim, found, piece, waiting)


async def _add(tx: AsyncConnection, held: Resources[Any], import_id: str, piece: int, plain: bytearray) -> None:
    sealed = held.field_keys.seal_bytes(bytes(plain), importing.sealing_context(import_id, piece))
    await store.add_piece(tx, import_id, piece, sealed, len(plain))


async def _complete(held: Resources[Any], claim: AsyncConnection, found: Any, piece: int, last: bytearray) -> None:
    """Store the last piece and complete the file, or delete an unusable import."""
    import_id, digest = found["import_id"], hashlib.sha256()

    def hashed(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for each in pieces:
            digest.update(each)
            yield each

    try:
        body = chain(importing.pieces(claim, held.field_keys, import_id, piece), [bytes(last)] if last else [])
        read_as = await asyncio.to_thread(contacts_file.check, hashed(body))
    except FileRefused as error:
        await _forget(held, import_id)
        kind = Invalid if isinstance(error, WrongColumns) else Malformed
        raise kind(str(error), reasons=[Reason("body", error.reason)]) from error
    fingerprint = _fingerprint(held.subject_keys, found["sender_id"], digest.hexdigest())
    async with held.database.begin() as tx:
        if last:
            await _add(tx, held, import_id, piece, last)
        await store.complete_import(tx, import_id, fingerprint, asdict(read_as))


def _check_length(length: int | None, most: int) -> None:
    """Raises TooLarge."""
    if length is not None and length > most:
        raise TooLarge(f"at most {most:,} bytes; split the file", reasons=[Reason("Upload-Length", "too_large")])


def _check_media_type(request: Request) -> None:
    kind = media_type(request)
    if kind.startswith("multipart/") or kind in ("application/json", "application/x-www-form-urlencoded"):
        raise Malformed(
            "send the file itself as the body, as text/csv or application/x-ndjson",
            reasons=[Reason("body", "content_type")],
        )


def _fingerprint(keys: SubjectKeys, sender_id: str, digest: str) -> str:
    """Return a keyed hash of a file: a plain hash of a single line could be guessed."""
    return keys.of_text(f"import {sender_id} {digest}")


async def _find(held: Resources[Any], import_id: str) -> Any:
    async with held.database.begin() as tx:
        return await store.find_import(tx, import_id)


async def visible(held: Resources[Any], caller: Caller, import_id: str) -> Any:
    found = await _find(held, import_id)
    if not await caller.seen([found["sender_id"] if found else NOBODY]):
        raise NotFound("no such import", reasons=[Reason("import_id", "unknown_import")])
    return found


def _view(found: Any) -> Import:
    ended = "failed" if found["failed"] else "done"
    status = ended if found["finished"] else "recording" if found["complete"] else "uploading"
    return Import.model_validate({**found, "status": status})


def _as_opened(found: Any, length: int | None) -> Import:
    """Return the import as its opening was answered: before the file."""
    counts = dict.fromkeys(("received_bytes", "line", "lines", "created", "updated", "duplicates", "refused"), 0)
    empty: dict[str, int] = {}
    return Import.model_validate(
        {**found, **counts, "status": "uploading", "bytes": length, "reasons": empty, "read_as": None}
    )


def _upload(found: Any) -> Upload:
    return Upload(found["received_bytes"], found["bytes"], found["complete"])
