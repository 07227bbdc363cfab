"""What holds for any evidence in any order."""

from datetime import timedelta
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from consent.ledger.corrections import Wrong, annuls
from consent.ledger.reopening import reopened
from consent.ledger.rules import (
    Evidence,
    SubjectState,
    apply,
    consent_of,
    consents,
    decide,
    differs,
    fold,
    outvoted,
    standing,
    suppressions,
)
from tests.unit.consent.evidences import (
    NOON,
    NOW,
    contact,
    correction,
    expiry,
    on_page,
    opt_in,
    opt_out,
    request,
    start,
    stop,
)

SENDERS = ("acme", "globex", "initech")
CONTROLLERS = {"acme": "group", "globex": "group", "initech": "initech"}
PURPOSES = ("promotions", "loyalty")
ANYWHERE = [(s, p) for s in (*SENDERS, "never-seen") for p in (*PURPOSES, "to-come")]

CLOCKS = ("simulator/fr", "simulator/be")

minutes = st.integers(-4, 4)  # few instants: ties are common


@st.composite
def opt_ins(draw: st.DrawFn) -> Evidence:
    sender = draw(st.sampled_from(SENDERS))
    make = draw(st.sampled_from((start, on_page, opt_in)))
    made: Evidence = make(
        draw(minutes),
        evidence_id=f"ev-{draw(st.integers(0, 99))}",
        sender_id=sender,
        controller=CONTROLLERS[sender],
        purpose=draw(st.sampled_from(PURPOSES)),
        received_at=NOON + timedelta(minutes=draw(minutes)),
        clock=draw(st.sampled_from(CLOCKS)) if make is start else None,
        reopening_rule=draw(st.sampled_from((None, "rule-1"))) if make is opt_in else None,
    )
    return made


@st.composite
def opt_outs(draw: st.DrawFn) -> Evidence:
    sender = draw(st.sampled_from((*SENDERS, None)))
    make = draw(st.sampled_from((stop, opt_out)))
    purpose = draw(st.sampled_from((*PURPOSES, None))) if sender else None
    arrived_at = NOON + timedelta(minutes=draw(minutes))
    by_text = {"arrived_at": arrived_at, "clock": draw(st.sampled_from((*CLOCKS, None)))} if make is stop else {}
    made: Evidence = make(
        draw(minutes),
        evidence_id=f"ev-{draw(st.integers(0, 99))}",
        sender_id=sender,
        purpose=purpose,
        controller=CONTROLLERS[sender] if sender and purpose is None and draw(st.booleans()) else None,
        received_at=arrived_at + timedelta(minutes=draw(st.integers(0, 2))),  # a text may be understood later
        **by_text,
    )
    return made


@st.composite
def steps(draw: st.DrawFn) -> Evidence:
    """What lies between: requests, expiries, contacts, corrections."""
    sender = draw(st.sampled_from(SENDERS))
    make = draw(st.sampled_from((request, expiry, contact, correction)))
    made: Evidence = make(
        draw(minutes),
        evidence_id=f"ev-{draw(st.integers(0, 99))}",
        sender_id=sender,
        controller=CONTROLLERS[sender],
        purpose=draw(st.sampled_from(PURPOSES)),
        answers="ev-asked" if make is expiry and draw(st.booleans()) else None,
        received_at=NOON + timedelta(minutes=draw(minutes)),
    )
    return made


anything = opt_ins() | opt_outs() | steps()
of_one_scope = (opt_ins() | opt_outs()).map(
    lambda e: replace(e, sender_id="acme", purpose="promotions", controller=None if e.kind == "opt_out" else "group")
)
histories = st.lists(anything, max_size=12) | st.lists(of_one_scope, max_size=6)  # where all that is said meets


def opted_in(state: SubjectState) -> set[tuple[str, str]]:
    return {(s, p) for s, p in ANYWHERE if standing(state, s, p) == "opted_in"}


def meaning(state: SubjectState, sender: str, purpose: str) -> object:
    if (consent := consent_of(state, sender, purpose)) is None:
        return None
    return consent.state, consent.basis, consent.occurred_at, consent.reopening_rule, consent.stopped_at


def by_definition(evidence: list[Evidence], sender: str, purpose: str) -> str:
    """The rule as one would say it, with all the evidence at hand."""
    given = [e for e in evidence if (e.kind, e.sender_id, e.purpose) == ("opt_in", sender, purpose)]
    own = [e for e in evidence if e.kind == "opt_out" and e.purpose in (None, purpose) and e.sender_id == sender]
    wide = [
        e
        for e in evidence
        if e.kind == "opt_out" and (e.sender_id is None or (e.controller and e.controller == CONTROLLERS.get(sender)))
    ]
    everyone = [e for e in evidence if e.kind == "opt_out" and e.sender_id is None]
    asked = [e.at for e in evidence if (e.kind, e.sender_id, e.purpose) == ("request", sender, purpose)]
    ended = [e for e in evidence if (e.kind, e.sender_id, e.purpose) == ("expiry", sender, purpose)]
    over, lapsed = [e.at for e in ended if not e.answers], [e.at for e in ended if e.answers]
    outs = own + (wide if given or asked else everyone)  # of a sender nobody is known to know, nothing is known
    told = [i for i in given if not is_held(i, given, outs)]
    ins = [i.at for i in told if all(is_newer(i, out) for out in outs)]
    if outs and not ins:
        return "opted_out"
    if ins and not (over and max(over) >= max(ins)):
        return "opted_in"
    ended_at = over + lapsed + [i.at for i in told] + [e.at if e.arrived_at is None else e.arrived_at for e in outs]
    if asked and not (ended_at and max(ended_at) >= max(asked)):
        return "pending"
    return "expired" if over or lapsed else "unknown"


def is_held(asserted: Evidence, given: list[Evidence], outs: list[Evidence]) -> bool:
    """An opt-in that is not the person's own act, after a STOP of theirs that no later act of theirs takes back."""
    if asserted.source != "shop":
        return False
    own = [i for i in given if i.source != "shop"]
    stops = [o for o in outs if o.source != "shop" and not any(is_newer(i, o) for i in own)]
    if asserted.reopening_rule:
        stops = [o for o in stops if o.sender_id is None]
    return any(is_newer(asserted, stop) for stop in stops)


def is_newer(opening: Evidence, out: Evidence) -> bool:
    """Than the opt-out: by the clock that has timed both, else by when the opt-out came, if it is a text."""
    if out.arrived_at is None or (out.clock is not None and out.clock == opening.clock):
        return opening.at > out.at
    return opening.at > out.arrived_at


@given(histories)
def test_the_fold_is_the_rule(evidence: list[Evidence]) -> None:
    state = fold(evidence)
    for sender, purpose in ANYWHERE:
        assert standing(state, sender, purpose) == by_definition(evidence, sender, purpose)


@given(histories, st.data())
def test_no_order_no_duplicate_and_no_replay_changes_the_result(evidence: list[Evidence], data: st.DataObject) -> None:
    replayed = evidence + data.draw(st.lists(st.sampled_from(evidence), max_size=6) if evidence else st.just([]))
    assert fold(data.draw(st.permutations(replayed))) == fold(evidence)


@given(histories, histories)
def test_replaying_any_prefix_changes_nothing(evidence: list[Evidence], more: list[Evidence]) -> None:
    assert fold([*evidence, *more, *evidence]) == fold([*evidence, *more])


@given(histories, opt_outs())
def test_an_opt_out_never_opens_anything(evidence: list[Evidence], left: Evidence) -> None:
    before = fold(evidence)
    assert opted_in(apply(before, left)) <= opted_in(before)


@given(histories, steps())
def test_no_request_expiry_or_contact_opens_anything_or_hides_a_stop(evidence: list[Evidence], step: Evidence) -> None:
    before, after = fold(evidence), apply(fold(evidence), step)
    assert opted_in(after) <= opted_in(before)
    for sender, purpose in ANYWHERE:
        out, still = consent_of(before, sender, purpose), consent_of(after, sender, purpose)
        if out is not None and out.state == "opted_out":
            assert still is not None
            assert still.state == "opted_out"
            assert still.occurred_at >= out.occurred_at  # a request names the controller, whose wider STOP may be newer


@given(histories, steps().filter(lambda step: step.answers is not None))
def test_a_question_nobody_answers_takes_no_consent_away(evidence: list[Evidence], lapse: Evidence) -> None:
    before, after = fold(evidence), apply(fold(evidence), lapse)
    assert opted_in(after) == opted_in(before)
    assert all(reopened(after, sender) == reopened(before, sender) for sender in SENDERS)


@given(histories, anything)
def test_nothing_loosens_without_strictly_newer_evidence(evidence: list[Evidence], one: Evidence) -> None:
    before = fold(evidence)
    for sender, purpose in opted_in(apply(before, one)) - opted_in(before):
        assert (one.kind, one.sender_id, one.purpose) == ("opt_in", sender, purpose)
        shut, opened = consent_of(before, sender, purpose), consent_of(apply(before, one), sender, purpose)
        assert opened is not None
        assert shut is None or shut.state != "opted_out" or opened.occurred_at > shut.occurred_at


@given(histories, opt_outs(), st.integers(-9, 0))
def test_no_stop_that_arrives_after_an_opt_in_leaves_it_open(
    evidence: list[Evidence], out: Evidence, slow: int
) -> None:
    """However slow its operator's clock is; but for a START that the same clock puts later, and then it is told to
    nobody as if it had shut that."""
    sent_at = NOW + timedelta(minutes=slow)
    last = replace(out, evidence_id="ev-last", occurred_at=sent_at, received_at=NOW, arrived_at=NOW)
    before = [replace(e, occurred_at=e.occurred_at + (NOW - NOON)) for e in evidence]
    before = [replace(e, received_at=min(e.occurred_at, NOW)) for e in before]  # all on record by then
    decision = decide(fold(before), last, NOW)
    left = set()
    for sender, purpose in opted_in(decision.state):
        wide = last.controller is not None and last.controller == CONTROLLERS.get(sender)
        if (wide or last.sender_id in (None, sender)) and last.purpose in (None, purpose):
            left.add((sender, purpose))
            ids = {e.evidence_id for e in before if e.clock and e.clock == last.clock and e.at > last.at}
            consent = consent_of(decision.state, sender, purpose)
            assert consent is not None
            assert consent.evidence_id in ids
    assert outvoted(decision.state, last) is bool(left)
    assert not left or decision.cause is None
    assert not opted_in(apply(fold(before), replace(last, clock=None))) & left


@given(histories, anything)
def test_unchanged_means_the_same_for_every_purpose_there_is_or_will_be(
    evidence: list[Evidence], one: Evidence
) -> None:
    before = fold(evidence)
    decision = decide(before, one, NOW)
    same = suppressions(before) == suppressions(decision.state) and all(
        meaning(before, s, p) == meaning(decision.state, s, p) for s, p in ANYWHERE
    )
    assert decision.changed is not same
    assert differs(before, decision.state) is not same
    assert decision.told or same


@given(histories)
def test_consents_and_suppressions_together_say_what_the_state_says(evidence: list[Evidence]) -> None:
    """What a reader of the event decides: the consent on record, else a suppression that covers it."""
    state = fold(evidence)
    listed = {(c.sender_id, c.purpose): c for c in consents(state)}
    for sender, purpose in ANYWHERE:
        consent = listed.get((sender, purpose))
        covered = any(s.sender_id in (None, sender) for s in suppressions(state))
        read = consent.state if consent else "opted_out" if covered else "unknown"
        assert read == standing(state, sender, purpose)


@given(histories)
def test_an_open_consent_is_newer_than_every_suppression_that_covers_it(evidence: list[Evidence]) -> None:
    state = fold(evidence)
    for consent in consents(state):
        if consent.state == "opted_in":
            assert all(
                s.since < consent.occurred_at for s in suppressions(state) if s.sender_id in (None, consent.sender_id)
            )


@given(histories, st.sampled_from(SENDERS))
def test_a_start_grants_nothing_new(evidence: list[Evidence], sender: str) -> None:
    state = fold(evidence)
    given_before = {e.purpose for e in evidence if (e.kind, e.sender_id) == ("opt_in", sender)}
    assert set(reopened(state, sender)) <= given_before


@given(histories)
def test_the_state_is_no_longer_however_long_the_history(evidence: list[Evidence]) -> None:
    """A mark a scope; of STOPs by text two: the newest at source, and the last to arrive."""
    marks = fold(evidence).marks
    scopes = [m.scope for m in marks]
    assert scopes == sorted(scopes)
    assert all(scopes.count(m.scope) <= (2 if m.kind == "opt_out" else 1) for m in marks)


@given(st.lists(anything, min_size=1, max_size=12), st.data())
def test_putting_a_line_right_opens_nothing_and_shuts_what_it_opened(
    evidence: list[Evidence], data: st.DataObject
) -> None:
    line = data.draw(st.sampled_from(evidence))
    wrong = data.draw(st.sets(st.sampled_from(get_args(Wrong)), min_size=1))
    right = data.draw(st.sets(st.sampled_from(("form_id", "form_version", "text_shown"))))
    annulled = annuls(line, wrong, right)
    made = opt_out if annulled else correction
    before = fold(evidence)
    beside = made(sender_id=line.sender_id, purpose=line.purpose, answers=line.evidence_id, received_at=NOW)
    after = apply(before, replace(beside, occurred_at=line.at if annulled else NOW))
    assert opted_in(after) <= opted_in(before)
    if not annulled:
        assert after == before
    elif line.sender_id and line.purpose:
        consent = consent_of(after, line.sender_id, line.purpose)
        assert consent is not None
        assert consent.state != "opted_in" or consent.occurred_at > line.at
        others = opted_in(before) - {(line.sender_id, line.purpose)}
        assert others <= opted_in(after)
