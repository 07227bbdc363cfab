"""Assign hash buckets in a campaign: for the text, the holdout, the order of sending. Pure.

The same campaign, person and question always give the same bucket; other campaigns or questions give independent
buckets. The bucket hashes the subject id, a keyed hash: without the key an outsider cannot compute a person's bucket.
"""

from hashlib import blake2b

_ONE = 1 << 53  # a float distinguishes so many values below 1


def lot(campaign_id: str, subject_id: str, question: str) -> float:
    """Return the person's bucket for a question, evenly from 0 to less than 1."""
    drawn = blake2b(f"{question}:{subject_id}".encode(), key=campaign_id.encode()[:64], digest_size=8).digest()
    return (int.from_bytes(drawn, "big") >> 11) / _ONE
