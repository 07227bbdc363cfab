"""The events of the feed as models, for answers and for the OpenAPI document."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.web.pagination import Page

EVENT_ID = "evt-000000000000000000000000000000a1"
PERSON = Field(description="The person's id with the controller of the sender.")


class Consent(BaseModel):
    """A person's consent to the sender for one purpose."""

    purpose: str
    state: str = Field(description="unknown, pending, opted_in, opted_out or expired.", examples=["opted_out"])
    basis: str | None = Field(
        examples=["opt_in"],
        description="The basis of an opt-in: `opt_in`, `soft_opt_in` or `non_commercial`; null in another state.",
    )
    occurred_at: datetime = Field(description="Time at source of the evidence.")
    expires_at: datetime | None = Field(
        description="The end of the consent, unless the person is in touch before; null without an opt-in."
    )


class ConsentData(BaseModel):
    """Every consent of a person to a sender, after the change. `subject_id`: the person's id with the controller."""

    subject_id: str = PERSON
    sender_id: str
    consents: list[Consent] = Field(description="Every consent to the sender, one for each purpose on record.")
    other_purposes_stopped: bool = Field(
        description="True: an opt-out covers each purpose that has no entry in `consents`, for whatever comes later."
    )
    erased: bool = Field(description="True: the person's data is erased, or being erased.")


class EnforcedData(BaseModel):
    """An opt-out that is enforced. `subject_id`: the person's id with the controller."""

    subject_id: str = PERSON
    sender_id: str
    opt_out: str = Field(description="The id of the event `consent.opted_out`.", examples=[EVENT_ID])
    received_at: datetime = Field(description="When Placet first held the opt-out.")
    enforced_at: datetime = Field(description="From then on, no hand-off begins that the opt-out forbids.")


class ReviewData(BaseModel):
    """A text of a person that waits for a reviewer: marketing to the person waits too.

    `subject_id`: the person's id with the controller.
    """

    subject_id: str = PERSON
    sender_id: str


class MessageData(BaseModel):
    """A message after its hand-off, its DLR, or its end. `subject_id`: the person's id with the controller."""

    subject_id: str = PERSON
    sender_id: str
    message_id: str
    campaign_id: str | None = Field(description="The campaign that requested the message; null outside campaigns.")
    category: str
    status: str = Field(
        description="denied, rejected, expired, accepted or unknown. `GET /v1/messages` has the reasons.",
        examples=["accepted"],
    )
    receipt: str | None
    code: str | None = Field(description="The operator's own error code.")
    segments: int | None = Field(description="The SMS of the text as sent; null where no operator took the message.")
    cost: str | None = Field(description="In euros; null if the price is unknown.")


class CampaignData(BaseModel):
    """A campaign whose state has changed. `GET /v1/campaigns/{campaign_id}` has the campaign."""

    sender_id: str
    campaign_id: str


class ImportData(BaseModel):
    """A finished import, with its counts."""

    sender_id: str
    import_id: str
    kind: Literal["contacts", "consents", "suppressions"] = Field(description="The content of the file.")
    lines: int = Field(description="Lines of the file, without blank lines and the header.")
    refused: int = Field(description="Lines refused; the import lists each with its reason.")
    given_up: bool = Field(description="True: the rest of the file could not be recorded.")


class ErasureData(BaseModel):
    """A finished erasure. `subject_id`: the person's id with the controller."""

    subject_id: str = PERSON
    erasure_id: str | None = Field(description="Null for an erasure of everything, which no controller asked for.")
    everything: bool = Field(description="True: every controller's data is erased, not only this controller's.")


class DisabledData(BaseModel):
    """A webhook that gets no more events until a caller enables the webhook."""

    webhook_id: str
    because: Literal["failing", "gone"] = Field(description="gone: the destination answered 410.")


class TestData(BaseModel):
    """A test of a webhook, on request."""

    webhook_id: str


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(
        description="The same each time an event is told: keep it to recognise a repeat.", examples=[EVENT_ID]
    )
    timestamp: datetime = Field(description="When the fact occurred.")


class ConsentEvent(_Event):
    """A consent of a person has changed, or the person has opted out."""

    type: Literal["consent.changed", "consent.opted_out"]
    data: ConsentData


class EnforcedEvent(_Event):
    """An opt-out is enforced."""

    type: Literal["consent.opt_out_enforced"]
    data: EnforcedData


class ReviewEvent(_Event):
    """A person's text waits for a reviewer."""

    type: Literal["review.waiting"]
    data: ReviewData


class MessageEvent(_Event):
    """A message was accepted, was delivered, or failed."""

    type: Literal["message.accepted", "message.delivered", "message.failed"]
    data: MessageData


class CampaignEvent(_Event):
    """A campaign's state has changed."""

    type: Literal["campaign.started", "campaign.paused", "campaign.resumed", "campaign.finished", "campaign.cancelled"]
    data: CampaignData


class ImportEvent(_Event):
    """An import has ended."""

    type: Literal["import.finished"]
    data: ImportData


class ErasureEvent(_Event):
    """An erasure is complete in every service."""

    type: Literal["erasure.finished"]
    data: ErasureData


class DisabledEvent(_Event):
    """Placet has disabled a webhook."""

    type: Literal["webhook.disabled"]
    data: DisabledData


class TestEvent(_Event):
    """A caller tests a webhook."""

    type: Literal["webhook.test"]
    data: TestData


AnyEvent = Annotated[
    ConsentEvent
    | EnforcedEvent
    | ReviewEvent
    | MessageEvent
    | CampaignEvent
    | ImportEvent
    | ErasureEvent
    | DisabledEvent
    | TestEvent,
    Field(discriminator="type"),
]


class EventPage(Page[AnyEvent]):
    """A page of a feed. A feed has no end: `next` is never null."""
