"""The judge of the operator's log: each of the test's adverts is one to the judge, and each broken promise is told."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.service.callers.judge import Limit, Record, Return, Sent, Stop, broken, is_advert
from tests.service.callers.play import ADVERTS, NEUTRAL, SPLIT, VALUES

AT = datetime(2027, 3, 1, 10, tzinfo=UTC)
LUNE = ("Maison Lune : votre STOP est pris en compte.", "Vos choix : https://placet.example/p/promosoldes")


def sent(text: str, minute: int = 0, category: str = "marketing", oadc: str = "MAL") -> Sent:
    return Sent(AT + timedelta(minutes=minute), "+33639980001", oadc, "36200", category, text, "m-1")


def record(*stops: Stop, returns: tuple[Return, ...] = (), **more: object) -> Record:
    found = Record({"MAL": "mal", "CAFEZINC": "zinc"}, {"mal"}, {"zinc": "cafezinc"}, ("ameli",), **more)  # type: ignore[arg-type]
    found.stops["+33639980001"] += stops
    found.returns["+33639980001"] += returns
    return found


STOP = Stop(AT, AT, frozenset({"mal"}))


@pytest.mark.parametrize("words", [*ADVERTS, *VALUES, *(f"nos {SPLIT[0]}des", f"et {SPLIT[1]}mo")])
def test_each_advert_that_the_machine_writes_is_an_advert_to_the_judge(words: str) -> None:
    assert is_advert(f"{words} mlr1. STOP au 36200")


@pytest.mark.parametrize("words", [*NEUTRAL, *LUNE])
def test_what_sells_nothing_is_none(words: str) -> None:
    assert not is_advert(words)


def test_a_log_that_keeps_every_promise_is_not_blamed() -> None:
    back = Return(AT + timedelta(minutes=5), frozenset({"mal"}))
    log = [sent("Soldes mlr1", -1), sent("Bonjour mlr2", 1, "service"), sent("Soldes mlr3", 6)]
    assert broken([*log, sent("Zinc : soldes", 1, oadc="CAFEZINC")], record(STOP, returns=(back,))) == []


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (sent("Soldes mlr1", 1), "an advert to a person who had stopped"),
        (sent("Maison : pour recevoir nos soldes, OUI", 1, "service"), "an advert to a person who had stopped"),
        (sent("Soldes mlr1", -1, "service"), "an advert in another lane"),
        (sent("Bonjour mlr1", oadc="AUTRE"), "an OADC of no sender"),
        (sent("Bonjour mlr1", oadc="CAFEZINC"), "the caller's text under a stranger's OADC"),
        (sent("Am\u00e9li : bonjour"), "a protected name"),
        (sent("CAF\u00c9 Z1NC : vos choix"), "a stranger's brand"),
    ],
)
def test_each_broken_promise_is_told(log: Sent, says: str) -> None:
    [told] = broken([log], record(STOP))
    assert told.startswith(says)


def test_an_override_needs_an_audit_that_names_the_message() -> None:
    advert = sent("Soldes mlr1", 1, "service")
    assert broken([advert], record(STOP, overridden={"m-1"}, audited={"m-1"})) == []
    [told] = broken([advert], record(STOP, overridden={"m-1"}, audited=set()))
    assert told.startswith("an override that no audit has")


def test_no_window_holds_more_than_a_limit_allows() -> None:
    hour = Limit("per_number_hour", 2, timedelta(hours=1), "number", frozenset({"service"}))
    log = [sent(f"Bonjour mlr{minute}", minute, "service") for minute in (0, 30, 59, 61)]
    assert broken(log[:2], record(limits=(hour,))) == []
    [told] = broken(log, record(limits=(hour,)))
    assert told == "3 messages where per_number_hour allows 2"
