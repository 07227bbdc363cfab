"""Serve imports over HTTP: open an import with its terms, upload the file in parts, follow progress, read verdicts.

Memory never holds the whole file, nor the disk a number in clear. No line counts until the file is complete.
"""

import zlib
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from operator import attrgetter
from typing import Annotated, Literal
from zoneinfo import available_timezones

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts.consent import Basis
from common.files import charset
from common.files.charset import Seen
from common.files.cutting import PIECE_BYTES, Format, Piece, Shape, cut, shape_of
from common.files.instants import Order
from common.files.refused import FileRefused
from common.service import Resources, resources
from common.settings import ServiceSettings
from common.web.auth import Caller, require
from common.web.fields import NumberCountry, Short, Storable, without_number
from common.web.idempotency import Key, KeyReused, claim, derived_id, fingerprint_of, keyed, same
from common.web.openapi import refuses, tells
from common.web.pagination import LIMIT, SORTED, Cursor, Limit, OfSender, Page, Sort, next_of, position
from common.web.problems import Forbidden, Invalid, NotFound, NotTheMediaType, Reason, TooLarge
from common.web.streaming import Streamed
from common.web.upload import (
    BODY,
    Length,
    Offset,
    OffsetMismatch,
    Stream,
    Upload,
    UploadComplete,
    UploadRoute,
    discovery,
    mismatch,
)
from consent.bodies import Body, EvidenceBody, Instant
from consent.imports import files as import_files
from consent.imports import lines
from consent.imports.files import ImportFile, Progress, SealedPiece
from consent.imports.statements import asked, kind_of
from consent.senders import store

router = APIRouter(prefix="/v1", tags=["imports"], route_class=UploadRoute)

HEADER = b"line,verdict,reasons\n"
HEADERS = {"en": HEADER, "fr": b"ligne,verdict,motifs\n"}


class ImportSettings(ServiceSettings):
    import_max_bytes: int = Field(1_000_000_000, ge=1)  # about ten million lines


async def at_home(held: Annotated[Resources[ImportSettings], Depends(resources)]) -> Resources[ImportSettings]:
    """Return the resources with the database of the files: the shard of partition 0."""
    return held.of_shard(held.shards.first)


Held = Annotated[Resources[ImportSettings], Depends(at_home)]
Writer = Annotated[Caller, Depends(require("consent:write", limited=False))]  # of opt-outs, among others
Reader = Annotated[Caller, Depends(require("consent:read", "consent:write"))]
Verdict = Literal["created", "unchanged", "outvoted", "refused"]


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("no time zone of that name, as in Europe/Paris")
    return name


TimeZone = Annotated[str, StringConstraints(max_length=64), AfterValidator(_known_zone)]


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

    kind: Literal["consents", "suppressions"] = Field(
        description="`consents`: opt-ins, and opt-outs on their lines. `suppressions`: opt-outs alone."
    )
    sender_id: Short | None = Field(description="Null only for suppressions: every sender.")
    format: Format = Field(description="The format of the file, in UTF-8, UTF-16, Windows-1252 or ISO-8859-15.")
    purpose: Short | None = Field(
        None,
        description="The purpose of opt-ins and suppressions; null: each line names its own. A suppression without"
        " a purpose is of every purpose.",
    )
    basis: Basis = Field("opt_in", description="The basis of opt-ins whose line names none.")
    occurred_at: Instant | None = Field(None, description="The date of a suppression list. Default: now.")
    country: NumberCountry = None
    time_zone: TimeZone | None = Field(
        None,
        description="The time zone of local dates of a CSV, such as `Europe/Paris`. Without a time zone a date needs an"
        " offset. A time that the clocks showed twice or never is refused.",
    )
    date_order: Order | None = Field(
        None,
        description="Of dates such as 03/11/2026: `day_first` or `month_first`. Without an order such a date is refused"
        " unless one of the two numbers can only be a day.",
    )
    other_columns: Literal["refuse", "ignore"] = Field(
        "refuse",
        description="Of columns with an unknown title: `refuse` the file, so that a mistyped title of proof loses"
        " nothing in silence, or `ignore` these columns.",
    )
    evidence: EvidenceBody

    @field_validator("evidence")
    @classmethod
    def _of_nobody(cls, evidence: EvidenceBody) -> EvidenceBody:
        """Refuse a number: the terms are of every line, and stay after a person's erasure."""
        for value in evidence.model_dump(exclude_none=True).values():
            without_number(value)
        return evidence

    @model_validator(mode="after")
    def _consistent(self) -> "Terms":
        if self.sender_id is None and (self.kind == "consents" or self.purpose is not None):
            raise ValueError("sender_id: a consent, and a purpose, is one sender's own")
        if self.kind == "consents" and self.occurred_at is not None:
            raise ValueError("occurred_at: of a consent each line says it")
        return self


class Import(BaseModel):
    """An import and its counts. Each line that is not blank gets one of four verdicts."""

    import_id: str
    kind: str = Field(description="The content of the file: `consents` or `suppressions`.")
    sender_id: str | None = Field(description="The sender of the lines; null: suppressions of every sender.")
    format: str = Field(description="The format of the file.")
    status: Literal["uploading", "recording", "done"] = Field(
        description="`uploading`: bytes are missing. `recording`: the file is here, and lines are still to be recorded."
    )
    created_at: datetime
    bytes: int | None = Field(description="The whole file's length; null until the caller names the length.")
    received_bytes: int = Field(description="Bytes of the file received: the offset to continue the upload from.")
    pieces: int = Field(description="Pieces that the file was cut into so far.")
    recorded_pieces: int = Field(description="Pieces whose lines are recorded.")
    lines: int = Field(description="Lines recorded so far, blank lines included.")
    created: int = Field(description="Lines recorded with a change.")
    unchanged: int = Field(description="Lines known before, or without a change.")
    outvoted: int = Field(
        description="Opt-ins that a newer STOP or an expiry outweighs, or that stand against a STOP of the"
        " person's own (`stopped_by_person`): kept in the ledger, without effect."
    )
    refused: int = Field(description="Lines refused and not kept; the verdicts have each with its reasons.")
    reasons: dict[str, int] = Field(description="Lines by reason: refused lines, and `stopped_by_person`.")
    finished_at: datetime | None = Field(description="The time of the last record; null before the end.")


CSV = {"schema": {"type": "string", "format": "binary"}, "example": HEADER.decode() + "1,created,\n"}
VERDICTS: dict[int | str, dict[str, object]] = {200: {"content": {"text/csv": CSV}}}


@router.post(
    "/imports",
    operation_id="consent_imports.create",
    status_code=201,
    response_model=Import,
    responses=tells(201, "Location") | refuses(NotFound),
)
async def open_import(
    body: Terms,
    request: Request,
    caller: Writer,
    held: Held,
    key: Key = None,
    length: Length = None,
) -> Response:
    """Open an import, or return the first answer to the request that opened an import under this Idempotency-Key.

    The file itself goes to the import's `Location`.
    """
    if body.sender_id is not None:
        await caller.may_use(body.sender_id)
    elif not caller.everywhere:
        raise Forbidden(
            "only the platform's operator may import for every sender: name `sender_id`",
            reasons=[Reason("sender_id", "sender_not_granted")],
        )
    now = datetime.now(UTC)
    repeated = await keyed(request, caller, key, held.subject_keys)
    wanted = ImportFile(
        import_id=derived_id("imp", caller, key),
        created_by=caller.subject,
        fingerprint=repeated.fingerprint if repeated else await fingerprint_of(request, held.subject_keys),
        sender_id=body.sender_id,
        kind=body.kind,
        format=body.format,
        terms=body.model_dump_json(exclude={"kind", "sender_id", "format"}),
        bytes=length,
        created_at=now,
    )
    _check_length(length, held.settings.import_max_bytes)
    async with held.database.begin() as tx:
        claimed = await claim(tx, repeated)
        if claimed.answer is None and body.sender_id is not None:
            purposes = (await store.purposes_of(tx, {body.sender_id})).get(body.sender_id)
            if purposes is None:
                raise NotFound("no such sender", reasons=[Reason("sender_id", "unknown_sender")])
            if body.purpose is not None and body.purpose not in purposes.ever:
                raise Invalid(
                    "the sender has no such purpose: add it to the sender first",
                    reasons=[Reason("purpose", "unknown_purpose")],
                )
        file = await import_files.add(tx, wanted)
        same(file.fingerprint, wanted.fingerprint)
        if length is not None and file.bytes != length:
            raise KeyReused
        if claimed.answer is not None:
            return claimed.answer.response()
        [shown] = await _shown(tx, [file])
        return await claimed.keep(tx, shown, 201, {"Location": f"/v1/imports/{file.import_id}"})


@router.get("/imports", operation_id="consent_imports.list")
async def list_imports(
    caller: Reader,
    held: Held,
    sender_id: OfSender = None,
    sort: Sort = "newest",
    cursor: Cursor = None,
    limit: Limit = LIMIT,
) -> Page[Import]:
    """List the imports of the senders your token covers, or of `sender_id`, by the time of their opening.

    Only the platform's operator sees imports for every sender.
    """
    covered = await caller.covered(sender_id)
    after = position(cursor, tuple[datetime, str])
    every = sender_id is None and caller.everywhere
    async with held.database.begin() as tx:
        found = await import_files.listed(tx, covered, after, limit, SORTED[sort], of_every_sender=every)
        items = await _shown(tx, found)
    return Page[Import](items=items, next=next_of(found, limit, attrgetter("created_at", "import_id")))


@router.options("/imports", operation_id="consent_imports.discover", status_code=204)
async def discover_uploads(caller: Writer, held: Held) -> Response:
    """Return the version and the extensions of tus, and the size of a file at most."""
    return discovery(held.settings.import_max_bytes)


@router.head(
    "/imports/{import_id}",
    operation_id="consent_imports.get_offset",
    response_class=Response,
    responses=tells(200, "Upload-Offset", "Upload-Length"),
)
async def tell_offset(import_id: Storable, caller: Writer, held: Held) -> Response:
    """Return how much of the file has arrived: an interrupted upload goes on from `Upload-Offset`."""
    return _upload(await visible(held, caller, import_id)).told(200)


@router.patch(
    "/imports/{import_id}",
    operation_id="consent_imports.upload",
    status_code=204,
    openapi_extra=BODY,
    responses=tells(204, "Upload-Offset", "Upload-Length")
    | refuses(OffsetMismatch, UploadComplete, NotTheMediaType, TooLarge),
)
async def upload(
    import_id: Storable, request: Request, caller: Writer, held: Held, offset: Offset, length: Length = None
) -> Response:
    """Append bytes to the file from `Upload-Offset` on. The byte that reaches `Upload-Length` completes the file.

    409 for a wrong offset: `HEAD` tells the right one.
    """
    file = await visible(held, caller, import_id)
    whole, most = _upload(file).going_on(offset, length), held.settings.import_max_bytes
    _check_length(whole, most)
    body = Stream(request, (most if whole is None else whole) - offset)
    try:
        file = await _Arriving(held, file, whole).take(body)
    except FileRefused as error:
        raise Invalid(str(error), reasons=[Reason("body", error.reason)]) from error
    return _upload(file).told(204)


@router.get("/imports/{import_id}", operation_id="consent_imports.get")
async def get_import(import_id: Storable, caller: Reader, held: Held) -> Import:
    """Return an import's upload and recording progress."""
    return await _view(held, await visible(held, caller, import_id))


@router.get(
    "/imports/{import_id}/verdicts",
    operation_id="consent_imports.get_verdicts",
    response_class=Response,
    responses=VERDICTS,
)
async def get_verdicts(
    import_id: Storable,
    caller: Reader,
    held: Held,
    verdict: Annotated[Verdict | None, Query(description="Only lines with this verdict.")] = None,
    titles: Annotated[
        Literal["en", "fr"], Query(description="The language of the header; reasons stay as they are.")
    ] = ("en"),
) -> Streamed:
    """Return a CSV with each line's verdict by line number, and no phone numbers.

    During recording the CSV ends before the first unrecorded piece.
    """
    file = await visible(held, caller, import_id)
    return Streamed(_verdicts(held, file, verdict, HEADERS[titles]), media_type="text/csv; charset=utf-8")


class _Arriving:
    """An upload in progress. The pieces of some PIECE_BYTES are stored in a transaction."""

    def __init__(self, held: Resources[ImportSettings], file: ImportFile, whole: int | None) -> None:
        """`whole`: the bytes of the file, if known."""
        self._held = held
        self._file = file
        self._whole = whole
        self._format: Format = "csv" if file.format == "csv" else "ndjson"
        self._shape = import_files.shape(file)

    async def take(self, parts: AsyncIterable[bytes]) -> ImportFile:
        """Store all parts and return the import as stored. Raises FileRefused, OffsetMismatch.

        The piece with the last byte waits for the end of the parts: a break or an excess byte before completes nothing.
        """
        arrived = bytearray(self._rest())
        cut_at = len(arrived) + PIECE_BYTES
        async for part in parts:
            arrived += part
            if len(arrived) >= cut_at and self._kept_bytes + len(arrived) != self._whole:
                arrived = bytearray(await self._keep(bytes(arrived), last=False))
                cut_at = len(arrived) + PIECE_BYTES
        total = self._kept_bytes + len(arrived)
        rest = await self._keep(bytes(arrived), last=total == self._whole)
        if not self._file.complete:
            sealed = self._sealed(rest, "rest") if rest else None
            await self._put(self._as_of(replace(self._file, received_bytes=total, rest=sealed)))
        return self._file

    async def _keep(self, arrived: bytes, *, last: bool) -> bytes:
        """Store the whole pieces of the bytes and return the bytes left. The last piece decides the encoding."""
        self._shape = self._shape or shape_of(arrived, self._format, last=last)
        if self._shape is None:
            return arrived
        pieces, rest = cut(arrived, self._shape, last=last)
        seen = Seen(self._file.seen)
        for piece in pieces:
            seen |= charset.seen_in(piece.body)
        if last and not self._shape.wide:
            charset.decided(seen)
        if pieces:
            await self._keep_pieces(pieces, self._shape, seen)
        return rest

    async def _keep_pieces(self, pieces: Sequence[Piece], shape: Shape, seen: Seen) -> None:
        """Store these pieces, some PIECE_BYTES, in a transaction."""
        file, sealed = replace(self._file, seen=int(seen)), []
        kept_bytes = self._kept_bytes
        for piece in pieces:
            first_line, behind = file.next_line, piece
            if file.pieces == 0:
                layout, behind = lines.begun(
                    piece, shape, kind_of(file), ignore_others=asked(file).other_columns == "ignore"
                )
                file = replace(
                    file,
                    delimiter=shape.delimiter or None,
                    columns=layout.columns or None,
                    line_end=shape.line_end,
                    wide=shape.wide,
                )
                first_line += piece.lines - behind.lines
            body = self._sealed(behind.body, str(file.pieces))
            sealed.append(SealedPiece(file.pieces, first_line, behind.lines, body))
            kept_bytes += piece.arrived
            file = replace(
                file,
                received_bytes=kept_bytes,
                rest=None,
                pieces=file.pieces + 1,
                next_line=file.next_line + piece.lines,
            )
        await self._put(self._as_of(file), sealed)

    def _as_of(self, file: ImportFile) -> ImportFile:
        """Return the import, complete after `whole` bytes."""
        return replace(file, bytes=self._whole, complete=file.received_bytes == self._whole)

    async def _put(self, file: ImportFile, sealed: Sequence[SealedPiece] = ()) -> None:
        """Store the progress. Raises OffsetMismatch if another request has continued the upload."""
        now = datetime.now(UTC)
        async with self._held.database.begin() as tx:
            held = await import_files.find(tx, file.import_id, lock=True)
            if held != self._file:
                raise mismatch((held or file).received_bytes)
            await import_files.put_pieces(tx, file.import_id, sealed, now)
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


async def _verdicts(
    held: Resources[ImportSettings], file: ImportFile, only: Verdict | None, header: bytes
) -> AsyncIterator[bytes]:
    yield header
    for piece in range(file.pieces):
        async with held.database.begin() as tx:
            deflated = await import_files.verdicts(tx, file.import_id, piece)
        if deflated is None:
            return
        lines = zlib.decompress(deflated)
        if only is not None:
            told = f",{only},".encode()
            lines = b"".join(line for line in lines.splitlines(keepends=True) if told in line)
        yield lines


async def _view(held: Resources[ImportSettings], file: ImportFile) -> Import:
    async with held.database.begin() as tx:
        [shown] = await _shown(tx, [file])
    return shown


async def _shown(tx: AsyncConnection, files: Sequence[ImportFile]) -> list[Import]:
    totals = await import_files.progress(tx, [file.import_id for file in files])
    return [_body(file, totals.get(file.import_id, import_files.NOTHING_YET)) for file in files]


def _body(file: ImportFile, done: Progress) -> Import:
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
        reasons=dict(done.reasons),
        finished_at=done.recorded_at if finished else None,
    )


async def visible(held: Resources[ImportSettings], caller: Caller, import_id: str) -> ImportFile:
    async with held.database.begin() as tx:
        file = await import_files.find(tx, import_id)
        if file is not None and file.sender_id is None and caller.everywhere:
            return file
        missing = NotFound("no such import", reasons=[Reason("import_id", "unknown_import")])
        return await caller.theirs(tx, file, missing)


def _check_length(length: int | None, most: int) -> None:
    """Raises TooLarge."""
    if length is not None and length > most:
        raise TooLarge(f"at most {most:,} bytes; split the file", reasons=[Reason("Upload-Length", "too_large")])


def _upload(file: ImportFile) -> Upload:
    return Upload(file.received_bytes, file.bytes, file.complete)
