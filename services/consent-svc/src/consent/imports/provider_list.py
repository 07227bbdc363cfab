"""Read a provider's list of opted-out numbers, as its console or API exports the list. Pure.

CSV     one number a line, or the column that a header names; comma, semicolon or tab
JSON    a list of numbers as text: the answer of OVHcloud's GET /sms/{serviceName}/blacklists
"""

import csv
import json
from collections.abc import Iterator

COLUMNS = ("number", "phone", "phone_number", "telephone", "téléphone", "mobile", "msisdn", "numero", "numéro", "to")
LIST_NUMBERS = 100_000


class NotAList(ValueError):
    """The text is no such list. The message never repeats the text."""


def numbers(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line or position, from 1; the entry as written). Raises NotAList."""
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:1] in ("[", "{"):
        yield from _from_json(text)
    else:
        yield from _from_csv(text)


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
    """Parse each line alone: an unclosed quote would silently swallow all later numbers."""
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    try:
        each = ((place, next(csv.reader([line], delimiter=delimiter), [])) for place, line in enumerate(lines, start=1))
        rows = [(place, row) for place, row in each if any(row)]
    except csv.Error:
        raise NotAList("not a CSV") from None
    if not rows:
        return
    header = [name.strip().casefold().replace(" ", "_") for name in rows[0][1]]
    column = next((header.index(name) for name in COLUMNS if name in header), None)
    if column is None:
        if len(header) > 1 or not any(char.isdigit() for char in header[0]):
            raise NotAList(f"no column of numbers: name one of {', '.join(COLUMNS)}")
        column = 0
    else:
        rows = rows[1:]
    for place, row in rows:
        yield place, row[column].strip() if len(row) > column else ""
