"""Hash and encrypt personal values: a phone number or a text leaves a transaction only hashed or encrypted.

The inner id of a person is an HMAC-SHA256 of the number, cut to 128 bits: phone numbers are some 10^8 values, so a
hash without a key is reversed in seconds (DOMAIN 1.5). The subject id is the inner id encrypted under an outer key,
which can be replaced (ADR-0093). Rows, events and logs have the subject id. The inner id leaves no process: all that
has to stay equal when the outer key is replaced is derived from the inner id.

An encrypted field is AES-256-GCM bound to its context (`number:<subject_id>`, `text:<message_id>`): a field moved to
another row does not decrypt. The context of a number stands on the inner id.

Under different keys with the same key id, a STOP of one service would match no subject of the other. So a reader of
encrypted numbers recomputes the subject ids (`owner_of`, `owners_of`), and watermarks carry a fingerprint of each key
(ADR-0061).
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from common.settings import KeyRingSettings, SubjectRingSettings
from common.sms.subject_id import (
    HEX,
    SUBJECT_BYTES,
    SUBJECT_HEX_CHARS,
    Inner,
    InnerId,
    digits_of,
    is_subject_id,
    key_id_of,
)
from common.telemetry import counter

KEY_BYTES = 32
NONCE_BYTES = 12
FINGERPRINT_HEX_CHARS = 16
FINGERPRINTED = b"placet subject key"  # no phone number, so no subject id equals the MAC
FINGERPRINTS = b"placet fingerprint "  # likewise
ANSWERED = b"placet answer"  # nor a request's path
NAMED_BY_CALLER = b"placet idempotency key "
TEXTS = b"placet text "  # so that the hash of a number is no inner id
OF_A_NUMBER = "number:"  # the context of an encrypted number; the person's id follows

MISMATCHES = counter(
    "sms_subject_mismatches_total",
    "Events whose subject id does not match their number under this service's key.",
)

_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")  # the base64 module takes four times as long


class Unreadable(ValueError):
    """An encrypted field does not decrypt: other key, other context, or damage. Never carries the value."""


class UnknownFieldKey(Unreadable):
    """An encrypted field is of a key that the ring does not have."""


class UnknownOuterKey(Unreadable):
    """A subject id is of an outer key that the ring does not have, or of none."""


class OtherKey(RuntimeError):
    """The stored subject ids are of another key: a number would get a new id, without its opt-outs."""


class SubjectKeys:
    """Computes subject ids: `<outer key id>-<32 hex>`, one block of AES over the HMAC of the number.

    The subject key cannot be replaced. The outer key can: an id of any outer key of the ring is read, and new ids are
    of the current one.
    """

    def __init__(self, ring: SubjectRingSettings) -> None:
        self._key_id = ring.current
        self._outer_key_id = ring.outer.current
        self._begins = f"{self._outer_key_id}-"
        self._usual_chars = len(self._begins) + SUBJECT_HEX_CHARS
        # RFC 2104 with both halves keyed in advance: twice as fast as the hmac module
        key = secret_key(ring, ring.current).ljust(hashlib.sha256().block_size, b"\0")
        self._inside = hashlib.sha256(bytes(byte ^ 0x36 for byte in key))
        self._outside = hashlib.sha256(bytes(byte ^ 0x5C for byte in key))
        # one block of uniformly random bits, so no two blocks of a person's data are ever encrypted: ECB hides all
        ciphers = {each: Cipher(AES256(secret_key(ring.outer, each)), ECB()) for each in ring.outer.keys}  # noqa: S305
        self._encrypts = {each: _of_threads(cipher.encryptor()) for each, cipher in ciphers.items()}
        self._encrypt = self._encrypts[self._outer_key_id]
        self._decrypt = {each: _of_threads(cipher.decryptor()) for each, cipher in ciphers.items()}

    @property
    def outer_key_id(self) -> str:
        """Return the id of the current outer key."""
        return self._outer_key_id

    @property
    def older(self) -> frozenset[str]:
        """Return the ids of the other outer keys of the ring. Any means that a rotation is under way."""
        return self.outer_keys - {self._outer_key_id}

    @property
    def outer_keys(self) -> frozenset[str]:
        """Return the ids of all outer keys of the ring."""
        return frozenset(self._decrypt)

    def subject_id(self, e164: str) -> str:
        """Return the subject id of `e164` ("+" and digits)."""
        return f"{self._outer_key_id}-{self._encrypt(self._mac(e164.encode())[:SUBJECT_BYTES]).hex()}"

    def subject_ids(self, e164s: Iterable[str]) -> list[str]:
        """Return the subject id of each number, encrypted together."""
        return [subject_id for subject_id, _ in self.both_ids(e164s)]

    def both_ids(self, e164s: Iterable[str]) -> list[tuple[str, InnerId]]:
        """Return (subject id, inner id) of each number, encrypted together and nothing decrypted."""
        inner = b"".join([self._mac(e164.encode())[:SUBJECT_BYTES] for e164 in e164s])
        digits, outer, own, size = inner.hex(), self._encrypt(inner).hex(), f"{self._key_id}-", SUBJECT_HEX_CHARS
        return [
            (self._begins + outer[at : at + size], InnerId(own + digits[at : at + size]))
            for at in range(0, len(digits), size)
        ]

    def inner(self, subject_id: str) -> InnerId:
        """Return the inner id of a person. Raises UnknownOuterKey."""
        key_id, _, digits = subject_id.rpartition("-")
        decrypt = self._decrypt.get(key_id)
        if decrypt is None or not is_subject_id(subject_id):
            raise UnknownOuterKey(f"no outer key {key_id[:16]!r} in the ring, or no subject id")
        return InnerId(f"{self._key_id}-{decrypt(bytes.fromhex(digits)).hex()}")

    def inners(self, subject_ids: Sequence[str]) -> list[InnerId | None]:
        """Return `inner` of each id, decrypted together, or None where it raises."""
        begins = len(self._begins)
        digits = "".join([each[begins:] for each in subject_ids])
        if not all(map(self.is_usual, subject_ids)) or digits.strip(HEX):
            return [self.inner(each) if self.knows(each) else None for each in subject_ids]
        whole, key_id = self._decrypt[self._outer_key_id](bytes.fromhex(digits)).hex(), self._key_id
        size = SUBJECT_HEX_CHARS
        return [InnerId(f"{key_id}-{whole[at : at + size]}") for at in range(0, len(whole), size)]

    def inner_of(self, e164: str) -> InnerId:
        """Return the inner id of a number."""
        return InnerId(f"{self._key_id}-{self._mac(e164.encode())[:SUBJECT_BYTES].hex()}")

    def outer(self, inner: InnerId) -> str:
        """Return the subject id of an inner id."""
        return self.of_digits(digits_of(inner))

    def of_digits(self, digits: str) -> str:
        """Return the subject id of the hexadecimal digits of an inner id."""
        return f"{self._outer_key_id}-{self._encrypt(bytes.fromhex(digits)).hex()}"

    def current(self, subject_id: str) -> str:
        """Return the person's id of the current outer key. Raises UnknownOuterKey."""
        if key_id_of(subject_id) == self._outer_key_id:
            return subject_id
        return self.outer(self.inner(subject_id))

    def under(self, subject_id: str, key_id: str) -> str:
        """Return the person's id under an outer key of the ring. Raises UnknownOuterKey."""
        encrypt = self._encrypts.get(key_id)
        if encrypt is None:
            raise UnknownOuterKey(f"no outer key {key_id[:16]!r} in the ring")
        return f"{key_id}-{encrypt(bytes.fromhex(digits_of(self.inner(subject_id)))).hex()}"

    def read(self, text: str) -> str:
        """Return what an event or a record names, a person's id by the current outer key. Raises UnknownOuterKey.

        What has not the form of a subject id is returned as it is.
        """
        if self.is_usual(text):
            return text
        return self.current(text) if is_subject_id(text) else text

    def is_usual(self, text: str) -> bool:
        """Return whether `text` has the length and the begin of an id of the current outer key, as nearly all have."""
        return len(text) == self._usual_chars and text.startswith(self._begins)

    def named(self, key: str | None) -> str | None:
        """Return the key of an unreadable record, a person's id by the current outer key.

        A key of no ring is returned as it is: whoever writes such records would else stop all that follows.
        """
        return self.current(key) if key is not None and self.knows(key) else key

    def knows(self, subject_id: str) -> bool:
        """Return whether `subject_id` has the form of a subject id of an outer key of the ring."""
        return is_subject_id(subject_id) and key_id_of(subject_id) in self._decrypt

    def fingerprint(self, said: str) -> str:
        """Return a keyed hash of what is no phone number, in another form than a subject id."""
        return self._mac(FINGERPRINTS + said.encode()).hex()

    def of_text(self, said: str) -> str:
        """Return a keyed hash of a text, the same under every outer key: of a number too, it is no id of a person."""
        return f"{self._key_id}-{self._mac(TEXTS + said.encode()).hex()[:SUBJECT_HEX_CHARS]}"

    def of_request(self, said: str) -> tuple[str, "AnswerCipher"]:
        """Return a fingerprint of a request, and the cipher of its answers.

        The cipher's key is a MAC over the whole hash, half of which is stored nowhere. So only the request itself opens
        an answer.
        """
        whole = self._mac(TEXTS + said.encode())
        return f"{self._key_id}-{whole.hex()[:SUBJECT_HEX_CHARS]}", AnswerCipher(self._mac(ANSWERED + whole))

    def of_key(self, key: str) -> str:
        """Return the hash of a caller's Idempotency-Key: a key may hold a number, and a plain hash be tried out."""
        return self._mac(NAMED_BY_CALLER + key.encode()).hex()[:SUBJECT_HEX_CHARS]

    def _mac(self, message: bytes) -> bytes:
        inside, outside = self._inside.copy(), self._outside.copy()
        inside.update(message)
        outside.update(inside.digest())
        return outside.digest()

    def is_subject_id(self, text: str) -> bool:
        """Return whether `text` has the form of a subject id of the current outer key."""
        return is_subject_id(text) and key_id_of(text) == self._outer_key_id

    def look_at(self, stored: Iterable[str]) -> frozenset[str]:
        """Return the key ids found that no ring has: keys of unreadable records, which name nobody.

        Raises OtherKey where an id is of another outer key of the ring, or none is of the current one.
        """
        found = {key_id_of(text) for text in stored if is_subject_id(text)}
        carried = found - {self._outer_key_id}
        if carried & self._decrypt.keys() or (carried and carried == found):
            raise OtherKey(
                f"PLACET_SUBJECT_KEYS has {self._outer_key_id!r} as its current outer key, and what is stored is of"
                f" {', '.join(map(repr, sorted(carried)))}: the opt-outs of these people would not be found. Make that"
                " outer key the current one again, or move the rows with `keys --subjects` (docs/runbook.md)"
            )
        return frozenset(carried)

    def look_at_numbers(self, stored: Iterable[tuple[str, str]], fields: "FieldKeys") -> None:
        """Check the current keys against subject ids with their encrypted numbers; skip numbers of unknown field keys.

        Raises OtherKey where the keys make none of the ids of their key id: another key stands under one of the ids.
        """
        compared = False
        for named, sealed in stored:
            if not self.is_subject_id(named):
                continue
            try:
                if self.subject_id(fields.unseal(sealed, f"number:{named}")) == named:
                    return
            except UnknownFieldKey:
                continue
            except Unreadable:
                pass  # under another outer key the inner id is another, and with it the context
            compared = True
        if compared:
            raise OtherKey(
                f"the subject key {self._key_id!r} or the outer key {self._outer_key_id!r} of PLACET_SUBJECT_KEYS is"
                " not the one that what is stored was made with, and every opt-out is forgotten. Put the former key"
                " under that id again"
            )


def _of_threads(context: CipherContext) -> Callable[[bytes], bytes]:
    """Return `context.update` for any thread: two at once raise an error."""
    update, lock = context.update, Lock()

    def turned(blocks: bytes) -> bytes:
        if len(blocks) % SUBJECT_BYTES:
            raise ValueError("not whole blocks, which would shift all blocks that follow")
        with lock:
            return update(blocks)

    return turned


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


def fingerprints(ring: SubjectRingSettings) -> dict[str, str]:
    """Return a fingerprint of each subject key and of each outer key, revealing nothing else."""
    return {
        key_id: _mac(secret_key(of, key_id), FINGERPRINTED).hex()[:FINGERPRINT_HEX_CHARS]
        for of in (ring, ring.outer)
        for key_id in of.keys
    }


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


def owners_of(numbers: Sequence[tuple[str, str]], fields: "FieldKeys", subjects: SubjectKeys) -> list[Owner | None]:
    """Return `owner_of` each (encrypted number, subject id) in half of the time; None where it raises."""
    inners = subjects.inners([named for _, named in numbers])
    read = [(sealed, inner) for (sealed, _), inner in zip(numbers, inners, strict=True) if inner is not None]
    opened = iter(fields.unseal_numbers(read))
    owners: list[Owner | None] = []
    for (_, named), inner in zip(numbers, inners, strict=True):
        number = None if inner is None else next(opened)
        if number is None:
            owners.append(None)
        elif subjects.inner_of(number) == inner and subjects.is_usual(named):
            owners.append(Owner(number, named))
        else:
            MISMATCHES.inc()
            owners.append(Owner(number, subjects.subject_id(number)))
    return owners


class FieldKeys:
    """Encrypts with the current key, decrypts with any: `<key id>.<base64url(nonce + ciphertext)>`.

    A caller names the person of a number by the subject id, and the field is bound to the inner id: no number is
    encrypted anew when the outer key is replaced.
    """

    def __init__(self, ring: KeyRingSettings, subjects: SubjectKeys) -> None:
        self.inner: Inner = subjects.inner
        self.inners = subjects.inners
        self._current = ring.current
        self._ciphers = {key_id: AESGCM(secret_key(ring, key_id)) for key_id in ring.keys}

    def seal(self, plain: str, context: str) -> str:
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plain.encode(), self._bound(context))
        return f"{self._current}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def seal_all(self, fields: Sequence[tuple[str, str]]) -> list[str]:
        """Encrypt (plain text, context) pairs in two thirds of the time."""
        return self._seal_all([(plain, self._bound(context)) for plain, context in fields])

    def seal_numbers(self, numbers: Sequence[tuple[str, InnerId]]) -> list[str]:
        """Encrypt (number, inner id of its person) pairs, as `seal_all` does by the subject id, and decrypt nothing."""
        return self._seal_all([(number, (OF_A_NUMBER + inner).encode()) for number, inner in numbers])

    def seal_with_number(self, number: str, inner: InnerId, fields: Sequence[tuple[str, str]]) -> list[str]:
        """Encrypt a number as `seal_numbers` does, and further fields of the person as `seal_all` does, together."""
        others = [(plain, self._bound(context)) for plain, context in fields]
        return self._seal_all([(number, (OF_A_NUMBER + inner).encode()), *others])

    def _seal_all(self, fields: Sequence[tuple[str, bytes]]) -> list[str]:
        encrypt, drawn = self._ciphers[self._current].encrypt, os.urandom(NONCE_BYTES * len(fields))
        nonces = [drawn[at : at + NONCE_BYTES] for at in range(0, len(drawn), NONCE_BYTES)]
        raws = [
            nonce + encrypt(nonce, plain.encode(), bound) for nonce, (plain, bound) in zip(nonces, fields, strict=True)
        ]
        lines = b"".join(map(binascii.b2a_base64, raws)).translate(_TO_URLSAFE).decode()
        begins = f"{self._current}."
        return [begins + line for line in lines.splitlines()]

    def unseal(self, sealed: str, context: str) -> str:
        """Decrypt a field. Raises Unreadable."""
        key_id, raw = _parts(sealed)
        return self._open(key_id, raw, context).decode()

    def unseal_numbers(self, numbers: Iterable[tuple[str, InnerId]]) -> list[str | None]:
        """Decrypt the number of each person, named by the inner id, or return None for an unreadable number."""
        return self._unseal_all([(sealed, (OF_A_NUMBER + inner).encode()) for sealed, inner in numbers])

    def unseal_texts(self, texts: Iterable[tuple[str, str]]) -> list[str | None]:
        """Decrypt each text, given its context, or return None for an unreadable text.

        A text takes two thirds of the time of `unseal`.
        """
        return self._unseal_all([(sealed, self._bound(context)) for sealed, context in texts])

    def _unseal_all(self, fields: Iterable[tuple[str, bytes]]) -> list[str | None]:
        opened: list[str | None] = []
        for sealed, bound in fields:
            key_id, _, body = sealed.partition(".")
            try:
                raw = binascii.a2b_base64(body.encode("ascii").translate(_FROM_URLSAFE))
                plain = self._ciphers[key_id].decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound).decode()
            except (InvalidTag, ValueError, KeyError):
                plain = None
            opened.append(plain)
        return opened

    def seal_bytes(self, plain: bytes, context: str) -> bytes:
        """Encrypt bytes as `<key id>.`, nonce and ciphertext, without base64."""
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._current].encrypt(nonce, plain, self._bound(context))
        return b"".join((self._current.encode(), b".", nonce, sealed))

    def unseal_bytes(self, sealed: bytes, context: str) -> bytes:
        """Decrypt binary data. Raises Unreadable."""
        key_id, _, raw = sealed.partition(b".")
        return self._open(key_id.decode(errors="replace"), raw, context)

    def _open(self, key_id: str, raw: bytes, context: str) -> bytes:
        cipher = self._cipher(key_id)
        return _opened(cipher, raw, self._bound(context))

    def _cipher(self, key_id: str) -> AESGCM:
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise UnknownFieldKey(f"no key {key_id[:16]!r} in the ring")
        return cipher

    def _bound(self, context: str) -> bytes:
        """Return the context that the field is bound to. Raises UnknownOuterKey."""
        if context.startswith(OF_A_NUMBER):
            context = OF_A_NUMBER + self.inner(context[len(OF_A_NUMBER) :])
        return context.encode()


def _parts(sealed: str) -> tuple[str, bytes]:
    """Return the key id, and nonce with ciphertext. Raises Unreadable."""
    key_id, _, body = sealed.partition(".")
    try:
        return key_id, binascii.a2b_base64(body.encode("ascii").translate(_FROM_URLSAFE))
    except ValueError as error:
        raise Unreadable("the field does not open in this context") from error


def _opened(cipher: AESGCM, raw: bytes, bound: bytes) -> bytes:
    try:
        return cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound)
    except (InvalidTag, ValueError) as error:
        raise Unreadable("the field does not open in this context") from error


class LinkKeys:
    """Signs values in URLs with keys derived from the field keys: database access cannot forge a link.

    Any key of the ring verifies: a rotation breaks no link. A link names a person by the inner id (`inner`), so that a
    new outer key breaks no link either.
    """

    def __init__(self, ring: KeyRingSettings, subjects: SubjectKeys) -> None:
        self.inner: Inner = subjects.inner
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
