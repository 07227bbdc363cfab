"""Take out of a decision the knowledge of the person that only other senders have. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from common.contracts import consent_rule
from dispatch.messages.reasons import Reason


def disclosed(facts: str | None, reasons: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the decision record and the reasons of a message as its sender may see them.

    A person known to other senders alone is shown as an unknown person: another sender's opt-in, review, unreadable
    state, erasure or blocked message would tell that the platform knows the number. A record that cannot be read is not
    shown.
    """
    try:
        record = msgspec.json.decode(facts or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        record = {}
    told = record.get("told", {})
    person = record.get("person", {})
    hidden = set() if "consent" in person else {Reason.UNDER_REVIEW}
    shown = _left(told.get("reasons", ()), hidden)
    person.pop("elsewhere", None)
    if "consent" not in person:
        person.pop("held", None)
    if "consent" not in person or Reason.CONSENT_UNREADABLE not in shown:
        person.pop("unreadable", None)
    if "consent" not in person or Reason.ERASED not in shown:
        person.pop("erased", None)
    if Reason.ERASED not in shown:
        record.pop("erased", None)
    if Reason.PROVIDER_BLOCK not in shown:
        record.pop("blocked", None)
    if not person:
        record.pop("person", None)
    if "reasons" in told:
        told["reasons"] = shown
    return msgspec.json.encode(record).decode() if record else None, _left(reasons, hidden)


def _left(reasons: Sequence[str], hidden: set[Reason]) -> list[str]:
    return list(consent_rule.told(reason for reason in reasons if reason not in hidden))
