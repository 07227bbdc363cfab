"""The corpus, and how well each reader does on it. `make corpus` prints the table.

services/inbound-svc/corpus/corpus.tsv, one text a line: text (\\n for a line end), language ("fr", "en-US"; "und":
any), expected class (several where either is right: "review|none"), set ("held": never looked at while the rules
were tuned), why.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from inbound.keywords import classify
from inbound.keywords.lists import slips
from tests.unit.inbound.rivals import RIVALS

CORPUS = Path(__file__).parents[3] / "services/inbound-svc/corpus/corpus.tsv"
CLASSES = ("stop", "erase", "start", "confirm", "contact", "review", "none")

# What each row of the table counts. Asking for erasure is an opt-out; held: no marketing until a person has decided.
ROWS = {
    "opt-out": {"stop", "erase"},
    "opt-out or held": {"stop", "erase", "review"},
    "start or confirm": {"start", "confirm"},
    **{name: {name} for name in CLASSES},
}

# DOMAIN 2.2: the words of every language, as a rule that looks for a word anywhere would have them.
NAIVE_WORDS = (
    "stop", "arret", "arrêt", "desinscri", "désinscri", "desabonn", "désabonn", "resili", "plus de", "unsubscribe",
    "cancel", "end", "quit", "revoke", "optout", "opt out", "remove", "off the list", "no more", "baja",
    "parar", "paren", "alto", "abmeld", "beenden", "afmeld", "basta", "cancella", "sair", "parem", "توقف", "قف",
    "الغاء", "start", "reprise", "reprendre", "oui", "yes", "alta", "si ", "ja ", "sim ",
    "contact", "aide", "info", "help",
)  # fmt: skip
ONE_SLIP = slips("stop") | {"top"}


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    language: str
    expected: tuple[str, ...]
    held_out: bool
    why: str

    @property
    def hints(self) -> dict[str, str | None]:
        language, _, country = self.language.partition("-")
        return {"language": None if language == "und" else language, "country": country or None}

    @property
    def opt_out(self) -> bool:
        return self.expected[0] in ROWS["opt-out"]

    @property
    def tempting(self) -> bool:
        """A negative that a rule looking for a known word anywhere, or one slip from STOP, gets wrong."""
        if not ROWS["opt-out"].isdisjoint(self.expected) or self.expected[0] in ("start", "confirm", "contact"):
            return False
        said = self.text.lower()
        return any(word in f"{said} " for word in NAIVE_WORDS) or said.strip() in ONE_SLIP


@dataclass(frozen=True, slots=True)
class Reading:
    line: Line
    got: str
    certain: bool


@cache
def lines() -> tuple[Line, ...]:
    head, *rows = CORPUS.read_text(encoding="utf-8").split("\n")[:-1]
    assert head.split("\t") == ["text", "language", "expected", "set", "why"]
    return tuple(_line(*row.split("\t")) for row in rows)


def _line(text: str, language: str, expected: str, part: str, why: str) -> Line:
    return Line(text.replace("\\n", "\n"), language, tuple(expected.split("|")), part == "held", why)


def ours(line: Line) -> Reading:
    return _understood(line, line.hints)


def ours_without_hints(line: Line) -> Reading:
    return _understood(line, {"language": None, "country": None})


def _understood(line: Line, hints: dict[str, str | None]) -> Reading:
    found = classify(line.text, **hints)
    return Reading(line, "erase" if found.erasure else found.intent, found.score == 1.0)


def _rival(read: Callable[[str], str]) -> Callable[[Line], Reading]:
    return lambda line: Reading(line, read(line.text), certain=True)


READERS: dict[str, Callable[[Line], Reading]] = {
    "ours": ours,
    "no hints": ours_without_hints,
    **{name: _rival(read) for name, read in RIVALS.items()},
}


def precision(readings: Iterable[Reading], row: str) -> float | None:
    """Of what was read as `row`, how much is so. None where nothing was."""
    named = [r for r in readings if r.got in ROWS[row]]
    return sum(not ROWS[row].isdisjoint(r.line.expected) for r in named) / len(named) if named else None


def recall(readings: Iterable[Reading], row: str) -> float | None:
    """Of what is `row`, how much was read so. A line that may be two things counts where it was read as either."""
    due = [r for r in readings if not ROWS[row].isdisjoint(r.line.expected)]
    due = [r for r in due if r.got in ROWS[row] or r.got not in r.line.expected]
    return sum(r.got in ROWS[row] for r in due) / len(due) if due else None


def false_certainties(readings: Iterable[Reading]) -> list[Reading]:
    """Read as an opt-out with certainty, and none."""
    opt_out = ROWS["opt-out"]
    return [r for r in readings if r.got in opt_out and r.certain and opt_out.isdisjoint(r.line.expected)]


def accidental_starts(readings: Iterable[Reading]) -> list[Reading]:
    """What loosens, read where nobody asked for it."""
    return [r for r in readings if r.got in ROWS["start or confirm"] and r.got not in r.line.expected]


def report() -> Iterator[str]:
    corpus = lines()
    tempting = sum(line.tempting for line in corpus)
    held = sum(line.held_out for line in corpus)
    yield f"{len(corpus)} lines, {held} held out; {tempting} are negatives that a rule looking for a word gets wrong"
    for title, part in (
        ("all lines", corpus),
        ("held out", [line for line in corpus if line.held_out]),
        ("tuned on", [line for line in corpus if not line.held_out]),
    ):
        yield ""
        yield from _table(title, part)
    yield ""
    yield from _by_language(corpus)


def _table(title: str, part: Sequence[Line]) -> Iterator[str]:
    read = {name: [reader(line) for line in part] for name, reader in READERS.items()}
    yield f"{title} ({len(part)})".ljust(26) + "".join(name.rjust(15) for name in READERS)
    yield "".ljust(26) + "   prec. recall" * len(READERS)
    for row in ROWS:
        due = sum(line.expected[0] in ROWS[row] for line in part)
        cells = (f"{_percent(precision(r, row))} {_percent(recall(r, row))}".rjust(15) for r in read.values())
        yield f"{row} ({due})".ljust(26) + "".join(cells)
    for title, count in (("stop by mistake, certain", false_certainties), ("start by accident", accidental_starts)):
        yield title.ljust(26) + "".join(str(len(count(r))).rjust(15) for r in read.values())


def _by_language(corpus: Sequence[Line]) -> Iterator[str]:
    yield "opt-outs by language".ljust(26) + "".join(name.rjust(15) for name in READERS)
    for language in dict.fromkeys(line.language for line in corpus):
        part = [line for line in corpus if line.language == language]
        read = [[reader(line) for line in part] for reader in READERS.values()]
        cells = (f"{_percent(precision(r, 'opt-out'))} {_percent(recall(r, 'opt-out'))}".rjust(15) for r in read)
        yield f"{language} ({sum(line.opt_out for line in part)})".ljust(26) + "".join(cells)


def _percent(share: float | None) -> str:
    return "    -" if share is None else f"{share * 100:5.1f}"


def texts_a_second() -> float:
    """How many texts of the corpus one core understands in a second, the best of three rounds."""
    rounds = []
    for _ in range(3):
        began = time.perf_counter()
        for line in lines():
            classify(line.text)
        rounds.append(time.perf_counter() - began)
    return len(lines()) / min(rounds)


if __name__ == "__main__":
    sys.stdout.write("\n".join(report()) + f"\n\n{texts_a_second():,.0f} texts a second on one core\n")
