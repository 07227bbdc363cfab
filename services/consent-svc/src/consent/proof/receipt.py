"""What is signed of one line of the ledger: a consent receipt, after ISO/IEC TS 27560:2023. Pure.

The names are the standard's, the values ours (docs/proof.md says which). `ledger` is what the standard has no room for:
the entry's place in the subject's chain and its hash, which stands for every other field of it. What a person was shown
or wrote is therefore proven by the receipt without being in it.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import msgspec

from common.contracts.consent import Purpose
from common.privacy.signing import Forged, PublicKeys, SigningKeys, Type
from consent.ledger.chain import Entry, canonical

SCHEMA = "ISO/IEC TS 27560:2023"
PROFILE = "placet-receipt-1"  # of that schema, ours
RECEIPT: Final[Type] = "placet-receipt"
EVENT_STATES = {  # what each kind of evidence made of the consent it names, in the standard's words
    "opt_in": "given",
    "opt_out": "withdrawn",
    "request": "requested",
    "expiry": "expired",
    "contact": "unchanged",
    "correction": "unchanged",
}


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """A sender as it was registered from one instant on: who asks for consent, and in which words. Each of its versions
    is one."""

    sender_id: str
    version: int
    in_force_from: datetime
    controller: str
    legal_name: str
    brand: str
    contact: str
    country: str
    stop_code: str
    purposes: tuple[Purpose, ...]

    def wording(self, purpose: str | None) -> str | None:
        return next((p.wording for p in self.purposes if p.id == purpose), None)


def in_force(versions: Iterable[Party], entry: Entry) -> Party | None:
    """The version of the entry's sender that was in force when it was recorded. None: every sender's, or not known."""
    then = [v for v in versions if v.sender_id == entry.evidence.sender_id and v.in_force_from <= entry.recorded_at]
    return max(then, key=lambda v: v.version, default=None)


def record(entry: Entry, sender: Party | None) -> bytes:
    """The payload of the receipt of `entry`, as canonical JSON. No number, no free text: who it is of is a keyed hash.
    `sender`: as it was in force then.

    `purpose` null is all purposes of the controller, no controller at all is every sender.
    """
    said = entry.evidence
    written = {
        "schema_version": SCHEMA,
        "profile": PROFILE,
        "record_id": said.evidence_id,
        "pii_principal_id": entry.subject_id,
        "purposes": [
            {
                "purpose": said.purpose,
                "purpose_description": sender.wording(said.purpose) if sender else None,
                "lawful_basis": said.basis,
                "pii_controllers": [said.sender_id] if said.sender_id else [],
                "withdrawal_method": f"STOP by SMS to {sender.stop_code}" if sender else None,
                "pii_information": [{"pii_type": "mobile telephone number"}],
                "collection_method": said.source,
            }
        ],
        "party_identification": [_party(sender)] if sender else [],
        "events": [
            {
                "event_time": said.occurred_at,
                "event_type": said.kind,
                "event_state": EVENT_STATES[said.kind],
                "entity_id": entry.subject_id,
            }
        ],
        "ledger": {
            "position": entry.position,
            "received_at": said.received_at,
            "recorded_at": entry.recorded_at,
            "sealed": entry.sealed,
            "hash": entry.hash,
            **({"corrects": said.corrects} if said.corrects else {}),
        },
    }
    return canonical(written)


def receipt(entry: Entry, sender: Party | None, keys: SigningKeys) -> str:
    """The signed receipt of `entry`, a compact JWS: the same for ever while the same key signs."""
    return keys.sign(record(entry, sender), RECEIPT)


def read_receipt(token: str, keys: PublicKeys) -> dict[str, Any]:
    """What the receipt says. Raises Forged."""
    try:
        read = json.loads(keys.verified(token, RECEIPT))
    except ValueError as error:
        raise error if isinstance(error, Forged) else Forged("no receipt") from error
    if not isinstance(read, dict):
        raise Forged("no receipt")
    return read


def _party(sender: Party) -> dict[str, Any]:
    return {
        "party_id": sender.sender_id,
        "party_role": "PII controller",
        "party_name": sender.legal_name,
        "party_contact": sender.contact,
        "party_country": sender.country,
        "brand": sender.brand,
        "controller": sender.controller,
        "sender_version": sender.version,
    }
