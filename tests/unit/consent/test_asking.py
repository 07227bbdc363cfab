"""Whom we may ask, and which question an OUI answers: a case for each rule."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from consent.double_opt_in.rules import (
    Most,
    Pace,
    Question,
    Withheld,
    answered,
    lapse,
    step,
    takes_reply,
    too_old,
    withheld,
    yes,
)
from consent.ledger import rules as ledger
from consent.ledger.rules import Evidence, fold, standing
from tests.unit.consent.evidences import NOON, at, contact, expiry, opt_in, request, slow_stop, start, stop

A_MONTH = timedelta(days=30)
MOST = Most(a_day=5, a_month=20)
SHARE = Most(a_day=3, a_month=10)
OURS = [f"brand-{n}" for n in range(0, 100, 2)]  # of acme's organisation
CODE = "36111"


def asked(minutes: float, **changes: Any) -> Question:
    """A question about acme's promotions, and as `request(minutes)` recorded it."""
    fields: dict[str, Any] = {
        "evidence_id": request(minutes).evidence_id,
        "subject_id": "s",
        "sender_id": "acme",
        "purpose": "promotions",
        "short_code": CODE,
        "by_reply": True,
        "asked_at": at(minutes),
        "expires_at": at(minutes) + timedelta(hours=24),
    }
    return Question(**(fields | changes))


def why(
    minutes: float, *evidence: Evidence, questions: tuple[Question, ...] = (), held: bool = False, **changes: Any
) -> Withheld | None:
    state, asks, senders = fold(evidence), request(minutes, **changes), ("acme", "acme-outlet")
    ours = (*senders, *OURS)
    return withheld(
        state, asks, questions, at(minutes), A_MONTH, MOST, SHARE, senders=senders, organisation=ours, held=held
    )


def test_somebody_nobody_knows_is_asked() -> None:
    assert why(0) is None


def test_who_has_consented_is_not_asked_again_but_a_customer_is_asked_for_consent() -> None:
    assert why(1, opt_in(0)) is Withheld.HAS_CONSENTED
    assert why(1, opt_in(0, basis="soft_opt_in", sale_reference="s-1")) is None
    assert why(1, opt_in(0, purpose="loyalty")) is None
    assert why(2, opt_in(0), expiry(1)) is None


def test_a_form_sent_twice_asks_once_and_a_later_one_asks_again() -> None:
    assert why(1, request(0), questions=(asked(0),)) is Withheld.JUST_ASKED
    assert why(1, request(0), questions=(asked(0, purpose="loyalty"),)) is None
    assert why(3, request(0), questions=(asked(0),)) is None


@pytest.mark.parametrize("newer", [stop(5), stop(5, sender_id=None), opt_in(5, basis="soft_opt_in"), request(5)])
def test_a_form_older_than_what_the_person_said_since_asks_nothing(newer: Evidence) -> None:
    assert why(4, newer) is Withheld.OLDER_THAN_AN_ANSWER
    assert why(5, newer, evidence_id="ev-0") is Withheld.OLDER_THAN_AN_ANSWER, "a tie is shut"


def test_a_stop_to_another_sender_of_the_group_counts() -> None:
    wide = stop(5, sender_id="acme-outlet", controller="group")
    assert why(4, wide, controller="group") is Withheld.OLDER_THAN_AN_ANSWER
    assert why(4, wide, controller="acme") is None


def test_who_has_said_stop_is_asked_once_by_a_controller_unless_they_said_yes() -> None:
    assert why(10, stop(5)) is None
    a_month = A_MONTH.total_seconds() / 60
    stopped = stop(5 - a_month)
    for sender in ("acme", "acme-outlet"):
        then = at(10) - A_MONTH + timedelta(seconds=1)
        before = asked(0, sender_id=sender, asked_at=then, evidence_id="before", after_stop=True)
        assert why(10, stopped, questions=(before,)) is Withheld.STOPPED_AND_ASKED
        assert why(10, stopped, questions=(replace(before, confirmed=True),)) is None
        assert why(10, questions=(before,)) is None, "who has not said STOP is a matter of pace"
    assert why(10, stopped, questions=(asked(0, asked_at=at(10) - A_MONTH, after_stop=True),)) is None


def test_a_question_of_another_controller_or_from_before_the_stop_takes_nobody_the_way_back() -> None:
    after = asked(6, evidence_id="after", after_stop=True)
    for again in ((), (stop(7, sender_id=None),), (stop(8),)):
        said = (stop(5, sender_id=None), *again)
        assert why(10, *said, questions=(after,)) is Withheld.STOPPED_AND_ASKED, "whoever stops again is asked no more"
    assert why(10, stop(5, sender_id=None), questions=(replace(after, sender_id="globex"),)) is None
    assert why(10, stop(5), questions=(asked(4, evidence_id="before"),)) is None


def test_nobody_is_asked_while_a_text_that_may_mean_stop_waits_for_a_reviewer() -> None:
    behind_a_start = (start(5), slow_stop(6, slow=3))
    assert standing(fold(behind_a_start), "acme", "promotions") == "opted_in", "one clock orders them so"
    assert why(7, *behind_a_start, sender_id="globex") is None
    assert why(7, *behind_a_start, sender_id="globex", held=True) is Withheld.UNDER_REVIEW
    assert why(0, held=True) is Withheld.UNDER_REVIEW


def test_all_controllers_together_ask_a_number_so_often_a_day_and_a_month() -> None:
    hours = [asked(-60 * n, sender_id=f"other-{n}", evidence_id=f"q-{n}") for n in range(1, 25)]
    assert why(0, questions=tuple(hours[:4])) is None
    assert why(0, questions=tuple(hours[:5])) is Withheld.ASKED_ENOUGH
    assert why(0, questions=tuple(hours[-5:])) is None, "the first of them was a day ago"
    days = [asked(-60 * 24 * n, sender_id=f"other-{n}", evidence_id=f"q-{n}") for n in range(1, 31)]
    assert why(0, questions=tuple(days[:19])) is None
    assert why(0, questions=tuple(days[:20])) is Withheld.ASKED_ENOUGH
    assert why(0, questions=tuple(days[10:])) is None, "the first of them was thirty days ago"


def test_one_organisation_asks_a_number_less_often_than_all_together() -> None:
    hours = [asked(-60 * n, sender_id=one, evidence_id=f"q-{one}") for n, one in enumerate(OURS, 1)]
    assert why(0, questions=tuple(hours[:2])) is None
    assert why(0, questions=tuple(hours[:3])) is Withheld.ASKED_ENOUGH
    days = [asked(-60 * 24 * n, sender_id=one, evidence_id=f"q-{one}") for n, one in enumerate(OURS, 1)]
    assert why(0, questions=tuple(days[:9])) is None
    assert why(0, questions=tuple(days[:10])) is Withheld.ASKED_ENOUGH


def test_a_form_of_long_ago_asks_nothing() -> None:
    assert too_old(NOON - timedelta(days=1, seconds=1), NOON)
    assert not too_old(NOON - timedelta(days=1), NOON)


# --- the answer -----------------------------------------------------------------------------------------------------


def question_answered(
    at_: datetime, *evidence: Evidence, questions: tuple[Question, ...] = (), code: str = CODE
) -> Question | None:
    return answered(fold((request(0), *evidence)), questions or (asked(0),), code, at_)


def test_an_oui_after_the_question_within_its_window_to_its_code_answers_it() -> None:
    assert question_answered(at(1)) == asked(0)
    assert question_answered(at(24 * 60)) == asked(0)


@pytest.mark.parametrize(
    ("when", "evidence", "questions", "code"),
    [
        (at(0), (), (), CODE),
        (at(-1), (), (), CODE),
        (at(24 * 60 + 1), (), (), CODE),
        (at(2), (), (), "36222"),
        (at(2), (stop(1),), (), CODE),
        (at(2), (stop(1, sender_id=None),), (), CODE),
        (at(2), (opt_in(1),), (), CODE),
        (at(2), (expiry(1, answers="x"),), (), CODE),
        (at(2), (request(1),), (), CODE),
        (at(2), (), (asked(0, by_reply=False),), CODE),
        (at(2), (), (asked(0, confirmed=True),), CODE),
        (at(2), (), (asked(0, evidence_id="ev-of-somebody-else"),), CODE),
    ],
    ids=[
        "as early",
        "earlier",
        "late",
        "another code",
        "stopped",
        "stopped all",
        "answered",
        "lapsed",
        "asked anew",
        "by link only",
        "confirmed",
        "another request",
    ],
)
def test_no_other_oui_does(
    when: datetime, evidence: tuple[Evidence, ...], questions: tuple[Question, ...], code: str
) -> None:
    assert question_answered(when, *evidence, questions=questions, code=code) is None


def test_what_a_person_does_besides_does_not_close_it() -> None:
    assert question_answered(at(2), contact(1), stop(1, sender_id="globex")) == asked(0)


def test_where_two_wait_on_a_code_an_oui_answers_neither() -> None:
    other = request(1, sender_id="globex")
    two = (asked(0), asked(1, sender_id="globex", evidence_id=other.evidence_id))
    assert question_answered(at(2), other, questions=two) is None
    assert question_answered(at(0.5), other, questions=two) == asked(0), "the other was not asked yet"
    assert question_answered(at(2), other, stop(1.5, sender_id="globex"), questions=two) == asked(0)


def test_a_second_question_on_a_code_is_not_put_so_that_an_oui_could_answer_it() -> None:
    waiting = (asked(0),)
    for other, free in (
        (request(5, sender_id="globex"), False),
        (request(5, purpose="loyalty"), False),
        (request(5), True),
    ):
        assert takes_reply(fold([request(0)]), other, CODE, waiting, at(5)) is free
        assert takes_reply(fold([request(0)]), other, "36222", waiting, at(5))
        assert takes_reply(fold([request(0), stop(1)]), other, CODE, waiting, at(5)), "it waits no more"
        assert takes_reply(fold([request(0)]), other, CODE, waiting, at(24 * 60 + 1))


def test_a_yes_carries_what_was_shown_and_names_the_request() -> None:
    form = request(0, form_id="newsletter", form_version="3", text_shown="Oui, vos offres", actor="agent-12")
    said = yes(form, evidence_id="ev", source="mo", at=at(2), received_at=at(3), reference="simulator/fr/1")
    assert (said.kind, said.basis, said.answers) == ("opt_in", "opt_in", form.evidence_id)
    assert (said.form_id, said.form_version, said.text_shown, said.actor) == (
        "newsletter",
        "3",
        "Oui, vos offres",
        "agent-12",
    )
    assert (said.occurred_at, said.received_at, said.reference) == (at(2), at(3), "simulator/fr/1")
    assert list(ledger.refusals(said, at(3))) == []
    assert standing(fold([form, said]), "acme", "promotions") == "opted_in"


def test_a_lapse_closes_its_question_and_no_consent() -> None:
    over = lapse(asked(0), evidence_id="ev", source="double_opt_in", now=at(24 * 60 + 1))
    assert standing(fold([request(0), over]), "acme", "promotions") == "expired"
    soft = opt_in(-5, basis="soft_opt_in", sale_reference="s-1")
    assert standing(fold([soft, request(0), over]), "acme", "promotions") == "opted_in"
    assert standing(fold([request(0), over, opt_in(5)]), "acme", "promotions") == "opted_in", "a paper form, sent late"
    assert question_answered(at(5), over) is None


# --- the pace -------------------------------------------------------------------------------------------------------


def test_so_many_at_once_then_one_every_so_often() -> None:
    pace, full_at = Pace(3, timedelta(hours=3)), None
    for _ in range(3):
        full_at, wait = step(full_at, pace, NOON)
        assert wait == timedelta(0)
    assert step(full_at, pace, NOON)[1] == timedelta(hours=1)
    assert step(full_at, pace, at(20))[1] == timedelta(minutes=40)
    assert step(full_at, pace, at(60))[1] == timedelta(0)
