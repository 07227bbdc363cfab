"""The alert rules speak of metrics that there are, with labels that they have, and each is explained in the runbook."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.test_metrics import every_metric

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/placet.yaml").read_text())["groups"]
    for rule in group["rules"]
]
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
SELECTED = re.compile(r"(sms_[a-z_]+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
OF_THE_SCRAPER = {"job", "le"}


def known() -> dict[str, set[str]]:
    """Names as Prometheus has them, each with its labels."""
    found: dict[str, set[str]] = {}
    for metric in every_metric():
        [family] = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[f"{name}_bucket" if family.type == "histogram" else name] = set(metric._labelnames)
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_about_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    metrics = known()
    asked = SELECTED.findall(rule["expr"])
    assert asked
    assert {name for name, _ in asked} <= metrics.keys()
    labels = set.union(*(metrics[name] for name, _ in asked)) | OF_THE_SCRAPER
    selected = {label for _, inside in asked for label in re.findall(r"(\w+)(?:=|!=|=~|!~)\"", inside)}
    grouped = {label.strip() for labels_ in GROUPED.findall(rule["expr"]) for label in labels_.split(",")}
    told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert selected | grouped | told <= labels


def test_each_has_its_part_in_the_runbook_and_no_other_has() -> None:
    names = [rule["alert"] for rule in RULES]
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == names
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_runbook_names_no_metric_that_there_is_not() -> None:
    bare = {name.removesuffix("_bucket") for name in known()}
    assert {name for name, _ in SELECTED.findall(RUNBOOK)} <= bare
