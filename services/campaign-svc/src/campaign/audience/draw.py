"""Assign hash buckets in a campaign. Pure.

Other campaigns or questions give independent buckets. The inner id is a keyed hash: an outsider cannot compute a
person's bucket. An outer key that is replaced moves nobody to another bucket.
"""

from hashlib import blake2b

from common.sms.subject_id import InnerId

_ONE = 1 << 53  # floats below 1


def lot(campaign_id: str, inner: InnerId, question: str) -> float:
    """Return the person's bucket, evenly from 0 to less than 1."""
    drawn = blake2b(f"{question}:{inner}".encode(), key=campaign_id.encode()[:64], digest_size=8).digest()
    return (int.from_bytes(drawn, "big") >> 11) / _ONE
