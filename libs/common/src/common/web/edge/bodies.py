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


class Bodies:
    """Middleware: refuse a body larger than the limit of its path, or beyond the memory for bodies; callers first.

    `limits`: by path, for the path and all below, or only below a final `/`; `None`: the route itself counts, and
    holds one piece at a time. `most_held`: bytes of all bodies in memory.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int | None], most_held: int) -> None:
        self._app = app
        self._limits = limits
        self._most_held = most_held
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        announced = b""
        for name, value in scope["headers"]:
            if name == b"content-length":
                announced = value
                break
        if limit is not None and announced.isdigit() and int(announced) > limit:
            await problems.answer(_too_large(limit))(scope, receive, send)
            return
        arrived = held = 0
        asked = begun = False
        refused: Problem | None = None

        async def looked_at() -> Message:
            nonlocal arrived, held, asked, refused
            try:
                if not (asked or begun):
                    asked = True
                    await _look_at_caller(scope)
                message = await receive()
                new = len(message.get("body", b""))
                arrived += new
                if limit is not None and arrived > limit:
                    raise _too_large(limit)
                if limit is None:  # the pieces before have been written away
                    self._hold(-held)
                    held = 0
                if arrived > SMALL_BYTES and self._held + new > self._most_held:
                    raise Unavailable(
                        "too many bodies arrive at once: send the request again",
                        reasons=[Reason("body", "no_memory_left")],
                        headers={"Retry-After": str(RETRY_AFTER_S), "Connection": "close"},
                    )
                self._hold(new)
                held += new
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
            self._hold(-held)
        if refused is not None and not begun:
            problems.note(scope, refused)
            await problems.answer(refused)(scope, receive, send)
        # its traceback holds this call, and so the pieces of the body, until the collector finds the circle
        refused = None

    def _hold(self, more: int) -> None:
        if more:
            self._held += more
            HELD.set(self._held)

    def _limit(self, path: str) -> int | None:
        """Return the limit of the longest matching path."""
        stated = [p for p in self._limits if path == p or path.startswith(p if p.endswith("/") else f"{p}/")]
        return self._limits[max(stated, key=len)] if stated else BODY_BYTES


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"at most {limit:,} bytes", reasons=[Reason("body", "too_large")], headers={"Connection": "close"})


async def _look_at_caller(scope: Scope) -> None:
    """Ask for the caller of the route as the route itself does afterwards. Raises its problems."""
    for required in _required(scope):
        await required(Request(scope))


def _required(scope: Scope) -> Iterator[Required]:
    route = scope.get("route")
    if isinstance(route, APIRoute):
        yield from required_of(route.dependant)
