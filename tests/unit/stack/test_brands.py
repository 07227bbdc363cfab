"""The report finds each wrong on a shared code in the operator's log, and lets pass what is right."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stack.demo.brands import (
    Attempt,
    Brand,
    Check,
    Fact,
    Other,
    Stop,
    abroad,
    account,
    adverts_elsewhere,
    after_enforced,
    hostile_texts,
    is_answered,
    kept_from_the_other,
    others,
    refused,
    stops,
    strangers_named,
    too_many,
    under_another_name,
)

ZOE, LEO = "+33639980102", "+33639980103"
LUNE, NORD = Brand("Maison Lune", "MAISONLUNE", frozenset((ZOE, LEO))), Brand("Atelier Nord", "NORD", frozenset((ZOE,)))
BOTH = frozenset((LUNE.oadc, NORD.oadc))


def instant(s: float) -> str:
    return (datetime(2026, 3, 2, 14, tzinfo=UTC) + timedelta(seconds=s)).isoformat()


def sent(s: float, by: Brand, to: str = ZOE, **other: Any) -> Fact:
    line = {"kind": "submit", "at": instant(s), "from": by.oadc, "to": to, "category": "marketing", "reference": f"{s}"}
    return line | {"text": "-20 %. STOP au 36111", "status": "accepted"} | other


def stop(s: float, text: str = "STOP", who: str = ZOE) -> list[Fact]:
    reply = {"kind": "reply", "id": f"mo-{s}", "from": who, "text": text, "sent_at": instant(s)}
    return [reply, {"kind": "reply_acknowledged", "id": f"mo-{s}", "at": instant(s + 0.2)}]


@pytest.mark.parametrize(
    ("log", "oadcs"),
    [
        ([sent(1, LUNE), sent(20, NORD), *stop(40)], {NORD.oadc}),
        ([sent(1, NORD), sent(20, LUNE), *stop(40), sent(60, NORD)], {LUNE.oadc}),
        ([sent(1, LUNE), *stop(40, "Stop tout svp")], BOTH),
        ([sent(1, LUNE, LEO), *stop(40)], BOTH),
        # a message on its way while the STOP arrives: whoever of the two the STOP means
        ([sent(1, NORD), *stop(40), sent(41, LUNE)], set()),
        ([*stop(40), sent(41, LUNE)], {LUNE.oadc}),
        # nobody has read what the operator rejected
        ([sent(1, NORD), sent(20, LUNE, status="rejected"), *stop(40)], {NORD.oadc}),
        ([sent(1, NORD, status="rejected"), *stop(40)], BOTH),
        # an answer in another's name explains no STOP
        ([sent(20, LUNE), *stop(40), sent(41, NORD, category="service")], {LUNE.oadc}),
    ],
)
def test_a_stop_means_the_brand_that_wrote_last_or_all_of_them(log: list[Fact], oadcs: set[str]) -> None:
    assert [found.oadcs for found in stops(log, {}, BOTH)] == [oadcs]


def test_a_stop_between_campaigns_means_the_brand_before_however_soon_the_other_writes() -> None:
    [found] = stops([sent(20, LUNE), *stop(40), sent(41, NORD)], {}, BOTH, [ZOE])
    assert found.oadcs == {LUNE.oadc}


def enforced(oadcs: frozenset[str], number: str = ZOE) -> Stop:
    return Stop("mo-40", number, oadcs, datetime.fromisoformat(instant(41)))


def test_a_message_of_a_stopped_brand_is_late_once_the_stop_is_enforced_and_no_other() -> None:
    found = [enforced(frozenset((NORD.oadc,)))]
    assert after_enforced([sent(40.9, NORD), sent(60, LUNE), sent(60, NORD, LEO)], found).holds
    assert after_enforced([sent(41.1, NORD)], found).offenders == 1


def test_a_person_cut_off_from_the_other_brand_is_found() -> None:
    def cut_off(found: list[Stop], *submits: Fact) -> Check:
        left = others([ZOE], found, submits, [LUNE, NORD])
        assert {(other.number, other.brand) for other in left} <= {(ZOE, LUNE)}
        return kept_from_the_other(left)

    one = [enforced(frozenset((NORD.oadc,)))]
    assert cut_off(one, sent(60, LUNE)).holds
    assert cut_off(one, sent(20, LUNE)).offenders == 1
    assert cut_off(one).offenders == 1
    assert not cut_off([*one, *one], sent(60, LUNE)).holds  # with nobody left to look at, nothing is shown


def told(status: str, handed_off_at: str | None = None, *reasons: str, campaign: str | None = "cmp-1") -> Fact:
    """A message in the answer of dispatch-svc."""
    times = {"requested_at": instant(1), "decided_at": instant(2), "handed_off_at": handed_off_at, "receipt_at": None}
    whose = {"subject_id": "sub_5f", "campaign_id": campaign, "category": "marketing"}
    return {**whose, **times, "status": status, "reasons": list(reasons)}


@pytest.mark.parametrize(
    ("message", "is_known"),
    [
        (told("accepted", instant(3)), True),
        (told("rejected", instant(3)), True),
        (told("unknown", instant(3)), False),  # the operator did not answer
        (told("unknown"), False),  # a crash lost the answer
        (told("accepted"), False),  # a DLR proved the message later
        (told("denied", None, "opted_out"), False),
    ],
)
def test_nothing_is_certain_of_a_person_whose_last_message_was_in_doubt(message: Fact, is_known: bool) -> None:
    assert is_answered(message) is is_known


def test_a_person_cut_off_is_explained_without_the_number() -> None:
    cut_off = Other(ZOE, LUNE, datetime.fromisoformat(instant(41)), wrote=False)
    denied = told("denied", None, "opted_out", "suppressed", campaign="cmp-2")
    moment = {"kind": "opt_out", "at": instant(40), "detail": "mo", "subject_id": "sub_5f"}
    lines = account(cut_off, [denied, told("unknown")], [moment], {"cmp-1": "Maison Lune 1", "cmp-2": "Maison Lune 2"})
    assert [line.strip() for line in lines] == [
        "sub_5f is cut off from Maison Lune: did not stop it, and stopped another at 2026-03-02 14:00:41+00:00",
        f"Maison Lune 1: unknown; requested_at {instant(1)}, decided_at {instant(2)}",
        f"Maison Lune 2: denied, opted_out, suppressed; requested_at {instant(1)}, decided_at {instant(2)}",
        f"opt_out at {instant(40)}: mo",
    ]


def answer(text: str, s: float = 50) -> Fact:
    return sent(s, NORD, category="service", text=f"{text} : votre STOP est pris en compte.")


def test_an_answer_names_only_brands_that_wrote() -> None:
    brands = [LUNE, NORD]
    assert strangers_named([sent(20, NORD), answer("Atelier Nord")], brands, 0).holds
    assert strangers_named([sent(20, NORD), answer("Nos marques")], brands, 0).holds
    assert strangers_named([sent(20, NORD), answer("Maison Lune et Atelier Nord")], brands, 0).offenders == 1
    assert strangers_named([sent(20, LUNE, LEO), answer("Maison Lune")], brands, 0).offenders == 1


@pytest.mark.parametrize(
    "wrong",
    [
        sent(1, LUNE, reference="of-nord"),
        sent(1, NORD, reference="of-nord", text="Maison Lune : -20 %. STOP au 36111"),
        sent(1, NORD, reference="of nobody"),
        sent(1, Brand("Alerte", "ALERTE", frozenset()), category="service"),
    ],
)
def test_a_message_under_another_name_is_found(wrong: Fact) -> None:
    right = [sent(1, NORD, reference="of-nord"), sent(1, NORD, category="service")]
    assert under_another_name(right, {"of-nord": NORD.oadc}, [LUNE, NORD]).holds
    assert under_another_name([*right, wrong], {"of-nord": NORD.oadc}, [LUNE, NORD]).offenders == 1


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        (adverts_elsewhere, sent(1, NORD, category="transactional", text="Profitez de nos soldes")),
        (adverts_elsewhere, sent(1, NORD, category="service", text="STOP noté. -70 % en boutique")),
        (abroad, sent(1, NORD, "+491713920012")),
        (lambda submits: too_many(submits, 1), sent(2, NORD, category="transactional", text="Votre code est 1234.")),
        (lambda submits: hostile_texts(submits, "MONSTRE"), sent(1, NORD, text="soldes monstres")),
        (lambda _: refused([Attempt("an advert", "202", refused=False)]), None),
        (lambda _: refused([]), None),
    ],
)
def test_a_success_of_the_hostile_caller_is_found(check: Callable[[list[Fact]], Check], wrong: Fact | None) -> None:
    right = [sent(1, NORD), sent(1, NORD, category="transactional", text="Votre code est 4821."), answer("Nos marques")]
    assert wrong is None or check(right).holds
    assert check([*right, *([wrong] if wrong else [])]).offenders == 1
