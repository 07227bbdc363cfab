"""Write findings for people (a table) or for programs (`--json`: one object a line), and tell the exit code."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from placet_operator.checking import Finding

WIDE = 160  # of a table that goes to a file or a pipe
STYLES = {"holds": "green", "broken": "bold red", "not seen": "yellow"}


def passes(findings: Sequence[Finding], partial: bool) -> bool:
    """Return whether all hold. `partial`: what could not be seen is no failure."""
    return bool(findings) and all(
        each.outcome == "holds" or (partial and each.outcome == "not seen") for each in findings
    )


def write(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        for each in findings:
            sys.stdout.write(json.dumps(asdict(each), ensure_ascii=False) + "\n")
        return
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=WIDE)
    table = Table("check", "", "seen", box=None, header_style="bold", pad_edge=False)
    for each in findings:
        seen = Text(each.seen)
        if each.outcome == "broken":
            seen.append(f"\n  why: {each.why}\n  do:  {each.remedy}")
        table.add_row(each.name, Text(each.outcome, style=STYLES[each.outcome]), seen)
    console.print(table)
    counts = [f"{sum(each.outcome == outcome for each in findings)} {outcome}" for outcome in STYLES]
    console.print(", ".join(counts))
