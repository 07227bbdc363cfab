"""Write CSV lines and cells for people who open the file in a spreadsheet. Pure."""

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters by which a spreadsheet recognises a formula
ENCODING = "utf-8-sig"  # of the first line: without a byte-order mark, spreadsheets misread the encoding


def cell(value: object) -> str:
    """Return `value` as a cell: `None` as empty, instants in UTC, a formula as plain text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def lines(rows: Iterable[Sequence[str]]) -> str:
    """Return rows of cells as lines of a CSV file."""
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    return written.getvalue()
