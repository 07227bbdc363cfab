"""One answer to "may this sender write for this purpose?": gate, count before a campaign, and consent-svc's check."""

from datetime import datetime, timedelta

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from campaign.audience import reach
from campaign.audience.reach import Standing
from common.contracts import consent_rule
from common.contracts.consent import Consent, ConsentStateChanged, Suppression
from consent.ledger import rules as ledger
from consent.ledger.permission import permission
from consent.ledger.retention import Rule, terms
from consent.ledger.rules import Evidence, fold
from dispatch.gate import rules as gate
from tests.property.test_ledger_properties import ANYWHERE, histories
from tests.unit.consent.evidences import NOON, NOW, opt_in

LATER = NOW + timedelta(days=31)  # after a month of retention
instants = st.sampled_from([NOON - timedelta(days=1), NOON, NOW, NOW + timedelta(days=1)])  # few: ties are common
senders = st.sampled_from(["lune", "other"])
consents = st.builds(
    Consent,
    sender_id=senders,
    purpose=st.sampled_from(["promotions", "loyalty"]),
    state=st.sampled_from(["unknown", "pending", "opted_in", "opted_in", "opted_out", "expired"]),
    basis=st.sampled_from([None, "opt_in", "opt_in"]),
    occurred_at=instants,
    evidence_id=st.sampled_from(["", "e", "e"]),
    expires_at=st.none() | instants,
)
suppressions = st.builds(Suppression, sender_id=st.none() | senders, since=instants)
standings = st.builds(
    Standing,
    consents=st.lists(consents, max_size=3).map(tuple),
    suppressions=st.lists(suppressions, max_size=2).map(tuple),
    erased=st.booleans(),
    held=st.booleans(),
    unreadable=st.booleans(),
)


def of_gate(standing: Standing | None, sender_id: str, purpose: str, now: datetime) -> list[str]:
    """Return the gate's reasons, where nothing but consent can speak against the message."""
    request = gate.Request(
        category="marketing",
        sender_id=sender_id,
        purpose=purpose,
        campaign_id=None,
        requested_at=NOON,
        send_before=LATER + timedelta(days=1),
        territory="FR",
        mentions_stop=True,
    )
    subject = (
        None
        if standing is None
        else gate.Subject(
            1, standing.consents, standing.suppressions, erased=standing.erased, unreadable=standing.unreadable
        )
    )
    known = gate.Knowledge(now, subject, purposes=frozenset({purpose}), countries=frozenset({"FR"}), control=None)
    return [reason.value for reason in gate.denials_of_person(request, known, subject, now)]


@given(st.none() | standings, instants)
def test_the_gate_and_the_count_before_a_campaign_give_the_same_reasons(
    standing: Standing | None, now: datetime
) -> None:
    found = list(reach.denials(standing, "lune", "promotions", now))
    gates = of_gate(standing, "lune", "promotions", now)
    assert gates == spelt_out(standing, now)
    assert found == list(consent_rule.told(gates))
    in_segments = reach.state(standing, "lune", "promotions", now)
    assert in_segments == "opted_in" or found, "a message to a person whom a segment says not to be opted in"


@given(standings, instants)
def test_a_count_before_a_campaign_is_the_same_whatever_others_hold_of_the_person(
    standing: Standing, now: datetime
) -> None:
    """And erased of, or have unreadable. A stop of every sender is a fact for all."""
    known = structs.replace(
        standing,
        consents=tuple(c for c in standing.consents if c.sender_id != "lune"),
        suppressions=tuple(s for s in standing.suppressions if s.sender_id != "lune"),
    )
    unknown = Standing(suppressions=tuple(s for s in known.suppressions if s.sender_id is None))
    asked = "lune", "promotions", now
    assert list(reach.denials(known, *asked)) == list(reach.denials(unknown, *asked))
    assert "no_consent" in reach.denials(known, *asked)
    assert reach.state(known, *asked) == reach.state(unknown, *asked)


def spelt_out(standing: Standing | None, now: datetime) -> list[str]:
    """Return the reasons by a second reading of README's promise 2, reason by reason."""
    if standing is None:
        return ["no_consent"]
    mine = [c for c in standing.consents if (c.sender_id, c.purpose) == ("lune", "promotions")][:1]
    state, ends = (mine[0].state, mine[0].expires_at) if mine else ("unknown", None)
    over = state == "opted_in" and ends is not None and ends <= now
    proven = all(c.evidence_id and c.basis for c in mine)
    theirs = [c for c in standing.consents if c.sender_id != "lune" and c.state == "opted_in"]
    stops = [s.since for s in standing.suppressions if s.sender_id in ("lune", None)]
    against = {
        "consent_unreadable": standing.unreadable,
        "erased": standing.erased,
        "no_consent": state == "unknown",
        "other_controller": not mine and bool(theirs),
        "opted_out": state == "opted_out",
        "consent_pending": state == "pending",
        "consent_expired": state == "expired" or over,
        "no_evidence": state == "opted_in" and not over and not proven,
        "suppressed": any(not mine or since >= mine[0].occurred_at for since in stops),
    }
    return [reason for reason, holds in against.items() if holds]


@given(
    histories, st.sampled_from(ANYWHERE), st.booleans(), st.booleans(), st.sampled_from((NOW, LATER)), st.integers(1, 2)
)
@example([opt_in()], ("acme", "promotions"), True, False, NOW, 2)  # rarely drawn: the erasure alone speaks against
def test_the_check_answers_as_the_gate_and_as_the_count_whatever_the_ledger_holds(
    evidence: list[Evidence], asked: tuple[str, str], erased: bool, held: bool, now: datetime, months: int
) -> None:
    state = fold(evidence)
    ends = {(t.sender_id, t.purpose): t.expires_at for t in terms(state, {asked: Rule(months)})}
    event = ConsentStateChanged(  # as the recorder publishes the state
        subject_id="s",
        version=1,
        consents=tuple(structs.replace(c, expires_at=ends.get((c.sender_id, c.purpose))) for c in state.consents),
        suppressions=ledger.suppressions(state),
        erased=erased,
        causes=(),
    )
    told = msgspec.json.decode(msgspec.json.encode(event), type=ConsentStateChanged)  # as the others read it
    standing = Standing(consents=told.consents, suppressions=told.suppressions, erased=told.erased, held=held)

    found = permission(state, *asked, NOON if held else None, months, now, erased=erased)
    denied = [reason.value for reason in found.reasons if reason != "under_review"]
    gates = of_gate(standing, *asked, now)
    assert bool(denied) == bool(gates) == bool(list(reach.denials(standing, *asked, now)))
    known_to_them = any(mark.sender_id == asked[0] for mark in state.marks)
    assert ("under_review" in found.reasons) == (held and known_to_them)
    if not erased:
        assert denied == [reason for reason in gates if reason != "other_controller"]
        assert found.state == ("expired" if asked in ends and now >= ends[asked] else ledger.standing(state, *asked))
