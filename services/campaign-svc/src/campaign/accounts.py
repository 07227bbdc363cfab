"""Define a campaign's tallies, and how a recipient's change moves them. Pure.

    audience = pending + denied + deferred + expired + accepted + rejected + unknown        at every instant
    handed_off = accepted + rejected + unknown

Each recipient is in exactly one counter, so the sum cannot drift. A constraint enforces the first line on each row of
the tallies, and so on their sums.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from common.contracts.dispatch import Status
from common.contracts.inbound import ReceiptState

OUTCOMES = ("accepted", "rejected", "unknown")
STANDINGS = ("pending", "denied", "deferred", "expired", *OUTCOMES)
RECEIPTS = ("delivered", "undelivered")
UNDELIVERED: tuple[ReceiptState, ...] = ("failed", "expired", "opted_out")
COUNTS = (*STANDINGS, *RECEIPTS)


class Standing(msgspec.Struct, frozen=True, gc=False):
    """dispatch-svc's last report on one recipient."""

    status: Status = "pending"
    reasons: tuple[str, ...] = ()
    receipt: ReceiptState | None = None

    @property
    def counts(self) -> Counter[str]:
        """Return the counters this recipient is in; a message being sent counts as pending."""
        found: Counter[str] = Counter({"pending" if self.status == "sending" else self.status: 1})
        if self.receipt == "delivered":
            found["delivered"] = 1
        elif self.receipt in UNDELIVERED:
            found["undelivered"] = 1
        return found

    @property
    def denials(self) -> Counter[str]:
        """Return the reasons of a denial, each once; empty for any other status."""
        return Counter(dict.fromkeys(self.reasons, 1)) if self.status == "denied" else Counter()


def moved(before: Counter[str], after: Counter[str]) -> Counter[str]:
    """Return the change to each counter."""
    change = Counter(after)
    change.subtract(before)
    return Counter({name: n for name, n in change.items() if n})


def moved_together(changes: Mapping[tuple[Standing, Standing], int]) -> tuple[Counter[str], Counter[str]]:
    """Return the change to each counter, and to each reason of denials, of recipients by what they were and are."""
    counts, denials = Counter[str](), Counter[str]()
    for (before, after), many in changes.items():
        for total, change in (
            (counts, moved(before.counts, after.counts)),
            (denials, moved(before.denials, after.denials)),
        ):
            total.update({name: n * many for name, n in change.items()})
    return counts, denials


@dataclass(frozen=True, slots=True, kw_only=True)
class Tallies:
    """The counters of a campaign: `audience`, and each of COUNTS."""

    audience: int
    pending: int
    denied: int
    deferred: int
    expired: int
    accepted: int
    rejected: int
    unknown: int
    delivered: int
    undelivered: int

    @property
    def handed_off(self) -> int:
        return self.accepted + self.rejected + self.unknown

    @property
    def undecided(self) -> int:
        return self.pending + self.deferred
