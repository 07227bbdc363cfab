"""The published language: every topic, who owns it, and which event types it carries.

A topic's key decides its partition. The topics keyed by subject share one partition count, so that one partition
number speaks for a subject in all of them (dispatch's lock, and the watermarks, rely on it: ADR-0004).
"""

from dataclasses import dataclass
from typing import Literal

from common.contracts.campaign import CampaignControlled, MessageRequested
from common.contracts.consent import ConsentStateChanged, SenderChanged
from common.contracts.dispatch import MessageChanged, OptOutEnforced
from common.contracts.envelope import Event, Watermark
from common.contracts.inbound import MessageReceived, ReceiptReceived

SEVEN_DAYS_MS = 7 * 24 * 3600 * 1000
ONE_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the platform. `keyed_by` names the field that is the Kafka key."""

    name: str
    owner: str
    keyed_by: Literal["subject_id", "sender_id", "campaign_id", "provider_message_id"]
    cleanup: Literal["compact", "delete"]
    events: tuple[type[Event], ...]
    consumers: tuple[str, ...]
    watermarked: bool = False

    @property
    def dead_letters(self) -> str:
        return f"{self.name}.dlq"

    @property
    def config(self) -> dict[str, str]:
        """Kafka's own settings. Anything personal lives 7 days at most; a tombstone acts within 24 h."""
        if self.cleanup == "compact":
            return {"cleanup.policy": "compact", "max.compaction.lag.ms": str(ONE_DAY_MS)}
        return self.dead_letters_config

    @property
    def dead_letters_config(self) -> dict[str, str]:
        """A dead letter is as personal as the record it was."""
        return {"cleanup.policy": "delete", "retention.ms": str(SEVEN_DAYS_MS)}


SENDERS = Topic("consent.senders.v1", "consent", "sender_id", "compact", (SenderChanged,), ("campaign", "dispatch"))
STATES = Topic(
    "consent.states.v1", "consent", "subject_id", "compact", (ConsentStateChanged,), ("dispatch",), watermarked=True
)
INBOUND_MESSAGES = Topic(
    "inbound.messages.v1", "inbound", "subject_id", "delete", (MessageReceived,), ("consent",), watermarked=True
)
INBOUND_RECEIPTS = Topic(
    "inbound.receipts.v1", "inbound", "provider_message_id", "delete", (ReceiptReceived,), ("dispatch",)
)
CONTROLS = Topic("campaign.controls.v1", "campaign", "campaign_id", "compact", (CampaignControlled,), ("dispatch",))
CAMPAIGN_REQUESTS = Topic(
    "campaign.requests.v1", "campaign", "subject_id", "delete", (MessageRequested,), ("dispatch",)
)
DISPATCH_REQUESTS = Topic(
    "dispatch.requests.v1", "dispatch", "subject_id", "delete", (MessageRequested,), ("dispatch",)
)
DISPATCH_MESSAGES = Topic(
    "dispatch.messages.v1", "dispatch", "subject_id", "delete", (MessageChanged, OptOutEnforced), ("campaign",)
)

TOPICS: tuple[Topic, ...] = (
    SENDERS,
    STATES,
    INBOUND_MESSAGES,
    INBOUND_RECEIPTS,
    CONTROLS,
    CAMPAIGN_REQUESTS,
    DISPATCH_REQUESTS,
    DISPATCH_MESSAGES,
)

EVENTS: dict[str, type[Event]] = {e.type: e for t in TOPICS for e in t.events} | {Watermark.type: Watermark}

__all__ = ["EVENTS", "TOPICS", "Event", "Topic", "Watermark"]
