"""Each source that Placet writes is the person's own word or a caller's: a source without a class opens STOPs."""

import pytest

from consent.bodies import OURS
from consent.ledger.rules import PERSONS_OPT_INS, PERSONS_STOPS
from tests.unit.consent.evidences import opt_out

PERSON, CALLER, NO_OPT_OUT = "person", "caller", "no opt-out"
CLASSES = {
    "mo": PERSON,
    "unreadable_mo": PERSON,
    "receipt": PERSON,
    "provider_list": PERSON,
    "preference_page": PERSON,
    "stop_link": PERSON,
    "sender_list": CALLER,
    "rectification": CALLER,
    "double_opt_in": NO_OPT_OUT,
    "retention": NO_OPT_OUT,
    "click": NO_OPT_OUT,
}


def test_every_source_of_ours_has_a_class() -> None:
    assert set(OURS) == set(CLASSES)
    assert set(OURS) >= PERSONS_STOPS | PERSONS_OPT_INS, "no caller can write them"


@pytest.mark.parametrize("source", CLASSES)
def test_an_opt_out_is_the_persons_own_as_the_class_of_its_source_says(source: str) -> None:
    assert opt_out(source=source).by_person is (CLASSES[source] == PERSON)
