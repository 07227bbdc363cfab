"""Decide the reach of a STOP: the named senders, every sender of the short code, or every sender. Pure.

    STOP ALL, STOP TOUT          every sender
    STOP ACME, on a shared code  the sender of that brand alone
    STOP ACME ET LUNE            both senders
    STOP, STOP DUPONT, STOP ACME je n'en peux plus   every sender of the code: unknown name, or more than names

Only a brand narrows a STOP, and only without other words; in doubt the STOP is wider (DOMAIN 2.4: unknown name, all). A
short code without an owner has no senders: then the caller stops every sender where the result is "code".
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# "STOP pub de Maison Lune", "STOP Acme y Luna"
AROUND_NAMES = frozenset({
    "a", "au", "aux", "de", "des", "du", "la", "le", "les", "l", "d", "et", "ou", "y", "and", "or", "und", "en", "e",
    "of", "the", "from", "von", "van", "da", "di", "do",
    "pub", "pubs", "sms", "mms", "promo", "promos", "message", "messages",
})  # fmt: skip
NOT_A_LETTER = re.compile(r"[\W_]+")
REPEATED_LETTER = re.compile(r"([^\W\d_])\1{2,}")


@dataclass(frozen=True, slots=True)
class Scope:
    """The reach of a STOP. `senders`: ids, if `reach` is "named"."""

    reach: Literal["everyone", "code", "named"]
    senders: tuple[str, ...] = ()


EVERYONE = Scope("everyone")
CODE = Scope("code")


def scope(named: Sequence[str], everyone: bool, names: Mapping[str, Sequence[str]]) -> Scope:
    """Return the reach of a stop understood as (`named`, `everyone`).

    `names`: the senders of the short code, each by brand, OADC, legal name.
    """
    if everyone:
        return EVERYONE
    owners: dict[str, set[str]] = {}
    for sender, called in names.items():
        for name in called:
            if key := _plain(name):
                owners.setdefault(key, set()).add(sender)
    said = [_plain(word) for word in named]
    found: set[str] = set()
    place = 0
    while place < len(said):
        end = _longest_name(said, place, owners)
        if end > place:
            found |= owners["".join(said[place:end])]
            place = end
        elif said[place] in AROUND_NAMES:
            place += 1
        else:
            return CODE
    return Scope("named", tuple(sorted(found))) if found else CODE


def _longest_name(said: Sequence[str], place: int, owners: Mapping[str, object]) -> int:
    """Return the end of the longest known name at `place`; `place` if none."""
    return next((end for end in range(len(said), place, -1) if "".join(said[place:end]) in owners), place)


def _plain(name: str) -> str:
    """Return a name without case, accents, spaces, punctuation, and no letter three times in a row."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", name).casefold())
    letters = "".join(char for char in folded if unicodedata.category(char)[0] != "M")
    return REPEATED_LETTER.sub(r"\1", NOT_A_LETTER.sub("", letters))
