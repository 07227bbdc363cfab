"""One case per reason, and the order of precedence: expiry, denial, delay."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from common.contracts.consent import Consent, Suppression
from common.law import load
from dispatch.gate.rules import Allow, Defer, Deny, Expire, Knowledge, Request, Subject, Verdict, decide, stopped_at
from dispatch.messages.reasons import Reason
from dispatch.projection.limits import Limits
from tests.support.abroad import with_link_in

TUESDAY_10H = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)  # 10:00 in Paris
TUESDAY_22H = datetime(2026, 11, 24, 21, 0, tzinfo=UTC)
FRANCE = load("france-3")
POLICY = with_link_in(FRANCE, "DE", "ES", "GB")
LIMITS = Limits()

CONSENT = Consent(
    sender_id="maison-lune",
    purpose="promotions",
    state="opted_in",
    basis="opt_in",
    occurred_at=TUESDAY_10H - timedelta(days=30),
    evidence_id="e1",
)
SUBJECT = Subject(version=3, consents=(CONSENT,), suppressions=(), erased=False, unreadable=False)
REQUEST = Request(
    category="marketing",
    sender_id="maison-lune",
    purpose="promotions",
    campaign_id="c1",
    requested_at=TUESDAY_10H - timedelta(minutes=1),
    send_before=TUESDAY_10H + timedelta(days=2),
    territory="FR",
    mentions_stop=True,
)
KNOWN = Knowledge(
    as_of=TUESDAY_10H - timedelta(milliseconds=300),
    subject=SUBJECT,
    purposes=frozenset({"promotions", "loyalty"}),
    countries=frozenset({"FR"}),
    control="running",
)


def verdict(request: Request = REQUEST, known: Knowledge = KNOWN, now: datetime = TUESDAY_10H) -> Verdict:
    return decide(request, known, now, LIMITS, POLICY)


def with_consent(**changes: object) -> Knowledge:
    return replace(KNOWN, subject=replace(SUBJECT, consents=(_changed(CONSENT, **changes),)))


def _changed(consent: Consent, **changes: object) -> Consent:
    fields = {name: getattr(consent, name) for name in Consent.__struct_fields__}
    return Consent(**{**fields, **changes})


def test_a_fresh_opt_in_in_the_window_goes() -> None:
    assert verdict() == Allow()


def test_a_consent_holds_until_the_very_instant_that_was_told_and_needs_no_news_to_end() -> None:
    known = with_consent(expires_at=TUESDAY_10H + timedelta(microseconds=1))
    assert verdict(known=known) == Allow()
    assert verdict(known=known, now=TUESDAY_10H + timedelta(microseconds=1)) == Deny((Reason.CONSENT_EXPIRED,))


@pytest.mark.parametrize(
    ("request_", "known", "reason"),
    [
        (REQUEST, replace(KNOWN, subject=None), Reason.NO_CONSENT),
        (REQUEST, with_consent(state="unknown"), Reason.NO_CONSENT),
        (REQUEST, with_consent(purpose="loyalty"), Reason.NO_CONSENT),
        (REQUEST, with_consent(sender_id="other"), Reason.OTHER_CONTROLLER),
        (REQUEST, with_consent(state="pending"), Reason.CONSENT_PENDING),
        (REQUEST, with_consent(state="expired"), Reason.CONSENT_EXPIRED),
        (REQUEST, with_consent(expires_at=TUESDAY_10H), Reason.CONSENT_EXPIRED),
        (REQUEST, with_consent(state="opted_out"), Reason.OPTED_OUT),
        (REQUEST, with_consent(evidence_id=""), Reason.NO_EVIDENCE),
        (REQUEST, with_consent(basis=None), Reason.NO_EVIDENCE),
        (REQUEST, replace(KNOWN, subject=replace(SUBJECT, erased=True)), Reason.ERASED),
        (REQUEST, replace(KNOWN, subject=replace(SUBJECT, unreadable=True)), Reason.CONSENT_UNREADABLE),
        (REQUEST, replace(KNOWN, purposes=None), Reason.UNKNOWN_SENDER),
        (REQUEST, replace(KNOWN, purposes=frozenset({"loyalty"})), Reason.UNKNOWN_PURPOSE),
        (REQUEST, replace(KNOWN, control="cancelled"), Reason.CAMPAIGN_CANCELLED),
        (REQUEST, replace(KNOWN, blocked=True), Reason.PROVIDER_BLOCK),
        (replace(REQUEST, purpose=None), KNOWN, Reason.NO_PURPOSE),
        (replace(REQUEST, mentions_stop=False), KNOWN, Reason.STOP_MENTION_MISSING),
        (replace(REQUEST, flaw=Reason.REQUEST_UNREADABLE), KNOWN, Reason.REQUEST_UNREADABLE),
        (replace(REQUEST, flaw=Reason.SUBJECT_MISMATCH), KNOWN, Reason.SUBJECT_MISMATCH),
    ],
)
def test_each_denial_has_its_reason(request_: Request, known: Knowledge, reason: Reason) -> None:
    found = verdict(request_, known)
    assert isinstance(found, Deny)
    assert reason in found.reasons


@pytest.mark.parametrize("sender_id", ["maison-lune", None])
@pytest.mark.parametrize(("after", "denied"), [(0, True), (1, True), (-1, False)])
def test_a_suppression_denies_unless_the_consent_is_newer_and_a_tie_denies(
    sender_id: str | None, after: int, denied: bool
) -> None:
    since = CONSENT.occurred_at + timedelta(seconds=after)
    subject = replace(SUBJECT, suppressions=(Suppression(sender_id=sender_id, since=since),))
    found = verdict(known=replace(KNOWN, subject=subject))
    assert isinstance(found, Deny) is denied
    if isinstance(found, Deny):
        assert found.reasons == (Reason.SUPPRESSED,)


def test_a_suppression_of_another_sender_does_not_count() -> None:
    suppressions = (Suppression(sender_id="other", since=TUESDAY_10H),)
    assert verdict(known=replace(KNOWN, subject=replace(SUBJECT, suppressions=suppressions))) == Allow()


def test_every_reason_is_collected_and_a_denial_outranks_every_delay() -> None:
    known = replace(KNOWN, subject=replace(SUBJECT, unreadable=True, erased=True), control="paused", as_of=TUESDAY_10H)
    found = verdict(known=known, now=TUESDAY_22H)
    assert found == Deny((Reason.CONSENT_UNREADABLE, Reason.ERASED))


def test_stale_or_unknown_knowledge_holds() -> None:
    edge = TUESDAY_10H - LIMITS.max_staleness
    assert verdict(known=replace(KNOWN, as_of=edge)) == Allow()
    ahead = TUESDAY_10H + LIMITS.max_clock_skew + timedelta(microseconds=1)
    for as_of in (edge - timedelta(microseconds=1), ahead, None):
        found = verdict(known=replace(KNOWN, as_of=as_of))
        assert found == Defer((Reason.CONSENT_STALE,), TUESDAY_10H + LIMITS.recheck)


def test_quiet_hours_wait_for_the_next_opening() -> None:
    known = replace(KNOWN, as_of=TUESDAY_22H)
    assert verdict(known=known, now=TUESDAY_22H) == Defer(
        (Reason.QUIET_HOURS,), datetime(2026, 11, 25, 7, 0, tzinfo=UTC)
    )


def test_a_sunday_and_a_holiday_are_told_apart_from_the_hours_and_from_each_other() -> None:
    sunday, armistice = TUESDAY_10H + timedelta(days=5), datetime(2026, 11, 11, 22, 0, tzinfo=UTC)
    request = replace(REQUEST, send_before=TUESDAY_10H + timedelta(days=9))
    assert verdict(request, replace(KNOWN, as_of=sunday), sunday) == Defer(
        (Reason.CLOSED_WEEKDAY,), datetime(2026, 11, 30, 7, 0, tzinfo=UTC)
    )
    found = verdict(request, replace(with_consent(occurred_at=armistice), as_of=armistice), armistice)
    assert isinstance(found, Defer)
    assert set(found.reasons) == {Reason.PUBLIC_HOLIDAY, Reason.QUIET_HOURS}


def test_nothing_goes_where_no_rules_are_known() -> None:
    assert verdict(replace(REQUEST, territory="JP")) == Deny((Reason.COUNTRY_NOT_COVERED,))
    code = replace(REQUEST, territory="JP", category="transactional")
    assert verdict(code) == Allow()


def test_a_sender_sends_where_it_may_and_a_change_of_that_has_a_grace_to_arrive() -> None:
    german = replace(REQUEST, territory="DE", stop_link=True, requested_at=TUESDAY_10H - timedelta(minutes=1))
    assert verdict(german) == Deny((Reason.SENDER_NOT_ALLOWED_THERE,))
    assert verdict(german, replace(KNOWN, countries=frozenset({"FR", "DE"}))) == Allow()
    assert verdict(replace(REQUEST, territory="MQ"), now=TUESDAY_10H + timedelta(hours=4)) != Deny(
        (Reason.SENDER_NOT_ALLOWED_THERE,)
    ), "Martinique is of France"
    soon = replace(german, requested_at=TUESDAY_10H - timedelta(seconds=1))
    assert verdict(soon) == Defer((Reason.KNOWLEDGE_BEHIND,), TUESDAY_10H + LIMITS.recheck)
    assert verdict(replace(german, category="transactional")) == Allow()


ABROAD = replace(KNOWN, countries=frozenset({"FR", "GB", "DE"}))
NO_MEANS, NO_HOLIDAYS = Reason.NO_MEANS_TO_STOP_THERE, Reason.HOLIDAYS_UNKNOWN_THERE


def in_place(territory: str, known: Knowledge = KNOWN, region: str | None = None, **means: bool) -> Verdict:
    at = TUESDAY_10H + timedelta(hours=5)  # open in France, Martinique and Germany
    request = replace(REQUEST, territory=territory, region=region, requested_at=TUESDAY_10H)
    request = replace(request, **{"mentions_stop": False} | means)
    return verdict(request, replace(known, as_of=at), at)


def test_a_place_is_closed_without_a_means_to_stop_that_works_there() -> None:
    stated = replace(KNOWN, reachable_in=frozenset({"MQ"}))
    assert in_place("MQ", mentions_stop=True) == Deny((NO_MEANS,))
    assert in_place("MQ", stated, mentions_stop=True) == Allow()
    assert in_place("GP", stated, mentions_stop=True) == Deny((NO_MEANS,)), "the statement is of another place"
    assert in_place("MQ", stop_link=True) == Allow()
    assert in_place("FR", stop_link=True) == Deny((NO_MEANS,)), "in metropolitan France the code stays required"
    assert in_place("FR", mentions_stop=True, stop_link=True) == Allow()
    assert in_place("MQ") == Deny((Reason.STOP_MENTION_MISSING,)), "a text without any means goes nowhere"
    assert in_place("DE", ABROAD, mentions_stop=True) == Deny((NO_MEANS,)), "a French short code is of no use there"
    assert in_place("DE", ABROAD, stop_link=True) == Allow()


def test_an_edition_that_is_always_open_asks_for_a_means_too() -> None:
    always = load("demonstration")
    both = replace(REQUEST, stop_link=True)
    assert decide(REQUEST, KNOWN, TUESDAY_22H, replace(LIMITS, max_staleness=timedelta(1)), always) == Allow()
    for territory in ("GB", "JP"):
        assert decide(replace(both, territory=territory), KNOWN, TUESDAY_10H, LIMITS, always) == Deny((NO_MEANS,))


def test_a_person_of_two_places_needs_a_means_in_both() -> None:
    assert in_place("FR", region="MQ", mentions_stop=True) == Deny((NO_MEANS,))
    assert in_place("FR", region="MQ", stop_link=True) == Deny((NO_MEANS,))
    assert in_place("FR", region="MQ", mentions_stop=True, stop_link=True) == Allow()


def test_a_place_is_closed_while_its_holidays_are_unknown() -> None:
    assert in_place("GB", ABROAD, stop_link=True) == Deny((NO_HOLIDAYS,))
    assert in_place("GB", ABROAD, mentions_stop=True) == Deny((NO_MEANS, NO_HOLIDAYS))
    last = datetime(2035, 12, 28, 9, tzinfo=UTC)  # the calendar of Germany ends with 2035
    request = replace(REQUEST, territory="DE", stop_link=True, send_before=last + timedelta(days=9))
    for at, found in ((last, Allow()), (last + timedelta(days=7), Deny((NO_HOLIDAYS,)))):
        assert verdict(request, replace(ABROAD, as_of=at), at) == found


def test_a_statement_on_its_way_has_a_grace_and_a_transactional_message_needs_no_means() -> None:
    soon = replace(REQUEST, territory="MQ", requested_at=TUESDAY_10H - timedelta(seconds=1))
    assert verdict(soon) == Defer((Reason.KNOWLEDGE_BEHIND,), TUESDAY_10H + LIMITS.recheck)
    assert verdict(replace(soon, category="transactional", mentions_stop=False)) == Allow()


def test_a_spanish_text_needs_the_mark_of_its_law() -> None:
    spanish, known = replace(REQUEST, territory="ES", stop_link=True), replace(KNOWN, countries=frozenset({"ES"}))
    assert verdict(spanish, known) == Deny((Reason.ADVERTISING_MARK_MISSING,))
    assert verdict(replace(spanish, mark="PUBLI"), known) == Allow()
    assert verdict(replace(spanish, mark="PUBLICITÉ"), known) == Allow(), "it begins with the other as well"
    assert verdict(replace(spanish, mark="PUB"), known) == Deny((Reason.ADVERTISING_MARK_MISSING,))


def test_an_address_narrows_where_a_number_may_be() -> None:
    saint_stephen = datetime(2026, 12, 26, 10, 0, tzinfo=UTC)
    request = replace(REQUEST, send_before=saint_stephen + timedelta(days=3))
    known = replace(KNOWN, as_of=saint_stephen)
    assert verdict(request, known, saint_stephen) == Allow()
    assert verdict(replace(request, region="FR-57"), known, saint_stephen) == Defer(
        (Reason.PUBLIC_HOLIDAY,), datetime(2026, 12, 28, 7, 0, tzinfo=UTC)
    )


def test_a_cap_denies_from_its_number_on_and_only_marketing() -> None:
    capped = replace(LIMITS, cap=2)
    for recent, found in ((1, Allow()), (2, Deny((Reason.FREQUENCY_CAP,)))):
        assert decide(REQUEST, replace(KNOWN, recent=recent), TUESDAY_10H, capped, FRANCE) == found
    assert verdict(known=replace(KNOWN, recent=99)) == Allow(), "where there is no cap"
    code = replace(REQUEST, category="transactional")
    assert decide(code, replace(KNOWN, recent=99), TUESDAY_10H, capped, FRANCE) == Allow()


def test_a_paused_campaign_waits_and_an_unknown_one_is_not_assumed_to_run() -> None:
    assert verdict(known=replace(KNOWN, control="paused")) == Defer(
        (Reason.CAMPAIGN_PAUSED,), TUESDAY_10H + LIMITS.paused_recheck
    )
    assert LIMITS.paused_recheck >= timedelta(hours=1), "or a large one is decided over and over while it is paused"
    assert verdict(known=replace(KNOWN, control=None)) == Defer(
        (Reason.CAMPAIGN_UNKNOWN,), TUESDAY_10H + LIMITS.recheck
    )


def test_while_a_text_of_theirs_waits_to_be_read_marketing_waits_with_it() -> None:
    held = replace(KNOWN, subject=replace(SUBJECT, held_since=TUESDAY_10H - timedelta(days=3)))
    assert verdict(known=held) == Defer((Reason.UNDER_REVIEW,), TUESDAY_10H + LIMITS.review_recheck)
    soon = TUESDAY_10H + timedelta(minutes=5)
    assert verdict(replace(REQUEST, send_before=soon), held) == Defer((Reason.UNDER_REVIEW,), soon)


def test_an_opt_in_newer_than_the_text_in_doubt_does_not_lift_its_hold() -> None:
    since = CONSENT.occurred_at - timedelta(days=1)
    held = replace(KNOWN, subject=replace(SUBJECT, held_since=since))
    assert isinstance(verdict(known=held), Defer)


def test_a_stop_makes_a_hold_moot() -> None:
    consents = (_changed(CONSENT, state="opted_out"),)
    held = replace(KNOWN, subject=replace(SUBJECT, consents=consents, held_since=TUESDAY_10H))
    assert verdict(known=held) == Deny((Reason.OPTED_OUT,))


def test_a_hold_is_of_marketing_only_and_a_provider_block_of_everything() -> None:
    request = replace(REQUEST, category="transactional", purpose=None, campaign_id=None, mentions_stop=False)
    held = replace(KNOWN, subject=replace(SUBJECT, held_since=TUESDAY_10H))
    assert verdict(request, held) == Allow()
    assert verdict(request, replace(KNOWN, blocked=True)) == Deny((Reason.PROVIDER_BLOCK,))


def test_past_send_before_it_expires_whatever_else_holds() -> None:
    assert verdict(replace(REQUEST, send_before=TUESDAY_10H), replace(KNOWN, subject=None)) == Expire()


def test_no_delay_reaches_past_send_before() -> None:
    soon = TUESDAY_22H + timedelta(minutes=5)
    found = verdict(replace(REQUEST, send_before=soon), replace(KNOWN, as_of=TUESDAY_22H), TUESDAY_22H)
    assert found == Defer((Reason.QUIET_HOURS,), soon)


def test_a_consent_that_may_still_be_on_its_way_delays_instead_of_denying() -> None:
    asked_now = replace(REQUEST, requested_at=TUESDAY_10H)
    for known in (replace(KNOWN, subject=None), with_consent(state="opted_out"), with_consent(sender_id="other")):
        assert verdict(asked_now, known) == Defer((Reason.KNOWLEDGE_BEHIND,), TUESDAY_10H + LIMITS.recheck)


def test_being_behind_cures_only_what_may_still_arrive() -> None:
    asked_now = replace(REQUEST, requested_at=TUESDAY_10H)
    erased = replace(KNOWN, subject=replace(SUBJECT, erased=True))
    cancelled = replace(KNOWN, subject=None, control="cancelled")
    forged = replace(asked_now, flaw=Reason.SUBJECT_MISMATCH)
    for request_, known in ((asked_now, erased), (asked_now, cancelled), (forged, KNOWN)):
        assert isinstance(verdict(request_, known), Deny)


def test_a_sender_just_registered_or_changed_has_a_short_grace_to_arrive() -> None:
    asked = replace(REQUEST, requested_at=TUESDAY_10H - LIMITS.registry_grace + timedelta(seconds=1))
    late = replace(asked, requested_at=TUESDAY_10H - LIMITS.registry_grace)
    known = replace(KNOWN, as_of=TUESDAY_10H)
    for unknown in (replace(known, purposes=None), replace(known, purposes=frozenset())):
        assert verdict(asked, unknown) == Defer((Reason.KNOWLEDGE_BEHIND,), TUESDAY_10H + LIMITS.recheck)
        assert isinstance(verdict(late, unknown), Deny)
    assert isinstance(verdict(replace(late, mentions_stop=False), known), Deny)


def test_a_transactional_message_needs_neither_consent_nor_hours_but_a_sender() -> None:
    request = replace(REQUEST, category="transactional", purpose=None, campaign_id=None, mentions_stop=False)
    known = Knowledge(as_of=None, subject=None, purposes=frozenset(), countries=frozenset(), control=None)
    assert verdict(request, known, TUESDAY_22H) == Allow()
    assert verdict(request, replace(known, purposes=None), TUESDAY_22H) == Deny((Reason.UNKNOWN_SENDER,))


def test_a_notice_waits_for_its_courtesy_hours_and_an_answer_does_not() -> None:
    sunday_22h = TUESDAY_22H + timedelta(days=5)
    notice = replace(
        REQUEST,
        category="service",
        purpose=None,
        campaign_id=None,
        mentions_stop=False,
        courtesy=True,
        requested_at=sunday_22h,
        send_before=sunday_22h + timedelta(days=1),
    )
    known = Knowledge(as_of=None, subject=None, purposes=frozenset(), countries=frozenset(), control=None)
    monday_8h = datetime(2026, 11, 30, 7, 0, tzinfo=UTC)
    assert verdict(notice, known, sunday_22h) == Defer((Reason.QUIET_HOURS,), monday_8h)
    assert verdict(notice, known, monday_8h) == Allow()
    assert verdict(notice, known, sunday_22h + timedelta(hours=-2)) == Allow(), "a Sunday evening"
    short = replace(notice, send_before=sunday_22h + timedelta(hours=1))
    assert verdict(short, known, sunday_22h) == Defer((Reason.QUIET_HOURS,), short.send_before)
    assert verdict(replace(notice, courtesy=False), known, sunday_22h) == Allow()
    assert verdict(replace(notice, territory="JP"), known, sunday_22h) == Allow(), "a place without rules"
    in_reunion = replace(notice, territory="RE")
    assert verdict(in_reunion, known, monday_8h - timedelta(hours=3, minutes=1)) == Defer(
        (Reason.QUIET_HOURS,), monday_8h - timedelta(hours=3)
    )


# --- the question of a double opt-in: service, with a purpose -------------------------------------------------------

QUESTION = replace(REQUEST, category="service", campaign_id=None, mentions_stop=False)
ASKED_AT = QUESTION.requested_at
PENDING = with_consent(state="pending", basis=None, occurred_at=ASKED_AT)


def stopped(since: datetime, sender_id: str | None = None, *, known: bool = True) -> Knowledge:
    shut = _changed(CONSENT, state="opted_out", occurred_at=since)
    suppressions = (Suppression(sender_id=sender_id, since=since),)
    subject = replace(SUBJECT, consents=(shut,) if known else (), suppressions=suppressions)
    return replace(KNOWN, control=None, subject=subject)


def test_a_question_goes_to_who_is_pending_at_any_hour() -> None:
    assert verdict(QUESTION, PENDING) == Allow()
    late = replace(PENDING, as_of=TUESDAY_22H)
    assert verdict(replace(QUESTION, send_before=TUESDAY_22H + timedelta(hours=1)), late, TUESDAY_22H) == Allow()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("sender_id", ["maison-lune", None])
def test_a_stop_as_new_as_the_question_forbids_it_and_an_older_one_does_not(sender_id: str | None, known: bool) -> None:
    for since in (ASKED_AT, ASKED_AT + timedelta(seconds=5)):
        found = verdict(QUESTION, stopped(since, sender_id, known=known))
        assert isinstance(found, Deny)
        assert Reason.SUPPRESSED in found.reasons
    assert verdict(QUESTION, stopped(ASKED_AT - timedelta(microseconds=1), sender_id, known=known)) == Allow()
    assert verdict(replace(QUESTION, purpose=None), stopped(ASKED_AT, sender_id, known=known)) == Allow(), "an answer"


def test_a_stop_that_came_after_the_question_forbids_it_though_its_operator_s_clock_is_slow() -> None:
    slow = {"state": "opted_out", "occurred_at": ASKED_AT - timedelta(minutes=2)}
    came = with_consent(**slow, stopped_at=ASKED_AT + timedelta(seconds=5))
    assert verdict(QUESTION, came) == Deny((Reason.OPTED_OUT,))
    assert verdict(QUESTION, with_consent(**slow, stopped_at=ASKED_AT - timedelta(minutes=1))) == Allow()


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (replace(KNOWN, subject=None), Reason.NO_CONSENT),
        (with_consent(sender_id="other"), Reason.NO_CONSENT),
        (with_consent(state="expired", occurred_at=ASKED_AT), Reason.CONSENT_EXPIRED),
        (with_consent(state="opted_out", occurred_at=ASKED_AT), Reason.OPTED_OUT),
        (replace(PENDING, purposes=frozenset({"loyalty"})), Reason.UNKNOWN_PURPOSE),
        (replace(PENDING, subject=replace(SUBJECT, unreadable=True)), Reason.CONSENT_UNREADABLE),
        (replace(PENDING, purposes=None), Reason.UNKNOWN_SENDER),
    ],
)
def test_a_question_nobody_is_known_to_have_asked_for_does_not_go(known: Knowledge, reason: Reason) -> None:
    assert verdict(QUESTION, known) == Deny((reason,))


def test_a_question_waits_for_fresh_knowledge_and_for_who_reads_what_may_be_a_stop() -> None:
    stale = replace(PENDING, as_of=TUESDAY_10H - LIMITS.max_staleness - timedelta(seconds=1))
    assert verdict(replace(QUESTION, requested_at=TUESDAY_10H - timedelta(hours=1)), stale) == Defer(
        (Reason.CONSENT_STALE,), TUESDAY_10H + LIMITS.recheck
    )
    assert PENDING.subject is not None
    held = replace(PENDING, subject=replace(PENDING.subject, held_since=TUESDAY_10H))
    assert verdict(QUESTION, held) == Defer((Reason.UNDER_REVIEW,), TUESDAY_10H + LIMITS.review_recheck)


def test_a_question_ahead_of_what_it_stands_on_waits_for_it() -> None:
    """Also where the watermark has passed its instant: it was requested before its transaction committed."""
    now = ASKED_AT + timedelta(milliseconds=200)
    for as_of in (ASKED_AT - timedelta(milliseconds=1), ASKED_AT + timedelta(milliseconds=1)):
        behind = replace(KNOWN, subject=None, as_of=as_of)
        assert verdict(QUESTION, behind, now) == Defer((Reason.KNOWLEDGE_BEHIND,), now + LIMITS.recheck)
        assert isinstance(verdict(REQUEST, replace(behind, as_of=ASKED_AT), now), Deny), "marketing came after"


def test_whether_what_has_ended_shall_begin_again_may_be_asked_until_a_stop() -> None:
    """A renewal asked late: the consent expired before the question, and only what came after it counts."""
    ended = with_consent(state="expired", occurred_at=ASKED_AT - timedelta(days=1))
    assert verdict(QUESTION, ended) == Allow()
    assert verdict(REQUEST, ended) == Deny((Reason.CONSENT_EXPIRED,)), "marketing stays shut"
    assert verdict(QUESTION, stopped(ASKED_AT + timedelta(minutes=1))) == Deny((Reason.OPTED_OUT, Reason.SUPPRESSED))


@pytest.mark.parametrize(
    ("named", "days_ago", "counts"),
    [
        ("maison-lune", 1, True),  # another sender of the controller
        (None, 1, True),  # every sender
        ("another", 1, False),
        ("maison-lune", 31, False),  # before the opt-in
        (None, 31, False),
        ("maison-lune-compte", 31, True),  # the opt-in is to another sender
    ],
)
def test_a_stop_to_a_sender_of_the_controller_counts_until_an_opt_in_takes_it_back(
    named: str | None, days_ago: int, counts: bool
) -> None:
    since = TUESDAY_10H - timedelta(days=days_ago)
    subject = replace(SUBJECT, suppressions=(Suppression(sender_id=named, since=since),))
    assert stopped_at(subject, {"maison-lune", "maison-lune-compte"}) == (since if counts else None)
    assert stopped_at(None, {"maison-lune"}) is None
