"""Write answers for people (tables) or for programs (`--json`: one JSON object a line); notes go to stderr."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from placet_client import Answer

AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON object a line, for programs.")]
WIDE = 200  # of a table that goes to a file or a pipe

REFUSED, USAGE, NO_ANSWER, NOT_ALLOWED, NOT_FOUND, FAULTY = 1, 2, 3, 4, 5, 6


def out() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=WIDE)


def notes() -> Console:
    return Console(stderr=True, highlight=False, markup=False)


def note(text: str) -> None:
    """Write a remark for people to stderr."""
    notes().print(printable(text))


def write_json(value: Answer | Mapping[str, Any]) -> None:
    text = value.model_dump_json(by_alias=True) if isinstance(value, Answer) else json.dumps(value, ensure_ascii=False)
    sys.stdout.write(text + "\n")


def rows(items: Iterable[Answer], columns: Sequence[str], as_json: bool, most: int | None = None) -> None:
    """Write a list, or its first `most` items. `columns`: the fields of a table; a program gets all fields."""
    items = islice(items, most)
    if as_json:
        for item in items:
            write_json(item)
        return
    table = Table(*(column.replace("_", " ") for column in columns), box=None, header_style="bold", pad_edge=False)
    for item in items:
        table.add_row(*(Text(_cell(getattr(item, column))) for column in columns))
    out().print(table)


def fields(value: Answer, names: Sequence[str], as_json: bool) -> None:
    """Write one answer. `names`: the fields for people."""
    if as_json:
        write_json(value)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name in names:
        table.add_row(Text(name.replace("_", " "), style="bold"), Text(_cell(getattr(value, name))))
    out().print(table)


def printable(text: str) -> str:
    """Replace unprintable characters: a stored text must not steer the reader's terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, Answer):
        return value.model_dump_json(by_alias=True)
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_cell(of)}" for name, of in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value)) or "-"
    return printable(str(value))
