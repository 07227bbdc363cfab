"""A bucket names the trace of its last observation, if that is kept, to a scraper that takes OpenMetrics."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY, Histogram
from prometheus_client.parser import text_string_to_metric_families

from common.telemetry import (
    continue_trace,
    current_trace,
    exposed,
    forget_span,
    histogram,
    resume_trace,
    trace_id,
    tracing,
)
from tests.support.openmetrics import families

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
KEPT, DROPPED = f"00-{'a' * 18}{'0' * 14}-{'1' * 16}-01", f"00-{'b' * 18}{'f' * 14}-{'2' * 16}-01"


@pytest.fixture
def seconds() -> Iterator[Histogram]:
    """A histogram of a process that keeps half of the traces."""
    tracing.start_with("probe", InMemorySpanExporter(), 0.5, at_once=True)
    forget_span()
    made = histogram("sms_probe_exemplar_seconds", "A probe.", buckets=(1, 10))
    yield made
    REGISTRY.unregister(made)
    tracing.stop()
    forget_span()


def named() -> dict[str, str]:
    """Return the trace of each bucket that names one, as a scraper reads it."""
    content, _ = exposed(PROMETHEUS)
    [family] = [f for f in families(content.decode()) if "probe_exemplar" in f.name]
    assert all(set(sample.exemplar.labels) == {"trace_id"} for sample in family.samples if sample.exemplar)
    return {sample.labels["le"]: sample.exemplar.labels["trace_id"] for sample in family.samples if sample.exemplar}


def test_an_observation_within_a_span_names_its_trace_and_one_after_the_span_too(seconds: Histogram) -> None:
    continue_trace(KEPT)
    with tracing.request("probe", "GET", continues=True):
        seconds.observe(0.5)
    seconds.observe(5)
    seconds.observe(50)
    assert named() == dict.fromkeys(("1.0", "10.0", "+Inf"), KEPT[3:35])


def test_a_trace_that_is_not_kept_is_never_named(seconds: Histogram) -> None:
    continue_trace(DROPPED)
    with tracing.request("probe", "GET", continues=True):
        seconds.observe(0.5)
    assert named() == {}


def test_work_without_a_span_names_no_trace_although_the_logs_name_one(seconds: Histogram) -> None:
    """As a probe of health: the trace would be empty."""
    continue_trace(KEPT)
    seconds.observe(0.5)
    assert trace_id() is not None
    assert named() == {}


def test_the_next_work_of_a_task_does_not_name_the_trace_of_the_last(seconds: Histogram) -> None:
    continue_trace(KEPT)
    with tracing.request("probe", "GET", continues=True):
        first = current_trace()
    for begin_next in (lambda: continue_trace(DROPPED), forget_span):
        resume_trace(first)
        begin_next()
        seconds.observe(0.5)
    assert named() == {}
    resume_trace(first)
    seconds.observe(0.5)
    assert named() == {"1.0": KEPT[3:35]}


def test_an_observation_may_name_a_trace_of_its_own(seconds: Histogram) -> None:
    continue_trace(KEPT)
    with tracing.request("probe", "GET", continues=True):
        seconds.observe(0.5, {"trace_id": "c" * 32})
    assert named() == {"1.0": "c" * 32}


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/plain;version=0.0.4",
        "application/openmetrics-text;version=0.0.1",
        "application/openmetrics-text;version=2.0.0",
        "application/openmetrics-text;version=x",
        "application/openmetrics-texts",
        ",;=,",
    ],
)
def test_a_caller_that_names_no_version_1_of_openmetrics_gets_the_plain_text_without_exemplars(
    seconds: Histogram, accept: str
) -> None:
    continue_trace(KEPT)
    with tracing.request("probe", "GET", continues=True):
        seconds.observe(0.5)
    content, kind = exposed(accept)
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    assert KEPT[3:35].encode() not in content
    assert any(f.name == "sms_probe_exemplar_seconds" for f in text_string_to_metric_families(content.decode()))


@pytest.mark.parametrize(
    "accept", [PROMETHEUS, "application/openmetrics-text", "text/plain, application/openmetrics-text; version=1.0.0"]
)
def test_a_scraper_that_takes_openmetrics_gets_each_series_under_the_same_name(seconds: Histogram, accept: str) -> None:
    seconds.observe(0.5)
    content, kind = exposed(accept)
    assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    found = families(content.decode())
    names = {(s.name, *sorted(s.labels.items())) for family in found for s in family.samples}
    content, _ = exposed("text/plain")
    plain = text_string_to_metric_families(content.decode())
    assert names == {(s.name, *sorted(s.labels.items())) for family in plain for s in family.samples}
