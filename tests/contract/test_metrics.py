"""Every metric any service can show: named alike, and with no label that could hold a person or grow for ever."""

import re

from prometheus_client import generate_latest

from common.telemetry import exposed
from inbound.journal import LAG
from tests.contract.metrics import PAGE, every_metric, page
from tests.support.openmetrics import families

NAME = re.compile(r"sms_[a-z]+(_[a-z]+)+$")
UNITS = (
    "_seconds",
    "_total",
    "_records",
    "_messages",
    "_rows",
    "_reviews",
    "_ratio",
    "_bytes",
    "_connections",
    "_requests",
    "_info",
)
# Each takes its values from a list in the code or in the configuration, or is a sender, which has a short code of an
# operator. A number, a subject, a campaign, a text or
# anything else that grows with use is no label: put it in a log line, as an id.
BOUNDED_LABELS = {
    "account",
    "alarm",
    "as",
    "concern",
    "gateway",
    "group",
    "intent",
    "kind",
    "lane",
    "method",
    "outcome",
    "partition",
    "provider",
    "python",
    "reason",
    "result",
    "route",
    "rule",
    "sender",
    "service",
    "state",
    "status",
    "timer",
    "topic",
    "verdict",
    "version",
}


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


def test_the_page_says_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make reference`"


def test_units_are_base_units_and_a_total_only_counts() -> None:
    """As Prometheus names metrics: prometheus.io/docs/practices/naming."""
    for metric in every_metric():
        [family] = metric.describe()
        words = set(family.name.split("_"))
        assert not words & {"ms", "milliseconds", "minutes", "hours", "kb", "mb", "percent", "count", "sum", "bucket"}
        assert family.type == "counter" or not family.name.endswith("_total"), family.name
        assert family.type == "histogram" or "le" not in metric._labelnames
        assert family.type != "histogram" or family.name.endswith(
            ("_seconds", "_bytes", "_messages", "_rows", "_records")
        )


def test_every_metric_can_be_told_by_openmetrics() -> None:
    """A strict reader takes the whole page: a name or type that OpenMetrics has no place for would end each scrape."""
    assert list(every_metric())
    LAG.labels("simulator", "").observe(-1)  # below 0: a histogram without a sum
    content, _ = exposed("application/openmetrics-text; version=1.0.0")
    assert len(families(content.decode())) > 10


def test_no_time_of_creation_doubles_the_series() -> None:
    assert list(every_metric())
    assert b"_created" not in generate_latest()
