"""Hash and encrypt personal values: a phone number or a text leaves a transaction only hashed or encrypted.

A subject id is an HMAC-SHA256 cut to 128 bits: phone numbers are some 10^8 values, so a hash without a key is reversed
in seconds (DOMAIN 1.5). An encrypted field is AES-256-GCM bound to its context (`number:<subject_id>`,
`text:<message_id>`): a field moved to another row does not decrypt.

Under different subject keys with the same key id, a STOP of one service would match no subject of the other. So a
reader of an encrypted number recomputes the subject id (`owner_of`), and watermarks carry a fingerprint of each key
(ADR-0061).
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.settings import KeyRingSettings
from common.telemetry import counter

KEY_BYTES = 32
NONCE_BYTES = 12
SUBJECT_HEX_CHARS = 32  # 128 bits
FINGERPRINT_HEX_CHARS = 16
FINGERPRINTED = b"placet subject key"  # no phone number, so no subject id equals the MAC
FINGERPRINTS = b"placet fingerprint "  # likewise
ANSWERED = b"placet answer"  # nor a request's path
NAMED_BY_CALLER = b"placet idempotency key "

MISMATCHES = counter(
    "sms_subject_mismatches_total",
    "Events whose subject id does not match their number under this service's key.",
)

_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")  # the base64 module takes four times as long


class Unreadable(ValueError):
    """An encrypted field does not decrypt: other key, other context, or damage. Never carries the value."""


class OtherKey(RuntimeError):
    """The stored subject ids are of another key: a number would get a new id, without its opt-outs."""


def is_subject_id(text: str) -> bool:
    """Return whether `text` has the form of a subject id, of any key."""
    version, _, digits = text.rpartition("-")
    return bool(version) and len(digits) == SUBJECT_HEX_CHARS and not set(digits) - set("0123456789abcdef")


class SubjectKeys:
    """Computes subject ids: `<key id>-<32 hex>`.

    A subject key cannot be replaced: services look up a person only by the current key's id. The key id within a
    subject id reveals a change (`look_at`).
    """

    def __init__(self, ring: KeyRingSettings) -> None:
        self._version = ring.current
        # RFC 2104 with both halves keyed in advance: twice as fast as the hmac module
        key = secret_key(ring, ring.current).ljust(hashlib.sha256().block_size, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))

    def subject_id(self, e164: str) -> str:
        """Return the subject id of `e164` ("+" and digits)."""
        return f"{self._version}-{self._mac(e164.encode()).hex()[:SUBJECT_HEX_CHARS]}"

    def fingerprint(self, said: str) -> str:
        """Return a keyed hash of what is no phone number, in another form than a subject id."""
        return self._mac(FINGERPRINTS + said.encode()).hex()

    def of_request(self, said: str) -> tuple[str, "AnswerCipher"]:
        """Return a fingerprint of a request, in the form of a subject id, and the cipher of its answers.

        The cipher's key is a MAC over the whole hash, half of which is stored nowhere. So only the request itself opens
        an answer.
        """
        whole = self._mac(said.encode())
        return f"{self._version}-{whole.hex()[:SUBJECT_HEX_CHARS]}", AnswerCipher(self._mac(ANSWERED + whole))

    def of_key(self, key: str) -> str:
        """Return the hash of a caller's Idempotency-Key: a key may hold a number, and a plain hash be tried out."""
        return self._mac(NAMED_BY_CALLER + key.encode()).hex()[:SUBJECT_HEX_CHARS]

    def _mac(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()

    def named(self, digits: str) -> str:
        """Return the subject id of the current key with these hexadecimal digits."""
        return f"{self._version}-{digits}"

    def is_subject_id(self, text: str) -> bool:
        """Return whether `text` has the form of a subject id of the current key."""
        return is_subject_id(text) and text.rpartition("-")[0] == self._version

    def look_at(self, stored: Iterable[str]) -> frozenset[str]:
        """Return the other key ids found. Raises OtherKey where no id is of the current key."""
        carried = {text.rpartition("-")[0] for text in stored if is_subject_id(text)}
        if carried and self._version not in carried:
            raise OtherKey(
                f"PLACET_SUBJECT_KEYS has {self._version!r} as its current key, and what is stored is of"
                f" {', '.join(map(repr, sorted(carried)))}: a subject key cannot be replaced, or every opt-out is"
                f" forgotten. Make it the current one again"
            )
        return frozenset(carried - {self._version})

    def look_at_numbers(self, stored: Iterable[tuple[str, str]], fields: "FieldKeys") -> None:
        """Check the current key against subject ids with their encrypted numbers; skip unreadable numbers.

        Raises OtherKey where the key makes none of the ids of its key id: another key stands under the id.
        """
        compared = False
        for named, sealed in stored:
            if not self.is_subject_id(named):
                continue
            try:
                number = fields.unseal(sealed, f"number:{named}")
            except Unreadable:
                continue
            if self.subject_id(number) == named:
                return
            compared = True
        if compared:
            raise OtherKey(
                f"the key {self._version!r} of PLACET_SUBJECT_KEYS is not the one that what is stored was made with: a"
                " subject key cannot be replaced, or every opt-out is forgotten. Put the former key under that id again"
            )


class AnswerCipher:
    """Encrypts the answers to one request (`SubjectKeys.of_request`): nonce and ciphertext."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, plain: bytes, context: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, context.encode())

    def unseal(self, sealed: bytes, context: str) -> bytes:
        """Decrypt an answer. Raises Unreadable."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError) as error:
            raise Unreadable("the answer does not open by this request") from error


def fingerprints(ring: KeyRingSettings) -> dict[str, str]:
    """Return a fingerprint of each key, revealing nothing else."""
    return {key_id: _mac(secret_key(ring, key_id), FINGERPRINTED).hex()[:FINGERPRINT_HEX_CHARS] for key_id in ring.keys}


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> list[str]:
    """Return the key ids under which two services have different keys; an id of a single service is no difference."""
    return sorted(key_id for key_id in ours.keys() & theirs.keys() if ours[key_id] != theirs[key_id])


class Owner(NamedTuple):
    """A number's owner, by our subject key."""

    e164: str
    subject_id: str


def owner_of(sealed: str, named: str, fields: "FieldKeys", subjects: SubjectKeys) -> Owner:
    """Decrypt an event's number, and return its owner. Raises Unreadable.

    A mismatch is counted, and pages; the caller must compare the owner with `named`.
    """
    number = fields.unseal(sealed, f"number:{named}")
    owner = Owner(number, subjects.subject_id(number))
    if owner.subject_id != named:
        MISMATCHES.inc()
    return owner


class FieldKeys:
    """Encrypts with the current key, decrypts with any: `<key id>.<base64url(nonce + ciphertext)>`."""

    def __init__(self, ring: KeyRingSettings) -> None:
        self._current = ring.current
        self._ciphers = {key_id: AESGCM(secret_key(ring, key_id)) for key_id in ring.keys}

    def seal(self, plain: str, context: str) -> str:
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plain.encode(), context.encode())
        return f"{self._current}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def seal_all(self, fields: Sequence[tuple[str, str]]) -> list[str]:
        """Encrypt (plain text, context) pairs in two thirds of the time."""
        encrypt, drawn = self._ciphers[self._current].encrypt, os.urandom(NONCE_BYTES * len(fields))
        nonces = [drawn[at : at + NONCE_BYTES] for at in range(0, len(drawn), NONCE_BYTES)]
        raws = [
            nonce + encrypt(nonce, plain.encode(), context.encode())
            for nonce, (plain, context) in zip(nonces, fields, strict=True)
        ]
        lines = b"".join(map(binascii.b2a_base64, raws)).translate(_TO_URLSAFE).decode()
        begins = f"{self._current}."
        return [begins + line for line in lines.splitlines()]

    def unseal(self, sealed: str, context: str) -> str:
        """Decrypt a field. Raises Unreadable."""
        key_id, _, body = sealed.partition(".")
        try:
            raw = binascii.a2b_base64(body.encode("ascii").translate(_FROM_URLSAFE))
        except ValueError as error:
            raise Unreadable("the field does not open in this context") from error
        return self._open(key_id, raw, context).decode()

    def seal_bytes(self, plain: bytes, context: str) -> bytes:
        """Encrypt bytes as `<key id>.`, nonce and ciphertext, without base64."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plain, context.encode())
        return b"".join((self._current.encode(), b".", nonce, sealed))

    def unseal_bytes(self, sealed: bytes, context: str) -> bytes:
        """Decrypt binary data. Raises Unreadable."""
        key_id, _, raw = sealed.partition(b".")
        return self._open(key_id.decode(errors="replace"), raw, context)

    def _open(self, key_id: str, raw: bytes, context: str) -> bytes:
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Unreadable(f"no key {key_id[:16]!r} in the ring")
        try:
            return cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], context.encode())
        except (InvalidTag, ValueError) as error:
            raise Unreadable("the field does not open in this context") from error


class LinkKeys:
    """Signs values in URLs with keys derived from the field keys: database access cannot forge a link.

    Any key of the ring verifies: a rotation breaks no link.
    """

    def __init__(self, ring: KeyRingSettings) -> None:
        derived = {key_id: _mac(secret_key(ring, key_id), b"placet links") for key_id in ring.keys}
        self._current = derived[ring.current]
        self._all = tuple(derived.values())

    def tag(self, message: bytes) -> bytes:
        """Return a tag of 32 bytes, which a caller may truncate before `holds`."""
        return _mac(self._current, message)

    def tags(self, message: bytes) -> tuple[bytes, ...]:
        """Return the tag by each key."""
        return tuple(_mac(key, message) for key in self._all)

    def holds(self, message: bytes, tag: bytes) -> bool:
        return any(hmac.compare_digest(_mac(key, message)[: len(tag)], tag) for key in self._all)


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, hashlib.sha256)


def secret_key(ring: KeyRingSettings, key_id: str) -> bytes:
    """Return the key's 32 bytes. Raises ValueError, without the bytes, for another length."""
    key = base64.b64decode(ring.keys[key_id].get_secret_value())
    if len(key) != KEY_BYTES:
        raise ValueError(f"key {key_id!r} is {len(key)} bytes, not {KEY_BYTES}")
    return key
