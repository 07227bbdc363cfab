"""Each source that Placet writes is the person's own word or a caller's: a source without a class opens STOPs."""

import pytest
from pydantic import TypeAdapter, ValidationError

from consent.bodies import OURS, Source
from consent.ledger.rules import PERSONS_OPT_INS, PERSONS_STOPS
from tests.unit.consent.evidences import opt_out

ALIKE = (
    *("m0", "m-o", "sms", "preference-page2", "double.opt.in", "d0uble-0pt-in", "stop_iink", "stopl1nk", "st0p-1ink"),
    *("c1ick", "cllck", "rece1pt", "sms-in", "crm.mo", "web_stop", "5ms.fr", "double0pt1n", "prov1der-iist"),
)
CALLERS = ("shop", "old-crm", "call-centre", "promo", "mobile-app", "stopover", "boutique-lille", "web.form", "lili")
PERSON, CALLER, NO_OPT_OUT = "person", "caller", "no opt-out"
CLASSES = {
    "mo": PERSON,
    "unreadable_mo": PERSON,
    "receipt": PERSON,
    "provider_list": PERSON,
    "preference_page": PERSON,
    "stop_link": PERSON,
    "restore": PERSON,
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


@pytest.mark.parametrize("source", [*OURS, *ALIKE])
def test_a_source_that_a_reader_takes_for_ours_is_no_callers(source: str) -> None:
    with pytest.raises(ValidationError, match="name the caller's own channel"):
        TypeAdapter(Source).validate_python(source)


@pytest.mark.parametrize("source", CALLERS)
def test_a_callers_own_channel_is_a_source(source: str) -> None:
    assert TypeAdapter(Source).validate_python(source) == source
