"""What evidence changes: the cases a person would ask about."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from consent.ledger.corrections import annuls
from consent.ledger.reopening import reopened
from consent.ledger.retention import last_contact
from consent.ledger.rules import (
    CLOCK_SKEW,
    NEVER_SEEN,
    Evidence,
    Refusal,
    Verdict,
    consent_of,
    consents,
    decide,
    fold,
    open_request,
    outvoted,
    standing,
    suppressions,
)
from tests.unit.consent.evidences import (
    NOW,
    at,
    contact,
    expiry,
    on_page,
    opt_in,
    opt_out,
    request,
    slow_stop,
    start,
    stop,
)

EVERYONE: dict[str, Any] = {"sender_id": None}
GROUP: dict[str, Any] = {"controller": "groupe-acme"}
OUTLET: dict[str, Any] = {"sender_id": "acme-outlet", **GROUP}


def state_after(*evidence: Evidence, purpose: str = "promotions", sender: str = "acme") -> str:
    return standing(fold(evidence), sender, purpose)


def test_nobody_is_opted_in_without_evidence() -> None:
    assert standing(NEVER_SEEN, "acme", "promotions") == "unknown"
    assert (consents(NEVER_SEEN), suppressions(NEVER_SEEN)) == ((), ())


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ([opt_in(0)], "opted_in"),
        ([opt_out(0)], "opted_out"),
        ([opt_in(0), opt_out(1)], "opted_out"),
        ([opt_in(0), opt_out(1), opt_in(2)], "opted_in"),
        ([opt_in(1), opt_out(0)], "opted_in"),
        ([opt_in(0), opt_out(0)], "opted_out"),
        ([opt_in(0), opt_out(1, purpose="promotions")], "opted_out"),
        ([opt_in(0), opt_out(1, purpose="loyalty")], "opted_in"),
        ([opt_in(0), opt_out(1, **EVERYONE)], "opted_out"),
        ([opt_in(0), opt_out(1, sender_id="globex")], "opted_in"),
        ([opt_in(0, sender_id="globex")], "unknown"),
        ([opt_in(0, purpose="loyalty")], "unknown"),
        ([opt_in(2), opt_out(1, **EVERYONE), opt_out(3, purpose="loyalty")], "opted_in"),
        ([request(0)], "pending"),
        ([opt_in(0), request(1)], "opted_in"),
        ([request(0), opt_in(1)], "opted_in"),
        ([request(0), expiry(1)], "expired"),
        ([request(0), expiry(0)], "expired"),
        ([request(0), expiry(1), request(2)], "pending"),
        ([opt_in(0), expiry(1)], "expired"),
        ([opt_in(0), expiry(0)], "expired"),
        ([opt_in(0), expiry(1), opt_in(2)], "opted_in"),
        ([opt_in(0), expiry(1), request(2)], "pending"),
        ([opt_in(0), expiry(1, purpose="loyalty")], "opted_in"),
        ([opt_out(0), request(1)], "opted_out"),
        ([opt_out(0), request(1), expiry(2)], "opted_out"),
        ([opt_in(0), opt_out(1), expiry(2)], "opted_out"),
        ([opt_in(0), expiry(1), opt_out(2), opt_in(1.5)], "opted_out"),
        ([contact(0)], "unknown"),
        ([opt_in(0), expiry(1), contact(2)], "expired"),
    ],
    ids=[
        "an opt-in",
        "an opt-out alone",
        "opted out later",
        "opted in again later",
        "an older opt-out",
        "a tie is an opt-out",
        "out of this purpose",
        "out of another purpose",
        "out of every sender",
        "out of another sender",
        "in for another sender",
        "in for another purpose",
        "in again after leaving everyone",
        "asked",
        "asked again though in",
        "asked and confirmed",
        "asked and lapsed",
        "lapsed in the same instant",
        "asked, lapsed, asked again",
        "retention ran out",
        "a tie is expired",
        "in again after retention ran out",
        "asked after retention ran out",
        "another purpose ran out",
        "asked of somebody who is out",
        "asked of somebody who is out, and lapsed",
        "a STOP is not forgotten",
        "out after it ran out",
        "in touch",
        "in touch after it ran out",
    ],
)
def test_the_newest_at_source_decides(evidence: list[Evidence], expected: Any) -> None:
    assert state_after(*evidence) == expected
    assert state_after(*reversed(evidence)) == expected


def test_a_stop_covers_purposes_that_did_not_exist_yet() -> None:
    state = fold([opt_out(0)])
    assert standing(state, "acme", "invented-next-year") == "opted_out"
    assert standing(state, "globex", "invented-next-year") == "unknown"


def test_a_stop_of_a_controller_covers_its_other_senders_and_those_to_come() -> None:
    state = fold([opt_in(0, **OUTLET), opt_in(0, sender_id="globex", controller="globex"), stop(1, **GROUP)])
    assert standing(state, "acme-outlet", "promotions") == "opted_out"
    assert standing(state, "globex", "promotions") == "opted_in"
    late = fold([stop(1, **GROUP), opt_in(0, sender_id="registered-later", **GROUP)])
    assert standing(late, "registered-later", "promotions") == "opted_out"
    newer = fold([stop(1, **GROUP), on_page(2, **OUTLET)])
    assert standing(newer, "acme-outlet", "promotions") == "opted_in"


def test_a_stop_of_one_sender_leaves_the_others_of_its_controller() -> None:
    state = fold([opt_in(0, **OUTLET), opt_in(0, **GROUP), stop(1)])
    assert standing(state, "acme-outlet", "promotions") == "opted_in"
    assert standing(state, "acme", "promotions") == "opted_out"


def test_a_later_stop_of_the_sender_alone_does_not_take_the_wider_one_back() -> None:
    state = fold([opt_in(0, **OUTLET), stop(1, **GROUP), stop(2)])
    assert standing(state, "acme-outlet", "promotions") == "opted_out"
    assert [(s.sender_id, s.since) for s in suppressions(state)] == [("acme", stop(2).at)], "told once, as the newest"


def test_a_stop_of_a_controller_closes_what_its_other_senders_asked() -> None:
    asked = request(1, **OUTLET)
    assert open_request(fold([asked, stop(2, **GROUP)]), "acme-outlet", "promotions") is None
    assert open_request(fold([asked, stop(2)]), "acme-outlet", "promotions") is not None


def test_a_late_opt_in_older_than_the_stop_is_kept_and_changes_nothing() -> None:
    before = fold([stop(10)])
    decision = decide(before, opt_in(5), NOW)
    assert decision.verdict is Verdict.UNCHANGED
    assert decision.cause is None
    assert standing(decision.state, "acme", "promotions") == "opted_out"
    assert reopened(decision.state, "acme") == ("promotions",), "kept: a START may speak for it"


def test_an_opt_in_after_a_stop_opens_one_purpose_and_leaves_the_others_shut() -> None:
    state = fold([opt_in(0), opt_in(0, purpose="loyalty"), opt_out(1), opt_in(2)])
    assert standing(state, "acme", "promotions") == "opted_in"
    assert standing(state, "acme", "loyalty") == "opted_out"
    assert [(s.sender_id, s.since) for s in suppressions(state)] == [("acme", at(1))]


def test_a_consent_names_the_evidence_that_made_it_so() -> None:
    given, left = opt_in(0, basis="soft_opt_in", sale_reference="order-7"), opt_out(1)
    consent = consent_of(fold([given]), "acme", "promotions")
    assert consent
    assert (consent.evidence_id, consent.basis) == (given.evidence_id, "soft_opt_in")
    consent = consent_of(fold([given, left]), "acme", "promotions")
    assert consent
    assert (consent.evidence_id, consent.occurred_at, consent.basis) == (left.evidence_id, at(1), None)


def test_an_opt_in_from_a_clock_that_runs_ahead_does_not_outvote_the_stop_that_answers_it() -> None:
    ahead = opt_in(0, occurred_at=at(1), received_at=at(0))
    assert not decide(NEVER_SEEN, ahead, at(0)).refusals, "within the skew it is taken"
    assert state_after(ahead, stop(0.5)) == "opted_out"


def test_a_stop_from_a_clock_that_runs_ahead_counts_from_when_we_held_it() -> None:
    early = stop(0, occurred_at=at(60 * 24 * 365), received_at=at(0))
    assert decide(NEVER_SEEN, early, at(0)).changed
    assert state_after(early, on_page(1)) == "opted_in", "and does not silence the person for a year"


def test_a_stop_timed_to_the_second_ties_with_an_opt_in_within_it() -> None:
    timed = stop(0, received_at=at(5))
    within, after = timedelta(microseconds=999_999), timedelta(seconds=1)
    assert state_after(timed, on_page(0, occurred_at=at(0) + within, received_at=at(5))) == "opted_out"
    assert state_after(timed, on_page(0, occurred_at=at(0) + after, received_at=at(5))) == "opted_in"
    precise = stop(0, occurred_at=at(0) + timedelta(microseconds=1), received_at=at(5))
    assert state_after(precise, on_page(0, occurred_at=at(0) + within, received_at=at(5))) == "opted_in"


def test_a_second_stop_by_sms_is_told_again_though_nothing_changes() -> None:
    before = fold([stop(5)])
    late = decide(before, stop(1), NOW)
    assert late.verdict is Verdict.UNCHANGED
    assert late.cause is not None
    assert late.cause.reference == "simulator/fr/mo-1"
    assert decide(before, opt_out(1), NOW).cause is None, "one from an API has nobody waiting for its enforcement"


def test_a_second_proof_of_the_same_instant_changes_nothing() -> None:
    assert (
        decide(fold([opt_in(0, evidence_id="ev-1")]), opt_in(0, evidence_id="ev-2"), NOW).verdict is Verdict.UNCHANGED
    )


def test_what_changes_says_why() -> None:
    decision = decide(NEVER_SEEN, opt_in(0, received_at=at(3)), NOW)
    assert decision.changed
    assert decision.cause is not None
    assert (decision.cause.kind, decision.cause.source, decision.cause.received_at) == ("opt_in", "shop", at(3))


def test_a_renewed_opt_in_changes_the_evidence_it_stands_on() -> None:
    decision = decide(fold([opt_in(0)]), opt_in(5), NOW)
    assert decision.changed
    assert consents(decision.state)[0].occurred_at == at(5)


@pytest.mark.parametrize(
    ("evidence", "refusal"),
    [
        (opt_in(occurred_at=NOW + CLOCK_SKEW + timedelta(seconds=1)), Refusal.OCCURRED_IN_THE_FUTURE),
        (opt_in(source="  "), Refusal.SOURCE_MISSING),
        (opt_out(source=""), Refusal.SOURCE_MISSING),
        (opt_in(sender_id=None), Refusal.SENDER_MISSING),
        (opt_out(sender_id=None, purpose="promotions"), Refusal.SENDER_MISSING),
        (opt_in(purpose=None), Refusal.PURPOSE_MISSING),
        (opt_in(basis=None), Refusal.BASIS_MISSING),
        (opt_in(text_shown=None), Refusal.NOTHING_SHOWN),
        (opt_in(text_shown=None, form_id="newsletter"), Refusal.NOTHING_SHOWN),
        (opt_in(text_shown=None, form_version="3"), Refusal.NOTHING_SHOWN),
        (opt_in(basis="soft_opt_in"), Refusal.SALE_REFERENCE_MISSING),
        (request(purpose=None), Refusal.PURPOSE_MISSING),
        (request(sender_id=None), Refusal.SENDER_MISSING),
        (expiry(purpose=None), Refusal.PURPOSE_MISSING),
        (contact(sender_id=None), Refusal.SENDER_MISSING),
        (contact(source=""), Refusal.SOURCE_MISSING),
    ],
)
def test_a_refusal_says_why_and_keeps_the_state(evidence: Evidence, refusal: Refusal) -> None:
    before = fold([stop(-10)])
    decision = decide(before, evidence, NOW)
    assert (decision.verdict, decision.refusals) == (Verdict.REFUSED, (refusal,))
    assert decision.state == before
    assert decision.cause is None


def test_every_reason_is_given_not_only_the_first() -> None:
    refused = decide(NEVER_SEEN, opt_in(source="", text_shown=None, basis="soft_opt_in"), NOW).refusals
    assert set(refused) == {Refusal.SOURCE_MISSING, Refusal.NOTHING_SHOWN, Refusal.SALE_REFERENCE_MISSING}


@pytest.mark.parametrize(
    "evidence",
    [
        opt_in(text_shown=None, form_id="newsletter", form_version="3"),
        opt_in(text_shown=None, reference="simulator/fr/mo-9"),
        opt_in(basis="soft_opt_in", sale_reference="order-7"),
        opt_in(basis="non_commercial"),
        opt_in(occurred_at=NOW + CLOCK_SKEW, received_at=NOW),
        opt_out(occurred_at=NOW + timedelta(days=365), received_at=NOW),
        opt_in(occurred_at=NOW + timedelta(days=365), received_at=NOW, reference="simulator/fr/mo-9"),
        opt_out(purpose="promotions"),
        opt_out(sender_id=None),
    ],
)
def test_evidence_that_proves_enough_is_taken(evidence: Evidence) -> None:
    assert decide(NEVER_SEEN, evidence, NOW).changed


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        ([], ()),
        ([stop(1)], ()),
        ([opt_in(0), stop(1)], ("promotions",)),
        ([opt_in(0), opt_in(0, purpose="loyalty"), stop(1)], ("loyalty", "promotions")),
        ([opt_in(0, sender_id="globex"), stop(1)], ()),
        ([opt_in(0), opt_out(1, purpose="promotions"), stop(2)], ()),
        ([opt_in(0), opt_out(0, purpose="promotions")], ()),
        ([opt_in(0), opt_out(1, purpose="promotions"), opt_in(2), stop(3)], ("promotions",)),
        ([opt_in(0), expiry(1), stop(2)], ()),
        ([request(0), stop(1)], ()),
    ],
    ids=[
        "never seen",
        "never in",
        "in, then STOP",
        "two purposes",
        "in elsewhere",
        "left that purpose by itself",
        "left it in the same instant",
        "left it, came back, then STOP",
        "ran out before the STOP",
        "asked and never confirmed",
    ],
)
def test_a_start_speaks_for_what_a_stop_closed_and_for_nothing_else(evidence: list[Evidence], expected: Any) -> None:
    assert reopened(fold(evidence), "acme") == expected


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (("acme", None), "opted_in"),
        ((None, None), "opted_in"),
        (("globex", None), "opted_out"),
        (("initech", None), "unknown"),
    ],
)
def test_a_wide_scope_stands_open_while_any_purpose_in_it_does(scope: Any, expected: Any) -> None:
    state = fold([opt_in(0), opt_out(1, purpose="loyalty"), opt_out(2, sender_id="globex")])
    assert standing(state, *scope) == expected


def test_a_wide_scope_with_nothing_open_is_out() -> None:
    assert standing(fold([opt_in(0), opt_out(1, purpose="promotions")]), "acme", None) == "opted_out"
    assert standing(fold([opt_out(0, sender_id=None)]), None, None) == "opted_out"
    assert standing(NEVER_SEEN, None, None) == "unknown"


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [([request(0)], "pending"), ([request(0), expiry(1)], "expired"), ([request(0), stop(1)], "opted_out")],
)
def test_a_wide_scope_that_was_never_open_says_how_far_it_came(evidence: list[Evidence], expected: Any) -> None:
    assert standing(fold(evidence), "acme", None) == expected


def test_a_request_stays_open_until_something_as_new_answers_it() -> None:
    asked = request(1)
    for answer in (opt_in(1), stop(1), expiry(1), stop(1, sender_id=None)):
        assert open_request(fold([asked, answer]), "acme", "promotions") is None
    for other in (opt_in(0), stop(0), expiry(0), contact(2), opt_in(2, purpose="loyalty")):
        found = open_request(fold([asked, other]), "acme", "promotions")
        assert found is not None
        assert found.evidence_id == asked.evidence_id


def test_only_what_the_person_did_with_this_sender_moves_the_clock_of_retention() -> None:
    assert last_contact(NEVER_SEEN, "acme") is None
    began = [opt_in(0), request(5), expiry(6), contact(7, sender_id="globex"), opt_in(8, sender_id="globex")]
    assert last_contact(fold(began), "acme") == at(0)
    for touch in (contact(9), opt_in(9, purpose="loyalty"), stop(9), stop(9, sender_id=None), contact(9, purpose="x")):
        assert last_contact(fold([*began, touch]), "acme") == touch.at


def test_a_list_of_who_is_out_of_one_purpose_prolongs_no_consent_to_another() -> None:
    """It is dated when it came, and nobody was in touch."""
    began = [opt_in(0), opt_in(1, purpose="loyalty")]
    assert last_contact(fold([*began, opt_out(9, purpose="promotions")]), "acme") == at(1)


def test_a_contact_is_kept_and_changes_no_state() -> None:
    decision = decide(fold([opt_in(0)]), contact(1), NOW)
    assert (decision.verdict, decision.told) == (Verdict.UNCHANGED, False)
    assert last_contact(decision.state, "acme") == at(1)


def test_what_asks_or_expires_is_told_by_the_state_alone() -> None:
    for evidence in (request(1), expiry(1)):
        decision = decide(NEVER_SEEN, evidence, NOW)
        assert (decision.changed, decision.told, decision.cause) == (True, True, None)


def test_two_of_the_same_instant_fall_the_same_way_in_any_order() -> None:
    one, other = opt_in(0, evidence_id="ev-1"), replace(opt_in(0, evidence_id="ev-2"), basis="non_commercial")
    assert fold([one, other]) == fold([other, one])


@pytest.mark.parametrize(
    ("line", "wrong", "right", "annulled"),
    [
        (opt_in(), ("person",), (), True),
        (opt_in(), ("time",), ("text_shown",), True),
        (opt_in(), ("text_shown",), ("text_shown",), False),
        (opt_in(), ("text_shown",), ("form_id", "form_version"), True),
        (opt_in(), ("form",), ("form_id",), True),
        (opt_in(), ("form",), ("form_id", "form_version"), False),
        (opt_in(), ("form", "purpose"), ("form_id", "form_version"), True),
        (opt_in(), ("actor",), (), False),
        (request(), ("person",), (), True),
        (opt_out(), ("person",), (), False),
        (contact(), ("person",), (), False),
        (expiry(), ("time",), (), False),
    ],
)
def test_a_line_that_opened_falls_where_nothing_right_is_left_of_its_proof(
    line: Evidence, wrong: tuple[Any, ...], right: tuple[str, ...], annulled: bool
) -> None:
    assert annuls(line, wrong, right) is annulled


def test_an_act_that_was_not_the_persons_takes_back_no_stop() -> None:
    """Once it is put right: what is asserted later does not open what only that act had opened."""
    wrong = on_page(2, evidence_id="ev-wrong")
    annulled = opt_out(2, purpose="promotions", source="rectification", answers="ev-wrong", evidence_id="ev-right")
    said = [opt_in(0), stop(1), wrong, annulled, opt_out(3, purpose="promotions"), opt_in(4)]
    assert {state_after(*order) for order in (said, said[::-1])} == {"opted_out"}
    assert state_after(*said, on_page(5)) == "opted_in"


# --- a STOP by text, and its operator's clock -------------------------------------------------------------------------


def test_a_stop_that_arrives_after_an_opt_in_closes_it_though_its_operators_clock_is_slow() -> None:
    given, late = opt_in(9), slow_stop(10, slow=2)
    assert late.at < given.at
    for order in ([given, late], [late, given]):
        assert state_after(*order) == "opted_out"
    decision = decide(fold([given]), late, NOW)
    assert decision.cause
    assert decision.cause.evidence_id == late.evidence_id
    assert state_after(late, on_page(10.01)) == "opted_in", "newer than the arrival"
    assert state_after(late, on_page(10)) == "opted_out", "a tie"


def test_a_list_and_a_shop_are_ordered_by_the_date_they_tell() -> None:
    assert state_after(opt_in(9), opt_out(8, received_at=at(10))) == "opted_in"


def test_a_stop_that_is_delivered_late_stands_behind_a_start_of_the_same_clock_only() -> None:
    late = slow_stop(60, slow=50)
    assert state_after(opt_in(0), start(20), late) == "opted_in"
    assert state_after(opt_in(0), start(20, clock="simulator/be"), late) == "opted_out", "another clock"
    assert state_after(opt_in(20), late) == "opted_out", "a form has no operator's clock"
    assert state_after(opt_in(0), start(10), late) == "opted_out", "a tie by that clock"
    assert state_after(opt_in(0), start(20), replace(late, clock=None)) == "opted_out", "as a person has decided"


def test_a_start_by_the_clock_that_has_timed_the_stop_takes_it_back_though_that_clock_is_slow() -> None:
    slow = slow_stop(10, slow=5)
    after = start(6, received_at=at(11))  # a minute after the STOP
    assert state_after(opt_in(0), slow, after) == "opted_in"
    assert state_after(opt_in(0), slow, replace(after, clock="simulator/be")) == "opted_out"


def test_an_outvoted_stop_is_told_to_nobody_as_if_it_had_closed_something() -> None:
    before, late = fold([opt_in(0), opt_in(0, purpose="loyalty"), start(20)]), slow_stop(60, slow=50)
    decision = decide(before, late, NOW)
    assert outvoted(decision.state, late)
    assert (decision.changed, decision.cause) == (True, None), "it shuts the other purpose"
    assert standing(decision.state, "acme", "loyalty") == "opted_out"
    after_all = fold([opt_in(0), late, start(70)])
    assert not outvoted(after_all, late), "a START that came after it takes it back"


def test_the_last_to_arrive_counts_though_the_newest_stop_at_source_is_named() -> None:
    for stops in ([slow_stop(30, slow=29), slow_stop(20, slow=0)], [slow_stop(20, slow=0), slow_stop(30, slow=29)]):
        state = fold([on_page(25), *stops])
        consent = consent_of(state, "acme", "promotions")
        assert consent
        assert (consent.state, consent.evidence_id) == ("opted_out", slow_stop(20, slow=0).evidence_id)
        assert len(state.marks) == 3
    assert len(fold([slow_stop(20, slow=0), slow_stop(30, slow=0)]).marks) == 1


def test_a_question_is_closed_by_a_stop_that_arrives_after_it() -> None:
    assert open_request(fold([request(9), slow_stop(10, slow=2)]), "acme", "promotions") is None
    assert open_request(fold([slow_stop(10, slow=2), request(11)]), "acme", "promotions")


def test_a_stop_by_a_slow_clock_is_published_with_its_arrival() -> None:
    (shut,) = consents(fold([request(0), slow_stop(1, slow=3)]))
    assert (shut.state, shut.occurred_at, shut.stopped_at) == (
        "opted_out",
        at(-2) + timedelta(microseconds=999_999),
        at(1),
    )
    (again,) = consents(fold([request(0), slow_stop(1, slow=3), slow_stop(5, slow=8)]))
    assert again.stopped_at == at(5), "the last to come, though it is the older at source"
    (exact,) = consents(fold([request(0), stop(1)]))
    assert exact.stopped_at is None
