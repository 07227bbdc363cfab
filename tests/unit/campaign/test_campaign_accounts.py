"""Where a recipient stands, and what moves when that changes."""

from dataclasses import asdict
from typing import get_args

import pytest

from campaign.accounts import COUNTS, OUTCOMES, STANDINGS, Standing, Tallies, moved
from common.contracts.dispatch import Status
from common.contracts.inbound import ReceiptState


@pytest.mark.parametrize("status", get_args(Status))
def test_whatever_its_status_a_recipient_is_in_one_standing_and_only_one(status: Status) -> None:
    counts = Standing(status).counts
    assert sum(counts[name] for name in STANDINGS) == 1
    assert set(counts) <= set(COUNTS)


def test_a_message_on_its_way_to_the_gateway_is_still_pending() -> None:
    assert Standing("sending").counts == {"pending": 1}
    assert moved(Standing("pending").counts, Standing("sending").counts) == {}


@pytest.mark.parametrize(
    ("receipt", "counted"),
    [
        (None, None),
        ("queued", None),
        ("sent", None),
        ("unknown", None),
        ("delivered", "delivered"),
        ("failed", "undelivered"),
        ("expired", "undelivered"),
        ("opted_out", "undelivered"),
    ],
)
def test_a_receipt_counts_once_it_is_final(receipt: ReceiptState | None, counted: str | None) -> None:
    counts = Standing("accepted", receipt=receipt).counts
    assert counts == {"accepted": 1} | ({counted: 1} if counted else {})


def test_a_change_takes_from_where_it_was_and_adds_where_it_is() -> None:
    before, after = Standing("deferred", ("quiet_hours",)), Standing("denied", ("opted_out", "suppressed"))
    assert moved(before.counts, after.counts) == {"deferred": -1, "denied": 1}
    assert moved(before.denials, after.denials) == {"opted_out": 1, "suppressed": 1}
    assert moved(after.denials, Standing("denied", ("opted_out",)).denials) == {"suppressed": -1}
    assert moved(after.counts, after.counts) == {}


def test_the_tallies_of_a_campaign_are_the_counters_and_their_sums() -> None:
    places = {name: 2**place for place, name in enumerate(COUNTS)}
    tallies = Tallies(audience=sum(places[name] for name in STANDINGS), **places)
    assert asdict(tallies) == {"audience": tallies.audience, **places}
    assert tallies.handed_off == sum(places[name] for name in OUTCOMES)
    assert tallies.undecided == places["pending"] + places["deferred"]
