"""A second person is another person, and no other spelling of the first."""

import pytest

from campaign.authors import may_approve


@pytest.mark.parametrize("spelling", ["Claire", "CLAIRE", " claire ", "ｃlaire", "claire\u00a0"])
def test_another_spelling_of_an_author_is_no_second_person(spelling: str) -> None:
    assert not may_approve(spelling, ["claire"])
    assert not may_approve("claire", ["ines", spelling])
    assert may_approve("clara", [spelling])


def test_nobody_approves_what_they_wrote_a_word_of() -> None:
    assert may_approve("ana", ["zoe", "leo"])
    assert not may_approve("leo", ["zoe", "leo"])
