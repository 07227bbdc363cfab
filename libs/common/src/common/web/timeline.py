"""A person's timeline, in the same form from each service that has a part of it.

No service has the whole: the ledger, the messages, and the contacts and clicks lie with three. A client asks each by
the number, and merges the answers by time: `placet timeline`.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from common.web.fields import NumberCountry

MOST = 500  # below the lines of the ledger that one read returns


class TimelineAsked(BaseModel):
    """The person whose timeline to return, by the number."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"number": "06 39 98 12 34"}]})

    number: str = Field(min_length=1, max_length=64, description="A mobile number in any usual notation.")
    country: NumberCountry = None
    limit: int = Field(MOST, ge=1, le=MOST, description="Moments at most, the newest ones.")


class Moment(BaseModel):
    """One event of a person's timeline. `subject_id`: the person's id with the sender's controller.

    An event about every sender has neither sender nor id.
    """

    at: datetime = Field(description="Time at source.")
    kind: str = Field(
        examples=["opt_in"], description="The kind of the event; the operation names the kinds that its part has."
    )
    sender_id: str | None = Field(None, description="The sender concerned; null for an event about every sender.")
    subject_id: str | None = Field(
        None, description="The person's id with the sender's controller; null for an event about every sender."
    )
    purpose: str | None = Field(
        None, description="The purpose of the consent or of the message; null where none is concerned."
    )
    campaign_id: str | None = Field(
        None, description="The campaign of the message, the click or the audience; null outside campaigns."
    )
    id: str | None = Field(
        None,
        examples=["ev-000000000000000000000000000000a1"],
        description="The evidence, message, erasure or rectification, or your reference.",
    )
    status: str | None = Field(
        None,
        description="The state after the event: a message's status, a DLR, the basis of a consent, `open` or"
        " `complete`.",
    )
    detail: str | None = Field(
        None,
        description="More words: the source of the evidence, the reasons of a verdict, the target of a link, or a"
        " value.",
    )


class Timeline(BaseModel):
    """The newest events of a person that one service has."""

    items: list[Moment] = Field(description="The newest first.")
    whole: bool = Field(description="False if the person has older events than these.")

    @classmethod
    def of(cls, moments: Iterable[Moment], limit: int) -> Self:
        """Return the newest of the moments."""
        found = sorted(moments, key=lambda each: each.at, reverse=True)
        return cls(items=found[:limit], whole=len(found) <= limit)
