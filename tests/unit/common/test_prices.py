"""Price tables: what a file says, and that a place without a price is unknown and never free."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.campaign import Category
from common.sms.msisdn import TERRITORIES
from common.sms.prices import NO_PRICES, PricesUnreadable, read
from tests.support.prices import EXAMPLE, edition, line, table

DAY = "2026-01-01"
JUNE, JULY = datetime(2026, 6, 30, 23, 59, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
PRICES = read(
    table(
        edition("2026-07-01", line(price="0.05"), line("RE", "0.01", sender="lune"), line("BE", "0.2")),
        edition(DAY, line(), line("GP", "0.0001"), line("RE", "9999.9999", categories=["marketing"])),
    )
)
KNOWN: dict[str, Callable[[datetime, Category], bool]] = {  # since which instant, of the sender `lune`
    "FR": lambda at, _: at >= datetime(2026, 1, 1, tzinfo=UTC),
    "GP": lambda at, _: datetime(2026, 1, 1, tzinfo=UTC) <= at < JULY,
    "RE": lambda at, category: at >= JULY or (at >= datetime(2026, 1, 1, tzinfo=UTC) and category == "marketing"),
    "BE": lambda at, _: at >= JULY,
    "US": lambda _at, _category: False,
}

places = st.sampled_from(sorted(KNOWN))
categories: st.SearchStrategy[Category] = st.sampled_from(("marketing", "transactional", "service"))
instants = st.sampled_from([datetime(2025, 12, 31, 23, 59, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), JUNE, JULY])


def test_the_price_in_force_is_that_of_the_newest_edition_begun_in_utc() -> None:
    prices = read(EXAMPLE.read_bytes())
    assert prices.version == "example-1"
    assert [prices.cost("GP", 2, at=at) for at in (JUNE, JULY)] == [1240, 1260]
    paris = JULY.astimezone(timezone(timedelta(hours=2)))
    assert prices.cost("GP", 2, at=paris) == 1260
    assert prices.cost("GP", 2, at=paris - timedelta(seconds=1)) == 1240
    assert prices.cost("FR", 1, at=datetime(2025, 12, 31, 23, tzinfo=UTC)) is None, "no edition had begun"


def test_a_price_may_be_of_a_category_and_of_a_sender() -> None:
    cost = read(EXAMPLE.read_bytes()).cost
    assert (cost("FR", 1, at=JULY), cost("FR", 1, at=JULY, category="service")) == (460, 440)
    assert cost("FR", 3, at=JULY, category="service", sender_id="maison-lune") == 1230
    assert cost("FR", 3, at=JULY, sender_id="another") == 1380
    assert cost("GP", 1, at=JULY, sender_id="maison-lune") == 630, "the sender has no price of its own there"


def test_the_example_prices_every_territory_of_france_but_one_and_names_itself_an_example() -> None:
    territories = {territory for each in TERRITORIES.values() for territory in each}
    unpriced = {each for each in territories if read(EXAMPLE.read_bytes()).cost(each, 1, at=JULY) is None}
    assert unpriced == {"WF"}
    sources = {line["source"] for edition in json.loads(EXAMPLE.read_text())["editions"] for line in edition["prices"]}
    assert all(source.startswith("example") for source in sources)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "truncated"),
        (b'{"version": "\xff"}', "UTF-8"),
        (table(edition(DAY, line(), line(categories=["service"]))), "FR has two prices for service"),
        (table(edition(DAY, line(price="0"))), "FR costs nothing"),
        (table(edition(DAY, line(price="0.0000"))), "FR costs nothing"),
        (table(edition(DAY, line(price="-0.04"))), "editions"),
        (table(edition(DAY, line(price="0.04567"))), "editions"),
        (table(edition(DAY, line(price="1e3"))), "editions"),
        (table(edition(DAY, line(price="0.045\n"))), "editions"),
        (table(edition(DAY, line("fr"))), "editions"),
        (table(edition(DAY, {"place": "FR", "price": "0.045"})), "source"),
        (table(edition(DAY, line(categories=["adverts"]))), "adverts"),
        (table(edition(DAY, line()), currency="USD"), "currency"),
        (table(), "editions"),
        (table(edition(DAY), edition(DAY, line())), "the same `valid_from`"),
    ],
)
def test_a_table_that_is_wrong_anywhere_is_refused_whole(content: bytes, says: str) -> None:
    with pytest.raises(PricesUnreadable, match=says):
        read(content)


@given(places, st.lists(st.integers(1, 10), min_size=1, max_size=8), categories, instants)
def test_the_cost_of_a_sum_is_the_sum_of_the_costs(
    place: str, many: list[int], category: Category, at: datetime
) -> None:
    costs = [PRICES.cost(place, each, at=at, category=category) for each in many]
    whole = PRICES.cost(place, sum(many), at=at, category=category)
    assert costs == [None] * len(many) if whole is None else sum(each or 0 for each in costs) == whole


@given(places, st.integers(1, 10), categories, instants)
def test_a_message_has_a_cost_exactly_where_the_table_has_a_price_and_none_is_free(
    place: str, segments: int, category: Category, at: datetime
) -> None:
    cost = PRICES.cost(place, segments, at=at, category=category, sender_id="lune")
    assert (cost is not None) == KNOWN[place](at, category)
    assert cost is None or cost >= segments
    assert NO_PRICES.cost(place, segments, at=at, category=category) is None


@given(places, st.integers(1, 10), categories, st.lists(instants, min_size=1, max_size=4))
def test_the_most_that_a_message_may_cost_is_the_highest_cost_of_the_span_or_unknown(
    place: str, segments: int, category: Category, span: list[datetime]
) -> None:
    most = PRICES.most(place, segments, since=min(span), until=max(span), category=category, sender_id="lune")
    costs = [PRICES.cost(place, segments, at=at, category=category, sender_id="lune") for at in span]
    assert most == (None if None in costs else max(each or 0 for each in costs))


def test_no_message_has_no_sms() -> None:
    with pytest.raises(ValueError, match="at least one"):
        PRICES.cost("FR", 0, at=JULY)
