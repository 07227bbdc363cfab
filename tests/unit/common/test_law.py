"""The golden hours (DOMAIN 7.2), the calendars against the `holidays` library, and the rules of the data files."""

import json
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from importlib import resources

import holidays
import pytest

from common.law import EARLIEST_OPENING, at_hand_off, easter, is_open, load, next_permitted, zones
from common.msisdn import territory_of

FRANCE = load("france-1")


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
        ("+491713920012", "2026-11-24T06:00", "2026-11-24T07:00"),  # elsewhere: as Paris
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
        days = frozenset[date]().union(*(c.days(year) for c in FRANCE.territory(territory).calendars))
        theirs = {day for s in subdivisions for day in holidays.country_holidays("FR", subdiv=s, years=year)}
        assert {d for d in days if (d.month, d.day) not in ours_alone} == theirs


def test_every_territory_a_french_number_can_have_is_in_the_data() -> None:
    assert {"FR", "GP", "GF", "MQ", "RE", "YT", "PM", "NC", "PF", "WF"} <= set(FRANCE.territories)


def test_every_territory_opens_at_least_every_five_days() -> None:
    for territory in FRANCE.territories:
        at = utc("2026-01-01T00:00")
        while at < utc("2028-01-01T00:00"):
            opening = next_permitted(at, territory, FRANCE)
            assert opening - at <= timedelta(5), (territory, at)
            at = opening + timedelta(days=1)


def test_easter_is_where_the_almanac_has_it() -> None:
    assert [easter(year) for year in (2024, 2026, 2027, 2038)] == [
        date(2024, 3, 31),
        date(2026, 4, 5),
        date(2027, 3, 28),
        date(2038, 4, 25),
    ]


def test_the_gate_stops_ten_minutes_before_the_end() -> None:
    gate = at_hand_off(FRANCE)
    assert gate.version == "france-1"
    assert is_open(utc("2026-11-24T18:49:59"), "FR", gate)
    assert not is_open(utc("2026-11-24T18:50"), "FR", gate)
    assert is_open(utc("2026-11-24T18:50"), "FR", FRANCE)
    assert next_permitted(utc("2026-11-24T18:50"), "FR", gate) == utc("2026-11-25T07:00")


def test_the_window_is_within_the_operators_hard_limit() -> None:
    assert (FRANCE.opens, FRANCE.closes, FRANCE.hard_limit) == (time(8), time(20), time(21, 30))
    with pytest.raises(ValueError, match="france-1"):
        replace(FRANCE, closes=time(22))
    with pytest.raises(ValueError, match=str(EARLIEST_OPENING)):
        replace(FRANCE, opens=time(3))
    with pytest.raises(ValueError, match="weekdays"):
        replace(FRANCE, weekdays=frozenset({0}))


def test_a_demonstration_is_always_open_and_says_so() -> None:
    demonstration = load("demonstration-1")
    sunday_night = utc("2026-11-29T02:00")
    assert demonstration.version == "demonstration-1"
    assert is_open(sunday_night, "FR", demonstration)
    assert next_permitted(sunday_night, "XX", demonstration) == sunday_night
    assert is_open(sunday_night, "FR", at_hand_off(demonstration))


def test_a_naive_time_is_refused() -> None:
    naive = datetime(2026, 11, 24, 10)  # noqa: DTZ001
    for ask in (is_open, next_permitted):
        with pytest.raises(ValueError, match="naive"):
            ask(naive, "FR", FRANCE)


def test_a_family_without_a_version_is_its_newest() -> None:
    assert load("france").version == "france-1"


@pytest.mark.parametrize("name", ["france-0", "atlantis"])
def test_an_unknown_policy_is_not_guessed(name: str) -> None:
    with pytest.raises(FileNotFoundError):
        load(name)


def test_a_territory_tells_its_zones() -> None:
    assert [zone.key for zone in zones("PF", FRANCE)] == ["Pacific/Tahiti", "Pacific/Marquesas", "Pacific/Gambier"]
    assert [zone.key for zone in zones("??", FRANCE)] == ["Europe/Paris"]


@pytest.mark.parametrize("name", ["france-1", "demonstration-1"])
def test_every_rule_of_the_data_names_its_source(name: str) -> None:
    data = json.loads((resources.files("common.law") / f"{name}.json").read_text(encoding="utf-8"))
    assert data["about"]
    assert data["elsewhere"]["why"]
    assert all(calendar["source"] for calendar in data["calendars"].values())
    rules = {"always_open"} if data["always_open"] else set(data["window"]) - {"sources"}
    assert set(data["window"]["sources"]) == rules
    assert all(t.get("why") for t in data["territories"].values() if len(t["zones"]) > 1)
