"""An issuer of tokens: its key set over HTTP, the tokens that it signs, and those that others forge."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from tests.support.running import AUTH_KEY, ISSUER

KID = "k1"


@dataclass
class KeySet:
    """`asked`: how often the key set was read. `hangs`: no answer comes, and no connection is closed."""

    key: EllipticCurvePrivateKey
    url: str = ""
    asked: int = 0
    hangs: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def public(self) -> dict[str, Any]:
        return {**ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True), "kid": KID, "alg": "ES256", "use": "sig"}

    def token(self, headers: Mapping[str, Any] | None = None, **more: Any) -> str:
        return jwt.encode(claims(**more), self.key, "ES256", {"kid": KID, **(headers or {})})


def claims(**more: Any) -> dict[str, Any]:
    """Return claims that grant everything. A claim that is None is left out."""
    full = {
        "sub": "shop",
        "organisation": "lune",
        "scope": "platform:admin",
        "senders": "*",
        "iss": ISSUER,
        "aud": ISSUER,
        "exp": int(time.time()) + 3600,
        **more,
    }
    return {name: value for name, value in full.items() if value is not None}


@asynccontextmanager
async def key_set(*, hangs: bool = False) -> AsyncIterator[KeySet]:
    found = KeySet(generate_private_key(SECP256R1()), hangs=hangs)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.asked += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            if found.hangs:
                await found.ended.wait()
                return
            body = json.dumps({"keys": [found.public]}).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
    try:
        yield found
    finally:
        found.ended.set()
        server.close()
        await server.wait_closed()


def _coded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _by_hand(header: Mapping[str, Any], payload: Mapping[str, Any], signature: bytes) -> str:
    return ".".join((*(_coded(json.dumps(part).encode()) for part in (header, payload)), _coded(signature)))


def forged(issuer: KeySet, elsewhere: KeySet) -> dict[str, str]:
    """Return Authorization headers that must open nothing. `elsewhere`: a key set of the forger's own."""
    now, mine = int(time.time()), generate_private_key(SECP256R1())
    pem = issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, payload, signature = issuer.token().split(".")
    stronger = _coded(json.dumps({"alg": "ES384", "kid": KID}).encode())
    own = _coded(json.dumps(claims(scope="platform:admin consent:write")).encode())
    foreign = {"kid": KID, "jwk": elsewhere.public}
    tokens = {
        "unsigned": _by_hand({"alg": "none", "kid": KID}, claims(), b""),
        "unsigned, in capitals": _by_hand({"alg": "NONE", "kid": KID}, claims(), b""),
        "signed by the key of development": jwt.encode(claims(), AUTH_KEY, "HS256", {"kid": KID}),
        "signed by the public key as a secret": _hmac(pem),
        "signed by the key set as a secret": _hmac(json.dumps(issuer.public).encode()),
        "signed by nothing": _hmac(b""),
        "signed by another key": jwt.encode(claims(), mine, "ES256", {"kid": KID}),
        "signed by another key of no name": jwt.encode(claims(), mine, "ES256"),
        "signed by a key that comes along": jwt.encode(claims(), elsewhere.key, "ES256", foreign),
        "signed by a key from elsewhere": jwt.encode(
            claims(), elsewhere.key, "ES256", {"kid": KID, "jku": elsewhere.url, "x5u": elsewhere.url}
        ),
        "signed by a key that is a file": jwt.encode(claims(), "0" * 32, "HS256", {"kid": "../../../dev/null"}),
        "a signature of zeros": f"{head}.{payload}.{_coded(bytes(64))}",
        "no signature": f"{head}.{payload}.",
        "two parts": f"{head}.{payload}",
        "other claims under the signature": f"{head}.{own}.{signature}",
        "another algorithm in the header": f"{stronger}.{payload}.{signature}",
        "an extension that nobody knows": issuer.token({"crit": ["placet"], "placet": 1}),
        "expired": issuer.token(exp=now - 600),
        "for ever": issuer.token(exp=None),
        "of tomorrow": issuer.token(nbf=now + 86_400),
        "of another issuer": issuer.token(iss="https://evil.example"),
        "of no issuer": issuer.token(iss=None),
        "for another service": issuer.token(aud="placet-elsewhere"),
        "for no service": issuer.token(aud=None),
        "of no account": issuer.token(sub=None),
        "of no organisation": issuer.token(organisation=None),
        "of two organisations": issuer.token(organisation=["lune", "soleil"]),
        "of an organisation in two lines": issuer.token(organisation="lune\nsoleil"),
        "nonsense": "nonsense",
        "a huge one": "a" * 8_000,
    }
    headers = {why: f"Bearer {token}" for why, token in tokens.items()}
    return headers | {"basic": "Basic c2hvcDpzZWNyZXQ=", "a scheme twice": f"Bearer Bearer {issuer.token()}", "": ""}


def _hmac(secret: bytes) -> str:
    """Return a token under HS256 of any secret: PyJWT refuses some."""

    signed = ".".join(_coded(json.dumps(part).encode()) for part in ({"alg": "HS256", "kid": KID}, claims()))
    return f"{signed}.{_coded(hmac.new(secret, signed.encode(), hashlib.sha256).digest())}"
