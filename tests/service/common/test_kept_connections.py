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
from common.web import server as web_server
from common.web.server import Server, server_of
from tests.support.eventually import WITHIN_S, eventually
from tests.support.running import Surroundings

pytestmark = pytest.mark.brokerless

CALLBACK = "POST /callbacks HTTP/1.1\r\nHost: inbound\r\nContent-Length: 2\r\n\r\n{}"
LONGEST_OF_CLIENTS_S = 600  # Google's load balancer keeps an idle connection for so long, and it cannot be set


class Operator:
    """One that keeps its connection and sends its next callback on it, if it is not told to close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, path: str = "/callbacks") -> None:
        await self.write(CALLBACK.replace("/callbacks", path))

    async def write(self, piece: str) -> None:
        self._writer.write(piece.encode())
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

    async def refuses_connections(self) -> None:
        async def closed() -> bool:
            return not any(server.is_serving() for server in self.server.servers)

        await eventually(closed)

    @property
    def has_ended(self) -> bool:
        return self._ended.done()


@asynccontextmanager
async def served(surroundings: Surroundings, port: int = 0, **more: Any) -> AsyncIterator[Served]:
    routes, held = APIRouter(), asyncio.Event()

    @routes.post("/callbacks")
    async def callbacks() -> str:
        return "kept"

    @routes.post("/slow")
    async def slow() -> str:
        await held.wait()
        return "kept"

    at = socket.socket()
    at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    at.bind(("127.0.0.1", port))
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


async def test_a_callback_that_is_arriving_as_the_time_to_leave_ends_is_answered(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "ARRIVAL_S", 60.0)
    async with served(surroundings, leave_s=0.0) as it:
        kept, arriving = await it.operator(), await it.operator()
        await kept.callback()
        begun, rest = CALLBACK[:40], CALLBACK[40:]
        for one in (kept, arriving):
            await one.write(begun)

        async def all_are_there() -> bool:
            found = it.server.server_state.connections
            return len(found) == 2 and all(vars(one)["timeout_keep_alive_task"] is None for one in found)

        await eventually(all_are_there)
        await it.terminate()
        await it.refuses_connections()
        for one in (kept, arriving):
            await one.write(rest)
        for one in (kept, arriving):
            answer = await one.answer()
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            assert await one.is_closed()
        await it.ended()


async def test_a_connection_that_the_kernel_has_taken_is_not_reset_as_the_service_stops_listening(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "ARRIVAL_S", 60.0)
    async with served(surroundings, leave_s=0.0) as it:
        queued = socket.create_connection(("127.0.0.1", it.port))  # the event loop has not run since
        queued.sendall(CALLBACK.encode())
        await it.server._leave()
        await it.server._stop_listening()
        reader, writer = await asyncio.open_connection(sock=queued)
        answer = await Operator(reader, writer).answer()
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        writer.close()


async def test_a_restart_loses_and_refuses_no_callback(surroundings: Surroundings) -> None:
    """The new process listens on the same port as the old one, and every operator sends one callback after another."""
    stopping, answered = asyncio.Event(), 0

    async def calls(port: int) -> None:
        nonlocal answered
        while not stopping.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            one, kept = Operator(reader, writer), True
            while kept and not stopping.is_set():
                answer = await one.callback()
                assert answer.status_code == 200
                answered += 1
                kept = "connection" not in answer.headers
            writer.close()

    async with served(surroundings, leave_s=0.3) as old:
        operators = [asyncio.create_task(calls(old.port)) for _ in range(10)]

        async def so_many(more: int) -> None:
            wanted = answered + more

            async def are_answered() -> bool:
                assert not any(task.done() for task in operators)
                return answered >= wanted

            await eventually(are_answered)

        await so_many(50)
        async with served(surroundings, old.port) as new:
            await old.terminate()
            await old.ended()
            await so_many(50)
            assert len(new.server.server_state.connections) == len(operators)
            stopping.set()
            await asyncio.gather(*operators)


async def test_a_service_that_leaves_is_not_ready(surroundings: Surroundings) -> None:
    async with served(surroundings, leave_s=60.0) as it:
        kept = await it.operator()
        await kept.callback()
        await it.terminate()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{it.port}", timeout=WITHIN_S) as http:
            answer = await http.get("/readyz")
        assert answer.status_code == 503
        assert "it is stopping: no new requests should be sent here" in answer.json()["why"]
