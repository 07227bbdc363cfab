"""Decide whether a person may approve a campaign or a template. Pure."""

import unicodedata
from collections.abc import Iterable


def may_approve(person: str, authors: Iterable[str]) -> bool:
    """Return whether the person is none of the authors.

    Two spellings of one name are one person: the identity provider may show an address in either.
    """
    return _folded(person) not in map(_folded, authors)


def _folded(person: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", person).casefold()).strip()
