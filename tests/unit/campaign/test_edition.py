"""What an editor has read: the same until something of it changes, and then it is told what."""

from typing import Any

import pytest

from campaign.schedule.revision import changed, etag, tag

READ: dict[str, Any] = {"name": "Samedi", "text": "Bonjour {stop}", "timing": {"per_second": 5, "local_time": True}}


def test_a_tag_is_of_what_is_said_and_not_of_how() -> None:
    assert tag(READ) == tag({**dict(reversed(READ.items())), "timing": {"local_time": True, "per_second": 5}})
    assert tag(READ) != tag(READ | {"name": "Dimanche"})
    assert changed(etag(tag(READ)), READ) is None


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"text": "Bonsoir {stop}"}, ["text"]),
        ({"name": "Dimanche", "timing": {}}, ["name", "timing"]),
        ({"name": None, "text": None, "timing": None}, ["name", "text", "timing"]),
    ],
)
def test_which_parts_have_changed_is_told(now: dict[str, Any], told: list[str]) -> None:
    assert changed(etag(tag(READ)), READ | now) == told


def test_a_header_is_met_by_any_of_its_tags_and_by_one_that_a_proxy_made_weak() -> None:
    own = etag(tag(READ))
    for met in ("*", own, f'"abc", {own}', f"W/{own}", f" {own} "):
        assert changed(met, READ) is None


@pytest.mark.parametrize("header", ["", '"', '""', '"abc"', tag(READ), etag(tag({"name": "Samedi"}))])
def test_what_is_no_tag_of_ours_is_stale_and_tells_nothing(header: str) -> None:
    assert changed(header, READ) == []
