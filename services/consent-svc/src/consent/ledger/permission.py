"""Whether consent allows marketing to a subject. Pure: a state goes in, every reason against sending comes out.

The reasons have the gate's names (`dispatch/gate/rules.py`); a property test compares the two. The gate checks more
(hours, freshness, the campaign, the STOP mention), and only the gate decides. This module never gives the gate's reason
`other_controller`: the caller may not learn which other senders have the subject's consent.
"""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import structs

from common.contracts.consent import Consent, State
from consent.ledger import retention
from consent.ledger import rules as ledger
from consent.ledger.rules import SubjectState


class Reason(StrEnum):
    """A reason against sending, or (`under_review`) a reason to wait."""

    NO_CONSENT = "no_consent"
    CONSENT_PENDING = "consent_pending"
    CONSENT_EXPIRED = "consent_expired"
    OPTED_OUT = "opted_out"
    SUPPRESSED = "suppressed"
    NO_EVIDENCE = "no_evidence"
    UNDER_REVIEW = "under_review"


class Permission(msgspec.Struct, frozen=True, gc=False):
    """The state of a consent and every reason against sending. Empty `reasons` allow the message."""

    state: State
    reasons: tuple[Reason, ...]


def permission(
    state: SubjectState, sender_id: str, purpose: str, held_since: datetime | None, months: int | None, now: datetime
) -> Permission:
    """Return the state of the consent at `now` and every reason against sending. `months`: the retention period."""
    consent = ledger.consent_of(state, sender_id, purpose)
    if consent is not None and consent.state == "opted_in" and retention.is_over(state, sender_id, months, now):
        consent = structs.replace(consent, state="expired")  # the ledger may not have the expiry yet
    if consent is not None and consent.state == "opted_out":  # the other states always name a purpose
        named = any(m.sender_id == sender_id and m.purpose == purpose for m in state.marks)
        reasons = tuple(_reasons(state, consent if named else None, sender_id, held_since))
    else:
        reasons = tuple(_reasons(state, consent, sender_id, held_since))
    return Permission(consent.state if consent else "unknown", reasons)


def _reasons(
    state: SubjectState, consent: Consent | None, sender_id: str, held_since: datetime | None
) -> Iterator[Reason]:
    """Yield the reasons. `consent` is `None` when no mark names the purpose: the gate then reads no consent either."""
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
