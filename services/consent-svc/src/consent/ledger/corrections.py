"""Decide what a correction takes from the ledger. Pure: no clock, no I/O."""

from collections.abc import Collection, Iterable
from typing import Literal

from consent.ledger.rules import Evidence

Wrong = Literal["person", "sender", "purpose", "basis", "time", "sale_reference", "form", "text_shown", "actor"]


def annuls(line: Evidence, wrong: Collection[Wrong], right: Collection[str]) -> bool:
    """Return whether `line` must not count any more, given its `wrong` parts and the fields corrected in `right`.

    Only an opt-in or a request can be annulled: a correction never loosens (ADR-0024). If only the form or the text
    shown is wrong, the entry counts while `right` has the correct value.
    """
    if line.kind not in ("opt_in", "request"):
        return False
    proven = {
        "form": {"form_id", "form_version"} <= {*right},
        "text_shown": "text_shown" in right,
        "actor": True,  # the person who typed the entry in
    }
    return not all(proven.get(each, False) for each in wrong)


def corrected_by(evidence: Iterable[Evidence]) -> dict[str, list[str]]:
    """Return the ids of the corrections, by the id corrected."""
    found: dict[str, list[str]] = {}
    for one in evidence:
        if one.corrects is not None:
            found.setdefault(one.corrects, []).append(one.evidence_id)
    return found
