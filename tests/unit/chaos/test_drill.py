"""What `make drill` leaves to read."""

import dataclasses

from chaos.drill import BACK_S, Drill, Step
from stack.environment import SERVICES
from tests.unit.chaos.test_chaos_report import report


def test_a_step_says_what_was_lost_and_what_told_of_it() -> None:
    step = Step("consent-svc's database", 5.0, 14.4, 80.2, {"handed_off": 99, "evidence": 4}, ["4 opt-outs"])
    assert step.text.splitlines() == [
        "consent-svc's database, to 5 s before: data back after 14 s, ready after 80 s",
        "  lost: 4 of evidence, 99 of handed_off",
        "  told: 4 opt-outs",
    ]


def test_a_step_that_lost_nothing_and_never_came_back_says_so() -> None:
    assert Step("Kafka", 0.0).text.splitlines() == ["Kafka, whole: data back after 0 s, never ready", "  lost: no row"]


def test_the_text_of_a_drill_ends_as_a_chaos_run_s() -> None:
    drill = Drill([Step("Kafka", 0.0)], 3, dataclasses.replace(report()))
    assert "had forgotten them: 3 messages" in drill.text()
    assert drill.text().endswith("\nviolations: 0")


def test_every_database_is_restored_to_more_than_one_instant() -> None:
    assert set(BACK_S) == set(SERVICES)
    assert all(len(set(instants)) > 1 for instants in BACK_S.values())
