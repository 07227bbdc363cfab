"""The trace of a STOP, from the callback to its enforcement, and that of a message, from the request to its DLR, are
as docs/traces.md shows them: made of spans that a collector got over OTLP.

`make traces` draws the pictures anew.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.telemetry import masked, tracing
from stack.processes import free_port
from tests.operators import signed
from tests.service.common.traces import Collector, Kept, collecting, drawn, follows, steps_shown
from tests.service.rights.four import ACCOUNTS, SECRET, SERVICES, Four, four, published
from tests.support.builders import STOP_CODE, now, number, subject
from tests.support.eventually import WITHIN_S, answered, eventually
from tests.support.running import Surroundings, environment

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "traces.md").read_text(encoding="utf-8")
DRAW = "PLACET_TEST_DRAW" in os.environ
PERSON = 11
TEXT = "Votre code : 4811 Zoé 11"  # of Four.code_sent


@asynccontextmanager
async def traced(surroundings: Surroundings, collector: Collector) -> AsyncIterator[Four]:
    """The four services; at the end the collector has every span."""
    tracing.start("placet", collector.url, 1.0)
    try:
        async with four(surroundings) as services:
            yield services
            for service in SERVICES:
                async with surroundings.sql(service) as sql:
                    await published(sql)
    finally:
        await asyncio.to_thread(tracing.stop)


async def called_back(services: Four, path: str, body: dict[str, Any]) -> str:
    """The operator's callback; return the trace that the answer names."""
    raw = json.dumps(body).encode()
    client = services.clients["inbound"]
    where = f"/v1/callbacks/simulator/main/{path}"
    answer = await answered(lambda: client.post(where, content=raw, headers=signed(raw, SECRET, now())))
    assert answer.status_code == 200, answer.text
    return answer.headers["traceparent"].split("-")[1]


def draw(name: str, title: str, spans: Sequence[Kept]) -> None:
    if DRAW:
        (DOCS / f"trace-{name}.svg").write_text(drawn(title, spans), encoding="utf-8")


async def test_a_stop_is_one_trace_from_the_callback_to_its_enforcement(surroundings: Surroundings) -> None:
    async with collecting() as collector:
        async with traced(surroundings, collector) as services:
            await services.consented(PERSON)
            stop = {"id": "mo-1", "from": number(PERSON), "to": STOP_CODE, "text": "STOP", "sent_at": now().isoformat()}
            trace = await called_back(services, "messages", stop)

            async def enforced() -> bool:
                async with surroundings.sql("dispatch") as sql:
                    return bool(await sql.fetchval("SELECT count(*) FROM enforcement WHERE enforced_at IS NOT NULL"))

            await eventually(enforced)
        spans = collector.of(trace)
        follows(spans, steps_shown(PAGE, "A STOP"))
        assert "dispatch: opt-outs enforced" in steps_shown(PAGE, "A STOP")
        steps = steps_shown(PAGE, "The transactions of the STOP")
        follows(spans, steps)
        [transaction] = [span for span in spans if span.step == steps[-1]]
        assert transaction.attributes == {"db.system.name": "postgresql"}
        assert not any(span.parent == transaction.id for span in spans)
        nothing_is_told_of_people(collector, "STOP")
        draw("stop", "A STOP: from the callback to its enforcement", spans)


async def test_a_message_is_traced_from_the_request_to_its_dlr(surroundings: Surroundings) -> None:
    async with collecting() as collector:
        async with traced(surroundings, collector) as services:
            await services.code_sent(PERSON)
            [taken] = [each for each in services.operator.messages if each["text"].startswith(TEXT)]
            identity = str(taken["reference"])
            dlr = {"id": "sim-1", "reference": identity, "status": "delivered", "code": None, "at": now().isoformat()}
            dlr_trace = await called_back(services, "receipts", {"receipts": [dlr]})

            async def delivered() -> bool:
                found = await services.call("GET", "dispatch", f"/v1/messages/{identity}")
                return bool(found["receipt"] == "delivered")

            await eventually(delivered)
        own = collector.of(identity.replace("-", ""))
        steps = steps_shown(PAGE, "A message")
        for step in steps[1:]:
            accepted, done = follows(own, [steps[0], step])
            assert accepted.attributes["placet.message.id"] == done.attributes["placet.message.id"] == identity
        spans = {span.id: span for span in collector.spans}
        (request,) = {spans[link].trace for span in own for link in span.links if span.name == "message accepted"}
        follows(collector.of(request), steps_shown(PAGE, "The request of the message"))
        follows(collector.of(dlr_trace), steps_shown(PAGE, "The DLR of the message"))
        [processed] = [spans[link] for span in own for link in span.links if span.name == "DLR matched"]
        assert (processed.trace, processed.name) == (dlr_trace, "process inbound.receipts.v1")
        nothing_is_told_of_people(collector, TEXT)
        shown = [*own, *collector.of(request), *collector.of(dlr_trace)]
        draw("message", "A message: from the request to its DLR, in its own trace and in those that it links to", shown)


@pytest.mark.any_broker
async def test_a_process_sends_its_spans_to_the_collector_of_its_settings_before_it_ends(
    surroundings: Surroundings,
) -> None:
    async with collecting() as collector, httpx.AsyncClient(timeout=WITHIN_S) as http:
        port = free_port()
        told = {"provider_accounts": ACCOUNTS, "roles": "api", "port": port, "traces_url": collector.url}
        settings = await surroundings.settings("inbound", **told)
        command = [sys.executable, "-m", "inbound"]
        process = await asyncio.create_subprocess_exec(*command, env=environment(settings))
        try:

            async def answers() -> bool:
                try:
                    answer = await http.get(f"http://127.0.0.1:{port}/v1/reviews")
                except httpx.TransportError:
                    return False
                return answer.status_code == 401

            await eventually(answers)
            await http.get(f"http://127.0.0.1:{port}/readyz")
        finally:
            process.terminate()
            await process.wait()
    steps = {span.step for span in collector.spans}
    assert steps == {"inbound: GET /v1/reviews"}, "health has no spans"
    assert collector.services == {"inbound-svc"}


def nothing_is_told_of_people(collector: Collector, text: str) -> None:
    """No number, text, token or subject in what left."""
    assert collector.spans
    said = b"".join(collector.bodies)
    for secret in (number(PERSON), number(PERSON)[1:], text, subject(PERSON), "Bearer", SECRET):
        assert secret.encode() not in said, "a span tells of a person"
    for span in collector.spans:
        assert span.attributes.keys() <= tracing.ATTRIBUTES
        for value in (span.name, *span.attributes.values()):
            assert masked(str(value)) == str(value)
