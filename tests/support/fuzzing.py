"""Requests that nobody would send, to a service that runs: all that its OpenAPI allows and forbids (schemathesis), and
what no OpenAPI speaks of (a target of any bytes). Whatever comes, the answer is one of ours: never a 500, and no 503
that stays: while the machine stands still, a database may not answer in time.

In the suite always the same few requests; `make fuzz` sets FUZZ_SECONDS, and then it is others, for as long.
"""

import asyncio
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)

from stack.processes import Supervisor, free_port
from tests.support.running import Surroundings, environment

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
A_TURN = 40  # examples of one strategy before the next has its turn, when there is time
schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")  # a part of an upload

# what the OpenAPI says of an answer is so: the media type, the headers, and the body's schema
AS_DECLARED = [
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    allow_header_conformance,
]
PROBLEM = "application/problem+json"
TIMEOUT_S = 30.0
TIMES = 10  # that a request is sent while it is told to come back
START_WITHIN_S = 60.0
LOADED_S = 240.0  # what the few may take on a machine that has other things to do
ERROR_CHARS = 1500
OF_A_REQUEST = ("method", "url", "headers", "files", "data", "params", "auth", "cookies", "json")
WAITS = {"/v1/events": "wait_s", "/v1/events/stream": "lasts_s"}  # by path, a parameter for how long to wait
OF_THE_WIRE = ("host", "connection", "content-length", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: `target` is put on the wire as it is."""

    method: str
    target: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Told:
    """`status` 0: hung up on without an answer."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, list[str]] = field(default_factory=dict, repr=False)


@dataclass
class Fuzzed:
    """A service on a socket. `told`: how often each status was answered."""

    host: str
    port: int
    openapi: dict[str, Any]
    log: Path
    told: Counter[int] = field(default_factory=Counter)

    def ask(self, asked: Asked) -> Told:
        """Asks, and looks at what is answered. Raises AssertionError: it was no answer of ours."""
        for _ in range(TIMES):
            told = self._ask(asked)
            self.told[told.status] += 1
            if told.status != 503:
                break
        assert 0 < told.status < 500, f"{asked} was told {told}\n{self.last_error()}"
        return told

    def last_error(self) -> str:
        """The end of what the service says of it."""
        errors = [line["error"] for line in map(_read, self.log.read_text().splitlines()) if "error" in line]
        return str(errors[-1])[-ERROR_CHARS:] if errors else "(no error in its log)"

    def _ask(self, asked: Asked) -> Told:
        head = {"host": f"{self.host}:{self.port}", "connection": "close", "content-length": str(len(asked.body))}
        lines = [f"{name}: {value}".encode("latin-1", "replace") for name, value in {**head, **asked.headers}.items()]
        first = asked.method.encode() + b" " + asked.target + b" HTTP/1.1"
        with socket.create_connection((self.host, self.port), timeout=TIMEOUT_S) as wire:
            with suppress(ConnectionError):  # refused before all of it was read: there may be an answer all the same
                wire.sendall(b"\r\n".join([first, *lines, b"", asked.body]))
            response = HTTPResponse(wire, method=asked.method)
            try:
                response.begin()
                said: dict[str, list[str]] = {}
                for name, value in response.getheaders():
                    said.setdefault(name.lower(), []).append(value)
                media_type = response.getheader("content-type", "").partition(";")[0]
                return Told(response.status, media_type, response.read(), said)
            except (HTTPException, ConnectionError):
                return Told(0, "", b"")


@asynccontextmanager
async def fuzzed(surroundings: Surroundings, service: str, folder: Path, **more: Any) -> AsyncIterator[Fuzzed]:
    """The service as a process of its own: the dice here are not its dice."""
    port = free_port()
    told = await surroundings.settings(service, port=port, **more)
    url = f"http://127.0.0.1:{port}"
    async with Supervisor(folder) as supervisor, httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client:
        command = [sys.executable, "-m", service]
        await supervisor.start(service, command, env=environment(told), ready=f"{url}/livez", within_s=START_WITHIN_S)
        yield Fuzzed("127.0.0.1", port, (await client.get("/openapi.json")).json(), supervisor.log(service))


@dataclass(frozen=True, slots=True)
class Check:
    """What `look` sees are examples of `strategy`; `few` of them where there is no time. `shrinks`: a failing example
    is made smaller, where looking at hundreds of others takes no minutes."""

    strategy: st.SearchStrategy[Any]
    look: Callable[[Any], None]
    few: int
    shrinks: bool = True


async def fuzz(label: str, under_test: Fuzzed, *checks: Check) -> None:
    """Each check with a few examples, always the same; or in turns with others until the time is over."""
    await asyncio.to_thread(_fuzz, checks)
    shown = ", ".join(f"{count} × {status}" for status, count in sorted(under_test.told.items()))
    print(f"\n{label}: {sum(under_test.told.values())} requests: {shown}")  # noqa: T201


def _fuzz(checks: Sequence[Check]) -> None:
    if not FUZZ_SECONDS:
        for check in checks:
            _run(check, check.few, 0)
        return
    until, dice, turns = time.monotonic() + FUZZ_SECONDS, Random(), cycle(checks)
    while time.monotonic() < until:
        _run(next(turns), A_TURN, dice.getrandbits(64))


def _run(check: Check, examples: int, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if check.shrinks else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(check.strategy)
    def each(example: Any) -> None:
        check.look(example)

    with suppress(Unsatisfiable):  # there is nothing that this operation forbids
        each()


def everything_described(
    under_test: Fuzzed, headers: Mapping[str, str], known: Mapping[str, Sequence[Any]], few: int
) -> list[Check]:
    """For each operation of the OpenAPI, requests that it allows and that it forbids. `headers`: of somebody who may do
    everything. `known`: by name, values of parameters and fields that name something that exists."""
    schema = schemathesis.openapi.from_dict(under_test.openapi)
    url = f"http://{under_test.host}:{under_test.port}"

    def look(case: schemathesis.Case[Any]) -> None:
        if (waits := WAITS.get(case.operation.path)) is not None:
            case.query = {**(case.query or {}), waits: 0}
        prepared = _prepared(case.as_transport_kwargs(base_url=url, headers=dict(headers)))
        told = under_test.ask(_as_asked(prepared))
        assert told.status < 400 or told.media_type == PROBLEM, told
        declared = case.operation.definition.raw["responses"]
        if told.status == 405:  # a path of odd names is another operation's
            return
        assert str(told.status) in declared, f"{case.operation.label} does not declare {told}"
        answer = Response(told.status, told.headers, told.body, prepared, 0.0, verify=False)
        try:
            case.validate_response(answer, checks=AS_DECLARED)
        except FailureGroup as failures:
            why = "; ".join(f"{each.title}: {each.message}" for each in failures.exceptions)
            raise AssertionError(f"{case.operation.label} answered {told}: {why}") from failures

    operations: list[Any] = [found.ok() for found in schema.get_all_operations() if hasattr(found, "ok")]
    assert len(operations) == sum(len(path) for path in under_test.openapi["paths"].values())
    return [
        Check(_with_known(operation.as_strategy(generation_mode=mode), known), look, few)
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    ]


def _prepared(keywords: Mapping[str, Any]) -> requests.PreparedRequest:
    return requests.Request(**{name: keywords[name] for name in OF_A_REQUEST if name in keywords}).prepare()


def _as_asked(prepared: requests.PreparedRequest) -> Asked:
    """What `requests` would send."""
    body = prepared.body or b""
    assert isinstance(body, str | bytes)
    headers = {name: str(value) for name, value in prepared.headers.items() if name.lower() not in OF_THE_WIRE}
    target = str(prepared.path_url).encode("utf-8", "surrogatepass")
    return Asked(str(prepared.method), target, headers, body.encode() if isinstance(body, str) else body)


@st.composite
def _with_known(draw: st.DrawFn, cases: st.SearchStrategy[Any], known: Mapping[str, Sequence[Any]]) -> Any:
    """Half of them ask for something that exists, a quarter for what nothing could be called."""
    case = draw(cases)
    dice = draw(st.integers(0, 3))
    if dice == 0:
        case.path_parameters = {name: draw(ODD_NAMES) for name in case.path_parameters or {}}
    if dice > 1:
        for filled in (case.path_parameters, case.query, case.body):
            if isinstance(filled, dict):
                for name in sorted(filled.keys() & known.keys()):
                    filled[name] = draw(st.sampled_from(known[name]))
    return case


# fmt: off
ODD_NAMES = st.sampled_from(
    ["\x00", "a\x00b", "é", "\u200b", "..", "%2F", "%00", "0" * 40, "-1", "9" * 30, "\U0001f6d1", "a'b", "x" * 3000]
)
PIECES = st.sampled_from([
    b"/", b"//", b"%2F", b"%2f..", b"/..", b"/.", b"%00", b"%zz", b"%", b"%C3%A9", b"%E9", b"\xe9", b"\xff\xfe",
    b";x=1", b":99999", b"[", b"]", b"[::1", b"@", b"#", b"?", b"&", b"=", b"%0A", b"%0D%0A", b"%ED%A0%80", b"\\",
    b"\t", b"'",
])
# fmt: on
ASKED = PIECES | st.sampled_from([b"a=1", b"bodySHA256=", b"cursor=1"])


@st.composite
def odd_targets(draw: st.DrawFn, paths: Sequence[str]) -> bytes:
    """One of these paths with odd pieces put in, and an odd query behind it."""
    raw = bytearray(draw(st.sampled_from(paths)).encode())
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(raw)))
        raw[place:place] = draw(PIECES)
    if draw(st.booleans()):
        raw += b"?" + b"".join(draw(st.lists(ASKED, max_size=5)))
    return bytes(raw)


def _read(line: str) -> dict[str, Any]:
    try:
        read: dict[str, Any] = json.loads(line)
    except ValueError:  # not of our logging
        return {"error": line}
    return read
