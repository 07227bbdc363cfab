"""What a controller's erasure closes, and what it leaves, whatever is on record."""

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.privacy.erasing import Erasure, concerning
from consent.ledger.reopening import reopened
from consent.ledger.rules import Evidence, apply, closing, consent_of, fold, suppressions
from tests.property.test_ledger_properties import ANYWHERE, CONTROLLERS, SENDERS, histories
from tests.unit.consent.evidences import NOW, opt_out

LATER = NOW + timedelta(hours=1)
GROUP = [one for one in SENDERS if CONTROLLERS[one] == "group"]
erasures = st.lists(
    st.builds(
        Erasure,
        controller_id=st.sampled_from([None, "group", "initech"]),
        at=st.sampled_from([NOW, LATER]),
        lifted_for=st.frozensets(st.sampled_from(["group", "initech"])),
    )
)


@given(histories)
def test_an_erasure_closes_every_consent_of_its_controller_for_good_and_changes_no_other(
    evidence: list[Evidence],
) -> None:
    before = after = fold(evidence)
    scopes = closing(before, GROUP, "group")
    for place, (sender_id, purpose) in enumerate(scopes):
        said = opt_out(0, evidence_id=f"ev-erasure-{place}", sender_id=sender_id, purpose=purpose)
        said = replace(said, occurred_at=LATER, received_at=LATER)
        after = apply(after, replace(said, controller="group") if place == len(scopes) - 1 else said)
    for sender_id, purpose in ANYWHERE:
        consent = consent_of(after, sender_id, purpose)
        if sender_id in GROUP:
            assert consent is None or consent.state == "opted_out"
            assert reopened(after, sender_id) == ()
        else:
            assert consent == consent_of(before, sender_id, purpose)
    others = [s for s in suppressions(before) if s.sender_id not in GROUP]
    assert [s for s in suppressions(after) if s.sender_id not in GROUP] == others
    assert {s.sender_id for s in suppressions(after)} >= set(GROUP)


@given(erasures)
def test_an_erasure_concerns_its_own_controller_and_that_of_everything_concerns_all(asked: list[Erasure]) -> None:
    for controller in ("group", "initech"):
        own = [each for each in asked if each.controller_id in (None, controller)]
        found = concerning(asked, controller)
        assert found == concerning(own, controller)
        assert (found is None) is (not own)
        if found is not None:
            assert found.at == max(each.at for each in own)
            assert found.lifted is all(controller in each.lifted_for for each in own)
    unknown = concerning(asked, None)
    assert (unknown is None) is (not asked)
    assert unknown is None or not unknown.lifted
