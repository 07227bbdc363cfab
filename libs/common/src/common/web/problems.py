"""Errors at the HTTP edge: RFC 9457 `application/problem+json` with a stable `type`, the field and the reason.

A business "no" is a value (a verdict, a refusal), never a problem. A problem never repeats a value of the request,
which may be a person's number. `TooMany`: Retry-After says when to come back. `Unavailable`: no data was lost, the
caller retries.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, NamedTuple

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from common.db.database import AWAY
from common.telemetry import masked, trace_id

log = logging.getLogger(__name__)

# asyncpg's own errors arrive from calls past SQLAlchemy
DATABASE_DOWN = (
    OperationalError,
    InterfaceError,
    PoolTimeout,
    ConnectionError,
    TimeoutError,
    *AWAY,
    asyncpg.InterfaceError,
)
MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason: `field` as the caller wrote its path (dots, indexes), `reason` a stable slug."""

    field: str | None
    reason: str
    detail: str | None = None


class Problem(Exception):
    """An error raised below a route, and answered by `install`."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, detail: str, *, reasons: Sequence[Reason] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reasons = tuple(reasons)
        self.headers = dict(headers or {})


class Malformed(Problem):
    status, slug, title = 400, "malformed", "The request is malformed"


class Unauthorised(Problem):
    status, slug, title = 401, "unauthorised", "Not authenticated"


class Forbidden(Problem):
    status, slug, title = 403, "forbidden", "Not allowed"


class NotFound(Problem):
    status, slug, title = 404, "not-found", "Not found"


class Conflict(Problem):
    status, slug, title = 409, "conflict", "The resource's state refuses the request"


class PastItsTime(Problem):
    status, slug, title = 410, "past-its-time", "The data is past its retention"


class PreconditionFailed(Problem):
    status, slug, title = 412, "precondition-failed", "The resource has changed since the read"


class TooLarge(Problem):
    status, slug, title = 413, "too-large", "The body is too large"


class Invalid(Problem):
    status, slug, title = 422, "invalid", "A field is not valid"


class TooMany(Problem):
    status, slug, title = 429, "too-many", "Too many requests"


class Unavailable(Problem):
    status, slug, title = 503, "unavailable", "A dependency is unavailable: try again later"


class NotValid(NamedTuple):
    """A failed validation: the field's path, the type of the error, and its message."""

    field: str
    type: str
    message: str


def not_valid(errors: Sequence[NotValid]) -> Invalid:
    """Return the problem of failed validations.

    Errors repeat the caller's text, such as the name of an unknown field or a wrong tag: each part is masked.
    """
    reasons = [Reason(masked(error.field), error.type, masked(error.message)) for error in errors]
    named = ", ".join(dict.fromkeys(r.field or "body" for r in reasons))
    return Invalid(f"not valid: {named}", reasons=reasons)


def refusal_of(error: ValidationError) -> Invalid:
    """Return the problem of a body, or of a part of a body, that a model refuses."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return not_valid([NotValid(_path(e["loc"]), e["type"], e["msg"]) for e in found])


def content_of(problem: Problem) -> dict[str, object]:
    """Return the members of the problem's problem+json (RFC 9457), without the trace id of a response."""
    return {
        "type": f"/problems/{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "reasons": [asdict(reason) for reason in problem.reasons],
    }


def answer(problem: Problem) -> JSONResponse:
    """Return the problem as a response."""
    return JSONResponse(
        {**content_of(problem), "trace_id": trace_id()},
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


def install(app: FastAPI) -> None:
    """Turn every error of `app` into a problem."""

    @app.exception_handler(Problem)
    async def on_problem(request: Request, error: Problem) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def on_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = error.errors()
        if any(e["type"] == "json_invalid" for e in errors):
            return answer(Malformed("the body is not JSON", reasons=[Reason("body", "json_invalid")]))
        return answer(not_valid([NotValid(_field(e["loc"]), str(e["type"]), str(e["msg"])) for e in errors]))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        slugs = {404: NotFound, 400: Malformed, 413: TooLarge}
        problem = slugs.get(error.status_code, Problem)(str(error.detail), headers=error.headers)
        if type(problem) is Problem:
            problem.status, problem.title = error.status_code, str(error.detail)  # type: ignore[misc]
            problem.slug = f"http-{error.status_code}"  # type: ignore[misc]
        return answer(problem)

    async def on_database(request: Request, error: Exception) -> JSONResponse:
        log.error("a dependency is down", exc_info=error)
        return answer(Unavailable("the database does not answer; nothing was kept", headers={"Retry-After": "1"}))

    for kind in DATABASE_DOWN:
        app.add_exception_handler(kind, on_database)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        return answer(Problem("the error is in our log under this trace id"))


def _field(location: Sequence[int | str]) -> str:
    """Return a field's path, after FastAPI's part of the request (body, query, path, header).

    A part in parentheses is the tag of a body with several forms.
    """
    return _path(location[1:])


def _path(location: Sequence[int | str]) -> str:
    return ".".join(part for part in map(str, location) if not part.startswith("(")) or "body"
