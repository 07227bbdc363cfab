"""The web server of a service: uvicorn, with long-lived idle connections and a graceful stop.

Where the server closes a kept connection as the client sends its next request, the request is lost: perhaps a STOP, and
the operator may not retry. So the server keeps an idle connection longer than any client does (`keep_alive_s`).

A server asked to stop goes on answering for `leave_s`, with /readyz red and `Connection: close`; then it gives requests
in flight GRACE_S.
"""

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from common.settings import ServiceSettings

GRACE_S = 5  # before the workers drain
LOOK_EVERY_S = 0.05
CLOSE = (b"connection", b"close")


def server_of(app: FastAPI, settings: ServiceSettings) -> "Server":
    config = uvicorn.Config(
        app,
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

    @property
    def leaving(self) -> bool:
        """Return whether the server has been asked to stop."""
        return bool(getattr(self._app.state, "leaving", False))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._leave()
        await super().shutdown(sockets)

    async def _leave(self) -> None:
        """Answer with `Connection: close` until every client has gone or `leave_s` is over."""
        self._app.state.leaving = True
        state, loop = self.server_state, asyncio.get_running_loop()
        state.default_headers = [*state.default_headers, CLOSE]
        for connection in list(state.connections):
            cycle = getattr(connection, "cycle", None)  # a websocket has none
            if cycle is not None and not cycle.response_complete:
                connection.shutdown()  # its answer says close
        until = loop.time() + self._leave_s
        while state.connections and loop.time() < until and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)  # uvicorn has no event for a lost connection
