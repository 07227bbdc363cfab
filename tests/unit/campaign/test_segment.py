"""What may be said of whom to write to, and where it is said that something may not."""

import random
from datetime import UTC, date, datetime
from typing import Any

import pytest

from campaign.audience import segments
from campaign.audience.attribute import Kind
from campaign.audience.segment_language import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_VALUES,
    AllOf,
    Attribute,
    SegmentRefused,
    anniversaries,
    compiled,
    parse,
)
from campaign.senders.store import Sender
from common.law import load

KINDS = {"city": Kind.TEXT, "points": Kind.NUMBER, "born": Kind.DATE, "vip": Kind.BOOLEAN}
NOW = datetime(2026, 11, 26, 9, tzinfo=UTC)


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth - 1):
        inner = {"not": inner}
    return inner


VIP = {"attribute": "vip", "is": True}


@pytest.mark.parametrize(
    ("source", "pointer", "reason"),
    [
        (None, "", "not_a_condition"),
        ([], "", "not_a_condition"),
        ({}, "", "not_a_condition"),
        ({"points": 3}, "/points", "unknown_word"),
        ({"a/b~c": 3}, "/a~1b~0c", "unknown_word"),
        ({"all": []}, "/all", "not_a_list"),
        ({"all": VIP}, "/all", "not_a_list"),
        ({"all": [VIP], "any": [VIP]}, "/any", "unknown_word"),
        ({"all": [VIP, {"any": [{"not": 3}]}]}, "/all/1/any/0/not", "not_a_condition"),
        ({"attribute": "size", "is": "M"}, "/attribute", "unknown_attribute"),
        ({"attribute": ["vip"], "is": "M"}, "/attribute", "unknown_attribute"),
        ({"attribute": "vip"}, "", "nothing_compared"),
        ({"attribute": "vip", "gt": True}, "/gt", "unknown_word"),
        ({"attribute": "vip", "is": 1}, "/is", "not_a_boolean"),
        ({"attribute": "vip", "exists": "yes"}, "/exists", "not_a_boolean"),
        ({"attribute": "city", "lt": "M"}, "/lt", "unknown_word"),
        ({"attribute": "city", "is": None}, "/is", "not_a_text"),
        ({"attribute": "city", "is": "a\0"}, "/is", "not_a_text"),
        ({"attribute": "city", "in": ["a", ""]}, "/in/1", "empty"),
        ({"attribute": "city", "starts_with": ""}, "/starts_with", "empty"),
        ({"attribute": "city", "is": "x" * 201}, "/is", "not_a_text"),
        ({"attribute": "city", "is": "\ud800"}, "/is", "not_a_text"),
        ({"\ud800": 1}, "/?", "unknown_word"),
        ({"attribute": "city", "in": []}, "/in", "not_a_list"),
        ({"attribute": "city", "in": ["x"] * (MAX_VALUES + 1)}, "/in", "not_a_list"),
        ({"attribute": "city", "in": ["x", 3]}, "/in/1", "not_a_text"),
        ({"attribute": "points", "is": "12"}, "/is", "not_a_number"),
        ({"attribute": "points", "is": True}, "/is", "not_a_number"),
        ({"attribute": "points", "gt": float("nan")}, "/gt", "not_a_number"),
        ({"attribute": "points", "gt": float("inf")}, "/gt", "not_a_number"),
        ({"attribute": "points", "gt": 10**400}, "/gt", "not_a_number"),
        ({"attribute": "born", "is": "2026-02-30"}, "/is", "not_a_date"),
        ({"attribute": "born", "is": {"days": 1, "hours": 1}}, "/is", "not_a_date"),
        ({"attribute": "born", "gt": {"days": "1"}}, "/gt/days", "not_days"),
        ({"attribute": "born", "gt": {"days": -40_000}}, "/gt/days", "not_days"),
        ({"attribute": "born", "anniversary_in": -1}, "/anniversary_in", "not_days"),
        ({"territory": []}, "/territory", "not_a_text"),
        ({"territory": ["GP", 1]}, "/territory/1", "not_a_text"),
        ({"consent": "surveys", "is": "opted_in"}, "/consent", "unknown_purpose"),
        ({"consent": "promotions"}, "/is", "not_a_text"),
        ({"consent": "promotions", "is": "yes"}, "/is", "unknown_state"),
        ({"consent": "promotions", "is": ["opted_in", "yes"]}, "/is/1", "unknown_state"),
        ({"received": "cmp-1"}, "/received", "not_a_past_message"),
        ({"received": {}}, "/received", "not_a_past_message"),
        ({"received": {"campaign": 1}}, "/received", "not_a_past_message"),
        ({"received": {"days": 0}}, "/received/days", "not_days"),
        ({"received": {"days": True}}, "/received/days", "not_days"),
        ({"clicked": {"days": 0}}, "/clicked/days", "not_days"),
        (nested(MAX_DEPTH + 1, VIP), "/not" * MAX_DEPTH, "too_deep"),
        ({"all": [VIP] * MAX_CONDITIONS}, f"/all/{MAX_CONDITIONS - 1}", "too_long"),
    ],
)
def test_what_is_no_condition_is_told_where_and_why(source: Any, pointer: str, reason: str) -> None:
    with pytest.raises(SegmentRefused) as refused:
        parse(source, KINDS, {"promotions"})
    assert (refused.value.pointer, refused.value.reason) == (pointer, reason)


def test_an_expression_that_holds_itself_is_too_deep() -> None:
    circular: dict[str, Any] = {"any": [VIP]}
    circular["any"].append(circular)
    with pytest.raises(SegmentRefused) as refused:
        parse(circular, KINDS)
    assert refused.value.reason == "too_deep"


def test_as_deep_and_as_long_as_is_allowed_is_read() -> None:
    parse(nested(MAX_DEPTH, VIP), KINDS)
    parse({"all": [VIP] * (MAX_CONDITIONS - 1)}, KINDS)


def test_several_comparisons_of_an_attribute_all_hold() -> None:
    found = parse({"attribute": "points", "gte": 10, "lt": 20.5}, KINDS)
    assert isinstance(found, AllOf)
    assert [each.operator for each in found.of if isinstance(each, Attribute)] == ["lt", "gte"]


@pytest.mark.parametrize(
    "hostile", ["'; DROP TABLE contact; --", ":segment_0", "\\", "%s", "$1", "{0}", "')) OR true--"]
)
def test_nothing_an_author_types_is_in_the_statement(hostile: str) -> None:
    def said(text: str) -> dict[str, Any]:
        return {
            "any": [
                {"attribute": text, "is": text},
                {"attribute": text, "in": [text, text]},
                {"attribute": text, "starts_with": text},
                {"territory": text},
                {"consent": text, "is": "opted_in"},
                {"received": {"campaign": text}},
            ]
        }

    statements = {
        compiled(parse(said(text), {text: Kind.TEXT}), "lune", NOW, NOW.date()).sql for text in ("plain", hostile)
    }
    assert len(statements) == 1
    assert hostile in compiled(parse(said(hostile), {hostile: Kind.TEXT}), "lune", NOW, NOW.date()).values.values()


@pytest.mark.parametrize(
    ("day", "celebrated"),
    [
        (date(2026, 11, 26), ["11-26"]),
        (date(2028, 2, 28), ["02-28"]),  # 2028 has a 29th
        (date(2028, 2, 29), ["02-29"]),
        (date(2026, 2, 28), ["02-28", "02-29"]),
    ],
)
def test_who_was_born_on_a_29_february_celebrates_every_year(day: date, celebrated: list[str]) -> None:
    assert list(anniversaries(day)) == celebrated


def test_today_is_the_day_where_the_sender_is() -> None:
    sender = Sender("Maison Lune", "LUNE", "FR", "36111", frozenset())
    asked = parse({"attribute": "born", "is": {"days": 0}}, KINDS)
    for at, today in (
        (datetime(2026, 11, 26, 22, 59, tzinfo=UTC), "2026-11-26"),
        (datetime(2026, 11, 26, 23, tzinfo=UTC), "2026-11-27"),  # midnight in Paris
    ):
        assert today in segments.compiled(asked, "lune", sender, at, load("france")).values.values()


@pytest.mark.parametrize("slices", [8, 128])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_an_estimate_is_within_its_margin_nineteen_times_in_twenty_and_no_more_often(slices: int, share: float) -> None:
    """Of 10,000 contacts, each in one slice by chance, some selected."""
    dice, contacts, tries = random.Random(7), 10_000, 300
    selected, sampled = round(contacts * share), contacts * slices // segments.SLICES
    told = (
        segments.estimated(sum(n < selected for n in dice.sample(range(contacts), sampled)), sampled, slices)
        for _ in range(tries)
    )
    within = sum(abs(each.selected - selected) <= each.margin for each in told)
    assert 0.92 <= within / tries <= 0.98


def test_where_nobody_was_found_there_may_be_some_all_the_same() -> None:
    told = segments.estimated(0, 1000, 16)
    assert (told.selected, told.contacts, told.exact) == (0, 16_000, False)
    assert told.margin > 0
    assert segments.estimated(0, 0, 16) == segments.Count(0, 0, False, 0)
