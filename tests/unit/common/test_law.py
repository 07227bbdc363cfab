"""The golden hours (DOMAIN 7.2), the calendars against the `holidays` library, and the rules of the data files.

Of DOMAIN 7, the tables are: 7.1 (segments) `tests/unit/campaign/test_campaign_text.py`; 7.2 (hours) here; 7.3 (the
consent filter) `tests/unit/dispatch/test_golden_consent_filter.py`.
"""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import holidays
import pytest

from common.law import (
    Aspect,
    PolicyUnreadable,
    at_hand_off,
    begins_with,
    closed_by,
    country_of,
    covers,
    easter,
    files,
    is_open,
    load,
    mark_of,
    next_permitted,
    region_of,
    rules_of,
    zones,
)
from common.sms.msisdn import territory_of

FRANCE = load("france-3")
LAW = Path(files.__file__).parent


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("number", "at", "sent_at"),
    [
        ("+33639981234", "2026-11-24T07:00", "2026-11-24T07:00"),  # 08:00, inclusive
        ("+33639981234", "2026-11-24T06:59", "2026-11-24T07:00"),
        ("+33639981234", "2026-11-24T19:00", "2026-11-25T07:00"),  # 20:00, exclusive
        ("+33639981234", "2026-11-24T18:59:59.999999", "2026-11-24T18:59:59.999999"),
        ("+33639981234", "2026-11-29T10:00", "2026-11-30T07:00"),  # Sunday
        ("+33639981234", "2026-11-11T10:00", "2026-11-12T07:00"),  # Armistice
        ("+596696123456", "2026-11-24T09:00", "2026-11-24T12:00"),  # 05:00 in Martinique
        ("+596696123456", "2026-05-22T14:00", "2026-05-23T12:00"),  # abolition day in Martinique
        ("+33639981234", "2026-05-22T14:00", "2026-05-22T14:00"),  # and not in Paris
        ("+262692123456", "2026-12-20T08:00", "2026-12-21T04:00"),  # Sunday, and abolition day in Réunion
        ("+262692123456", "2026-11-24T04:00", "2026-11-24T04:00"),  # 08:00 in Réunion
        ("+33639981234", "2027-03-28T06:00", "2027-03-30T06:00"),  # clocks change on Sunday, then Easter Monday
        ("+33639981234", "2026-10-24T18:00", "2026-10-26T07:00"),  # Saturday 20:00 in summer to Monday in winter
        ("+590690001234", "2026-05-27T15:00", "2026-05-29T12:00"),  # Guadeloupe 27 May, Saint-Martin 27 and 28
        ("+590690001234", "2026-10-09T15:00", "2026-10-10T12:00"),  # Saint-Barthélemy's day
        ("+68987123456", "2026-11-24T17:30", "2026-11-24T18:00"),  # 07:30 in Tahiti, 08:30 in the Gambier
        ("+68987123456", "2026-11-25T04:59", "2026-11-25T04:59"),  # 18:59 in Tahiti, 19:59 in the Gambier
        ("+68987123456", "2026-11-25T05:00", "2026-11-25T18:00"),  # 20:00 in the Gambier
        ("+508551234", "2026-07-10T09:00", "2026-07-10T10:00"),  # Miquelon keeps summer time
    ],
)
def test_the_golden_hours(number: str, at: str, sent_at: str) -> None:
    territory, moment, expected = territory_of(number), utc(at), utc(sent_at)
    assert next_permitted(moment, territory, FRANCE) == expected
    assert is_open(moment, territory, FRANCE) == (moment == expected)
    assert is_open(expected, territory, FRANCE)


@pytest.mark.parametrize(
    ("territory", "subdivisions"),
    [
        ("FR", [None]),
        ("FR-6AE", ["6AE"]),
        ("FR-57", ["57"]),
        ("FR-971", ["971"]),
        ("GP", ["971", "BL", "MF"]),
        ("BL", ["BL"]),
        ("MF", ["MF"]),
        ("MQ", ["972"]),
        ("GF", ["973"]),
        ("RE", ["974"]),
        ("YT", ["976"]),
        ("PM", ["PM"]),
        ("NC", ["NC"]),
        ("PF", ["PF"]),
        ("WF", ["WF"]),
    ],
)
def test_our_calendars_are_those_of_the_holidays_library(territory: str, subdivisions: list[str | None]) -> None:
    ours_alone = {(5, 27)} if territory == "MF" else set()  # sources disagree: closed on both days
    for year in range(2025, 2046):
        theirs = {day for s in subdivisions for day in holidays.country_holidays("FR", subdiv=s, years=year)}
        assert {d for d in days_of(territory, year) if (d.month, d.day) not in ours_alone} == theirs


@pytest.mark.parametrize("country", ["BE", "DE", "ES"])
def test_no_national_day_of_a_neighbour_is_missing(country: str) -> None:
    """The library leaves out the Spanish ones that fall on a Sunday, and counts Easter Sunday as one of Belgium."""
    for year in range(2025, 2046):
        ours = days_of(country, year)
        assert [
            d for d in holidays.country_holidays(country, years=year) if d not in ours and d.isoweekday() != 7
        ] == []
        assert len(ours) <= 11


def days_of(territory: str, year: int) -> frozenset[date]:
    return frozenset[date]().union(*(c.days(year) for c in FRANCE.places[territory].calendars))


def test_every_territory_a_french_number_can_have_is_in_the_data() -> None:
    assert {"FR", "GP", "GF", "MQ", "RE", "YT", "PM", "NC", "PF", "WF"} <= set(FRANCE.places)
    assert {country_of(code, FRANCE) for code in FRANCE.places} == {"FR", "BE", "DE", "ES", "GB", "US", "CA"}


def test_every_place_opens_at_least_every_five_days() -> None:
    for territory in FRANCE.places:
        at = utc("2026-01-01T00:00")
        while at < utc("2028-01-01T00:00"):
            opening = next_permitted(at, territory, FRANCE)
            assert opening is not None
            assert opening - at <= timedelta(5), (territory, at)
            at = opening + timedelta(days=1)


def test_easter_is_where_the_almanac_has_it() -> None:
    assert [easter(year) for year in (2024, 2026, 2027, 2038)] == [
        date(2024, 3, 31),
        date(2026, 4, 5),
        date(2027, 3, 28),
        date(2038, 4, 25),
    ]


@pytest.mark.parametrize(
    ("territory", "at", "sent_at"),
    [
        ("DE", "2026-11-24T06:59", "2026-11-24T07:00"),
        ("DE", "2026-10-02T18:00", "2026-10-05T06:00"),  # Friday 20:00, unity day, Sunday
        ("BE", "2026-07-21T08:00", "2026-07-22T06:00"),
        ("ES", "2026-11-24T07:30", "2026-11-24T08:00"),  # 07:30 in the Canaries
        ("ES", "2026-11-24T19:00", "2026-11-25T08:00"),  # 20:00 in Madrid
        ("GB", "2026-07-10T06:59", "2026-07-10T07:00"),
        ("US", "2026-11-24T17:59", "2026-11-24T18:00"),  # 07:59 in Hawaii
        ("US", "2026-11-25T01:00", "2026-11-25T18:00"),  # 20:00 in New York
        ("US-WA", "2026-11-24T15:59", "2026-11-24T16:00"),
        ("CA", "2026-11-24T23:30", "2026-11-25T16:00"),  # 20:00 in St. John's
    ],
)
def test_the_hours_of_other_countries(territory: str, at: str, sent_at: str) -> None:
    assert next_permitted(utc(at), territory, FRANCE) == utc(sent_at)


def test_a_postcode_tells_what_a_number_does_not() -> None:
    good_friday = utc("2027-03-26T10:00")
    assert is_open(good_friday, "FR", FRANCE)
    assert {region_of(code, "FR", FRANCE) for code in ("67000", " 68100", "75011")} == {"FR-6AE", None}
    assert next_permitted(good_friday, "FR", FRANCE, region="FR-57") == utc("2027-03-27T07:00")
    boxing_day = utc("2026-12-26T10:00")
    assert [c.aspect for c in closed_by(boxing_day, "FR", FRANCE, region="FR-6AE")] == [Aspect.HOLIDAY] * 2
    places = {code: region_of(code, "FR", FRANCE) for code in ("97133", "97150", "97110", "97200")}
    assert places == {"97133": "BL", "97150": "MF", "97110": "FR-971", "97200": "MQ"}
    abolition = utc("2026-05-27T15:00")
    assert not is_open(abolition, "GP", FRANCE)
    assert is_open(abolition, "GP", FRANCE, region="BL")
    assert region_of("57000", "DE", FRANCE) is None, "a postcode is of its country"


def test_a_number_of_one_place_and_an_address_in_another_are_both_minded() -> None:
    assert next_permitted(utc("2026-11-24T07:00"), "FR", FRANCE, region="MQ") == utc("2026-11-24T12:00")
    assert not is_open(utc("2026-05-22T14:00"), "FR", FRANCE, region="MQ")
    assert next_permitted(utc("2026-11-24T07:00"), "US", FRANCE, region="RE") is None, "their days never meet"


def test_every_rule_that_forbids_is_named_the_law_first() -> None:
    sunday_night = utc("2026-11-29T22:00")
    assert [(c.rule.layer, c.rule.id, c.aspect.value) for c in closed_by(sunday_night, "FR", FRANCE)] == [
        ("charter", "fr.af2m-2026", "hours"),
        ("operator", "fr.operators-2026", "weekday"),
        ("operator", "fr.operators-2026", "hours"),
        ("house", "house.hours", "hours"),
        ("house", "house.days", "weekday"),
    ]
    first = closed_by(utc("2026-11-25T05:00"), "US", FRANCE)[0]
    assert (first.rule.layer, first.rule.id, first.zone) == ("law", "us.tcpa", "America/New_York")
    assert "64.1200" in first.rule.source
    assert closed_by(utc("2026-11-24T10:00"), "FR", FRANCE) == ()


def test_a_rule_against_holidays_names_the_one_and_who_says_so() -> None:
    night = utc("2026-05-27T03:00")  # 23:00 of 26 May there
    of_guadeloupe = {
        c.holiday.name: c.holiday.source for c in closed_by(utc("2026-05-27T15:00"), "GP", FRANCE) if c.holiday
    }
    assert list(of_guadeloupe) == ["Abolition de l'esclavage"]
    assert "L3422-2" in of_guadeloupe["Abolition de l'esclavage"], "of the calendar that stands first"
    assert {c.holiday for c in closed_by(night, "GP", FRANCE)} == {None}
    christmas = closed_by(utc("2026-12-25T10:00"), "FR", FRANCE, region="FR-57")
    assert {c.holiday.name for c in christmas if c.holiday} == {"Noël"}
    good_friday = closed_by(utc("2027-03-26T10:00"), "FR", FRANCE, region="FR-57")
    assert {c.holiday.name for c in good_friday if c.holiday} == {"Vendredi saint"}


def test_a_rule_counts_on_the_days_it_is_in_force() -> None:
    def charters(at: str) -> set[str]:
        return {c.rule.id for c in closed_by(utc(at), "FR", FRANCE) if c.rule.layer == "charter"}

    assert charters("2024-08-31T22:30") == {"fr.af2m-2024"}, "it is the first of September in Paris"
    assert charters("2024-08-31T21:30") == set()
    assert charters("2026-02-28T20:45") == set()
    assert charters("2026-03-01T20:45") == {"fr.af2m-2026"}
    as_in_2025 = rules_of(date(2025, 6, 1), FRANCE)
    assert [c.rule.id for c in closed_by(utc("2026-11-29T10:00"), "FR", as_in_2025)] == ["fr.af2m-2024", "house.days"]


def test_a_spanish_text_begins_as_the_law_asks() -> None:
    assert begins_with(utc("2026-11-24T10:00"), "ES", FRANCE) == ("PUBLI",)
    assert begins_with(utc("2026-11-24T10:00"), "FR", FRANCE) == ()
    assert begins_with(utc("2026-11-24T10:00"), "ES", load("demonstration")) == ()


def test_the_mark_of_a_text_is_the_longest_of_any_law_and_of_the_house() -> None:
    rule = {"id": "r", "layer": "house", "source": "ours", "begins_with": "PUBLICITÉ", "places": ["FR"]}
    house = json.dumps({"version": "marked", "about": "Says what it is", "rules": [rule]}).encode()
    marked = load("france-3", house)
    for text, by_law, by_house in (
        ("PUBLI -20 % samedi", "PUBLI", "PUBLI"),
        ("PUBLICITÉ -20 % samedi", "PUBLI", "PUBLICITÉ"),
        ("Samedi, PUBLI", None, None),
    ):
        assert mark_of(text, FRANCE) == mark_of(text, load("demonstration")) == by_law
        assert mark_of(text, marked) == mark_of(text, at_hand_off(marked)) == by_house


def test_the_gate_stops_ten_minutes_before_the_end() -> None:
    gate = at_hand_off(FRANCE)
    assert gate.version == "france-3"
    assert is_open(utc("2026-11-24T18:49:59"), "FR", gate)
    assert not is_open(utc("2026-11-24T18:50"), "FR", gate)
    assert is_open(utc("2026-11-24T18:50"), "FR", FRANCE)
    assert next_permitted(utc("2026-11-24T18:50"), "FR", gate) == utc("2026-11-25T07:00")


def test_courtesy_hours_are_a_policy_of_their_own() -> None:
    france = load("france-3")
    courtesy = at_hand_off(france).courtesy
    assert courtesy is not None
    sunday = utc("2026-11-29T20:15")  # 21:15 in Paris
    assert is_open(sunday, "FR", courtesy)
    assert not is_open(sunday, "FR", france)
    assert not is_open(utc("2026-11-29T20:20"), "FR", courtesy), "the margin of the hand-off counts"
    assert next_permitted(utc("2026-11-29T20:20"), "FR", courtesy) == utc("2026-11-30T07:00")
    assert load("demonstration").courtesy is None


def test_a_house_may_tighten_the_courtesy_hours() -> None:
    content = json.loads(house())
    content["courtesy"] = [{"id": "ours.late", "layer": "house", "source": "our shops", "opens": "09:00"}]
    ours = load("france-3", json.dumps(content).encode())
    assert ours.courtesy is not None
    assert next_permitted(utc("2026-11-30T07:00"), "FR", ours.courtesy) == utc("2026-11-30T08:00")
    content["courtesy"][0]["layer"] = "law"
    with pytest.raises(PolicyUnreadable):
        load("france-3", json.dumps(content).encode())


def test_a_demonstration_is_always_open_and_says_so() -> None:
    demonstration = load("demonstration")
    sunday_night = utc("2026-11-29T02:00")
    assert demonstration.version == "demonstration-3"
    assert is_open(sunday_night, "FR", demonstration)
    assert next_permitted(sunday_night, "XX", demonstration) == sunday_night
    assert covers("XX", demonstration)
    assert closed_by(sunday_night, "FR", demonstration) == ()
    assert is_open(sunday_night, "FR", at_hand_off(demonstration))


def test_a_naive_time_is_refused() -> None:
    naive = datetime(2026, 11, 24, 10)  # noqa: DTZ001
    for ask in (is_open, next_permitted, closed_by):
        with pytest.raises(ValueError, match="naive"):
            ask(naive, "FR", FRANCE)


def test_a_family_without_a_version_is_its_newest() -> None:
    assert load("france").version == "france-3"


@pytest.mark.parametrize("name", ["france-0", "atlantis", "FR"])
def test_an_unknown_policy_is_not_guessed(name: str) -> None:
    with pytest.raises(FileNotFoundError):
        load(name)


def test_a_territory_tells_its_zones() -> None:
    assert [zone.key for zone in zones("PF", FRANCE)] == ["Pacific/Tahiti", "Pacific/Marquesas", "Pacific/Gambier"]
    assert [zone.key for zone in zones("??", FRANCE)] == ["UTC"]


# --- the form of the files ------------------------------------------------------------------------------------------


def house(**changes: object) -> bytes:
    rule = {"id": "ours", "layer": "house", "source": "our operator", "opens": "08:30", **changes}
    return json.dumps({"version": "acme-1", "about": "Ours", "rules": [rule]}).encode()


def test_a_house_adds_rules_and_its_content_is_in_the_version() -> None:
    ours = load("france-3", house())
    assert ours.version.startswith("france-3+acme-1:")
    assert ours.version != load("france-3", house(opens="08:45")).version
    assert next_permitted(utc("2026-11-24T07:00"), "FR", ours) == utc("2026-11-24T07:30")
    assert next_permitted(utc("2026-11-24T12:00"), "MQ", load("france-3", house(places=["FR"]))) == utc(
        "2026-11-24T12:00"
    )


@pytest.mark.parametrize("region", [None, "FR-57", "FR-6AE"])
def test_what_a_house_says_of_a_place_holds_in_its_parts(region: str | None) -> None:
    """An address narrows: it opens nothing that is closed where it is unknown."""
    afternoon = utc("2026-11-24T14:00")
    assert is_open(afternoon, "FR", load("france-3"), region=region)
    assert not is_open(
        afternoon, "FR", load("france-3", house(opens=None, places=["FR"], closes="12:00")), region=region
    )
    ours = load("france-3", house(opens=None, places=["FR"], begins_with="PUB"))
    assert begins_with(afternoon, "FR", ours, region=region) == ("PUB",)
    of_a_part = load("france-3", house(opens=None, places=["FR-57"], begins_with="PUB"))
    assert begins_with(afternoon, "FR", of_a_part, region=region) == (("PUB",) if region == "FR-57" else ())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "the house rules: Input data was truncated"),
        (house(source=None), r"\$.rules\[0\].source"),
        (house(source=""), r"\$.rules\[0\].source"),
        (house(opens="8:30"), r"\$.rules\[0\].opens"),
        (house(opens="25:30"), r"\$.rules\[0\].opens"),
        (house(opens="03:30"), "opens before 04:00"),
        (house(opens=None, closes="00:05"), "closes before 04:00"),
        (house(closes="08:30"), "does not end after it begins"),
        (house(opens=None), "says nothing"),
        (house(weekdays=[0]), r"\$.rules\[0\].weekdays"),
        (house(weekdays=[]), r"\$.rules\[0\].weekdays"),
        (house(layer="law"), "only rules of the house"),
        (house(layer="whim"), r"\$.rules\[0\].layer"),
        (house(valid_from="2027-01-01", valid_to="2027-01-01"), "never in force"),
        (house(open_on_sundays=True), "unknown field `open_on_sundays`"),
        (house(places=["XX"]), "XX, which is no place"),
    ],
)
def test_rules_that_cannot_be_read_are_refused_whole(content: bytes, said: str) -> None:
    with pytest.raises(PolicyUnreadable, match=said):
        load("france-3", content)


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        ('"Europe/Paris"', '"Europe/Atlantis"', "no time zone"),
        ('"calendars": ["national", "martinique"]', '"calendars": ["lunar"]', "has the calendar lunar"),
        ('"within": "GP"', '"within": "XX"', "within XX"),
        ('"05-08"', '"02-30"', "has the day 02-30"),
        ('"country": "FR"', '"country": "DE"', "calls itself DE"),
        ('"97133"', '"97150"', "same postcodes"),
        ('"fr.af2m-2024"', '"fr.af2m-2026"', "same id"),
        ('"source": "AF2M charter 2024', '"Source": "AF2M charter 2024', "unknown field `Source`"),
        ('"places": ["FR"]', '"places": ["XX"]', "the means code is of XX"),
        ('"places": ["FR"]', '"places": ["MQ"]', "FR, FR-6AE, FR-57 has no means to stop, and `no_means` does not say"),
        ('"kind": "link"', '"kind": "link", "stated": true', "only a code can be stated"),
        ('"kind": "link"', '"kind": "button"', "means"),
        ('"means": [', '"no_means": "none", "means": [', "every place has a means to stop"),
        ('"fixed": {"04-27"', '"years": [2027, 2026], "fixed": {"04-27"', "ends before it begins"),
    ],
)
def test_a_country_that_contradicts_itself_is_refused(
    find: str, put: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (LAW / "countries" / "FR-2.json").read_text(encoding="utf-8")
    assert find in text
    (tmp_path / "countries").mkdir()
    (tmp_path / "countries" / "FR-2.json").write_text(text.replace(find, put, 1), encoding="utf-8")
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    files.country.cache_clear()
    with pytest.raises(PolicyUnreadable, match=said):
        files.country("FR-2")
