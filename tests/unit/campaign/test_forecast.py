"""Whom a campaign would reach, what it would cost, when it would be done."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace as replace_struct
from pydantic import ValidationError

from campaign.findings import load
from campaign.forecast import Forecast, Part, Plan, finish
from campaign.prices import Prices
from campaign.reach import Standing
from campaign.timing import Place, Timetable, Timing
from campaign.wording import wording
from common import law
from common.contracts.consent import Consent
from common.law import Policy

MONDAY = datetime(2026, 11, 23, 9, tzinfo=UTC)  # 10:00 in Paris
FRANCE = law.load("france")
PRICES = Prices.model_validate(
    {"version": "test", "per_part": {"FR": "0.05", "MQ": "0.07"}, "senders": {"other": {"FR": "1"}}}
)
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


def nothing(_: str) -> Sequence[str]:
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
    assert found.cost == Decimal("0.05") * 5 + Decimal("0.07") * 2
    assert [(p.territory, p.people, p.segments) for p in found.places] == [("FR", 4, 5), ("MQ", 1, 2)]
    of_the_text = Forecast(plan("Maison Lune, à l’hôtel, {name}. {stop}"))
    of_the_text.add({"name": "Loïc"}, "FR", YES)
    assert (of_the_text.outlook.encodings, of_the_text.outlook.costly_by_contact) == ({"UCS2": 1}, 0)


def test_what_has_no_price_is_counted_and_not_guessed() -> None:
    forecast = Forecast(plan())
    forecast.add({}, "GP", YES)
    assert forecast.outlook.cost == 0
    assert forecast.outlook.unpriced == 1
    assert PRICES.of("lune", "FR") == Decimal("0.05")
    assert PRICES.of("other", "FR") == 1
    for table in ({"FR": "-1"}, {"France": "1"}):
        with pytest.raises(ValidationError):
            Prices.model_validate({"per_part": table})


def test_what_speaks_against_it_is_found_in_what_contacts_hold_too() -> None:
    forecast = Forecast(plan("Maison Lune, {link|maison-lune.example/}{city|} {if vip}merci{end} {stop}"))
    forecast.add({"link": "https://bit.ly/1"}, "FR", YES)
    ids = [finding.id for finding in forecast.outlook.findings]
    assert ids == ["public_shortener:bit.ly", "field_nobody_has:city", "field_nobody_has:vip"]
    nobody = Forecast(plan())
    assert [finding.id for finding in nobody.outlook.findings] == ["nobody"]
    spanish = Forecast(replace(plan(), begins_with=lambda territory: ("PUBLI",) if territory == "ES" else ()))
    spanish.add({"name": "Zoé"}, "FR", YES)
    assert spanish.outlook.findings == ()
    always = table(MONDAY, MONDAY + timedelta(days=3), law.load("demonstration"))
    spanish = Forecast(replace(plan(), begins_with=lambda _: ("PUBLI",), timetable=always))
    spanish.add({"name": "Zoé"}, "ES", YES)
    assert [finding.id for finding in spanish.outlook.findings] == ["begins_with:PUBLI"]


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
    part = Part("FR", people, people, None, MONDAY, Place("FR"))
    assert finish((part,), replace(plan(), rate_per_s=rate)) == ends
    assert finish((), replace(plan(), rate_per_s=rate)) is None


def test_the_campaign_s_own_pace_counts_and_what_it_is_spread_over() -> None:
    part = Part("FR", 3600, 3600, None, MONDAY, Place("FR"))
    slow = replace(plan(), timetable=table(MONDAY, MONDAY + timedelta(days=3), per_hour=1800), rate_per_s=10.0)
    ends = finish((part,), slow)
    assert ends is not None
    assert timedelta(hours=2) <= ends - MONDAY < timedelta(hours=2, seconds=2)
    spread = replace(plan(), timetable=table(MONDAY, MONDAY + timedelta(days=3), spread_minutes=60), rate_per_s=None)
    assert finish((part,), spread) == MONDAY + timedelta(hours=1)


def test_what_would_end_before_it_is_done_is_told() -> None:
    of_two = replace(plan(), timetable=table(MONDAY, MONDAY + timedelta(minutes=30), per_hour=1))
    forecast = Forecast(of_two)
    forecast.add({"name": "Zoé"}, "FR", YES)
    assert [finding.id for finding in forecast.outlook.findings] == ["too_slow"]


def test_who_lives_in_alsace_has_the_holidays_of_alsace() -> None:
    christmas = datetime(2026, 12, 26, 9, tzinfo=UTC)  # a Saturday, and Saint Stephen's
    forecast = Forecast(replace(plan(), timetable=table(christmas, christmas + timedelta(hours=8))))
    far = Standing(consents=(replace_struct(YES.consents[0], expires_at=christmas + timedelta(days=99)),))
    forecast.add({"postcode": "75011"}, "FR", far)
    forecast.add({"postcode": "67000"}, "FR", far)
    assert forecast.outlook.reasons == {"send_before_passed": 1}
