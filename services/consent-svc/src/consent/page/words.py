"""Hold the page's sentences: fr.json and en.json with the same keys, and each language's dates. Pure.

French is the default: the page answers to French law.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Literal, get_args

import msgspec

from common.limits import PARIS

Language = Literal["fr", "en"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
ACCEPTED = re.compile(
    r"\s*([A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?\s*", re.ASCII
)
ACCEPTED_CHARS = 500  # of an Accept-Language header


@dataclass(frozen=True, slots=True)
class Words:
    language: Language
    sentences: Mapping[str, str]
    months: tuple[str, ...]

    def __call__(self, key: str, **named: object) -> str:
        """Return the sentence with its names filled in. Raises KeyError: a hole is a bug."""
        return self.sentences[key].format(**named)

    def has(self, key: str) -> bool:
        return key in self.sentences

    def day(self, at: datetime) -> str:
        """Return the date in French time."""
        local = at.astimezone(PARIS)
        first = "1er" if local.day == 1 and self.language == "fr" else str(local.day)
        return f"{first}\u00a0{self.months[local.month - 1]} {local.year}"

    def moment(self, at: datetime) -> str:
        local = at.astimezone(PARIS)
        return self("moment", day=self.day(at), hour=local.hour, minute=f"{local.minute:02d}")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    months: tuple[str, ...]
    sentences: dict[str, str]


def _read(language: Language) -> Words:
    content = msgspec.json.decode(resources.files(__package__).joinpath(f"{language}.json").read_bytes(), type=_File)
    return Words(language, content.sentences, content.months)


WORDS: Mapping[str, Words] = {language: _read(language) for language in LANGUAGES}


def chosen(asked: str | None, accepts: str | None) -> Words:
    """Return the language. `asked`: the person's choice; `accepts`: Accept-Language."""
    if asked and asked in WORDS:
        return WORDS[asked]
    wanted: dict[str, float] = {}
    for part in (accepts or "")[:ACCEPTED_CHARS].split(","):
        if found := ACCEPTED.fullmatch(part):
            wanted.setdefault(found[1].lower(), float(found[2] or 1))
    best = max(LANGUAGES, key=lambda language: wanted.get(language, 0.0))  # French wins a tie
    return WORDS[best]
