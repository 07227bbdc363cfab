"""Match a clause against the lists: its phrases, the rules of several words, the clause without courtesies. Pure."""

import re
from collections.abc import Iterator, Sequence, Set
from itertools import groupby

from inbound.keywords.grammar import Clause, Hit
from inbound.keywords.lists import Together, Words

TOGETHER_REACH = 12  # words after the first group for the others
SHORT_CODE = re.compile(r"[3-8]\d{4}")


def together(clause: Clause, known: Words) -> str | None:
    """Return the file of a rule with a word of every group in the clause, in order.

    An example: "je ne VEUX PLUS jamais RECEVOIR ça".
    """
    if known.together.keys().isdisjoint(clause):  # as of most clauses
        return None
    words = set(clause)
    ruled = {word: rules for word in words if (rules := _possible(known.together.get(word, ()), words))}
    for place, word in enumerate(clause) if ruled else ():
        for rule, file in ruled.get(word, ()):
            after = iter(clause[place + 1 : place + 1 + TOGETHER_REACH])
            if all(any(word in group for word in after) for group in rule.groups[1:]):
                return file
    return None


def _possible(rules: Sequence[tuple[Together, str]], words: Set[str]) -> list[tuple[Together, str]]:
    """Return the rules which have a word of each group, in any order, and none of `unless`."""
    return [
        (rule, file)
        for rule, file in rules
        if rule.unless.isdisjoint(words) and not any(map(words.isdisjoint, rule.groups[1:]))
    ]


def hits_of(clause: Clause, exact: Clause, known: Words) -> list[Hit]:
    """Return the listed phrases, with courtesies ("no thanks") and without ("schrijf mij aub uit")."""
    found = list(_phrases(clause, known))
    return found if len(exact) == len(clause) else [*found, *_phrases(exact, known)]


def _phrases(clause: Clause, known: Words) -> Iterator[Hit]:
    phrases = known.phrases
    for place, word in enumerate(clause):
        if by_second := phrases.get(word):
            second = clause[place + 1] if place + 1 < len(clause) else ""
            for phrase in by_second.get(second, ()) if second else ():
                if tuple(clause[place : place + len(phrase.words)]) == phrase.words:
                    yield clause, place, phrase
            for phrase in by_second.get("", ()):
                yield clause, place, phrase


def without_courtesy(clause: Clause, known: Words) -> Clause:
    """Return the clause without courtesies, and without a short code at its end."""
    left: list[str] = []
    if known.courtesy.keys().isdisjoint(clause):
        left += clause
    place = len(left)
    while place < len(clause):
        for phrase in known.courtesy.get(clause[place], ()):
            if len(phrase) == 1 or tuple(clause[place : place + len(phrase)]) == phrase:
                place += len(phrase)
                break
        else:
            left.append(clause[place])
            place += 1
    if left and short_code(left[-1]):
        left = left[:-2] if left[-2:-1] == ["au"] else left[:-1]
    return left


def without_fillers(exact: Clause, known: Words) -> tuple[str, ...]:
    """Return the clause without the words that change nothing in a stop: "franchement arrete la"; () if none is so."""
    if len(set(exact)) == len(exact) and known.fillers.isdisjoint(exact):
        return ()
    bare = tuple([word for word, _ in groupby(word for word in exact if word not in known.fillers)])
    return bare if len(bare) < len(exact) else ()


def short_code(word: str) -> bool:
    return len(word) == 5 and SHORT_CODE.fullmatch(word) is not None
