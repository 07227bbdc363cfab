"""The port of health: the world sees neither metrics nor health, and a full house does not look dead."""

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from common.db.database import new_metadata
from common.service import Service, create_app
from common.settings import ServiceSettings
from common.web.edge.ports import OF_HEALTH, listening
from common.web.server import server_of
from stack.processes import free_port
from tests.attack.wire import Peer
from tests.support.eventually import WITHIN_S, eventually, is_so
from tests.support.running import Surroundings

pytestmark = pytest.mark.brokerless


@pytest.fixture
async def ports(surroundings: Surroundings) -> AsyncIterator[tuple[int, int]]:
    port, health = free_port(), free_port()
    told = await surroundings.settings("dispatch", roles="api", port=port, health_port=health, connections=5)
    settings = ServiceSettings(**told)
    service = Service(name="dispatch", settings=settings, metadata=new_metadata())
    server = server_of(create_app(service), settings)
    serving = asyncio.create_task(server.serve(sockets=listening(settings)))
    try:
        await eventually(lambda: is_so(server.started or serving.done()))
        yield port, health
    finally:
        server.should_exit = True
        await serving


async def test_each_path_is_at_one_of_the_ports(ports: tuple[int, int]) -> None:
    async with httpx.AsyncClient(timeout=WITHIN_S) as http:
        for path in (*OF_HEALTH, "/docs", "/redoc", "/problems", "/nothing"):
            at_port, at_health = [(await http.get(f"http://127.0.0.1:{port}{path}")).status_code for port in ports]
            if path in OF_HEALTH:
                assert (at_port, at_health == 404) == (404, False), path
            else:
                assert (at_port, at_health) == (200 if path == "/problems" else 404, 404), path


async def test_a_crowd_at_the_routes_leaves_health_alone(ports: tuple[int, int]) -> None:
    port, health = ports
    crowd: list[Peer] = []
    for _ in range(20):
        crowd.append(Peer(*await asyncio.open_connection("127.0.0.1", port)))
    probe = Peer(*await asyncio.open_connection("127.0.0.1", health))
    for _ in range(20):
        crowd.append(Peer(*await asyncio.open_connection("127.0.0.1", port)))
    assert await probe.asks(b"GET /livez HTTP/1.1\r\nHost: placet\r\n\r\n") == 200
    for peer in (*crowd, probe):
        peer.writer.close()


def test_a_port_that_is_taken_stops_the_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServiceSettings.model_construct(host="127.0.0.1", port=taken.getsockname()[1], health_port=None)
        with pytest.raises(OSError, match="in use"):
            listening(settings)
