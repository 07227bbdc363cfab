"""A service over real HTTP, and callers who write bytes of their own choice."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel
from starlette.routing import Route

from common.db.database import new_metadata
from common.service import Service, create_app
from common.settings import ServiceSettings
from common.web.auth import Caller, require
from common.web.server import Server, server_of
from tests.support.eventually import eventually, is_so
from tests.support.running import Surroundings


class Thing(BaseModel):
    name: str = ""


@dataclass
class Peer:
    """One connection of an attacker, or of an honest caller."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def write(self, piece: bytes) -> None:
        self.writer.write(piece)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(status.split()[1]), headers, body

    async def asks(self, request: bytes) -> int:
        await self.write(request)
        return (await self.answer())[0]

    async def is_closed(self) -> bool:
        """Wait for the end of the connection; return whether nothing more was said."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True


@dataclass
class Attacked:
    server: Server
    port: int
    held: asyncio.Event = field(default_factory=asyncio.Event)
    reached: int = 0  # the routes' own code
    callers: list[Peer] = field(default_factory=list)

    async def caller(self) -> Peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        found = Peer(reader, writer)
        self.callers.append(found)
        return found

    @property
    def open(self) -> int:
        return len(self.server.server_state.connections)


def post(path: str, body: bytes = b"{}", *headers: str, length: int | None = None) -> bytes:
    """Return a whole request, or one that announces more bytes than it has."""
    lines = [f"POST {path} HTTP/1.1", "Host: placet", f"Content-Length: {len(body) if length is None else length}"]
    return "".join(f"{line}\r\n" for line in (*lines, *headers)).encode() + b"\r\n" + body


STOP = post("/callbacks", b"From=moon&Body=STOP")


@asynccontextmanager
async def attacked(surroundings: Surroundings, **more: Any) -> AsyncIterator[Attacked]:
    """Serve a raw callback, a route of JSON with a scope, a route that streams, and a slow one."""
    routes = APIRouter()

    async def callbacks(request: Request) -> Response:
        body = b"".join([piece async for piece in request.stream()])
        it.reached += 1
        return Response(str(len(body)))

    @routes.post("/things")
    async def things(thing: Thing, caller: Annotated[Caller, Depends(require("consent:write"))]) -> int:
        it.reached += 1
        return len(thing.name)

    @routes.post("/forms")
    async def forms(request: Request) -> int:
        it.reached += 1
        return len(await request.body())

    @routes.post("/files")
    async def files(request: Request) -> int:
        it.reached += 1
        return sum([len(piece) async for piece in request.stream()])

    @routes.get("/large")
    async def large() -> Response:
        return Response(b"x" * 64 * 1024 * 1024)

    @routes.post("/slow")
    async def slow() -> str:
        it.reached += 1
        await it.held.wait()
        return "kept"

    at = socket.socket()
    at.bind(("127.0.0.1", 0))
    settings = ServiceSettings(**await surroundings.settings("dispatch", roles="api", **more))
    service: Service[Any] = Service(
        name="dispatch",
        settings=settings,
        metadata=new_metadata(),
        routers=[routes],
        quick=[Route("/callbacks", callbacks, methods=["POST"])],
        body_limits={"/files": None, "/things": 8 * 1024 * 1024},
    )
    it = Attacked(server_of(create_app(service), settings), at.getsockname()[1])
    serving = asyncio.create_task(it.server.serve(sockets=[at]))
    try:
        await eventually(lambda: is_so(it.server.started or serving.done()))
        yield it
    finally:
        it.held.set()
        for caller in it.callers:
            caller.writer.close()
            with contextlib.suppress(ConnectionError):
                await caller.writer.wait_closed()
        it.server.should_exit = True
        await serving


def errors(records: list[logging.LogRecord]) -> list[str]:
    """Return what a service logged as an error."""
    return [record.getMessage() for record in records if record.levelno >= logging.ERROR]
