"""HTTP: import a file of contacts, in a single request or in resumable parts.

Parts follow "Resumable Uploads for HTTP" (draft-ietf-httpbis-resumable-upload: `Upload-Offset`, `Upload-Complete`), as
in consent-svc. Pieces of the file are encrypted on arrival: memory never holds the whole file, and the disk never holds
a plain number. No line counts before the whole file has arrived and been read to its end; then `imports.worker` records
the lines.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import ClientDisconnect

from campaign.audience import contacts_file
from campaign.audience.contact_fields import EXPLANATIONS
from campaign.audience.contacts_file import FileRefused, WrongColumns
from campaign.imports import store
from campaign.imports import worker as importing
from campaign.senders import registry
from common.keyring import SubjectKeys
from common.service import Resources, resources
from common.web.auth import Caller, require
from common.web.fields import BIGINT, Storable
from common.web.problems import Conflict, Invalid, Malformed, NotFound, Reason, TooLarge

router = APIRouter(prefix="/v1", tags=["contacts"])

STALLED_S = 30.0  # without a byte of the body
AT_ONCE = 3  # imports per process; each holds a database connection while its body arrives
PIECE_BYTES = 1_000_000  # of a file, encrypted and stored together

Held = Annotated[Resources[Any], Depends(resources)]
Writer = Annotated[Caller, Depends(require("contact:write"))]
Complete = Annotated[Literal["?0", "?1"], Header(description="True if this request brings the file's last byte.")]
_slots = asyncio.Semaphore(AT_ONCE)

FILE = {
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
}


class KeyReused(Conflict):
    slug, title = "idempotency-key-reused", "This Idempotency-Key came before with another request"


class InProgress(Conflict):
    slug, title = "import-in-progress", "A request with this Idempotency-Key is in progress"


class OffsetMismatch(Conflict):
    slug, title = "mismatching-upload-offset", "The upload is at another offset"


class UploadComplete(Conflict):
    slug, title = "upload-complete", "The file is complete already"


class Read(BaseModel):
    """How the parser understood the file: look here if the contacts look wrong."""

    format: Literal["csv", "ndjson"]
    charset: str
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
    received_bytes: int = Field(description="Bytes of the file received: the offset to continue the upload from.")
    line: int = Field(description="The last recorded line of the file, counted from 1.")
    lines: int
    created: int = Field(description="Contacts new to this sender.")
    updated: int = Field(description="Contacts known before.")
    duplicates: int = Field(description="Lines with the number of a later line; the last line counts.")
    refused: int
    reasons: dict[str, int] = Field(
        description="Refused lines by reason; for an attribute, followed by a colon and the attribute's name."
    )
    read_as: Read | None = Field(description="Null until the import is done.")


class Refusal(BaseModel):
    """A refused line, without its number. `line`: where the line begins in the file, from 1."""

    line: int
    reason: str
    detail: str


class Refusals(BaseModel):
    items: list[Refusal]
    next: str | None = Field(description="Pass it as `cursor`; null at the end.")


@router.post("/imports", status_code=201, openapi_extra=FILE)
async def import_contacts(
    request: Request,
    response: Response,
    held: Held,
    caller: Writer,
    sender_id: Annotated[Storable, Query(min_length=1, max_length=40)],
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    upload_complete: Complete = "?1",
) -> Import:
    """Import the contacts of a file: CSV with a header row, or NDJSON.

    The first character tells the format (`read_as`). A column or field holds the number, the others are attributes. Of
    several number columns the import takes a mobile's first and drops the others (`other_numbers`).

    CSV cells are separated by `,` `;` tab or `|`; the file is UTF-8, UTF-16 or Windows-1252. Known contacts keep the
    attributes absent from the file. Each unusable line is refused with a reason. An unknown attribute becomes a number,
    date or boolean if all its values in the file are such, else text.

    The answer comes when all lines are recorded. `Upload-Complete: ?0` with an empty body opens an import, or returns
    the import under this Idempotency-Key; the file then goes to `/v1/imports/{id}/body`. A whole file under the key of
    an incomplete import restarts the import; the same file under the key of a complete import answers 200.
    """
    caller.may_use(sender_id)
    await registry.known(held.database, sender_id)
    body = _Body(request, held.settings.import_max_bytes)
    import_id = _import_id(caller, idempotency_key)
    async with _claimed(held, import_id) as claim:
        found = await _find(held, import_id)
        response.status_code = 201 if found is None else 200
        response.headers["Location"] = f"/v1/imports/{import_id}"
        if found is not None and found["sender_id"] != sender_id:
            raise _reused()
        if upload_complete == "?0":
            if await anext(aiter(body), None) is not None:
                raise Malformed("the file goes to its body, once it is opened", reasons=[Reason("body", "not_here")])
            if found is None:
                await _open(held, import_id, sender_id, caller)
            return _view(await _find(held, import_id))
        if found is not None and found["complete"]:
            async for _ in body:
                pass
            if body.fingerprint(held.subject_keys, sender_id) != found["fingerprint"]:
                raise _reused()
        else:
            await _open(held, import_id, sender_id, caller)
            response.status_code = 201
            try:
                await _arrive(held, import_id, 0, body)
            except TooLarge:
                await _forget(held, import_id)
                raise
            except Malformed:
                if idempotency_key is None:  # no caller could resume the import
                    await _forget(held, import_id)
                raise
            await _complete(held, claim, import_id)
        await importing.record(held, claim, import_id)
    return _view(await _find(held, import_id))


@router.patch("/imports/{import_id}/body", openapi_extra=FILE)
async def upload(
    import_id: Storable,
    request: Request,
    response: Response,
    held: Held,
    caller: Writer,
    upload_offset: Annotated[int, Header(ge=0, le=BIGINT)],
    upload_complete: Complete = "?0",
) -> Import:
    """Take the bytes of the file from `Upload-Offset` on.

    The last bytes start a check of the whole file: an unusable file is refused, and its import deleted. Recording
    continues after the answer.

    409 for a wrong offset: get the import, and resume from its `received_bytes`.
    """
    await _visible(held, caller, import_id)
    async with _claimed(held, import_id) as claim:
        found = await _visible(held, caller, import_id)
        if found["complete"]:
            raise UploadComplete("open another import", reasons=[Reason("import_id", "complete")])
        if found["received_bytes"] != upload_offset:
            raise OffsetMismatch(
                f"go on from byte {found['received_bytes']}", reasons=[Reason("Upload-Offset", "mismatch")]
            )
        body = _Body(request, held.settings.import_max_bytes - upload_offset)
        await _arrive(held, import_id, found["pieces"], body)
        if upload_complete == "?1":
            await _complete(held, claim, import_id)
    found = await _visible(held, caller, import_id)
    response.headers["Upload-Offset"] = str(found["received_bytes"])
    return _view(found)


@router.get("/imports/{import_id}")
async def get_import(import_id: Storable, held: Held, caller: Writer) -> Import:
    """Return how far the file has arrived, and how far its lines are recorded."""
    return _view(await _visible(held, caller, import_id))


@router.get("/imports/{import_id}/refusals")
async def list_refusals(
    import_id: Storable,
    held: Held,
    caller: Writer,
    cursor: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,  # a line number, an integer column
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Refusals:
    """List the refused lines in file order."""
    await _visible(held, caller, import_id)
    async with held.database.begin() as tx:
        rows = await store.refusals_after(tx, import_id, cursor, limit)
    items = [Refusal(line=r.line, reason=r.reason, detail=_explained(r.reason)) for r in rows]
    return Refusals(items=items, next=str(rows[-1].line) if len(rows) == limit else None)


def _explained(reason: str) -> str:
    """Explain a reason. An attribute's name follows the reason after a colon."""
    return EXPLANATIONS.get(reason.partition(":")[0], reason)


@asynccontextmanager
async def _claimed(held: Resources[Any], import_id: str) -> AsyncIterator[AsyncConnection]:
    async with _slots, held.database.begin() as claim:
        if not await store.claim_import(claim, import_id):
            raise InProgress("send it again when the other has ended", reasons=[Reason("import_id", "in_use")])
        yield claim


async def _open(held: Resources[Any], import_id: str, sender_id: str, caller: Caller) -> None:
    """Open an import anew, without any earlier bytes. The caller has claimed the import, still incomplete."""
    async with held.database.begin() as tx:
        await store.forget_import(tx, import_id)
        await store.open_import(tx, import_id, sender_id, caller.subject, datetime.now(UTC))


async def _forget(held: Resources[Any], import_id: str) -> None:
    async with held.database.begin() as tx:
        await store.forget_import(tx, import_id)


async def _arrive(held: Resources[Any], import_id: str, position: int, body: "_Body") -> None:
    """Store the body in pieces; keep the bytes received before a break."""
    waiting = bytearray()

    async def keep() -> None:
        nonlocal position
        sealed = held.field_keys.seal_bytes(bytes(waiting), importing.sealing_context(import_id, position))
        async with held.database.begin() as tx:
            await store.add_piece(tx, import_id, position, sealed, len(waiting))
        position += 1
        waiting.clear()

    try:
        async for part in body:
            waiting += part
            if len(waiting) >= PIECE_BYTES:
                await keep()
    finally:
        if waiting:
            await keep()


async def _complete(held: Resources[Any], claim: AsyncConnection, import_id: str) -> None:
    """Mark the file complete, or delete the import if the file cannot be used."""
    digest = hashlib.sha256()
    arrived = await _find(held, import_id)

    def hashed(pieces: Iterable[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            digest.update(piece)
            yield piece

    try:
        body = importing.pieces(claim, held.field_keys, import_id, arrived["pieces"])
        await asyncio.to_thread(contacts_file.check, hashed(body))
    except FileRefused as error:
        await _forget(held, import_id)
        kind = Invalid if isinstance(error, WrongColumns) else Malformed
        raise kind(str(error), reasons=[Reason("body", error.reason)]) from error
    async with held.database.begin() as tx:
        await store.complete_import(
            tx, import_id, _fingerprint(held.subject_keys, arrived["sender_id"], digest.hexdigest())
        )


class _Body:
    """A request body, counted and hashed piece by piece. Raises TooLarge, and Malformed if the body breaks off."""

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
        """Yield the pieces without the empty last piece."""
        while (piece := await self._next()) is not None:
            if piece:
                yield piece

    def fingerprint(self, keys: SubjectKeys, sender_id: str) -> str:
        return _fingerprint(keys, sender_id, self._digest.hexdigest())

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


def _fingerprint(keys: SubjectKeys, sender_id: str, digest: str) -> str:
    """Return a keyed hash of a file: a plain hash of a single line could be guessed number by number."""
    return keys.subject_id(f"import {sender_id} {digest}")


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


def _reused() -> KeyReused:
    return KeyReused("the key belongs to another file", reasons=[Reason("Idempotency-Key", "reused")])


def _view(found: Any) -> Import:
    ended = "failed" if found["failed"] else "done"
    status = ended if found["finished"] else "recording" if found["complete"] else "uploading"
    return Import.model_validate({**found, "status": status})
