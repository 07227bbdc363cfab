"""The alert rules speak of metrics that there are, with labels that they have, and each is explained in the runbook."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.contracts import TEMPLATES
from common.web.problems import Problem
from inbound import webhooks
from tests.contract.metrics import every_metric
from tests.unit.deploy.deployed import BASE, SERVICES, documents

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/placet.yaml").read_text())["groups"]
    for rule in group["rules"]
]
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
SELECTED = re.compile(r"((?:sms|kube)_[a-z_]+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
OF_THE_SCRAPER = {"job", "le"}
OF_KUBE_STATE_METRICS = {
    "kube_deployment_status_replicas_available": {"namespace", "deployment"},
    "kube_pod_container_status_restarts_total": {"namespace", "pod", "container"},
}


@cache
def known() -> dict[str, set[str]]:
    """Names as Prometheus has them, each with its labels."""
    found = dict(OF_KUBE_STATE_METRICS)
    for metric in every_metric():
        [family] = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        suffixes = ("_bucket", "_count", "_sum") if family.type == "histogram" else ("",)
        found |= {f"{name}{suffix}": set(metric._labelnames) for suffix in suffixes}
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


def the(alert: str) -> dict[str, Any]:
    [rule] = [rule for rule in RULES if rule["alert"] == alert]
    return rule


def section(alert: str) -> str:
    return RUNBOOK.split(f"\n## {alert}\n")[1].split("\n## ")[0]


def test_what_is_gone_is_told_by_what_is_still_there() -> None:
    """A process that does not run measures nothing, and a gauge without labels is 0 in every other: of both, only
    what is not ours can tell. Nor is it silent where that is gone too."""
    [namespace] = documents(BASE / "namespace.yaml")
    for alert, metric in zip(("NothingRuns", "Restarting"), OF_KUBE_STATE_METRICS, strict=True):
        asked = SELECTED.findall(the(alert)["expr"])
        assert set(asked) == {(metric, f'namespace="{namespace["metadata"]["name"]}"')}
        assert the(alert)["labels"]["severity"] == "page"
    available = asked_of("NothingRuns")
    assert re.search(
        rf"\({re.escape(available)}\) == 0 or absent\({re.escape(available)}\)$", the("NothingRuns")["expr"]
    )
    relays = {f"{service}-relay" for service in SERVICES}
    assert relays <= set(re.findall(r"`([a-z]+-[a-z]+)`", section("NothingRuns")))


def asked_of(alert: str) -> str:
    name, inside = SELECTED.findall(the(alert)["expr"])[0]
    return f"{name}{{{inside}}}"


def test_what_anybody_can_call_wakes_nobody() -> None:
    """For an account that there is not, everything is refused: whoever asks for it, and before anything is known of
    who that is."""
    for rule in RULES:
        for name, inside in SELECTED.findall(rule["expr"]):
            if name == "sms_inbound_callbacks_total" and "result!~" in inside:
                assert 'provider!="unknown"' in inside
                assert rule["alert"] == "CallbacksRefused"
                assert 'result!~"accepted|duplicate|ignored|unauthorised|too-large"' in inside
    assert the("CallbacksRefused")["expr"].endswith("[1h])) > 5"), "of two callbacks in an hour, one is half"
    assert asked_of("CallbacksOfNobody") == 'sms_inbound_callbacks_total{provider="unknown"}'
    assert the("CallbacksOfNobody")["labels"]["severity"] == "ticket"
    assert the("CallbacksNotGenuine")["labels"]["severity"] == "ticket"


def test_an_operator_whose_every_callback_is_refused_wakes_somebody() -> None:
    """A stranger cannot cause this: the operator's genuine callbacks count as taken."""
    refused, taken = " ".join(the("CallbacksUnheard")["expr"].split()).split(" unless ")
    assert 'result=~"unauthorised|too-large"' in refused
    assert taken.endswith('{result=~"accepted|duplicate|ignored"}[1h])) > 0')
    assert the("CallbacksUnheard")["labels"]["severity"] == "page"


def test_a_provider_that_takes_messages_and_calls_nobody_back_wakes_somebody() -> None:
    """Its STOPs take the way of its DLRs. A series that never was must not keep the alert silent: hence `unless`."""
    expr = " ".join(the("CallbacksSilent")["expr"].split())
    leaving, came = expr.split(" unless ")
    assert leaving == 'sum by (gateway) (increase(sms_dispatch_outcomes_total{outcome="accepted"}[30m])) > 100'
    assert came == "sum by (gateway) (increase(sms_dispatch_gateway_receipts_total[30m])) > 0"
    assert the("CallbacksSilent")["labels"]["severity"] == "page"


def test_a_gateway_that_needs_somebody_is_told_once() -> None:
    assert asked_of("GatewayTripping") == 'sms_dispatch_gateway_trips_total{reason!="misconfigured"}'
    assert asked_of("GatewayNeedsSomebody") == "sms_dispatch_gateway_alerts_total{}"


def test_a_database_that_takes_decisions_and_no_marks_wakes_somebody() -> None:
    """No timer fails and no gateway is asked: no other alert fires. A closed decision needs nobody."""
    assert asked_of("SubmitsNotBegun") == 'sms_dispatch_submits_not_begun_total{result="failed"}'
    assert the("SubmitsNotBegun")["labels"]["severity"] == "page"


def test_a_retirement_that_dispatch_has_not_read_wakes_somebody() -> None:
    """Few templates change: no threshold of busy topics would tell of one."""
    assert asked_of("TemplatesBehind") == f'sms_consumer_lag_records{{topic="{TEMPLATES.name}"}}'
    assert the("TemplatesBehind")["expr"].endswith(" > 0")
    assert the("TemplatesBehind")["labels"]["severity"] == "page"


def test_the_runbook_knows_every_reason_for_which_a_callback_is_refused() -> None:
    problems = [one for one in vars(webhooks).values() if isinstance(one, type) and issubclass(one, Problem)]
    slugs = {problem.slug for problem in problems if problem is not Problem}
    assert len(slugs) > 5
    assert slugs <= set(re.findall(r"`([a-z-]+)`", section("CallbacksRefused")))


def test_each_has_its_part_in_the_runbook_and_no_other_has() -> None:
    names = [rule["alert"] for rule in RULES]
    assert re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE) == names
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_runbook_names_no_metric_that_there_is_not() -> None:
    bare = {re.sub("_(bucket|count|sum)$", "", name) for name in known()} | known().keys()
    assert {name for name, _ in SELECTED.findall(RUNBOOK)} <= bare
