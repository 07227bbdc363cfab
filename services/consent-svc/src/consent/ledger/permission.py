"""Whether consent allows marketing to a subject. Pure: a state goes in, every reason against sending comes out.

Only the gate decides, and checks more. The rule never answers `other_controller`: the caller may not learn which other
senders have the subject's consent.
"""

from datetime import datetime
from enum import StrEnum

import msgspec
from msgspec import structs

from common.contracts import consent_rule
from common.contracts.consent import Consent, State, Suppression
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


class _OfSender(msgspec.Struct, frozen=True, gc=False):
    """A subject's state as one sender may know it."""

    consents: tuple[Consent, ...]
    suppressions: tuple[Suppression, ...]
    erased: bool = False
    unreadable: bool = False


class Permission(msgspec.Struct, frozen=True, gc=False):
    """The state of a consent; empty `reasons` allow the message."""

    state: State
    reasons: tuple[Reason, ...]


def permission(
    state: SubjectState,
    sender_id: str,
    purpose: str,
    held_since: datetime | None,
    months: int | None,
    now: datetime,
    *,
    erased: bool = False,
) -> Permission:
    """Return the state of the consent at `now` and every reason against sending.

    A review that holds marketing shows only to a sender with a record of the person: a stranger would learn of a text.
    """
    consent = ledger.consent_of(state, sender_id, purpose)
    if consent is not None and consent.state == "opted_in":
        if erased:
            consent = None  # the erasure took the proof
        elif retention.is_over(state, sender_id, months, now):
            consent = structs.replace(consent, state="expired")  # the ledger may not have the expiry yet
    # without a mark that names the purpose, the published state has no consent for it
    published = consent is not None and any(m.sender_id == sender_id and m.purpose == purpose for m in state.marks)
    known = _OfSender((consent,) if consent and published else (), ledger.suppressions(state))
    reasons = [Reason(against.value) for against in consent_rule.denials(known, sender_id, purpose, now)]
    if held_since is not None and any(mark.sender_id == sender_id for mark in state.marks):
        reasons.append(Reason.UNDER_REVIEW)
    return Permission(consent.state if consent else "unknown", tuple(reasons))
