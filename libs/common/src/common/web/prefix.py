"""Name the paths of an answer as the caller reaches them, behind a gateway that takes the first part of a path off.

Such a gateway serves several services at one host, and tells each the part (`/consent`) in `X-Forwarded-Prefix`. The
part goes before `Location`, the `type` of a problem and the links of its page, and changes nothing else.
"""

import re
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-forwarded-prefix"
PART = re.compile(rb"(?:/[A-Za-z0-9_-]+)+")  # never `//`, which begins a host

_taken_off: ContextVar[str] = ContextVar("taken_off", default="")


def outside(path: str) -> str:
    """Return a path of the service as the caller reaches the path."""
    return _taken_off.get() + path


def take_off(told: bytes) -> bytes:
    """Remember the part that a header tells for the answer of this request; return the part, b"" where malformed."""
    part = told if PART.fullmatch(told) else b""
    _taken_off.set(part.decode("ascii"))
    return part


class Prefixed:
    """Middleware: remember the part that the gateway has taken off, and put the part before `Location`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = b""
        for name, value in scope.get("headers", ()):
            if name == HEADER:
                told = value
                break
        part = take_off(told)

        async def with_part(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (name, part + value if name.lower() == b"location" and value.startswith(b"/") else value)
                    for name, value in message.get("headers", [])
                ]
            await send(message)

        await self._app(scope, receive, with_part if part else send)
