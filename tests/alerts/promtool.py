"""Prometheus' own tool: check rules, and evaluate them on series that tests make up."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.alerts.cases import Case

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "placet.yaml"
AT_ONCE = 200  # files of a run


def promtool() -> str:
    """Return the path of promtool, which Debian's package `prometheus` has."""
    found = os.environ.get("PLACET_TEST_PROMTOOL") or shutil.which("promtool")
    assert found, "promtool is missing: apt-get install --no-install-recommends prometheus, or set PLACET_TEST_PROMTOOL"
    return found


def alerts() -> dict[str, dict[str, Any]]:
    """Return the rules by name."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def failing(rules: Sequence[tuple[str, Mapping[str, Any], Sequence[Case]]], folder: Path) -> dict[str, str]:
    """Evaluate each rule on its cases; return by name what promtool says of those that are not as expected."""
    names = []
    for name, rule, of in rules:
        group = {"name": "one", "rules": [dict(rule)]}
        (folder / f"{name}.rules.yaml").write_text(yaml.safe_dump({"groups": [group]}), encoding="utf-8")
        tests = {
            "rule_files": [f"{name}.rules.yaml"],
            "evaluation_interval": f"{of[0].rules}m",
            "tests": [_test(case) for case in of],
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tests), encoding="utf-8")
        names.append(f"{name}.yaml")
    return failed(names, folder)


def failed(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Run the unit tests of these files; return by name, without `.yaml`, what promtool says of those that fail."""
    said: dict[str, str] = {}
    for at in range(0, len(names), AT_ONCE):
        command = [promtool(), "test", "rules", *names[at : at + AT_ONCE]]
        ran = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        told = re.split(r"^Unit Testing: +(\S+)\.yaml$", ran.stdout, flags=re.MULTILINE)[1:]
        found = dict(zip(told[::2], told[1::2], strict=True))
        assert len(found) == len(names[at : at + AT_ONCE]), ran.stdout
        said |= {name: text for name, text in found.items() if "SUCCESS" not in text}
    return said


def _test(case: Case) -> dict[str, Any]:
    firing = f'count(ALERTS{{alertname="{case.alert}",alertstate="firing"}}) or vector(0)'
    return {
        "name": f"{case.alert}: {case.about}",
        "interval": f"{case.every}m",
        "input_series": [{"series": selector, "values": values} for selector, values in case.series.items()],
        "promql_expr_test": [
            {
                "expr": f"({firing}) > bool 0",
                "eval_time": f"{case.at - case.at % case.rules}m",
                "exp_samples": [{"labels": "{}", "value": int(case.fires)}],
            }
        ],
    }
