"""Sign documents for verification without Placet: JWS (RFC 7515) by Ed25519, public keys as a JWK set (RFC 7517).

The same payload and key always give the same token, which need not be stored. A retired key's private half is removed;
its public half stays published.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from jwt.algorithms import OKPAlgorithm
from jwt.utils import base64url_decode, base64url_encode

from common.keyring import secret_key
from common.settings import KeyRingSettings

KeySet = dict[str, list[dict[str, str]]]
Type = Literal["placet-receipt", "placet-bundle", "placet-seal"]  # a token of one type never passes for another

ALGORITHM = "EdDSA"
PUBLIC_BYTES = 32
_jws = jwt.PyJWS(algorithms=[ALGORITHM])


class Forged(ValueError):
    """A token not signed by these keys, or malformed. The message never has the payload."""


class SigningKeys:
    """Signs with the ring's current key; publishes the public half of every key, also of retired keys."""

    def __init__(self, ring: KeyRingSettings, retired: Mapping[str, str] | None = None) -> None:
        """Load the keys.

        `ring`: Ed25519 seeds. `retired`: key id to public key, in the form of `x` in the key set.
        """
        private = {kid: Ed25519PrivateKey.from_private_bytes(secret_key(ring, kid)) for kid in ring.keys}
        public = {kid: Ed25519PublicKey.from_public_bytes(_public(x)) for kid, x in (retired or {}).items()}
        if both := sorted(private.keys() & public.keys()):
            raise ValueError(f"key {both[0]!r} is retired and in the ring")
        self._current = ring.current
        self._key = private[ring.current]
        public |= {kid: key.public_key() for kid, key in private.items()}
        self.jwks: KeySet = {"keys": [_jwk(kid, public[kid]) for kid in sorted(public)]}

    def sign(self, payload: bytes, kind: Type) -> str:
        """Return a compact JWS."""
        return _jws.encode(payload, self._key, ALGORITHM, {"kid": self._current, "typ": kind})


class PublicKeys:
    """Verifies tokens with a JWK set. Raises ValueError for a malformed set, or without an Ed25519 key.

    `thumbprints`: RFC 7638, for comparison by eye.
    """

    def __init__(self, jwks: Mapping[str, object]) -> None:
        read: Any = jwks  # of any file
        try:
            keys = {jwk["kid"]: OKPAlgorithm.from_jwk(jwk) for jwk in read["keys"] if jwk.get("crv") == "Ed25519"}
        except (jwt.InvalidKeyError, AttributeError, KeyError, TypeError) as error:
            raise ValueError("not a JWK set") from error
        self._keys = {kid: key for kid, key in keys.items() if isinstance(key, Ed25519PublicKey)}
        if not self._keys:
            raise ValueError("a JWK set without an Ed25519 key")
        self.thumbprints = {kid: _thumbprint(key) for kid, key in self._keys.items()}

    def verified(self, token: str, kind: Type) -> bytes:
        """Return the payload of a token. Raises Forged."""
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(header.get("kid", ""))
            if key is None:
                raise Forged("signed by a key that is not in the set")
            if header.get("typ") != kind:
                raise Forged(f"no {kind}")
            read = _jws.decode_complete(token, key, [ALGORITHM])
        except (jwt.PyJWTError, UnicodeError) as error:
            raise Forged(f"the signature does not hold: {type(error).__name__}") from error
        payload: bytes = read["payload"]
        return payload


def key_id(token: str) -> str:
    """Return the id of the key behind a verified token."""
    return str(jwt.get_unverified_header(token)["kid"])


def _jwk(kid: str, key: Ed25519PublicKey) -> dict[str, str]:
    return {**OKPAlgorithm.to_jwk(key, as_dict=True), "kid": kid, "use": "sig", "alg": ALGORITHM}


def _thumbprint(key: Ed25519PublicKey) -> str:
    jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    required = json.dumps({name: jwk[name] for name in ("crv", "kty", "x")}, separators=(",", ":"))
    return base64url_encode(hashlib.sha256(required.encode()).digest()).decode()


def _public(text: str) -> bytes:
    raw = base64url_decode(text)
    if len(raw) != PUBLIC_BYTES:
        raise ValueError(f"a retired public key is {len(raw)} bytes, not {PUBLIC_BYTES}")
    return raw
