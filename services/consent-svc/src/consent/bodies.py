"""The HTTP bodies that several packages share, and the checks of each field.

A phone number travels only in a body, and no error reason repeats a number.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
)
from pydantic_core import PydanticCustomError

from common.contracts.consent import Basis
from common.web.fields import Long, NumberCountry, NumberFree, Short
from common.web.problems import Reason

# The sources that the platform writes, and words that a reader would take for one of these. The person's own STOP and
# consent are told from a caller's by the source alone (ADR-0064).
OURS = (
    *("mo", "unreadable_mo", "receipt", "provider_list", "sender_list", "preference_page", "stop_link"),
    *("double_opt_in", "rectification", "retention", "click", "restore"),
)
LIKE_OURS = ("sms", "stop", "start", "oui", "page", "person", "operator")
OUR_PREFIXES = ("placet", "unreadablemo", "providerlist", "senderlist", "preferencepage", "stoplink", "doubleoptin")
OUR_WORDS = ("mo", "sms", "stop")  # as a part of a name, such as `sms-in`
ALIKE = str.maketrans("0135i", "olesl", "._-")  # alike to a reader
SEPARATOR = re.compile(r"[._-]")
EXAMPLE_NUMBER = "06 39 98 12 34"
BATCH_ITEMS = 1000
EARLIEST = datetime(1992, 12, 3, tzinfo=UTC)  # the first SMS: an earlier time at source is a mistake
Reach = Literal["purpose", "sender", "controller", "everyone"]  # of an opt-out
ISO_8601 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")


def _iso_8601(value: object) -> object:
    if isinstance(value, str) and ISO_8601.match(value):
        return value
    raise ValueError("an ISO 8601 instant with its offset")  # pydantic reads "20260301" as seconds of 1970


def _in_utc(value: datetime) -> datetime:
    try:
        instant = value.astimezone(UTC)
    except OverflowError:
        raise ValueError("out of range") from None
    if instant < EARLIEST:
        raise ValueError("before there were text messages")
    return instant


def _not_ours(value: str) -> str:
    read, parts = value.translate(ALIKE), {part.translate(ALIKE) for part in SEPARATOR.split(value)}
    if read in _RESERVED or read.startswith(_PREFIXES) or parts & _WORDS:
        raise PydanticCustomError(
            "source_reserved", "a source that Placet itself writes, or one like it: name the caller's own channel"
        )
    return value


_RESERVED = {name.translate(ALIKE) for name in (*OURS, *LIKE_OURS)}
_PREFIXES = tuple(name.translate(ALIKE) for name in OUR_PREFIXES)
_WORDS = {word.translate(ALIKE) for word in OUR_WORDS}


Instant = Annotated[AwareDatetime, BeforeValidator(_iso_8601), AfterValidator(_in_utc)]
Source = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$"), AfterValidator(_not_ours), NumberFree
]
Number = Annotated[str, StringConstraints(max_length=64), Field(examples=[EXAMPLE_NUMBER])]


class Body(BaseModel):
    """A request body. An unknown field is refused: a mistyped field of proof must not be lost silently."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EvidenceBody(Body):
    """The proof of a choice. An opt-in needs `form_id` and `form_version`, or `text_shown`."""

    source: Source = Field(
        description="The caller's own channel, a slug such as `shop`. The sources that Placet itself writes, and"
        " words like them, are refused, and so is a phone number: the source stays after an erasure."
    )
    form_id: Short | None = None
    form_version: Short | None = None
    text_shown: Long | None = None
    actor: Short | None = None
    sale_reference: Short | None = None


class ConsentBody(Body):
    """One opt-in."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "acme",
                    "purpose": "promotions",
                    "number": EXAMPLE_NUMBER,
                    "basis": "opt_in",
                    "occurred_at": "2026-03-02T14:05:00+01:00",
                    "evidence": {"source": "shop", "form_id": "checkout", "form_version": "7"},
                }
            ]
        }
    )

    sender_id: Short
    purpose: Short
    number: Number = Field(
        description="A mobile number in any usual notation. A writing that could be two people's in the countries"
        " that apply is refused as `ambiguous`."
    )
    country: NumberCountry = None
    basis: Basis = Field(
        "opt_in",
        description="`opt_in`; `soft_opt_in`, for products like those of a sale to the person, which needs"
        " `sale_reference` (CPCE L34-5); `non_commercial`.",
    )
    occurred_at: Instant = Field(
        description="Time at source: when the person opted in, in RFC 3339 with an offset. The newest of opt-ins"
        " and opt-outs counts; a tie is an opt-out."
    )
    evidence: EvidenceBody


class OptOutBody(Body):
    """One opt-out. `sender_id` is required, and may be null."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "acme",
                    "purpose": None,
                    "number": EXAMPLE_NUMBER,
                    "evidence": {"source": "call-centre", "actor": "agent-12"},
                }
            ]
        }
    )

    sender_id: Short | None = Field(description="The sender that the person stops; null: every sender.")
    purpose: Short | None = Field(None, description="The purpose that the person leaves; null: every purpose.")
    number: Number = Field(
        description="A number in any notation with a digit: a STOP counts, whatever the number. A writing that could"
        " be two people's in the countries that apply stops both."
    )
    country: NumberCountry = None
    occurred_at: Instant | None = Field(
        None, description="Time at source: when the person opted out, in RFC 3339 with an offset. Default: now."
    )
    evidence: EvidenceBody


class ReasonBody(BaseModel):
    """A reason of a refusal: the field, a word for programs, a sentence for people."""

    field: str | None
    reason: str
    detail: str | None = None


class Unfit(BaseModel):
    """A batch item of the wrong form, and the reasons."""

    reasons: tuple[ReasonBody, ...]


def or_unfit(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        return Unfit(
            reasons=tuple(
                ReasonBody(field=".".join(map(str, e["loc"])) or None, reason=e["type"], detail=e["msg"])
                for e in error.errors(include_url=False, include_input=False, include_context=False)
            )
        )


def bodies(reasons: tuple[Reason, ...]) -> tuple[ReasonBody, ...]:
    return tuple(ReasonBody(field=r.field, reason=r.reason, detail=r.detail) for r in reasons)
