"""Bodies of strangers: the caller is looked at before the body, and all bodies together have a limit."""

import asyncio

import pytest

from tests.attack.wire import STOP, attacked, errors, post
from tests.support.eventually import eventually, is_so
from tests.support.running import Surroundings, token

pytestmark = pytest.mark.brokerless

MIB = 1024 * 1024
JSON = "Content-Type: application/json"


@pytest.mark.parametrize("scope", [None, "consent:read"])
async def test_a_caller_is_refused_before_a_byte_of_the_body_is_asked_for(
    surroundings: Surroundings, scope: str | None
) -> None:
    async with attacked(surroundings) as it:
        peer = await it.caller()
        headers = [f"Authorization: Bearer {token(scope)}"] if scope else []
        await peer.write(post("/things", b"", JSON, "Expect: 100-continue", *headers, length=8 * MIB))
        status, _, _ = await peer.answer()  # no 100: the body is not wanted
        assert status == (403 if scope else 401)
        assert it.reached == 0


async def test_a_body_that_nobody_reads_ends_its_connection(surroundings: Surroundings) -> None:
    async with attacked(surroundings) as it:
        peer = await it.caller()
        await peer.write(post("/things", b"", JSON, length=8 * MIB))
        assert (await peer.answer())[0] == 401
        for _ in range(8):
            await peer.write(b"x" * MIB)
        await eventually(lambda: is_so(it.open == 0))


async def test_bodies_together_have_a_limit_and_a_stop_comes_through(
    surroundings: Surroundings, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(surroundings, bodies_bytes=4 * MIB) as it:
        peers = [await it.caller() for _ in range(30)]
        for peer in peers:
            await peer.write(post("/callbacks", b"x" * (MIB - 1), length=MIB))
        answers = [asyncio.create_task(peer.answer()) for peer in peers]
        await eventually(lambda: is_so(sum(task.done() for task in answers) >= 26))
        refused = [await task for task in answers if task.done()]
        assert {status for status, _, _ in refused} == {503}
        assert {headers["retry-after"] for _, headers, _ in refused} == {"5"}
        assert b"no_memory_left" in refused[0][2]
        for _ in range(5):
            assert await (await it.caller()).asks(STOP) == 200
        for peer, task in zip(peers, answers, strict=True):
            if not task.done():
                await peer.write(b"x")
                assert (await task)[0] == 200
        again = await it.caller()  # given back
        assert await again.asks(post("/callbacks", b"x" * MIB)) == 200
        assert await again.asks(post("/files", b"x" * 16 * MIB)) == 200  # a piece at a time
    assert errors(caplog.records) == []
