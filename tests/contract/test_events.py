"""The events for organisations are the same in `Type`, in the models of answers and in docs/events.md.

A type without a model is an error 500 for the reader of a feed; a field without a line is a field that no reader finds.
"""

import re
from pathlib import Path
from typing import get_args

from campaign.feed.bodies import AnyEvent
from campaign.feed.event import Type

PAGE = Path(__file__).parents[2] / "docs" / "events.md"
QUOTED = re.compile(r"`([^`]+)`")


def modelled() -> dict[str, set[str]]:
    """Return the fields of `data` by type, of the union's models."""
    union, *_ = get_args(AnyEvent)
    found: dict[str, set[str]] = {}
    for model in get_args(union):
        for each in get_args(model.model_fields["type"].annotation):
            found[each] = set(model.model_fields["data"].annotation.model_fields)
    return found


def described(page: str) -> dict[str, set[str]]:
    """Return the fields of `data` by type, of the table. "the same" means the fields of the row above."""
    found: dict[str, set[str]] = {}
    fields: set[str] = set()
    for line in page.partition("## The events")[2].partition("##")[0].splitlines():
        if not line.startswith("| `"):
            continue
        types, _, data, _ = line.strip("|").split(" | ")
        if data != "the same":
            kept, _, without = data.partition("; no ")
            fields = set(QUOTED.findall(kept)) | ({"sender_id"} - set(QUOTED.findall(without)))
        first, *more = QUOTED.findall(types)
        found |= dict.fromkeys([first, *(first.partition(".")[0] + each for each in more)], fields)
    return found


def test_every_type_has_a_model_and_a_row() -> None:
    types = {each.value for each in Type}
    assert set(modelled()) == types
    assert set(described(PAGE.read_text(encoding="utf-8"))) == types


def test_every_row_has_the_fields_of_its_model() -> None:
    assert described(PAGE.read_text(encoding="utf-8")) == modelled()
