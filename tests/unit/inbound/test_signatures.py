"""Every signature scheme: the published vectors, and what each refuses. One harness, a signer per scheme.

The signers are written here again from the providers' own words: a test must not share the code it tests.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inbound.providers import PROVIDERS, Account, Callback, NotGenuine, Once, Unreadable, genuine, messagebird, vonage
from tests.operators import FOLDER, body

NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
PUBLIC_URL = "https://sms.example.org"
SECRET, OLD_SECRET = "a secret of thirty-two characters", "the secret that is going to leave"
VECTORS: list[dict[str, Any]] = json.loads((FOLDER / "signature-vectors.json").read_text())

Signer = Callable[[str, bytes, datetime, str], Callback]  # secret, body, signed at, nonce


def _base64(key: bytes, signed: bytes, digest: str = "sha256") -> str:
    return base64.b64encode(hmac.new(key, signed, digest).digest()).decode()


def _jwt(key: bytes, claims: Mapping[str, object], algorithm: str = "HS256") -> str:
    def segment(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    signed = ".".join(segment(json.dumps(part).encode()) for part in ({"alg": algorithm, "typ": "JWT"}, claims))
    return f"{signed}.{segment(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def twilio(secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    target = "/v1/callbacks/twilio/main/messages"
    pairs = sorted(parse_qsl(raw.decode(), keep_blank_values=True))
    signed = PUBLIC_URL + target + "".join(name + value for name, value in pairs)
    return Callback(target, {"x-twilio-signature": _base64(secret.encode(), signed.encode(), "sha1")}, raw)


def simulator(secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    stamp = str(int(at.timestamp()))
    mac = hmac.new(secret.encode(), stamp.encode() + b"." + raw, hashlib.sha256).hexdigest()
    return Callback("/", {"placet-timestamp": stamp, "placet-signature": f"v1={mac}"}, raw)


def vonage_sms(digest: str, secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    fields = {**dict(parse_qsl(raw.decode())), "timestamp": str(int(at.timestamp())), "nonce": nonce}
    signed = "".join(f"&{name}={fields[name].replace('&', '_').replace('=', '_')}" for name in sorted(fields))
    mac = hmac.new(secret.encode(), signed.encode(), digest).hexdigest().upper()
    return Callback("/", {}, urlencode({**fields, "sig": mac}).encode())


def vonage_messages(secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    claims = {"iat": int(at.timestamp()), "jti": nonce, "payload_hash": hashlib.sha256(raw).hexdigest()}
    return Callback("/", {"authorization": f"Bearer {_jwt(secret.encode(), claims)}"}, raw)


def sinch(secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    stamp = str(int(at.timestamp()))
    headers = {
        "x-sinch-webhook-signature": _base64(secret.encode(), raw + f".{nonce}.{stamp}".encode()),
        "x-sinch-webhook-signature-timestamp": stamp,
        "x-sinch-webhook-signature-nonce": nonce,
    }
    return Callback("/", headers, raw)


def bird(secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    target = "/v1/callbacks/messagebird/main/messages?list=a%20b"
    claims = {
        "iss": "MessageBird",
        "nbf": int(at.timestamp()),
        "jti": nonce,
        "url_hash": hashlib.sha256((PUBLIC_URL + target).encode()).hexdigest(),
        "payload_hash": hashlib.sha256(raw).hexdigest(),
    }
    return Callback(target, {"messagebird-signature-jwt": _jwt(secret.encode(), claims)}, raw)


def plivo_v3(secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    target = "/v1/callbacks/plivo/main/messages?b=2&a=1"
    posted = "".join(name + value for name, value in sorted(parse_qsl(raw.decode(), keep_blank_values=True)))
    signed = f"{PUBLIC_URL}/v1/callbacks/plivo/main/messages?a=1&b=2.{posted}.{nonce}"
    mac = _base64(secret.encode(), signed.encode())
    headers = {"x-plivo-signature-v3": mac, "x-plivo-signature-v3-nonce": nonce}
    return Callback(target, headers, raw)


def plivo_v2(secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    target = "/v1/callbacks/plivo/main/messages"
    mac = _base64(secret.encode(), f"{PUBLIC_URL}{target}{nonce}".encode())
    headers = {"x-plivo-signature-v2": mac, "x-plivo-signature-v2-nonce": nonce}
    return Callback(f"{target}?a=1", headers, raw)


def _telnyx_key(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(secret.encode()).digest())


def telnyx(secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    stamp = str(int(at.timestamp()))
    mac = _telnyx_key(secret).sign(stamp.encode() + b"|" + raw)
    headers = {"telnyx-signature-ed25519": base64.b64encode(mac).decode(), "telnyx-timestamp": stamp}
    return Callback("/", headers, raw)


def standard(secret: str, raw: bytes, at: datetime, nonce: str) -> Callback:
    stamp = str(int(at.timestamp()))
    mac = _base64(secret.encode(), f"{nonce}.{stamp}.".encode() + raw)
    headers = {"webhook-id": nonce, "webhook-timestamp": stamp, "webhook-signature": f"v1,{mac}"}
    return Callback("/", headers, raw)


def public_half(secret: str) -> str:
    return base64.b64encode(_telnyx_key(secret).public_key().public_bytes_raw()).decode()


def whsec(secret: str) -> str:
    return "whsec_" + base64.b64encode(secret.encode()).decode()


def as_it_is(secret: str) -> str:
    return secret


@dataclass(frozen=True)
class Scheme:
    """`configured`: a secret as our configuration has it. `nonced`: a nonce is remembered. `timed`: a time is signed.
    `covers_body`: all but Plivo's V2 do."""

    name: str
    provider: str
    sign: Signer
    configured: Callable[[str], str] = as_it_is
    timed: bool = True
    nonced: bool = True
    covers_body: bool = True

    def account(self, *secrets: str) -> Account:
        return Account(self.provider, "main", tuple(map(self.configured, secrets)), PUBLIC_URL)

    def verify(self, callback: Callback, *secrets: str, now: datetime = NOW) -> Once | None:
        return genuine(callback, self.account(*(secrets or (SECRET,))), now)


SCHEMES = [
    Scheme("twilio", "twilio", twilio, timed=False, nonced=False),
    Scheme("simulator", "simulator", simulator, nonced=False),
    *(
        Scheme(f"vonage {digest}", "vonage", partial(vonage_sms, digest))
        for digest in ("md5", "sha1", "sha256", "sha512")
    ),
    Scheme("vonage-messages", "vonage-messages", vonage_messages),
    Scheme("sinch", "sinch", sinch),
    Scheme("messagebird", "messagebird", bird),
    Scheme("plivo V3", "plivo", plivo_v3, timed=False),
    Scheme("plivo V2", "plivo", plivo_v2, timed=False, covers_body=False),
    Scheme("telnyx", "telnyx", telnyx, public_half),
    Scheme("standard", "standard", standard, whsec),
]
FORM = b"From=%2B33639980001&To=36111&Text=STOP+%26+%3D&Empty="
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=[scheme.name for scheme in SCHEMES])


def test_every_provider_that_signs_has_a_scheme() -> None:
    assert {scheme.provider for scheme in SCHEMES} == {
        name for name, provider in PROVIDERS.items() if provider.signing != "never"
    }


@every_scheme
def test_what_the_provider_signs_is_genuine(scheme: Scheme) -> None:
    once = scheme.verify(scheme.sign(SECRET, FORM, NOW, "n-1"))

    assert (once is not None) == scheme.nonced


@every_scheme
def test_either_secret_is_good_during_a_rotation(scheme: Scheme) -> None:
    callback = scheme.sign(OLD_SECRET, FORM, NOW, "n-1")

    scheme.verify(callback, SECRET, OLD_SECRET)
    with pytest.raises(NotGenuine):
        scheme.verify(callback, SECRET)


@every_scheme
def test_any_flipped_bit_of_the_body_is_refused(scheme: Scheme) -> None:
    callback = scheme.sign(SECRET, FORM, NOW, "n-1")
    changed = [
        replace(callback, body=callback.body[:i] + bytes([callback.body[i] ^ 1 << bit]) + callback.body[i + 1 :])
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
        scheme.verify(callback, now=now)
    except (NotGenuine, Unreadable):
        return False
    return True


@every_scheme
def test_no_header_can_be_changed_or_left_out(scheme: Scheme) -> None:
    callback = scheme.sign(SECRET, FORM, NOW, "n-1")

    for name, value in callback.headers.items():
        without = {other: given for other, given in callback.headers.items() if other != name}
        assert not _is_genuine(scheme, replace(callback, headers=without)), f"without {name}"
        assert not _is_genuine(scheme, replace(callback, headers={**without, name: ""})), f"empty {name}"
        for place in (0, len(value) // 2, len(value) - 3):
            other = value[:place] + ("A" if value[place] != "A" else "B") + value[place + 1 :]
            changed = replace(callback, headers={**without, name: other})
            assert not _is_genuine(scheme, changed), f"{name} at {place}"


@every_scheme
def test_a_signature_that_is_no_text_of_its_alphabet_is_only_wrong(scheme: Scheme) -> None:
    callback = scheme.sign(SECRET, FORM, NOW, "n-1")

    for name in callback.headers:
        for odd in ("é", "=", "\x00", "....", "a.b.c", "e30.e30.", "Bearer é.é.é", "v1,", "v1,é"):
            assert not _is_genuine(scheme, replace(callback, headers={**callback.headers, name: odd}))


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
    first = scheme.verify(scheme.sign(SECRET, FORM, NOW, "n-1"))
    again = scheme.verify(scheme.sign(SECRET, FORM, NOW, "n-1"))
    another = scheme.verify(scheme.sign(SECRET, FORM + b"&x=1", NOW + timedelta(seconds=1), "n-2"))

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
            with_host = replace(callback, headers={**callback.headers, "host": "sms.example.org"})
            with pytest.raises(NotGenuine):
                genuine(with_host, elsewhere, NOW)


def test_a_plivo_v3_signature_is_not_passed_over_for_a_v2_that_is_right() -> None:
    older = plivo_v2(SECRET, FORM, NOW, "n-1")
    both = replace(
        older, headers={**older.headers, "x-plivo-signature-v3": "bm8=", "x-plivo-signature-v3-nonce": "n-1"}
    )

    with pytest.raises(NotGenuine, match="signature_wrong"):
        genuine(both, Account("plivo", "main", (SECRET,), PUBLIC_URL), NOW)


def test_one_right_signature_of_several_is_enough() -> None:
    event = standard(SECRET, FORM, NOW, "n")
    several = {**event.headers, "webhook-signature": f"v1a,bm8= v1,bm8= {event.headers['webhook-signature']} v2,bm8="}
    genuine(replace(event, headers=several), Account("standard", "main", (whsec(SECRET),)), NOW)

    form = plivo_v3(SECRET, FORM, NOW, "n")
    by_commas = {**form.headers, "x-plivo-signature-v3": f"bm8=, {form.headers['x-plivo-signature-v3']}"}
    genuine(replace(form, headers=by_commas), Account("plivo", "main", (SECRET,), PUBLIC_URL), NOW)

    main_account = {"x-plivo-signature-ma-v3": form.headers["x-plivo-signature-v3"], "x-plivo-signature-v3-nonce": "n"}
    genuine(replace(form, headers=main_account), Account("plivo", "main", (SECRET,), PUBLIC_URL), NOW)


def test_two_fields_of_vonage_cannot_be_passed_off_as_one() -> None:
    fields = {"msisdn": "1", "text": "STOP"}

    assert vonage.canonical(fields) != vonage.canonical({"msisdn=1&text": "STOP"})


def test_plivo_v2_and_v3_share_their_nonces() -> None:
    account = Account("plivo", "main", (SECRET,), PUBLIC_URL)

    assert genuine(plivo_v2(SECRET, FORM, NOW, "n"), account, NOW) == genuine(
        plivo_v3(SECRET, FORM, NOW, "n"), account, NOW
    )


@pytest.mark.parametrize("algorithm", ["none", "HS512", "RS256", ""])
def test_a_token_of_another_algorithm_is_refused(algorithm: str) -> None:
    claims = {"iat": int(NOW.timestamp()), "jti": "n", "payload_hash": hashlib.sha256(FORM).hexdigest()}
    headers = {"authorization": f"Bearer {_jwt(SECRET.encode(), claims, algorithm)}"}

    with pytest.raises(NotGenuine, match="signature_wrong"):
        genuine(Callback("/", headers, FORM), Account("vonage-messages", "main", (SECRET,)), NOW)


@pytest.mark.parametrize(
    "change", [{"payload_hash": None}, {"payload_hash": 7}, {"iat": None}, {"iat": "now"}, {"iat": True}]
)
def test_a_token_without_its_claims_is_refused(change: dict[str, object]) -> None:
    claims = {"iat": int(NOW.timestamp()), "jti": "n", "payload_hash": hashlib.sha256(FORM).hexdigest(), **change}
    headers = {"authorization": f"Bearer {_jwt(SECRET.encode(), claims)}"}

    with pytest.raises(NotGenuine):
        genuine(Callback("/", headers, FORM), Account("vonage-messages", "main", (SECRET,)), NOW)


def test_a_receipt_by_get_has_no_payload_hash_and_its_url_counts() -> None:
    target = "/v1/callbacks/messagebird/main/receipts?" + body("messagebird/receipt-opted-out.query").decode()
    claims = {
        "nbf": int(NOW.timestamp()),
        "jti": "n",
        "url_hash": hashlib.sha256((PUBLIC_URL + target).encode()).hexdigest(),
    }
    headers = {"messagebird-signature-jwt": _jwt(SECRET.encode(), claims)}
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
            headers = {f"x-plivo-signature-{version}": expected, f"x-plivo-signature-{version}-nonce": given["nonce"]}
        case "telnyx", _:
            at = datetime.fromtimestamp(int(given["timestamp"]), UTC)
            headers = {"telnyx-signature-ed25519": expected, "telnyx-timestamp": given["timestamp"]}
        case "vonage", _:
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
