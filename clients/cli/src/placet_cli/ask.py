"""Read phone numbers, JSON, and the options that lists share.

A number comes by stdin or a hidden prompt, and stays out of a shell's history.
"""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from placet_client import OMITTED, Omitted

MOST_A_PAGE = 100

Sender = Annotated[str, typer.Option("--sender", help="The sender, such as maison-lune.")]
Purpose = Annotated[str, typer.Option("--purpose", help="A purpose of the sender, such as promotions.")]
Number = Annotated[
    str | None,
    typer.Argument(help="The number. Without one, or with -: a hidden prompt, or stdin.", metavar="[NUMBER]"),
]

OfSender = Annotated[str | None, typer.Option("--sender", help="Only things of this sender. Default: of every sender.")]
Limit = Annotated[int, typer.Option(help="The first so many of the list.", min=1)]
Since = Annotated[datetime | None, typer.Option(help="From this time on, by the local clock.")]
Until = Annotated[datetime | None, typer.Option(help="Up to this time, by the local clock. Default: now.")]


def instant(said: datetime | None) -> datetime | Omitted:
    """Return the instant of a local time, for a filter of a list."""
    return OMITTED if said is None else said.astimezone()


def number(said: str | None) -> str:
    """Return the number that an argument names, or that stdin has. Raises BadParameter."""
    if said not in (None, "-"):
        return str(said)
    found = typer.prompt("Number", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not found.strip():
        raise typer.BadParameter("no number on stdin")
    return str(found).strip()


def lines(file: Path) -> list[str]:
    """Return the lines of a file, or of stdin for `-`, without blank ones."""
    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]


def body(file: Path) -> dict[str, Any]:
    """Return the JSON object of a file, or of stdin for `-`. Raises BadParameter."""
    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{file} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{file} has no JSON object")
    return found
