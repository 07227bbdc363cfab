"""Types of request fields: a value of these types can be stored unchanged."""

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from common.sms.labels import holds_a_number
from common.sms.msisdn import PLANS

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


def _of_a_plan(value: str) -> str:
    if value not in PLANS:
        raise PydanticCustomError(
            "country_not_covered",
            "no numbering plan is known: give the ISO 3166-1 alpha-2 code of a covered country, or write the number"
            " in international form",
        )
    return value


NumberFree = AfterValidator(without_number)
Storable = Annotated[str, AfterValidator(storable)]
Label = Annotated[Storable, NumberFree]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{2,40}$"), NumberFree]
Short = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(storable)]
Long = Annotated[str, StringConstraints(min_length=1, max_length=10_000), AfterValidator(storable)]
NumberCountry = Annotated[
    Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$"), AfterValidator(_of_a_plan)] | None,
    Field(
        description="The country by whose plan a number without a country code is read, ISO 3166-1 alpha-2. Default:"
        " the sender's country and those abroad; without a sender, those of the senders that the token covers.",
        examples=["ES"],
    ),
]
