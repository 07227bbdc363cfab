"""What the batch check answers is what dispatch's gate would say of the same person."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from consent.ledger import rules as ledger
from consent.ledger.permission import permission
from consent.ledger.retention import Rule, terms
from consent.ledger.rules import Evidence, fold
from dispatch.gate import rules as gate
from tests.property.test_ledger_properties import ANYWHERE, histories
from tests.unit.consent.evidences import NOON, NOW


@given(histories, st.sampled_from(ANYWHERE), st.booleans(), st.sampled_from((NOW, NOW + timedelta(days=31))))
def test_the_check_and_the_gate_agree_and_give_the_same_reasons(
    evidence: list[Evidence], asked: tuple[str, str], held: bool, now: datetime
) -> None:
    sender_id, purpose = asked
    state = fold(evidence)
    request = gate.Request(
        category="marketing",
        sender_id=sender_id,
        purpose=purpose,
        campaign_id=None,
        requested_at=NOON,
        send_before=NOW + timedelta(days=1),
        territory="FR",
        mentions_stop=True,
    )
    ends = {(t.sender_id, t.purpose): t.expires_at for t in terms(state, {asked: Rule(1)})}
    consents = tuple(structs.replace(c, expires_at=ends.get((c.sender_id, c.purpose))) for c in ledger.consents(state))
    told = gate.Subject(1, consents, ledger.suppressions(state), erased=False, unreadable=False)
    known = gate.Knowledge(NOW, told, purposes=frozenset({purpose}), countries=frozenset(), control=None)
    denials = [reason.value for reason in gate.marketing_denials(request, known, now)]
    found = permission(state, sender_id, purpose, NOON if held else None, 1, now)
    assert [r.value for r in found.reasons] == [
        *(reason for reason in denials if reason != "other_controller"),
        *(["under_review"] if held else []),
    ]
    over = asked in ends and now >= ends[asked]
    assert found.state == ("expired" if over else ledger.standing(state, sender_id, purpose))
