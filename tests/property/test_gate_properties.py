"""What must hold of every decision, whatever is asked and known."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from common.contracts.consent import Consent, Suppression
from common.law import country_of, is_open, load
from dispatch.gate.rules import Allow, Defer, Deny, Expire, Knowledge, Request, Subject, decide
from dispatch.messages.reasons import Reason
from dispatch.projection.limits import Limits

FRANCE = load("france-3")
LIMITS = Limits()
BASE = datetime(2026, 11, 23, tzinfo=UTC)

instants = st.datetimes(
    datetime.fromisoformat("2026-11-20"), datetime.fromisoformat("2026-12-02"), timezones=st.just(UTC)
)
sender_ids = st.sampled_from(["a", "b"])
purposes = st.sampled_from(["promotions", "loyalty"])
consents = st.builds(
    Consent,
    sender_id=sender_ids,
    purpose=purposes,
    state=st.sampled_from(["unknown", "pending", "opted_in", "opted_out", "expired"]),
    basis=st.sampled_from(["opt_in", "soft_opt_in", None]),
    occurred_at=instants,
    evidence_id=st.sampled_from(["", "e"]),
    expires_at=st.none() | instants,
)
subjects = st.builds(
    Subject,
    version=st.integers(0, 9),
    consents=st.lists(consents, max_size=4, unique_by=lambda c: (c.sender_id, c.purpose)).map(tuple),
    suppressions=st.lists(st.builds(Suppression, sender_id=sender_ids | st.none(), since=instants), max_size=2).map(
        tuple
    ),
    erased=st.booleans(),
    unreadable=st.booleans(),
    held_since=st.none() | instants,
)
requests = st.builds(
    Request,
    category=st.sampled_from(["marketing", "transactional", "service"]),
    sender_id=sender_ids,
    purpose=purposes | st.none(),
    campaign_id=st.sampled_from(["c", None]),
    requested_at=instants,
    send_before=instants,
    territory=st.sampled_from(["FR", "MQ", "RE", "YT", "NC", "ES", "JP"]),
    mentions_stop=st.booleans(),
    flaw=st.sampled_from([None, None, None, Reason.SUBJECT_MISMATCH]),
    erased=st.booleans(),
    region=st.sampled_from([None, None, "FR-57", "MQ"]),
    mark=st.sampled_from([None, "PUBLI"]),
)
knowledge = st.builds(
    Knowledge,
    as_of=instants | st.none(),
    subject=subjects | st.none(),
    purposes=st.sampled_from([frozenset({"promotions", "loyalty"}), frozenset({"loyalty"}), None]),
    countries=st.frozensets(st.sampled_from(["FR", "ES"])),
    control=st.sampled_from(["running", "paused", "cancelled", None]),
    blocked=st.booleans(),
    recent=st.integers(0, 4),
)
# most of the random knowledge is hopeless: make room for what may be allowed
good = st.builds(
    lambda now, consent, request: (
        replace(request, category="marketing", sender_id=consent.sender_id, purpose=consent.purpose, mentions_stop=True,
                requested_at=now - timedelta(hours=1), send_before=now + timedelta(days=1)),
        Knowledge(as_of=now, subject=Subject(1, (consent,), (), False, False),
                  purposes=frozenset({"promotions", "loyalty"}), countries=frozenset({"FR"}), control="running"),
        now,
    ),
    instants, consents, requests,
)  # fmt: skip
cases = st.tuples(requests, knowledge, instants) | good


@given(cases)
def test_a_marketing_message_that_goes_has_a_current_fresh_opt_in_in_its_window(
    case: tuple[Request, Knowledge, datetime],
) -> None:
    request, known, now = case
    if decide(request, known, now, LIMITS, FRANCE) != Allow() or request.category != "marketing":
        return
    assert known.subject is not None
    [consent] = [c for c in known.subject.consents if (c.sender_id, c.purpose) == (request.sender_id, request.purpose)]
    assert consent.state == "opted_in"
    assert consent.evidence_id
    assert known.as_of is not None
    assert now - known.as_of <= LIMITS.max_staleness
    assert is_open(now, request.territory, FRANCE, region=request.region)
    assert request.mentions_stop
    assert country_of(request.territory, FRANCE) in known.countries
    assert request.territory != "ES" or request.mark == "PUBLI"
    assert now < request.send_before


@given(cases, st.booleans())
def test_opt_out_evidence_never_lets_more_through(case: tuple[Request, Knowledge, datetime], everywhere: bool) -> None:
    request, known, now = case
    before = decide(request, known, now, LIMITS, FRANCE)
    subject = known.subject or Subject(0, (), (), False, False)
    out = replace(
        subject,
        version=subject.version + 1,
        suppressions=(
            *subject.suppressions,
            Suppression(sender_id=None if everywhere else request.sender_id, since=datetime(2027, 1, 1, tzinfo=UTC)),
        ),
    )
    after = decide(request, replace(known, subject=out), now, LIMITS, FRANCE)
    if request.category == "marketing":
        assert after != Allow()
    assert after == before or not isinstance(after, Allow)


@given(cases)
def test_a_delay_ends_later_than_now_and_not_after_send_before(case: tuple[Request, Knowledge, datetime]) -> None:
    request, known, now = case
    found = decide(request, known, now, LIMITS, FRANCE)
    if isinstance(found, Defer):
        assert now < found.until <= request.send_before
    if isinstance(found, Deny | Defer):
        assert found.reasons
    assert isinstance(found, Expire) == (now >= request.send_before)


@given(cases)
def test_the_same_inputs_give_the_same_answer(case: tuple[Request, Knowledge, datetime]) -> None:
    assert decide(*case, LIMITS, FRANCE) == decide(*case, LIMITS, FRANCE)
