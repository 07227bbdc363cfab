"""What is signed of one line of the ledger: a consent receipt, after ISO/IEC TS 27560:2023. Pure.

The names are the standard's, the values ours (docs/proof.md says which). `ledger` is what the standard has no room for:
the entry's place in the subject's chain and its hash, which stands for every other field of it. What a person was shown
or wrote is therefore proven by the receipt without being in it.
"""

import json
from typing import Any, Final

from common.signing import Forged, PublicKeys, SigningKeys, Type
from consent.chain import Entry, canonical

SCHEMA = "ISO/IEC TS 27560:2023"
PROFILE = "placet-receipt-1"  # of that schema, ours
RECEIPT: Final[Type] = "placet-receipt"
EVENT_STATES = {  # what each kind of evidence made of the consent it names, in the standard's words
    "opt_in": "given",
    "opt_out": "withdrawn",
    "request": "requested",
    "expiry": "expired",
    "contact": "unchanged",
}


def record(entry: Entry) -> bytes:
    """The payload of the receipt of `entry`, as canonical JSON. No number, no free text: who it is of is a keyed hash.

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
                "lawful_basis": said.basis,
                "pii_controllers": [said.sender_id] if said.sender_id else [],
                "pii_information": [{"pii_type": "mobile telephone number"}],
                "collection_method": said.source,
            }
        ],
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
        },
    }
    return canonical(written)


def receipt(entry: Entry, keys: SigningKeys) -> str:
    """The signed receipt of `entry`, a compact JWS: the same for ever while the same key signs."""
    return keys.sign(record(entry), RECEIPT)


def read_receipt(token: str, keys: PublicKeys) -> dict[str, Any]:
    """What the receipt says. Raises Forged."""
    try:
        read = json.loads(keys.verified(token, RECEIPT))
    except ValueError as error:
        raise error if isinstance(error, Forged) else Forged("no receipt") from error
    if not isinstance(read, dict):
        raise Forged("no receipt")
    return read
