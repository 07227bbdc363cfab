"""The errors of the client: one class for each family of a refusal (RFC 9457), one for no answer, one for a bad one.

No error names a person's number: a service's problem never repeats a value of the request, and a body that is no
problem is not shown.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


class PlacetError(Exception):
    """The base of all errors of the client."""


class NotConfigured(PlacetError):
    """A URL or a token is missing."""


class Unreachable(PlacetError):
    """No answer came, after all retries. A call with an Idempotency-Key can be repeated under the same `key`."""

    def __init__(self, call: str, cause: str, key: str | None) -> None:
        super().__init__(f"{call}: no answer ({cause})")
        self.key = key


class UnreadableAnswer(PlacetError):
    """A good status came with a body of another form."""


class CutOff(PlacetError):
    """An upload made no progress any more; upload the same file again to go on from `offset`."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"the upload stopped at byte {offset}: upload the same file again to go on from there")
        self.offset = offset


@dataclass(frozen=True, slots=True)
class FieldError:
    """A reason of a refusal. `field`: its path in the request (dots, indexes). `reason`: a stable code."""

    field: str | None
    reason: str
    detail: str | None = None


class Problem(PlacetError):
    """A service's refusal. `type` is stable, and the page of its meaning; `trace_id` finds the call in the logs."""

    def __init__(self, call: str, status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.status = status
        self.type = _text(body.get("type")) or "about:blank"
        self.title = _text(body.get("title")) or "The service refused the call"
        self.detail = _text(body.get("detail"))
        self.errors = tuple(_errors(body))
        self.trace_id = _text(body.get("trace_id"))
        self.headers = dict(headers)
        named = "; ".join(" ".join(filter(None, (e.field, e.reason, e.detail))) for e in self.errors)
        said = ": ".join(filter(None, (f"{call}: {status} {self.title}", self.detail, named)))
        super().__init__(f"{said} ({self.type})")

    @property
    def retry_after_s(self) -> float | None:
        """Seconds until the service asks to be called again."""
        return retry_after_s(self.headers, datetime.now(UTC))


class BadRequest(Problem):
    """400: the request is malformed."""


class Unauthenticated(Problem):
    """401: the token is missing, wrong or past its time."""


class Forbidden(Problem):
    """403: the token lacks the scope, or the limits of the organisation do not allow the call."""


class NotFound(Problem):
    """404: no such thing, or a thing of another organisation."""


class Conflict(Problem):
    """409: the state of the thing refuses the call."""


class Gone(Problem):
    """410: the data is past its retention."""


class PreconditionFailed(Problem):
    """412: another caller changed the thing since the read; read again, then edit."""


class Invalid(Problem):
    """422, 413, 415: a field or the body is not valid; `errors` names each field."""


class TooManyRequests(Problem):
    """429: a limit is reached; call again after `retry_after_s`."""


class ServiceError(Problem):
    """5xx: the service, or a dependency of the service, failed."""


BY_STATUS: Mapping[int, type[Problem]] = {
    400: BadRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    412: PreconditionFailed,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: TooManyRequests,
}


def problem_of(call: str, status: int, content: bytes, headers: Mapping[str, str]) -> Problem:
    """Return the error of a refusal. A body that is no problem+json, such as a proxy's page, is left out."""
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    kind = BY_STATUS.get(status, ServiceError if status >= 500 else Problem)
    return kind(call, status, body if isinstance(body, dict) else {}, headers)


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds that `Retry-After` asks to wait, from seconds or from a date; None without a readable one."""
    said = headers.get("retry-after", "").strip()
    if said.isdigit():
        return float(said)
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (at.astimezone(UTC) - now).total_seconds())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _errors(body: Mapping[str, Any]) -> list[FieldError]:
    found = body.get("reasons")
    return [
        FieldError(_text(each.get("field")), _text(each.get("reason")) or "not_valid", _text(each.get("detail")))
        for each in (found if isinstance(found, list) else [])
        if isinstance(each, dict)
    ]
