"""Bodies of the webhook routes."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from campaign.feed.event import Type
from common.web.fields import Label, Storable

Url = Annotated[
    Label,
    Field(
        min_length=1,
        max_length=2000,
        description="https, at a public address, without credentials or fragment.",
        examples=["https://shop.example/placet"],
    ),
]
Types = Annotated[list[Type] | None, Field(min_length=1, max_length=40, description="Null: every type.")]
Description = Annotated[Label, Field(max_length=200, description="A note of the caller, such as its system.")]


class NewWebhook(BaseModel):
    """A destination for events."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"url": "https://shop.example/placet", "types": ["consent.opted_out"], "description": "Shop"}]
        },
    )

    url: Url
    types: Types = None
    sender_ids: list[Annotated[Storable, Field(max_length=40)]] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Only events of these senders; null, for a token of every sender, is every event of the"
        " organisation.",
    )
    description: Description = ""


class WebhookChange(BaseModel):
    """The fields that change; a field left out stays."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"status": "enabled"}]})

    url: Url | None = None
    types: Types = None
    description: Description | None = None
    status: Literal["enabled", "paused"] | None = Field(
        None, description="`enabled` also ends a rest after failures; `paused` keeps events for later."
    )


class Rotation(BaseModel):
    """How long the former secret still signs."""

    model_config = ConfigDict(extra="forbid")

    former_ends_in_s: int = Field(
        86_400, ge=0, le=7 * 86_400, description="For so long, the former secret signs along."
    )


class Replay(BaseModel):
    """Which deliveries are sent again, of those that the log still has."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"since": "2026-01-06T09:30:00Z"}]})

    since: datetime = Field(description="Of events stored since.")
    failed_only: bool = Field(True, description="False: delivered ones, too.")


class Webhook(BaseModel):
    """A webhook."""

    webhook_id: str
    url: str = Field(examples=["https://shop.example/placet"], description="The destination.")
    types: list[Type] | None = Field(description="The types of events that the webhook gets; null: every type.")
    sender_ids: list[str] | None = Field(
        description="The senders whose events the webhook gets; null: every event of the organisation."
    )
    description: str = Field(description="A note of the caller.")
    status: Literal["enabled", "paused", "failing", "gone"] = Field(
        description="`enabled`; `paused` by a caller; `failing`: no success for five days; `gone`: the destination"
        " answered 410."
    )
    disabled_at: datetime | None = Field(
        description="The time from which the webhook gets no events; null while enabled."
    )
    failing_since: datetime | None = Field(description="The first failure since the last success.")
    rests_until: datetime | None = Field(description="The destination is down: the next delivery is due then.")
    accepted_at: datetime | None = Field(description="The last success, within some seconds.")
    created_by: str
    created_at: datetime


class WebhookWithSecret(Webhook):
    """A webhook, with the secret of its signatures: the answers to a creation and a rotation alone have it."""

    secret: str = Field(
        examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        description="The secret of the signatures (Standard Webhooks): keep it as a password.",
    )


class Delivery(BaseModel):
    """A line of the delivery log."""

    event_id: str
    type: Type
    state: Literal["waiting", "delivered", "failed"] = Field(description="`failed`: no attempt is left.")
    attempts: int = Field(description="Attempts so far.")
    due_at: datetime | None = Field(description="The next attempt; null once settled.")
    first_at: datetime | None = Field(description="The time of the first attempt; null before.")
    last_at: datetime | None = Field(description="The time of the last attempt; null before.")
    code: int | None = Field(description="The HTTP status of the last answer.", examples=[204])
    error: str | None = Field(description="Why the last attempt had no answer.")
    took_ms: int | None = Field(examples=[84], description="Milliseconds of the last attempt; null before.")
    created_at: datetime


class Asked(BaseModel):
    """The event of a test."""

    event_id: str


class Replayed(BaseModel):
    """The result of a replay."""

    deliveries: int = Field(description="How many are sent again.")
