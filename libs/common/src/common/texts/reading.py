"""Read a text as a person sees the text: small plain letters, without marks, disguises and invisible characters. Pure.

The steps are those of DOMAIN 2.3. Each character keeps its place in the original text.
"""

import unicodedata
from dataclasses import dataclass

from common.texts.look_alikes import BEFORE_FOLDING, LETTERS, SIGNS, letter_drawn

PLAIN = LETTERS | SIGNS
KNOWN_CHARS = 20_000  # bounds memory


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as read. `places`: of each character of `plain`, the index in the original text."""

    text: str
    plain: str
    places: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original text behind `plain[start:end]`, which is not empty."""
        return self.places[start], self.places[end - 1] + 1


def read(text: str) -> Reading:
    plain: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        seen = SEEN[ord(char)]
        plain.append(seen)
        places += [place] * len(seen)
    return Reading(text, "".join(plain), tuple(places))


class _Seen(dict[int, str]):
    """Each character as a reader sees it, perhaps none or several."""

    def __missing__(self, code: int) -> str:
        drawn = BEFORE_FOLDING.get(chr(code), chr(code))
        shown = "".join(map(_shown, unicodedata.normalize("NFKC", drawn))).casefold()
        bare = (char for char in unicodedata.normalize("NFD", shown) if unicodedata.category(char)[0] != "M")
        seen = "".join(PLAIN.get(char, char) for char in bare)
        if len(self) < KNOWN_CHARS:
            self[code] = seen
        return seen


SEEN = _Seen()


def _shown(char: str) -> str:
    kind = unicodedata.category(char)
    if char.isspace() or kind in ("Zl", "Zp"):
        return " "
    if kind in ("Cc", "Cf", "Cs", "Mn", "Me") or char in "\u115f\u1160\u3164\uffa0":  # invisible, or Hangul fillers
        return ""
    if kind == "Pd":
        return "-"
    if (digit := unicodedata.digit(char, None)) is not None:
        return str(digit)
    return letter_drawn(char)
