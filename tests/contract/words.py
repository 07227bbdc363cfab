"""Count how plainly texts speak: `python -m tests.contract.words [FOLDER …]` lists comments and docstrings by file."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

PRONOUNS = frozenset(
    [
        "it",
        "its",
        "itself",
        "that",
        "those",
        "who",
        "whom",
        "whose",
        "what",
        "whatever",
        "whoever",
        "one",
        "ones",
        "nobody",
        "nothing",
        "somebody",
        "something",
        "someone",
        "anybody",
        "anything",
        "everybody",
        "everything",
        "none",
        "they",
        "them",
    ]
)
STARTS = PRONOUNS - {"its", "itself", "ones", "someone", "everything", "them"}
TOOLS = ("noqa", "type:")  # comments that speak to a tool
METRICS = ("counter", "gauge", "histogram")
LEVELS = ("info", "warning", "error", "critical", "exception")
TITLES = ("(slug, title)", "(status, slug, title)", "title")
Shown = Literal["metric help", "--help", "api", "log"]
BREAK = re.compile(r"(?<=[.:;?!])\s+|\n\n")
FIRST = re.compile(r"[\s\W]*([A-Za-z']+)")


class Count(NamedTuple):
    """`pronouns` and indefinites among `words`; sentences of which so many `starts` begin with one."""

    words: int = 0
    pronouns: int = 0
    sentences: int = 0
    starts: int = 0

    def plus(self, other: "Count") -> "Count":
        return Count(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def per_100_words(self) -> float:
        return 100 * self.pronouns / max(self.words, 1)

    @property
    def percent_of_starts(self) -> float:
        return 100 * self.starts / max(self.sentences, 1)


def prose(source: str) -> Iterator[str]:
    """Yield each docstring, and each run of comment lines as one text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    run: list[str] = []
    last = -2
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not (said := token.string.lstrip("# ")).startswith(TOOLS):
            if token.start[0] != last + 1:
                yield " ".join(run)
                run = []
            run.append(said)
            last = token.start[0]
    yield " ".join(run)


def count(source: str) -> Count:
    """Count the words of one module's comments and docstrings."""
    return of_texts(prose(source))


def of_texts(texts: Iterable[str]) -> Count:
    """Count the words of texts; code in backticks is one word."""
    total = Count()
    for text in texts:
        plain = re.sub(r"`[^`]*`", "X", text)
        words = re.findall(r"[A-Za-z']+", plain)
        firsts = [match[1].lower() for sentence in BREAK.split(plain) if (match := FIRST.match(sentence))]
        pronouns, starts = sum(w.lower() in PRONOUNS for w in words), sum(first in STARTS for first in firsts)
        total = total.plus(Count(len(words), pronouns, len(firsts), starts))
    return total


def of_folder(folder: Path, *, deep: bool = True) -> Count:
    """Count all modules below `folder`, or directly in it, without migrations."""
    total = Count()
    for path in sorted(folder.rglob("*.py") if deep else folder.glob("*.py")):
        if "migrations" not in path.parts:
            total = total.plus(count(path.read_text(encoding="utf-8")))
    return total


def shown(source: str) -> Iterator[tuple[Shown, str]]:
    """Yield the texts of one module that users and operators read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in TITLES:
            yield "api", _text(node.value.elts[-1] if isinstance(node.value, ast.Tuple) else node.value)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).rpartition(".")
        if called[2] in METRICS and len(node.args) > 1:
            yield "metric help", _text(node.args[1])
        elif called[0] == "log" and called[2] in LEVELS and node.args:
            yield "log", _text(node.args[0])
        for keyword in node.keywords:
            if keyword.arg in ("help", "description", "summary"):
                of_command = keyword.arg == "help" or called[2] == "ArgumentParser"
                yield "--help" if of_command else "api", _text(keyword.value)


def _text(node: ast.expr) -> str:
    """Return the text of a literal; each value inside an f-string, and any other expression, is one word."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in parts)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        for path in sorted(Path(folder).rglob("*.py")):
            found = count(path.read_text(encoding="utf-8"))
            print(f"{found.per_100_words:5.1f} {found.percent_of_starts:5.1f} % {found.words:6d} {path}")  # noqa: T201
