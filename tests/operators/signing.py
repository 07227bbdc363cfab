"""Signed as each provider signs: a signer per scheme, written from the provider's own words.

Written here again: a test must not share the code it tests.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Protocol
from urllib.parse import parse_qsl, urlencode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inbound.providers import Account, Callback

PUBLIC_URL = "https://sms.example.org"
SECRET, OLD_SECRET = "a secret of thirty-two characters", "the secret that is going to leave"


class Signer(Protocol):
    """`nonce` and `at` go in where the scheme has them; `target`: path and query."""

    def __call__(self, secret: str, raw: bytes, at: datetime, nonce: str, target: str = ...) -> Callback: ...


def _base64(key: bytes, signed: bytes, digest: str = "sha256") -> str:
    return base64.b64encode(hmac.new(key, signed, digest).digest()).decode()


def jwt(key: bytes, claims: Mapping[str, object], algorithm: str = "HS256") -> str:
    def segment(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    signed = ".".join(segment(json.dumps(part).encode()) for part in ({"alg": algorithm, "typ": "JWT"}, claims))
    return f"{signed}.{segment(hmac.new(key, signed.encode(), hashlib.sha256).digest())}"


def twilio(
    secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/v1/callbacks/twilio/main/messages"
) -> Callback:
    pairs = sorted(set(parse_qsl(raw.decode(), keep_blank_values=True)))
    signed = PUBLIC_URL + target + "".join(name + value for name, value in pairs)
    return Callback(target, {"x-twilio-signature": _base64(secret.encode(), signed.encode(), "sha1")}, raw)


def simulator(secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/") -> Callback:
    stamp = str(int(at.timestamp()))
    mac = hmac.new(secret.encode(), stamp.encode() + b"." + raw, hashlib.sha256).hexdigest()
    return Callback(target, {"placet-timestamp": stamp, "placet-signature": f"v1={mac}"}, raw)


def vonage_sms(digest: str, secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/") -> Callback:
    fields = {**dict(parse_qsl(raw.decode())), "timestamp": str(int(at.timestamp())), "nonce": nonce}
    signed = "".join(f"&{name}={fields[name].replace('&', '_').replace('=', '_')}" for name in sorted(fields))
    mac = hmac.new(secret.encode(), signed.encode(), digest).hexdigest().upper()
    return Callback(target, {}, urlencode({**fields, "sig": mac}).encode())


def vonage_messages(secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/") -> Callback:
    claims = {"iat": int(at.timestamp()), "jti": nonce, "payload_hash": hashlib.sha256(raw).hexdigest()}
    return Callback(target, {"authorization": f"Bearer {jwt(secret.encode(), claims)}"}, raw)


def sinch(secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/") -> Callback:
    stamp = str(int(at.timestamp()))
    headers = {
        "x-sinch-webhook-signature": _base64(secret.encode(), raw + f".{nonce}.{stamp}".encode()),
        "x-sinch-webhook-signature-timestamp": stamp,
        "x-sinch-webhook-signature-nonce": nonce,
    }
    return Callback(target, headers, raw)


def bird(
    secret: str,
    raw: bytes,
    at: datetime,
    nonce: str,
    target: str = "/v1/callbacks/messagebird/main/messages?list=a%20b",
) -> Callback:
    """A receipt comes by GET, and then there is no payload."""
    claims = {
        "iss": "MessageBird",
        "nbf": int(at.timestamp()),
        "jti": nonce,
        "url_hash": hashlib.sha256((PUBLIC_URL + target).encode()).hexdigest(),
        **({"payload_hash": hashlib.sha256(raw).hexdigest()} if raw else {}),
    }
    headers = {"messagebird-signature-jwt": jwt(secret.encode(), claims)}
    return Callback(target, headers, raw, method="POST" if raw else "GET")


def plivo_v3(
    secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/v1/callbacks/plivo/main/messages?b=2&a=1"
) -> Callback:
    posted = "".join(name + value for name, value in sorted(parse_qsl(raw.decode(), keep_blank_values=True)))
    path, _, query = target.partition("?")
    asked = "&".join(sorted(query.split("&")))
    signed = f"{PUBLIC_URL}{path}?{asked}{'.' if asked and posted else ''}{posted}.{nonce}"
    mac = _base64(secret.encode(), signed.encode())
    headers = {"x-plivo-signature-v3": mac, "x-plivo-signature-v3-nonce": nonce}
    return Callback(target, headers, raw)


def plivo_v2(
    secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/v1/callbacks/plivo/main/messages?a=1"
) -> Callback:
    mac = _base64(secret.encode(), f"{PUBLIC_URL}{target.partition('?')[0]}{nonce}".encode())
    headers = {"x-plivo-signature-v2": mac, "x-plivo-signature-v2-nonce": nonce}
    return Callback(target, headers, raw)


def _telnyx_key(secret: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(secret.encode()).digest())


def telnyx(secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/") -> Callback:
    stamp = str(int(at.timestamp()))
    mac = _telnyx_key(secret).sign(stamp.encode() + b"|" + raw)
    headers = {"telnyx-signature-ed25519": base64.b64encode(mac).decode(), "telnyx-timestamp": stamp}
    return Callback(target, headers, raw)


def standard(secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/") -> Callback:
    stamp = str(int(at.timestamp()))
    mac = _base64(secret.encode(), f"{nonce}.{stamp}.".encode() + raw)
    headers = {"webhook-id": nonce, "webhook-timestamp": stamp, "webhook-signature": f"v1,{mac}"}
    return Callback(target, headers, raw)


def sweego(secret: str, raw: bytes, at: datetime, nonce: str, target: str = "/") -> Callback:
    stamp = str(int(at.timestamp()))
    mac = _base64(forty_eight(secret), f"{nonce}.{stamp}.".encode() + raw)
    return Callback(target, {"webhook-id": nonce, "webhook-timestamp": stamp, "webhook-signature": mac}, raw)


def forty_eight(secret: str) -> bytes:
    return secret.encode().ljust(48, b".")


def sixty_four_characters(secret: str) -> str:
    return base64.b64encode(forty_eight(secret)).decode()


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
    scheme: str = ""  # of the account, where it has a choice

    def account(self, *secrets: str) -> Account:
        return Account(self.provider, "main", tuple(map(self.configured, secrets)), PUBLIC_URL, scheme=self.scheme)


SCHEMES = [
    Scheme("twilio", "twilio", twilio, timed=False, nonced=False),
    Scheme("simulator", "simulator", simulator, nonced=False),
    *(
        Scheme(f"vonage {digest}", "vonage", partial(vonage_sms, digest), scheme=digest)
        for digest in ("md5", "sha1", "sha256", "sha512")
    ),
    Scheme("vonage-messages", "vonage-messages", vonage_messages),
    Scheme("sinch", "sinch", sinch),
    Scheme("messagebird", "messagebird", bird),
    Scheme("plivo V3", "plivo", plivo_v3, timed=False),
    Scheme("plivo V2", "plivo", plivo_v2, timed=False, covers_body=False, scheme="v2"),
    Scheme("telnyx", "telnyx", telnyx, public_half),
    Scheme("standard", "standard", standard, whsec),
    Scheme("sweego", "sweego", sweego, sixty_four_characters),
]
