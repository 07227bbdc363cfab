"""A receipt says what the ledger says, in the standard's words, and nothing that could name the person."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from common.privacy.signing import Forged, PublicKeys, SigningKeys
from common.settings import KeyRingSettings
from consent.ledger.chain import GENESIS, Entry, chained
from consent.ledger.rules import Evidence
from consent.proof import receipt as proof
from consent.proof.receipt import Party
from tests.support.running import SIGNING_RING
from tests.unit.consent.bundles import PARTIES, party
from tests.unit.consent.evidences import at, opt_in, opt_out, stop

keys = SigningKeys(KeyRingSettings.model_validate(SIGNING_RING))
published = PublicKeys(keys.jwks)


def entry(evidence: Evidence) -> Entry:
    return chained("s1-00", "s1-00", 1, evidence, at(5), GENESIS, "5a" * 16)


def test_the_receipt_of_an_opt_in_names_all_that_the_standard_asks_for() -> None:
    of = entry(opt_in(0, form_id="checkout", form_version="7"))
    assert proof.read_receipt(proof.receipt(of, party(), keys), published) == {
        "schema_version": "ISO/IEC TS 27560:2023",
        "profile": "placet-receipt-1",
        "record_id": of.evidence.evidence_id,
        "pii_principal_id": "s1-00",
        "purposes": [
            {
                "purpose": "promotions",
                "purpose_description": "Nos offres par SMS",
                "lawful_basis": "opt_in",
                "pii_controllers": ["acme"],
                "withdrawal_method": "STOP by SMS to 36111",
                "pii_information": [{"pii_type": "mobile telephone number"}],
                "collection_method": "shop",
            }
        ],
        "party_identification": [
            {
                "party_id": "acme",
                "party_role": "PII controller",
                "party_name": "ACME SAS",
                "party_contact": "contact@acme.example",
                "party_country": "FR",
                "brand": "Acme",
                "controller": "acme-group",
                "sender_version": 1,
            }
        ],
        "events": [
            {
                "event_time": "2026-03-02T12:00:00.000000Z",
                "event_type": "opt_in",
                "event_state": "given",
                "entity_id": "s1-00",
            }
        ],
        "ledger": {
            "position": 1,
            "received_at": "2026-03-02T12:00:00.000000Z",
            "recorded_at": "2026-03-02T12:05:00.000000Z",
            "sealed": of.sealed,
            "hash": of.hash,
        },
    }


def test_an_opt_out_of_everyone_names_no_controller_and_no_purpose() -> None:
    (withdrawn,) = json.loads(proof.record(entry(opt_out(0, sender_id=None)), None))["purposes"]
    assert (withdrawn["pii_controllers"], withdrawn["purpose"]) == ([], None)


def test_what_was_shown_and_who_took_it_down_are_proven_and_not_told() -> None:
    said = opt_in(0, text_shown="Oui, je veux", actor="agent-12", sale_reference="F-2026-1")
    told = json.dumps(proof.read_receipt(proof.receipt(entry(said), party(), keys), published))
    assert not any(secret in told for secret in ("Oui, je veux", "agent-12", "F-2026-1"))
    assert proof.receipt(entry(said), party(), keys) != proof.receipt(entry(opt_in(0, text_shown="Non")), party(), keys)


def test_the_receipt_of_a_line_is_the_same_whenever_it_is_asked_for() -> None:
    assert proof.receipt(entry(stop(0)), None, keys) == proof.receipt(entry(stop(0)), None, SigningKeys(_ring()))


def test_the_words_are_those_that_were_in_force_when_it_was_recorded() -> None:
    def recorded(minutes: float, **changes: Any) -> Party | None:
        return proof.in_force(PARTIES, replace(entry(opt_in(0, **changes)), recorded_at=at(minutes)))

    assert recorded(12) == PARTIES[0]
    assert recorded(13) == PARTIES[1]
    assert recorded(-61) is None
    assert recorded(13, sender_id="zenith") is None


def test_a_signature_over_something_else_is_no_receipt() -> None:
    with pytest.raises(Forged, match="no placet-receipt"):
        proof.read_receipt(keys.sign(b"{}", "placet-bundle"), published)
    for nonsense in (b"[]", b"receipt", b"\xff"):
        with pytest.raises(Forged, match="no receipt"):
            proof.read_receipt(keys.sign(nonsense, "placet-receipt"), published)


def _ring() -> KeyRingSettings:
    return KeyRingSettings.model_validate(SIGNING_RING)
