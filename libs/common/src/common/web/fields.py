"""Types of request fields: a value of these types can be stored unchanged."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError

from common.sms.labels import holds_a_number

BIGINT = 2**63 - 1  # largest bigint of Postgres


def storable(value: str) -> str:
    """Return `value`. Raises ValueError for a NUL, which Postgres cannot store."""
    if "\x00" in value:
        raise ValueError("holds a NUL character")
    return value


def without_number(value: str) -> str:
    """Return `value`. Raises PydanticCustomError, of the type `phone_number`, for what looks like a mobile number.

    For names, labels and reasons: these stay after a person's erasure, and no key hides them.
    """
    if holds_a_number(value):
        raise PydanticCustomError(
            "phone_number",
            "looks like a phone number, and stays after the person is erased: write it without the number",
        )
    return value


NumberFree = AfterValidator(without_number)
Storable = Annotated[str, AfterValidator(storable)]
Label = Annotated[Storable, NumberFree]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{2,40}$"), NumberFree]
Short = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(storable)]
Long = Annotated[str, StringConstraints(min_length=1, max_length=10_000), AfterValidator(storable)]
