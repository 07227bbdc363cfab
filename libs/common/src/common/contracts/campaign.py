"""What campaign-svc publishes: the control of each campaign, one request per recipient, and who followed a link."""

from typing import ClassVar, Literal

from common.contracts.envelope import Event, Instant

Control = Literal["running", "paused", "cancelled"]
Category = Literal["marketing", "transactional", "service"]


class CampaignControlled(Event, frozen=True, kw_only=True):
    """Whether a campaign may send now. Honoured at the gate, so it reaches what is already requested."""

    type: ClassVar[str] = "campaign.controlled.v1"

    campaign_id: str
    sender_id: str
    control: Control
    version: int

    @property
    def key(self) -> str:
        return self.campaign_id


class MessageRequested(Event, frozen=True, kw_only=True):
    """One message asked for one subject: the marketing lane of campaign-svc, and (topic `dispatch.requests.v1`) the
    service lane of consent-svc and the internal services."""

    type: ClassVar[str] = "campaign.message_requested.v1"

    message_id: str  # UUIDv8, derived: see common.message_id
    campaign_id: str | None
    sender_id: str
    purpose: str | None  # None for transactional, and for service but where it asks for a double opt-in
    category: Category
    subject_id: str
    number: str  # sealed, context "number:<subject_id>"
    text: str  # sealed, context "text:<message_id>"
    requested_at: Instant
    send_before: Instant
    region: str | None = None  # of the person's address, where its hours may differ from the number's: common.law

    @property
    def key(self) -> str:
        return self.subject_id


class MessageReworded(Event, frozen=True, kw_only=True):
    """A message that was requested is to say something else, or is of another region: what was held of its person was
    put right. It follows its request on the same partition, and counts while the message has not begun to leave."""

    type: ClassVar[str] = "campaign.message_reworded.v1"

    message_id: str
    campaign_id: str
    subject_id: str
    text: str | None  # sealed, context "text:<message_id>"; None: it cannot be written any more, and must not leave
    reworded_at: Instant
    region: str | None = None  # as of a request, "" of nowhere else than the number's; None: what its request said

    @property
    def key(self) -> str:
        return self.subject_id


class LinkClicked(Event, frozen=True, kw_only=True):
    """The person followed a link of a message: contact from them with its sender. At most one a day, person and link;
    what machines follow is not told."""

    type: ClassVar[str] = "campaign.link_clicked.v1"

    subject_id: str
    sender_id: str
    campaign_id: str
    message_id: str
    link: int  # which of the campaign's, from 1
    clicked_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id
