"""Each alert fires just above its threshold and stays quiet just below, in Prometheus' own evaluation; and each
threshold that is moved is noticed."""

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.alerts.cases import Case, cases
from tests.alerts.promtool import RULES, alerts, failing, promtool

# A number that a series is compared with, or a share of another series. No label, no quantile, no window
THRESHOLD = re.compile(r"(?<=[><]) -?[\d.]+(?![\d.]* \* sum by)|(?<= == )\d+|[\d.]+(?= \* sum by)")


def by_alert() -> dict[tuple[str, int], list[Case]]:
    found: dict[tuple[str, int], list[Case]] = defaultdict(list)
    for case in cases():
        found[case.alert, case.rules].append(case)
    return found


def moved(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rule with each threshold half as high and half as high again, and without its wait."""
    expr = rule["expr"]
    for number, place in enumerate(THRESHOLD.finditer(expr)):
        value = float(place[0])
        for by, other in (("up", value * 1.5 or 1.5), ("down", value / 1.6 - (value == 0))):
            yield f"{number}-{by}", {**rule, "expr": f"{expr[: place.start()]} {other}{expr[place.end() :]}"}
    if "for" in rule:
        yield "at-once", {key: value for key, value in rule.items() if key != "for"}


def test_prometheus_takes_the_rules() -> None:
    checked = subprocess.run([promtool(), "check", "rules", str(RULES)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(alerts())} rules found" in checked.stdout


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    said = {(case.alert, case.fires) for case in cases()}
    assert said == {(name, fires) for name in alerts() for fires in (True, False)}


def test_each_alert_fires_above_its_threshold_and_stays_quiet_below(tmp_path: Path) -> None:
    rules = alerts()
    assert failing([(f"{name}-{often}", rules[name], of) for (name, often), of in by_alert().items()], tmp_path) == {}


def test_a_threshold_that_moves_is_noticed(tmp_path: Path) -> None:
    rules = alerts()
    mutants = {
        f"{name}-{how}@{often}": (mutant, of)
        for (name, often), of in by_alert().items()
        for how, mutant in moved(rules[name])
    }
    every = {name.split("@")[0] for name in mutants}
    assert len(every) > 2 * len(rules)
    failed = failing([(name, *mutant) for name, mutant in mutants.items()], tmp_path)
    assert every - {name.split("@")[0] for name in failed} == set()
