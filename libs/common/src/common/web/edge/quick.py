"""Answer raw routes in one layer, outside every other middleware: the callbacks of operators.

A callback takes less time than a dozen layers around a callback. So this layer does for the raw routes what the others
do for all routes: the trace and the headers of the answer, the metrics, the prefix of a gateway, the port of health,
the limit and the memory of the body, the count of refusals. A request for another route passes to the next layer.
"""

from collections.abc import Callable, Mapping, Sequence

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.telemetry import continue_trace, traceparent, tracing
from common.web import prefix, problems
from common.web.edge.bodies import Body, Memory, announces_more, limit_of, too_large
from common.web.measured import ABORTED, begin, class_of, end, method_of
from common.web.problems import Problem

UNLESS_TOLD = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))

Header = tuple[bytes, bytes]


def completed(told: Sequence[Header]) -> list[Header]:
    """Return the headers of an answer with the trace: no cache keeps an answer, and no browser guesses its type."""
    named = [name.lower() for name, _ in told]
    missing = [each for each in UNLESS_TOLD if each[0] not in named]
    return [*told, *missing, (b"traceparent", (traceparent() or "").encode())]


class Quick:
    """Middleware: answer the raw routes. `refused` counts an answer of a refusal, by its status."""

    def __init__(
        self,
        app: ASGIApp,
        service: str,
        routes: Sequence[Route],
        limits: Mapping[str, int | None],
        memory: Memory,
        refused: Callable[[Scope, int], None],
        health_port: int | None,
    ) -> None:
        self._app = app
        self._service = service
        self._routes = [(route, limit_of(limits, route.path)) for route in routes]
        self._memory = memory
        self._refused = refused
        self._health_port = health_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._found(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        route, limit = found
        parent = part = announced = None
        for name, value in scope["headers"]:
            if name == b"traceparent":
                parent = value if parent is None else parent
            elif name == b"content-length":
                announced = value if announced is None else announced
            elif name == prefix.HEADER:
                part = value if part is None else part
        prefix.take_off(part or b"")
        continues = continue_trace(parent.decode("latin-1") if parent else None)
        span = tracing.request(self._service, method_of(scope), continues=continues)
        body, status = Body(limit, self._memory), ABORTED

        async def taken() -> Message:
            message = await receive()
            body.take(len(message.get("body", b"")))
            return message

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = class_of(message["status"])
                self._refused(scope, message["status"])
                span.note("http.response.status_code", message["status"])
                message["headers"] = completed(message.get("headers", []))
            await send(message)

        begun = begin()
        try:
            with span:
                response = await _response(route, scope, taken, send, limit, announced or b"")
                await response(scope, receive, told)
                span.note("http.route", route.path)
                span.rename(f"{method_of(scope)} {route.path}")
        except ClientDisconnect:  # nobody is left to be answered
            return
        except Exception:
            if status == ABORTED:  # no answer has begun
                await problems.answer(Problem(problems.IN_OUR_LOG))(scope, receive, send)
            status = "5xx"
            raise  # the server writes the log
        finally:
            body.leave()
            end(scope, status, begun)

    def _found(self, scope: Scope) -> tuple[Route, int | None] | None:
        """Return the route of the request with the limit of its body; None for another layer to answer.

        Another layer refuses a path with a NUL, and the port of health.
        """
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        for route, limit in self._routes:
            matched = route.path_regex.match(path)
            if matched is not None and scope["method"] in (route.methods or ()):
                at = (scope.get("server") or ("", None))[1]
                if "\x00" in path or (at is not None and at == self._health_port):
                    return None
                convertors = route.param_convertors
                params = {name: convertors[name].convert(value) for name, value in matched.groupdict().items()}
                scope["path_params"], scope["endpoint"], scope["route"] = params, route.endpoint, route
                return route, limit
        return None


async def _response(
    route: Route, scope: Scope, receive: Receive, send: Send, limit: int | None, announced: bytes
) -> Response:
    try:
        if limit is not None and announces_more(announced, limit):
            raise too_large(limit)
        response: Response = await route.endpoint(Request(scope, receive, send))
    except Problem as problem:
        return problems.answer(problem)
    return response
