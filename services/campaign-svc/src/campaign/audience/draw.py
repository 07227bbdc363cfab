"""Lots drawn for people: who gets which text, who is held back, who comes first. The same person draws the same lot of
the same campaign whenever it is asked, and lots of two campaigns, or of two questions, have nothing to do with each
other. Pure.

A lot is a hash of the person's keyed hash under the campaign's name, so that nobody can tell one without the key.
"""

from hashlib import blake2b

_ONE = 1 << 53  # what a float tells apart below 1


def lot(campaign_id: str, subject_id: str, question: str) -> float:
    """From 0 to less than 1, evenly."""
    drawn = blake2b(f"{question}:{subject_id}".encode(), key=campaign_id.encode()[:64], digest_size=8).digest()
    return (int.from_bytes(drawn, "big") >> 11) / _ONE
