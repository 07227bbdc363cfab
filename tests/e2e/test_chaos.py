"""Promises 1, 3 and 4, while roles, the database and what lies between them break: a short run of `make chaos`, always
the same one."""

from pathlib import Path

import pytest

from chaos.run import run

SEED, SECONDS = 36111, 100.0
FAULTS = (
    "kill, (dispatch-worker|dispatch-projection|consent-relay|Postgres)$",
    "silence, consent to the database",
    "answers lost, dispatch to the operator",
    "replay",
    "poison",
    "unknown types",
)


@pytest.mark.timeout(600)
async def test_the_promises_hold_while_things_break(tmp_path: Path) -> None:
    report = await run(
        tmp_path,
        seed=SEED,
        seconds=SECONDS,
        brokers=0,
        people=300,
        only="|".join(FAULTS),
        many=8,
    )
    assert report.violations == [], report.text()
    assert [one.why for one in report.at_rest] == [[]] * 5, report.text()
    assert len(report.faults) >= 2, report.text()
    assert report.messages > 500, report.text()
    assert report.stops > 20, report.text()
    assert (tmp_path / "report.txt").read_text().endswith("violations: 0\n")
