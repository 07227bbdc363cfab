"""Any decision, decided again from its record and the columns of its row, is the same; and a record holds nothing of a
person that the gate does not look at."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from common.contracts.campaign import Category
from common.contracts.consent import Consent, Suppression
from common.law import at_hand_off, load
from dispatch.gate import record
from dispatch.gate.rules import Allow, Defer, Deny, Expire, Knowledge, Request, Subject, Verdict, decide
from dispatch.messages.disclosure import disclosed
from dispatch.messages.reasons import Reason
from dispatch.messages.row import PHRASES, shortened
from dispatch.projection.limits import Limits
from tests.property.test_gate_properties import cases
from tests.support.decision_records import encoded

POLICY = at_hand_off(load("france-3"))
limits = st.builds(
    Limits,
    max_staleness=st.timedeltas(timedelta(0), timedelta(days=2)),
    registry_grace=st.timedeltas(timedelta(0), timedelta(days=2)),
    cap=st.none() | st.integers(1, 4),
    cap_window=st.sampled_from([timedelta(days=7), timedelta(hours=1.7)]),
)

NOW = datetime(2026, 12, 26, 10, 0, tzinfo=UTC)  # a Saturday in France, and a holiday in Moselle
around = st.sampled_from([NOW + timedelta(hours=h) for h in (-3, -2, -1, 0, 1)])


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * 4 + list(others))


# most random decisions are hopeless for several reasons; here one fact at a time decides
near = st.builds(
    lambda request, known: (request, known, NOW),
    st.builds(
        Request,
        category=mostly("marketing", "service", "transactional"),
        sender_id=st.just("a"),
        purpose=mostly("promotions", "loyalty", None),
        campaign_id=mostly("c", None),
        requested_at=around.map(lambda at: min(at, NOW)),
        send_before=st.just(NOW + timedelta(days=9)),
        territory=mostly("FR", "MQ", "ES"),
        mentions_stop=mostly(True, False),
        flaw=mostly(None, Reason.FOREIGN_LINK),
        erased=mostly(False, True),
        region=mostly(None, "FR-57", "FR-57", "MQ"),
        mark=mostly(None, "PUBLI"),
        courtesy=mostly(False, True),
    ),
    st.builds(
        Knowledge,
        as_of=mostly(NOW, NOW - timedelta(seconds=9), None),
        subject=st.builds(
            Subject,
            version=st.just(1),
            consents=st.lists(
                st.builds(
                    Consent,
                    sender_id=mostly("a", "b"),
                    purpose=mostly("promotions", "loyalty"),
                    state=mostly("opted_in", "opted_out", "expired", "pending"),
                    basis=mostly("opt_in", None),
                    occurred_at=around,
                    evidence_id=mostly("e", ""),
                    expires_at=st.none() | around,
                ),
                max_size=3,
                unique_by=lambda c: (c.sender_id, c.purpose),
            ).map(tuple),
            suppressions=st.lists(
                st.builds(Suppression, sender_id=st.sampled_from(["a", "b", None]), since=around), max_size=3
            ).map(tuple),
            erased=mostly(False, True),
            unreadable=mostly(False, True),
            held_since=mostly(None, NOW),
        ),
        purposes=mostly(frozenset({"promotions", "loyalty"}), frozenset({"loyalty"}), None),
        countries=mostly(frozenset({"FR", "ES"}), frozenset()),
        control=mostly("running", "paused", "cancelled", None),
        blocked=mostly(False, True),
        recent=st.integers(0, 4),
    ),
)
decisions = cases | near


@dataclass
class Row:
    """The columns of the ledger that a decision is made again from."""

    category: Category
    sender_id: str
    purpose: str | None
    campaign_id: str | None
    requested_at: datetime
    send_before: datetime
    decided_at: datetime
    as_of: datetime | None


def row_of(request: Request, known: Knowledge, now: datetime) -> Row:
    return Row(
        request.category,
        request.sender_id,
        request.purpose,
        request.campaign_id,
        request.requested_at,
        request.send_before,
        now,
        known.as_of,
    )


@settings(max_examples=600)
@given(decisions, limits)
def test_every_decision_is_made_again_from_its_record(
    case: tuple[Request, Knowledge, datetime], limits: Limits
) -> None:
    request, known, now = case
    verdict = decide(request, known, now, limits, POLICY)
    kept = record.decode(encoded(request, known, limits, verdict))
    assert record.verdict(kept) == verdict
    assert record.bounds(kept) == limits
    assert record.decide_again(kept, row_of(request, known, now), POLICY) == verdict


@given(decisions, limits)
def test_a_record_parted_holds_nothing_of_a_person_in_what_is_shared(
    case: tuple[Request, Knowledge, datetime], limits: Limits
) -> None:
    request, known, now = case
    shared = record.encode_shared(request, known, limits)
    own = record.encode_own(request, known, known.subject, known.recent, decide(request, known, now, limits, POLICY))
    assert not json.loads(shared).keys() & json.loads(own).keys()
    assert not any(short in own for short in PHRASES), "no JSON text has a control character"
    restored = shortened(own)
    for short, phrase in PHRASES.items():
        restored = restored.replace(short, phrase)
    assert restored == own
    assert not json.loads(shared).keys() & {"to", "region", "flaw", "erased", "person", "blocked", "recent", "told"}
    assert shared == record.encode_shared(request, replace(known, subject=None, recent=0), limits)


def test_a_record_names_the_reopening_rule_that_its_consent_rests_on() -> None:
    request = Request(
        category="marketing",
        sender_id="acme",
        purpose="promotions",
        campaign_id=None,
        requested_at=NOW,
        send_before=NOW + timedelta(days=1),
        territory="FR",
        mentions_stop=True,
    )
    consent = Consent(
        sender_id="acme",
        purpose="promotions",
        state="opted_in",
        basis="opt_in",
        occurred_at=NOW - timedelta(days=1),
        evidence_id="e-in",
        reopening_rule="reopening-1",
    )
    subject = Subject(version=1, consents=(consent,), suppressions=(), erased=False, unreadable=False)
    known = Knowledge(
        as_of=NOW, subject=subject, purposes=frozenset({"promotions"}), countries=frozenset({"FR"}), control=None
    )
    kept = record.decode(encoded(request, known, Limits(), decide(request, known, NOW, Limits(), POLICY)))
    assert kept.own.person is not None
    assert kept.own.person.consent is not None
    assert kept.own.person.consent.reopening_rule == "reopening-1"


@given(decisions)
def test_other_rules_are_asked_about_the_same_facts(case: tuple[Request, Knowledge, datetime]) -> None:
    """A dry run says what the gate would have said: the record holds no less than these rules need either."""
    request, known, now = case
    early = {"id": "early", "layer": "house", "source": "ours", "closes": "12:00", "weekdays": [1, 3, 5]}
    marked = {"id": "marked", "layer": "house", "source": "ours", "begins_with": "PUBLI", "places": ["FR"]}
    house = json.dumps({"version": "early", "about": "Mornings", "rules": [early, marked]}).encode()
    other = at_hand_off(load("france-3", house))
    kept = record.decode(encoded(request, known, Limits(), decide(request, known, now, Limits(), POLICY)))
    found = record.decide_again(kept, row_of(request, known, now), other)
    assert found == decide(request, known, now, Limits(), other)


@given(cases)
def test_a_record_is_small_and_names_nobody(case: tuple[Request, Knowledge, datetime]) -> None:
    request, known, now = case
    others = tuple(
        Consent(
            sender_id=f"other-{n}", purpose="x", state="opted_in", basis="opt_in", occurred_at=now, evidence_id="secret"
        )
        for n in range(30)
    )
    stops = tuple(Suppression(sender_id=f"other-{n}", since=now) for n in range(30))
    subject = known.subject or Subject(1, (), (), erased=False, unreadable=False)
    many = replace(subject, consents=(*subject.consents, *others), suppressions=(*subject.suppressions, *stops))
    known = replace(known, subject=many)
    kept = encoded(request, known, Limits(), decide(request, known, now, Limits(), POLICY))
    assert len(kept) < 1000
    assert "other-" not in kept
    assert "secret" not in kept


others_alone = st.builds(
    Subject,
    version=st.just(1),
    consents=st.lists(
        st.builds(
            Consent,
            sender_id=st.just("b"),
            purpose=mostly("promotions", "loyalty"),
            state=mostly("opted_in", "opted_out"),
            basis=st.just("opt_in"),
            occurred_at=around,
            evidence_id=st.just("e"),
        ),
        max_size=1,
    ).map(tuple),
    suppressions=st.lists(st.builds(Suppression, sender_id=st.just("b"), since=around), max_size=1).map(tuple),
    erased=st.booleans(),
    unreadable=st.booleans(),
    held_since=mostly(NOW, None),
)


@settings(max_examples=300)
@given(near, others_alone, st.sampled_from([None, frozenset({"a"})]), st.booleans(), st.booleans())
def test_a_person_known_to_others_alone_is_disclosed_as_an_unknown_person(
    case: tuple[Request, Knowledge, datetime],
    theirs: Subject,
    controller: frozenset[str] | None,
    erased: bool,
    blocked: bool,
) -> None:
    """So is a person whom others erased, or whose number a provider blocks, where marketing needs a consent."""
    request, known, now = case

    def told(subject: Subject | None, *, erased: bool, blocked: bool) -> tuple[type[Verdict], str | None, list[str]]:
        of, by = replace(known, subject=subject, blocked=blocked), replace(request, erased=erased)
        verdict = decide(by, of, now, Limits(), POLICY)
        reasons = () if isinstance(verdict, Allow) else verdict.reasons
        return type(verdict), *disclosed(encoded(by, of, Limits(), verdict, controller), reasons)

    if request.category != "marketing":
        erased, blocked = request.erased, known.blocked
        unknown = told(None, erased=erased, blocked=blocked)
    else:
        unknown = told(None, erased=False, blocked=False)
    assert told(theirs, erased=erased, blocked=blocked) == unknown


def test_a_sender_is_told_what_denies_a_message_that_its_own_consent_would_allow() -> None:
    consent = {"state": "opted_in", "at": "2026-12-26T10:00:00Z"}
    for person, reasons in (
        ({"consent": consent, "held": "2026-12-26T10:00:00Z"}, ["under_review"]),
        ({"consent": consent, "unreadable": True}, ["consent_unreadable"]),
        ({"consent": consent, "erased": True}, ["erased"]),
    ):
        facts = {"to": "FR", "person": person, "told": {"verdict": "deny", "reasons": reasons}}
        shown, told = disclosed(json.dumps(facts), reasons)
        assert (json.loads(shown or ""), told) == (facts, reasons)
    refused = json.dumps({"to": "FR", "blocked": True, "told": {"verdict": "deny", "reasons": ["provider_block"]}})
    assert disclosed(refused, ["provider_block"]) == (refused.replace(" ", ""), ["provider_block"])
    waiting = json.dumps({"to": "FR", "person": {"erased": True}})
    assert disclosed(waiting, ["erased"]) == ('{"to":"FR"}', ["erased"]), "by an erasure of its own, after the decision"
    assert disclosed("not JSON", ["no_consent", "other_controller"]) == (None, ["no_consent"])


@pytest.mark.parametrize("verdict", ["maybe", "defer"])  # a delay has an end
def test_a_record_of_another_form_is_not_guessed(verdict: str) -> None:
    limits = [2.0, 0.1, 0.5, 10.0, 300.0, 300.0, None, 604800.0]
    kept = record.decode(json.dumps({"to": "FR", "limits": limits, "told": {"verdict": verdict}}))
    with pytest.raises(ValueError, match="no verdict"):
        record.verdict(kept)
    for text in ("{}", '{"to": "FR"}', json.dumps({"to": "FR", "limits": limits, "flaw": "whim"})):
        with pytest.raises(msgspec.DecodeError):
            record.decode(text)


def test_each_kind_of_verdict_comes_back() -> None:
    at = datetime.fromisoformat("2026-11-24T09:00:00.000001+00:00")
    request = Request("marketing", "a", "p", None, at, at, "FR", mentions_stop=True)
    known = Knowledge(None, None, None, frozenset(), None)
    for verdict in (Allow(), Deny((Reason.ERASED,)), Defer((Reason.QUIET_HOURS,), at), Expire()):
        assert record.verdict(record.decode(encoded(request, known, Limits(), verdict))) == verdict
