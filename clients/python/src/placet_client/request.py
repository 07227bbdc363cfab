"""Describe a call before any transport sends the call: method, service, path, fields, and the type of the answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar
from urllib.parse import quote
from uuid import UUID

T = TypeVar("T")

Service: TypeAlias = Literal["consent", "campaign", "dispatch", "inbound"]


class Omitted:
    """The type of `OMITTED`."""

    def __repr__(self) -> str:
        return "OMITTED"

    def __bool__(self) -> bool:
        return False


OMITTED: Final = Omitted()
"""Default of an argument: the field is not sent. `None` is sent as null."""


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """A call of a service, which the transports send.

    `path`: with parameters such as `{sender_id}`, filled in from `names`; only the template is logged. `body`: JSON.
    `answer`: the type of a good answer's body. `keyed`: the call takes an Idempotency-Key. `reads`: the call changes
    nothing, whatever its method.
    """

    method: str
    service: Service
    path: str
    answer: Any = None
    names: Mapping[str, object] = field(default_factory=dict)
    query: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, object] = field(default_factory=dict)
    body: Mapping[str, object] | None = None
    content: bytes | None = None
    keyed: bool = False
    idempotency_key: str | None = None
    reads: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether a second arrival of the call has no further effect."""
        return self.keyed or self.reads or self.method in ("GET", "HEAD", "PUT", "DELETE")

    def url_path(self) -> str:
        """Return the path with each parameter filled in."""
        return self.path.format_map({name: quote(_spelt(value), safe="") for name, value in self.names.items()})

    def url_query(self) -> list[tuple[str, str]]:
        """Return the query. A parameter with several values is repeated."""
        return [
            (name, _spelt(each))
            for name, value in self.query.items()
            if value is not None and value is not OMITTED
            for each in (value if isinstance(value, (list, tuple, set, frozenset)) else [value])
        ]

    def own_headers(self) -> dict[str, str]:
        return {
            name: _spelt(value) for name, value in self.headers.items() if value is not None and value is not OMITTED
        }

    def written_body(self) -> bytes | None:
        """Return the JSON of the body without omitted fields, or the bytes to send, or None."""
        if self.body is None:
            return self.content
        said = {name: value for name, value in self.body.items() if value is not OMITTED}
        return json.dumps(said, default=_written, ensure_ascii=False, allow_nan=False).encode()


def _spelt(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date) else str(value)


def _written(value: object) -> object:
    """Return a value as JSON has it. Raises TypeError without the value, which may be a person's number."""
    if isinstance(value, datetime) and value.tzinfo is None:
        raise TypeError("an instant needs a time zone: datetime.now(UTC), not datetime.now()")
    if isinstance(value, date):  # an instant too
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (tuple, set, frozenset)) or hasattr(value, "__iter__"):
        return [*value]
    raise TypeError(f"a {type(value).__name__} has no form in JSON")
