"""Spans: what they tell and never tell, which are kept, and that nothing is made of them unless somebody asked."""

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common.telemetry import continue_trace, forget_span, trace_id, traceparent, tracing
from common.telemetry.tracing import NO_PUBLICATIONS, NOTHING

KEPT, DROPPED = f"00-{'a' * 18}{'0' * 14}-{'1' * 16}-01", f"00-{'b' * 18}{'f' * 14}-{'2' * 16}-01"
MESSAGE = UUID("0199aaaa-bbbb-8ccc-8d00-00eeeeeeeeee")


@dataclass(frozen=True)
class Event:
    traceparent: str | None


@dataclass(frozen=True)
class Submit:
    reference: str


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.start_with("dispatch", exporter, 0.5, at_once=True)
    yield exporter
    tracing.stop()


def context(span: ReadableSpan) -> str:
    found = span.context
    assert found is not None
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-01"


def test_without_the_setting_nothing_is_made() -> None:
    tracing.start("dispatch", None, 1.0)
    continue_trace(KEPT)
    events = [Event(KEPT), Event(DROPPED)]
    assert tracing.request("dispatch", "GET", continues=True) is NOTHING
    assert tracing.submitting("dispatch", "main", [Submit(str(MESSAGE))]) is NOTHING
    assert tracing.publications("dispatch") is NO_PUBLICATIONS
    assert tracing.transaction("dispatch") is NOTHING
    assert tracing.exemplar_of(MESSAGE) is None
    assert NO_PUBLICATIONS.context("topic", DROPPED, datetime.now(UTC)) == DROPPED
    assert tracing.processing("dispatch.x", "topic", events) is NOTHING
    assert traceparent() == KEPT


def test_without_the_setting_a_message_allocates_nothing() -> None:
    submits, now = [Submit(str(MESSAGE))], datetime.now(UTC)
    publications = tracing.publications("dispatch")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1000):
            publications.context("topic", KEPT, now)
            tracing.submitting("dispatch", "main", submits)
            tracing.mark("dispatch", "opt-outs enforced", 1)
            tracing.transaction("dispatch")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most - before < 1000, "bytes: less than one for each message"


def test_without_the_setting_no_service_imports_the_sdk() -> None:
    loads = "import sys, dispatch.service, common.command; print([m for m in sys.modules if 'opentelemetry.sdk' in m])"
    assert subprocess.run([sys.executable, "-c", loads], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_a_request_that_names_no_trace_is_the_root_of_the_trace_that_the_logs_name(
    exported: InMemorySpanExporter,
) -> None:
    while True:
        continue_trace(None)
        named = traceparent()
        with tracing.request("consent", "POST", continues=False) as span:
            within = traceparent()
        if span is not NOTHING:
            break
    (kept,) = exported.get_finished_spans()
    assert kept.parent is None
    assert context(kept) == within
    assert trace_id() == context(kept).split("-")[1]
    assert traceparent() == named, "the span is over"


def test_a_request_goes_on_with_the_trace_that_its_caller_names(exported: InMemorySpanExporter) -> None:
    continue_trace(KEPT)
    with tracing.request("consent", "POST", continues=True) as span:
        span.note("http.route", "/v1/consents")
        span.rename("POST /v1/consents")
    (kept,) = exported.get_finished_spans()
    assert (kept.name, kept.instrumentation_scope and kept.instrumentation_scope.name) == (
        "POST /v1/consents",
        "consent",
    )
    assert kept.parent is not None
    assert f"{kept.parent.span_id:016x}" == "1" * 16


def test_the_trace_id_alone_decides_whatever_flag_a_caller_sends(exported: InMemorySpanExporter) -> None:
    for parent in (DROPPED, f"{KEPT[:-2]}00"):
        continue_trace(parent)
        with tracing.request("consent", "POST", continues=True):
            pass
    assert [context(span).split("-")[1] for span in exported.get_finished_spans()] == [KEPT.split("-")[1]]


def test_an_error_is_told_by_its_type_alone(exported: InMemorySpanExporter) -> None:
    continue_trace(KEPT)
    with pytest.raises(ValueError, match="0639980001"), tracing.request("consent", "POST", continues=True):
        raise ValueError("no such person: 0639980001")
    (kept,) = exported.get_finished_spans()
    assert (kept.attributes or {})["error.type"] == "ValueError"
    assert kept.events == ()
    assert "0639980001" not in kept.to_json()


def test_an_attribute_that_is_not_on_the_list_is_refused(exported: InMemorySpanExporter) -> None:
    continue_trace(KEPT)
    span = tracing.request("consent", "POST", continues=True)
    with pytest.raises(ValueError, match=r"'http\.url' is no attribute of a span"):
        span.note("http.url", "/v1/consents?number=…")
    span.end()
    assert len(exported.get_finished_spans()) == 1


def test_a_batch_is_a_span_in_the_first_trace_kept_with_links_to_and_from_the_others(
    exported: InMemorySpanExporter,
) -> None:
    other = KEPT.replace("a", "c")
    batch = [Event(None), Event(DROPPED), Event(KEPT), Event(KEPT), Event("0639980001"), Event(other)]
    tracing.processing("consent.inbound", "inbound.messages.v1", batch).end()
    kept, of_other = exported.get_finished_spans()
    assert kept.name == of_other.name == "process inbound.messages.v1"
    assert of_other.context is not None
    assert [context(of_other).split("-")[1]] == [other.split("-")[1]]
    assert [link.context.span_id for link in of_other.links] == [kept.context and kept.context.span_id]
    assert kept.parent is not None
    assert f"{kept.parent.trace_id:032x}" == KEPT.split("-")[1]
    assert [f"{link.context.trace_id:032x}" for link in kept.links] == [other.split("-")[1]]
    assert (kept.attributes or {})["messaging.batch.message_count"] == 6
    assert traceparent() == context(kept), "what follows the commit belongs to the batch"


def test_a_batch_of_thousands_has_few_links(exported: InMemorySpanExporter) -> None:
    batch = [Event(f"00-{n:018x}{n:014x}-{'1' * 16}-01") for n in range(1, 2000)]
    tracing.processing("consent.inbound", "inbound.messages.v1", batch).end()
    kept, *of_others = exported.get_finished_spans()
    assert len(kept.links) == len(of_others) == tracing.LINKS


def test_a_transaction_has_a_span_below_the_current_one_and_nothing_has_a_span_below_the_transaction(
    exported: InMemorySpanExporter,
) -> None:
    continue_trace(KEPT)
    with tracing.request("consent", "POST", continues=True):
        within = traceparent()
        with tracing.transaction("consent"):
            assert traceparent() == within
        with pytest.raises(ValueError, match="0639980001"), tracing.transaction("consent"):
            raise ValueError("no such person: 0639980001")
    committed, failed, request = exported.get_finished_spans()
    assert committed.name == failed.name == "transaction"
    assert committed.attributes == {"db.system.name": "postgresql"}
    assert failed.attributes == {"db.system.name": "postgresql", "error.type": "ValueError"}
    assert request.context is not None
    assert {span.parent and span.parent.span_id for span in (committed, failed)} == {request.context.span_id}


def test_a_transaction_outside_of_a_span_has_none(exported: InMemorySpanExporter) -> None:
    forget_span()
    assert tracing.transaction("consent") is NOTHING
    continue_trace(KEPT)
    assert tracing.transaction("consent") is NOTHING, "as of a probe of health: the request has no span"
    continue_trace(DROPPED)
    with tracing.request("consent", "POST", continues=True):
        assert tracing.transaction("consent") is NOTHING


def test_an_exemplar_of_a_message_names_its_own_trace_if_that_is_kept(exported: InMemorySpanExporter) -> None:
    assert tracing.exemplar_of(MESSAGE) == {"trace_id": MESSAGE.hex}
    assert tracing.exemplar_of(UUID(int=MESSAGE.int | 0xFF << 48)) is None


def test_a_batch_that_is_rolled_back_leaves_no_span(exported: InMemorySpanExporter) -> None:
    tracing.processing("consent.inbound", "inbound.messages.v1", [Event(KEPT)])
    assert exported.get_finished_spans() == ()


def test_a_turn_of_the_relay_has_one_span_for_each_trace_and_topic(exported: InMemorySpanExporter) -> None:
    turn, created_at = tracing.publications("consent"), datetime.now(UTC)
    first = turn.context("consent.states.v1", KEPT, created_at)
    assert turn.context("consent.states.v1", KEPT, created_at) == first != KEPT
    assert turn.context("consent.sums.v1", KEPT, created_at) != first
    assert turn.context("consent.states.v1", DROPPED, created_at) == DROPPED
    assert turn.context("consent.states.v1", None, created_at) is None
    assert exported.get_finished_spans() == (), "Kafka has acknowledged nothing yet"
    turn.end()
    assert [span.name for span in exported.get_finished_spans()] == [
        "publish consent.states.v1",
        "publish consent.sums.v1",
    ]


def test_a_message_has_a_trace_of_its_own_whose_id_is_the_message_id(exported: InMemorySpanExporter) -> None:
    continue_trace(KEPT)
    tracing.accepted("dispatch", [MESSAGE])
    with tracing.submitting("dispatch", "main", [Submit(str(MESSAGE))]):
        pass
    tracing.matched("dispatch", "DLR matched", [MESSAGE])
    spans = exported.get_finished_spans()
    own = [span for span in spans if span.context and span.context.trace_id == MESSAGE.int]
    assert [span.name for span in own] == ["message accepted", "submit main", "DLR matched"]
    root, *others = own
    assert root.parent is None
    assert root.context is not None
    assert {span.parent and span.parent.span_id for span in others} == {root.context.span_id}
    assert all(span.links for span in own)
    assert len(spans) == 4, "the submit is in the trace of its batch as well"


def test_a_message_whose_trace_is_not_kept_has_no_span(exported: InMemorySpanExporter) -> None:
    unkept = UUID(int=MESSAGE.int | 0xFF << 48)
    continue_trace(None)
    tracing.accepted("dispatch", [unkept])
    tracing.matched("dispatch", "DLR matched", [unkept])
    assert exported.get_finished_spans() == ()
