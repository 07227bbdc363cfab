"""docs/architecture.md names every room, in the room's own words."""

import pytest

from tests.contract.rooms import HOUSES, PAGE, ROOT, first_sentence, rows, section, table


def test_the_page_has_each_room_as_its_docstring_says_it() -> None:
    said = section(PAGE.read_text(encoding="utf-8")).strip()
    assert said == table().strip(), "run `make rooms`, and commit docs/architecture.md"


@pytest.mark.parametrize(("name", "folder"), HOUSES)
def test_every_room_says_what_is_in_it(name: str, folder: str) -> None:
    silent = [room for room, said in rows(ROOT / folder) if not said or said.startswith(" <br>")]
    assert silent == [], f"{name}: these need a docstring"


def test_only_the_first_sentence_is_taken() -> None:
    assert first_sentence('"""One thing: `a`, b. Another thing."""') == "One thing: `a`, b."
    assert first_sentence("x = 1") == ""
