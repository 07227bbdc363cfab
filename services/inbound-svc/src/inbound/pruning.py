"""How long inbound-svc keeps its data. docs/retention.md has the reasons and sources of the periods.

An item outlives the raw body: a redelivered callback stays a duplicate.
"""

from datetime import timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.privacy.pruning import ALLOWANCES, AUDIT, DEAD_LETTERS, Policy, Pruned
from inbound.store import PARTS_KEPT

RETRIED_DAYS = 35  # no operator is known to retry after a month (CM.com, DOMAIN 3.1)
MARGIN = timedelta(hours=1)  # for clock differences


class Periods(BaseModel):
    """Periods in days. A redelivered callback must still find its items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw_messages_days: int = Field(396, ge=1)  # 13 months: DOMAIN 1.4
    messages_days: int = Field(1096, ge=RETRIED_DAYS)  # 3 years, as evidence of an opposition: DOMAIN 1.4
    receipts_days: int = Field(RETRIED_DAYS, ge=RETRIED_DAYS)
    reviews_days: int = Field(396, ge=1)  # as the raw message

    @model_validator(mode="after")
    def _the_raw_goes_first(self) -> Self:
        if self.messages_days < self.raw_messages_days:
            raise ValueError("messages_days is at least raw_messages_days")
        return self


def policy(periods: Periods) -> Policy:
    return Policy(
        pruned=(
            DEAD_LETTERS,
            ALLOWANCES,
            AUDIT,
            Pruned(
                "raw messages",
                "callback",
                "received_at",
                timedelta(days=periods.raw_messages_days),
                where="kind = 'messages' AND body IS NOT NULL",
                strips=("body",),
            ),
            Pruned(
                "messages",
                "callback",
                "received_at",
                timedelta(days=periods.messages_days),
                where="kind = 'messages' AND body IS NULL",
            ),
            Pruned(
                "receipts",
                "callback",
                "received_at",
                timedelta(days=periods.receipts_days),
                where="kind = 'receipts'",
                lists=("receipts", "receipt"),
            ),
            Pruned("parts", "part", "received_at", PARTS_KEPT + MARGIN),
            Pruned("nonces", "nonce", "forget_after", MARGIN),
            Pruned(
                "closed reviews",
                "review",
                "decided_at",
                timedelta(days=periods.reviews_days),
                where="decided_at IS NOT NULL",
            ),
        ),
        kept={
            "callback_item": "goes with its callback",
            "receipt": "goes with its callback",
            "sender_code": "nothing of a person",
            "sender": "nothing of a person",
            "shard": "nothing of a person",
        },
    )
