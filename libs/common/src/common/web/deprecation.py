"""Tell the callers of an operation that ends, or that has a field that ends: `Deprecation`, `Sunset` and `Link`.

A route names the mark among its dependencies: `dependencies=[Depends(Deprecated(…))]`. A field or a parameter that ends
has `deprecated=True` beside its description, and each operation with the field names it in `fields`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from fastapi import Request
from fastapi.dependencies.models import Dependant

Headers = Sequence[tuple[bytes, bytes]]
FIELDS = ("Deprecation", "Sunset", "Link")


@dataclass(frozen=True, slots=True)
class Deprecated:
    """The FastAPI dependency of a route that ends, or that has fields that end.

    `since` and `ends_at` are aware. `page`: the URL of the way to go on. `fields`: the fields that end; empty: the
    operation ends. The mark answers every call that reaches the route, refusals among them.
    """

    since: datetime
    ends_at: datetime
    page: str
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ends_at < self.since:
            raise ValueError("`ends_at` is before `since`: an end is never earlier (RFC 9745, 4)")

    @property
    def headers(self) -> Headers:
        """Return the fields of each answer (RFC 9745, RFC 8594)."""
        return [
            (b"deprecation", f"@{int(self.since.timestamp())}".encode()),
            (b"sunset", format_datetime(self.ends_at, usegmt=True).encode()),
            (b"link", f'<{self.page}>; rel="deprecation"; type="text/html"'.encode()),
        ]

    async def __call__(self, request: Request) -> None:
        request.state.deprecation = self.headers


def deprecated_of(dependant: Dependant) -> Iterator[Deprecated]:
    """Yield the marks of a route."""
    for each in dependant.dependencies:
        if isinstance(each.call, Deprecated):
            yield each.call
