"""Cells of a CSV file that people open in a spreadsheet. Pure."""

from datetime import UTC, datetime

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would take a cell that begins so for


def cell(value: object) -> str:
    """None is empty, instants are in UTC, and what would be run as a formula is shown as what it is."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text
