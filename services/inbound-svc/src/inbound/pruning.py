"""How long inbound-svc keeps what. docs/retention.md has the reasons, and where each period comes from.

An item outlives the raw callback it came in: its primary key is what makes the same callback again a duplicate, and
with the callback's row go its items.
"""

from datetime import timedelta
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.privacy.pruning import DEAD_LETTERS, Policy, Pruned
from inbound.store import PARTS_KEPT

RETRIED_DAYS = 35  # no operator that says how long sends one again after a month (CM.com, DOMAIN 3.1)
MARGIN = timedelta(hours=1)  # for clocks that differ: what anybody may still look for is not taken


class Periods(BaseModel):
    """Days. What is sent again must still find its items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw_messages_days: int = Field(396, ge=1)  # 13 months: DOMAIN 1.4
    messages_days: int = Field(1096, ge=RETRIED_DAYS)  # 3 years, as what tells of an opposition: DOMAIN 1.4
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
        kept={"callback_item": "goes with its callback"},
    )
