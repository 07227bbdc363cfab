"""Normalise texts for comparison.

Pure. The steps are those of DOMAIN 2.3.
"""

import re
import unicodedata
from collections.abc import Sequence

import msgspec

from common.texts.look_alikes import LETTERS, letter_drawn

# letters to Unicode: Hangul fillers, the Arabic stretch (tatweel)
NOT_DRAWN = "\u115f\u1160\u3164\uffa0\u0640"

# Arabic letters which keyboards and habits interchange, and punctuation
ARABIC = {"ى": "ي", "ی": "ي", "ة": "ه", "ک": "ك", "ٱ": "ا", "ء": "", "؟": "?", "،": ",", "؛": ";", "۔": "."}

AS_WRITTEN = ARABIC | {"œ": "oe", "æ": "ae"}

# digits and signs written for letters
DISGUISES = {"4": "a", "@": "a", "3": "e", "€": "e", "1": "i", "0": "o", "5": "s", "$": "s", "7": "t", "†": "t"}
DRAWN = str.maketrans(LETTERS)
LOOK_ALIKES = str.maketrans(LETTERS | DISGUISES)
SHORT_WORD_CHARS = 20  # a longer "word" is a link or a code
KNOWN_CHARS = 20_000  # bounds memory

SPACED_LETTERS = re.compile(r"(?<![^\W_])(?:[^\W\d_][\W_]{1,3}){2,}[^\W\d_](?![^\W_])")
REPEATED_LETTER = re.compile(r"([^\W\d_])\1{2,}")
CODE = re.compile(r"\d{5}")
GLUED_CODE = re.compile(r"\b([^\W\d_]+)(\d{5})\b")
SPLIT_CODE = re.compile(r"\bau ([3-8]\d) (\d{3})\b")
NUMBER_SIGN = re.compile(r"\bn[°º]")  # "n°4471" is no negation
MIXED = re.compile(r"[^\W\d_]*(?:[a-z][^\W\d_a-z]|[^\W\d_a-z][a-z])[^\W\d_]*")  # Latin and other letters in a word
CLAUSE_END = re.compile(r"([!?]+|[.;:,]+(?=\s|$)|\n+)")
BETWEEN_SPACES = re.compile(r"\S+")
WORD = re.compile(r"[^\W_]+")
NOT_A_WORD = re.compile(r"[\W_]+")

Clauses = tuple[tuple[str, ...], ...]


class Normal(msgspec.Struct, frozen=True, gc=False):
    """A normalised text.

    `clauses`: the words between stops and line ends. `marks`: the punctuation that ends each. `symbols`: emoji and the
    like. `disguised`: reading look-alikes would change the text.
    """

    clauses: Clauses
    marks: tuple[str, ...]
    symbols: frozenset[str]
    question: bool
    disguised: bool

    def __str__(self) -> str:
        return "\n".join([" ".join(clause) for clause in self.clauses])


def normalise(text: str, *, look_alikes: bool = False) -> Normal:
    """Return `text` as clauses of plain lower-case words.

    In a word of Latin letters, a letter of another alphabet stands for the Latin letter it looks like.

    `look_alikes` also reads "ST0P" and "SТОР" (Cyrillic) as "stop". The reading is a guess: use it to find an opt-out,
    never an intent which loosens.
    """
    folded = text.lower() if text.isascii() and text.isprintable() else text.translate(FOLDED)
    if not folded.isascii():
        folded = NUMBER_SIGN.sub("numero ", folded)
        folded = MIXED.sub(lambda word: word.group().translate(DRAWN), folded)
    disguised = folded.translate(LOOK_ALIKES) != folded
    if look_alikes and disguised:
        folded = BETWEEN_SPACES.sub(lambda word: _without_disguise(word.group()), folded)
    symbols = NO_SYMBOLS
    if not folded.isascii():
        symbols = frozenset(char for char in folded if unicodedata.category(char) == "So")
    clauses, marks = _clauses(folded)
    if sum([len(word) == 1 for clause in clauses for word in clause]) >= 3:
        joined = SPACED_LETTERS.sub(lambda run: NOT_A_WORD.sub("", run.group()), folded)
        clauses, marks = _clauses(joined)
    return Normal(clauses, marks, symbols, "?" in folded, disguised)


def _clauses(folded: str) -> tuple[Clauses, tuple[str, ...]]:
    single = REPEATED_LETTER.sub(r"\1", folded)
    if CODE.search(single) is not None:
        single = GLUED_CODE.sub(r"\1 \2", single)
    if "au " in single:
        single = SPLIT_CODE.sub(r"au \1\2", single)
    parts = [*CLAUSE_END.split(single), ""]
    clauses, marks = list[tuple[str, ...]](), list[str]()
    for part, mark in zip(parts[::2], parts[1::2], strict=True):
        if clause := tuple(WORD.findall(part)):
            clauses.append(clause)
            marks.append(mark)
    return tuple(clauses), tuple(marks)


class _Folded(dict[int, str]):
    """Each character as a reader sees it.

    Character by character is enough: marks are dropped, so no mark joins its neighbour.
    """

    def __missing__(self, code: int) -> str:
        compatible = unicodedata.normalize("NFKC", chr(code))
        shown = "".join(map(_shown, compatible)).casefold()
        parts = [char for char in unicodedata.normalize("NFD", shown) if unicodedata.category(char)[0] != "M"]
        plain = "".join([AS_WRITTEN.get(char, char) for char in parts])
        if len(self) < KNOWN_CHARS:
            self[code] = plain
        return plain


FOLDED = _Folded()
NO_SYMBOLS: frozenset[str] = frozenset()


def _shown(char: str) -> str:
    if char in "\n\r\v\f\x85\u2028\u2029":
        return "\n"
    if char.isspace():
        return " "
    if unicodedata.category(char) in ("Cc", "Cf", "Cs") or char in NOT_DRAWN:
        return ""
    return letter_drawn(char)


def _without_disguise(word: str) -> str:
    disguised = len(word) <= SHORT_WORD_CHARS and (len(word) == 1 or any(char.isalpha() for char in word))
    return word.translate(LOOK_ALIKES) if disguised else word


def words_of(clauses: Sequence[Sequence[str]]) -> list[str]:
    return [word for clause in clauses for word in clause]
