"""Group dispatch-svc's changes of a batch by what they share. Pure.

Most changes of a batch have their state in common, but for the recipient and the instant of the DLR: what is worked out
and sent once a report costs next to nothing a recipient. No report has a reason that only other senders explain, so no
count and no export can show one (`consent_rule.told`).
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import chain
from operator import attrgetter

import msgspec
from msgspec.structs import replace

from campaign.accounts import OUTCOMES
from common.contracts.consent_rule import told
from common.contracts.dispatch import MessageChanged, Status
from common.contracts.inbound import ReceiptState

NEEDS_SOMEBODY = "gateway_needs_somebody"  # dispatch's reason: our account, its money, our sender

_state = attrgetter("campaign_id", "version", "status", "reasons", "receipt", "handed_off_at", "segments", "cost")


class Report(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The state that dispatch-svc reports of several recipients of a campaign.

    `receipts_at`: of each of `people`, or empty without any. `waits`: the messages still wait for an operator.
    """

    campaign_id: str
    version: int
    status: Status
    reasons: tuple[str, ...]
    receipt: ReceiptState | None
    handed_off_at: datetime | None
    segments: int | None
    cost: int | None
    people: Sequence[str]
    receipts_at: Sequence[datetime | None] = ()
    waits: bool = False


def reports_of(changes: Iterable[MessageChanged], now: datetime) -> list[Report]:
    """Return the newest change of each recipient, by reports. A message without a campaign is in none."""
    newest: dict[str, dict[str, MessageChanged]] = defaultdict(dict)
    for change in changes:
        if change.campaign_id is not None:
            of_campaign = newest[change.campaign_id]
            known = of_campaign.setdefault(change.subject_id, change)
            if known.version < change.version:
                of_campaign[change.subject_id] = change
    alike: dict[tuple[object, ...], list[MessageChanged]] = defaultdict(list)
    last, some = None, list[MessageChanged]()
    for change in chain.from_iterable(map(dict.values, newest.values())):
        if change.reasons or (change.handed_off_at is None) is (change.status in OUTCOMES):
            kept = _kept(change)
            alike[*_state(kept), _waits(kept, now)].append(kept)
        else:
            state = _state(change)
            if state != last:  # the hash of a state takes far longer than the comparison
                last, some = state, alike[state]
            some.append(change)
    return [_report(some, now) for some in alike.values()]


def _kept(change: MessageChanged) -> MessageChanged:
    """Return the change with reasons that every sender may see, and with an instant of hand-off for outcomes alone.

    A crash may have lost the instant: a hand-off begins within permit_ttl of its decision.
    """
    handed_off_at = (change.handed_off_at or change.decided_at) if change.status in OUTCOMES else None
    return replace(change, reasons=told(change.reasons), handed_off_at=handed_off_at)


def _waits(change: MessageChanged, now: datetime) -> bool:
    """Return whether the message still waits for an operator; a late report (`until` has passed) does not count."""
    needs = change.status == "deferred" and NEEDS_SOMEBODY in change.reasons
    return needs and change.until is not None and change.until > now


def _report(alike: list[MessageChanged], now: datetime) -> Report:
    first, receipts_at = alike[0], [each.receipt_at for each in alike]
    assert first.campaign_id is not None
    return Report(
        campaign_id=first.campaign_id,
        version=first.version,
        status=first.status,
        reasons=first.reasons,
        receipt=first.receipt,
        handed_off_at=first.handed_off_at,
        segments=first.segments,
        cost=first.cost,
        people=[each.subject_id for each in alike],
        receipts_at=receipts_at if any(receipts_at) else (),
        waits=_waits(first, now),
    )
