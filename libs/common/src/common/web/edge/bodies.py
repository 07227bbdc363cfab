"""The bodies of requests: a limit for each path, a limit of all together, and the caller before the body.

A body is taken into memory before its route runs. So the caller of the route is looked at first, a body has the limit
of its path, and all bodies in memory have a limit together: beyond, a body of more than SMALL_BYTES is refused with
503, so that large bodies, also of strangers, never keep out a small one, as a STOP is.
"""

from collections.abc import Iterator, Mapping

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.telemetry import gauge
from common.web import problems
from common.web.auth import Required, required_of
from common.web.problems import Problem, Reason, TooLarge, Unavailable

BODY_BYTES = 1024 * 1024  # of a request, unless the limits name the path
SMALL_BYTES = 16 * 1024
RETRY_AFTER_S = 5

HELD = gauge("sms_http_bodies_bytes", "Bytes of the bodies of the requests at work.")


class Memory:
    """The bytes of all bodies in memory. Beyond `most` no body of more than SMALL_BYTES gets in."""

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        HELD.set_function(lambda: self.held)


class Body:
    """The body of a request as it arrives: its bytes, within the limit of its path and the memory of all bodies."""

    __slots__ = ("_held", "_limit", "_memory", "arrived")

    def __init__(self, limit: int | None, memory: Memory) -> None:
        self._limit = limit
        self._memory = memory
        self._held = 0
        self.arrived = 0

    def take(self, new: int) -> None:
        """Count a piece. Raises TooLarge, Unavailable."""
        self.arrived += new
        if self._limit is None:  # the pieces before have been written away
            self.leave()
        elif self.arrived > self._limit:
            raise too_large(self._limit)
        if self.arrived > SMALL_BYTES and self._memory.held + new > self._memory.most:
            raise Unavailable(
                "too many bodies arrive at once: send the request again",
                reasons=[Reason("body", "no_memory_left")],
                headers={"Retry-After": str(RETRY_AFTER_S), "Connection": "close"},
            )
        self._memory.held += new
        self._held += new

    def leave(self) -> None:
        """Give the memory back: the request has ended, or its pieces have been written away."""
        self._memory.held -= self._held
        self._held = 0


class Bodies:
    """Middleware: refuse a body larger than the limit of its path, or beyond the memory for bodies; callers first.

    `limits`: by path, for the path and all below, or only below a final `/`; `None`: the route itself counts, and
    holds one piece at a time.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int | None], memory: Memory) -> None:
        self._app = app
        self._limits = limits
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = limit_of(self._limits, scope["path"])
        announced = b""
        for name, value in scope["headers"]:
            if name == b"content-length":
                announced = value
                break
        if limit is not None and announces_more(announced, limit):
            await problems.answer(too_large(limit))(scope, receive, send)
            return
        body = Body(limit, self._memory)
        asked = begun = False
        refused: Problem | None = None

        async def looked_at() -> Message:
            nonlocal asked, refused
            try:
                if not (asked or begun):
                    asked = True
                    await _look_at_caller(scope)
                message = await receive()
                body.take(len(message.get("body", b"")))
            except Problem as problem:
                refused = problem
                raise
            except Exception as error:
                refused = problems.problem_of(error)
                raise refused from error
            return message

        async def unless_refused(message: Message) -> None:
            nonlocal begun
            # FastAPI answers any error of a body by 400, also of a database that is away: the refusal comes below
            if begun or refused is None:
                begun = True
                await send(message)

        try:
            await self._app(scope, looked_at, unless_refused)
        except Problem as problem:
            if problem is not refused:
                raise
        except ClientDisconnect:  # nobody is left to be answered
            return
        finally:
            body.leave()
        if refused is not None and not begun:
            problems.note(scope, refused)
            await problems.answer(refused)(scope, receive, send)
        # its traceback holds this call, and so the pieces of the body, until the collector finds the circle
        refused = None


def limit_of(limits: Mapping[str, int | None], path: str) -> int | None:
    """Return the limit of the longest matching path."""
    stated = [p for p in limits if path == p or path.startswith(p if p.endswith("/") else f"{p}/")]
    return limits[max(stated, key=len)] if stated else BODY_BYTES


def announces_more(announced: bytes, limit: int) -> bool:
    """Return whether a `Content-Length` announces a body beyond the limit."""
    return announced.isdigit() and int(announced) > limit


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"at most {limit:,} bytes", reasons=[Reason("body", "too_large")], headers={"Connection": "close"})


async def _look_at_caller(scope: Scope) -> None:
    """Ask for the caller of the route as the route itself does afterwards. Raises its problems."""
    for required in _required(scope):
        await required(Request(scope))


def _required(scope: Scope) -> Iterator[Required]:
    route = scope.get("route")
    if isinstance(route, APIRoute):
        yield from required_of(route.dependant)
