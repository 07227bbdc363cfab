"""Texts as people type them, made comparable: case, accents, fancy letters, hidden characters, emoji, spacing.

Pure. The steps are those of DOMAIN 2.3. Nothing here knows a language or an intent: `classifier` does.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

# Letters drawn as symbols; their Unicode name ends with the letter. NFKC already folds the mathematical, circled and
# full-width ones.
DRAWN_LETTERS = (
    "NEGATIVE CIRCLED LATIN CAPITAL LETTER ",
    "NEGATIVE SQUARED LATIN CAPITAL LETTER ",
    "REGIONAL INDICATOR SYMBOL LETTER ",
    "LATIN LETTER SMALL CAPITAL ",
)

# Shown as nothing, though Unicode calls them letters.
HANGUL_FILLERS = "\u115f\u1160\u3164\uffa0"

# Digits, signs, Cyrillic, Greek and barred letters drawn like a Latin one, after case folding.
DISGUISES = {
    "a": "4@аα", "b": "вβ", "c": "сς", "d": "đðԁ", "e": "3€еε", "h": "нħ", "i": "1ιі", "j": "ј", "k": "кκ", "l": "ł",
    "m": "м", "n": "ոη", "o": "0оοøө", "p": "рρ", "s": "5$ѕσ", "t": "7тτŧ", "u": "υ", "v": "ν", "x": "хχ", "y": "у",
}  # fmt: skip
LOOK_ALIKES = {ord(char): letter for letter, chars in DISGUISES.items() for char in chars}
SHORT_WORD_CHARS = 12  # a longer "word" is a link or a code, not a disguise

SPACED_LETTERS = re.compile(r"(?<![^\W_])(?:[^\W\d_][\W_]{1,3}){2,}[^\W\d_](?![^\W_])")
REPEATED_LETTER = re.compile(r"([^\W\d_])\1{2,}")
GLUED_CODE = re.compile(r"\b([^\W\d_]+)(\d{5})\b")
CLAUSE_END = re.compile(r"[.!?;:,…]+(?=\s|$)|\n+")
NOT_A_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Normal:
    """`clauses`: the words between stops and line ends, none empty. `symbols`: what was neither letter nor digit nor
    punctuation (emoji). `question`: a question mark stood somewhere."""

    clauses: tuple[tuple[str, ...], ...]
    symbols: frozenset[str]
    question: bool

    def __str__(self) -> str:
        return "\n".join(" ".join(clause) for clause in self.clauses)


def normalise(text: str, *, look_alikes: bool = False) -> Normal:
    """`text` as clauses of plain lower-case words.

    `look_alikes` also reads "ST0P" and "SТОР" (Cyrillic) as "stop". That is a guess: use it to find an opt-out, never
    to find what loosens.
    """
    shown = "".join(map(_shown, unicodedata.normalize("NFKC", text)))
    folded = "".join(
        char for char in unicodedata.normalize("NFD", shown.casefold()) if unicodedata.category(char)[0] != "M"
    )
    if look_alikes:
        folded = " ".join(map(_without_disguise, folded.split(" ")))
    symbols = frozenset(char for char in folded if unicodedata.category(char) == "So")
    joined = SPACED_LETTERS.sub(lambda run: NOT_A_WORD.sub("", run.group()), folded)
    single = GLUED_CODE.sub(r"\1 \2", REPEATED_LETTER.sub(r"\1", joined))
    clauses = (tuple(NOT_A_WORD.sub(" ", clause).split()) for clause in CLAUSE_END.split(single))
    return Normal(tuple(filter(None, clauses)), symbols, "?" in folded)


@lru_cache(maxsize=4096)
def _shown(char: str) -> str:
    """The character as a reader takes it: a letter, a space, a line end, or nothing when it is not drawn at all."""
    if char in "\n\r\v\f\x85\u2028\u2029":
        return "\n"
    if char.isspace():
        return " "
    category = unicodedata.category(char)
    if category in ("Cc", "Cf", "Cs") or char in HANGUL_FILLERS:
        return ""
    name = unicodedata.name(char, "")
    for prefix in DRAWN_LETTERS:
        if name.startswith(prefix) and len(name) == len(prefix) + 1:
            return name[-1]
    return char


def _without_disguise(word: str) -> str:
    disguised = len(word) <= SHORT_WORD_CHARS and (len(word) == 1 or any(char.isalpha() for char in word))
    return word.translate(LOOK_ALIKES) if disguised else word
