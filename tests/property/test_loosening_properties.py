"""A consent state loosens nothing that its reader knows: over what consent-svc's ledger really makes of evidence."""

from datetime import timedelta

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.contracts.consent import ConsentStateChanged
from common.contracts.loosening import believed, loosens, stops_of
from consent.ledger.rules import NEVER_SEEN, Evidence, SubjectState, consents, decide, fold, standing, suppressions
from tests.property.test_ledger_properties import ANYWHERE, anything, histories
from tests.unit.consent.evidences import NOW, on_page, opt_in, request, slow_stop, stop


def told(state: SubjectState, version: int) -> ConsentStateChanged:
    """As consent-svc's recorder publishes it."""
    return ConsentStateChanged(
        subject_id="t1-a",
        version=version,
        consents=consents(state),
        suppressions=suppressions(state),
        erased=False,
        causes=(),
    )


def shut(state: ConsentStateChanged) -> set[tuple[str, str]]:
    return {(c.sender_id, c.purpose) for c in state.consents if c.state == "opted_out"}


@given(histories)
@example([opt_in(0), slow_stop(20, slow=0), on_page(25), slow_stop(30, slow=29)])
def test_no_state_that_the_ledger_decides_loosens_an_earlier_one(evidence: list[Evidence]) -> None:
    """Nor one that comes after any number that were compacted away."""
    states, state = [told(NEVER_SEEN, 0)], NEVER_SEEN
    for one in evidence:
        state = decide(state, one, NOW).state
        states.append(told(state, len(states)))
    for place, earlier in enumerate(states):
        for later in states[place:]:
            assert not loosens(stops_of(earlier), later)
    assert believed(stops_of(states[0]), states) == (states[-1], False)


@given(histories, st.data())
@example([opt_in(0), stop(1)], None)
@example([request(1), stop(0, purpose="promotions")], None)
def test_a_state_that_forgets_a_stop_always_loosens(evidence: list[Evidence], data: st.DataObject | None) -> None:
    """Whatever else was lost with it: a purpose that was out is out no more, and nothing newer came.

    Newer by the times at the sources, which a state tells: a question that opened nothing, or an opt-in of before the
    arrival of a STOP whose operator's clock is slow. Such a lost STOP is not noticed: `stopped_at` may not decide, as a
    START by the same clock takes the STOP back, and is older than its arrival.
    """
    evidence = [replace(e, purpose=None) if e.arrived_at else e for e in evidence]  # as no text names a purpose
    kept = [e for e in evidence if data.draw(st.booleans())] if data else evidence[:-1]
    stored, new = told(fold(evidence), 8), told(fold(kept), 9)
    stopped = {(c.sender_id, c.purpose): c.occurred_at for c in stored.consents}
    newer = {(c.sender_id, c.purpose): c.occurred_at for c in new.consents}
    forgets = {of for of in shut(stored) - shut(new) if of not in newer or newer[of] <= stopped[of]}
    since = {s.sender_id: s.since for s in new.suppressions}
    forgets_wide = any(s.since > since.get(s.sender_id, s.since - timedelta(1)) for s in stored.suppressions)
    assert loosens(stops_of(stored), new) >= bool(forgets or forgets_wide)


@given(histories, histories, st.data())
def test_what_is_believed_of_a_state_that_forgets_has_every_stop_of_before(
    evidence: list[Evidence], more: list[Evidence], data: st.DataObject
) -> None:
    kept = [e for e in evidence if data.draw(st.booleans())]
    stored, new = told(fold(evidence), 8), told(fold([*kept, *more]), 9)
    state, forgets = believed(stops_of(stored), [new])
    assert not loosens(stops_of(stored), state)
    assert (state == new) == (not forgets)
    assert not loosens(stops_of(new), state)  # nor is what the new one shuts open


@given(histories, st.lists(anything, max_size=3))
def test_a_state_that_accounts_for_the_stop_is_believed_again(evidence: list[Evidence], more: list[Evidence]) -> None:
    whole = told(fold(evidence), 8)
    forgetful = told(fold(evidence[:-1]), 9)
    after = told(fold([*evidence, *more]), 10)
    assert believed(stops_of(whole), [forgetful, after]) == (after, False)


def test_a_later_opt_in_alone_opens_what_a_stop_has_shut() -> None:
    out = stops_of(told(fold([opt_in(0), stop(1)]), 2))
    assert loosens(out, told(fold([opt_in(0)]), 3))
    assert loosens(out, told(fold([opt_in(0), opt_in(0.5)]), 3))
    assert not loosens(out, told(fold([opt_in(0), stop(1), on_page(2)]), 3))
    assert standing(fold([opt_in(0), stop(1), on_page(2)]), *ANYWHERE[0]) == "opted_in"
