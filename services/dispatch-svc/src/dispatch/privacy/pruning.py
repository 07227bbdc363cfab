"""The retention periods of dispatch-svc. docs/retention.md has the reasons and sources.

A message loses number and text long before its row goes: the row makes a repeated request a duplicate, and matches a
late DLR. A message without an end loses no data, however old.
"""

from datetime import timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.privacy.pruning import ALLOWANCES, AUDIT, DEAD_LETTERS, Policy, Pruned

EARLY_RECEIPTS_KEPT = timedelta(days=1)  # submits are answered within seconds: an older DLR is not ours
NAMES_KEPT = timedelta(days=1)  # after their end: a row is of no use, and of no harm
LATE_DAYS = 7  # the longest delay of a DLR (CM.com, DOMAIN 3.1), and the retention of Kafka
ENDED = "status NOT IN ('pending', 'deferred', 'sending')"
WITH_CONTENT = "number IS NOT NULL OR text IS NOT NULL"  # spelled as in the index
BARE = "number IS NULL AND text IS NULL"


class Periods(BaseModel):
    """Retention periods in days. A late DLR must still find its message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contents_days: int = Field(35, ge=LATE_DAYS)
    messages_days: int = Field(1826, ge=LATE_DAYS)  # 5 years: the limitation period of a dispute (DOMAIN 1.4)
    audits_days: int = Field(396, ge=1)  # of refused texts
    enforcements_days: int = Field(1096, ge=LATE_DAYS)  # 3 years, as the evidence of an objection: DOMAIN 1.4

    @model_validator(mode="after")
    def _the_content_goes_first(self) -> Self:
        if self.messages_days < self.contents_days:
            raise ValueError("messages_days is at least contents_days")
        return self


def policy(periods: Periods) -> Policy:
    return Policy(
        pruned=(
            DEAD_LETTERS,
            ALLOWANCES,
            AUDIT,
            Pruned(
                "message contents",
                "message",
                "requested_at",
                timedelta(days=periods.contents_days),
                # counted from the end: DLRs of a message deferred for long are still to come
                where=f"({WITH_CONTENT}) AND {ENDED} AND coalesce(handed_off_at, decided_at, requested_at) < :before",
                strips=("number", "text"),
            ),
            Pruned(
                "messages",
                "message",
                "requested_at",
                timedelta(days=periods.messages_days),
                where=f"{BARE} AND {ENDED}",
            ),
            Pruned("idempotency keys", "keyed_request", "created_at", timedelta(days=periods.messages_days)),
            Pruned(
                "audits of refused texts",
                "text_audit",
                "at",
                timedelta(days=periods.audits_days),
                where="result = 'refused'",
            ),
            Pruned(
                "audits of overridden texts",
                "text_audit",
                "at",
                timedelta(days=periods.messages_days),  # as the message that left
                where="result = 'overridden'",
            ),
            Pruned("names of MOs", "mo_name", "repeats_until", NAMES_KEPT),
            Pruned("early receipts", "early_receipt", "received_at", EARLY_RECEIPTS_KEPT),
            Pruned(
                "enforcements",
                "enforcement",
                "enforced_at",
                timedelta(days=periods.enforcements_days),
                where="enforced_at IS NOT NULL",
            ),
        ),
        kept={
            "widening": "two counts of partitions",
            "subject": "as the consent it is a copy of",
            "sending": "until what it lists has an outcome",
            "begun": "as the row of dispatch.sending",
            "subject_next": "while it is made",
            "bind_lease": "until its process stops, or 30 s after its last renewal",
            "rebuild": "nothing of a person",
            "shard": "nothing of a person",
            "comparison": "nothing of a person",
            "hold": "nothing of a person",
            "provider_block": "until a person removes it",
            "sender": "nothing of a person",
            "shared_record": "nothing of a person",
            "template": "nothing of a person",
            "campaign": "nothing of a person",
        },
    )
