"""Each bug of the catalogue can be put in: the code that a mutant changes is there once, and its tests are there."""

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies_to_the_code_and_names_tests(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    for was, becomes in ((mutant.was, mutant.becomes), mutant.also):
        assert not was or source.count(was) == 1
        source = source.replace(was, becomes) if was else source
    assert [path for path in mutant.tests.split() if path.startswith("tests/") and not _exists(path)] == []


def _exists(path: str) -> bool:
    return (ROOT / path.partition("::")[0]).exists()
