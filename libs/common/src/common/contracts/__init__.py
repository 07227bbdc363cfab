"""Declare every Kafka topic: its owner, its key and its event types.

The topics keyed by subject share one partition count, and a partition number covers the same subjects in each:
dispatch's partition lock and the watermarks rely on this (ADR-0004). A wide topic has a multiple of the count.
"""

from dataclasses import dataclass
from typing import Literal

from common.contracts.campaign import (
    CampaignControlled,
    ContactImportFinished,
    LinkClicked,
    MessageRequested,
    MessageReworded,
    MessagesRequested,
    StatusChanged,
    TemplateChanged,
)
from common.contracts.consent import ConsentImportFinished, ConsentStateChanged, SenderChanged, StatesSummed
from common.contracts.dispatch import HoldChanged, MessagesChanged, OptOutEnforced
from common.contracts.envelope import Event, Watermark
from common.contracts.inbound import MessageReceived, ReceiptReceived, ReceiptsReceived
from common.contracts.operator import MessageDelivered, MessageSubmitted, ReceiptDelivered
from common.contracts.rights import (
    CopyGathered,
    CopyRequested,
    ErasureAcknowledged,
    ErasureFinished,
    ErasureLifted,
    ErasureRequested,
    RectificationAcknowledged,
    RectificationRequested,
)

ONE_HOUR_MS = 3600 * 1000
ONE_DAY_MS = 24 * ONE_HOUR_MS
SEVEN_DAYS_MS = 7 * ONE_DAY_MS
# Kafka deletes whole segments: a record may wait for the last record of its segment (`segment.ms`), and for the look of
# the broker (`log.retention.check.interval.ms`, five minutes) with the delay of a file (one minute). So a record is
# gone after seven days only where retention is shorter by both.
SEGMENT_MS = 6 * ONE_HOUR_MS
LOOKED_AT_WITHIN_MS = ONE_HOUR_MS
RETENTION_MS = SEVEN_DAYS_MS - SEGMENT_MS - LOOKED_AT_WITHIN_MS


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the platform.

    `publishers`: writers besides `owner`. `gathered`: nobody waits for an event, so the relay lets events gather.
    `wide`: the topic may have a multiple of the partitions of people (ADR-0114). Its records carry work and no opt-out,
    and all of a person come from one publisher, or all of a person with one organisation.
    """

    name: str
    owner: str
    keyed_by: Literal[
        "subject_id",
        "sender_id",
        "campaign_id",
        "provider_message_id",
        "message_id",
        "reference",
        "sum_id",
        "category",
        "template_version",
        "notice_id",
    ]
    cleanup: Literal["compact", "delete"]
    events: tuple[type[Event], ...]
    consumers: tuple[str, ...]
    watermarked: bool = False
    publishers: tuple[str, ...] = ()
    gathered: bool = False
    wide: bool = False

    @property
    def dead_letters(self) -> str:
        return f"{self.name}.dlq"

    @property
    def config(self) -> dict[str, str]:
        """Return the Kafka settings.

        `delete` keeps personal data for 7 days at most; in `compact` a tombstone acts within 24 hours, and no record of
        the last hour replaces another: no watermark before a replaced record is fresh (ADR-0004).
        """
        if self.cleanup == "compact":
            return {
                "cleanup.policy": "compact",
                "min.compaction.lag.ms": str(ONE_HOUR_MS),
                "max.compaction.lag.ms": str(ONE_DAY_MS),
            }
        return self.dead_letters_config

    @property
    def dead_letters_config(self) -> dict[str, str]:
        """Return the settings for dead letters, as personal as their records."""
        return {"cleanup.policy": "delete", "retention.ms": str(RETENTION_MS), "segment.ms": str(SEGMENT_MS)}


SENDERS = Topic(
    "consent.senders.v1", "consent", "sender_id", "compact", (SenderChanged,), ("campaign", "dispatch", "inbound")
)
STATES = Topic(
    "consent.states.v1",
    "consent",
    "subject_id",
    "compact",
    (ConsentStateChanged,),
    ("campaign", "dispatch"),
    watermarked=True,
)
SUMS = Topic("consent.sums.v1", "consent", "sum_id", "delete", (StatesSummed,), ("dispatch",))
ERASURES = Topic(
    "consent.erasures.v1",
    "consent",
    "subject_id",
    "delete",
    (ErasureRequested, ErasureLifted),
    ("campaign", "dispatch", "inbound"),
)
ERASURE_ACKS = Topic(
    "consent.erasure-acks.v1",
    "consent",
    "subject_id",
    "delete",
    (ErasureAcknowledged,),
    ("consent",),
    publishers=("campaign", "dispatch", "inbound"),
)
COPIES = Topic(
    "consent.copies.v1", "consent", "subject_id", "delete", (CopyRequested,), ("campaign", "dispatch", "inbound")
)
COPY_PARTS = Topic(
    "consent.copy-parts.v1",
    "consent",
    "subject_id",
    "delete",
    (CopyGathered,),
    ("consent",),
    publishers=("campaign", "dispatch", "inbound"),
)
RECTIFICATIONS = Topic(
    "consent.rectifications.v1", "consent", "subject_id", "delete", (RectificationRequested,), ("campaign",)
)
RECTIFICATION_ACKS = Topic(
    "consent.rectification-acks.v1",
    "consent",
    "subject_id",
    "delete",
    (RectificationAcknowledged,),
    ("consent",),
    publishers=("campaign",),
)
CONSENT_NOTICES = Topic(
    "consent.notices.v1", "consent", "notice_id", "delete", (ConsentImportFinished, ErasureFinished), ("campaign",)
)
INBOUND_MESSAGES = Topic(
    "inbound.messages.v1", "inbound", "subject_id", "delete", (MessageReceived,), ("consent",), watermarked=True
)
INBOUND_RECEIPTS = Topic(
    "inbound.receipts.v1",
    "inbound",
    "provider_message_id",
    "delete",
    (ReceiptsReceived, ReceiptReceived),
    ("dispatch",),
)
CONTROLS = Topic("campaign.controls.v1", "campaign", "campaign_id", "compact", (CampaignControlled,), ("dispatch",))
CAMPAIGN_REQUESTS = Topic(
    "campaign.requests.v1",
    "campaign",
    "subject_id",
    "delete",
    (MessagesRequested, MessageRequested, MessageReworded),
    ("dispatch",),
    wide=True,
)
CLICKS = Topic("campaign.clicks.v1", "campaign", "subject_id", "delete", (LinkClicked,), ("consent",))
TEMPLATES = Topic("campaign.templates.v1", "campaign", "template_version", "compact", (TemplateChanged,), ("dispatch",))
CAMPAIGN_NOTICES = Topic(
    "campaign.notices.v1", "campaign", "notice_id", "delete", (StatusChanged, ContactImportFinished), ("campaign",)
)
DISPATCH_REQUESTS = Topic(
    "dispatch.requests.v1",
    "dispatch",
    "subject_id",
    "delete",
    (MessageRequested,),
    ("dispatch",),
    publishers=("consent",),  # replies to people
)
DISPATCH_MESSAGES = Topic(
    "dispatch.messages.v1",
    "dispatch",
    "subject_id",
    "delete",
    (MessagesChanged, OptOutEnforced),
    ("campaign", "consent"),
    gathered=True,
    wide=True,
)
DISPATCH_HOLDS = Topic("dispatch.holds.v1", "dispatch", "category", "compact", (HoldChanged,), ("campaign",))

TOPICS: tuple[Topic, ...] = (
    SENDERS,
    STATES,
    SUMS,
    ERASURES,
    ERASURE_ACKS,
    COPIES,
    COPY_PARTS,
    RECTIFICATIONS,
    RECTIFICATION_ACKS,
    CONSENT_NOTICES,
    INBOUND_MESSAGES,
    INBOUND_RECEIPTS,
    CONTROLS,
    CAMPAIGN_REQUESTS,
    CLICKS,
    TEMPLATES,
    CAMPAIGN_NOTICES,
    DISPATCH_REQUESTS,
    DISPATCH_MESSAGES,
    DISPATCH_HOLDS,
)

OPERATOR_EVENTS: tuple[type[Event], ...] = (MessageDelivered, ReceiptDelivered, MessageSubmitted)


def operator_topics(name: str) -> tuple[Topic, Topic]:
    """Return an operator's topics of MOs and DLRs, which TOPICS omits: each deployment has its own."""
    return (
        Topic(f"operator.{name}.messages.v1", "operator", "message_id", "delete", (MessageDelivered,), ("inbound",)),
        Topic(f"operator.{name}.receipts.v1", "operator", "message_id", "delete", (ReceiptDelivered,), ("inbound",)),
    )


def operator_submits(name: str) -> Topic:
    """Return the topic of messages handed to an operator by Kafka."""
    return Topic(f"operator.{name}.submits.v1", "dispatch", "reference", "delete", (MessageSubmitted,), ("operator",))


EVENTS: dict[str, type[Event]] = {e.type: e for t in TOPICS for e in t.events}
EVENTS |= {e.type: e for e in OPERATOR_EVENTS} | {Watermark.type: Watermark}

__all__ = ["EVENTS", "OPERATOR_EVENTS", "TOPICS", "Event", "Topic", "Watermark", "operator_submits", "operator_topics"]
