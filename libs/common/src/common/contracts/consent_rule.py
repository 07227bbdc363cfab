"""Decide whether the consent on record allows marketing by a sender for a purpose. Pure.

dispatch-svc's invariants read the tables by SQL of their own, on purpose: an independent check.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from common.contracts.consent import Consent, State, Suppression


class Against(StrEnum):
    """A reason against a message, as named by the API."""

    NO_CONSENT = "no_consent"
    OTHER_CONTROLLER = "other_controller"  # beside `no_consent`: another sender has a consent
    CONSENT_PENDING = "consent_pending"
    CONSENT_EXPIRED = "consent_expired"
    OPTED_OUT = "opted_out"
    SUPPRESSED = "suppressed"
    ERASED = "erased"
    CONSENT_UNREADABLE = "consent_unreadable"
    NO_EVIDENCE = "no_evidence"


OF_OTHERS = frozenset(  # may come from another controller's data; `provider_block` is dispatch-svc's
    (Against.OTHER_CONTROLLER.value, Against.ERASED.value, Against.CONSENT_UNREADABLE.value, "provider_block")
)


class OnRecord(Protocol):
    """A subject's published state. `unreadable`: a record of the subject could not be read."""

    @property
    def consents(self) -> tuple[Consent, ...]: ...
    @property
    def suppressions(self) -> tuple[Suppression, ...]: ...
    @property
    def erased(self) -> bool: ...
    @property
    def unreadable(self) -> bool: ...


def denials(subject: OnRecord | None, sender_id: str, purpose: str | None, at: datetime) -> Iterator[Against]:
    """Yield every reason against a message at `at` (aware). `None`: no published state."""
    if subject is None:
        yield Against.NO_CONSENT
        return
    if subject.unreadable:
        yield Against.CONSENT_UNREADABLE
    if subject.erased:
        yield Against.ERASED
    consent = consent_for(subject.consents, sender_id, purpose)
    if consent is None:
        yield Against.NO_CONSENT
        if any(c.state == "opted_in" and c.sender_id != sender_id for c in subject.consents):
            yield Against.OTHER_CONTROLLER
    elif (denial := _denial(consent, at)) is not None:
        yield denial
    # the states already include suppressions; the rule checks again
    if subject.suppressions and suppressed(subject.suppressions, sender_id, consent):
        yield Against.SUPPRESSED


def told(reasons: Iterable[str]) -> tuple[str, ...]:
    """Return the reasons against a message as the message's sender may see them.

    A reason of OF_OTHERS shows only where no other explains the denial. Marketing to a person unknown to the sender is
    always denied for another reason, so the sender learns nothing of what other controllers hold.
    """
    every = tuple(reasons)
    return tuple(reason for reason in every if reason not in OF_OTHERS) or every


def _denial(consent: Consent, at: datetime) -> Against | None:
    match state_at(consent, at):
        case "opted_in":
            return None if consent.evidence_id and consent.basis is not None else Against.NO_EVIDENCE
        case "opted_out":
            return Against.OPTED_OUT
        case "pending":
            return Against.CONSENT_PENDING
        case "expired":
            return Against.CONSENT_EXPIRED
        case _:
            return Against.NO_CONSENT


def consent_for(consents: Sequence[Consent], sender_id: str, purpose: str | None) -> Consent | None:
    for consent in consents:
        if consent.sender_id == sender_id and consent.purpose == purpose:
            return consent
    return None


def state_at(consent: Consent, at: datetime) -> State:
    """Return the state at `at`. An opt-in ends at `expires_at`, whether or not the expiry is published."""
    if consent.state == "opted_in" and consent.expires_at is not None and at >= consent.expires_at:
        return "expired"
    return consent.state


def suppressed(suppressions: Sequence[Suppression], sender_id: str, consent: Consent | None) -> bool:
    """Return whether a suppression covers the sender and is not older than the consent."""
    return any(
        s.sender_id in (None, sender_id) and (consent is None or s.since >= consent.occurred_at) for s in suppressions
    )
