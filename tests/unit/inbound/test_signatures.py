"""Every signature scheme: the published vectors, and what each refuses. One harness, the signers of
tests/operators/signing.py."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from msgspec import structs

from inbound.providers import PROVIDERS, Account, Callback, NotGenuine, Once, Unreadable, genuine, messagebird, vonage
from tests.operators import FOLDER, body
from tests.operators.signing import (
    OLD_SECRET,
    PUBLIC_URL,
    SCHEMES,
    SECRET,
    Scheme,
    jwt,
    plivo_v2,
    plivo_v3,
    public_half,
    standard,
    vonage_sms,
    whsec,
)

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
VECTORS: list[dict[str, Any]] = json.loads((FOLDER / "signature-vectors.json").read_text())
FORM = b"From=%2B33639980001&To=36111&Text=STOP+%26+%3D&Empty="
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=[scheme.name for scheme in SCHEMES])


def verified(scheme: Scheme, callback: Callback, *secrets: str, now: datetime = NOW) -> Once | None:
    return genuine(callback, scheme.account(*(secrets or (SECRET,))), now)


def test_every_provider_that_signs_has_a_scheme() -> None:
    assert {scheme.provider for scheme in SCHEMES} == {
        name for name, provider in PROVIDERS.items() if provider.signing != "never"
    }


@every_scheme
def test_what_the_provider_signs_is_genuine(scheme: Scheme) -> None:
    once = verified(scheme, scheme.sign(SECRET, FORM, NOW, "n-1"))

    assert (once is not None) == scheme.nonced


@every_scheme
def test_either_secret_is_good_during_a_rotation(scheme: Scheme) -> None:
    callback = scheme.sign(OLD_SECRET, FORM, NOW, "n-1")

    verified(scheme, callback, SECRET, OLD_SECRET)
    with pytest.raises(NotGenuine):
        verified(scheme, callback, SECRET)


@every_scheme
def test_any_flipped_bit_of_the_body_is_refused(scheme: Scheme) -> None:
    callback = scheme.sign(SECRET, FORM, NOW, "n-1")
    changed = [
        structs.replace(
            callback, body=callback.body[:i] + bytes([callback.body[i] ^ 1 << bit]) + callback.body[i + 1 :]
        )
        for i in range(len(callback.body))
        for bit in range(8)
    ]
    accepted = [other for other in changed if _is_genuine(scheme, other)]

    if scheme.covers_body:
        assert [other for other in accepted if _differs(callback, other)] == []
    else:
        assert len(accepted) == len(changed)  # that is why its nonce counts: see the next tests


def _differs(one: Callback, other: Callback) -> bool:
    """Whether two forms say something else: %2b is %2B, and the case of Vonage's hexadecimal is free."""
    return _said(one.body) != _said(other.body)


def _said(raw: bytes) -> list[tuple[str, str]]:
    pairs = parse_qsl(raw.decode("utf-8", "surrogateescape"), keep_blank_values=True, errors="surrogateescape")
    return sorted((name, value.lower() if name == "sig" else value) for name, value in pairs)


def _is_genuine(scheme: Scheme, callback: Callback, now: datetime = NOW) -> bool:
    try:
        verified(scheme, callback, now=now)
    except (NotGenuine, Unreadable):
        return False
    return True


@every_scheme
def test_no_header_can_be_changed_or_left_out(scheme: Scheme) -> None:
    callback = scheme.sign(SECRET, FORM, NOW, "n-1")

    for name, value in callback.headers.items():
        without = {other: given for other, given in callback.headers.items() if other != name}
        assert not _is_genuine(scheme, structs.replace(callback, headers=without)), f"without {name}"
        assert not _is_genuine(scheme, structs.replace(callback, headers={**without, name: ""})), f"empty {name}"
        for place in (0, len(value) // 2, len(value) - 3):
            other = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
            changed = structs.replace(callback, headers={**without, name: other})
            assert not _is_genuine(scheme, changed), f"{name} at {place}"


@every_scheme
def test_a_signature_that_is_no_text_of_its_alphabet_is_only_wrong(scheme: Scheme) -> None:
    callback = scheme.sign(SECRET, FORM, NOW, "n-1")

    for name in callback.headers:
        for odd in ("é", "=", "\x00", "....", "a.b.c", "e30.e30.", "Bearer é.é.é", "v1,", "v1,é"):
            assert not _is_genuine(scheme, structs.replace(callback, headers={**callback.headers, name: odd}))


@every_scheme
@pytest.mark.parametrize("off_s", [-301, 301, -86_400, 86_400])
def test_what_was_signed_more_than_five_minutes_away_is_refused(scheme: Scheme, off_s: int) -> None:
    callback = scheme.sign(SECRET, FORM, NOW + timedelta(seconds=off_s), "n-1")

    assert _is_genuine(scheme, callback) != scheme.timed


@every_scheme
@pytest.mark.parametrize("off_s", [-300, 300])
def test_five_minutes_either_way_are_allowed(scheme: Scheme, off_s: int) -> None:
    assert _is_genuine(scheme, scheme.sign(SECRET, FORM, NOW + timedelta(seconds=off_s), "n-1"))


@every_scheme
def test_a_second_use_of_a_nonce_is_recognised_for_as_long_as_it_would_be_believed(scheme: Scheme) -> None:
    first = verified(scheme, scheme.sign(SECRET, FORM, NOW, "n-1"))
    again = verified(scheme, scheme.sign(SECRET, FORM, NOW, "n-1"))
    another = verified(scheme, scheme.sign(SECRET, FORM + b"&x=1", NOW + timedelta(seconds=1), "n-2"))

    assert first == again
    if first is not None and another is not None:
        assert first.nonce != another.nonce
        last_believed = NOW + timedelta(minutes=5)
        assert first.forget_after >= last_believed


def test_what_is_signed_for_another_url_is_refused_whatever_the_host_header_says() -> None:
    for scheme in SCHEMES:
        if PROVIDERS[scheme.provider].signs_url:
            callback = scheme.sign(SECRET, FORM, NOW, "n-1")
            elsewhere = replace(scheme.account(SECRET), public_url="https://attacker.example.org")
            with_host = structs.replace(callback, headers={**callback.headers, "host": "sms.example.org"})
            with pytest.raises(NotGenuine):
                genuine(with_host, elsewhere, NOW)


def test_a_plivo_v3_signature_is_not_passed_over_for_a_v2_that_is_right() -> None:
    older = plivo_v2(SECRET, FORM, NOW, "n-1")
    both = structs.replace(
        older, headers={**older.headers, "x-plivo-signature-v3": "bm8=", "x-plivo-signature-v3-nonce": "n-1"}
    )

    with pytest.raises(NotGenuine, match="signature_wrong"):
        genuine(both, Account("plivo", "main", (SECRET,), PUBLIC_URL), NOW)


def test_one_right_signature_of_several_is_enough() -> None:
    event = standard(SECRET, FORM, NOW, "n")
    several = {**event.headers, "webhook-signature": f"v1a,bm8= v1,bm8= {event.headers['webhook-signature']} v2,bm8="}
    genuine(structs.replace(event, headers=several), Account("standard", "main", (whsec(SECRET),)), NOW)

    form = plivo_v3(SECRET, FORM, NOW, "n")
    by_commas = {**form.headers, "x-plivo-signature-v3": f"bm8=, {form.headers['x-plivo-signature-v3']}"}
    genuine(structs.replace(form, headers=by_commas), Account("plivo", "main", (SECRET,), PUBLIC_URL), NOW)

    main_account = {"x-plivo-signature-ma-v3": form.headers["x-plivo-signature-v3"], "x-plivo-signature-v3-nonce": "n"}
    genuine(structs.replace(form, headers=main_account), Account("plivo", "main", (SECRET,), PUBLIC_URL), NOW)

    older = plivo_v2(SECRET, FORM, NOW, "n")
    of_both = {
        "x-plivo-signature-v2": "bm8=",
        "x-plivo-signature-ma-v2": older.headers["x-plivo-signature-v2"],
        "x-plivo-signature-v2-nonce": "n",
    }
    genuine(structs.replace(older, headers=of_both), Account("plivo", "main", (SECRET,), PUBLIC_URL, scheme="v2"), NOW)


def test_plivo_v2_is_not_believed_where_v3_is_configured() -> None:
    """Who strips V3 would be left with a signature that does not cover the body."""
    with pytest.raises(NotGenuine, match="signature_missing"):
        genuine(plivo_v2(SECRET, FORM, NOW, "n"), Account("plivo", "main", (SECRET,), PUBLIC_URL), NOW)


@pytest.mark.parametrize("digest", ["md5", "sha1", "sha512"])
def test_vonage_signs_as_the_account_says_and_not_as_the_callback_is_long(digest: str) -> None:
    callback = vonage_sms(digest, SECRET, FORM, NOW, "n")

    genuine(callback, Account("vonage", "main", (SECRET,), scheme=digest), NOW)
    with pytest.raises(NotGenuine, match="signature_wrong"):
        genuine(callback, Account("vonage", "main", (SECRET,)), NOW)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_check_of_a_vonage_url_says_nothing_and_is_answered(method: str) -> None:
    check = Callback("/v1/callbacks/vonage/main/messages", {}, b"", method)

    assert genuine(check, Account("vonage", "main", (SECRET,)), NOW) is None
    assert [*vonage.parse_messages(check), *vonage.parse_receipts(check)] == []
    with pytest.raises(NotGenuine, match="signature_missing"):
        genuine(
            structs.replace(check, target=f"{check.target}?text=STOP", method="GET"),
            Account("vonage", "main", (SECRET,)),
            NOW,
        )


def test_two_fields_of_vonage_cannot_be_passed_off_as_one() -> None:
    fields = {"msisdn": "1", "text": "STOP"}

    assert vonage.canonical(fields) != vonage.canonical({"msisdn=1&text": "STOP"})


def test_plivo_v2_and_v3_share_their_nonces() -> None:
    account = Account("plivo", "main", (SECRET,), PUBLIC_URL, scheme="v2")

    assert genuine(plivo_v2(SECRET, FORM, NOW, "n"), account, NOW) == genuine(
        plivo_v3(SECRET, FORM, NOW, "n"), account, NOW
    )


@pytest.mark.parametrize("algorithm", ["none", "HS512", "RS256", ""])
def test_a_token_of_another_algorithm_is_refused(algorithm: str) -> None:
    claims = {"iat": int(NOW.timestamp()), "jti": "n", "payload_hash": hashlib.sha256(FORM).hexdigest()}
    headers = {"authorization": f"Bearer {jwt(SECRET.encode(), claims, algorithm)}"}

    with pytest.raises(NotGenuine, match="signature_wrong"):
        genuine(Callback("/", headers, FORM), Account("vonage-messages", "main", (SECRET,)), NOW)


@pytest.mark.parametrize(
    "change", [{"payload_hash": None}, {"payload_hash": 7}, {"iat": None}, {"iat": "now"}, {"iat": True}]
)
def test_a_token_without_its_claims_is_refused(change: dict[str, object]) -> None:
    claims = {"iat": int(NOW.timestamp()), "jti": "n", "payload_hash": hashlib.sha256(FORM).hexdigest(), **change}
    headers = {"authorization": f"Bearer {jwt(SECRET.encode(), claims)}"}

    with pytest.raises(NotGenuine):
        genuine(Callback("/", headers, FORM), Account("vonage-messages", "main", (SECRET,)), NOW)


def test_a_receipt_by_get_has_no_payload_hash_and_its_url_counts() -> None:
    target = "/v1/callbacks/messagebird/main/receipts?" + body("messagebird/receipt-opted-out.query").decode()
    claims = {
        "nbf": int(NOW.timestamp()),
        "jti": "n",
        "url_hash": hashlib.sha256((PUBLIC_URL + target).encode()).hexdigest(),
    }
    headers = {"messagebird-signature-jwt": jwt(SECRET.encode(), claims)}
    account = Account("messagebird", "main", (SECRET,), PUBLIC_URL)

    genuine(Callback(target, headers, b"", method="GET"), account, NOW)
    with pytest.raises(NotGenuine):
        genuine(Callback(target + "&status=delivered", headers, b"", method="GET"), account, NOW)
    with pytest.raises(NotGenuine):
        genuine(Callback(target, headers, b"status=delivered"), account, NOW)


# The published vectors


def as_callback(vector: Mapping[str, Any]) -> tuple[Callback, Account, datetime]:
    """A vector as the request it was taken from, and when it was right."""
    given: dict[str, Any] = vector["input"]
    expected, name = vector["expected"], vector["provider"]
    secret = str(given.get("token") or given.get("secret") or given.get("public_key_b64"))
    url = urlsplit(given.get("url", "https://sms.example.org/"))
    target = url.path + (f"?{url.query}" if url.query else "")
    raw = given.get("body", urlencode([(name, value) for name, value in given.get("params", [])])).encode()
    account = Account(name, "main", (secret,), f"{url.scheme}://{url.netloc}")
    at, headers = NOW, {}
    match name, vector["scheme"]:
        case "twilio", _:
            headers = {"x-twilio-signature": expected}
        case "sinch", _:
            at = datetime.fromtimestamp(int(given["timestamp"]), UTC)
            headers = {
                "x-sinch-webhook-signature": expected,
                "x-sinch-webhook-signature-nonce": given["nonce"],
                "x-sinch-webhook-signature-timestamp": given["timestamp"],
                "x-sinch-webhook-signature-algorithm": "HmacSHA256",
            }
        case "plivo", scheme:
            version = "v2" if "url_without_query" in scheme else "v3"
            account = replace(account, scheme=version)
            headers = {f"x-plivo-signature-{version}": expected, f"x-plivo-signature-{version}-nonce": given["nonce"]}
        case "telnyx", _:
            at = datetime.fromtimestamp(int(given["timestamp"]), UTC)
            headers = {"telnyx-signature-ed25519": expected, "telnyx-timestamp": given["timestamp"]}
        case "vonage", scheme:
            named = {32: "md5hash" if scheme.startswith("md5hex") else "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
            account = replace(account, scheme=named[len(expected)])
            fields = {**json.loads(raw), "sig": expected}
            at = datetime.fromtimestamp(int(fields["timestamp"]), UTC)
            raw, headers = json.dumps(fields).encode(), {"content-type": "application/json"}
            assert vonage.canonical(fields) == given["string"]
        case "vonage-messages-jwt", _:
            account = replace(account, provider="vonage-messages")
            at, headers = datetime.fromtimestamp(1767225600, UTC), {"authorization": f"Bearer {expected}"}
        case "messagebird", _:
            at, headers = datetime.fromtimestamp(1767225600, UTC), {"messagebird-signature-jwt": expected}
    return Callback(target, headers, raw), account, at


@pytest.mark.parametrize(
    "vector", VECTORS, ids=[f"{i} {v['provider']} {v['scheme'][:40]}" for i, v in enumerate(VECTORS)]
)
def test_a_published_signature_is_genuine_and_with_another_secret_it_is_not(vector: Mapping[str, Any]) -> None:
    callback, account, at = as_callback(vector)

    genuine(callback, account, at)

    other = public_half("x") if account.provider == "telnyx" else "another secret than the one it was"
    with pytest.raises(NotGenuine):
        genuine(callback, replace(account, secrets=(other,)), at)


def test_all_seventeen_vectors_are_here() -> None:
    assert len(VECTORS) == 17
    assert messagebird.signing == "always"
