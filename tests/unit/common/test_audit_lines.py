"""The chain of the audit log, and the watch over its accounts."""

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from common.audit.chain import GENESIS
from common.audit.line import Line, chained, follows
from common.audit.watching import MOST_ACCOUNTS, MOST_PEOPLE, MOST_REFUSALS, WITHIN, Watch

NOW = datetime(2026, 11, 30, 10, tzinfo=UTC)
LINE = Line(
    at=NOW,
    organisation="lune",
    caller="camille",
    scope="consent:read",
    method="POST",
    route="/v1/subjects/lookup",
    kind="read",
    subject_id="sub_00",
    people=1,
    verdict="allowed",
    trace_id="0" * 32,
)
OTHER = {
    "at": NOW + timedelta(microseconds=1),
    "organisation": "soleil",
    "caller": "eve",
    "scope": "",
    "method": "GET",
    "route": "/",
    "kind": "export",
    "subject_id": None,
    "people": 2,
    "verdict": "scope_missing",
    "trace_id": None,
}


def test_a_chain_of_lines_holds_from_any_line_on() -> None:
    kept = list(chained(GENESIS, 0, [LINE, replace(LINE, caller="eve"), LINE]))
    assert [each.position for each in kept] == [1, 2, 3]
    assert all(follows(before, each) for before, each in zip([None, *kept], kept, strict=False))
    assert follows(None, kept[1]), "the line before is past its retention"
    assert not follows(kept[0], kept[2]), "a line is missing"


@pytest.mark.parametrize("field", OTHER)
def test_no_field_of_a_line_changes_unnoticed(field: str) -> None:
    [kept] = chained(GENESIS, 0, [LINE])
    assert OTHER.keys() == set(Line.__struct_fields__)
    assert not follows(None, replace(kept, line=replace(kept.line, **{field: OTHER[field]})))
    assert not follows(None, replace(kept, position=2))
    assert not follows(None, replace(kept, previous="1" * 64))


def test_a_scan_of_many_people_raises_one_alarm_and_a_steady_caller_none() -> None:
    watch = Watch()
    scan = [watch.read("eve", f"t1-{n}", NOW) for n in range(2 * MOST_PEOPLE)]
    assert scan.index("scan") == MOST_PEOPLE - 1
    assert scan.count("scan") == 1
    assert {watch.read("camille", "t1-1", NOW) for _ in range(2 * MOST_PEOPLE)} == {None}
    slow = [watch.read("call-centre", f"t1-{n}", NOW + n * WITHIN / (MOST_PEOPLE - 1)) for n in range(3 * MOST_PEOPLE)]
    assert set(slow) == {None}
    assert watch.read("eve", "t1-0", NOW + WITHIN) is None, "counted anew"


def test_refusals_of_one_account_raise_one_alarm() -> None:
    watch = Watch()
    assert [watch.refused("eve", NOW) for _ in range(MOST_REFUSALS + 5)] == [
        *[None] * (MOST_REFUSALS - 1),
        "refusals",
        *[None] * 5,
    ]
    assert watch.refused("camille", NOW) is None


def test_the_memory_of_a_watch_is_bounded() -> None:
    watch = Watch()
    for n in range(MOST_ACCOUNTS + 10):
        watch.refused(f"made up {n}", NOW)
    assert len(watch._accounts) == MOST_ACCOUNTS
