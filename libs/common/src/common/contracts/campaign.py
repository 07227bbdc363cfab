"""Define the events of campaign-svc: campaign controls, requests, updated texts, clicks, templates, notices."""

from typing import Annotated, ClassVar, Literal

import msgspec

from common.contracts.envelope import Event, Instant

REQUESTS_TOGETHER = 100  # requests of an event at most
Control = Literal["running", "paused", "cancelled"]
Category = Literal["marketing", "transactional", "service"]


class CampaignControlled(Event, frozen=True, kw_only=True):
    """The current control of a campaign: whether its messages may be sent.

    The gate applies the newest `version` to each decision, so a pause or a cancellation also reaches messages already
    requested.
    """

    type: ClassVar[str] = "campaign.controlled.v1"

    campaign_id: str
    sender_id: str
    control: Control
    version: int

    @property
    def key(self) -> str:
        return self.campaign_id


class MessageRequested(Event, frozen=True, kw_only=True):
    """The request to send one message to one subject.

    campaign-svc requests marketing messages on `campaign.requests.v1`; consent-svc requests service messages on
    `dispatch.requests.v1`.

    A request is `repeated` if no report on its message has arrived. dispatch-svc answers with the current state of a
    message on record, and decides on any other message as on a first request. A repeat with empty `number` and `text`
    only asks for the state: a message not on record is not sent.

    `known_version` of a repeat is the version of the requester's newest report. A restored dispatch-svc has forgotten
    versions: its answer with an outcome has a version above `known_version`, or the campaign would never end.
    """

    type: ClassVar[str] = "campaign.message_requested.v1"

    message_id: str  # derived UUIDv8, see `common.sms.message_id`
    campaign_id: str | None
    sender_id: str
    purpose: str | None  # `None` for transactional; set for service only with a question (double opt-in, renewal)
    category: Category
    subject_id: str
    number: str  # encrypted, context "number:<subject_id>"
    text: str  # encrypted, context "text:<message_id>"
    requested_at: Instant
    send_before: Instant
    region: str | None = None  # the address's place where its hours may differ from the number's: `common.law`
    repeated: bool = False
    known_version: int = 0

    @property
    def key(self) -> str:
        return self.subject_id


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One request of an expansion: what its message does not share with the others. Fields as in `MessageRequested`."""

    message_id: str
    subject_id: str
    number: str
    text: str
    region: str | None = None


class MessagesRequested(Event, frozen=True, kw_only=True):
    """The first requests of an expansion to people of one partition, at most 100.

    Each means what a `MessageRequested` of the category marketing means, in this order. Any other request is a
    `MessageRequested`: a repeat, a test, an answer to a person. Empty fields of a request are not on the wire.
    """

    type: ClassVar[str] = "campaign.messages_requested.v1"

    campaign_id: str
    sender_id: str
    purpose: str | None
    requested_at: Instant
    send_before: Instant
    requests: Annotated[tuple[Request, ...], msgspec.Meta(min_length=1)]

    @property
    def key(self) -> str:
        return self.requests[0].subject_id


class MessageReworded(Event, frozen=True, kw_only=True):
    """A new text, or a new region, for a message already requested: the person's data was rectified.

    The event follows the request on the same partition. dispatch-svc applies the event while the message waits; a
    message already handed off keeps its text.
    """

    type: ClassVar[str] = "campaign.message_reworded.v1"

    message_id: str
    campaign_id: str
    subject_id: str
    text: str | None  # encrypted, context "text:<message_id>"; `None`: no valid text, the gate denies the message
    reworded_at: Instant
    region: str | None = None  # as in the request; "": the number's own place; `None`: unchanged

    @property
    def key(self) -> str:
        return self.subject_id


class LinkClicked(Event, frozen=True, kw_only=True):
    """A person followed a link of a message: an interaction with the message's sender.

    campaign-svc publishes at most one click per day, person and link, and no visit by a machine.
    """

    type: ClassVar[str] = "campaign.link_clicked.v1"

    subject_id: str
    sender_id: str
    campaign_id: str
    message_id: str
    link: int  # index among the campaign's links, from 1
    clicked_at: Instant

    @property
    def key(self) -> str:
        return self.subject_id


class TemplateField(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a template, with the limits of its value."""

    name: str
    max_chars: int
    links: bool = False  # the value may hold a link
    prices: bool = False  # the value may be a price, or part of one


class TemplateChanged(Event, frozen=True, kw_only=True):
    """The current state of one version of a template: approved by a second person, or retired.

    A version's text never changes. dispatch-svc sends transactional and service messages of approved versions. A
    retirement takes effect in dispatch-svc once its event arrives: no watermark tells how fresh the versions are.
    """

    type: ClassVar[str] = "campaign.template_changed.v1"

    template_version: str  # "<template_id>@<number>"
    template_id: str
    number: int
    sender_id: str
    category: Literal["transactional", "service"]
    language: str
    text: str
    fields: tuple[TemplateField, ...]
    state: Literal["approved", "retired"]
    version: int

    @property
    def key(self) -> str:
        return self.template_version


class StatusChanged(Event, frozen=True, kw_only=True):
    """A campaign has started, paused, resumed or ended. campaign-svc reads the event back, for the event feed."""

    type: ClassVar[str] = "campaign.status_changed.v1"

    notice_id: str  # the campaign's id
    sender_id: str
    action: Literal["start", "pause", "resume", "finish", "cancel"]
    changed_at: Instant

    @property
    def key(self) -> str:
        return self.notice_id


class ContactImportFinished(Event, frozen=True, kw_only=True):
    """Every line of a file of contacts is recorded, or refused; or the import is given up."""

    type: ClassVar[str] = "campaign.import_finished.v1"

    notice_id: str  # the import's id
    sender_id: str
    lines: int
    refused: int
    given_up: bool
    finished_at: Instant

    @property
    def key(self) -> str:
        return self.notice_id
