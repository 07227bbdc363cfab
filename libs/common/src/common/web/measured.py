"""Measure the requests of every route: rate, errors and duration.

A route is named by its template: `/v1/campaigns/{campaign_id}` has the same series for every campaign, and no path with
an id, a link or a secret becomes a label.
"""

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.telemetry import gauge, histogram

REQUESTS = histogram(
    "sms_http_request_duration_seconds",
    "HTTP requests by route template and class of the status, from the request's head to the end of the answer.",
    ["method", "route", "status"],
    buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
)
IN_PROGRESS = gauge("sms_http_in_progress_requests", "HTTP requests in progress.")
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
UNMATCHED = "unmatched"  # no route has the path
ABORTED = "aborted"  # no answer began: the caller has gone, or the process ends


class _Work:
    """The requests in progress of the process."""

    requests = 0


_work = _Work()
IN_PROGRESS.set_function(lambda: _work.requests)


def begin() -> float:
    """Count a request in progress; return the instant for `end`."""
    _work.requests += 1
    return perf_counter()


def end(scope: Scope, status: str, begun: float) -> None:
    """Observe a request whose answer has ended."""
    _work.requests -= 1
    REQUESTS.labels(method_of(scope), route_of(scope), status).observe(perf_counter() - begun)


def class_of(status: int) -> str:
    """Return the class of a status: 2xx."""
    return f"{status // 100}xx"


def method_of(scope: Scope) -> str:
    """Return the method, or `other`: a caller may send any."""
    return scope["method"] if scope["method"] in METHODS else "other"


def route_of(scope: Scope) -> str:
    """Return the template of the route, once the request has found its route."""
    return str(getattr(scope.get("route"), "path", UNMATCHED))


class Measured:
    """Middleware: observe each request once its answer has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = ABORTED

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = class_of(message["status"])
            await send(message)

        begun = begin()
        try:
            await self._app(scope, receive, observed)
        except Exception:
            status = "5xx"  # as the server answers
            raise
        finally:
            end(scope, status, begun)
