"""Connections of strangers: heads and bodies without an end, huge heads, crowds. A STOP is answered meanwhile."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from common.web.edge import connection
from tests.attack.wire import STOP, Attacked, Peer, attacked, errors, post
from tests.support.eventually import eventually, is_so
from tests.support.running import Surroundings, token

pytestmark = pytest.mark.brokerless


async def crowd(it: Attacked, many: int, piece: bytes) -> Sequence[Peer]:
    peers = [await it.caller() for _ in range(many)]
    for peer in peers:
        await peer.write(piece)
    return peers


HALVES = [
    (b"", b""),
    (b"POST /callbacks HT", b"408"),
    (b"POST /callbacks HTTP/1.1\r\nHost: placet\r\nX-Slow: ", b"408"),
    (post("/callbacks", b"From", length=100), b"408"),
    (post("/things", b"{", length=100), b"401"),  # the body of a stranger is not waited for
    (b"\r\n\r\n", b""),
    (b"POST /callbacks HTTP/1.1\r\nHost: placet\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", b"408"),
]


async def test_half_a_request_has_its_time_and_no_more(
    surroundings: Surroundings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("SILENT_S", "HEAD_S", "BODY_S"):
        monkeypatch.setattr(connection, name, 0.2)
    async with attacked(surroundings) as it:
        for piece, said in HALVES:
            for peer in await crowd(it, 20, piece):
                told = await asyncio.wait_for(peer.reader.read(), 60)
                assert told.partition(b"\r\n")[0].split(b" ")[1:2] == ([said] if said else []), piece
            await eventually(lambda: is_so(it.open == 0))
            honest = await it.caller()
            assert await honest.asks(STOP) == 200
            honest.writer.close()
    assert errors(caplog.records) == []


async def test_a_body_that_trickles_is_ended_and_one_that_flows_is_not(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BODY_S", 1.0)
    async with attacked(surroundings) as it:
        slow = await it.caller()
        await slow.write(post("/callbacks", b"", length=10_000))
        told = asyncio.create_task(slow.reader.read())

        async def ended() -> bool:
            await slow.write(b"x")
            return told.done()

        await eventually(ended)
        assert told.result().startswith(b"HTTP/1.1 408")
        flowing = await it.caller()
        whole = 400 * 1024  # 25 s at the least speed, and a second more
        await flowing.write(post("/callbacks", b"", length=whole))
        await flowing.write(b"x" * (whole - 1))
        past = asyncio.get_running_loop().time() + 1.5
        await eventually(lambda: is_so(asyncio.get_running_loop().time() > past))
        await flowing.write(b"x")
        assert (await flowing.answer())[2] == str(whole).encode()


HEADS = [
    b"X-Large: " + b"a" * 40_000 + b"\r\n\r\n",
    b"X-Endless: " + b"a" * 4_000_000,
    b"".join(b"X-%d: a\r\n" % place for place in range(150)) + b"\r\n",
    b"Authorization: Bearer " + b"a" * 1_000_000 + b"\r\n\r\n",
]


async def test_a_huge_head_is_refused_and_says_so(surroundings: Surroundings) -> None:
    async with attacked(surroundings) as it:
        for head in HEADS:
            peer = await it.caller()
            await peer.write(b"POST /callbacks HTTP/1.1\r\nHost: placet\r\n" + head[:20_000])
            for at in range(20_000, len(head), 65_536):
                await peer.write(head[at : at + 65_536])
            try:
                status, headers, body = await peer.answer()
            except (ConnectionError, asyncio.IncompleteReadError):  # reset while it still wrote
                status, headers, body = 431, {"connection": "close"}, b"a head has at most"
            assert (status, headers["connection"]) == (431, "close")
            assert body.startswith(b"a head has at most")
            assert it.reached == 0
            await eventually(lambda: is_so(it.open == 0))


async def test_a_trailer_is_no_header(surroundings: Surroundings) -> None:
    async with attacked(surroundings) as it:
        peer = await it.caller()
        await peer.write(
            b"POST /things HTTP/1.1\r\nHost: placet\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
            b"\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer " + token().encode() + b"\r\n\r\n"
        )
        assert (await peer.answer())[0] == 401
        endless = await it.caller()
        await endless.write(b"POST /callbacks HTTP/1.1\r\nHost: placet\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
        for _ in range(40):
            await endless.write(b"X-T: " + b"a" * 2000 + b"\r\n")
        assert (await endless.answer())[0] == 431


async def test_a_crowd_keeps_no_stop_out(surroundings: Surroundings, caplog: pytest.LogCaptureFixture) -> None:
    async with attacked(surroundings, connections=20) as it:
        first = await it.caller()
        assert await first.asks(STOP) == 200
        for piece in (b"", b"POST /callbacks HT", post("/callbacks", b"F", length=9), STOP):
            peers = await crowd(it, 40, piece)
            await eventually(lambda: is_so(it.open <= 20))
            assert await (await it.caller()).asks(STOP) == 200
            assert len(peers) == 40
    assert errors(caplog.records) == []


async def test_the_longest_wait_goes_first_and_work_is_never_dropped(surroundings: Surroundings) -> None:
    async with attacked(surroundings, connections=3) as it:
        busy, half, kept = [await it.caller() for _ in range(3)]
        await busy.write(post("/slow"))
        await half.write(b"POST /call")
        assert await kept.asks(STOP) == 200
        await eventually(lambda: is_so(it.reached == 2))
        fourth = await it.caller()
        assert await fourth.asks(STOP) == 200
        assert await half.is_closed()
        assert await kept.asks(STOP) == 200
        for peer in (fourth, kept):
            await peer.write(post("/slow"))
        await eventually(lambda: is_so(it.reached == 6))
        refused = await it.caller()
        status, headers, _ = await refused.answer()
        assert (status, headers["retry-after"]) == (503, "5")
        it.held.set()
        for peer in (busy, fourth, kept):
            assert (await peer.answer())[0] == 200


async def test_an_answer_that_nobody_takes_is_dropped(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD_S", 0.2)
    async with attacked(surroundings) as it:
        peer = await it.caller()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.write(b"GET /large HTTP/1.1\r\nHost: placet\r\n\r\n")
        await eventually(lambda: is_so(it.open == 0 and len(it.server.server_state.tasks) == 0))


async def test_requests_that_pile_up_behind_one_are_bounded(surroundings: Surroundings) -> None:
    async with attacked(surroundings) as it:
        peer = await it.caller()
        await peer.write(post("/slow") + STOP * 500)
        assert await peer.is_closed()
        assert it.reached <= 1


TWO_READINGS = [
    b"POST /callbacks HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /callbacks HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /callbacks HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\n{}",
    b"POST /callbacks HTTP/1.1\r\nHost: a\r\nContent-Length: 0x2\r\n\r\n{}",
    b"POST /callbacks HTTP/1.1\r\nHost: a\r\nContent-Length : 2\r\n\r\n{}",
    b"POST /callbacks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    b"POST /callbacks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"POST /callbacks HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    b"POST /callbacks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    b"GET /callbacks HTTP/1.1\nHost: a\n\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /callbacks HTTP/9.9\r\nHost: a\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]


async def test_a_request_with_two_readings_has_none(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(surroundings) as it:
        for request in TWO_READINGS:
            peer = await it.caller()
            await peer.write(request + b"POST /callbacks HTTP/1.1\r\nHost: smuggled\r\nContent-Length: 0\r\n\r\n")
            told = await asyncio.wait_for(peer.reader.read(), 60)
            assert told.startswith(b"HTTP/1.1 400"), request
            assert told.count(b"HTTP/1.1 ") == 1, request
            assert it.reached == 0
    assert errors(caplog.records) == []


async def test_a_caller_who_leaves_is_no_error(surroundings: Surroundings, caplog: pytest.LogCaptureFixture) -> None:
    headers = (f"Authorization: Bearer {token()}", "Content-Type: application/json")
    async with attacked(surroundings) as it:
        for path in ("/callbacks", "/things", "/forms", "/files"):
            for _ in range(5):
                peer = await it.caller()
                await peer.write(post(path, b'{"name', *headers, length=100))
                peer.writer.close()
        await eventually(lambda: is_so(it.open == 0 and not it.server.server_state.tasks))
    assert errors(caplog.records) == []
    assert "Traceback" not in caplog.text


BOMBS = [
    b"[" * 500_000,
    b'{"name":' * 100_000,
    b'{"name": ' + b"9" * 500_000 + b"}",
    b'{"name": "' + b"\\ud800" * 80_000 + b'"}',
    json.dumps({f"k{place}": place for place in range(50_000)}).encode(),
    b"\x1f\x8b" + b"\x00" * 500_000,
    b"\xff" * 500_000,
]


async def test_a_bomb_is_refused_by_its_form(surroundings: Surroundings, caplog: pytest.LogCaptureFixture) -> None:
    headers = (f"Authorization: Bearer {token()}", "Content-Type: application/json")
    async with attacked(surroundings) as it:
        for body in BOMBS:
            status = await (await it.caller()).asks(post("/things", body, *headers))
            assert status in (200, 400, 422), body[:20]
            assert await (await it.caller()).asks(STOP) == 200
    assert errors(caplog.records) == []
