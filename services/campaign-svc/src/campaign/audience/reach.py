"""Say whether consent allows marketing to a person, for counts before a start. Pure.

The rule is the gate's (`common.contracts.consent_rule`); the gate decides each message, on fresher knowledge.
"""

from datetime import datetime

import msgspec

from common.contracts import consent_rule
from common.contracts.consent import Consent, State, Suppression

UNDER_REVIEW = "under_review"  # no denial: an operator has yet to read the person's own text


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A person's last published consent state. `unreadable`: a record could not be read."""

    consents: tuple[Consent, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    erased: bool = False
    held: bool = False
    unreadable: bool = False


def denials(standing: Standing | None, sender_id: str, purpose: str, at: datetime) -> tuple[str, ...]:
    """Return the reasons against a message at that time, as the sender may see them."""
    return consent_rule.told(against.value for against in consent_rule.denials(standing, sender_id, purpose, at))


def state(standing: Standing | None, sender_id: str, purpose: str, at: datetime) -> State:
    """Return the consent state at that time. `segment_language` has the same rule in SQL."""
    if standing is None:
        return "unknown"
    consent = consent_rule.consent_for(standing.consents, sender_id, purpose)
    if consent_rule.suppressed(standing.suppressions, sender_id, consent):
        return "opted_out"
    if standing.unreadable:
        return "unknown"
    return consent_rule.state_at(consent, at) if consent else "unknown"
