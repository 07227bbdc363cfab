"""Assign hash buckets in a campaign. Pure.

Other campaigns or questions give independent buckets. The subject id is a keyed hash: an outsider cannot compute a
person's bucket.
"""

from hashlib import blake2b

_ONE = 1 << 53  # floats below 1


def lot(campaign_id: str, subject_id: str, question: str) -> float:
    """Return the person's bucket, evenly from 0 to less than 1."""
    drawn = blake2b(f"{question}:{subject_id}".encode(), key=campaign_id.encode()[:64], digest_size=8).digest()
    return (int.from_bytes(drawn, "big") >> 11) / _ONE
