"""Types of request fields: a value of these types can be stored unchanged."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

BIGINT = 2**63 - 1  # largest bigint of Postgres


def storable(value: str) -> str:
    """Return `value`. Raises ValueError for a NUL, which Postgres cannot store."""
    if "\x00" in value:
        raise ValueError("holds a NUL character")
    return value


Storable = Annotated[str, AfterValidator(storable)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{2,40}$")]
Short = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(storable)]
Long = Annotated[str, StringConstraints(min_length=1, max_length=10_000), AfterValidator(storable)]
