"""Every metric any service can show: named alike, and with no label that could hold a person or grow for ever."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

PACKAGES = ("common", "consent", "campaign", "dispatch", "inbound")
NAME = re.compile(r"sms_[a-z]+(_[a-z]+)+$")
UNITS = ("_seconds", "_total", "_records", "_messages", "_rows", "_ratio", "_bytes")
# Each takes its values from a list in the code or in the configuration, or is a sender, which has a short code of an
# operator. A number, a subject, a campaign, a text or
# anything else that grows with use is no label: put it in a log line, as an id.
BOUNDED_LABELS = {
    "account",
    "as",
    "gateway",
    "intent",
    "kind",
    "lane",
    "outcome",
    "partition",
    "provider",
    "reason",
    "result",
    "rule",
    "sender",
    "service",
    "state",
    "status",
    "timer",
    "topic",
    "verdict",
}


def every_metric() -> Iterator[MetricWrapperBase]:
    for package in PACKAGES:
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if ".migrations" not in module.name and not module.name.endswith(".__main__"):
                importlib.import_module(module.name)
    # the registry's public face shows no labels before a metric has been used
    for collector in set(REGISTRY._collector_to_names):
        if isinstance(collector, MetricWrapperBase):
            yield collector


def test_every_metric_is_named_alike_and_ends_in_a_unit() -> None:
    metrics = list(every_metric())
    assert len(metrics) > 10
    for metric in metrics:
        [family] = metric.describe()
        full_name = f"{family.name}_total" if family.type == "counter" else family.name
        assert NAME.match(full_name), full_name
        assert full_name.endswith(UNITS), full_name
        assert family.documentation.endswith((".", ")")), full_name


def test_no_label_could_hold_a_person_or_grow_for_ever() -> None:
    for metric in every_metric():
        [family] = metric.describe()
        unbounded = set(metric._labelnames) - BOUNDED_LABELS
        assert not unbounded, f"{family.name}: {unbounded}"
