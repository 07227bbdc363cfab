"""Where a recipient stands in a campaign's accounts, and what moves when that changes. Pure.

    audience = pending + denied + deferred + expired + accepted + rejected + unknown        at every instant
    handed_off = accepted + rejected + unknown

A recipient is in exactly one of these, so a change takes one from where it was and adds one where it is: the sum cannot
drift. The campaign's row carries the first line as a constraint.
"""

from collections import Counter
from dataclasses import dataclass

from common.contracts.dispatch import Status
from common.contracts.inbound import ReceiptState

OUTCOMES = ("accepted", "rejected", "unknown")
STANDINGS = ("pending", "denied", "deferred", "expired", *OUTCOMES)
RECEIPTS = ("delivered", "undelivered")
UNDELIVERED: tuple[ReceiptState, ...] = ("failed", "expired", "opted_out")  # the operator says it did not arrive
COUNTS = (*STANDINGS, *RECEIPTS)


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one recipient: as dispatch last said, or `pending` before it did."""

    status: Status = "pending"
    reasons: tuple[str, ...] = ()
    receipt: ReceiptState | None = None

    @property
    def counts(self) -> Counter[str]:
        """Which counters it is in. A message on its way to the gateway is pending until its outcome is known."""
        found: Counter[str] = Counter({"pending" if self.status == "sending" else self.status: 1})
        if self.receipt == "delivered":
            found["delivered"] = 1
        elif self.receipt in UNDELIVERED:
            found["undelivered"] = 1
        return found

    @property
    def denials(self) -> Counter[str]:
        """The reasons it is denied for, each once."""
        return Counter(dict.fromkeys(self.reasons, 1)) if self.status == "denied" else Counter()


def moved(before: Counter[str], after: Counter[str]) -> Counter[str]:
    """What to add to each counter, negative where it takes away."""
    change = Counter(after)
    change.subtract(before)
    return Counter({name: n for name, n in change.items() if n})
