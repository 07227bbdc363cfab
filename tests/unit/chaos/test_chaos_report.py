"""What a run of `make chaos` leaves to read."""

import json

from chaos.checks import AtRest, Violation
from chaos.report import Report, Suffered, held
from chaos.watching import Hold


def report(*violations: Violation) -> Report:
    return Report(
        seed=7,
        broker="Apache Kafka, three brokers",
        seconds=61.0,
        faults=[
            Suffered(1, "kill", "consent-relay", 10.0, 4.0, 6.0),
            Suffered(2, "poison", "the topics", 30.0, 1.0, None),
        ],
        left_out=["disk full: only root"],
        messages=90,
        outcomes={"accepted": 88, "unknown": 2},
        stops=3,
        stop_latencies_s=[0.2, 0.3, 4.0],
        holds=[Hold(8.0, 3.0), Hold(15.0, 30.0)],
        deaths=[],
        dead_letters=4,
        at_rest=[AtRest("nothing pending", []), AtRest("nothing unread", ["a has 3", "b has never begun"])],
        looks=60,
        looks_failed=2,
        violations=list(violations),
    )


def test_a_fault_is_charged_with_the_holds_within_it_and_its_recovery() -> None:
    one = report()
    held(one.faults, one.holds)
    assert [fault.held_s for fault in one.faults] == [1.0 + 5.0, 1.0]


def test_the_text_ends_with_the_violations() -> None:
    assert report().text().endswith("\nviolations: 0")
    told = report(Violation(4, "sent twice", "message m1")).text()
    assert told.endswith("\nviolations: 1\n  promise 4, sent twice: message m1")


def test_the_text_names_each_fault_and_what_was_left_out() -> None:
    told = report().text()
    assert "consent-relay" in told
    assert "never" in told, "what did not recover says so"
    assert "left out: disk full" in told
    assert "holds: 2, together 33.0 s, longest 30.0 s" in told
    assert "longest 4.00 s" in told


def test_the_text_says_what_is_at_rest_and_what_is_not() -> None:
    told = report().text().splitlines()
    assert "at rest: nothing pending: yes" in told
    assert "at rest: nothing unread: a has 3; b has never begun" in told


def test_the_json_holds_all_of_it() -> None:
    told = json.loads(report(Violation(1, "not enforced", "STOP mo-1")).json())
    assert told["violations"] == [{"promise": 1, "check": "not enforced", "what": "STOP mo-1"}]
    assert [fault["recovered_s"] for fault in told["faults"]] == [6.0, None]
