"""The port of health: where it is set, health, metrics and the OpenAPI document are at that port, and nothing else is.

What a load balancer shows to the world then says neither which parts fail nor how many people are counted.
"""

import socket

from starlette.types import ASGIApp, Receive, Scope, Send

from common.settings import ServiceSettings
from common.web import problems
from common.web.problems import NotFound

OPENAPI = "/openapi.json"
OF_HEALTH = frozenset(("/livez", "/readyz", "/metrics", OPENAPI))


class Apart:
    """Middleware: answer 404 to a path at the wrong port."""

    def __init__(self, app: ASGIApp, health_port: int) -> None:
        self._app = app
        self._health_port = health_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            at_health = (scope.get("server") or ("", None))[1] == self._health_port
            if at_health != (scope["path"] in OF_HEALTH):
                await problems.answer(NotFound("no such path at this port"))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def listening(settings: ServiceSettings) -> list[socket.socket]:
    """Return the sockets to serve: the routes', and that of health, if it is apart. Raises OSError."""
    ports = [settings.port, *([settings.health_port] if settings.health_port is not None else [])]
    return [_bound(settings.host, port) for port in ports]


def _bound(host: str, port: int) -> socket.socket:
    at = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        at.bind((host, port))
    except OSError:
        at.close()
        raise
    return at
