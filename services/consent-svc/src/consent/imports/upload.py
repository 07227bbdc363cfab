"""Serve imports over HTTP: open an import with its terms, upload the file in parts, follow progress, read verdicts.

The upload cuts the body into pieces of whole lines and stores each piece encrypted: memory never holds the whole file,
nor the disk a number in clear. After a broken connection the caller resumes from `received_bytes`, with `Upload-Offset`
and `Upload-Complete` (draft-ietf-httpbis-resumable-upload). No line counts until the file is complete; then `worker.py`
records the pieces.
"""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import uuid4

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.requests import ClientDisconnect

from common.contracts.consent import Basis
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.web.auth import Caller, require
from common.web.fields import BIGINT, Short, Storable
from common.web.problems import Conflict, Forbidden, Invalid, Malformed, NotFound, Reason
from consent.bodies import Body, EvidenceBody, Instant
from consent.imports import files as import_files
from consent.imports.files import ImportFile
from consent.imports.lines import PIECE_BYTES, Format, Piece, WrongFile, cut, layout_of
from consent.senders import store

router = APIRouter(prefix="/v1", tags=["imports"])

STALLED_S = 30.0  # between two parts of a body
EXAMPLE_CSV = "number,occurred_at\n06 39 98 12 34,2026-03-02T13:05:00Z\n"
HEADER = b"line,verdict,reasons\n"

Held = Annotated[Resources[ServiceSettings], Depends(resources)]
Writer = Annotated[Caller, Depends(require("consent:write"))]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)]
Verdict = Literal["created", "unchanged", "outvoted", "refused"]


class KeyReused(Conflict):
    slug, title = "idempotency-key-reused", "This Idempotency-Key came before with another request"


class OffsetMismatch(Conflict):
    slug, title = "mismatching-upload-offset", "The upload is at another offset"


class UploadComplete(Conflict):
    slug, title = "upload-complete", "The file is complete already"


class Terms(Body):
    """The values for every line that does not give its own.

    Each opt-in must give its own `occurred_at`: a date shared by all lines opens nothing. `purpose` applies to opt-ins
    and suppressions; an `opt_out` among consents covers the purpose on its line, or all purposes.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "consents",
                    "sender_id": "acme",
                    "format": "csv",
                    "purpose": "promotions",
                    "evidence": {"source": "old-crm", "form_id": "newsletter", "form_version": "3"},
                },
                {
                    "kind": "suppressions",
                    "sender_id": None,
                    "format": "ndjson",
                    "evidence": {"source": "national-list"},
                },
            ]
        }
    )

    kind: Literal["consents", "suppressions"]
    sender_id: Short | None = Field(description="Null only for suppressions: every sender.")
    format: Format
    purpose: Short | None = None
    basis: Basis = "opt_in"
    occurred_at: Instant | None = Field(None, description="The date of a suppression list. Default: now.")
    evidence: EvidenceBody
    bytes: Annotated[int, Field(ge=1, le=BIGINT)] | None = Field(
        None, description="The whole file's length. An upload of another length cannot be completed."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Terms":
        if self.sender_id is None and (self.kind == "consents" or self.purpose is not None):
            raise ValueError("sender_id: a consent, and a purpose, is one sender's own")
        if self.kind == "consents" and self.occurred_at is not None:
            raise ValueError("occurred_at: of a consent each line says it")
        return self


class Import(BaseModel):
    """An import and its counts.

    `lines` counts the lines that have arrived, blank lines too; each line that is not blank gets one of four verdicts.

    `created`: recorded, with a change. `unchanged`: known, or without a change. `outvoted`: an opt-in that a newer STOP
    or an expiry outweighs; the ledger keeps the opt-in, and no consent opens. `refused`: not kept.
    """

    import_id: str
    kind: str
    sender_id: str | None
    format: str
    status: Literal["uploading", "recording", "done"]
    created_at: datetime
    bytes: int | None
    received_bytes: int
    pieces: int
    recorded_pieces: int
    lines: int
    created: int
    unchanged: int
    outvoted: int
    refused: int
    reasons: dict[str, int] = Field(description="Refused lines by reason.")
    finished_at: datetime | None


@router.post("/imports", status_code=201)
async def open_import(body: Terms, response: Response, caller: Writer, held: Held, key: Key = None) -> Import:
    """Open an import: 201, or 200 where this Idempotency-Key opened the import before.

    The file itself goes to `/v1/imports/{id}/body`.
    """
    _may_import(caller, body.sender_id)
    now = datetime.now(UTC)
    wanted = ImportFile(
        import_id=_import_id(caller, key),
        created_by=caller.subject,
        fingerprint=held.subject_keys.subject_id(f"import {body.model_dump_json()}"),
        sender_id=body.sender_id,
        kind=body.kind,
        format=body.format,
        terms=body.model_dump_json(include={"purpose", "basis", "occurred_at", "evidence"}),
        bytes=body.bytes,
        created_at=now,
    )
    async with held.database.begin() as tx:
        if body.sender_id is not None:
            purposes = (await store.purposes_of(tx, {body.sender_id})).get(body.sender_id)
            if purposes is None:
                raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
            if body.purpose is not None and body.purpose not in purposes.ever:
                raise Invalid(
                    "the sender has no such purpose: add it to the sender first",
                    reasons=[Reason("purpose", "unknown_purpose")],
                )
        file = await import_files.add(tx, wanted)
    if file.fingerprint != wanted.fingerprint:
        raise KeyReused("the key belongs to another import", reasons=[Reason("Idempotency-Key", "reused")])
    response.status_code = 201 if file.created_at == now else 200
    response.headers["Location"] = f"/v1/imports/{file.import_id}"
    return await _view(held, file)


@router.patch(
    "/imports/{import_id}/body",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "text/csv": {"schema": {"type": "string"}, "example": EXAMPLE_CSV},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        }
    },
)
async def upload(
    import_id: Storable,
    request: Request,
    response: Response,
    caller: Writer,
    held: Held,
    upload_offset: Annotated[int, Header(ge=0, le=BIGINT)],
    upload_complete: Annotated[Literal["?0", "?1"], Header()] = "?0",
) -> Import:
    """Append bytes to the file from `Upload-Offset` on; `Upload-Complete: ?1` marks the last.

    409 where the upload stands elsewhere: read the import, and resume from its `received_bytes`.
    """
    file = await _visible(held, caller, import_id)
    if file.complete:
        raise UploadComplete("open another import", reasons=[Reason("import_id", "complete")])
    if file.received_bytes != upload_offset:
        raise _mismatch(file)
    try:
        file = await _Arriving(held, file).take(_parts(request), complete=upload_complete == "?1")
    except WrongFile as error:
        raise Invalid(str(error), reasons=[Reason("body", error.reason)]) from error
    response.headers["Upload-Offset"] = str(file.received_bytes)
    return await _view(held, file)


@router.get("/imports/{import_id}")
async def get_import(import_id: Storable, caller: Writer, held: Held) -> Import:
    """Return an import's upload and recording progress."""
    return await _view(held, await _visible(held, caller, import_id))


@router.get("/imports/{import_id}/verdicts", response_class=Response)
async def get_verdicts(
    import_id: Storable, caller: Writer, held: Held, verdict: Annotated[Verdict | None, Query()] = None
) -> StreamingResponse:
    """Return a CSV with each line's verdict by line number, and no phone numbers.

    During recording the CSV ends before the first unrecorded piece.
    """
    file = await _visible(held, caller, import_id)
    return StreamingResponse(_verdicts(held, file, verdict), media_type="text/csv; charset=utf-8")


class _Arriving:
    """An upload in progress. Each piece is stored in a transaction of its own."""

    def __init__(self, held: Resources[ServiceSettings], file: ImportFile) -> None:
        self._held = held
        self._file = file
        self._format: Format = "csv" if file.format == "csv" else "ndjson"

    async def take(self, parts: AsyncIterator[bytes], *, complete: bool) -> ImportFile:
        """Store all parts and return the import as stored. Raises WrongFile, OffsetMismatch."""
        arrived = bytearray(self._rest())
        cut_at = len(arrived) + PIECE_BYTES
        async for part in parts:
            arrived += part
            if len(arrived) >= cut_at:
                arrived = bytearray(await self._keep(bytes(arrived), last=False))
                cut_at = len(arrived) + PIECE_BYTES
        total = self._kept_bytes + len(arrived)
        whole = complete and self._file.bytes in (None, total)
        rest = await self._keep(bytes(arrived), last=whole)
        if whole and self._file.pieces == 0:
            raise WrongFile("empty", "the file is empty")
        await self._put(
            replace(self._file, received_bytes=total, rest=self._sealed(rest, "rest") if rest else None, complete=whole)
        )
        if complete and not whole:
            raise WrongFile("incomplete", f"{total} bytes have arrived, and {self._file.bytes} were announced")
        return self._file

    async def _keep(self, arrived: bytes, *, last: bool) -> bytes:
        """Store the whole pieces of the bytes and return the bytes left."""
        announced = self._file.bytes
        if announced is not None and self._kept_bytes + len(arrived) > announced:
            raise WrongFile("too_long", f"more than the {announced} bytes that were announced")
        pieces, rest = cut(arrived, self._format, last=last)
        for piece in pieces:
            await self._keep_piece(piece)
        return rest

    async def _keep_piece(self, piece: Piece) -> None:
        file = self._file
        first_line, lines = file.next_line, piece
        if file.pieces == 0:
            layout, lines = layout_of(piece, self._format)
            file = replace(file, delimiter=layout.delimiter or None, columns=layout.columns or None)
            first_line += piece.lines - lines.lines
        await self._put(
            replace(
                file,
                received_bytes=self._kept_bytes + len(piece.body),
                rest=None,
                pieces=file.pieces + 1,
                next_line=file.next_line + piece.lines,
            ),
            Piece(self._sealed(lines.body, str(file.pieces)), lines.lines),
            first_line,
        )

    async def _put(self, file: ImportFile, sealed: Piece | None = None, first_line: int = 0) -> None:
        """Store the progress. Raises OffsetMismatch where another request has continued the upload."""
        now = datetime.now(UTC)
        async with self._held.database.begin() as tx:
            held = await import_files.find(tx, file.import_id, lock=True)
            if held != self._file:
                raise _mismatch(held or file)
            if sealed is not None:
                await import_files.put_piece(tx, self._file, first_line, sealed, now)
            await import_files.put_arrived(tx, file, now)
        self._file = file

    @property
    def _kept_bytes(self) -> int:
        """Return the bytes stored in pieces."""
        return self._file.received_bytes - len(self._rest())

    def _rest(self) -> bytes:
        if self._file.rest is None:
            return b""
        return self._held.field_keys.unseal_bytes(self._file.rest, sealing_context(self._file.import_id, "rest"))

    def _sealed(self, plain: bytes, name: str) -> bytes:
        return self._held.field_keys.seal_bytes(plain, sealing_context(self._file.import_id, name))


def sealing_context(import_id: str, name: str) -> str:
    """Return the encryption context. `name`: a piece's position, or "rest"."""
    return f"import:{import_id}:{name}"


async def _parts(request: Request) -> AsyncIterator[bytes]:
    """Yield the body. Raises Malformed when the body stops arriving."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(STALLED_S):
                part = await anext(stream, None)
        except TimeoutError as error:
            raise Malformed("the body stopped arriving", reasons=[Reason("body", "stalled")]) from error
        except ClientDisconnect as error:
            raise Malformed("the body ended early", reasons=[Reason("body", "disconnected")]) from error
        if part is None:
            return
        yield part


async def _verdicts(held: Resources[ServiceSettings], file: ImportFile, only: Verdict | None) -> AsyncIterator[bytes]:
    yield HEADER
    for position in range(file.pieces):
        async with held.database.begin() as tx:
            deflated = await import_files.verdicts(tx, file.import_id, position)
        if deflated is None:
            return
        lines = zlib.decompress(deflated)
        if only is not None:
            told = f",{only},".encode()
            lines = b"".join(line for line in lines.splitlines(keepends=True) if told in line)
        yield lines


async def _view(held: Resources[ServiceSettings], file: ImportFile) -> Import:
    async with held.database.begin() as tx:
        done, reasons = await import_files.progress(tx, file.import_id)
    finished = file.complete and done.pieces == file.pieces
    return Import(
        import_id=file.import_id,
        kind=file.kind,
        sender_id=file.sender_id,
        format=file.format,
        status="done" if finished else "recording" if file.complete else "uploading",
        created_at=file.created_at,
        bytes=file.bytes,
        received_bytes=file.received_bytes,
        pieces=file.pieces,
        recorded_pieces=done.pieces,
        lines=done.lines,
        created=done.created,
        unchanged=done.unchanged,
        outvoted=done.outvoted,
        refused=done.refused,
        reasons=reasons,
        finished_at=done.recorded_at if finished else None,
    )


async def _visible(held: Resources[ServiceSettings], caller: Caller, import_id: str) -> ImportFile:
    async with held.database.begin() as tx:
        file = await import_files.find(tx, import_id)
    if file is None:
        raise NotFound("no such import", reasons=[Reason("import_id", "unknown_import")])
    _may_import(caller, file.sender_id)
    return file


def _may_import(caller: Caller, sender_id: str | None) -> None:
    """Raises Forbidden."""
    if sender_id is not None:
        caller.may_use(sender_id)
    elif caller.senders is not None:
        raise Forbidden("the token does not cover every sender", reasons=[Reason("sender_id", "sender_not_granted")])


def _mismatch(file: ImportFile) -> OffsetMismatch:
    detail = f"{file.received_bytes} bytes are here"
    return OffsetMismatch(
        detail,
        reasons=[Reason("Upload-Offset", "mismatch", detail)],
        headers={"Upload-Offset": str(file.received_bytes)},
    )


def _import_id(caller: Caller, key: str | None) -> str:
    seed = f"{caller.subject}\x1f{key}" if key is not None else str(uuid4())
    return f"imp-{hashlib.sha256(seed.encode()).hexdigest()[:24]}"
