"""Decide which names a controller may take: no look-alike of another controller's, no generic or protected name. Pure.

A name is an OADC, a brand, or a legal name. AF2M keeps lists of names that operators block, always or unless the owner
authorises the use, and does not publish the lists (DOMAIN 1.7). `names-1.json` has the names with a public source; an
operator's file of the same form adds the rest.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from common.texts.reading import read
from consent.answers.own_words import LEGAL_FORMS

FILE = resources.files("consent.senders").joinpath("names-1.json")

ALIKE = str.maketrans("01l5", "oiis")  # digits and letters alike on a telephone
SPELT = {"œ": "oe", "æ": "ae"}

Listed = Literal["forbidden", "authorised"]  # always blocked; blocked unless the platform's operator holds a document
Said = Annotated[str, Meta(min_length=1)]


class NamesUnreadable(ValueError):
    """A malformed file of names. No service starts with part of a list."""


class Name(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Said
    list: Listed
    source: Said


class Names(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of names that operators block."""

    version: Said
    about: Said
    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Blocked:
    """The names that operators block, by skeleton."""

    lists: Mapping[str, Listed]

    def refuses(self, name: str, authorised: bool) -> Listed | None:
        """Return the list that refuses the name, if any. `authorised`: the operator holds the owner's document."""
        listed = self.lists.get(skeleton(name))
        return None if listed == "authorised" and authorised else listed

    def refuses_entity(self, legal_name: str, authorised: bool) -> Listed | None:
        """Likewise of a legal name, which the law gives: the owner's document opens a name of either list."""
        return None if authorised or entity(legal_name) not in self.lists else "authorised"


def skeleton(name: str) -> str:
    """Return what a person reads: equal for names that look alike on a telephone.

    Case, accents, spaces and signs do not count. An empty skeleton has no letter and no digit.
    """
    spelt = "".join(SPELT.get(letter, letter) for letter in read(name).plain)
    return "".join(letter for letter in spelt.translate(ALIKE) if letter.isalnum())


FOREIGN = ("AG", "GmbH", "UG", "BV", "NV", "SRL", "SpA", "Ltd", "LLP", "PLC", "Inc", "LLC")
FORMS = frozenset(map(skeleton, (*LEGAL_FORMS, "SCI", "SELARL", "GIE", *FOREIGN)))


def entity(legal_name: str) -> str:
    """Return the skeleton of a legal name without its legal form: a person reads `ACME SAS` and `Acme SARL` as one."""
    plain = read(legal_name).plain.replace(".", "")
    words = [part for word in re.split(r"[\W_]+", plain) if (part := skeleton(word))]
    for end in range(1, len(words)):
        if "".join(words[end:]) in FORMS:
            words = words[:end]
            break
    for begin in range(len(words) - 1, 0, -1):
        if "".join(words[:begin]) in FORMS:
            words = words[begin:]
            break
    return "".join(words) or skeleton(legal_name)


def blocked(*files: bytes) -> Blocked:
    """Return the names of the files; of two lists with one name, the stricter counts. Raises NamesUnreadable."""
    return Blocked(_stricter(name for file in files for name in _read(file).names))


def _read(file: bytes) -> Names:
    try:
        return msgspec.json.decode(file, type=Names)
    except msgspec.DecodeError as error:
        raise NamesUnreadable(f"the file of names cannot be read: {error}") from None


def _stricter(names: Iterable[Name]) -> dict[str, Listed]:
    found: dict[str, Listed] = {}
    for name in names:
        if not (seen := skeleton(name.name)):
            raise NamesUnreadable("the file of names has a name without a letter or digit")
        found[seen] = "forbidden" if "forbidden" in (name.list, found.get(seen)) else "authorised"
    return found
