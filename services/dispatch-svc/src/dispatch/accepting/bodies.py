"""The HTTP bodies of accepted messages, audits and the report."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from common.sms.sms_length import GSM7_PART, MAX_SEGMENTS
from common.texts.template import MOST_FIELDS, MOST_VALUE_CHARS
from common.web.fields import NumberCountry, NumberFree, Storable
from common.web.problems import Problem, content_of, refusal_of

TEXT_CHARS = MAX_SEGMENTS * GSM7_PART
MOST_AT_ONCE = 1000

SLUG = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Value = Annotated[str, StringConstraints(max_length=MOST_VALUE_CHARS)]


class Send(BaseModel):
    """A message to one person, outside any campaign: from a template, or with a free text."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "sender_id": "maison-lune-compte",
                    "to": "06 39 98 01 02",
                    "category": "transactional",
                    "template_id": "tpl-0123456789abcdef01234567",
                    "values": {"code": "4821"},
                }
            ]
        },
    )

    sender_id: str = Field(pattern=SLUG)
    to: str = Field(min_length=1, max_length=64, description="A mobile number in any usual notation.")
    country: NumberCountry = None
    category: Literal["transactional", "service", "marketing"] = Field(
        description="The lane. A service message waits for courtesy hours, a transactional message goes at any hour."
    )
    template_id: str | None = Field(None, pattern=SLUG, description="An approved template of the sender.")
    version: int | None = Field(None, ge=1, le=1000, description="Null: the newest approved version.")
    values: dict[Name, Value] = Field({}, max_length=MOST_FIELDS, description="The values of the template's fields.")
    text: Storable | None = Field(
        None,
        min_length=1,
        max_length=TEXT_CHARS,
        pattern=r"\S",
        description="A free text, at most ten SMS. Outside marketing, the text needs the scope"
        " `message:send:free_text`, and may not look like advertising.",
    )
    purpose: Annotated[str, NumberFree] | None = Field(
        None, pattern=SLUG, description="The consent's purpose; required for marketing."
    )
    override_reason: Storable | None = Field(
        None,
        min_length=8,
        max_length=500,
        description="The reason for which a free text leaves although the text looks like advertising. Needs the scope"
        " `message:send:override`, and is audited.",
    )
    send_before: AwareDatetime | None = Field(
        None, description="The message expires at this instant; default: in a day."
    )
    postcode: str | None = Field(
        None, max_length=16, description="The postcode of the person's address, for regional holidays and hours."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.text is None) == (self.template_id is None):
            raise ValueError("set either `text` or `template_id`, not both")
        if self.template_id is None and (self.version is not None or self.values):
            raise ValueError("`version` and `values` belong to a `template_id`")
        if self.category != "marketing" and self.purpose is not None:
            raise ValueError("`purpose` belongs to marketing")
        if self.category == "marketing" and self.text is None:
            raise ValueError("marketing has a `text`: templates are of the other lanes")
        if self.override_reason is not None and (self.text is None or self.category == "marketing"):
            raise ValueError("`override_reason` belongs to a `text` outside marketing")
        return self


@dataclass(frozen=True, slots=True)
class NotASend:
    """A malformed message of a batch, with the problem."""

    problem: Problem


def _item(value: object) -> Send | NotASend:
    """Return a message of a batch: a message that is not well-formed refuses none of the others."""
    try:
        return Send.model_validate(value)
    except ValidationError as error:
        return NotASend(refusal_of(error))


class Batch(BaseModel):
    """Up to 1,000 messages, accepted in one transaction: each is accepted or refused by itself."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Annotated[Send | NotASend, PlainValidator(_item, json_schema_input_type=Send)]] = Field(
        min_length=1, max_length=MOST_AT_ONCE, description="The messages; an item of the wrong form is refused alone."
    )


def _form(body: Any) -> str:
    several = "messages" in body if isinstance(body, dict) else isinstance(body, Batch)
    return "(several)" if several else "(single)"


Requested = Annotated[Annotated[Send, Tag("(single)")] | Annotated[Batch, Tag("(several)")], Discriminator(_form)]


class Sent(BaseModel):
    """An accepted message, as the ledger has it."""

    message_id: UUID
    status: str = Field(
        description="The status after the first decision; `GET /v1/messages/{identity}` has the later ones."
    )


class ReasonBody(BaseModel):
    """A reason of a refusal: the field, a word for programs, a sentence for people."""

    field: str | None
    reason: str
    detail: str | None


class Refusal(BaseModel):
    """A problem of one message, as `application/problem+json` would have the problem."""

    type: str = Field(description="The kind of the problem, a URL relative to the service: its page says what to do.")
    title: str = Field(description="The kind of the problem, in words.")
    status: int = Field(description="The HTTP status that a request with this message alone would get.")
    detail: str
    reasons: list[ReasonBody] = Field(description="The field and the reason of each refusal.")

    @classmethod
    def of(cls, problem: Problem) -> Self:
        return cls.model_validate(content_of(problem))


class Result(BaseModel):
    """The result of one message: accepted with an id, or refused."""

    message_id: UUID | None = Field(None, description="The id of the accepted message; null for a refused message.")
    status: str | None = Field(None, description="The status after the first decision; null for a refused message.")
    refused: Refusal | None = None


class BatchResults(BaseModel):
    """The results of a batch, one for each message."""

    results: list[Result] = Field(description="In the order of `messages`.")


class TextAudit(BaseModel):
    """A refused text, or a text that left by an override. The audit lacks the text.

    Messages that a limit refuses have one audit for each request, sender and limit.
    """

    at: datetime = Field(description="The time of the request.")
    caller: str = Field(description="The caller, by `sub` of the token.")
    sender_id: str
    category: str
    template: str = Field(description="`<template_id>@<number>`, or `free_text`.")
    result: Literal["refused", "overridden"] = Field(
        description="`refused`: no message left. `overridden`: the message was accepted for `override_reason`."
    )
    reasons: list[str] = Field(
        description="The rules that the text broke, or the limit that refused the message, stable for programs."
    )
    message_id: UUID | None = Field(description="The id of the message that left by an override; null for a refusal.")
    override_reason: str | None = Field(description="The caller's reason for the override; null for a refusal.")


class ToStopped(BaseModel):
    """Messages of one sender and template."""

    sender_id: str
    category: str
    template: str = Field(description="`<template_id>@<number>`, or `free_text`.")
    messages: int = Field(description="Messages handed off.")
    to_stopped: int = Field(
        description="Of these, messages to people who had stopped the sender, or another sender of"
        " its controller, without a newer opt-in."
    )


class Cost(BaseModel):
    """Messages of one sender and lane, charged by one version of the price table."""

    sender_id: str
    category: str
    prices: str | None = Field(description="The version of the price table; `none` without a table.")
    messages: int = Field(description="Messages with the outcome accepted or unknown; no other is charged.")
    segments: int = Field(description="The SMS of these messages, as sent.")
    cost: Decimal | None = Field(
        description="In euros, of the messages with a price, at the price in force when each was sent; null if no"
        " message has a price."
    )
    unpriced: int = Field(description="Messages without a price: their cost is unknown.")


class CostReport(BaseModel):
    """The real cost of messages, by sender, lane and version of the price table."""

    since: datetime = Field(description="The beginning of the time asked about.")
    until: datetime = Field(description="The end of the time asked about; the end itself is not included.")
    items: list[Cost] = Field(description="A line for each sender, lane and version of the price table with messages.")


class ToStoppedReport(BaseModel):
    """Transactional and service messages, and how many of them went to people who had stopped."""

    since: datetime = Field(description="The beginning of the time asked about.")
    until: datetime = Field(description="The end of the time asked about; the end itself is not included.")
    items: list[ToStopped] = Field(description="The most messages to people who had stopped first.")
