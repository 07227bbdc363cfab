"""Errors at the HTTP edge: RFC 9457 `application/problem+json` with a stable `type`, the field and the reason.

A business "no" is a value (a verdict, a refusal), never a problem. A problem never repeats a person's number: every
text of an answer is masked (`content_of`). `TooMany`: Retry-After says when to come back. `Unavailable`: the caller
sends the same request again; whether the first one was kept may be unknown.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from common.db.database import AWAY
from common.db.shards import OtherShard
from common.telemetry import masked, trace_id
from common.web.prefix import outside

log = logging.getLogger(__name__)

# asyncpg's own errors arrive from calls past SQLAlchemy. OtherShard: a new connection's, before its first statement.
DATABASE_DOWN = (
    OperationalError,
    InterfaceError,
    PoolTimeout,
    ConnectionError,
    TimeoutError,
    *AWAY,
    asyncpg.InterfaceError,
    OtherShard,
)
MEDIA_TYPE = "application/problem+json"
IN_OUR_LOG = "the error is in our log under this trace id"
PATH = "/problems"
TOLD = "problem"  # key of the scope's state
DIGITS = re.compile(r"(?<![\w-])\d{8,}(?!\w)")  # shorter than a number in a log; never a part of an id


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason: `field` as the caller wrote its path (dots, indexes), `reason` a stable slug."""

    field: str | None
    reason: str
    detail: str | None = None


class Problem(Exception):
    """Placet has a fault. The fault is in the log under the trace id of the answer.

    Send the request again, with the same Idempotency-Key where there is one. If the answer stays, give the trace id to
    the platform's operator.
    """

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"
    tells: ClassVar[tuple[str, ...]] = ()  # headers that answers of the kind may have

    def __init__(
        self, detail: str, *, reasons: Sequence[Reason] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reasons = tuple(reasons)
        self.headers = dict(headers or {})


class Malformed(Problem):
    """The request cannot be read: the body is no JSON, is cut off, or is no file of the announced form.

    Mend the body by `reasons`, and send the request again.
    """

    status, slug, title = 400, "malformed", "The request is malformed"


class Unauthorised(Problem):
    """The request has no valid proof of its caller: a bearer token, or the signature of an operator's callback.

    Get a new token from the issuer, with an organisation, scopes and senders. `detail` says why a token is refused.
    """

    status, slug, title = 401, "unauthorised", "Not authenticated"
    tells = ("WWW-Authenticate",)


class Forbidden(Problem):
    """The token is valid, and lacks a scope or a sender that the operation needs.

    Get a token with the scope or the sender that `reasons` names.
    """

    status, slug, title = 403, "forbidden", "Not allowed"


class NotAllowedByLimits(Forbidden):
    """The limits of the organisation or of the token allow no message to this place, or the message has no known price.

    Ask the platform's operator to allow the place, or to name its price. Waiting changes nothing.
    """

    slug, title = "not-allowed-by-limits", "The limits of the organisation or of the token do not allow the message"


class NotFound(Problem):
    """The named thing does not exist, or belongs to another organisation: the two answers are the same.

    Check the id that `reasons` names, and that the token covers the sender of the thing.
    """

    status, slug, title = 404, "not-found", "Not found"


class MethodNotAllowed(Problem):
    """The path exists, and takes other methods.

    Use a method that the field `Allow` of the answer names.
    """

    status, slug, title = 405, "method-not-allowed", "Method not allowed"
    tells = ("Allow",)


class Conflict(Problem):
    """The present state of the thing refuses the request.

    Read the thing again, and decide by its present state. The same request is refused again until the state changes.
    """

    status, slug, title = 409, "conflict", "The resource's state refuses the request"


class AlreadyDecided(Conflict):
    """A person has decided about this thing before, and the first decision stands.

    Read the thing to see the decision.
    """

    slug, title = "already-decided", "Already decided"


class PastItsTime(Problem):
    """The data were kept for their period, and are deleted.

    Do not ask again. The periods are in docs/retention.md.
    """

    status, slug, title = 410, "past-its-time", "The data is past its retention"


class PreconditionFailed(Problem):
    """A precondition of the request, such as `If-Match` or the version of tus, does not hold.

    Read the resource again, and send the request with its present `ETag`, or with a version that is served.
    """

    status, slug, title = 412, "precondition-failed", "The resource has changed since the read"


class TooLarge(Problem):
    """The body has more bytes than the operation takes.

    Send fewer items in each request; send a file in parts, as an upload.
    """

    status, slug, title = 413, "too-large", "The body is too large"


class NotTheMediaType(Problem):
    """The body is of a media type that the operation does not take.

    Send the media type that the operation names, in `Content-Type`.
    """

    status, slug, title = 415, "unsupported-media-type", "The body is not of the media type that the route takes"


class Invalid(Problem):
    """A field, a header or a parameter of the request is not valid, or is unknown.

    Mend each field that `reasons` names, and send the request again.
    """

    status, slug, title = 422, "invalid", "A field is not valid"


class TooMany(Problem):
    """Too many requests of this kind were made in a time.

    Wait as many seconds as `Retry-After` says, and send the request again.
    """

    status, slug, title = 429, "too-many", "Too many requests"
    tells = ("Retry-After",)


class Unavailable(Problem):
    """A part that the answer needs does not answer: the database, the log, or the issuer of tokens.

    Whether the request was kept is unknown. Wait as many seconds as `Retry-After` says, and send the same request
    again, with the same Idempotency-Key. For a request without a key, read first whether the request was kept.
    """

    status, slug, title = 503, "unavailable", "A dependency is unavailable: try again later"
    tells = ("Retry-After",)


class NotValid(NamedTuple):
    """A failed validation: the field's path, the type of the error, and its message."""

    field: str
    type: str
    message: str


def not_valid(errors: Sequence[NotValid]) -> Invalid:
    """Return the problem of failed validations. Errors repeat the caller's text, as the name of an unknown field."""
    reasons = [Reason(error.field, error.type, error.message) for error in errors]
    named = ", ".join(dict.fromkeys(r.field or "body" for r in reasons))
    return Invalid(f"not valid: {named}", reasons=reasons)


def refusal_of(error: ValidationError) -> Invalid:
    """Return the problem of a body, or of a part of a body, that a model refuses."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return not_valid([NotValid(_path(e["loc"]), e["type"], e["msg"]) for e in found])


def type_of(kind: type[Problem] | Problem) -> str:
    """Return the URL of the problem's page, relative to the service that answers."""
    return f"{PATH}/{kind.slug}"


# the statuses that Starlette and FastAPI answer by themselves
OF_FRAMEWORK: Mapping[int, type[Problem]] = {
    kind.status: kind for kind in (Malformed, NotFound, MethodNotAllowed, TooLarge, NotTheMediaType)
}


def content_of(problem: Problem) -> dict[str, object]:
    """Return the members of the problem's problem+json (RFC 9457), without the trace id of a response."""
    return {
        "type": outside(type_of(problem)),
        "title": problem.title,
        "status": problem.status,
        "detail": _unnumbered(problem.detail),
        "reasons": [
            {"field": _unnumbered(each.field), "reason": each.reason, "detail": _unnumbered(each.detail)}
            for each in problem.reasons
        ],
    }


def _unnumbered(text: str | None) -> str | None:
    """Return the text with every apparent phone number masked. An amount of eight digits or more is written 1,000."""
    return None if text is None else DIGITS.sub("[number]", masked(text))


def answer(problem: Problem) -> JSONResponse:
    """Return the problem as a response."""
    return JSONResponse(
        {**content_of(problem), "trace_id": trace_id()},
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=problem.headers,
    )


def problem_of(error: Exception) -> Problem:
    """Return the problem that tells the caller of an error, which this logs unless the caller made it."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, OtherShard):
        log.error("a database of another shard is refused", exc_info=error)
        detail = (
            "a database was divided: nothing was kept in that shard, and the process starts anew, so send the same"
            " request again"
        )
        return Unavailable(detail, headers={"Retry-After": "1"})
    if isinstance(error, DATABASE_DOWN):
        log.error("a dependency is down", exc_info=error)
        # the failure may be that of COMMIT
        detail = (
            "the database does not answer, and whether the request was kept is unknown: send the same request again"
        )
        return Unavailable(detail, headers={"Retry-After": "1"})
    log.error("a request failed", exc_info=error)
    return Problem(IN_OUR_LOG)


def note(scope: Scope, problem: Problem) -> None:
    """Remember the problem that answers a request."""
    scope.setdefault("state", {})[TOLD] = problem.reasons[0].reason if problem.reasons else problem.slug


def reason_told(scope: Scope) -> str | None:
    """Return the first reason, or else the kind, of the problem that answered a request."""
    found: str | None = scope.get("state", {}).get(TOLD)
    return found


def install(app: FastAPI) -> None:
    """Turn every error of `app` into a problem."""

    @app.exception_handler(Problem)
    async def on_problem(request: Request, error: Problem) -> JSONResponse:
        note(request.scope, error)
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def on_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        errors = error.errors()
        if any(e["type"] == "json_invalid" for e in errors):
            return answer(Malformed("the body is not JSON", reasons=[Reason("body", "json_invalid")]))
        return answer(not_valid([NotValid(_field(e["loc"]), str(e["type"]), str(e["msg"])) for e in errors]))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> JSONResponse:
        kind = OF_FRAMEWORK.get(error.status_code, Malformed if error.status_code < 500 else Problem)
        return answer(kind(str(error.detail), headers=error.headers))

    @app.exception_handler(ClientDisconnect)
    async def on_disconnect(request: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(Malformed("the body ended early", reasons=[Reason("body", "disconnected")]))

    async def on_database(request: Request, error: Exception) -> JSONResponse:
        return answer(problem_of(error))

    for kind in DATABASE_DOWN:
        app.add_exception_handler(kind, on_database)

    @app.exception_handler(Exception)
    async def on_bug(request: Request, error: Exception) -> JSONResponse:
        return answer(Problem(IN_OUR_LOG))


def _field(location: Sequence[int | str]) -> str:
    """Return a field's path, after FastAPI's part of the request (body, query, path, header).

    A part in parentheses is the tag of a body with several forms.
    """
    return _path(location[1:])


def _path(location: Sequence[int | str]) -> str:
    return ".".join(part for part in map(str, location) if not part.startswith("(")) or "body"
