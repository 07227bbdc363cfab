"""A request to a provider over HTTP, and the meaning of each network failure.

no connection was free, or came, while the permit lasted    Late: nothing left
refused, no route, no name, no TLS, no answer to connect    Unreachable: nothing left
a new connection ended before our first byte                Unreachable: nothing left
a kept connection ended before our first byte               none: the request takes another connection
after our first byte: a reset, silence, a drip, no end      Unanswered
an unreadable answer                                        Unanswered

The rule: a byte that is given to the kernel may reach the provider, and a provider that resets or closes may have the
message. Before it, no provider has the message. `connections.py` asks the kernel directly before the first byte.

aiohttp opens and keeps the connections, and parses the answers. A request is written here: aiohttp's session costs as
much for a message as the decision.
"""

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from dispatch.gateways.connections import Bounds, Connections, Exchange, exchange_of
from dispatch.gateways.gateway import Capabilities, Result, SendError, Submit, Unanswered, Unreachable
from dispatch.gateways.provider import Account, Answer, Explains, HttpProvider, LooksUp, Request

ANSWER_BYTES = 4 * 1024 * 1024
AT_ONCE = 32  # requests of one submit, where a request is one message
PATHS = 16  # few of submits; a look-up has one of its own


class Shared:
    """The common part of the requests to a path: the connection's key, the first line, the usual headers."""

    def __init__(self, method: str, url: str) -> None:
        """Raise ValueError for a URL without a host."""
        self.request = aiohttp.ClientRequest(method, URL(url), loop=asyncio.get_running_loop())
        self._line = f"{method} {self.request.url.raw_path_qs} HTTP/1.1"

    def written(self, request: Request) -> bytes:
        """Return the bytes of a request. Raise ValueError for a header that would be two."""
        headers = self.request.headers.copy()
        headers.update(request.headers)
        if request.body:
            headers["Content-Length"] = str(len(request.body))
        head = "\r\n".join([self._line, *map(": ".join, headers.items()), "\r\n"])
        if head.count("\r") != len(headers) + 2 or head.count("\n") != len(headers) + 2 or "\0" in head:
            raise ValueError("a header has a control character")
        return head.encode() + request.body


class Deadline:
    """The end of a submit. One timer ends the wait of all requests: a timer a request costs as much as its parsing."""

    def __init__(self, after_s: float) -> None:
        self.passed = False
        self.waiting: set[asyncio.Task[Any]] = set()
        self._timer = asyncio.get_running_loop().call_later(after_s, self._pass)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.waiting:  # else a request was left behind by the error of another, and ends by the timer
            self._timer.cancel()

    def _pass(self) -> None:
        self.passed = True
        for task in self.waiting:
            task.cancel()


class HttpGateway:
    """A provider's module with an account and a connection pool.

    `batch`: at most the provider's; requests at once, where a request is one message.
    """

    def __init__(
        self,
        name: str,
        provider: HttpProvider,
        account: Account,
        *,
        timeout_s: float,
        batch: int | None = None,
        capabilities: Capabilities | None = None,
        looks_up: LooksUp | None = None,
        explains: Explains | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.name = name
        self.capabilities = capabilities or provider.capabilities
        most = provider.capabilities.batch if provider.capabilities.batch > 1 else AT_ONCE
        self.batch = min(batch or most, most)
        self.timeout_s = timeout_s
        self._provider = provider
        self._looks_up = looks_up
        self._explains = explains
        self._account = account
        self._url = (account.url or provider.URL).rstrip("/")
        self._connections = Connections(bounds or Bounds())
        self._timeout = aiohttp.ClientTimeout(sock_connect=min(2.0, timeout_s))
        self._shared = lru_cache(PATHS)(lambda method, path: Shared(method, self._url + path))

    async def submit(self, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        with Deadline(self.timeout_s) as deadline:
            if self._provider.capabilities.batch > 1:
                return await self._exchange(messages, deadline)
            return await asyncio.gather(*(self._alone(message, deadline) for message in messages))

    async def look_up(self, reference: str, subject_id: str) -> Result | None:
        if self._looks_up is None:
            return None
        with Deadline(self.timeout_s) as deadline:
            answer = await self._ask(self._looks_up.lookup(reference, self._account), deadline)
        try:
            return self._looks_up.found(answer, reference, subject_id)
        except SendError:
            raise
        except Exception as error:
            raise Unanswered(f"the answer cannot be read: {type(error).__name__}") from None

    async def _alone(self, message: Submit, deadline: Deadline) -> Result | SendError:
        try:
            [result] = await self._exchange([message], deadline)
        except SendError as error:
            return error
        if self._explains is None or not isinstance(result, Result):
            return result
        return await self._explained(self._explains, message, result, deadline)

    async def _explained(self, explains: Explains, message: Submit, result: Result, deadline: Deadline) -> Result:
        """Return the result, with the provider's reason where it tells one by the deadline."""
        question = explains.question(message, result, self._account, datetime.now(UTC))
        if question is None:
            return result
        try:
            return explains.explained(result, await self._ask(question, deadline))
        except Exception:  # the refusal stands without its reason
            return result

    async def _exchange(self, messages: Sequence[Submit], deadline: Deadline) -> Sequence[Result | SendError]:
        request = self._provider.request(messages, self._account, datetime.now(UTC))
        answer = await self._ask(request, deadline, min([message.begin_by for message in messages]))
        try:
            results = self._provider.read(answer, messages)
        except SendError:
            raise
        except Exception as error:  # the provider has the message, readable answer or not
            raise Unanswered(f"the answer cannot be read: {type(error).__name__}") from None
        if len(results) != len(messages):
            raise Unanswered("the answer is not about what was submitted")
        return results

    async def _ask(self, request: Request, deadline: Deadline, begin_by: float = math.inf) -> Answer:
        exchange, task = Exchange(begin_by), asyncio.current_task()
        assert task is not None
        exchange_of.set(exchange)
        before = task.cancelling()
        deadline.waiting.add(task)
        try:
            if deadline.passed:
                raise TimeoutError
            try:
                return await self._answer(request, exchange)
            except asyncio.CancelledError:  # as `asyncio.timeout` does
                if not deadline.passed or task.uncancel() > before:
                    raise
                raise TimeoutError from None
        except SendError:
            raise
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError) as error:
            raise (Unanswered if exchange.begun else Unreachable)(type(error).__name__) from None
        finally:
            deadline.waiting.discard(task)
            self._connections.done(exchange)

    async def _answer(self, request: Request, exchange: Exchange) -> Answer:
        """Write the request to a good connection, and read its answer."""
        shared = self._shared(request.method, request.path)
        written = shared.written(request)
        connection = await self._connections.connect(shared.request, [], self._timeout)
        try:
            protocol, transport = connection.protocol, connection.transport
            if protocol is None or transport is None:
                raise Unreachable("the connection has ended")
            protocol.set_response_params(read_until_eof=True)
            transport.write(written)
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != 101:
                message, content = await protocol.read()
            self._connections.proven(exchange)
            body = await content.read(ANSWER_BYTES)
            while not content.at_eof() and len(body) < ANSWER_BYTES:
                body += await content.read(ANSWER_BYTES - len(body))
            if not content.at_eof():
                raise Unanswered("the answer has no end")
            connection.release()
            return Answer(message.code, message.headers, body)
        finally:
            connection.close()  # unless released

    async def close(self) -> None:
        await self._connections.close()
