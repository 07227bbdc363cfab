"""A client of resumable uploads, as tus-js-client is one: what it sends, and what it reads of an answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = {"Content-Type": "application/offset+octet-stream"}


async def patched(
    client: httpx.AsyncClient,
    url: str,
    body: Any,
    offset: int,
    length: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    named = {} if length is None else {"Upload-Length": str(length)}
    said = {**TUS, **OCTETS, "Upload-Offset": str(offset), **named, **(headers or {})}
    return await client.patch(url, content=body, headers=said)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes


async def broken_off(
    client: httpx.AsyncClient, method: str, url: str, headers: Mapping[str, str], *parts: bytes
) -> Answer:
    """Send these parts of a body, and end the connection."""
    coming: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    told: list[dict[str, Any]] = []

    async def receive() -> Any:
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.append(message)

    path, _, query = url.partition("?")
    merged = {name.lower(): value for name, value in {**client.headers, **headers}.items()}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in merged.items()],
        "server": ("service", 80),
        "client": ("127.0.0.1", 1),
    }
    transport: Any = client._transport
    await transport.app(scope, receive, send)
    return Answer(told[0]["status"], b"".join(message.get("body", b"") for message in told))


async def resumed(client: httpx.AsyncClient, location: str, file: bytes, cut_at: int) -> None:
    """Upload a file whose connection breaks behind `cut_at` bytes: ask for the offset, and go on from there.

    Checks what tus-js-client reads of each answer.
    """
    first = {**TUS, **OCTETS, "Upload-Offset": "0"}
    parts = file[: cut_at // 2], file[cut_at // 2 : cut_at]
    assert (await broken_off(client, "PATCH", location, first, *parts)).status == 400
    offset = await told_offset(client, location, len(file))
    assert 0 < offset <= cut_at
    behind = await patched(client, location, file[offset + 1 :], offset + 1)
    assert (behind.status_code, behind.json()["type"]) == (409, "/problems/mismatching-upload-offset")
    assert await told_offset(client, location, len(file)) == offset
    answer = await patched(client, location, file[offset:], offset)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (answer.headers["Upload-Offset"], answer.headers["Tus-Resumable"]) == (str(len(file)), "1.0.0")
    assert await told_offset(client, location, len(file)) == len(file), "the client then knows that all is here"


async def told_offset(client: httpx.AsyncClient, location: str, length: int | None) -> int:
    answer = await client.head(location, headers=TUS)
    assert (answer.status_code, answer.content) == (200, b"")
    assert (answer.headers["Tus-Resumable"], answer.headers["Cache-Control"]) == ("1.0.0", "no-store")
    if length is None:
        assert (answer.headers["Upload-Defer-Length"], answer.headers.get("Upload-Length")) == ("1", None)
    else:
        assert (answer.headers["Upload-Length"], answer.headers.get("Upload-Defer-Length")) == (str(length), None)
    return int(answer.headers["Upload-Offset"])


async def check_refusals(client: httpx.AsyncClient, location: str) -> None:
    """Check what tus asks a server to refuse, of an upload at the offset 0."""
    other = await client.head(location, headers={"Tus-Resumable": "0.2.2"})
    assert (other.status_code, other.headers["Tus-Version"], other.headers["Tus-Resumable"]) == (412, "1.0.0", "1.0.0")
    typed = await patched(client, location, b"x", 0, headers={"Content-Type": "text/csv"})
    assert (typed.status_code, typed.json()["type"]) == (415, "/problems/unsupported-media-type")
    empty = await patched(client, location, b"", 0, 0)
    assert (empty.status_code, empty.json()["reasons"][0]["field"]) == (422, "Upload-Length")
    nowhere = await client.head(location[:-1] + "_", headers=TUS)
    assert (nowhere.status_code, nowhere.headers.get("Upload-Offset")) == (404, None)
    assert await told_offset(client, location, None) == 0
    found = await client.options(location.rpartition("/")[0], headers=TUS)
    assert (found.status_code, found.headers["Tus-Version"]) == (204, "1.0.0")
    assert set(found.headers["Tus-Extension"].split(",")) == {"creation", "creation-defer-length"}


async def check_break_behind_the_last_byte(
    client: httpx.AsyncClient, location: str, file: bytes, *extra: bytes
) -> None:
    """Send all bytes of an upload opened with its length, and `extra`, and end the connection before the body's end.

    Checks that a client of tus then finds an incomplete upload below its length, and completes the upload.
    """
    said = {**TUS, **OCTETS, "Upload-Offset": "0"}
    answer = await broken_off(client, "PATCH", location, said, file[:-1], file[-1:], *extra)
    assert answer.status == (413 if extra else 400)
    offset = await told_offset(client, location, len(file))
    assert offset < len(file), "the client would send nothing more"
    assert (await client.get(location)).json()["status"] == "uploading"
    assert (await patched(client, location, file[offset:], offset)).status_code == 204
    assert await told_offset(client, location, len(file)) == len(file)
    assert (await client.get(location)).json()["status"] != "uploading"


async def check_length_named_with_bytes(client: httpx.AsyncClient, location: str, file: bytes) -> None:
    """Name the length of a deferred upload with the first bytes: the length holds from then on, and cannot change."""
    assert (await patched(client, location, file[:4], 0, len(file))).status_code == 204
    assert await told_offset(client, location, len(file)) == 4
    for other in (len(file) - 1, len(file) + 1):
        changed = await patched(client, location, file[4:other], 4, other)
        assert changed.status_code == 422
        assert [(r["field"], r["reason"]) for r in changed.json()["reasons"]] == [("Upload-Length", "mismatch")]
    assert (await patched(client, location, file[4:], 4)).status_code == 204
    assert await told_offset(client, location, len(file)) == len(file)
    assert (await client.get(location)).json()["status"] != "uploading"


async def check_length_named_last(client: httpx.AsyncClient, location: str, file: bytes) -> None:
    """Name the length of a deferred upload once all bytes are here: the length holds only with the completion."""
    assert (await patched(client, location, file, 0)).status_code == 204
    said = {**TUS, **OCTETS, "Upload-Offset": str(len(file)), "Upload-Length": str(len(file))}
    assert (await broken_off(client, "PATCH", location, said)).status == 400
    assert await told_offset(client, location, None) == len(file), "the client has yet to name the length"
    assert (await patched(client, location, b"", len(file), len(file))).status_code == 204
    assert await told_offset(client, location, len(file)) == len(file)
    assert (await client.get(location)).json()["status"] != "uploading"
