"""No advert goes to a place without a means to stop that works there, or with unknown holidays: judged by a table of
the test's own, not by the data of the law. The gate and the pre-flight say the same of it."""

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from campaign.audience.reach import Standing
from campaign.links.links import Tokens
from campaign.message.wording import wording
from campaign.preflight.findings import load as rules
from campaign.preflight.forecast import Forecast, Plan
from campaign.schedule.timing import Timetable, Timing
from common.contracts.consent import Consent
from common.law import Policy, at_hand_off, load
from common.law.stop_mention import mentions_stop
from common.privacy.stop_link import has_stop_link, stop_page
from common.sms.prices import NO_PRICES
from dispatch.gate.rules import Allow, Knowledge, Request, Subject, decide, denials_for, prepare
from dispatch.messages.reasons import Reason
from dispatch.projection.limits import Limits
from tests.support.abroad import with_link_in
from tests.support.builders import link_keys, subject

POLICY = at_hand_off(load("france"))
PAGE = stop_page("https://p.example", "lune")

# the places of the edition in force: where the code works at once, where by which statement, where the link works
HOME = {"FR", "FR-6AE", "FR-57"}
BY_STATEMENT = {
    **{code: {code} for code in ("GP", "MQ", "GF", "RE", "YT", "PM", "NC", "PF", "WF")},
    **{"FR-971": {"GP"}, "BL": {"BL", "GP"}, "MF": {"MF", "GP"}},
}
LINK = {*BY_STATEMENT, "US", "US-FL", "US-OK", "US-WA"}
HOLIDAYS_FOR_EVER = {*HOME, *BY_STATEMENT}
HOLIDAYS_TO_2035 = {"BE", "DE", "ES"}
HOLIDAYS_UNKNOWN = {"GB", "CA", "US", "US-FL", "US-OK", "US-WA"}
POSTCODES = {"67000": "FR-6AE", "57000": "FR-57", "97110": "FR-971", "97133": "BL", "97150": "MF", "97200": "MQ"}
WITHIN = {"FR-6AE": "FR", "FR-57": "FR", "FR-971": "GP", "BL": "GP", "MF": "GP"}
NUMBERS = ["FR", "GP", "MQ", "GF", "RE", "YT", "PM", "NC", "PF", "WF", "BE", "DE", "ES", "GB", "US", "CA", "JP"]
MIDDAYS = [datetime(year, 11, 25, 14, tzinfo=UTC) for year in (2026, 2036)]

WHERE = list(product(NUMBERS, ["", *POSTCODES]))
MEANS = [(False, False), (True, False), (False, True), (True, True)]  # code, link
STATED = [frozenset(), *(frozenset({code}) for code in ("GP", "MQ", "RE", "BL", "MF", "NC")), frozenset({"GP", "MQ"})]


def denials(request: Request, known: Knowledge, now: datetime, policy: Policy) -> tuple[Reason, ...]:
    return denials_for(prepare(request, known, now, Limits(), policy), known.subject, known.recent)


def where(number: str, postcode: str) -> set[str]:
    """Every place in which the person may be."""
    region = POSTCODES.get(postcode)
    if region is None:
        return {number}
    return {region} if number in (region, WITHIN.get(region)) else {number, region}


def may_go(places: set[str], code: bool, link: bool, stated: frozenset[str]) -> bool:
    def works(place: str) -> bool:
        by_code = place in HOME or bool(BY_STATEMENT.get(place, set()) & stated)
        return (code and by_code) or (link and place in LINK)

    return all(works(place) for place in places)


def holidays_known(places: set[str], at: datetime) -> bool:
    to_2035 = HOLIDAYS_TO_2035 if at.year <= 2035 else set()
    return places <= HOLIDAYS_FOR_EVER | to_2035


def consent(at: datetime) -> Consent:
    return Consent(
        sender_id="lune",
        purpose="promotions",
        state="opted_in",
        basis="opt_in",
        occurred_at=at - timedelta(days=1),
        evidence_id="e",
    )


def timetable(at: datetime, policy: Policy) -> Timetable:
    return Timetable(Timing(), "FR", at, at, at + timedelta(days=3), policy)


def asked(number: str, region: str | None, text: str, at: datetime) -> Request:
    return Request(
        category="marketing",
        sender_id="lune",
        purpose="promotions",
        campaign_id="c",
        requested_at=at - timedelta(hours=1),
        send_before=at + timedelta(days=2),
        territory=number,
        mentions_stop=mentions_stop(text, "36111"),
        region=region,
        mark="PUBLI",
        stop_link=has_stop_link(text, PAGE, link_keys, "lune", subject(1), at),
    )


def known(stated: frozenset[str], at: datetime) -> Knowledge:
    return Knowledge(
        as_of=at,
        subject=Subject(1, (consent(at),), (), False, False),
        purposes=frozenset({"promotions"}),
        countries=frozenset({"FR", "BE", "DE", "ES", "GB", "US", "CA"}),
        control="running",
        reachable_in=stated,
    )


def text_with(code: bool, link: bool) -> str:
    return "Lune." + (" {stop}" if code else "") + (" {stop_link}" if link else "")


def written(code: bool, link: bool, at: datetime) -> str:
    spoken = wording(text_with(code, link), "fr", {}, "none", None, PAGE)
    return spoken.render({}, "36111", Tokens(link_keys, "c", subject(1), "lune", at))


def plan(code: bool, link: bool, stated: frozenset[str], table: Timetable) -> Plan:
    return Plan(
        wordings={"a": wording(text_with(code, link), "fr", {}, "none", None, PAGE)},
        sender_id="lune",
        purpose="promotions",
        brand="Lune",
        oadc="LUNE",
        stop_code="36111",
        stop_added="",
        sectors=(),
        timetable=table,
        begins_with=lambda _: (),
        prices=NO_PRICES,
        compliance=rules(),
        rate_per_s=None,
        reachable_in=stated,
        stop_page=PAGE,
    )


def test_the_table_has_every_place_of_the_edition_in_force() -> None:
    """A new place is closed until somebody has written here what opens it."""
    assert set(POLICY.places) == HOLIDAYS_FOR_EVER | HOLIDAYS_TO_2035 | HOLIDAYS_UNKNOWN
    assert not HOLIDAYS_FOR_EVER & HOLIDAYS_UNKNOWN


@pytest.mark.parametrize("at", MIDDAYS, ids=str)
@pytest.mark.parametrize(("code", "link"), MEANS)
def test_an_advert_goes_only_where_a_means_to_stop_works_and_the_holidays_are_known(
    code: bool, link: bool, at: datetime
) -> None:
    text, went = written(code, link, at), 0
    for (number, postcode), stated in product(WHERE, STATED):
        case = number, postcode, sorted(stated)
        places = where(number, postcode)
        request = asked(number, POSTCODES.get(postcode), text, at)
        assert (request.mentions_stop, request.stop_link) == (code, link)
        verdict = decide(request, known(stated, at), at, Limits(), POLICY)
        may, holidays = may_go(places, code, link, stated), holidays_known(places, at)
        assert verdict != Allow() or (may and holidays), case
        went += verdict == Allow()
        found = set(denials(request, known(stated, at), at, POLICY))
        if number != "JP":
            assert (Reason.HOLIDAYS_UNKNOWN_THERE in found) is not holidays, case
            assert bool(found & {Reason.NO_MEANS_TO_STOP_THERE, Reason.STOP_MENTION_MISSING}) is not may, case
    assert bool(went) is (code or link)


@pytest.mark.parametrize("at", MIDDAYS, ids=str)
@pytest.mark.parametrize(("code", "link"), MEANS[1:])
def test_the_gate_and_the_pre_flight_say_the_same_of_a_closed_place(code: bool, link: bool, at: datetime) -> None:
    policy = with_link_in(POLICY, "BE", "GB")
    table, text, compared = timetable(at, policy), written(code, link, at), 0
    for (number, postcode), stated in product(WHERE, STATED):
        place = table.place(number, {"postcode": postcode})
        assert place.region == POSTCODES.get(postcode)
        window = table.window(place)
        if not window and number != "JP":
            continue  # two places that are never open together: only the pre-flight says it
        forecast = Forecast(plan(code, link, stated, table))
        forecast.add({"postcode": postcode}, number, Standing(consents=(consent(at),)))
        now = window[0][0] if window else at
        request = asked(number, place.region, text, now)
        gate = {reason.value for reason in denials(request, known(stated, now), now, policy)}
        assert set(forecast.outlook.reasons) - {"send_before_passed"} == gate, (number, postcode, sorted(stated))
        compared += 1
    assert compared > 900
