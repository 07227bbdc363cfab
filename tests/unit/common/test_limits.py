"""The limits are data, a claim only narrows, and days are those of Paris."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.limits import Limits, LimitsUnreadable, day_of, month_of, read, shipped
from common.web.auth import Authenticator
from common.web.problems import Unauthorised
from tests.support.running import AUTH_KEY
from tests.unit.common.test_auth import settings, token

OFFERED = {"messages_per_day": 1000, "per_number_hour": 5, "spend_per_month": "150.5", "places": ["BE", "ES"]}


def limits(**organisations: Any) -> bytes:
    return json.dumps({"version": "t-1", "default": OFFERED, "organisations": organisations}).encode()


def test_an_organisation_states_the_fields_that_differ() -> None:
    found = read(limits(lune={"messages_per_day": 9, "spend_per_month": None}))
    assert found.of("lune") == Limits(messages_per_day=9, per_number_hour=5, places=("BE", "ES"))
    assert (found.of("soleil").messages_per_day, found.of("soleil").spend) == (1000, 1_505_000)


@pytest.mark.parametrize(
    "organisation",
    [{"messages_a_day": 1}, {"messages_per_day": 0}, {"messages_per_day": "9"}, {"places": ["BEL"]}, {"places": None}],
)
def test_a_malformed_file_is_refused_as_a_whole_and_names_the_place(organisation: dict[str, Any]) -> None:
    with pytest.raises(LimitsUnreadable, match="lune"):
        read(limits(lune=organisation))


def test_a_claim_narrows_and_never_widens() -> None:
    every = read(limits())
    wide = every.granted("lune", {"per_number_hour": 99, "places": ["*"], "messages_per_day": 10**6})
    assert (wide.organisation.per_number_hour, wide.organisation.places) == (5, ("BE", "ES"))
    assert wide.organisation.messages_per_day == 1000, "a token counts beside its organisation"
    narrow = every.granted("lune", {"per_number_hour": 1, "places": ["ES", "DE"], "messages_per_day": 10})
    assert (narrow.organisation.per_number_hour, narrow.organisation.places) == (1, ("ES",))
    assert narrow.own.messages_per_day == 10
    assert every.granted("lune").own.messages_per_day is None


async def test_a_token_whose_limits_cannot_be_read_is_refused() -> None:
    authenticator = Authenticator(settings(auth_key=AUTH_KEY))
    for claim in ({"messages_per_day": -1}, {"messages_a_day": 1}, 7):
        with pytest.raises(Unauthorised, match="limits"):
            await authenticator.caller(f"Bearer {token(limits=claim)}")
    caller = await authenticator.caller(f"Bearer {token(limits={'messages_per_day': 3})}")
    assert caller.granted.own.messages_per_day == 3


def test_what_ships_closes_foreign_places_and_limits_every_count_but_money() -> None:
    default = shipped().default
    assert [place for place in ("FR", "MQ", "NC", "BE", "??") if default.allow(place)] == ["FR", "MQ", "NC"]
    stated = {name: getattr(default, name) for name in Limits.__struct_fields__ if name not in ("places",)}
    assert [name for name, limit in stated.items() if limit is None] == ["spend_per_month"]


def test_a_day_is_one_of_paris_also_when_the_clocks_change() -> None:
    spring, autumn = (datetime(2026, 3, 29, 12, tzinfo=UTC), datetime(2026, 10, 25, 12, tzinfo=UTC))
    assert [end - begin for begin, end in map(day_of, (spring, autumn))] == [timedelta(hours=23), timedelta(hours=25)]
    assert day_of(datetime(2026, 7, 1, 22, 30, tzinfo=UTC))[0] == datetime(2026, 7, 1, 22, tzinfo=UTC)
    assert month_of(datetime(2026, 12, 31, 23, 30, tzinfo=UTC)) == (
        datetime(2026, 12, 31, 23, tzinfo=UTC),
        datetime(2027, 1, 31, 23, tzinfo=UTC),
    )
