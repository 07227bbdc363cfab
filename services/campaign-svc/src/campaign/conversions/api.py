"""HTTP: take conversions, such as orders, by the number or the id of the person.

A campaign's statistics compare the conversions of people held out with those of the others.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from campaign.audience import store as audience
from campaign.audience.contacts import SenderId, Who, Writer, person_named
from campaign.conversions import store
from campaign.conversions.store import Conversion
from campaign.senders import registry
from campaign.senders.caller import of_caller
from common.privacy import erasing
from common.service import Resources
from common.web.edge_id import ControllerIds
from common.web.fields import Storable
from common.web.openapi import refuses
from common.web.problems import Invalid, NotFound

router = APIRouter(prefix="/v1", tags=["conversions"])

AT_ONCE = 1000
CLOCK_SKEW = timedelta(minutes=1)
Held = Annotated[Resources[Any], Depends(of_caller)]


class NewConversion(Who):
    """A conversion of a person. `reference`: the order, or another name of yours, once for each conversion of a
    sender."""

    reference: Storable = Field(
        min_length=1,
        max_length=100,
        examples=["order-4711"],
        description="The order's number, or another name of yours: a reference counts once for a sender.",
    )
    value: str | None = Field(None, pattern=r"^\d{1,12}(\.\d{1,2})?$", description="A decimal amount in `currency`.")
    currency: str | None = Field(None, pattern="^[A-Z]{3}$", description="ISO 4217, such as EUR; with a `value`.")
    occurred_at: AwareDatetime = Field(description="The time of the conversion, in RFC 3339 with an offset.")

    @model_validator(mode="after")
    def _value_in_a_currency(self) -> "NewConversion":
        if (self.value is None) != (self.currency is None):
            raise ValueError("`value` and `currency` go together")
        return self


class NewConversions(BaseModel):
    """Conversions of a sender: up to 1,000 in a request."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "maison-lune",
                    "conversions": [
                        {
                            "number": "06 39 98 12 34",
                            "reference": "order-4711",
                            "value": "61.40",
                            "currency": "EUR",
                            "occurred_at": "2026-03-02T14:05:00Z",
                        }
                    ],
                }
            ]
        },
    )

    sender_id: SenderId
    conversions: list[NewConversion] = Field(
        min_length=1, max_length=AT_ONCE, description="The conversions; a refused item does not affect the others."
    )


class ConversionVerdict(BaseModel):
    """The result for a conversion, in request order. `known`: the reference is on record, and stays as first sent."""

    reference: str = Field(description="The reference, as sent.")
    result: Literal["recorded", "known", "refused"] = Field(
        description="`known`: the reference is on record, and stays as first sent."
    )
    reason: str | None = Field(description="The reason for a refusal.")


class ConversionVerdicts(BaseModel):
    """The results of a request with conversions."""

    items: list[ConversionVerdict] = Field(description="A result for each conversion, in request order.")


@router.post("/conversions", operation_id="conversions.create", responses=refuses(NotFound))
async def record_conversions(body: NewConversions, held: Held, caller: Writer) -> ConversionVerdicts:
    """Record up to 1,000 conversions. A refused conversion does not affect the others.

    Send a request again after a lost answer: a `reference` counts once. Send the conversions of every customer, whether
    a campaign reached the customer or not, or the comparison with the holdout is not fair.
    """
    sender = await registry.known(held.database, caller, body.sender_id)
    ids = held.edge_ids.of(await caller.controller_of(body.sender_id))
    now = datetime.now(UTC)
    read = [_read(each, held, ids, sender.countries, now) for each in body.conversions]
    people = {each.subject_id for each in read if isinstance(each, Conversion)}
    async with held.database.begin() as tx:
        await erasing.be_waited_for(tx)
        erased = await audience.erased_among(tx, body.sender_id, people)
        told: list[Conversion | str] = [
            "erased" if isinstance(each, Conversion) and each.subject_id in erased else each for each in read
        ]
        new = await store.add(tx, body.sender_id, [each for each in told if isinstance(each, Conversion)], now)
    return ConversionVerdicts(items=_verdicts([each.reference for each in body.conversions], told, new))


def _read(
    body: NewConversion, held: Resources[Any], ids: ControllerIds, of_sender: Sequence[str], now: datetime
) -> Conversion | str:
    """Return the conversion, or the reason for a refusal."""
    if body.occurred_at > now + CLOCK_SKEW:
        return "in_the_future"
    try:
        subject_id = person_named(body, held, ids, of_sender)
    except Invalid as refused:
        return refused.reasons[0].reason
    value = None if body.value is None else Decimal(body.value)
    return Conversion(body.reference, subject_id, value, body.currency, body.occurred_at)


def _verdicts(references: Sequence[str], told: Sequence[Conversion | str], new: set[str]) -> list[ConversionVerdict]:
    found = []
    for reference, each in zip(references, told, strict=True):
        if isinstance(each, str):
            found.append(ConversionVerdict(reference=reference, result="refused", reason=each))
            continue
        result: Literal["recorded", "known"] = "recorded" if reference in new else "known"
        new.discard(reference)  # the second of two in a request is known
        found.append(ConversionVerdict(reference=reference, result=result, reason=None))
    return found
