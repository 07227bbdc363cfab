"""What holds of the clock of retention, whatever happened and in whatever order."""

from calendar import monthrange
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from consent.ledger.retention import Question, Rule, Step, Term, after_months, is_over, next_step, terms
from consent.ledger.rules import Evidence, apply, consent_of, fold
from tests.property.test_ledger_properties import SENDERS, histories
from tests.unit.consent.evidences import NOON, contact, expiry, opt_in, request

instants = st.datetimes(
    datetime.fromisoformat("1992-12-03"), datetime.fromisoformat("2100-01-01"), timezones=st.just(UTC)
)
months = st.integers(1, 36)
DAY = timedelta(days=1)


@given(instants, months)
def test_a_term_ends_on_the_same_day_of_the_month_or_with_the_last_of_it(at: datetime, n: int) -> None:
    end = after_months(at, n)
    year, month = divmod(at.year * 12 + at.month - 1 + n, 12)
    days = monthrange(year, month + 1)[1]
    if at.day <= days:
        assert (end.year, end.month, end.day, end.time()) == (year, month + 1, at.day, at.time())
    else:
        assert end == datetime(year, month + 1, days, tzinfo=UTC) + DAY
    assert timedelta(days=28) * n <= end - at <= timedelta(days=31) * n


@given(instants, st.timedeltas(timedelta(0), timedelta(days=70)), months)
def test_a_later_contact_never_means_an_earlier_end(at: datetime, later: timedelta, n: int) -> None:
    assert after_months(at, n) <= after_months(at + later, n)
    assert after_months(at, n) < after_months(at, n + 1)


@given(instants, months, st.timedeltas(-10 * DAY, 130 * DAY))
def test_whether_a_consent_is_over_is_the_calendars_word(at: datetime, n: int, beside: timedelta) -> None:
    """However it is found out: also where months were short, and the end is near."""
    state = fold([opt_in(0, sender_id="acme", occurred_at=at, received_at=at)])
    for now in (at + n * timedelta(days=28) + beside, after_months(at, n)):
        assert is_over(state, "acme", n, now) == (now >= after_months(at, n))


@given(histories, st.sampled_from(SENDERS), st.integers(-4, 4), months)
def test_a_contact_never_brings_an_end_nearer_and_moves_its_own_sender_only(
    evidence: list[Evidence], sender_id: str, minute: int, n: int
) -> None:
    held = {(s, p): Rule(n) for s in SENDERS for p in ("promotions", "loyalty")}
    state = fold(evidence)
    before = {(t.sender_id, t.purpose): t for t in terms(state, held)}
    after = {(t.sender_id, t.purpose): t for t in terms(apply(state, contact(minute, sender_id=sender_id)), held)}
    assert before.keys() == after.keys()
    for scope, term in before.items():
        assert after[scope].expires_at >= term.expires_at
        assert scope[0] == sender_id or after[scope] == term


@given(histories, st.sampled_from(SENDERS), st.integers(-4, 4))
def test_what_the_person_did_not_do_never_moves_the_clock(
    evidence: list[Evidence], sender_id: str, minute: int
) -> None:
    """What others may have typed, and our own ends. (Sends, deliveries and openings are no evidence at all.)"""
    state = fold(evidence)
    before = {(t.sender_id, t.purpose): t for t in terms(state, {})}
    for other in (request(minute, sender_id=sender_id), expiry(minute, sender_id=sender_id)):
        after = {(t.sender_id, t.purpose): t for t in terms(apply(state, other), {})}
        assert all(before[scope] == term for scope, term in after.items())


@given(histories, months)
def test_an_expiry_at_the_end_of_a_term_closes_exactly_that_consent(evidence: list[Evidence], n: int) -> None:
    held = {(s, p): Rule(n) for s in SENDERS for p in ("promotions", "loyalty")}
    state = fold(evidence)
    for term in terms(state, held):
        ended = expiry(
            sender_id=term.sender_id, purpose=term.purpose, occurred_at=term.expires_at, received_at=term.expires_at
        )
        after = apply(state, ended)
        consent = consent_of(after, term.sender_id, term.purpose)
        assert consent is not None
        assert consent.state == "expired"
        assert set(terms(after, held)) == set(terms(state, held)) - {term}


@given(
    st.integers(1, 90) | st.none(),
    st.lists(st.integers(-100, 400), min_size=1, max_size=12),
    st.integers(0, 40),
)
def test_whenever_the_timer_looks_the_end_is_never_put_off_and_nobody_is_asked_twice(
    ask_days: int | None, looks: list[int], answers_within: int
) -> None:
    """Days around the end, as a timer that stands still for months at a time may look."""
    ask_at = NOON - DAY * ask_days if ask_days else None
    term = Term(sender_id="acme", purpose="promotions", last_contact=NOON - 365 * DAY, expires_at=NOON, ask_at=ask_at)
    question, is_open, asked, forgotten = None, True, 0, False
    for day in sorted(looks):
        now = NOON + DAY * day
        while not forgotten:
            due = next_step(term, question, is_open=is_open, now=now)
            assert due.step is not None or due.at > now
            if due.step is Step.EXPIRE:
                assert now >= term.expires_at
                is_open = False
            elif due.step is Step.ASK:
                asked += 1
                assert asked == 1
                until = max(term.expires_at, now + DAY * answers_within)
                question = Question(text="?", asked_at=now, answer_before=until)
            elif due.step is Step.FORGET:
                forgotten = True
                assert question is None or now >= question.answer_before
            else:
                break
        assert is_open == (now < term.expires_at)
        assert asked == 0 or ask_days
        assert not forgotten or asked == (1 if ask_days else 0)
