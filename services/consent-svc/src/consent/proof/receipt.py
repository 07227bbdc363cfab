"""The signed consent receipt of a ledger entry, after ISO/IEC TS 27560:2023. Pure.

The names are the standard's, except `ledger`; the values are Placet's (docs/proof.md). The entry's hash covers every
other field, so the receipt proves the text shown without containing the text.
"""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import msgspec

from common.contracts.consent import Purpose
from common.privacy.signing import Forged, PublicKeys, SigningKeys, Type
from consent.ledger.chain import Entry, canonical

SCHEMA = "ISO/IEC TS 27560:2023"
PROFILE = "placet-receipt-1"
RECEIPT: Final[Type] = "placet-receipt"
EVENT_STATES = {  # in the standard's words
    "opt_in": "given",
    "opt_out": "withdrawn",
    "request": "requested",
    "expiry": "expired",
    "contact": "unchanged",
    "correction": "unchanged",
}


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a sender's registration."""

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
    """Return the version of the entry's sender in force at recording, or None: every sender, or not known."""
    then = [v for v in versions if v.sender_id == entry.evidence.sender_id and v.in_force_from <= entry.recorded_at]
    return max(then, key=lambda v: v.version, default=None)


def record(entry: Entry, sender: Party | None) -> bytes:
    """Return the payload of the receipt, as canonical JSON. `sender`: the version in force at recording.

    The payload holds no number and no text of a person. A null `purpose` means every purpose of the controller, and no
    controller every sender.
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
    """Return the signed receipt, a compact JWS, always the same under the same key."""
    return keys.sign(record(entry, sender), RECEIPT)


def read_receipt(token: str, keys: PublicKeys) -> dict[str, object]:
    """Return the payload of a receipt. Raises Forged."""
    try:
        read = json.loads(keys.verified(token, RECEIPT))
    except ValueError as error:
        raise error if isinstance(error, Forged) else Forged("no receipt") from error
    if not isinstance(read, dict):
        raise Forged("no receipt")
    return read


def _party(sender: Party) -> dict[str, object]:
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
