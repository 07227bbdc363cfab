"""A cell is never a formula."""

from datetime import UTC, datetime

import pytest

from common.spreadsheet import cell


@pytest.mark.parametrize("said", ["=1+1", "+33", "-1", "@sum", "\t=1", "\r=1"])
def test_what_would_be_run_is_shown(said: str) -> None:
    assert cell(said) == f"'{said}"


def test_other_values_are_as_they_are() -> None:
    assert [cell(v) for v in (None, 3, "a-b", datetime(2026, 1, 1, tzinfo=UTC))] == [
        "",
        "3",
        "a-b",
        "2026-01-01T00:00:00+00:00",
    ]
