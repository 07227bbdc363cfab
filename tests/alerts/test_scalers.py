"""Production's scalers ask for the replicas that a backlog needs, in Prometheus' own evaluation of their queries.

The arithmetic is KEDA's and Kubernetes' for the average of a metric: each trigger's value over its threshold, rounded
up, the most of them within the bounds. No cluster takes part, and Kubernetes leaves a difference of 10 %.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerts.promtool import failed
from tests.contract.manifests import rendered
from tests.unit.deploy.overlays import named

LEAST, MOST = 2, 12
AGE = "sms_dispatch_consent_staleness_seconds"


@dataclass(frozen=True)
class Case:
    """What two pods show, and the replicas that a scaler has to ask for."""

    scaler: str
    about: str
    series: Mapping[str, float]
    replicas: int


def lag(topic: str, *each: float, namespace: str = "placet") -> dict[str, float]:
    """Return the series of the pods' lags."""
    metric = f'sms_consumer_lag_records{{namespace="{namespace}",topic="{topic}",pod="%d"}}'
    return {metric % number: records for number, records in enumerate(each)}


def age(*each: float) -> dict[str, float]:
    return {f'{AGE}{{namespace="placet",pod="{number}"}}': seconds for number, seconds in enumerate(each)}


CASES = (
    Case("consent-worker", "at rest", lag("inbound.messages.v1", 0, 0), LEAST),
    Case("consent-worker", "as many as two do", lag("inbound.messages.v1", 500, 500), LEAST),
    Case("consent-worker", "one more", lag("inbound.messages.v1", 500, 501), 3),
    Case("consent-worker", "a backlog", lag("inbound.messages.v1", 1_000, 1_900), 6),
    Case("consent-worker", "a flood", lag("inbound.messages.v1", 90_000, 90_000), MOST),
    Case("consent-worker", "another topic", lag("dispatch.messages.v1", 90_000, 90_000), LEAST),
    Case("consent-worker", "another stack", lag("inbound.messages.v1", 90_000, namespace="staging"), LEAST),
    Case("consent-worker", "no metric", {}, LEAST),
    Case("campaign-worker", "as many as two do", lag("dispatch.messages.v1", 20_000, 20_000), LEAST),
    Case("campaign-worker", "one more", lag("dispatch.messages.v1", 20_000, 20_001), 3),
    Case("campaign-worker", "a flood", lag("dispatch.messages.v1", 900_000, 900_000), MOST),
    Case("dispatch-worker", "as many as two do", lag("campaign.requests.v1", 40_000, 0), LEAST),
    Case("dispatch-worker", "one more", lag("campaign.requests.v1", 40_001, 0), 3),
    Case("dispatch-worker", "a great campaign", lag("campaign.requests.v1", 500_000, 500_000), MOST),
    Case("dispatch-projection", "at rest", age(1.1, 0.4) | lag("consent.states.v1", 0, 0), LEAST),
    Case("dispatch-projection", "as old as may be", age(2.0, 0.4), LEAST),
    Case("dispatch-projection", "older", age(0.4, 2.1), 3),
    Case("dispatch-projection", "far older", age(6.5, 0.4), 7),
    Case("dispatch-projection", "no watermark ever", age(float("inf")), MOST),
    Case("dispatch-projection", "consents that wait", age(0.4) | lag("consent.states.v1", 2_000, 2_001), 3),
    Case("dispatch-projection", "the worse of both", age(4.5) | lag("consent.states.v1", 9_000, 9_000), 9),
    Case("dispatch-projection", "the worse of both again", age(8.5) | lag("consent.states.v1", 2_000, 4_000), 9),
)


def scalers() -> dict[str, Any]:
    return {name: each["spec"] for name, each in named(rendered("production"), "ScaledObject").items()}


def decided(spec: Mapping[str, Any]) -> str:
    """Return the replicas that a scaler asks for, as a query. A trigger without series counts as 0."""
    each = [
        f'label_replace(ceil(({one["query"]}) / {one["threshold"]}), "trigger", "{number}", "", "")'
        for number, one in enumerate(trigger["metadata"] for trigger in spec["triggers"])
    ]
    worst = f"max({' or '.join(each)} or vector(0))"
    return f"clamp({worst}, {spec['minReplicaCount']}, {spec['maxReplicaCount']})"


def wrong(specs: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the cases in which promtool counts other replicas."""
    for number, case in enumerate(CASES):
        test = {
            "interval": "1m",
            "input_series": [{"series": name, "values": f"{value:g}+0x5"} for name, value in case.series.items()],
            "promql_expr_test": [
                {
                    "expr": decided(specs[case.scaler]),
                    "eval_time": "5m",
                    "exp_samples": [{"labels": "{}", "value": case.replicas}],
                }
            ],
        }
        (folder / f"{number}.yaml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    said = failed([f"{number}.yaml" for number in range(len(CASES))], folder)
    return [f"{CASES[int(number)].scaler}: {CASES[int(number)].about}" for number in said]


def moved() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the scalers with a threshold or a bound of one of them moved, one at a time."""
    for name, spec in scalers().items():
        for bound, more in (("minReplicaCount", 1), ("maxReplicaCount", -1)):
            yield f"{name} {bound}", scalers() | {name: spec | {bound: spec[bound] + more}}
        for number, trigger in enumerate(spec["triggers"]):
            for by in (0.9, 1.1):
                threshold = f"{float(trigger['metadata']['threshold']) * by:g}"
                changed = trigger | {"metadata": trigger["metadata"] | {"threshold": threshold}}
                triggers = [changed if n == number else each for n, each in enumerate(spec["triggers"])]
                yield f"{name} threshold {number} by {by}", scalers() | {name: spec | {"triggers": triggers}}


def test_each_scaler_asks_for_the_replicas_that_its_metrics_need(tmp_path: Path) -> None:
    assert {case.scaler for case in CASES} == scalers().keys()
    assert wrong(scalers(), tmp_path) == []


@pytest.mark.parametrize(("change", "specs"), list(moved()), ids=lambda it: it if isinstance(it, str) else "")
def test_a_threshold_or_a_bound_that_moves_is_noticed(change: str, specs: dict[str, Any], tmp_path: Path) -> None:
    assert wrong(specs, tmp_path), change
