"""Promises 1, 3 and 4, while roles, the database and what lies between them break: a short run of `make chaos`, always
the same one."""

from pathlib import Path

import pytest

from chaos.run import run

SEED, SECONDS = 36111, 400.0  # on a machine that is busy
# Each once. Of the kills those of what test_demo_survives.py leaves alive
FAULTS = (
    "kill, Postgres$",
    "kill, dispatch-projection$",
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
        many=len(FAULTS),
    )
    assert report.violations == [], report.text()
    assert [one.why for one in report.at_rest] == [[]] * 5, report.text()
    assert {one.kind for one in report.faults} == {fault.partition(",")[0] for fault in FAULTS}, report.text()
    assert report.messages > 500, report.text()
    assert report.stops > 20, report.text()
    assert (tmp_path / "report.txt").read_text().endswith("violations: 0\n")
