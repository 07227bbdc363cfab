"""`placet doctor --every`: a fictional person's consent, message and STOP by the simulated operator, timed."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web

from placet_cli.probe import Probe
from placet_client import Placet
from stack.simulator import Settings, create_app
from tests.service.clients.running import served
from tests.service.clients.test_command_line_client import SENDER, placet, shell
from tests.service.rights.four import SECRET, knows_senders
from tests.support.eventually import WITHIN_S, eventually
from tests.support.running import Surroundings

__all__ = ["shell"]
pytestmark = pytest.mark.any_broker


@asynccontextmanager
async def simulator(inbound_url: str, log: Path) -> AsyncIterator[str]:
    """The stack's own operator, for what it calls back."""
    with socket.create_server(("127.0.0.1", 0)) as at:
        settings = Settings(port=0, token="t", secret=SECRET, inbound_url=inbound_url, log=log)
        server = uvicorn.Server(uvicorn.Config(create_app(settings), log_config=None))
        task = asyncio.create_task(server.serve(sockets=[at]))
        try:
            yield f"http://127.0.0.1:{at.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@asynccontextmanager
async def deaf() -> AsyncIterator[str]:
    """An operator that takes a text and never calls back."""

    async def replies(request: web.Request) -> web.Response:
        assert len((await request.json())["replies"]) == 1
        return web.json_response({"replies": 1}, status=202)

    app = web.Application()
    app.router.add_post("/control/replies", replies)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_probe_goes_the_whole_way_and_a_lost_stop_is_a_fault(
    surroundings: Surroundings, shell: Callable[[dict[str, str]], Path], tmp_path: Path
) -> None:
    async with served(surroundings) as environment, simulator(environment["PLACET_INBOUND_URL"], tmp_path / "l") as op:
        await placet("login", "--env-file", str(shell(environment)))
        sender = tmp_path / "sender.json"
        sender.write_text(json.dumps(SENDER))
        await placet("senders", "create", str(sender))
        for service in ("dispatch", "campaign", "inbound"):
            await eventually(knows_senders(surroundings, service, 1))
        of = ("--sender", "maison-lune", "--purpose", "promotions", "--every", "1", "--turns", "1")

        [good] = lines(await placet("doctor", *of, "--operator", op, "--within", str(WITHIN_S), "--json"))
        assert (good["fault"], good["message"]) == (None, "accepted")
        assert 0 < good["consent_s"] < WITHIN_S
        assert 0 < good["stop_s"] < WITHIN_S

        async with deaf() as elsewhere:
            said = await placet("doctor", *of, "--operator", elsewhere, "--within", "1", exits=6)
        assert " WRONG consent " in said
        assert "not within 1 s: " in said  # the STOP, or on a machine that stands still the message before
        assert "docs/runbook.md#" in said

        with http_client() as http, client(environment) as api:
            probe = Probe(api, http, op, "maison-lune", "promotions", WITHIN_S)

            async def good_again() -> bool:
                turn = await asyncio.to_thread(probe.turn, 77)
                assert turn.fault is None, turn.fault
                return True

            for _ in range(2):  # START opens the consent again, so that the number serves a later turn
                await eventually(good_again)


async def test_the_probe_needs_a_sender_a_purpose_and_an_operator() -> None:
    assert "--every needs --sender" in await placet("doctor", "--every", "60", exits=2)


def lines(out: str) -> list[Any]:
    return [json.loads(line) for line in out.splitlines()]


def http_client() -> httpx.Client:
    return httpx.Client(timeout=WITHIN_S)


def client(environment: dict[str, str]) -> Placet:
    urls = {name.removeprefix("PLACET_").lower(): url for name, url in environment.items() if name.endswith("_URL")}
    return Placet(environment["PLACET_TOKEN"], timeout=WITHIN_S, **urls)  # type: ignore[arg-type]
