"""Write CSV cells for people who open the file in a spreadsheet. Pure."""

from datetime import UTC, datetime

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters by which a spreadsheet recognises a formula


def cell(value: object) -> str:
    """Return `value` as a cell: `None` as empty, instants in UTC, a formula as plain text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text
