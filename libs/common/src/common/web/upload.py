"""Resumable uploads, the same in every service: tus 1.0 (tus.io/protocols/resumable-upload).

`PATCH` appends bytes at `Upload-Offset`, which `HEAD` tells. The length may come later than the upload's opening
(creation-defer-length).

A service stores the last bytes together with the completion, once the body has ended: a client that reads an offset
equal to the length sends nothing more. After a break in between, the client sends the last bytes again.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Self

from fastapi import Header, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from common.web.fields import BIGINT
from common.web.problems import (
    Conflict,
    Invalid,
    Malformed,
    NotTheMediaType,
    PreconditionFailed,
    Problem,
    Reason,
    TooLarge,
)

VERSION = "1.0.0"
OCTETS = "application/offset+octet-stream"
STALLED_S = 30.0  # without a byte of the body

Offset = Annotated[int, Header(alias="Upload-Offset", ge=0, le=BIGINT)]
Length = Annotated[
    int | None, Header(alias="Upload-Length", ge=1, le=BIGINT, description="Bytes of the whole file, once known.")
]
BODY = {
    "requestBody": {
        "required": True,
        "content": {OCTETS: {"schema": {"type": "string", "format": "binary"}, "example": "number\n06 39 98 12 34\n"}},
    }
}


DRY_RUN_BYTES = 8 * 1024 * 1024  # held in memory: about a hundred thousand lines
DRY_RUN_LINES = 10  # shown as read
DRY_RUN_REFUSALS = 100
DRY_RUN_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary"},
                "example": "Téléphone;Ville\n06 39 98 12 34;Nîmes\n",
            }
        },
    }
}


class ColumnRead(BaseModel):
    """A column of a tried file, with the meaning that the reader took the column for."""

    place: int = Field(description="The place of the column in the header, from 1.")
    title: str = Field(examples=["Téléphone"], description="The title, as the file has it.")
    taken_for: str = Field(
        examples=["number"],
        description="The meaning, such as `number` or `occurred_at`; `attribute` of a contact; `other_number`, a"
        " further number, which is left out; `of_no_use`, known and left out; `unknown`.",
    )


class LineRead(BaseModel):
    """A line of a tried file, as read."""

    line: int = Field(description="The line of the file at which the record begins, from 1.")
    read: dict[str, str] = Field(
        examples=[{"number": "+33639981234", "occurred_at": "2026-03-02T13:05:00+00:00"}],
        description="The values by their meaning; numbers in E.164, instants in UTC.",
    )


class LineRefused(BaseModel):
    """A line of a tried file that an import would refuse."""

    line: int = Field(description="The line of the file at which the record begins, from 1.")
    field: str | None = Field(description="The field that the reason is about; null for the line as a whole.")
    reason: str = Field(description="The reason, as an import gives it.")


class FileProblem(BaseModel):
    """Why an import would refuse the whole file."""

    reason: str = Field(description="The reason, as an import gives it.")
    detail: str


class DryRun(BaseModel):
    """What an import would read in a file. Nothing of the file is stored, and nobody's consent changes."""

    bytes: int = Field(description="Bytes of the file that came.")
    charset: str | None = Field(description="The encoding, decided from all bytes; null where none is sure.")
    delimiter: str | None = Field(description="The separator of cells; null for NDJSON, or before the header is read.")
    encoded_twice: bool = Field(description="Some letters look like UTF-8 decoded wrongly and saved again: Ã© for é.")
    file_refused: FileProblem | None = Field(description="Why the whole file would be refused; null where it is read.")
    columns: list[ColumnRead] = Field(description="The columns of a CSV, in the order of the header.")
    unknown_columns: list[str] = Field(
        examples=[["Pointure"]], description="The titles of the columns with an unknown meaning."
    )
    first_lines: list[LineRead] = Field(description=f"The first {DRY_RUN_LINES} lines that would be taken, as read.")
    lines: int = Field(description="The lines of the file, without blank lines and the header.")
    refused: int = Field(description="Lines that the import would refuse.")
    reasons: dict[str, int] = Field(description="Refused lines by reason.")
    refusals: list[LineRefused] = Field(description=f"The first {DRY_RUN_REFUSALS} refusals, in file order.")

    @classmethod
    def of_nothing(cls, size: int) -> Self:
        """Return the answer before the first line is read. `size`: bytes of the file."""
        return cls(
            bytes=size,
            charset=None,
            delimiter=None,
            encoded_twice=False,
            file_refused=None,
            columns=[],
            unknown_columns=[],
            first_lines=[],
            lines=0,
            refused=0,
            reasons={},
            refusals=[],
        )


async def tried_file(request: Request) -> bytes:
    """Return the body of a dry run. Raises TooLarge: a longer file is tried by its first lines."""
    try:
        return b"".join([part async for part in Stream(request, DRY_RUN_BYTES)])
    except TooLarge as error:
        raise TooLarge(
            f"at most {DRY_RUN_BYTES} bytes: send the first lines of the file", reasons=[Reason("body", "too_large")]
        ) from error


class OffsetMismatch(Conflict):
    """The bytes do not continue the upload: another number of bytes is here.

    Send the bytes from the offset on that the field `Upload-Offset` of the answer names.
    """

    slug, title = "mismatching-upload-offset", "The upload is at another offset"
    tells = ("Upload-Offset",)


class UploadComplete(Conflict):
    """The whole file is here, and takes no more bytes.

    Read the import to see its progress. Open another import for another file.
    """

    slug, title = "upload-complete", "The file is complete already"


class UploadInProgress(Conflict):
    """Another request sends bytes of this upload at this moment.

    Wait as many seconds as `Retry-After` says, and ask for the offset by HEAD.
    """

    slug, title = "upload-in-progress", "Another request is at work on this upload"
    tells = ("Retry-After",)

    def __init__(self) -> None:
        super().__init__(
            "send the request again in a moment", reasons=[Reason(None, "in_progress")], headers={"Retry-After": "1"}
        )


class UploadRoute(APIRoute):
    """A route of an upload: tells the version of tus, and refuses another with 412."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                _check(request)
                answer = await handle(request)
            except Problem as problem:
                problem.headers["Tus-Resumable"] = VERSION
                raise
            answer.headers["Tus-Resumable"] = VERSION
            return answer

        return handled


def _check(request: Request) -> None:
    """Raise PreconditionFailed for another version, and NotTheMediaType for another media type."""
    if request.headers.get("tus-resumable", VERSION) != VERSION:
        raise PreconditionFailed(
            f"`Tus-Resumable` is not {VERSION}",
            reasons=[Reason("Tus-Resumable", "unsupported_version")],
            headers={"Tus-Version": VERSION},
        )
    if request.method == "PATCH" and media_type(request) != OCTETS:
        raise NotTheMediaType(f"send the bytes as {OCTETS}", reasons=[Reason("Content-Type", "unsupported_media_type")])


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def discovery(max_bytes: int | None = None) -> Response:
    """Answer OPTIONS with the supported parts of tus."""
    headers = {"Tus-Version": VERSION, "Tus-Extension": "creation,creation-defer-length"}
    return Response(status_code=204, headers=headers | ({} if max_bytes is None else {"Tus-Max-Size": str(max_bytes)}))


@dataclass(frozen=True, slots=True)
class Upload:
    """How much of a file is here. `length`: `None` while unknown."""

    offset: int
    length: int | None
    complete: bool

    def going_on(self, offset: int, length: int | None) -> int | None:
        """Return the file's length as of this PATCH. Raises UploadComplete, OffsetMismatch, Invalid."""
        if self.complete:
            raise UploadComplete("open another upload", reasons=[Reason("Upload-Offset", "complete")])
        if self.offset != offset:
            raise mismatch(self.offset)
        if length is not None and (length < offset or self.length not in (None, length)):
            raise Invalid(
                f"`Upload-Length` is {self.length:,}, and cannot change"
                if self.length is not None
                else f"`Upload-Length` is below the {offset:,} bytes that are here",
                reasons=[Reason("Upload-Length", "mismatch")],
            )
        return self.length if length is None else length

    def told(self, status_code: int) -> Response:
        """Return an answer to HEAD (200) or PATCH (204)."""
        length = {"Upload-Defer-Length": "1"} if self.length is None else {"Upload-Length": str(self.length)}
        headers = {"Upload-Offset": str(self.offset), "Cache-Control": "no-store", **length}
        return Response(status_code=status_code, headers=headers)


def mismatch(offset: int) -> OffsetMismatch:
    detail = f"{offset:,} bytes are here"
    return OffsetMismatch(
        detail, reasons=[Reason("Upload-Offset", "mismatch", detail)], headers={"Upload-Offset": str(offset)}
    )


class Stream:
    """A request's body, counted and hashed on arrival. Raises TooLarge, and Malformed if it breaks off."""

    def __init__(self, request: Request, max_bytes: int | None = None) -> None:
        self._stream = request.stream()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._digest = hashlib.sha256()
        announced = request.headers.get("content-length", "")
        if announced.isdigit():
            self._bound(int(announced))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the parts without the empty last."""
        while (part := await self._next()) is not None:
            if part:
                self._bytes += len(part)
                self._bound(self._bytes)
                self._digest.update(part)
                yield part

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    async def _next(self) -> bytes | None:
        try:
            async with asyncio.timeout(STALLED_S):
                return await anext(self._stream, None)
        except TimeoutError as error:
            raise Malformed("the body stopped arriving", reasons=[Reason("body", "stalled")]) from error
        except ClientDisconnect as error:
            raise Malformed("the body ended early", reasons=[Reason("body", "disconnected")]) from error

    def _bound(self, many: int) -> None:
        if self._max_bytes is not None and many > self._max_bytes:
            raise TooLarge(f"at most {self._max_bytes:,} bytes", reasons=[Reason("body", "too_large")])
