"""The ids by which callers know people: each controller has its own. Pure, but for a note of the ids shown.

Services name a person by the subject id, which is the same for every controller (`common.keyring`). Two controllers
that put their exports together could join them by that id. So an answer and an export show the subject id encrypted
under a key of the controller, and a call that names a person by such an id is decrypted by the same key (ADR-0071).

AES-SIV (RFC 5297) is deterministic: with a controller, a person has one id for ever, in every service. AES-SIV also
authenticates: an id of another controller, or a damaged one, is refused and never read as another person.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.keyring import SubjectKeys, secret_key
from common.settings import SubjectRingSettings
from common.sms.subject_id import SUBJECT_HEX_CHARS, digits_of

PREFIX = "sub_"  # so that no reader takes the id for a subject id
TAG_BYTES = 16
HEX_CHARS = 2 * TAG_BYTES + SUBJECT_HEX_CHARS
KEY_BYTES = 64  # AES-256-SIV
LABEL = b"placet edge id\x00"  # of no other use of the subject key


@dataclass(slots=True)
class Shown:
    """The people whom an answer shows: subject id to the id shown. Closed once the answer begins."""

    ids: dict[str, str] = field(default_factory=dict)
    is_open: bool = True

    def close(self) -> None:
        self.is_open = False


_shown: ContextVar[Shown | None] = ContextVar("shown", default=None)


@contextmanager
def showing() -> Iterator[Shown]:
    """Note the people whom the block shows, for the audit log."""
    found = Shown()
    before = _shown.set(found)
    try:
        yield found
    finally:
        found.close()
        _shown.reset(before)


class ControllerIds:
    """The ids of people with one controller. An id stands on the inner id, and outlives an outer key."""

    def __init__(self, key: bytes, subject_key_id: str, subjects: SubjectKeys) -> None:
        """`subject_key_id`: of the subject key, which an id is bound to."""
        self._cipher = AESSIV(key)
        self._bound = [subject_key_id.encode()]
        self._subjects = subjects

    def shown(self, subject_id: str) -> str:
        """Return the id to show in place of a subject id."""
        digits = digits_of(self._subjects.inner(subject_id))
        found = PREFIX + self._cipher.encrypt(bytes.fromhex(digits), self._bound).hex()
        if (noted := _shown.get()) is not None and noted.is_open:
            noted.ids.setdefault(subject_id, found)
        return found

    def subject_id(self, shown: str) -> str | None:
        """Return the subject id behind an id of this controller. Return None for any other text."""
        written = shown.removeprefix(PREFIX)
        if written == shown or len(written) != HEX_CHARS:
            return None
        try:
            digits = self._cipher.decrypt(bytes.fromhex(written), self._bound)
        except (ValueError, InvalidTag):
            return None
        return self._subjects.of_digits(digits.hex())


class EdgeIds:
    """Derives the key of each controller from the subject key, which is never replaced."""

    def __init__(self, ring: SubjectRingSettings) -> None:
        self._subjects = SubjectKeys(ring)
        self._subject_key_id = ring.current
        self._key = secret_key(ring, ring.current)
        self._controllers: dict[str, ControllerIds] = {}

    def of(self, controller: str) -> ControllerIds:
        """Return the ids of a controller on record."""
        found = self._controllers.get(controller)
        if found is None:
            derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=LABEL + controller.encode()).derive(self._key)
            found = self._controllers[controller] = ControllerIds(derived, self._subject_key_id, self._subjects)
        return found
