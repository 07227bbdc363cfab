"""Find the opt-outs that are written as they sound, or in one word: "aretez vo mesage", "pludesmsmerci". Pure.

A likeness of sound is a guess: it may only tighten.
"""

import re
from collections.abc import Iterable, Sequence, Set
from functools import lru_cache

SOUNDS = (
    (re.compile(r"ph"), "f"),
    (re.compile(r"qu|q|ck"), "k"),
    (re.compile(r"c(?=[eiy])"), "s"),
    (re.compile(r"c(?!h)"), "k"),
    (re.compile(r"g(?=[eiy])"), "j"),
    (re.compile(r"eau|au"), "o"),
    (re.compile(r"ai|ei"), "e"),
    (re.compile(r"y"), "i"),
    (re.compile(r"z"), "s"),
    (re.compile(r"(.)\1+"), r"\1"),
    (re.compile(r"(?<=..)[sxtd]$"), ""),
    (re.compile(r"(?<=...)(?:er|es?|ent)$"), ""),
)
GLUED_CHARS = 7  # of a phrase without its spaces; a shorter one stands in other words
GLUED_STRANGE = 4  # characters of a phrase in words of no list
WORD_CHARS = 6  # of an unknown word which may be several


@lru_cache(maxsize=16_384)
def sound(word: str) -> str:
    """Return a word as it sounds in French, roughly: "laissez", "laissé" and "laisse" are one."""
    if word.isascii():
        for pattern, plain in SOUNDS:
            word = pattern.sub(plain, word)
    return word


def glued(phrases: Iterable[tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return the phrases without spaces, written and as they sound, by their first GLUED_CHARS characters."""
    found: dict[str, set[str]] = {}
    for phrase in phrases:
        for joined in ("".join(phrase), "".join(map(sound, phrase))):
            if len(phrase) > 1 and len(joined) >= GLUED_CHARS:
                found.setdefault(joined[:GLUED_CHARS], set()).add(joined)
    return {start: tuple(sorted(each)) for start, each in found.items()}


def has_glued(clause: Sequence[str], phrases: dict[str, tuple[str, ...]], known: Set[str]) -> bool:
    """Return whether a phrase stands in the clause without regard to its spaces, and mostly in words of no list."""
    for words in (clause, tuple(map(sound, clause))):
        joined = "".join(words)
        strange = "".join(str(int(word not in known)) * len(said) for word, said in zip(clause, words, strict=True))
        for place in range(len(joined) - GLUED_CHARS + 1):
            for phrase in phrases.get(joined[place : place + GLUED_CHARS], ()):
                if joined.startswith(phrase, place) and strange.count("1", place, place + len(phrase)) >= GLUED_STRANGE:
                    return True
    return False
