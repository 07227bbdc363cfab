"""The corpus, and how well each reader does on it. `make corpus` prints the table.

services/inbound-svc/corpus/corpus.tsv, one text a line: text (\\n for a line end), language ("fr", "en-US"; "und":
any), expected class (several where either is right: "review|none"), set ("held": never looked at while the rules
were tuned), why.
"""

import statistics
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
LABELLED = CORPUS.parent / "labelled.tsv"
PLAIN = CORPUS.parent / "plain.tsv"
EVERYDAY = CORPUS.parent / "everyday.tsv"
WISHES = {"stop", "stop_all", "erase"}
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
class Labelled:
    """A reply with what two people, apart, took the wish for: services/inbound-svc/corpus/README.md."""

    text: str
    language: str
    region: str
    labels: frozenset[str]
    part: str

    @property
    def wish(self) -> bool:
        return self.labels <= WISHES

    @property
    def ordinary(self) -> bool:
        return self.labels == {"nothing"}


@cache
def labelled() -> tuple[Labelled, ...]:
    head, *rows = LABELLED.read_text(encoding="utf-8").split("\n")[:-1]
    assert head.split("\t") == ["text", "language", "region", "label_1", "label_2", "set"]
    return tuple(_labelled(*row.split("\t")) for row in rows)


@cache
def plain() -> tuple[str, ...]:
    """Return the replies as they mostly are, which nothing was learned from."""
    head, *rows = PLAIN.read_text(encoding="utf-8").split("\n")[:-1]
    assert head.split("\t") == ["text", "language"]
    return tuple(row.split("\t")[0] for row in rows)


@cache
def everyday() -> tuple[tuple[str, str], ...]:
    """Return the replies to appointments, deliveries and adverts, and opt-outs in odd dress, each with its label."""
    head, *rows = EVERYDAY.read_text(encoding="utf-8").split("\n")[:-1]
    assert head.split("\t") == ["text", "label", "kind"]
    return tuple((text.replace("\\n", "\n"), label) for text, label, _ in (row.split("\t") for row in rows))


def _labelled(text: str, language: str, region: str, first: str, second: str, part: str) -> Labelled:
    return Labelled(text.replace("\\n", "\n"), language, region, frozenset((first, second)), part)


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
    for name in dict.fromkeys(line.part for line in labelled()):
        told = [line for line in labelled() if line.part == name]
        yield ""
        yield f"labelled twice, {name} ({len(told)})"
        yield from wishes(told)
    yield ""
    held = sum(classify(text).intent == "review" for text in plain())
    yield f"plain replies held, of 1,000  {1000 * held / len(plain()):6.0f}   ({held} of {len(plain())})"
    yield from _everyday()
    yield ""
    yield from _by_labelled_language()


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


def wishes(part: Sequence[Labelled]) -> Iterator[str]:
    """Tell how the labelled replies are read: which wishes are lost, whom a stop stops, what is held without need."""
    read = [(line, classify(line.text)) for line in part]
    asked = [found for line, found in read if line.wish]
    others = [found for line, found in read if line.labels.isdisjoint(WISHES)]
    ordinary = [found for line, found in read if line.ordinary]
    unasked = [found for line, found in read if "start" not in line.labels]
    for title, due, intents in (
        ("wishes read as nothing", asked, ("none", "contact", "start", "confirm")),
        ("wishes that a person reads", asked, ("review",)),
        ("stopped without asking", others, ("stop",)),
        ("ordinary replies held", ordinary, ("review",)),
        ("start by accident", unasked, ("start",)),
    ):
        count = sum(found.intent in intents for found in due)
        yield f"{title.ljust(30)}{count:5} of {len(due):4}{100 * count / max(len(due), 1):7.1f} %"


def _everyday() -> Iterator[str]:
    for label in ("stop", "nothing"):
        read = [classify(text).intent for text, told in everyday() if told == label]
        counted = ", ".join(f"{intent} {read.count(intent)}" for intent in sorted(set(read)))
        yield f"everyday, {label}".ljust(30) + f"{len(read):5}: {counted}"


def _by_labelled_language() -> Iterator[str]:
    heads: tuple[tuple[str, int], ...] = (
        ("wishes", 8),
        ("stopped", 9),
        ("held", 6),
        ("lost", 6),
        ("others", 8),
        ("stopped", 9),
    )
    heads += (("ordinary", 10), ("held", 6))
    yield "labelled".ljust(16) + "".join(head.rjust(width) for head, width in heads)
    for language in sorted({line.language for line in labelled()}):
        read = [(line, classify(line.text).intent) for line in labelled() if line.language == language]
        asked = [intent for line, intent in read if line.wish]
        ordinary = [intent for line, intent in read if line.ordinary]
        others = [intent for line, intent in read if line.labels.isdisjoint(WISHES)]
        stopped, held = asked.count("stop"), asked.count("review")
        yield (
            f"{language.ljust(16)}{len(asked):8}{stopped:9}{held:6}{len(asked) - stopped - held:6}"
            f"{len(others):8}{others.count('stop'):9}{len(ordinary):10}{ordinary.count('review'):6}"
        )


def _percent(share: float | None) -> str:
    return "    -" if share is None else f"{share * 100:5.1f}"


HOSTILE: tuple[str, ...] = (
    "stop ",
    "s t o p ",
    "ne ",
    "j'ai dit stop par erreur ",
    "? ",
    "«",
    "pas de ",
    "plus de sms si je ",
    "xqz",
)
HOSTILE += ("ñañ й ", "!", "arretez toutes vos ", "ma soeur dit ", "le stop a arrete s arrete ", "c est quoi stop ")
HOSTILE += ("je veux plus ", "vos sms m en ", "marre vos ne m ecrivez ")
HOSTILE_CHARS = 10_240


def slowest_ms() -> float:
    """Return the processor time for the slowest of the hostile texts, each the best of nine readings."""
    slowest = 0.0
    for unit in HOSTILE:
        text, took = unit * (HOSTILE_CHARS // len(unit)), []
        for _ in range(9):
            began = time.thread_time()
            classify(text)
            took.append(time.thread_time() - began)
        slowest = max(slowest, min(took))
    return slowest * 1e3


def median_us() -> float:
    """Return how long one core takes for a text of the corpus, at the median, the best of three rounds."""
    rounds = []
    for _ in range(3):
        took = []
        for line in lines():
            began = time.perf_counter()
            classify(line.text)
            took.append(time.perf_counter() - began)
        rounds.append(statistics.median(took))
    return min(rounds) * 1e6


if __name__ == "__main__":
    sys.stdout.write("\n".join(report()) + f"\n\n{median_us():,.0f} µs a text at the median, on one core\n")
    sys.stdout.write(f"{slowest_ms():.1f} ms for the slowest of {len(HOSTILE)} hostile texts of 10 KB\n")
