"""The operator simulator over HTTP: strict on the way in, unreliable (as told) on the way out, honest in its log."""

import asyncio
import hashlib
import hmac
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web

from stack.processes import Supervisor, free_port
from stack.simulator import STOP_SPELLINGS, Settings, create_app
from tests.support.eventually import WITHIN_S, eventually

SECRET = "shared with inbound only"
TOKEN = {"Authorization": "Bearer gateway-token"}
MESSAGE = {
    "reference": "r1",
    "to": "+33639980001",
    "from": "ACME",
    "short_code": "36111",
    "category": "marketing",
    "text": "Soldes! STOP au 36111",
}
SOON = {"receipt_delay_s": [0, 0.05], "reply_delay_s": [0, 0.05]}


@dataclass
class Inbound:
    """Stands where inbound-svc stands: checks each signature, then answers the next of `answers`, and 200 after."""

    answers: list[int] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    receipts: list[list[dict[str, Any]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def receive(self, request: web.Request) -> web.Response:
        body, timestamp = await request.read(), request.headers["Placet-Timestamp"]
        expected = hmac.new(SECRET.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
        if request.headers["Placet-Signature"] != f"v1={expected}" or abs(time.time() - int(timestamp)) > 60:
            self.refused.append(request.path)
        if request.path == "/v1/callbacks/simulator/main/messages":
            self.messages.append(json.loads(body))
        else:
            self.receipts.append(json.loads(body)["receipts"])
        return web.Response(status=self.answers.pop(0) if self.answers else 200)

    def statuses(self, reference: str) -> list[str]:
        return [r["status"] for batch in self.receipts for r in batch if r["reference"] == reference]


@dataclass
class Simulator:
    http: httpx.AsyncClient
    inbound: Inbound

    async def submit(self, *messages: dict[str, Any]) -> httpx.Response:
        return await self.http.post("/v1/submits", json={"messages": messages}, headers=TOKEN)

    async def behave(self, **behaviour: Any) -> None:
        (await self.http.post("/control/behaviour", json=SOON | behaviour)).raise_for_status()

    async def log(self, kind: str) -> list[dict[str, Any]]:
        answer = await self.http.get("/log", params={"kind": kind})
        return [json.loads(line) for line in answer.text.splitlines()]

    async def counts(self) -> dict[str, int]:
        counts: dict[str, int] = (await self.http.get("/counts")).json()
        return counts

    async def until_receipts(self, expected: int) -> None:
        async def all_there() -> bool:
            counts = await self.counts()
            return counts["receipts_acknowledged"] == expected and counts["receipts_pending"] == 0

        await eventually(all_there)


Start = Callable[..., AbstractAsyncContextManager[Simulator]]


@pytest.fixture
def simulator(tmp_path: Path) -> Start:
    """Starts one in process, behind the web server it has in the stack."""

    @asynccontextmanager
    async def start(*, idempotent: bool = False, answers: list[int] | None = None) -> AsyncIterator[Simulator]:
        async with listening(Inbound(answers or [])) as (inbound, inbound_url):
            settings = Settings(
                free_port(), "gateway-token", SECRET, inbound_url, tmp_path / "log.jsonl", "main", idempotent
            )
            config = uvicorn.Config(create_app(settings), port=settings.port, log_config=None, access_log=False)
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            url = f"http://127.0.0.1:{settings.port}"
            try:
                async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as http:
                    await eventually(lambda: is_alive(http))
                    simulator = Simulator(http, inbound)
                    await simulator.behave()
                    yield simulator
            finally:
                server.should_exit = True
                await serving
            assert inbound.refused == []

    return start


@asynccontextmanager
async def listening(inbound: Inbound) -> AsyncIterator[tuple[Inbound, str]]:
    app = web.Application()
    app.router.add_post("/{path:.*}", inbound.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield inbound, f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def is_alive(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/livez")).is_success
    except httpx.TransportError:
        return False


async def test_each_message_gets_its_result_its_receipts_and_its_lines_in_the_log(simulator: Start) -> None:
    async with simulator() as sim:
        answer = await sim.submit(MESSAGE, MESSAGE | {"reference": "r2", "to": "+33639980002"})
        results = answer.json()["results"]
        assert [(r["reference"], r["status"], r["code"]) for r in results] == [
            ("r1", "accepted", None),
            ("r2", "accepted", None),
        ]
        submits = await sim.log("submit")
        assert [(s["reference"], s["id"], s["to"]) for s in submits] == [
            ("r1", results[0]["id"], "+33639980001"),
            ("r2", results[1]["id"], "+33639980002"),
        ]
        assert submits[0].keys() >= {"at", "from", "short_code", "text", "category", "status", "replay"}
        await sim.until_receipts(4)
        assert sim.inbound.statuses("r1") == ["sent", "delivered"]
        acknowledged = await sim.log("receipt_acknowledged")
        assert {(a["reference"], a["status"], a["attempts"]) for a in acknowledged} == {
            (reference, status, 1) for reference in ("r1", "r2") for status in ("sent", "delivered")
        }
        counts = await sim.counts()
        assert (counts["submits"], counts["accepted"], counts["rejected"], counts["references"]) == (2, 2, 0, 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"reference": ""}, "reference"),
        ({"to": "0639980001"}, "to"),
        ({"from": "A1"}, "from"),
        ({"from": "36111"}, "from"),
        ({"from": "ACME SHOP"}, "from"),
        ({"from": "TWELVECHARSX"}, "from"),
        ({"short_code": "35111"}, "short_code"),
        ({"short_code": "3611"}, "short_code"),
        ({"category": "ad"}, "category"),
        ({"text": ""}, "text"),
        ({"text": " \n"}, "text"),
        ({"text": "a" * 1531}, "text"),
        ({"text": "ê" * 671}, "text"),
        ({"text": None}, "text"),
        ({"priority": 1}, "priority"),
    ],
)
async def test_a_malformed_message_is_refused_by_the_name_of_its_field(
    simulator: Start, change: dict[str, Any], named: str
) -> None:
    async with simulator() as sim:
        answer = await sim.submit(MESSAGE, MESSAGE | {"reference": "r2"} | change)
        assert answer.status_code == 400
        assert named in answer.json()["detail"]
        assert not any(str(value) in answer.text for value in change.values() if value and len(str(value)) > 3)
        assert await sim.log("submit") == []


@pytest.mark.parametrize("field_name", MESSAGE)
async def test_a_missing_field_is_refused(simulator: Start, field_name: str) -> None:
    async with simulator() as sim:
        answer = await sim.submit({name: value for name, value in MESSAGE.items() if name != field_name})
        assert (answer.status_code, field_name in answer.json()["detail"]) == (400, True)


async def test_what_is_not_a_submit_at_all_is_refused(simulator: Start) -> None:
    async with simulator() as sim:
        for body in (b"", b"{", b"\xff", b"[]", b'{"messages":[]}', b'{"messages":[],"x":1}'):
            answer = await sim.http.post("/v1/submits", content=body, headers=TOKEN)
            assert answer.status_code == 400, body
        many = [MESSAGE | {"reference": str(n)} for n in range(1001)]
        assert (await sim.submit(*many)).status_code == 413
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "gateway-token"}):
            answer = await sim.http.post("/v1/submits", json={"messages": [MESSAGE]}, headers=headers)
            assert answer.status_code == 401
        assert (await sim.counts())["submits"] == 0


async def test_a_repeated_reference_is_a_second_sms(simulator: Start) -> None:
    async with simulator() as sim:
        first, second = (await sim.submit(MESSAGE)).json(), (await sim.submit(MESSAGE)).json()
        assert first["results"][0]["id"] != second["results"][0]["id"]
        assert [s["replay"] for s in await sim.log("submit")] == [False, False]
        counts = await sim.counts()
        assert (counts["accepted"], counts["references"]) == (2, 1)


async def test_a_repeated_reference_is_the_same_sms_for_an_idempotent_operator(simulator: Start) -> None:
    async with simulator(idempotent=True) as sim:
        answers = [(await sim.submit(MESSAGE, MESSAGE)).json(), (await sim.submit(MESSAGE)).json()]
        assert len({r["id"] for answer in answers for r in answer["results"]}) == 1
        assert [s["replay"] for s in await sim.log("submit")] == [False, True, True]
        assert (await sim.counts())["accepted"] == 1
        await sim.until_receipts(2)


async def test_receipts_come_twice_and_out_of_order_in_batches_when_told(simulator: Start) -> None:
    async with simulator() as sim:
        await sim.behave(receipt_twice=1, receipt_out_of_order=1, receipt_delay_s=[0, 0.01])
        await sim.submit(*(MESSAGE | {"reference": f"r{n}"} for n in range(300)))
        await sim.until_receipts(1200)
        assert max(map(len, sim.inbound.receipts)) == 100
        for n in range(300):
            assert Counter(sim.inbound.statuses(f"r{n}")) == {"sent": 2, "delivered": 2}


async def test_out_of_order_receipts_keep_their_true_times(simulator: Start) -> None:
    async with simulator() as sim:
        await sim.behave(receipt_out_of_order=1, receipt_delay_s=[0, 1])
        await sim.submit(MESSAGE)
        await sim.until_receipts(2)
        arrived = [receipt for batch in sim.inbound.receipts for receipt in batch]
        assert [r["status"] for r in arrived] == ["delivered", "sent"]
        assert arrived[0]["at"] > arrived[1]["at"]


async def test_a_callback_is_repeated_with_the_same_id_until_it_is_acknowledged(simulator: Start) -> None:
    async with simulator(answers=[503, 401, 500]) as sim:
        reply = {"from": "+33639980009", "to": "36111", "text": "« STOP »"}
        assert (await sim.http.post("/control/replies", json={"replies": [reply]})).status_code == 202

        async def acknowledged() -> list[dict[str, Any]]:
            return await sim.log("reply_acknowledged")

        (fact,) = await eventually(acknowledged)
        assert fact["attempts"] == 4
        assert {m["id"] for m in sim.inbound.messages} == {fact["id"]}
        assert sim.inbound.messages[0].items() >= reply.items()
        (sent,) = await sim.log("reply")
        assert sent["sent_at"] == sim.inbound.messages[0]["sent_at"] < fact["at"]


async def test_an_operators_clock_is_wrong_in_what_it_sends_and_right_in_its_log(simulator: Start) -> None:
    async with simulator() as sim:
        assert (await sim.http.post("/control/behaviour", json={"clock_s": -150})).status_code == 200
        reply = {"from": "+33639980009", "to": "36111", "text": "STOP"}
        await sim.http.post("/control/replies", json={"replies": [reply]})

        async def acknowledged() -> list[dict[str, Any]]:
            return await sim.log("reply_acknowledged")

        await eventually(acknowledged)
        (sent,) = await sim.log("reply")
        told = datetime.fromisoformat(sim.inbound.messages[0]["sent_at"])
        assert datetime.fromisoformat(sent["sent_at"]) - told == timedelta(seconds=150)


async def test_receipts_survive_an_inbound_that_fails(simulator: Start) -> None:
    async with simulator(answers=[500, 500]) as sim:
        await sim.submit(MESSAGE)
        await sim.until_receipts(2)
        assert max(a["attempts"] for a in await sim.log("receipt_acknowledged")) > 1


async def test_recipients_of_marketing_stop_once_in_a_spelling_of_their_own(simulator: Start) -> None:
    async with simulator() as sim:
        await sim.behave(stop_rate=1)
        people = [f"+3363998{n:04}" for n in range(40)]
        await sim.submit(*(MESSAGE | {"reference": f"a{to}", "to": to} for to in people))
        await sim.submit(*(MESSAGE | {"reference": f"b{to}", "to": to} for to in people))
        await sim.submit(MESSAGE | {"reference": "t", "to": "+33639989999", "category": "transactional"})

        async def all_said() -> bool:
            return (await sim.counts())["replies_acknowledged"] == len(people)

        await eventually(all_said)
        assert sorted(m["from"] for m in sim.inbound.messages) == people
        assert {m["text"] for m in sim.inbound.messages} <= set(STOP_SPELLINGS)
        assert {m["to"] for m in sim.inbound.messages} == {"36111"}


async def test_a_dropped_answer_leaves_the_caller_alone_with_a_message_that_was_taken(simulator: Start) -> None:
    async with simulator() as sim:
        await sim.behave(drop_answer_rate=1)
        with pytest.raises(httpx.RemoteProtocolError):
            await sim.submit(MESSAGE)
        assert [s["status"] for s in await sim.log("submit")] == ["accepted"]
        await sim.until_receipts(2)


async def test_rejections_and_undelivered_messages_when_told(simulator: Start) -> None:
    async with simulator() as sim:
        await sim.behave(reject_rate=1)
        (result,) = (await sim.submit(MESSAGE)).json()["results"]
        assert (result["status"], result["id"]) == ("rejected", None)
        assert result["code"]
        await sim.behave(reject_rate=0, undelivered_rate=1)
        await sim.submit(MESSAGE | {"reference": "r2"})
        await sim.until_receipts(2)
        assert sim.inbound.statuses("r1") == []
        assert sim.inbound.statuses("r2")[-1] in ("failed", "expired")


async def test_too_many_messages_a_second_are_asked_to_come_back(simulator: Start) -> None:
    async with simulator() as sim:
        await sim.behave(submits_per_s=2)
        refused = await sim.submit(*(MESSAGE | {"reference": f"r{n}"} for n in range(3)))
        while refused.status_code == 200:
            refused = await sim.submit(MESSAGE)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1


async def test_an_unknown_behaviour_changes_nothing(simulator: Start) -> None:
    async with simulator() as sim:
        for wrong in ({"reject_rate": 1, "mood": "bad"}, {"reject_rate": 2}, {"latency_s": -1}):
            assert (await sim.http.post("/control/behaviour", json=wrong)).status_code == 400
        assert (await sim.http.post("/control/behaviour", json={})).json()["reject_rate"] == 0


async def test_it_goes_on_with_the_log_of_a_killed_process(simulator: Start, tmp_path: Path) -> None:
    """The reply that inbound-svc did not acknowledge is sent again, and half a line is no fact."""
    told = {"from": MESSAGE["to"], "to": "36111", "text": "STOP", "sent_at": "2026-11-02T09:00:00.000000+00:00"}
    lines = [
        {"kind": "submit", "id": "sim-1", "to": MESSAGE["to"], "replay": False},
        {"kind": "reply", "id": "mo-1", **told},
        {"kind": "reply", "id": "mo-2", **told},
        {"kind": "reply", "id": "mo-3", **told},
        {"kind": "reply_acknowledged", "id": "mo-1", "attempts": 1},
        {"kind": "reply_abandoned", "id": "mo-3", "attempts": 9},
    ]
    half = '{"kind":"submit","id":"si'
    (tmp_path / "log.jsonl").write_text(
        "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines) + half
    )
    async with simulator() as sim:

        async def is_acknowledged() -> bool:
            return (await sim.counts())["replies_acknowledged"] == 2

        await eventually(is_acknowledged)
        assert sim.inbound.messages == [{"id": "mo-2", **told}]
        assert (await sim.counts())["replies"] == 3
        await sim.submit(MESSAGE)
        first, second = await sim.log("submit")
        assert (first["id"], second["reference"]) == ("sim-1", MESSAGE["reference"])


async def test_it_is_a_program_configured_by_its_environment(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    env = {
        "PLACET_SIM_PORT": url.rpartition(":")[2],
        "PLACET_SIM_TOKEN": "gateway-token",
        "PLACET_SIM_SECRET": SECRET,
        "PLACET_SIM_LOG": str(tmp_path / "log.jsonl"),
        "PLACET_INBOUND_URL": "http://127.0.0.1:1",
    }
    async with Supervisor(tmp_path) as supervisor, httpx.AsyncClient(base_url=url, timeout=WITHIN_S) as http:
        await supervisor.start("simulator", [sys.executable, "-m", "stack.simulator"], env=env, ready=f"{url}/livez")
        sim = Simulator(http, Inbound())
        assert (await sim.submit(MESSAGE)).status_code == 200
        supervisor.kill("simulator")
    assert json.loads((tmp_path / "log.jsonl").read_text())["reference"] == "r1"
