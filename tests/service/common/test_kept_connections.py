"""Operators keep their connections: one that is idle is not closed under a callback, and a service that stops says so
on each answer before it closes anything."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from common.db.database import new_metadata
from common.service import Service, create_app
from common.settings import ServiceSettings
from common.web.server import Server, server_of
from tests.support.eventually import eventually
from tests.support.running import Surroundings

pytestmark = pytest.mark.brokerless

LONGEST_OF_CLIENTS_S = 600  # Google's load balancer keeps an idle connection for so long, and it cannot be set


class Operator:
    """One that keeps its connection and sends its next callback on it, if it is not told to close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, path: str = "/callbacks") -> None:
        self._writer.write(f"POST {path} HTTP/1.1\r\nHost: inbound\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        await self._writer.drain()

    async def answer(self) -> httpx.Response:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.strip().split("\r\n")
        headers = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
        length = int(dict(headers).get("content-length", "0"))
        return httpx.Response(int(status.split()[1]), headers=headers, content=await self._reader.readexactly(length))

    async def callback(self) -> httpx.Response:
        await self.send()
        return await self.answer()

    async def is_closed(self) -> bool:
        return await self._reader.read() == b""


class Served:
    def __init__(self, server: Server, at: socket.socket, held: asyncio.Event) -> None:
        self.server, self.port, self.held = server, at.getsockname()[1], held
        self._writers: list[asyncio.StreamWriter] = []
        self._ended = asyncio.create_task(server.serve(sockets=[at]))

    async def operator(self) -> Operator:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return Operator(reader, writer)

    async def terminate(self) -> None:
        """As SIGTERM does."""
        self.server.should_exit = True

        async def leaves() -> bool:
            return self.server.leaving

        await eventually(leaves)

    async def ended(self) -> None:
        await self._ended

    async def stop(self) -> None:
        self.held.set()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        self.server.should_exit = True
        await self.ended()

    @property
    def has_ended(self) -> bool:
        return self._ended.done()


@asynccontextmanager
async def served(surroundings: Surroundings, **more: Any) -> AsyncIterator[Served]:
    routes, held = APIRouter(), asyncio.Event()

    @routes.post("/callbacks")
    async def callbacks() -> str:
        return "kept"

    @routes.post("/slow")
    async def slow() -> str:
        await held.wait()
        return "kept"

    at = socket.socket()
    at.bind(("127.0.0.1", 0))
    settings = ServiceSettings(**await surroundings.settings("dispatch", roles="api", **more))
    service: Service[Any] = Service(name="dispatch", settings=settings, metadata=new_metadata(), routers=[routes])
    it = Served(server_of(create_app(service), settings), at, held)

    async def is_up() -> bool:
        return it.server.started or it.has_ended

    try:
        await eventually(is_up)
        yield it
    finally:
        await it.stop()


async def test_a_kept_connection_outlasts_what_any_client_keeps(surroundings: Surroundings) -> None:
    async with served(surroundings) as it:
        assert (await (await it.operator()).callback()).status_code == 200
        [connection] = it.server.server_state.connections
        closes: asyncio.TimerHandle | None = vars(connection)["timeout_keep_alive_task"]
        assert closes is not None
        assert closes.when() - asyncio.get_running_loop().time() > LONGEST_OF_CLIENTS_S


async def test_a_service_that_stops_loses_no_callback_of_a_kept_connection(surroundings: Surroundings) -> None:
    async with served(surroundings, leave_s=60.0) as it:
        first, second = await it.operator(), await it.operator()
        for one in (first, second):
            assert "connection" not in (await one.callback()).headers
        await it.terminate()
        for one in (first, second, await it.operator()):
            answer = await one.callback()
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert await one.is_closed()
        await it.ended()  # at once: nobody is left


async def test_an_answer_that_is_under_way_as_the_service_stops_says_close(surroundings: Surroundings) -> None:
    async with served(surroundings, leave_s=60.0) as it:
        one = await it.operator()
        await one.callback()
        await one.send("/slow")

        async def under_way() -> bool:
            return bool(it.server.server_state.tasks)

        await eventually(under_way)
        await it.terminate()
        it.held.set()
        answer = await one.answer()
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert await one.is_closed()
        await it.ended()


async def test_an_idle_connection_is_closed_once_the_time_to_leave_is_over(surroundings: Surroundings) -> None:
    async with served(surroundings, leave_s=0.2) as it:
        one = await it.operator()
        await one.callback()
        await it.terminate()
        assert await one.is_closed()
        await it.ended()


async def test_a_service_that_leaves_is_not_ready(surroundings: Surroundings) -> None:
    async with served(surroundings, leave_s=60.0) as it:
        kept = await it.operator()
        await kept.callback()
        await it.terminate()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{it.port}") as http:
            answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert "it is stopping: no new requests should be sent here" in answer.json()["why"]
