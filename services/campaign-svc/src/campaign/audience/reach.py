"""Decide whether consent allows marketing to a person, for counts before a campaign starts. Pure.

Reasons have the gate's names and order (`dispatch/gate/rules.py`); a property test holds the two together. The gate
decides each message, on fresher knowledge.
"""

from collections.abc import Iterator
from datetime import datetime

import msgspec

from common.contracts.consent import Consent, State, Suppression

UNDER_REVIEW = "under_review"  # no denial: the person's own text waits for an operator to read it


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A person's last published consent state. `unreadable`: a record could not be read."""

    consents: tuple[Consent, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    erased: bool = False
    held: bool = False
    unreadable: bool = False


def denials(standing: Standing | None, sender_id: str, purpose: str, at: datetime) -> Iterator[str]:
    """Yield every reason against a message at that time. `standing` `None`: no state was published."""
    if standing is None:
        yield "no_consent"
        return
    if standing.unreadable:
        yield "consent_unreadable"
    if standing.erased:
        yield "erased"
    consent = next((c for c in standing.consents if c.sender_id == sender_id and c.purpose == purpose), None)
    if consent is None:
        yield "no_consent"
        if any(c.state == "opted_in" and c.sender_id != sender_id for c in standing.consents):
            yield "other_controller"
    elif consent.state == "opted_out":
        yield "opted_out"
    elif consent.state == "pending":
        yield "consent_pending"
    elif consent.state == "expired" or (
        consent.state == "opted_in" and consent.expires_at is not None and at >= consent.expires_at
    ):
        yield "consent_expired"
    elif consent.state != "opted_in":
        yield "no_consent"
    elif not consent.evidence_id or consent.basis is None:
        yield "no_evidence"
    if any(
        s.sender_id in (None, sender_id) and (consent is None or s.since >= consent.occurred_at)
        for s in standing.suppressions
    ):
        yield "suppressed"


def state(standing: Standing | None, sender_id: str, purpose: str, at: datetime) -> State:
    """Return the consent state at that time. `segment_language` has the same rule in SQL.

    A suppressed person is opted out; an unreadable person's state is unknown.
    """
    if standing is None or standing.unreadable:
        return "unknown"
    consent = next((c for c in standing.consents if c.sender_id == sender_id and c.purpose == purpose), None)
    if any(
        s.sender_id in (None, sender_id) and (consent is None or s.since >= consent.occurred_at)
        for s in standing.suppressions
    ):
        return "opted_out"
    if consent is None:
        return "unknown"
    if consent.state == "opted_in" and consent.expires_at is not None and at >= consent.expires_at:
        return "expired"
    return consent.state
