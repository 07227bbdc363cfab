"""May marketing be sent to this person, as far as consent goes? Pure: the state in, every reason against it out.

The reasons are the gate's own, under the gate's own names (`dispatch/gate/rules.py`), so that whoever asks before
composing a message reads what the decision on it would say; a property test holds the two together. The gate asks more
(hours, freshness, the campaign, the STOP mention), and it alone decides. One of its reasons is never given here:
`other_controller`. Whom else a person said yes to is not the caller's to know.
"""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import structs

from common.contracts.consent import Consent, State
from consent.ledger import rules as ledger
from consent.ledger.rules import SubjectState
from consent.retention import rules as retention


class Reason(StrEnum):
    """Why not, or (`under_review`) why not yet."""

    NO_CONSENT = "no_consent"
    CONSENT_PENDING = "consent_pending"
    CONSENT_EXPIRED = "consent_expired"
    OPTED_OUT = "opted_out"
    SUPPRESSED = "suppressed"
    NO_EVIDENCE = "no_evidence"
    UNDER_REVIEW = "under_review"


class Permission(msgspec.Struct, frozen=True, gc=False):
    """The consent asked about, in one word, and every reason against writing; none: one may."""

    state: State
    reasons: tuple[Reason, ...]


def permission(
    state: SubjectState, sender_id: str, purpose: str, held_since: datetime | None, months: int | None, now: datetime
) -> Permission:
    """`held_since`: a text of theirs waits for a person to read it. `months`: how long a consent holds."""
    consent = ledger.consent_of(state, sender_id, purpose)
    if consent is not None and consent.state == "opted_in" and retention.is_over(state, sender_id, months, now):
        consent = structs.replace(consent, state="expired")  # whether or not that is written down by now
    if consent is not None and consent.state == "opted_out":  # all else is said of one purpose
        named = any(m.sender_id == sender_id and m.purpose == purpose for m in state.marks)
        reasons = tuple(_reasons(state, consent if named else None, sender_id, held_since))
    else:
        reasons = tuple(_reasons(state, consent, sender_id, held_since))
    return Permission(consent.state if consent else "unknown", reasons)


def _reasons(
    state: SubjectState, consent: Consent | None, sender_id: str, held_since: datetime | None
) -> Iterator[Reason]:
    """`consent`: None where nothing was ever said of this very purpose, as in what the gate is told."""
    if consent is None:
        yield Reason.NO_CONSENT
    elif consent.state == "opted_out":
        yield Reason.OPTED_OUT
    elif consent.state == "pending":
        yield Reason.CONSENT_PENDING
    elif consent.state == "expired":
        yield Reason.CONSENT_EXPIRED
    elif consent.state != "opted_in":
        yield Reason.NO_CONSENT
    elif not consent.evidence_id or consent.basis is None:
        yield Reason.NO_EVIDENCE
    if any(
        s.sender_id in (None, sender_id) and (consent is None or s.since >= consent.occurred_at)
        for s in ledger.suppressions(state)
    ):
        yield Reason.SUPPRESSED
    if held_since is not None:
        yield Reason.UNDER_REVIEW
