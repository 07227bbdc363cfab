"""The command line checks bundles by their description alone, and finds what consent-svc's own check finds."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from common.privacy.signing import PublicKeys, SigningKeys
from common.settings import KeyRingSettings
from consent.ledger.chain import GENESIS, chained, erased
from placet_cli import bundle
from tests.unit.consent.bundles import bundle_of, campaign_of, chain_of, keys, message, subject_line, whole
from tests.unit.consent.evidences import at, opt_in

SEED = "cXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXE="
strangers = SigningKeys(KeyRingSettings.model_validate({"current": "p1", "keys": {"p1": SEED}}))
published = bundle.keys_of(keys.jwks)


def why(file: bytes, trusted: bundle.Keys | None = published) -> str:
    return "\n".join(said for _, said in bundle.check(file.splitlines(keepends=True), trusted).problems)


def test_a_bundle_of_consent_svc_holds() -> None:
    report = bundle.check(whole().splitlines(keepends=True), published)
    assert report.problems == []
    assert (report.subjects, report.entries, report.signed_by) == (1, 3, {"p1"})
    entries = chain_of()
    assert why(campaign_of(subject_line(entries), entries, [message(3)])) == ""
    gone = [erased(entry) for entry in entries]
    assert why(bundle_of(subject_line(gone), gone)) == ""


def test_a_changed_byte_anywhere_is_found() -> None:
    """Every seventh byte, in each of its places over the lines: consent-svc's own test goes through all."""
    file = whole()
    missed = []
    for place in range(0, len(file), 7):
        other = bytearray(file)
        other[place] ^= 1
        if not why(bytes(other)):
            missed.append(place)
    assert missed == []


@pytest.mark.parametrize(
    ("position", "changes"),
    [
        (1, {"text_shown": "Oui"}),
        (1, {"purpose": "loyalty"}),
        (2, {"occurred_at": at(0)}),
        (3, {"evidence_id": "ev-other"}),
    ],
)
def test_an_entry_rewritten_by_the_signer_breaks_the_chain(position: int, changes: dict[str, Any]) -> None:
    entries = chain_of()
    touched = entries[position - 1]
    entries[position - 1] = replace(touched, evidence=replace(touched.evidence, **changes))
    assert "the chain does not hold" in why(bundle_of(subject_line(entries), entries))


def test_entries_left_out_and_rewritten_with_their_hash_are_missed() -> None:
    entries = chain_of()
    for left in ([0, 1], [1, 2], [0, 2, 1], []):
        assert "the chain does not" in why(bundle_of(subject_line(entries), [entries[place] for place in left]))
    entries[0] = chained("s1-00", "s1-00", 1, opt_in(0, text_shown="Non"), entries[0].recorded_at, GENESIS, "5a" * 16)
    assert "the chain does not hold" in why(bundle_of(subject_line(entries), entries))


def test_a_receipt_of_another_entry_is_found() -> None:
    lines = whole().splitlines(keepends=True)
    first, second = json.loads(lines[5]), json.loads(lines[6])
    lines[5] = lines[5].replace(first["receipt"].encode(), second["receipt"].encode())
    assert "the receipt does not match the entry" in why(b"".join(lines))


def test_a_stranger_is_believed_only_without_our_keys() -> None:
    forged = bundle_of(subject_line(chain_of()), chain_of(), by=strangers)
    assert why(forged, None) == ""
    assert "the signature does not hold" in why(forged)


def test_a_file_cut_short_or_prolonged_does_not_hold() -> None:
    lines = whole().splitlines(keepends=True)
    assert "cut short" in why(b"".join(lines[:-1]))
    assert "follows the end" in why(b"".join([*lines, lines[2]]))


@pytest.mark.parametrize(
    "file", [b"", b"\n", b"{}\n", b"[]\n", b"\xff\n", b'{"line":"end","signature":7}\n', b"[" * 9_000]
)
def test_what_is_no_bundle_does_not_hold(file: bytes) -> None:
    assert why(file) != ""


@pytest.mark.parametrize(
    "jwks", [[], {}, {"keys": [{}]}, {"keys": [{"crv": "Ed25519", "kid": "p1", "kty": "OKP", "x": "é"}]}]
)
def test_what_is_no_key_set_is_refused(jwks: Any) -> None:
    with pytest.raises(bundle.NoKeys):
        bundle.keys_of(jwks)


def test_the_keys_thumbprints_are_those_that_consent_svc_tells() -> None:
    assert {kid: thumb for kid, (_, thumb) in published.items()} == PublicKeys(
        json.loads(json.dumps(keys.jwks))
    ).thumbprints
