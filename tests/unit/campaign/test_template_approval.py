"""A second person is another person, and no other spelling of the first."""

import pytest

from campaign.templates.rules import may_approve


@pytest.mark.parametrize("spelling", ["Claire", "CLAIRE", " claire ", "ｃlaire", "claire\u00a0"])
def test_another_spelling_of_an_author_is_no_second_person(spelling: str) -> None:
    assert not may_approve(spelling, ["claire"])
    assert not may_approve("claire", ["ines", spelling])
    assert may_approve("clara", [spelling])
