"""Write a person's copy of the page's content: JSON for software, CSV for a spreadsheet. Pure.

The copy leaves out the phone number, because the file may travel.
"""

import csv
import io
from datetime import datetime

import msgspec

from common.spreadsheet import cell
from consent.ledger.rules import Evidence
from consent.page.view import Line, View

EVIDENCE = Evidence.__struct_fields__


def json_copy(view: View, now: datetime) -> bytes:
    content = {
        "made_at": now,
        "number_ends_in": view.ending,
        "senders": [
            {
                "sender_id": party.sender.sender_id,
                "brand": party.sender.brand,
                "legal_name": party.sender.legal_name,
                "contact": party.sender.contact,
                "consents": [
                    {"purpose": c.purpose, "wording": c.wording, "state": c.state, "since": c.since}
                    for c in party.choices
                ],
            }
            for party in view.parties
        ],
        "evidence": [_line(line) for line in view.history],
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2)


def csv_copy(view: View) -> bytes:
    """Return a row per ledger line; without a byte-order mark, spreadsheets misread the encoding."""
    written = io.StringIO()
    rows = csv.writer(written)
    rows.writerow(("brand", "wording", "recorded_at", *EVIDENCE))
    for line in view.history:
        rows.writerow(cell(value) for value in _line(line).values())
    return written.getvalue().encode("utf-8-sig")


def _line(line: Line) -> dict[str, object]:
    told: dict[str, object] = {
        "brand": line.sender.brand if line.sender else None,
        "wording": line.wording,
        "recorded_at": line.recorded_at,
    }
    return told | {name: getattr(line.evidence, name) for name in EVIDENCE}
