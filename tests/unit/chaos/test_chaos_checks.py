"""What `make chaos` calls a violation, and what it does not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chaos import checks
from chaos.checks import Account, Standings, Violation

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
