"""Read a provider's list of opted-out numbers, as its console or API exports the list. Pure.

CSV     one number a line, or the column that a header names (`common.files`)
JSON    a list of numbers as text: the answer of OVHcloud's GET /sms/{serviceName}/blacklists
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.files import columns, table
from common.files.columns import Meaning, Taken
from common.files.cutting import Piece, Shape, pieces_of
from common.files.refused import FileRefused

LIST_NUMBERS = 100_000
_KNOWN = columns.titles_of("provider_list")
_TITLES = [title for title, meaning in _KNOWN.items() if meaning is Meaning.NUMBER]


@dataclass(frozen=True, slots=True)
class Header:
    """The columns of a CSV, and its separator: one column without a title where a bare list has no header."""

    columns: Sequence[Taken] = ()
    delimiter: str | None = None


class NotAList(ValueError):
    """The text is no such list. The message never repeats the text."""


def numbers(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line or position, from 1; the entry as written, or nothing of an unreadable line). Raises NotAList."""
    if _in_json(text):
        yield from _from_json(text.removeprefix("\ufeff"))
        return
    try:
        yield from _from_csv(text)
    except FileRefused as error:
        raise NotAList(str(error)) from None


def header(text: str) -> Header:
    """Return what each column is taken for; nothing of JSON. Raises NotAList where the first line is no row."""
    if _in_json(text):
        return Header()
    try:
        shape, piece = next(_pieces(text), (None, None))
        if shape is None or piece is None:
            return Header()
        titles, _ = table.titled(piece, shape)
    except FileRefused as error:
        raise NotAList(str(error)) from None
    names = [columns.plain(title) for title in titles]
    number = columns.number_of(names, _KNOWN)
    if number is None and _bare(titles):
        return Header([Taken(1, "", "", Meaning.NUMBER)], shape.delimiter)

    def meaning(place: int, name: str) -> Meaning:
        if place == number:
            return Meaning.NUMBER
        return Meaning.OTHER_NUMBER if name in _KNOWN else Meaning.UNKNOWN

    taken = [
        Taken(place + 1, title.strip(), name, meaning(place, name))
        for place, (title, name) in enumerate(zip(titles, names, strict=True))
    ]
    return Header(taken, shape.delimiter)


def _in_json(text: str) -> bool:
    return text.removeprefix("\ufeff").lstrip()[:1] in ("[", "{")


def _pieces(text: str) -> Iterator[tuple[Shape, Piece]]:
    """Yield the pieces of a CSV from its first line that is not blank."""
    return pieces_of([text.lstrip("\r\n").encode("utf-8", "replace")] if text.strip() else [], "csv")


def _bare(titles: Sequence[str]) -> bool:
    """Return whether the first line is of a list without a header: one cell, with a number."""
    return len(titles) == 1 and any(char.isdigit() for char in titles[0])


def _from_json(text: str) -> Iterator[tuple[int, str]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise NotAList("not JSON") from None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise NotAList(
            "not a JSON list of numbers as text (OVHcloud: GET /sms/{serviceName}/blacklists; where a provider"
            " documents no list, as Twilio, make a CSV)"
        )
    yield from enumerate(found, start=1)


def _from_csv(text: str) -> Iterator[tuple[int, str]]:
    blank = len(text) - len(text.lstrip("\r\n"))
    line = 1 + text.count("\n", 0, blank)
    column = width = 0
    for shape, arrived in _pieces(text):
        piece = arrived
        if not width:
            titles, rest = table.titled(piece, shape)
            width = len(titles)
            found = columns.number_of([columns.plain(title) for title in titles], _KNOWN)
            if found is None:
                if not _bare(titles):
                    raise NotAList(f"no column of numbers: name one of {', '.join(_TITLES)}")
            else:
                column = found
                line += piece.lines - rest.lines
                piece = rest
        read = table.read(_text(piece), shape, width, line)
        unread = [(refused.line, "") for refused in read.refused]
        yield from sorted(
            [*((at, row[column].strip()) for at, row in zip(read.starts, read.rows, strict=True)), *unread]
        )
        line += piece.lines


def _text(piece: Piece) -> str:
    return piece.body.decode().removeprefix("\ufeff")
