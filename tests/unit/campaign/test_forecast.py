"""Whom a campaign would reach, what it would cost, when it would be done."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace as replace_struct

from campaign.audience.reach import Standing
from campaign.message.wording import wording
from campaign.preflight.findings import load
from campaign.preflight.forecast import Forecast, Outlook, Plan, Wait, finish
from campaign.schedule.timing import Place, Timetable, Timing
from common import law
from common.contracts.consent import Consent
from common.law import Closure, Policy
from common.privacy.stop_link import stop_page
from common.sms.prices import read
from tests.support.abroad import with_link_in
from tests.support.prices import edition, line, prices
from tests.support.prices import table as price_table

PREMIUM = 99  # 08 99 and what follows: no number stands here, it may be somebody's
PAGE = stop_page("https://p.example", "lune")
MONDAY = datetime(2026, 11, 23, 9, tzinfo=UTC)  # 10:00 in Paris
FRANCE = law.load("france")
PRICES = prices(line(price="0.05"), line("MQ", "0.07"), line(price="1", sender="other"))
YES = Standing(
    consents=(
        Consent(
            sender_id="lune",
            purpose="promotions",
            state="opted_in",
            basis="opt_in",
            occurred_at=MONDAY - timedelta(days=1),
            evidence_id="e",
            expires_at=MONDAY + timedelta(days=2),
        ),
    )
)


def nothing(_: Place) -> Sequence[str]:
    return ()


def table(starts_at: datetime, ends_by: datetime, policy: Policy = FRANCE, **timing: Any) -> Timetable:
    return Timetable(Timing(**timing), "FR", starts_at, starts_at, ends_by, policy)


def plan(text: str = "Maison Lune, {name|Bonjour}. {stop}") -> Plan:
    return Plan(
        wordings={"a": wording(text, "fr", {}, "none")},
        sender_id="lune",
        purpose="promotions",
        brand="Maison Lune",
        oadc="LUNE",
        stop_code="36111",
        stop_added="",
        sectors=(),
        timetable=table(MONDAY, MONDAY + timedelta(days=3)),
        begins_with=nothing,
        prices=PRICES,
        compliance=load(),
        rate_per_s=None,
        reachable_in=frozenset({"MQ", "GP"}),
    )


def test_each_person_is_counted_once_and_for_each_of_their_reasons() -> None:
    forecast = Forecast(plan("Maison Lune, {name}. {stop}"))
    forecast.add({"name": "Zoé"}, "FR", YES)
    forecast.add({"name": "Zoé"}, "FR", None)
    forecast.add({}, "FR", YES)
    forecast.add({}, "FR", Standing())
    forecast.add({"name": "Zoé"}, "??", YES)
    forecast.add({"name": "Zoé"}, "FR", Standing(consents=YES.consents, held=True))
    found = forecast.outlook
    assert (found.audience, found.would_get, found.under_review) == (6, 2, 1)
    assert found.reasons == {"no_consent": 2, "missing:name": 2, "country_not_covered": 1}


def test_a_consent_that_ends_before_the_message_may_leave_is_none() -> None:
    until = YES.consents[0].expires_at
    assert until is not None
    forecast = Forecast(replace(plan(), timetable=table(until - timedelta(hours=1), until + timedelta(days=9))))
    forecast.add({}, "FR", YES)  # open at once
    forecast.add({}, "MQ", YES)  # it is night there until the end has passed
    assert forecast.outlook.reasons == {"consent_expired": 1}


def test_who_has_no_means_to_stop_where_they_are_or_whose_holidays_are_unknown_is_told() -> None:
    table_ = table(MONDAY, MONDAY + timedelta(days=3), with_link_in(FRANCE, "GB"))
    code = replace(plan(), timetable=table_)
    both = replace(
        code, wordings={"a": wording("Maison Lune. {stop} {stop_link}", "fr", {}, "none", None, PAGE)}, stop_page=PAGE
    )
    for asked, reasons in (
        (code, {"no_means_to_stop_there": 4, "holidays_unknown_there": 2}),
        (both, {"no_means_to_stop_there": 1, "holidays_unknown_there": 2}),
    ):
        forecast = Forecast(asked)
        for territory, postcode in (("FR", ""), ("MQ", ""), ("RE", ""), ("FR", "97400"), ("GB", ""), ("CA", "")):
            forecast.add({"postcode": postcode}, territory, YES)
        assert forecast.outlook.reasons == reasons
    nowhere = replace(both, wordings={"a": wording("Maison Lune. {stop_link}", "fr", {}, "none", None, PAGE)})
    forecast = Forecast(nowhere)
    for territory in ("FR", "RE"):
        forecast.add({}, territory, YES)
    found = forecast.outlook
    assert (found.would_get, found.reasons) == (1, {"no_means_to_stop_there": 1}), "in France the code stays required"


def test_who_can_only_be_written_to_after_the_end_is_told() -> None:
    forecast = Forecast(replace(plan(), timetable=table(MONDAY, MONDAY + timedelta(hours=3))))
    forecast.add({}, "FR", YES)
    forecast.add({}, "MQ", YES)  # 5 in the morning; three hours to go
    found = forecast.outlook
    assert (found.would_get, found.reasons) == (1, {"send_before_passed": 1})


def test_lengths_are_those_of_the_messages_and_one_name_may_cost_two_more() -> None:
    forecast = Forecast(plan("Maison Lune, " + "a" * 100 + "{name}. {stop}"))
    for name in ("Zoé", "Léa", "Ana-Maria", "Anne Charlotte Eugénie de La Roche"):
        forecast.add({"name": name}, "FR", YES)
    forecast.add({"name": "Loïc"}, "MQ", YES)
    found = forecast.outlook
    assert found.segments == {1: 3, 2: 2}
    assert found.encodings == {"GSM7": 4, "UCS2": 1}
    assert found.costly_by_contact == 1
    assert found.median_segments == 1
    assert found.units == (131, 132, 162)
    assert found.cost == 500 * 5 + 700 * 2
    assert [(p.territory, p.people, p.segments) for p in found.places] == [("FR", 4, 5), ("MQ", 1, 2)]
    of_the_text = Forecast(plan("Maison Lune, à l’hôtel, {name}. {stop}"))
    of_the_text.add({"name": "Loïc"}, "FR", YES)
    assert (of_the_text.outlook.encodings, of_the_text.outlook.costly_by_contact) == ({"UCS2": 1}, 0)


def test_what_has_no_price_is_counted_and_not_guessed() -> None:
    forecast = Forecast(plan())
    none = forecast.outlook
    assert none.cost == 0
    forecast.add({}, "GP", YES)
    assert forecast.outlook.cost is None
    assert forecast.outlook.unpriced == 1
    forecast.add({}, "FR", YES)
    found = forecast.outlook
    assert (found.cost, found.unpriced) == (500, 1)
    assert {part.territory: part.cost for part in found.places} == {"FR": 500, "GP": None}


def test_a_price_that_rises_before_the_campaign_ends_counts_from_the_start() -> None:
    rising = read(price_table(edition("2026-01-01", line(price="0.05")), edition("2026-11-25", line(price="0.06"))))
    for ends_by, cost in ((MONDAY + timedelta(days=1), 500), (MONDAY + timedelta(days=3), 600)):
        forecast = Forecast(replace(plan(), prices=rising, timetable=table(MONDAY, ends_by)))
        forecast.add({}, "FR", YES)
        assert forecast.outlook.cost == cost


def test_what_speaks_against_it_is_found_in_what_contacts_hold_too() -> None:
    forecast = Forecast(plan("Maison Lune, {link|maison-lune.example/}{city|} {if vip}merci{end} {stop}"))
    for link in ("https://bit.ly/1", "https://tinyurl.com/1", "maison-lune.example/1"):
        forecast.add({"link": link}, "FR", YES)
    found = [(finding.id, finding.people) for finding in forecast.outlook.findings]
    assert found == [("public_shortener:{link}", 2), ("field_nobody_has:city", 0), ("field_nobody_has:vip", 0)]
    nobody = Forecast(plan())
    assert [finding.id for finding in nobody.outlook.findings] == ["nobody"]
    spanish = Forecast(replace(plan(), begins_with=lambda place: ("PUBLI",) if place.territory == "ES" else ()))
    spanish.add({"name": "Zoé"}, "FR", YES)
    assert spanish.outlook.findings == ()
    always = table(MONDAY, MONDAY + timedelta(days=3), law.load("demonstration"))
    spanish = Forecast(replace(plan(), begins_with=lambda _: ("PUBLI",), timetable=always))
    spanish.add({"name": "Zoé"}, "FR", YES)
    assert [finding.id for finding in spanish.outlook.findings] == ["begins_with:PUBLI"]


def test_no_finding_holds_what_a_contact_says_but_the_field_that_says_it() -> None:
    """Findings rest in the last pre-flight, where no erasure looks for them."""
    forecast = Forecast(plan("Maison Lune {city} STOP 36{code} 08 {call}. Envoyez OUI au {short} {stop}"))
    forecast.add({"city": "St.Denis", "code": "222", "call": f"{PREMIUM} 12 34 56", "short": "81234"}, "FR", YES)
    forecast.add({"city": "St.Denis", "code": "111", "call": "00 00 00 00", "short": "36111"}, "FR", YES)
    found = [(finding.id, finding.people) for finding in forecast.outlook.findings]
    assert found == [("foreign_stop_code:{code}", 1), ("premium_number:{call}", 1), ("premium_short_code:{short}", 1)]


@pytest.mark.parametrize(
    ("people", "rate", "ends"),
    [
        (3600, 1.0, datetime(2026, 11, 23, 10, tzinfo=UTC)),
        (10 * 3600, 1.0, datetime(2026, 11, 23, 19, tzinfo=UTC)),  # 20:00 in Paris: to the end of the day
        (11 * 3600, 1.0, datetime(2026, 11, 24, 8, tzinfo=UTC)),  # an hour of it on the next
        (1, None, MONDAY),
        (1_000_000, 0.0001, None),
    ],
)
def test_sending_is_laid_out_within_the_hours(people: int, rate: float | None, ends: datetime | None) -> None:
    assert finish({Place("FR"): people}, replace(plan(), rate_per_s=rate)) == ends
    assert finish({}, replace(plan(), rate_per_s=rate)) is None


def test_the_campaign_s_own_pace_counts_and_what_it_is_spread_over() -> None:
    people = {Place("FR"): 3600}
    slow = replace(plan(), timetable=table(MONDAY, MONDAY + timedelta(days=3), per_hour=1800), rate_per_s=10.0)
    ends = finish(people, slow)
    assert ends is not None
    assert timedelta(hours=2) <= ends - MONDAY < timedelta(hours=2, seconds=2)
    spread = replace(plan(), timetable=table(MONDAY, MONDAY + timedelta(days=3), spread_minutes=60), rate_per_s=None)
    assert finish(people, spread) == MONDAY + timedelta(hours=1)


def test_what_would_end_before_it_is_done_is_told() -> None:
    of_two = replace(plan(), timetable=table(MONDAY, MONDAY + timedelta(minutes=30), per_hour=1))
    forecast = Forecast(of_two)
    forecast.add({"name": "Zoé"}, "FR", YES)
    assert [finding.id for finding in forecast.outlook.findings] == ["too_slow"]


SATURDAY = datetime(2026, 12, 26, 9, tzinfo=UTC)  # 26 December, which is a holiday in Alsace and Moselle only
AT_EIGHT = datetime(2026, 12, 28, 7, tzinfo=UTC)  # on the Monday after it


def looked_at(
    starts_at: datetime, *people: tuple[str, str], lasts: int = 99, rate: float | None = None, **timing: Any
) -> Outlook:
    """Of these people, by the territory of their number and their postcode."""
    forecast = Forecast(
        replace(
            plan(), timetable=table(starts_at, starts_at + timedelta(hours=lasts), FRANCE, **timing), rate_per_s=rate
        )
    )
    consent = replace_struct(YES.consents[0], expires_at=starts_at + timedelta(days=99))
    for territory, postcode in people:
        forecast.add({"postcode": postcode}, territory, Standing(consents=(consent,)))
    return forecast.outlook


def told(wait: Wait) -> tuple[str, str | None, int, datetime, bool, list[str]]:
    return wait.territory, wait.region, wait.people, wait.opens_at, wait.too_late, reasons(wait.against)


def reasons(against: Sequence[Closure]) -> list[str]:
    return list(dict.fromkeys(each.holiday.name if each.holiday else str(each.aspect) for each in against))


ALSACE, MOSELLE, ELSEWHERE = ("FR", "67000"), ("FR", "57000"), ("FR", "75011")


def test_who_lives_in_alsace_or_moselle_waits_for_the_end_of_their_holidays_and_it_is_told_until_when() -> None:
    found = looked_at(SATURDAY, ALSACE, ELSEWHERE, MOSELLE, ALSACE)
    assert [(part.territory, part.people, part.opens_at, part.against) for part in found.places] == [
        ("FR", 4, SATURDAY, ())
    ]
    assert [told(wait) for wait in found.waits] == [
        ("FR", "FR-6AE", 2, AT_EIGHT, False, ["Saint-Étienne"]),
        ("FR", "FR-57", 1, AT_EIGHT, False, ["Saint-Étienne"]),
    ]
    assert found.finishes_at == AT_EIGHT
    assert all(closure.rule.source and closure.holiday and closure.holiday.source for closure in found.waits[0].against)


@pytest.mark.parametrize(
    ("starts_at", "opens_at", "later", "why"),
    [
        # Christmas is everybody's, and the day after it is not
        (SATURDAY - timedelta(days=1), SATURDAY - timedelta(hours=2), AT_EIGHT, "Saint-Étienne"),
        # the evening before Good Friday
        (
            datetime(2026, 4, 2, 19, tzinfo=UTC),
            datetime(2026, 4, 3, 6, tzinfo=UTC),
            datetime(2026, 4, 4, 6, tzinfo=UTC),
            "Vendredi saint",
        ),
    ],
)
def test_what_opens_elsewhere_before_it_does_in_alsace_tells_which_holiday_is_between(
    starts_at: datetime, opens_at: datetime, later: datetime, why: str
) -> None:
    found = looked_at(starts_at, ALSACE, ELSEWHERE)
    assert [part.opens_at for part in found.places] == [opens_at]
    assert [told(wait) for wait in found.waits] == [("FR", "FR-6AE", 1, later, False, [why])]


def test_who_is_all_of_one_place_or_waits_as_everybody_does_is_told_of_once() -> None:
    [alone] = looked_at(SATURDAY, ALSACE).places
    assert reasons(alone.against) == ["Saint-Étienne"]
    assert looked_at(SATURDAY, ALSACE).waits == ()
    sunday = SATURDAY + timedelta(days=1)
    for order in ((ALSACE, ELSEWHERE), (ELSEWHERE, ALSACE)):
        found = looked_at(sunday, *order)
        assert (found.waits, [part.opens_at for part in found.places]) == ((), [AT_EIGHT])
    in_the_evening = SATURDAY + timedelta(hours=11)  # both wait until Monday, and not both for a holiday
    for order in ((ALSACE, ELSEWHERE), (ELSEWHERE, ALSACE)):
        [part] = looked_at(in_the_evening, *order).places
        assert reasons(part.against) == ["hours"]


def test_who_would_wait_beyond_the_end_is_told_too_and_for_which_holiday() -> None:
    found = looked_at(SATURDAY, ALSACE, ELSEWHERE, lasts=8)
    assert (found.would_get, found.reasons) == (1, {"send_before_passed": 1})
    assert [told(wait) for wait in found.waits] == [("FR", "FR-6AE", 1, AT_EIGHT, True, ["Saint-Étienne"])]
    assert found.finishes_at == SATURDAY
    nobody = looked_at(SATURDAY + timedelta(days=1), ALSACE, ELSEWHERE, lasts=8)
    assert [told(wait) for wait in nobody.waits] == [
        ("FR", "FR-6AE", 1, AT_EIGHT, True, ["weekday"]),
        ("FR", None, 1, AT_EIGHT, True, ["weekday"]),
    ]


def test_a_number_that_cannot_tell_an_island_from_its_neighbour_waits_for_both() -> None:
    """28 May is a holiday of Saint-Martin; a postcode of Guadeloupe tells that it is none of theirs."""
    starts_at = datetime(2026, 5, 28, 14, tzinfo=UTC)
    found = looked_at(starts_at, ("GP", ""), ("GP", "97100"), ("GP", "97150"))
    assert [(part.people, part.opens_at) for part in found.places] == [(3, starts_at)]
    day_after = datetime(2026, 5, 29, 12, tzinfo=UTC)
    assert {(wait.region, wait.people, wait.opens_at) for wait in found.waits} == {
        (None, 1, day_after),
        ("MF", 1, day_after),
    }


def test_each_leaves_when_their_own_place_is_open_and_nobody_s_night_holds_the_others_up() -> None:
    hour = 3600.0
    found = looked_at(SATURDAY, ALSACE, *[ELSEWHERE] * 3, rate=1 / hour)
    assert found.finishes_at == AT_EIGHT + timedelta(hours=1)
    # ten hours of Saturday for the two thirds that are elsewhere, and the other third on Monday
    lumped = looked_at(SATURDAY, *[ALSACE] * 5, *[ELSEWHERE] * 10, rate=1 / hour)
    assert lumped.finishes_at == AT_EIGHT + timedelta(hours=5)
    # three to France before Fort-de-France wakes up; seven to both until it is 20:00 in Paris, which leaves 34/3 and
    # 8/3: these leave in the evening, and those from 08:00 on
    people = {Place("FR"): 20, Place("MQ"): 4}
    assert finish(people, replace(plan(), rate_per_s=1 / hour)) == datetime(2026, 11, 24, 18, 20, tzinfo=UTC)


def test_an_hour_on_another_clock_is_no_wait() -> None:
    forecast = Forecast(replace(plan(), timetable=table(MONDAY, MONDAY + timedelta(days=3), local_time=True)))
    forecast.add({}, "FR", YES)
    forecast.add({"timezone": "America/Martinique"}, "FR", YES)
    assert forecast.outlook.waits == ()
    assert forecast.outlook.finishes_at == MONDAY + timedelta(hours=5)
