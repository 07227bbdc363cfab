"""Define the events of the feed: their types, their ids, and the form in which a reader gets them. Pure.

An event of the feed is for an organisation, outside; an event of `common.contracts` is for services. A row holds the
subject id of the platform; a reader gets the person's id with the controller (ADR-0071). No event has a number, a text,
or a version that two controllers could compare.
"""

import hashlib
from datetime import datetime
from enum import StrEnum

import msgspec

from common.web.edge_id import EdgeIds


class Type(StrEnum):
    """The type of an event: its subject, and the fact in the past tense."""

    CONSENT_CHANGED = "consent.changed"
    OPTED_OUT = "consent.opted_out"
    ENFORCED = "consent.opt_out_enforced"
    REVIEW_WAITING = "review.waiting"
    ACCEPTED = "message.accepted"
    DELIVERED = "message.delivered"
    FAILED = "message.failed"
    STARTED = "campaign.started"
    PAUSED = "campaign.paused"
    RESUMED = "campaign.resumed"
    FINISHED = "campaign.finished"
    CANCELLED = "campaign.cancelled"
    IMPORT_FINISHED = "import.finished"
    ERASURE_FINISHED = "erasure.finished"
    WEBHOOK_DISABLED = "webhook.disabled"
    TEST = "webhook.test"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An event before its place in a feed.

    `sender_id` or `controller` says to whom the event belongs; with the sender, the sender's controller counts.
    `about`: the id of the thing the event is about; events about the same thing keep their order. `occasion`: with type
    and owner it makes the id, so that the same fact read twice is one event. `version`: of the consent, for
    `consent.opt_out_enforced`.
    """

    type: Type
    sender_id: str | None
    about: str
    occasion: tuple[str, ...]
    at: datetime
    data: dict[str, object]
    controller: str | None = None
    subject_id: str | None = None
    version: int | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A stored event. `data`: JSON, without the person's id."""

    position: int
    event_id: str
    type: Type
    sender_id: str | None
    controller: str | None
    subject_id: str | None
    about: str
    at: datetime
    data: str


class Shown(msgspec.Struct, frozen=True):
    """An event as a reader gets it: the form of Standard Webhooks, with the id."""

    id: str
    type: str
    timestamp: datetime
    data: dict[str, object]


_data = msgspec.json.Decoder(dict[str, object])


def id_of(told: Told, organisation_id: str) -> str:
    """Return the id of an event in an organisation's feed: the same however often the fact is read."""
    owner = told.sender_id or told.controller or ""
    seed = "\x1f".join((organisation_id, owner, told.type, *told.occasion))
    return f"evt-{hashlib.sha256(seed.encode()).hexdigest()[:32]}"


def shown(event: Event, ids: EdgeIds) -> Shown:
    """Return the event with the person's id with the controller."""
    data = _data.decode(event.data)
    if event.sender_id is not None:
        data = {"sender_id": event.sender_id, **data}
    if event.subject_id is not None:
        assert event.controller is not None, "an event about a person belongs to a controller"
        data = {"subject_id": ids.of(event.controller).shown(event.subject_id), **data}
    return Shown(event.event_id, event.type, event.at, data)
