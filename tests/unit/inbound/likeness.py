"""Learn the weights of `inbound.keywords.likeness` from the labelled lines. `make likeness` writes them.

The lines held out of the corpus teach nothing. The figures printed are of lines that the weights had not seen: each
sixth is scored by the other five.
"""

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from inbound.keywords import likeness
from inbound.keywords.likeness import features, score
from inbound.keywords.lists import words
from inbound.keywords.normal import normalise
from tests.unit.inbound.corpus import CORPUS, labelled, lines

WRITTEN = CORPUS.parent / "written.tsv"
OUT = Path(likeness.__file__).parent / "likeness-1.json"
ROUNDS, RATE, FOLDS, SEED = 12, 0.3, 6, 3
HELD_ORDINARY = 0.08
LEAST_WEIGHT = 0.15  # smaller weights are left out
AGAIN = 4  # lines without the words of the lists teach more

Text = tuple[frozenset[str], bool]


def taught() -> tuple[list[Text], list[Text]]:
    """Return the lines of the old corpus, and those labelled or written since, each with its features."""
    old = [
        (line.text, line.opt_out)
        for line in lines()
        if not line.held_out and (line.opt_out or "none" in line.expected or line.expected[0] in ("contact", "start"))
    ]
    tuned = [line for line in labelled() if line.part == "tune"]
    new = [(line.text, line.wish) for line in tuned if line.wish or line.ordinary]
    for row in WRITTEN.read_text(encoding="utf-8").split("\n")[1:-1]:
        text, label = row.split("\t")
        new.append((text, label == "stop"))
    return [_text(*each) for each in old if each[0] not in {text for text, _ in new}], [_text(*each) for each in new]


def _text(text: str, wish: bool) -> Text:
    return frozenset(features(normalise(text), words())), wish


def learn(texts: Sequence[Text]) -> tuple[dict[str, float], float]:
    """Return weights and bias by logistic regression, one text at a time."""
    weights: dict[str, float] = {}
    bias, order, chance = 0.0, list(texts), random.Random(SEED)
    for turn in range(ROUNDS):
        chance.shuffle(order)
        rate = RATE / (1 + turn / 2)
        for found, wish in order:
            likely = 1 / (1 + math.exp(-max(-30.0, min(30.0, score(found, weights, bias)))))
            step = rate * (wish - likely)
            bias += step / 10
            for each in sorted(found):
                weights[each] = weights.get(each, 0.0) + step / math.sqrt(len(found) + 1)
    return weights, bias


def unseen(old: list[Text], new: list[Text]) -> list[tuple[float, bool]]:
    """Return the score of each new line by weights that had not seen the line."""
    order = list(new)
    random.Random(SEED).shuffle(order)
    found = []
    for fold in range(FOLDS):
        rest = [text for place, text in enumerate(order) if place % FOLDS != fold]
        weights, bias = learn(old + rest * AGAIN)
        found += [(score(text, weights, bias), wish) for text, wish in order[fold::FOLDS]]
    return found


def main() -> None:
    old, new = taught()
    scores = unseen(old, new)
    ordinary = sorted((value for value, wish in scores if not wish), reverse=True)
    above = ordinary[int(HELD_ORDINARY * len(ordinary))]
    caught = [value > above for value, wish in scores if wish]
    weights, bias = learn(old + new * AGAIN)
    kept = {name: round(value, 2) for name, value in sorted(weights.items()) if abs(value) >= LEAST_WEIGHT}
    told = {
        "about": "Weights of words for a wish to stop, learned from services/inbound-svc/corpus by `make likeness`."
        " They hold a text, and never stop or loosen.",
        "bias": round(bias, 3),
        "hold_above": round(above, 3),
        "weights": kept,
    }
    OUT.write_text(json.dumps(told, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    sys.stdout.write(
        f"{len(old) + len(new)} lines, {len(kept)} weights; unseen: {sum(caught)} of {len(caught)} wishes,"
        f" and {HELD_ORDINARY:.0%} of {len(ordinary)} ordinary lines above {above:.2f}\n"
    )


if __name__ == "__main__":
    main()
