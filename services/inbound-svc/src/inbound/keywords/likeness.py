"""Hold a text that no list has, and that is like the texts of people who want to stop. Pure.

The weights of words are learned from the labelled corpus (`make likeness`). A likeness only holds: a text above the
threshold waits for a reviewer. No likeness stops anyone, or loosens.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

import msgspec

from inbound.keywords.lists import Words
from inbound.keywords.normal import Normal

START_CHARS = 5  # of a word, for its family: "harcel", "harcelement"
LEAST_WORDS = 2
NEGATIONS = frozenset(["ne", "n", "pas", "plus", "jamais", "rien", "non", "pa", "pu", "aucun", "not", "no", "never"])
READER = frozenset(["vous", "vos", "votre", "tes", "ton", "ta", "tu", "your", "you"])
WRITER = frozenset(["je", "j", "moi", "me", "m", "mon", "ma", "mes", "i", "my"])


class Weights(msgspec.Struct, frozen=True):
    """What each feature of a text weighs for a wish to stop. `hold_above`: the score from which a text is held."""

    about: str
    bias: float
    hold_above: float
    weights: Mapping[str, float]


@cache
def load(name: str = "likeness-1") -> Weights:
    """Load the weights `name`. Raises FileNotFoundError or msgspec.ValidationError."""
    return msgspec.json.decode(resources.files(__package__).joinpath(f"{name}.json").read_bytes(), type=Weights)


def holds(plain: Normal, known: Words) -> bool:
    """Return whether the text is so like a wish to stop that a reviewer has to read it. A single word is the lists'."""
    if sum([not word.isdigit() for clause in plain.clauses for word in clause]) < LEAST_WORDS:
        return False
    learned = load()
    return score(frozenset(features(plain, known)), learned.weights, learned.bias) > learned.hold_above


def score(found: frozenset[str], weights: Mapping[str, float], bias: float) -> float:
    """Return the likeness: the sum of the weights, for a text of any length."""
    return bias + sum([weights[each] for each in found if each in weights]) / math.sqrt(len(found) + 1)


def features(plain: Normal, known: Words) -> Iterator[str]:
    """Yield the words, their beginnings and neighbours, and who speaks to whom."""
    said = [word for clause in plain.clauses for word in clause]
    for word, after in zip(["^", *said], [*said, "$"], strict=True):
        yield f"{word} {after}"
    for word in said:
        yield word
        if len(word) >= START_CHARS:
            yield f"{word[:START_CHARS]}*"
    yield from (f"={symbol}" for symbol in plain.symbols)
    if plain.question:
        yield "=?"
    told = [name for name, group in _groups(known) if not group.isdisjoint(said)]
    yield from (f"={name}" for name in told)
    yield from (f"={name} {other}" for place, name in enumerate(told) for other in told[place + 1 :])


def _groups(known: Words) -> tuple[tuple[str, frozenset[str]], ...]:
    return (("not", NEGATIONS), ("you", READER), ("me", WRITER), ("texts", known.traffic), ("life", known.everyday))
