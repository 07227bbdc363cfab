"""A connection of the server: uvicorn's protocol, with limits and deadlines.

uvicorn takes a head of any size and waits for a head or a body for ever. Here a head has at most HEAD_BYTES and HEADERS
fields, and HEAD_S to arrive; a body arrives at BODY_BYTES_PER_S after BODY_S; a client that takes no byte of its
answer for UNREAD_S is dropped. A limit that is met answers in words, where no answer has begun, and closes the
connection.

A connection beyond `most` takes the place of the connection that has waited longest for a request, and is refused
only while every other connection has a whole request at work: nobody's open connections keep a STOP out.
"""

import asyncio
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from common.telemetry import counter

HEAD_BYTES = 32 * 1024
HEADERS = 100
HEAD_S = 20.0  # from the first byte
SILENT_S = 60.0  # from the connection to the first byte
BODY_S = 30.0
BODY_BYTES_PER_S = 16 * 1024  # beyond BODY_S; a paused reading counts as none
UNREAD_S = 60.0
PIPELINED = 8  # requests that wait behind another one of the connection
DISCARDED_BYTES = 256 * 1024  # of a body that was answered before its end
LATE_S = 1.0  # a process that stood still gives what has arrived meanwhile a second period
RETRY_AFTER_S = 5

REFUSED = counter(
    "sms_http_connections_refused_total",
    "Connections closed at a limit or a deadline, by reason.",
    ["reason"],
)


class _Awaited(Enum):
    """The part of a request that a connection waits for."""

    FIRST = "silent"
    HEAD = "head_late"
    BODY = "body_late"


class _Refused(Exception):
    """A request met a limit: the parser stops."""


class Crowd:
    """The open connections of a process, in the order in which they began to wait. `most`: of all."""

    def __init__(self, most: int, exempt_port: int | None = None) -> None:
        self.most = most
        self.exempt_port = exempt_port  # health: a full house must not look dead
        self._arriving: dict[Connection, None] = {}  # without a whole request so far
        self._kept: dict[Connection, None] = {}  # idle after an answer

    def waits(self, one: "Connection", kept: bool) -> None:
        self.works(one)
        (self._kept if kept else self._arriving)[one] = None

    def arrives(self, one: "Connection") -> None:
        """Count a connection with a part of a request as arriving, from now on."""
        if self._kept.pop(one, self) is None:
            self._arriving[one] = None

    def works(self, one: "Connection") -> None:
        self._arriving.pop(one, None)
        self._kept.pop(one, None)

    def make_room(self) -> bool:
        """Drop the connection that has waited longest; return whether there was one."""
        for waiting in (self._arriving, self._kept):
            if waiting:
                next(iter(waiting)).drop("crowded_out")
                return True
        return False


class Outlet:
    """The transport of one answer: a head goes out with the body behind the head, by one system call.

    A head without a body in the same round of the event loop goes out alone in the next.
    """

    __slots__ = ("_head", "_loop", "_transport", "_waits")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._waits = True  # only the first bytes do

    def write(self, data: bytes) -> None:
        if self._waits:
            self._waits, self._head = False, data
            self._loop.call_soon(self.flush)
        elif self._head:
            data, self._head = self._head + data, b""
            self._transport.write(data)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            if not self._transport.is_closing():
                self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class Config(uvicorn.Config):
    """The configuration of a server whose connections are a crowd."""

    def __init__(self, app: Any, crowd: Crowd, **more: Any) -> None:
        super().__init__(app, http=Connection, ws="none", **more)
        self.crowd = crowd


class Connection(HttpToolsProtocol):
    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: Any,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config, Config)
        self._crowd = config.crowd
        self._awaited: _Awaited | None = _Awaited.FIRST
        self._timer: asyncio.TimerHandle | None = None
        self._timed: _Awaited | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._begun = 0  # requests
        self._head_bytes = 0
        self._fed_bytes = 0  # of a head without its end
        self._body_from = 0.0
        self._body_bytes = 0

    @property
    def is_answered(self) -> bool:
        """Return whether no request is at work."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._is_crowded() and not self._crowd.make_room():
            self._answer(503, "too many connections: try again later", (f"Retry-After: {RETRY_AFTER_S}",))
            REFUSED.labels("crowded").inc()
            transport.close()
            return
        if not self._is_exempt():
            self._crowd.waits(self, kept=False)
        self._watch(_Awaited.FIRST)

    def _is_exempt(self) -> bool:
        port = self._crowd.exempt_port
        return port is not None and self.server is not None and self.server[1] == port

    def _is_crowded(self) -> bool:
        return not self._is_exempt() and len(self.connections) > self._crowd.most

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.works(self)
        self._watch(None)
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # what comes behind a refusal
            return
        self._unset_keepalive_if_required()
        begun, of_head = self._begun, self._awaited is _Awaited.HEAD
        try:
            self.parser.feed_data(data)
        except _Refused:
            return
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Refused):
                self.refuse(400, "malformed", "the request is not HTTP/1.1")
            return
        except httptools.HttpParserUpgrade:
            self.refuse(400, "malformed", "the connection cannot be upgraded: send HTTP/1.1")
            return
        except httptools.HttpParserError:
            self.refuse(400, "malformed", "the request is not HTTP/1.1")
            return
        if self.transport.is_closing():
            return
        if of_head and begun == self._begun and self._awaited is _Awaited.HEAD:
            self._fed_bytes += len(data)
            if self._fed_bytes > HEAD_BYTES:
                self.refuse(431, "head_too_large", f"a head has at most {HEAD_BYTES} bytes")
                return
        if self._awaited is not None and self._awaited is not _Awaited.FIRST:
            self._crowd.arrives(self)
        elif self._begun and self.is_answered:
            self._keep()
        self._watch(self._awaited, anew=begun != self._begun)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._awaited = _Awaited.HEAD
        self._begun += 1
        self._head_bytes = self._fed_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count_head(len(name) + len(value))
        if self._awaited is _Awaited.BODY:
            return  # a trailer: no header of the request
        if len(self.headers) >= HEADERS:
            self._stop(431, "head_too_large", f"a head has at most {HEADERS} fields")
        super().on_header(name, value)

    def _count_head(self, more: int) -> None:
        self._head_bytes += more
        if self._head_bytes > HEAD_BYTES:
            self._stop(431, "head_too_large", f"a head has at most {HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= PIPELINED:
            self._stop(503, "pipelined", "too many requests wait for their answers")
        super().on_headers_complete()
        outlet = Outlet(self.transport, self.loop)
        self.cycle.transport = outlet  # type: ignore[assignment]
        self.cycle.on_response = partial(self._completed, outlet)
        self._awaited = _Awaited.BODY
        self._body_from, self._body_bytes = self.loop.time(), 0

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self.cycle.response_complete and self._body_bytes > DISCARDED_BYTES:
            self._stop(413, "unwanted", "the request was answered before its end")
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._awaited = None
        self._crowd.works(self)

    def _completed(self, outlet: Outlet) -> None:
        outlet.flush()  # an answer without a body
        self.on_response_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.is_answered and not self.transport.is_closing() and not self._is_exempt():
            self._crowd.waits(self, kept=self._awaited is None)

    def _keep(self) -> None:
        """Count the connection as idle again: bytes between two requests, or the end of a body answered before."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            if not self._is_exempt():
                self._crowd.waits(self, kept=True)

    def _watch(self, awaited: _Awaited | None, anew: bool = False) -> None:
        """Time the awaited part; the same part goes on with its time."""
        if awaited is self._timed and not anew:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed = awaited
        if awaited is not None:
            seconds = {_Awaited.FIRST: SILENT_S, _Awaited.HEAD: HEAD_S, _Awaited.BODY: BODY_S}[awaited]
            self._set(seconds, self._overdue)

    def _set(self, seconds: float, overdue: Callable[[float], None]) -> None:
        due = self.loop.time() + seconds
        self._timer = self.loop.call_at(due, overdue, due)

    def _overdue(self, due: float) -> None:
        now, awaited = self.loop.time(), self._timed
        assert awaited is not None
        if now - due > LATE_S:
            self._set(HEAD_S, self._overdue)
            return
        if awaited is _Awaited.BODY:
            if self.flow.read_paused:  # the service is slow, not the client
                self._body_from = now - self._body_bytes / BODY_BYTES_PER_S
            due = self._body_from + BODY_S + self._body_bytes / BODY_BYTES_PER_S
            if due > now:
                self._set(due - now, self._overdue)
                return
        if awaited is _Awaited.FIRST:
            self.drop(awaited.value)
        else:
            part = "head" if awaited is _Awaited.HEAD else "body"
            self.refuse(408, awaited.value, f"the {part} of the request did not arrive in time")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_S, self.drop, "unread")

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken()

    def _taken(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _stop(self, status: int, reason: str, told: str) -> None:
        self.refuse(status, reason, told)
        raise _Refused

    def refuse(self, status: int, reason: str, told: str) -> None:
        """Answer in words, unless an answer has begun or an earlier request waits for one, and close."""
        if self._awaited is _Awaited.BODY:
            free = not (self.pipeline or self.cycle.response_started)
        else:
            free = self.is_answered
        if free:
            self._answer(status, told)
        REFUSED.labels(reason).inc()
        self._end()
        self.transport.close()

    def drop(self, reason: str) -> None:
        """Close at once."""
        REFUSED.labels(reason).inc()
        self._end()
        self.transport.abort()

    def _end(self) -> None:
        self._crowd.works(self)
        self._watch(None)
        self.pipeline.clear()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _answer(self, status: int, told: str, headers: tuple[str, ...] = ()) -> None:
        body = f"{told}\n".encode()
        lines = (
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            *headers,
            "Connection: close",
        )
        self.transport.write(STATUS_LINE[status] + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body)
