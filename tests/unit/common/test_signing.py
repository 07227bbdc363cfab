"""A signature holds for what was signed, by a key that was published, and for nothing else."""

import base64
import json
import string
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from common.privacy.signing import Forged, PublicKeys, SigningKeys
from common.settings import KeyRingSettings

PAYLOAD = b'{"purpose":"promotions"}'


def seed(key_id: str) -> bytes:
    return key_id.encode().ljust(32, b"-")


def ring(current: str, *others: str) -> KeyRingSettings:
    """Each key's bytes are made of its id."""
    keys = {key_id: base64.b64encode(seed(key_id)).decode() for key_id in (current, *others)}
    return KeyRingSettings.model_validate({"current": current, "keys": keys})


def public_half(key_id: str) -> str:
    raw = Ed25519PrivateKey.from_private_bytes(seed(key_id)).public_key().public_bytes_raw()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


keys = SigningKeys(ring("p1"))
published = PublicKeys(keys.jwks)
TOKEN = keys.sign(PAYLOAD, "placet-receipt")


@given(st.binary())
def test_what_is_signed_is_read_back(payload: bytes) -> None:
    assert published.verified(keys.sign(payload, "placet-receipt"), "placet-receipt") == payload


def test_the_same_payload_has_the_same_signature_for_ever() -> None:
    """Frozen: receipts are not kept, they are signed again."""
    assert SigningKeys(ring("p1")).sign(PAYLOAD, "placet-receipt") == TOKEN
    assert TOKEN == (
        "eyJhbGciOiJFZERTQSIsImtpZCI6InAxIiwidHlwIjoicGxhY2V0LXJlY2VpcHQifQ"
        ".eyJwdXJwb3NlIjoicHJvbW90aW9ucyJ9"
        ".0cwqJ7Ykfw1dH4H-lpnOXxi-bjDeSCXTdVNoN7_SLzKoP_DCJRG5N4itvUCigR4pvkKv-IwYxAyAZgwI15iICQ"
    )


@pytest.mark.parametrize("at", range(len(TOKEN)))
def test_one_changed_character_is_found_wherever_it_is(at: int) -> None:
    """The spare bits of base64 as well, and characters that Python's own reader would step over: PyJWT refuses both."""
    for other in string.ascii_letters + string.digits + "_-.=+/ \n\x00é":
        if other != TOKEN[at]:
            with pytest.raises(Forged):
                published.verified(TOKEN[:at] + other + TOKEN[at + 1 :], "placet-receipt")


@given(st.text())
def test_anything_else_is_forged(token: str) -> None:
    with pytest.raises(Forged):
        published.verified(token, "placet-receipt")


def test_a_signature_of_one_kind_never_passes_for_another() -> None:
    with pytest.raises(Forged, match="no placet-bundle"):
        published.verified(TOKEN, "placet-bundle")


def test_another_key_under_the_same_name_does_not_pass() -> None:
    stranger = KeyRingSettings.model_validate({"current": "p1", "keys": {"p1": ring("p2").keys["p2"]}})
    with pytest.raises(Forged):
        PublicKeys(SigningKeys(stranger).jwks).verified(TOKEN, "placet-receipt")


def test_the_key_set_shows_no_private_half_and_can_be_read_by_any_library() -> None:
    (jwk,) = keys.jwks["keys"]
    assert jwk == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": public_half("p1"),
        "kid": "p1",
        "use": "sig",
        "alg": "EdDSA",
    }


def test_what_a_rotated_or_retired_key_signed_still_holds() -> None:
    for after in (SigningKeys(ring("p2", "p1")), SigningKeys(ring("p2"), {"p1": public_half("p1")})):
        assert [jwk["kid"] for jwk in after.jwks["keys"]] == ["p1", "p2"]
        assert PublicKeys(after.jwks).verified(TOKEN, "placet-receipt") == PAYLOAD
        assert (
            json.loads(base64.urlsafe_b64decode(after.sign(b"", "placet-receipt").partition(".")[0] + "=="))["kid"]
            == "p2"
        )


def test_a_key_cannot_be_retired_and_sign() -> None:
    with pytest.raises(ValueError, match="'p1' is retired and in the ring"):
        SigningKeys(ring("p1"), {"p1": public_half("p1")})


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused_and_not_shown(length: int) -> None:
    text = base64.b64encode(b"s" * length).decode()
    with pytest.raises(ValueError, match=f"{length} bytes, not 32") as refused:
        SigningKeys(KeyRingSettings.model_validate({"current": "p1", "keys": {"p1": text}}))
    assert not text or text not in str(refused.value)
    with pytest.raises(ValueError, match=f"{length} bytes, not 32"):
        SigningKeys(ring("p1"), {"p0": text})


@pytest.mark.parametrize(
    "jwks",
    [{}, {"keys": None}, {"keys": []}, {"keys": ["p1"]}, {"keys": [{}]}, {"keys": [{"kty": "RSA", "kid": "r1"}]}]
    + [{"keys": [keys.jwks["keys"][0] | change]} for change in ({"x": "AA"}, {"x": 1}, {"kty": "EC"}, {"d": "AA"})]
    + [{"keys": [{k: v for k, v in keys.jwks["keys"][0].items() if k != left_out}]} for left_out in ("x", "kid")],
)
def test_what_is_no_key_set_is_refused(jwks: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="JWK set"):
        PublicKeys(jwks)
