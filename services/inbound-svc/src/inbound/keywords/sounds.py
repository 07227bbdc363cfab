"""Find the opt-outs that are written as they sound, or in one word: "aretez vo mesage", "pludesmsmerci". Pure.

A likeness of sound is a guess: it may only tighten.
"""

import re
from collections.abc import Iterable, Sequence, Set
from functools import lru_cache

# in this order; a pattern of them all, read once, gives the same
SOUNDS = (
    *(("ph", "f"), ("ck", "k"), ("qu", "k"), ("q", "k")),
    *(("ce", "se"), ("ci", "si"), ("cy", "sy"), ("ch", "\0"), ("c", "k"), ("\0", "ch")),
    *(("ge", "je"), ("gi", "ji"), ("gy", "jy")),
    *(("eau", "o"), ("au", "o"), ("ei", "e"), ("ai", "e"), ("y", "i"), ("z", "s")),
)
TWICE = re.compile(r"(.)\1+")
MUTE, MUTE_AFTER = "sxtd", 2  # a last letter, and the letters before
ENDINGS, ENDING_AFTER = ("ent", "er", "es", "e"), 3
GLUED_CHARS = 7  # of a phrase without its spaces; a shorter one stands in other words
GLUED_STRANGE = 4  # characters of a phrase in words of no list
WORD_CHARS = 6  # of an unknown word which may be several


@lru_cache(maxsize=16_384)
def sound(word: str) -> str:
    """Return a word as it sounds in French, roughly: "laissez", "laissé" and "laisse" are one."""
    return sounded(word) if word.isascii() else word


def sounded(word: str) -> str:
    """Return an ASCII word as it sounds."""
    for written, plain in SOUNDS:
        if written in word:
            word = word.replace(written, plain)
    word = TWICE.sub(r"\1", word)
    if len(word) > MUTE_AFTER and word[-1] in MUTE:
        word = word[:-1]
    for ending in ENDINGS:
        if word.endswith(ending):
            return word[: -len(ending)] if len(word) - len(ending) >= ENDING_AFTER else word
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
