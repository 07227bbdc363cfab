"""The web server of a service: uvicorn, with connections that outlast their clients' patience, and a farewell.

A client that keeps a connection sends its next request on it. Where the server closes the connection in that moment the
request is lost, and of an operator that is a STOP to be sent again, if the operator does. So an idle connection is kept
for longer than any client keeps one (`keep_alive_s`): the client closes first.

A server that is asked to stop goes on listening and answering for `leave_s`. Each answer says `Connection: close`, so
its client takes no kept connection to a server that is about to end; /readyz is red. Once no connection is left, or
`leave_s` is over, the server stops: what is idle is closed, what is being answered gets GRACE_S.
"""

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from common.settings import ServiceSettings

GRACE_S = 5  # for the requests in flight, before the workers drain
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
        """Whether the server has been asked to stop. For /readyz too."""
        return bool(getattr(self._app.state, "leaving", False))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._leave()
        await super().shutdown(sockets)

    async def _leave(self) -> None:
        """Answer on, each time with `Connection: close`, until every client has gone or the time is over."""
        self._app.state.leaving = True
        state, loop = self.server_state, asyncio.get_running_loop()
        state.default_headers = [*state.default_headers, CLOSE]
        for connection in list(state.connections):
            cycle = getattr(connection, "cycle", None)  # a websocket has none
            if cycle is not None and not cycle.response_complete:
                connection.shutdown()  # in the midst of a request: its answer says close
        until = loop.time() + self._leave_s
        while state.connections and loop.time() < until and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)  # uvicorn tells nobody when a connection is lost
