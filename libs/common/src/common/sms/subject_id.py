"""The two ids of a person: the subject id, which is stored and published, and the inner id behind it. Pure.

    o1-6f1c0e…    subject id: the id of an outer key, and the inner id's digits encrypted under that key
    s1-2a3181…    inner id: the id of the subject key, and the keyed hash of the number

`common.keyring` turns one into the other (ADR-0093).
"""

from collections.abc import Callable
from typing import NewType

SUBJECT_BYTES = 16  # 128 bits: a block of AES
SUBJECT_HEX_CHARS = 2 * SUBJECT_BYTES
HEX = "0123456789abcdef"

InnerId = NewType("InnerId", str)
"""A person's inner id: never stored, published, shown or logged. An outer key that is replaced does not change it."""

Inner = Callable[[str], InnerId]  # of a subject id


def is_subject_id(text: str) -> bool:
    """Return whether `text` has the form of a subject id, of any key."""
    key_id, _, digits = text.rpartition("-")
    return bool(key_id) and len(digits) == SUBJECT_HEX_CHARS and not digits.strip(HEX)


def key_id_of(subject_id: str) -> str:
    """Return the id of the outer key of a subject id."""
    return subject_id.rpartition("-")[0]


def digits_of(inner: InnerId) -> str:
    """Return the hexadecimal digits of an inner id."""
    return inner.rpartition("-")[2]
