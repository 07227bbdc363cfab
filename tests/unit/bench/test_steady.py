"""A steady pass says what is wrong with its outcome, whether more and more is under way, and which hours it keeps."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bench.crowd import KINDS, Crowd, Kind, kind_of, may, number
from bench.fast_operator import Submitted, Taken, Telling
from bench.steady import Look, Message, Outcome, grows, hours, reached, stands, violations

NOW = datetime(2026, 12, 1, 10, 0, tzinfo=UTC)  # a Tuesday, 11:00 in Paris
ZOE, LEO = "+33639980001", "+33639980002"
ACCEPTED = Message("c1", "m1", "zoe", "accepted", NOW, NOW, NOW)
DENIED = Message("c1", "m2", "leo", "denied", NOW, NOW, None)
GOOD = Outcome(
    offered={"c1": 2},
    ledger=[ACCEPTED, DENIED],
    allowed=frozenset({"zoe"}),
    stops=0,
    left_open=0,
    enforced={},
    numbers={"zoe": ZOE, "leo": LEO},
    taken=Taken({ZOE: 1}, {"transactional": 3}, {ZOE: NOW.timestamp()}),
    singles={"transactional": 3},
    waiting=0,
    untold=0,
)


def test_a_good_outcome_has_no_violation() -> None:
    assert violations(GOOD) == []
    assert violations(replace(GOOD, enforced={"zoe": NOW})) == []  # the advert left before


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (replace(GOOD, ledger=[ACCEPTED]), "missing or too many"),
        (replace(GOOD, ledger=[ACCEPTED, replace(ACCEPTED, message_id="m3")]), "two messages of a campaign"),
        (replace(GOOD, ledger=[ACCEPTED, replace(DENIED, status="unknown")]), "messages are unknown"),
        (replace(GOOD, allowed=frozenset()), "without consent"),
        (replace(GOOD, enforced={"zoe": NOW - timedelta(seconds=1)}), "handed off after the STOP"),
        (replace(GOOD, enforced={"zoe": NOW - timedelta(seconds=1)}), "got a message after the STOP"),
        (replace(GOOD, taken=Taken({ZOE: 1, LEO: 1}, {"transactional": 3}, {})), "at the operator, alone"),
        (replace(GOOD, taken=Taken({}, {"transactional": 3}, {})), "in the ledger, or"),
        (replace(GOOD, singles={"transactional": 4}), "in the ledger, or"),
        (replace(GOOD, taken=Taken({ZOE: 1}, {"transactional": 3}, {}, 1)), "twice to the operator"),
        (replace(GOOD, waiting=1), "outboxes"),
        (replace(GOOD, stops=1), "never reached dispatch-svc"),
        (replace(GOOD, stops=1, left_open=1), "not enforced"),
        (replace(GOOD, untold=1), "no last DLR"),
    ],
)
def test_each_violation_is_said(found: Outcome, says: str) -> None:
    assert any(says in each for each in violations(found))


def _looks(*under_way: int) -> Sequence[Look]:
    """Return looks every 5 s at an offered rate of 100 a second."""
    return [Look(5.0 * n, 500 * n, 500 * n - many, 500 * n - many) for n, many in enumerate(under_way, 1)]


def test_a_backlog_that_grows_is_told_from_one_that_stays() -> None:
    assert not grows(_looks(200, 300, 310, 290, 320, 300, 310, 305))
    assert grows(_looks(200, 300, 400, 500, 600, 700, 800, 900))
    assert not grows(_looks(300))


def test_the_rate_reached_is_of_the_second_half() -> None:
    assert reached(_looks(400, 400, 400, 400), 100) == 100
    assert reached(_looks(0, 100, 200, 300), 100) == 80
    assert reached(_looks(0, 900, 200, 100), 100) == 100, "a backlog is made up for, no more is offered"


def test_a_pass_that_stood_still_is_not_steady() -> None:
    assert not stands(_looks(200, 300, 310, 290))
    assert stands(_looks(0, 500, 1_000, 300))


def test_the_real_hours_are_kept_if_the_whole_run_lies_in_them() -> None:
    assert hours(NOW, 1_800) == "france"
    assert hours(NOW.replace(hour=18, minute=30), 1_800) == "demonstration"  # 19:30 in Paris, closed from 19:50
    assert hours(NOW.replace(hour=3), 1_800) == "demonstration"
    assert hours(NOW - timedelta(days=2), 1_800) == "demonstration"  # a Sunday


def test_the_people_of_each_sender_are_mixed() -> None:
    crowd = Crowd(senders=3, contacts=100)
    for sender in range(3):
        assert Counter(map(kind_of, crowd.people(sender))) == Counter(KINDS)
    assert crowd.opted_in()[:3] == [0, 100, 200]
    assert all(may(n) for n in crowd.opted_in())


def test_a_sender_holds_the_consents_of_its_own_people_and_of_another_s() -> None:
    crowd = Crowd(senders=2, contacts=100)
    lines = crowd.consents(0, NOW).decode().splitlines()[1:]
    of = Counter(line.partition(",")[0] for line in lines)
    assert {
        n for n in crowd.people(0) if kind_of(n) in (Kind.NEVER_ASKED, Kind.OTHER_SENDER) and of[number(n)]
    } == set()
    assert {n for n in crowd.people(1) if of[number(n)]} == {
        n for n in crowd.people(1) if kind_of(n) is Kind.OTHER_SENDER
    }
    assert sum(",opt_out," in line for line in lines) == KINDS[Kind.OPTED_OUT]


async def test_the_operator_tells_messages_in_callbacks_of_several_sizes() -> None:
    telling = Telling("http://127.0.0.1", (1, 100), b"secret", "")
    telling.note([Submitted(f"m{n}") for n in range(4)])
    waiting = [(size, [queue.get_nowait().reference for _ in range(queue.qsize())]) for size, queue in telling.waiting]
    assert waiting == [(1, ["m0", "m2", "m0", "m2"]), (100, ["m1", "m3", "m1", "m3"])]


async def test_delivered_follows_later() -> None:
    telling = Telling("http://127.0.0.1", (1,), b"secret", "later")
    telling.note([Submitted("m0")])
    (_, queue), *_ = telling.waiting
    assert [queue.get_nowait().status for _ in range(queue.qsize())] == ["sent"]
