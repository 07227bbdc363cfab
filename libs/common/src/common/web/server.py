"""The web server of a service: uvicorn, with long-lived idle connections and a graceful stop.

Where the server closes a kept connection as the client sends its next request, the request is lost: perhaps a STOP, and
the operator may not retry. So the server keeps an idle connection longer than any client does (`keep_alive_s`).

A server asked to stop goes on answering for `leave_s`, with /readyz red and `Connection: close`. Then it stops
listening and closes idle connections. A request that has begun to arrive, and a connection that is new since, get
ARRIVAL_S, requests in flight GRACE_S.
"""

import asyncio
import select
import socket
from typing import Protocol

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.settings import ServiceSettings
from common.telemetry import tracing
from common.web.edge.connection import Config, Crowd

ARRIVAL_S = 1.0
GRACE_S = 5  # before the workers drain
POLL_EVERY_S = 0.05
CLOSE = (b"connection", b"close")
ATTACHED_AFTER = 5  # rounds of the event loop: asyncio drops a connection that it has accepted and not attached
QUEUE_ROUNDS = 1000  # of accepting before the server stops listening


class _Socket(Protocol):
    def fileno(self) -> int: ...


def server_of(app: FastAPI, settings: ServiceSettings) -> "Server":
    config = Config(
        app,
        Crowd(settings.connections, settings.health_port),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=GRACE_S,
    )
    return Server(config, app, settings.leave_s)


class Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, leave_s: float) -> None:
        super().__init__(config)
        self._app = app
        self._leave_s = leave_s
        self._silent: frozenset[HttpToolsProtocol] = (
            frozenset()
        )  # connections without a byte as the server was asked to stop

    @property
    def leaving(self) -> bool:
        """Return whether the server has been asked to stop."""
        return bool(getattr(self._app.state, "leaving", False))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._leave()
        await self._stop_listening()
        await super().shutdown(sockets)
        # no later: uvicorn raises the signal again, which ends the process
        await asyncio.to_thread(tracing.stop)

    async def _leave(self) -> None:
        """Answer with `Connection: close` until every client has gone or `leave_s` is over."""
        self._app.state.leaving = True
        state, loop = self.server_state, asyncio.get_running_loop()
        self._silent = frozenset(each for each in self._over_http() if each.scope is None)
        state.default_headers = [*state.default_headers, CLOSE]
        for connection in self._over_http():
            if connection.cycle is not None and not connection.cycle.response_complete:
                connection.shutdown()  # its answer says close
        until = loop.time() + self._leave_s
        while state.connections and loop.time() < until and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(POLL_EVERY_S)  # uvicorn has no event for a lost connection

    async def _stop_listening(self) -> None:
        """Close the listening sockets once their queues are empty, and idle connections; wait for what has begun.

        The kernel resets what is queued as a socket closes. uvicorn closes a connection without a whole request head,
        and so loses a callback that is arriving.
        """
        for server in self.servers:
            empty = 0
            for _ in range(QUEUE_ROUNDS):
                empty = 0 if any(_is_readable(each) for each in server.sockets) else empty + 1
                if empty > ATTACHED_AFTER:
                    break
                await asyncio.sleep(0)
            server.close()
        for connection in self._over_http():
            is_idle = connection.timeout_keep_alive_task is not None
            if is_idle and not _is_readable(connection.transport.get_extra_info("socket")):
                connection.shutdown()
        loop = asyncio.get_running_loop()
        until = loop.time() + ARRIVAL_S
        await asyncio.sleep(POLL_EVERY_S)  # what was accepted last becomes a connection
        while self._expects_a_request() and loop.time() < until and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(POLL_EVERY_S)

    def _expects_a_request(self) -> bool:
        """Return whether a connection is new, or a request head is arriving."""
        for connection in self._over_http():
            is_idle = connection.timeout_keep_alive_task is not None
            is_silent = connection in self._silent and connection.scope is None
            if not (is_idle or is_silent) and (connection.cycle is None or connection.cycle.response_complete):
                return True
        return False

    def _over_http(self) -> list[HttpToolsProtocol]:
        return [each for each in self.server_state.connections if isinstance(each, HttpToolsProtocol)]


def _is_readable(at: _Socket) -> bool:
    """Return whether the kernel holds a connection, or bytes, that the event loop has not taken yet."""
    poll = select.poll()
    poll.register(at.fileno(), select.POLLIN)
    return bool(poll.poll(0))
