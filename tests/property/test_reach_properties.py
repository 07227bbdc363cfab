"""Who is counted before a campaign leaves is who the gate would let through, for the same reasons."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from campaign.audience.reach import Standing, denials
from common.contracts.consent import Consent, Suppression
from common.law import load
from dispatch.gate import rules as gate
from dispatch.projection.limits import Limits
from tests.unit.consent.evidences import NOON, NOW

FRANCE = load("france")
senders = st.sampled_from(["lune", "other"])
instants = st.sampled_from([NOON - timedelta(days=1), NOON, NOW, NOW + timedelta(days=1)])
consents = st.builds(
    Consent,
    sender_id=senders,
    purpose=st.sampled_from(["promotions", "loyalty"]),
    state=st.sampled_from(["unknown", "pending", "opted_in", "opted_out", "expired"]),
    basis=st.sampled_from([None, "opt_in"]),
    occurred_at=instants,
    evidence_id=st.sampled_from(["", "e"]),
    expires_at=st.one_of(st.none(), instants),
)
standings = st.builds(
    Standing,
    consents=st.lists(consents, max_size=3).map(tuple),
    suppressions=st.lists(
        st.builds(Suppression, sender_id=st.one_of(st.none(), senders), since=instants), max_size=2
    ).map(tuple),
    erased=st.booleans(),
    unreadable=st.booleans(),
)


@given(st.one_of(st.none(), standings), instants)
def test_the_forecast_and_the_gate_give_the_same_reasons(standing: Standing | None, now: datetime) -> None:
    request = gate.Request(
        category="marketing",
        sender_id="lune",
        purpose="promotions",
        campaign_id=None,
        requested_at=NOON,
        send_before=NOW + timedelta(days=9),
        territory="FR",
        mentions_stop=True,
    )
    told = (
        None
        if standing is None
        else gate.Subject(
            1, standing.consents, standing.suppressions, erased=standing.erased, unreadable=standing.unreadable
        )
    )
    known = gate.Knowledge(now, told, purposes=frozenset({"promotions"}), countries=frozenset({"FR"}), control=None)
    expected = [reason.value for reason in gate.denial_reasons(request, known, now, Limits(), FRANCE)]
    assert list(denials(standing, "lune", "promotions", now)) == expected
