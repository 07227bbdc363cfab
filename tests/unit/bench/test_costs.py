"""What a change costs is told by name: a statement or a row more for each message, and not the looks of a poll."""

from collections import Counter

from bench.costs import Statement, Used, beyond, costs, kept

SERVICES = ("consent", "inbound", "campaign", "dispatch")
MESSAGES = 1_000
INSERT, POLL = ("dispatch", "INSERT INTO message"), ("campaign", "SELECT FROM campaign")
CALLS, RECORDS, WAL = Counter({INSERT: 2_000, POLL: 90}), Counter({INSERT: 5_000}), Counter({INSERT: 900_000})


def found(calls: Counter[Statement] = CALLS, more: Counter[Statement] | None = None) -> dict[str, float]:
    return costs(Used(calls, RECORDS, WAL + (more or Counter()), 2_600_000), {POLL}, SERVICES, MESSAGES)


def test_each_cost_is_of_a_message_and_has_a_limit() -> None:
    assert found().keys() == kept().keys()
    assert (found()["statements"], found()["WAL records of dispatch"], found()["bytes in Kafka"]) == (2, 5, 2_600)


def test_a_statement_more_for_each_message_is_beyond() -> None:
    for statement in (("dispatch", "SELECT 1"), INSERT, POLL):
        assert beyond(found(CALLS + Counter({statement: MESSAGES})), found()) == ["statements"]


def test_more_looks_of_a_poll_cost_nothing() -> None:
    assert beyond(found(CALLS + Counter({POLL: 400})), found()) == []


def test_a_row_more_is_beyond_in_its_service() -> None:
    assert beyond(found(more=Counter({INSERT: 50_000})), found()) == ["bytes of WAL of dispatch"]
    assert beyond(found(more=Counter({INSERT: 40_000})), found()) == []
