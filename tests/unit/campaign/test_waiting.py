"""What a campaign waits for, by how far it is: the first thing first, and nothing once it is over."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from campaign.planning.waiting import Stage, Waiting, waits
from campaign.schedule.lifecycle import Status

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
SOON, AGO = NOW + timedelta(hours=1), NOW - timedelta(hours=1)
STAGE = Stage(Status.RUNNING, begun=True, expanded=False, undecided=2, starts_at=AGO, ends_at=SOON, opens_at=AGO)
UNBEGUN = replace(STAGE, begun=False, undecided=0)


def told(found: list[Waiting]) -> list[tuple[Any, ...]]:
    return [(each.reason, each.until) for each in found]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (replace(UNBEGUN, status=Status.DRAFT), [("scheduling", None)]),
        (replace(UNBEGUN, status=Status.DRAFT, approval_missing=True), [("approval", None), ("scheduling", None)]),
        (replace(UNBEGUN, status=Status.SCHEDULED, starts_at=SOON), [("start", SOON)]),
        (replace(UNBEGUN, status=Status.SCHEDULED, settles_first="cmp-1"), [("other_campaign", None)]),
        (replace(UNBEGUN, status=Status.SCHEDULED), [("audience", None)]),
        (replace(UNBEGUN, status=Status.SCHEDULED, retry_at=SOON), [("retry", SOON), ("audience", None)]),
        (replace(UNBEGUN, status=Status.PAUSED), [("resumption", None)]),
        (replace(UNBEGUN, status=Status.PAUSED, with_series=True), [("series", None)]),
        (replace(UNBEGUN, status=Status.PAUSED, ends_at=AGO), [("resumption", None)]),
        (STAGE, [("requests", None)]),
        (replace(STAGE, retry_at=AGO), [("requests", None)]),
        (
            replace(STAGE, marketing_held=True, opens_at=SOON),
            [("consents", None), ("window", SOON), ("requests", None)],
        ),
        (replace(STAGE, next_hour=SOON, next_slot=AGO), [("hour", SOON)]),
        (replace(STAGE, next_slot=SOON, chosen_at=SOON), [("pace", SOON), ("winner", SOON)]),
        (replace(STAGE, expanded=True, next_slot=SOON), [("outcomes", None)]),
        (replace(STAGE, expanded=True, repeat_at=SOON), [("outcomes", None), ("reports", SOON)]),
        (replace(STAGE, expanded=True, undecided=0), [("end", None)]),
        (replace(STAGE, status=Status.PAUSED), [("resumption", None)]),
        (replace(STAGE, status=Status.PAUSED, expanded=True), [("resumption", None)]),
        (replace(STAGE, status=Status.PAUSED, expanded=True, undecided=0), [("end", None)]),
        (replace(STAGE, status=Status.PAUSED, ends_at=AGO), [("denials", None)]),
        (replace(STAGE, status=Status.PAUSED, ends_at=AGO, expanded=True), [("outcomes", None)]),
        (replace(STAGE, status=Status.CANCELLED), [("denials", None)]),
        (replace(STAGE, status=Status.CANCELLED, expanded=True), [("outcomes", None)]),
        (
            replace(STAGE, status=Status.CANCELLED, expanded=True, repeat_at=SOON),
            [("outcomes", None), ("reports", SOON)],
        ),
        (replace(STAGE, status=Status.CANCELLED, expanded=True, undecided=0), []),
        (replace(STAGE, status=Status.FINISHED, expanded=True, undecided=0), []),
    ],
)
def test_a_campaign_says_what_it_waits_for_and_until_when(stage: Stage, expected: list[tuple[Any, ...]]) -> None:
    assert told(waits(stage, NOW)) == expected


def test_a_campaign_names_the_one_that_is_settled_first() -> None:
    [waiting] = waits(replace(UNBEGUN, status=Status.SCHEDULED, settles_first="cmp-1"), NOW)
    assert waiting.campaign_id == "cmp-1"
