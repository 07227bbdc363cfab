"""Read a provider's list of opted-out numbers, as its console or API exports the list. Pure.

CSV     one number a line, or the column that a header names (`common.files`)
JSON    a list of numbers as text: the answer of OVHcloud's GET /sms/{serviceName}/blacklists
"""

import json
from collections.abc import Iterator

from common.files import columns, table
from common.files.columns import Meaning
from common.files.cutting import Piece, pieces_of
from common.files.refused import FileRefused

LIST_NUMBERS = 100_000


class NotAList(ValueError):
    """The text is no such list. The message never repeats the text."""


def numbers(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line or position, from 1; the entry as written, or nothing of an unreadable line). Raises NotAList."""
    if text.removeprefix("\ufeff").lstrip()[:1] in ("[", "{"):
        yield from _from_json(text.removeprefix("\ufeff"))
        return
    try:
        yield from _from_csv(text)
    except FileRefused as error:
        raise NotAList(str(error)) from None


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
    for shape, arrived in pieces_of([text[blank:].encode("utf-8", "replace")] if text.strip() else [], "csv"):
        piece = arrived
        if not width:
            titles, rest = table.titled(piece, shape)
            width = len(titles)
            found = columns.number_of([columns.plain(title) for title in titles], columns.titles_of("provider_list"))
            if found is None:
                if width > 1 or not any(char.isdigit() for char in titles[0]):
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


_TITLES = [title for title, meaning in columns.titles_of("provider_list").items() if meaning is Meaning.NUMBER]
