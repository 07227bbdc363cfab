"""Whom a STOP is for: the senders it names, every sender of the code it was sent to, or everyone. Pure.

    STOP ALL, STOP TOUT          everyone
    STOP ACME, on a shared code  the sender of that brand, and it alone
    STOP ACME ET LUNE            both
    STOP, STOP DUPONT, STOP ACME je n'en peux plus   every sender of the code: a name nobody knows, or more than names

Naming a brand is the only thing that narrows a STOP, so it must be all that is said; in doubt the STOP is wider
(DOMAIN 2.4: unknown name, all). A code nobody owns has no senders to name: the caller stops everyone, as for `code`.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# Said around a name without meaning anything more: "STOP pub de Maison Lune", "STOP Acme y Luna".
AROUND_NAMES = frozenset({
    "a", "au", "aux", "de", "des", "du", "la", "le", "les", "l", "d", "et", "ou", "y", "and", "or", "und", "en", "e",
    "of", "the", "from", "von", "van", "da", "di", "do",
    "pub", "pubs", "sms", "mms", "promo", "promos", "message", "messages",
})  # fmt: skip
NOT_A_LETTER = re.compile(r"[\W_]+")
REPEATED_LETTER = re.compile(r"([^\W\d_])\1{2,}")


@dataclass(frozen=True, slots=True)
class Scope:
    """`senders`: those named, in the order of their ids; empty unless `reach` is "named"."""

    reach: Literal["everyone", "code", "named"]
    senders: tuple[str, ...] = ()


EVERYONE = Scope("everyone")
CODE = Scope("code")


def scope(named: Sequence[str], everyone: bool, names: Mapping[str, Sequence[str]]) -> Scope:
    """The reach of a stop understood as (`named`, `everyone`), where `names` gives the senders that use the code, each
    with what people may call it: brand, OADC, list names."""
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
    """Where the longest known name that begins at `place` ends; `place` when none does."""
    return next((end for end in range(len(said), place, -1) if "".join(said[place:end]) in owners), place)


def _plain(name: str) -> str:
    """A name as people type it: no case, accents, spaces or punctuation, and no letter three times over."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", name).casefold())
    letters = "".join(char for char in folded if unicodedata.category(char)[0] != "M")
    return REPEATED_LETTER.sub(r"\1", NOT_A_LETTER.sub("", letters))
