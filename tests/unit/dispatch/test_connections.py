"""The connections of a gateway to a provider: opened gradually, bounded, and used only where the provider has them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from common.db.timer import uptime_s
from dispatch.gateways import (
    HTTP_PROVIDERS,
    Bounds,
    HttpGateway,
    Late,
    Result,
    SendError,
    Submit,
    Unanswered,
    Unreachable,
)
from tests.support.eventually import eventually
from tests.support.operators.accounts import ACCOUNTS, submit

PATIENT_S = 30.0
MANY = 32


@dataclass
class Kannel:
    """A provider that counts what it has: `unproven` are the connections that it has answered nothing on."""

    url: str = ""
    requests: int = 0
    connections: int = 0
    unproven: int = 0
    most_unproven: int = 0
    at_once: int = 0
    most_at_once: int = 0
    waiting: list[asyncio.Event] = field(default_factory=list)
    answers_at_once: bool = True
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.connections += 1
        self.unproven += 1
        self.most_unproven = max(self.most_unproven, self.unproven)
        proven = False
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                [length] = [line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
                await reader.readexactly(int(length))
                self.requests += 1
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                if not self.answers_at_once:
                    self.waiting.append(held := asyncio.Event())
                    await held.wait()
                self.at_once -= 1
                self.unproven -= not proven
                proven = True
                writer.write(ACCOUNTS["kannel"].accepted(submit(1)))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.unproven -= not proven
        finally:
            writer.close()

    def answer(self) -> None:
        """Answer what waits."""
        for held in self.waiting:
            held.set()
        self.waiting.clear()

    async def has(self, requests: int) -> None:
        async def so_many() -> bool:
            return len(self.waiting) == requests

        await eventually(so_many)


@asynccontextmanager
async def kannel(backlog: int = 100) -> AsyncIterator[Kannel]:
    provider = Kannel()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0, backlog=backlog)
    provider.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        provider.answer()
        server.close()


@asynccontextmanager
async def gateway_to(url: str, bounds: Bounds, timeout_s: float = PATIENT_S) -> AsyncIterator[HttpGateway]:
    account = ACCOUNTS["kannel"].at(url)
    gateway = HttpGateway("kannel", HTTP_PROVIDERS["kannel"], account, timeout_s=timeout_s, bounds=bounds)
    try:
        yield gateway
    finally:
        await gateway.close()


def messages(many: int = MANY, lasts_s: float = PATIENT_S) -> list[Submit]:
    return [submit(n, begin_by=uptime_s() + lasts_s) for n in range(many)]


def accepted(results: Sequence[Result | SendError]) -> bool:
    return all(isinstance(each, Result) and each.outcome == "accepted" for each in results)


async def test_more_connections_open_as_the_provider_answers_and_no_more_than_are_allowed() -> None:
    async with kannel() as provider, gateway_to(provider.url, Bounds(most=7, opening=2)) as gateway:
        provider.answers_at_once = False
        sending = asyncio.create_task(gateway.submit(messages()))
        for in_use in (2, 4, 6, 7, 7):
            await provider.has(in_use)
            assert provider.connections == in_use
            provider.answer()
        provider.answers_at_once = True
        provider.answer()
        assert accepted(await sending)
    assert (provider.most_unproven, provider.most_at_once, provider.connections) == (2, 7, 7)


async def test_a_provider_with_a_short_queue_gets_every_message() -> None:
    """Connections beyond the queue look open, or wait for the kernel's next attempt a second later."""
    async with kannel(backlog=2) as provider, gateway_to(provider.url, Bounds(opening=2)) as gateway:
        results = await gateway.submit(messages())
    assert accepted(results), [repr(each) for each in results if isinstance(each, SendError)]
    assert provider.most_unproven <= 2


async def test_a_silent_provider_has_no_more_messages_than_connections_may_be_unproven() -> None:
    async with kannel() as provider, gateway_to(provider.url, Bounds(opening=2), timeout_s=3.0) as gateway:
        provider.answers_at_once = False
        results = await gateway.submit(messages(lasts_s=1.0))
        assert {type(each) for each in results} <= {Unanswered, Late}
        assert sum(isinstance(each, Unanswered) for each in results) == provider.requests <= 2
        provider.answer()
        provider.answers_at_once = True
        assert accepted(await gateway.submit(messages())), "the next message finds the room of those that ended"


async def test_at_the_end_of_a_submit_what_had_begun_is_unknown_and_nothing_else() -> None:
    async with kannel() as provider, gateway_to(provider.url, Bounds(opening=2), timeout_s=2.0) as gateway:
        provider.answers_at_once = False
        results = await gateway.submit(messages())
        assert {type(each) for each in results} == {Unanswered, Unreachable}
        assert sum(isinstance(each, Unanswered) for each in results) == provider.requests == 2


@pytest.mark.parametrize("how", [socket.SHUT_RDWR, socket.SHUT_WR])
async def test_a_kept_connection_that_the_provider_closed_carries_no_message(how: int) -> None:
    """The event loop learns of it after the message would have been written."""
    async with kannel() as provider, gateway_to(provider.url, Bounds(most=1)) as gateway:
        assert accepted(await gateway.submit(messages(1)))
        provider.writers[0].get_extra_info("socket").shutdown(how)
        assert accepted(await gateway.submit(messages(1)))
    assert (provider.requests, provider.connections) == (2, 2)


async def test_a_new_connection_that_is_reset_before_the_request_is_nothing_begun() -> None:
    """A listening socket that closes resets what waits in its queue: here once the connection looks open."""
    loop = asyncio.get_running_loop()
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.setblocking(False)

    def queued() -> None:
        loop.remove_reader(listening)
        loop.call_soon(listening.close)

    loop.add_reader(listening, queued)
    async with gateway_to(f"http://127.0.0.1:{listening.getsockname()[1]}", Bounds()) as gateway:
        [answer] = await gateway.submit(messages(1))
    assert listening.fileno() == -1
    assert type(answer) is Unreachable


async def test_a_message_that_is_given_up_makes_room_for_the_next() -> None:
    async with kannel() as provider, gateway_to(provider.url, Bounds(most=1)) as gateway:
        provider.answers_at_once = False
        first, second, third = (asyncio.create_task(gateway.submit(messages(1))) for _ in range(3))
        await provider.has(1)
        second.cancel()
        first.cancel()
        provider.answers_at_once = True
        assert accepted(await third)
    assert provider.most_at_once <= 2  # the fake learns of the first one's end later than the gateway
