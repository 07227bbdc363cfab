"""The two transports: each drives the flows of `flow`, one with threads in mind, one with asyncio."""

import asyncio
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar

import httpx

from placet_client.flow import Flow, Read, Send, Step, Wait
from placet_client.problem import NotConfigured
from placet_client.request import Request
from placet_client.retrying import Retrying

T = TypeVar("T")

TIMEOUT = httpx.Timeout(30.0, connect=5.0)
USER_AGENT = f"placet-client/{version('placet-client')} python/{platform.python_version()} httpx/{httpx.__version__}"


@dataclass(frozen=True, slots=True)
class Options:
    """How calls are made. `token`: a bearer token, or a function that returns the present one."""

    urls: Mapping[str, str]
    token: str | Callable[[], str]
    timeout: httpx.Timeout
    retrying: Retrying

    def build(self, request: Request[Any], key: str | None) -> httpx.Request:
        """Return the HTTP request of a call. Raises NotConfigured without a URL of the service."""
        base = self.urls.get(request.service)
        if not base:
            raise NotConfigured(
                f"no URL of {request.service}-svc: pass `{request.service}_url`"
                f" or set PLACET_{request.service.upper()}_URL"
            )
        token = self.token if isinstance(self.token, str) else self.token()
        content = request.written_body()
        headers = {"Authorization": f"Bearer {token}", "User-Agent": USER_AGENT, "Accept": "application/json"}
        headers |= request.own_headers()
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if key is not None:
            headers["Idempotency-Key"] = key
        return httpx.Request(
            request.method,
            base.rstrip("/") + request.url_path(),
            params=tuple(request.url_query()) or None,
            headers=headers,
            content=content,
            extensions={"timeout": self.timeout.as_dict()},
        )

    def changed(self, timeout_s: float | None, retries: int | None) -> "Options":
        return replace(
            self,
            timeout=self.timeout if timeout_s is None else httpx.Timeout(timeout_s),
            retrying=self.retrying if retries is None else replace(self.retrying, times=retries),
        )


class SyncSession:
    """Drives flows with blocking calls. Safe to share between threads."""

    def __init__(self, options: Options, http: httpx.Client) -> None:
        self.options = options
        self.http = http

    def run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    done = self._do(step)
                except httpx.TransportError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(done)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            flow.close()  # after an interrupt: closes an upload's file

    def _do(self, step: Step) -> httpx.Response:
        match step:
            case Send(request, stream):
                return self.http.send(request, stream=stream)
            case Read(response):
                response.read()
                return response
            case Wait(seconds):
                time.sleep(seconds)
                return _NO_RESPONSE


class AsyncSession:
    """Drives flows on an event loop."""

    def __init__(self, options: Options, http: httpx.AsyncClient) -> None:
        self.options = options
        self.http = http

    async def run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    done = await self._do(step)
                except httpx.TransportError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(done)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            flow.close()  # after an interrupt: closes an upload's file

    async def _do(self, step: Step) -> httpx.Response:
        match step:
            case Send(request, stream):
                return await self.http.send(request, stream=stream)
            case Read(response):
                await response.aread()
                return response
            case Wait(seconds):
                await asyncio.sleep(seconds)
                return _NO_RESPONSE


_NO_RESPONSE = httpx.Response(204)
