"""Every HTTP gateway meets every way of going wrong, over real local HTTP, and each has one right answer: not begun
(tried again), refused, somebody has to act, or `unknown`, which is never sent again."""

import asyncio
import gzip
import socket
from collections.abc import Sequence
from dataclasses import replace

import pytest

from common.db.timer import uptime_s
from dispatch.gateways import (
    HTTP_PROVIDERS,
    HttpGateway,
    Late,
    Misconfigured,
    Refused,
    Result,
    SendError,
    Submit,
    Throttled,
    ThrottledUntil,
    Unanswered,
    Unreachable,
)
from tests.support.eventually import eventually
from tests.support.operators.accounts import ACCOUNTS, submit
from tests.support.operators.faults import Fault, fault_server

PATIENT_S, HASTY_S = 60.0, 2.0
WAITED_OUT: tuple[Fault, ...] = ("silent", "drips")  # by all gateways at once
RIGHT: dict[Fault, type[SendError]] = {
    "closes_before_the_answer": Unanswered,
    "resets_before_the_answer": Unanswered,
    "resets_after_the_head": Unanswered,
    "resets_within_the_answer": Unanswered,
    "half_closed": Unanswered,
    "cut_short": Unanswered,
    "endless": Unanswered,
    "not_http": Unanswered,
    "garbage": Unanswered,
    "empty": Unanswered,
    "unavailable": Unanswered,
    "bad_gateway": Unanswered,
    "error": Unanswered,
    "throttled": ThrottledUntil,
    "throttled_until": ThrottledUntil,
    "throttled_without_a_time": Throttled,
    "redirect": Misconfigured,
    "unauthorised": Misconfigured,
    "no_money": Misconfigured,
    "not_found": Misconfigured,
    "bad_request": Refused,
}
AFTER_S = {"throttled": 7.0, "throttled_until": 9.0, "throttled_without_a_time": 1.0}

each_provider = pytest.mark.parametrize("provider", sorted(HTTP_PROVIDERS))


async def _ask(provider: str, url: str, *, timeout_s: float = PATIENT_S) -> Sequence[Result | SendError]:
    gateway = HttpGateway(provider, HTTP_PROVIDERS[provider], ACCOUNTS[provider].at(url), timeout_s=timeout_s)
    try:
        return await gateway.submit([submit(1)])
    except SendError as error:
        return [error]
    finally:
        await gateway.close()


@each_provider
@pytest.mark.parametrize("fault", RIGHT)
async def test_each_fault_has_one_right_answer(provider: str, fault: Fault) -> None:
    async with fault_server() as server:
        server.fault = fault
        [answer] = await _ask(provider, server.url)
    assert type(answer) is RIGHT[fault], repr(answer)
    assert len(server.requests) == 1, "asked once, whatever became of it"
    if isinstance(answer, Throttled):
        assert answer.after_s == AFTER_S[fault]
    assert "+336" not in str(answer)


@pytest.mark.parametrize("fault", WAITED_OUT)
async def test_an_answer_that_does_not_come_in_time_is_unknown(fault: Fault) -> None:
    async with fault_server() as server:
        server.fault = fault
        answers = await asyncio.gather(*(_ask(name, server.url, timeout_s=HASTY_S) for name in HTTP_PROVIDERS))
    assert [type(answer) for [answer] in answers] == [Unanswered] * len(HTTP_PROVIDERS)
    assert len(server.requests) == len(HTTP_PROVIDERS)


@each_provider
async def test_nobody_there_is_nothing_begun(provider: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        [answer] = await _ask(provider, f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert type(answer) is Unreachable


async def test_a_handshake_that_fails_is_nothing_begun() -> None:
    async with fault_server() as server:
        [answer] = await _ask("simulator", server.url.replace("http:", "https:"))
    assert type(answer) is Unreachable
    assert server.requests == []


TAKEN = b"0: Accepted for delivery"
FRAMED = {
    "after an interim answer": b"HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 202 Said\r\nContent-Length: 24\r\n\r\n" + TAKEN,
    "in chunks": b"HTTP/1.1 202 Said\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n13\r\n%b\r\n0\r\n\r\n"
    % (TAKEN[:5], TAKEN[5:]),
    "packed": b"HTTP/1.1 202 Said\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b"
    % (len(gzip.compress(TAKEN)), gzip.compress(TAKEN)),
}


@pytest.mark.parametrize("how", FRAMED)
async def test_an_answer_is_read_however_it_is_framed_and_its_connection_is_kept(how: str) -> None:
    async with fault_server() as server:
        server.fault, server.answer = None, FRAMED[how]
        account = ACCOUNTS["kannel"].at(server.url)
        gateway = HttpGateway("kannel", HTTP_PROVIDERS["kannel"], account, timeout_s=PATIENT_S)
        try:
            for _ in range(2):
                [answer] = await _answers(gateway, submit(1))
                assert isinstance(answer, Result), repr(answer)
        finally:
            await gateway.close()
    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("secret", ["a\r\nX-Kannel-To: +33639980002", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_would_be_two_is_never_written(secret: str) -> None:
    async with fault_server() as server:
        account = replace(ACCOUNTS["kannel"].at(server.url), secret=secret)
        gateway = HttpGateway("kannel", HTTP_PROVIDERS["kannel"], account, timeout_s=PATIENT_S)
        try:
            [answer] = await _answers(gateway, submit(1))
        finally:
            await gateway.close()
    assert type(answer) is Unreachable
    assert server.requests == []


@pytest.mark.parametrize("provider", ["kannel", "simulator"])
async def test_a_submit_that_is_cancelled_ends_as_cancelled(provider: str) -> None:
    async with fault_server() as server:
        server.fault = "silent"

        async def arrived() -> bool:
            return len(server.requests) == 1

        sending = asyncio.create_task(_ask(provider, server.url))
        await eventually(arrived)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_no_connection_in_time_is_nothing_begun() -> None:
    """Connections that nobody takes: the queue of a listening socket is full, so the next one is never answered."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        waiting = [_knock(address) for _ in range(4)]
        [answer] = await _ask("simulator", f"http://127.0.0.1:{address[1]}", timeout_s=HASTY_S)
        for each in waiting:
            each.close()
    assert type(answer) is Unreachable


@each_provider
async def test_a_connection_that_came_after_the_permit_is_kept_only_where_it_has_answered_before(provider: str) -> None:
    """The provider's program may never have had a new one: what the next message writes to it would be lost."""
    async with fault_server() as server:
        server.fault, server.answer = None, ACCOUNTS[provider].accepted(submit(1))
        gateway = HttpGateway(
            provider, HTTP_PROVIDERS[provider], ACCOUNTS[provider].at(server.url), timeout_s=PATIENT_S
        )
        try:
            for requests, connections in ((0, 1), (1, 2)):
                [late] = await _answers(gateway, submit(1, begin_by=uptime_s() - 0.001))
                assert type(late) is Late
                assert (len(server.requests), server.connections) == (requests, connections)
                [in_time] = await _answers(gateway, submit(1, begin_by=uptime_s() + PATIENT_S))
                assert isinstance(in_time, Result), repr(in_time)
        finally:
            await gateway.close()
    assert (len(server.requests), server.connections) == (2, 2)


async def _answers(gateway: HttpGateway, message: Submit) -> Sequence[Result | SendError]:
    try:
        return await gateway.submit([message])
    except SendError as error:
        return [error]


def _knock(address: tuple[str, int]) -> socket.socket:
    knocking = socket.socket()
    knocking.setblocking(False)
    knocking.connect_ex(address)
    return knocking


@each_provider
async def test_a_kept_connection_that_closes_is_not_asked_twice(provider: str) -> None:
    """A request that is tried again, because its kept connection turned out to be closed, is a second SMS."""

    async with fault_server() as server:
        server.fault, server.answer = None, ACCOUNTS[provider].accepted(submit(1))
        gateway = HttpGateway(
            provider, HTTP_PROVIDERS[provider], ACCOUNTS[provider].at(server.url), timeout_s=PATIENT_S
        )
        try:
            [first] = await gateway.submit([submit(1)])
            assert isinstance(first, Result), repr(first)
            assert first.outcome == "accepted"
            server.fault = "resets_before_the_answer"
            try:
                [second] = await gateway.submit([submit(2)])
            except SendError as error:
                second = error
        finally:
            await gateway.close()
    assert type(second) is Unanswered
    assert len(server.requests) == 2


def test_there_is_a_case_for_every_gateway() -> None:
    assert set(ACCOUNTS) == set(HTTP_PROVIDERS)
