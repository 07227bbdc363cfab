"""What `make chaos` calls a violation, and what it does not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chaos import checks
from chaos.checks import Account, AtRest, Loss, Standings, Violation

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SOMEBODY, CODE = "+33639980001", "36111"


def at(seconds: float) -> str:
    return (NOON + timedelta(seconds=seconds)).isoformat()


def submit(reference: str, seconds: float, **other: Any) -> dict[str, Any]:
    return {
        "kind": "submit",
        "at": at(seconds),
        "reference": reference,
        "to": SOMEBODY,
        "short_code": CODE,
        "category": "marketing",
        "status": "accepted",
        "replay": False,
        **other,
    }


def stop(seconds: float, acknowledged: float) -> list[dict[str, Any]]:
    return [
        {"kind": "reply", "id": "mo-1", "from": SOMEBODY, "to": CODE, "text": "STOP", "sent_at": at(seconds)},
        {"kind": "reply_acknowledged", "id": "mo-1", "at": at(acknowledged), "attempts": 1},
    ]


def names(found: list[Violation]) -> list[tuple[int, str]]:
    return [(each.promise, each.check) for each in found]


def test_a_message_before_the_stop_is_enforced_is_fine() -> None:
    account = Account()
    assert account.take([*stop(0, 0.1), submit("m1", 0.4)]) == []
    assert account.take_enforced("mo-1", NOON + timedelta(seconds=0.5)) == []


def test_how_long_a_stop_took_is_counted_from_its_being_sent_by_the_operators_clock() -> None:
    account = Account()
    account.take(stop(0, 0.1))
    assert account.stopped_within_s == []
    account.take_enforced("mo-1", NOON + timedelta(seconds=0.5))
    assert account.stopped_within_s == [0.5]


@pytest.mark.parametrize("known_first", [True, False])
def test_a_message_after_the_stop_is_enforced_breaks_promise_1(known_first: bool) -> None:
    account, enforced = Account(), NOON + timedelta(seconds=0.5)
    account.take(stop(0, 0.1))
    found = account.take_enforced("mo-1", enforced) if known_first else []
    found += account.take([submit("m1", 0.6)])
    found += [] if known_first else account.take_enforced("mo-1", enforced)
    assert names(found) == [(1, "after enforcement")]


def test_a_stop_to_another_sender_forbids_nothing() -> None:
    account = Account()
    account.take(stop(0, 0.1))
    account.take_enforced("mo-1", NOON)
    assert account.take([submit("m1", 9, short_code="36112")]) == []


@pytest.mark.parametrize(("seconds", "broken"), [(4.0, []), (4.3, [(1, "after acknowledgement")])])
def test_a_message_long_after_an_acknowledged_stop_breaks_promise_1(
    seconds: float, broken: list[tuple[int, str]]
) -> None:
    account = Account()
    assert names(account.take([*stop(0, 0.2), submit("m1", seconds)])) == broken
    other_way_round = Account()
    assert names(other_way_round.take([submit("m1", seconds), *stop(0, 0.2)])) == broken


def test_one_message_twice_and_two_messages_of_one_campaign_break_promise_4() -> None:
    account = Account()
    assert account.take([submit("m1", 0), submit("m2", 0, status="rejected"), submit("m3", 0, replay=True)]) == []
    assert names(account.take([submit("m1", 1), submit("m4", 1)])) == [(4, "sent twice")] * 2


@pytest.mark.parametrize(
    ("status", "broken"),
    [("sending", 0), ("accepted", 0), ("unknown", 0), ("rejected", 1), ("deferred", 1), ("denied", 1), (None, 1)],
)
def test_what_the_operator_has_is_accounted_for_as_sent(status: str | None, broken: int) -> None:
    account = Account()
    account.take([submit("m1", 0)])
    assert names(checks.contradicted({"m1": status}, account.taken)) == [(4, "contradicted")] * broken


def test_what_is_accounted_for_as_accepted_the_operator_has() -> None:
    assert names(checks.never_taken({"m1": "accepted", "m2": "unknown", "m3": "denied"}, {})) == [(4, "contradicted")]


COUNTS = {
    "audience": 6,
    "pending": 2,
    "denied": 1,
    "deferred": 0,
    "expired": 0,
    "accepted": 2,
    "rejected": 0,
    "unknown": 1,
}


def test_counters_are_what_the_recipients_are() -> None:
    statuses = {"pending": 1, "sending": 1, "denied": 1, "accepted": 2, "unknown": 1}
    assert checks.adds_up("c", COUNTS, statuses) == []
    assert names(checks.adds_up("c", COUNTS, statuses | {"accepted": 1})) == [(4, "does not add up")]
    assert names(checks.adds_up("c", COUNTS | {"audience": 7}, statuses)) == [(4, "does not add up")]


def test_at_the_end_nobody_is_missing_and_nobody_waits() -> None:
    assert checks.lost("c", 6, COUNTS, {"accepted": 5, "denied": 1}) == []
    assert names(checks.lost("c", 7, COUNTS, {"accepted": 5, "deferred": 1})) == [(4, "lost")] * 2


def test_a_stop_that_is_not_acknowledged_or_not_enforced_breaks_promise_1() -> None:
    account = Account()
    account.take(stop(0, 0.1)[:1])
    assert names(checks.never_enforced(account)) == [(1, "not acknowledged")]
    account.take(stop(0, 0.1)[1:])
    assert names(checks.never_enforced(account)) == [(1, "not enforced")]
    account.take_enforced("mo-1", NOON)
    assert checks.never_enforced(account) == []


def test_a_consent_that_is_open_again_or_a_version_that_goes_back_breaks_promise_3() -> None:
    known = Standings("dispatch-svc")
    assert known.take("s1", 3, [], ["acme"]) == []
    assert known.take("s1", 4, ["acme"], ["other"]) == []
    assert names(known.take("s1", 3, ["acme"], [])) == [(3, "went back")]
    assert names(known.take("s1", 5, [], ["acme"])) == [(3, "loosened")]


def test_consent_svc_lets_nobody_be_written_to_who_has_stopped() -> None:
    assert checks.open_again("acme", [{"allowed": False}]) == []
    assert names(checks.open_again("acme", [{"allowed": True}, {"allowed": False}])) == [(3, "loosened")]


LOST = Loss("dispatch", NOON, NOON + timedelta(seconds=5))


@pytest.mark.parametrize(("seconds", "service", "broken"), [(3, "dispatch", 0), (6, "dispatch", 1), (3, "consent", 1)])
def test_a_failover_of_dispatch_forgives_what_left_in_the_time_it_forgot_and_nothing_else(
    seconds: float, service: str, broken: int
) -> None:
    for again in ("m1", "m2"):
        account = Account([Loss(service, LOST.since, LOST.until)])
        assert account.take([submit("m1", seconds)]) == []
        assert len(checks.contradicted({"m1": "denied"}, account.taken, account.losses)) == broken
        assert len(account.take([submit(again, 9)])) == broken
        assert len(account.take([submit("m1", 10)])) == 1


def test_no_failover_forgives_a_message_after_an_acknowledged_stop() -> None:
    account = Account([LOST])
    assert names(account.take([*stop(0, 0.2), submit("m1", 4.5)])) == [(1, "after acknowledgement")]


def test_the_spans_of_a_moved_clock_are_taken_out_of_what_is_looked_at_each_with_a_margin() -> None:
    def span(begin: float, end: float) -> tuple[datetime, datetime]:
        return NOON + timedelta(seconds=begin), NOON + timedelta(seconds=end)

    second = timedelta(seconds=1)
    assert checks.between(*span(0, 100), [span(70, 80), span(20, 30)], second) == [
        span(0, 19),
        span(31, 69),
        span(81, 100),
    ]
    assert checks.between(*span(0, 10), [span(-5, 50)], second) == []
    assert checks.between(*span(0, 10), [span(50, 60)], second) == [span(0, 10)]


def test_a_log_that_ends_with_an_older_state_breaks_promise_3_once_it_is_compacted() -> None:
    assert checks.newest_is_last([("s1", 1), ("s1", 3), ("s1", 2), ("s2", 1), ("s1", 3)]) == []
    assert names(checks.newest_is_last([("s1", 1), ("s1", 3), ("s2", 1), ("s1", 2)])) == [(3, "compacted away")]


def test_what_is_still_pending_at_the_end_is_a_violation() -> None:
    assert checks.nothing_pending({"events of consent": 0, "messages sending": 0}).violations == []
    assert names(checks.nothing_pending({"events of consent": 3}).violations) == [(10, "nothing pending")]


def test_what_is_unread_at_the_end_is_a_violation() -> None:
    assert checks.nothing_unread({"dispatch.consents of consent.states.v1 0": 0}).violations == []
    assert names(checks.nothing_unread({"a": 2, "b": None}).violations) == [(10, "nothing unread")] * 2


@pytest.mark.parametrize("age", [None, 2.1, float("nan")])
def test_a_partition_whose_watermark_is_not_fresh_at_the_end_is_a_violation(age: float | None) -> None:
    assert checks.all_fresh({"0": 1.9, "1": 0.0}, 2.0).violations == []
    assert names(checks.all_fresh({"0": 1.9, "1": age}, 2.0).violations) == [(10, "every partition fresh")]


def test_a_stop_that_is_acknowledged_and_not_enforced_at_the_end_is_told_with_what_rests() -> None:
    account = Account()
    account.take(stop(0, 0.1))
    assert names(checks.every_stop_enforced(account).violations) == [(10, "every STOP enforced")]
    account.take_enforced("mo-1", NOON)
    assert checks.every_stop_enforced(account) == AtRest("every STOP enforced", [])


@pytest.mark.parametrize(
    ("told", "broken"),
    [
        ({"status": "finished"}, 0),
        ({"status": "cancelled"}, 0),
        ({"status": "paused", "paused_because": ["a colleague"]}, 0),
        ({"status": "running", "sending_waits": {"since": "…"}}, 0),
        ({"status": "running", "sending_waits": None, "failing": None, "paused_because": []}, 1),
        ({"status": "scheduled"}, 1),
    ],
)
def test_a_campaign_that_neither_ends_nor_says_what_it_waits_for_is_a_violation(
    told: dict[str, Any], broken: int
) -> None:
    assert names(checks.every_campaign_ends({"c": told}).violations) == [(10, "every campaign ends")] * broken


def test_a_log_that_lost_records_is_named_by_a_readiness_and_holds_marketing() -> None:
    red = ["dispatch-projection: consent.states.v1 has a gap"]
    assert checks.not_noticed("log cut", "consent.states.v1", red, held=True) == []
    assert names(checks.not_noticed("log cut", "inbound.messages.v1", red, held=True)) == [(10, "not noticed")]
    assert names(checks.not_noticed("log cut", "consent.states.v1", red, held=False)) == [(1, "not held")]


@pytest.mark.parametrize(("waited_s", "broken"), [(0.0, 0), (19.9, 0), (20.1, 1), (None, 1)])
def test_an_outbox_that_stands_still_beside_a_standby_is_a_violation(waited_s: float | None, broken: int) -> None:
    assert names(checks.stood_still("consent", waited_s, 20.0)) == [(10, "no standby")] * broken


def test_a_foreign_record_that_is_no_dead_letter_was_stepped_over() -> None:
    assert checks.stepped_over("consent.states.v1", 8, 9) == []
    assert names(checks.stepped_over("consent.states.v1", 8, 7)) == [(3, "stepped over")]
