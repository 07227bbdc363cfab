"""Upload a file by tus 1.0, part by part: ask for the offset, go on from there, also after a cut or another process."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeAlias, TypeVar

import httpx

from placet_client.flow import Flow, Wait, answered
from placet_client.operation import Resource, S, flow
from placet_client.problem import Conflict, CutOff, PlacetError, ServiceError, TooManyRequests, Unreachable
from placet_client.request import Request, Service
from placet_client.session import Options

T = TypeVar("T")

PART_BYTES = 4 * 1024 * 1024
LOOK_EVERY_S = 1.0
FRUITLESS = 8  # parts in a row without a new byte
OPEN = ("uploading", "recording")

File: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
Progress: TypeAlias = Callable[[int, int], None]  # bytes arrived, bytes of the file
TUS = {"Tus-Resumable": "1.0.0"}


class Uploads(Resource[S], Generic[S]):
    """Uploads of imports, in both services that take files."""

    _service: Service
    _import: Any  # the answer's type

    @flow
    def upload(
        self, options: Options, import_id: str, file: File, *, on_progress: Progress | None = None
    ) -> Flow[None]:
        """Send the file of an import, from the offset where the service stands.

        A break of the connection, or a restart of the service, is waited for. After a crash of this process call
        again with the same import and the same file. `file`: a path, bytes, or an open binary file.
        """
        with ExitStack() as held:
            yield from _sent(self._service, options, import_id, _opened(held, file), on_progress or _silent)

    @flow
    def wait(self, options: Options, import_id: str, *, on_progress: Callable[[Any], None] | None = None) -> Flow[Any]:
        """Return the import once each line is recorded, or recording failed. `on_progress` takes each look."""
        request: Request[Any] = Request(
            "GET", self._service, "/v1/imports/{import_id}", answer=self._import, names={"import_id": import_id}
        )
        while True:
            found = yield from answered(request, options.build, options.retrying)
            if on_progress is not None:
                on_progress(found)
            if found.status not in OPEN:
                return found
            yield Wait(LOOK_EVERY_S)


def _sent(service: Service, options: Options, import_id: str, file: BinaryIO, on_progress: Progress) -> Flow[None]:
    length = file.seek(0, os.SEEK_END)
    fruitless, offset = 0, -1
    while True:
        asked: Request[httpx.Headers] = Request(
            "HEAD", service, "/v1/imports/{import_id}", httpx.Headers, {"import_id": import_id}, headers=TUS
        )
        told = yield from answered(asked, options.build, options.retrying)
        arrived, whole = int(told["upload-offset"]), told.get("upload-length")
        if whole is not None and int(whole) != length:
            raise PlacetError(
                f"the import is of a file of {whole} bytes, and this file has {length}: open another import"
            )
        fruitless = 0 if arrived > offset else fruitless + 1
        if fruitless > FRUITLESS:
            raise CutOff(arrived)
        offset = arrived
        on_progress(offset, length)
        if whole is not None and offset == length:
            return
        try:
            offset = yield from _parts(service, options, import_id, file, offset, length, on_progress)
            return
        except (Unreachable, ServiceError, TooManyRequests, Conflict) as error:
            # a cut, a restart, or another request at work: ask for the offset, and go on
            yield Wait(0.0 if isinstance(error, Conflict) else options.retrying.base_s * 2.0 ** min(fruitless, 4))


def _parts(
    service: Service,
    options: Options,
    import_id: str,
    file: BinaryIO,
    offset: int,
    length: int,
    on_progress: Progress,
) -> Flow[int]:
    """Send all parts from `offset` on. The last part completes the file."""
    while True:
        file.seek(offset)
        part = file.read(PART_BYTES)
        if not part and offset < length:
            raise PlacetError("the file became shorter during the upload")
        sent: Request[httpx.Headers] = Request(
            "PATCH",
            service,
            "/v1/imports/{import_id}",
            httpx.Headers,
            {"import_id": import_id},
            headers={
                **TUS,
                "Content-Type": "application/offset+octet-stream",
                "Upload-Offset": offset,
                "Upload-Length": length,
            },
            content=part,
        )
        told = yield from answered(sent, options.build, options.retrying)
        offset = int(told["upload-offset"])
        on_progress(offset, length)
        if offset >= length:
            return offset


def _opened(held: ExitStack, file: File) -> BinaryIO:
    if isinstance(file, bytes):
        return BytesIO(file)
    if isinstance(file, (str, os.PathLike)):
        return held.enter_context(Path(file).open("rb"))
    return file


def _silent(arrived: int, length: int) -> None:
    """Ignore the progress."""
