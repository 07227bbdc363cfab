"""Trace requests, events and submits by OpenTelemetry, where PLACET_TRACES_URL is set.

Without the setting each function returns a shared object that does nothing, and the SDK is never imported. A batch of
events has one span, and one in each further trace that is kept, at most LINKS, with links between them. A batch that is
rolled back leaves no span.

A transaction of the database has one span, whatever the number of its statements, within a request or after a batch.
The transaction of a batch is the batch's span itself.

A message has a trace of its own, whose id is the message id: accepted, submitted, its DLR matched, with links to the
traces that brought each step. Hours may lie between two steps, and no table keeps a trace.

The id of a trace alone decides whether its spans are kept (PLACET_TRACES_RATIO): every service decides alike, and no
caller gets more kept by a flag of its `traceparent`.

An attribute has a name of ATTRIBUTES, and a value of the code: a template, a topic, a gateway, a count. A message id is
derived, and names nobody. An error is its type, because the message of an error may hold a number.
"""

import hashlib
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import Token
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, cast
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from common.telemetry import (
    EXEMPLAR,
    continue_trace,
    enter_span,
    is_traceparent,
    kept_trace,
    leave_span,
    trace_id,
    traceparent,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator

Value = str | int
ATTRIBUTES = frozenset(
    (
        "db.system.name",
        "error.type",
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "messaging.batch.message_count",
        "messaging.consumer.group.name",
        "messaging.destination.name",
        "messaging.operation.name",
        "messaging.system",
        "placet.gateway",
        "placet.message.id",
    )
)
LINKS = 64  # of a batch
EXPORTED_WITHIN_S = 10
IDS = 1 << 56


class Traced(Protocol):
    """An event with the trace context of its record."""

    @property
    def traceparent(self) -> str | None: ...


class Referred(Protocol):
    """A message on its way to a gateway; `reference` is its id."""

    @property
    def reference(self) -> str: ...


class Span:
    """A span that is not kept. `with` makes a span the current one for the block."""

    __slots__ = ()

    def note(self, attribute: str, value: Value) -> None:
        """Set an attribute of ATTRIBUTES."""

    def rename(self, name: str) -> None: ...

    def failed(self, kind: str) -> None: ...

    def end(self) -> None: ...

    def __enter__(self) -> "Span":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None: ...


class Publications:
    """The publications of a relay's turn, not kept."""

    __slots__ = ()

    def context(self, topic: str, parent: str | None, created_at: datetime) -> str | None:
        """Return the trace context of an event's record."""
        return parent

    def end(self) -> None:
        """End the spans: Kafka has acknowledged the records."""


NOTHING = Span()
NO_PUBLICATIONS = Publications()


class _Kept(Span):
    __slots__ = ("_span", "_token")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._token: Token[str | None] | None = None

    @property
    def context(self) -> str:
        made = self._span.get_span_context()
        return f"00-{made.trace_id:032x}-{made.span_id:016x}-01"

    def note(self, attribute: str, value: Value) -> None:
        if attribute not in ATTRIBUTES:
            raise ValueError(f"{attribute!r} is no attribute of a span: add it to ATTRIBUTES, if it tells of nobody")
        self._span.set_attribute(attribute, value)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def failed(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.Status(trace.StatusCode.ERROR))

    def end(self) -> None:
        self._span.end()

    def __enter__(self) -> Span:
        self._token = enter_span(self.context)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.failed(kind.__name__)
        self._span.end()
        assert self._token is not None
        leave_span(self._token)


class _Ids:
    """Ids of spans: random, but of a root, whose trace is told before."""

    def __init__(self) -> None:
        self.next: tuple[int, int | None] | None = None  # a trace, and perhaps its first span

    def is_trace_id_random(self) -> bool:
        return False

    def generate_trace_id(self) -> int:
        assert self.next is not None
        return self.next[0]

    def generate_span_id(self) -> int:
        told, self.next = self.next, None
        return told[1] if told is not None and told[1] is not None else random.getrandbits(64) or 1


class _Tracing:
    """The tracing of a process."""

    def __init__(self, service: str, exporter: "SpanExporter", ratio: float, *, at_once: bool) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        self._below = round(ratio * IDS)
        self._ids = _Ids()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": f"{service}-svc", "service.namespace": "placet"}),
            id_generator=cast("IdGenerator", self._ids),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter))

    def close(self) -> None:
        self._provider.shutdown()

    def keeps(self, parent: str) -> bool:
        """Return whether the spans of a trace are kept, by the 56 random bits of its id (W3C Trace Context 2)."""
        return int(parent[21:35], 16) < self._below

    def begun(
        self,
        service: str,
        name: str,
        kind: SpanKind,
        parent: str | None,
        attributes: Mapping[str, Value],
        links: Sequence[str] = (),
        since: datetime | None = None,
        root: tuple[int, int | None] | None = None,
    ) -> _Kept:
        """Begin a span. Without a parent the span is the root of the current trace."""
        within = Context()
        if parent is None:
            self._ids.next = root or (int(trace_id() or "", 16), None)
        else:
            within = trace.set_span_in_context(trace.NonRecordingSpan(_read(parent)), within)
        begun_ns = None if since is None else min(int(since.timestamp() * 1e9), time.time_ns())
        made = self._provider.get_tracer(service).start_span(
            name, within, kind, attributes, [trace.Link(_read(each)) for each in links], begun_ns
        )
        return _Kept(made)

    def of_message(self, service: str, name: str, message_id: UUID, *, is_root: bool = True) -> None:
        """Keep an instant in the trace of a message."""
        root, current = _root_of(message_id), traceparent()
        if not self.keeps(root):
            return
        links = [current] if current is not None and self.keeps(current) else []
        attributes = {"placet.message.id": str(message_id)}
        first, parent = _read(root), None if is_root else root
        span = self.begun(
            service, name, SpanKind.INTERNAL, parent, attributes, links, root=(first.trace_id, first.span_id)
        )
        span.end()


def _read(parent: str) -> trace.SpanContext:
    _, of_trace, span_id, _ = parent.split("-")
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    return trace.SpanContext(int(of_trace, 16), int(span_id, 16), is_remote=True, trace_flags=flags)


class _KeptPublications(Publications):
    """A span for each trace and topic, from the transaction of the events to the acknowledgement."""

    __slots__ = ("_on", "_service", "_spans")

    def __init__(self, on: _Tracing, service: str) -> None:
        self._on = on
        self._service = service
        self._spans: dict[tuple[str, str], _Kept] = {}

    def context(self, topic: str, parent: str | None, created_at: datetime) -> str | None:
        if parent is None or not _keeps(self._on, parent):
            return parent
        span = self._spans.get((topic, parent))
        if span is None:
            attributes = {
                "messaging.system": "kafka",
                "messaging.operation.name": "publish",
                "messaging.destination.name": topic,
            }
            span = self._spans[topic, parent] = self._on.begun(
                self._service, f"publish {topic}", SpanKind.PRODUCER, parent, attributes, since=created_at
            )
        return span.context

    def end(self) -> None:
        for span in self._spans.values():
            span.end()


def _keeps(on: _Tracing, parent: str) -> bool:
    """Return whether spans of the trace are kept; a record of a foreign topic may name anything as its trace."""
    return is_traceparent(parent) and on.keeps(parent)


class _Several(Span):
    """The spans of one piece of work, in one trace or several. `with` makes none current."""

    __slots__ = ("_spans",)

    def __init__(self, spans: Sequence[_Kept]) -> None:
        self._spans = spans

    def end(self) -> None:
        for span in self._spans:
            span.end()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for span in self._spans:
            if kind is not None:
                span.failed(kind.__name__)
        self.end()


_on: _Tracing | None = None


def start(service: str, url: str | None, ratio: float) -> None:
    """Send spans to the collector at `url` from now on; without one do nothing."""
    if url is not None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        start_with(service, OTLPSpanExporter(f"{url.rstrip('/')}/v1/traces", timeout=EXPORTED_WITHIN_S), ratio)


def start_with(service: str, exporter: "SpanExporter", ratio: float = 1.0, *, at_once: bool = False) -> None:
    """Give spans to the exporter from now on. `at_once`: each as it ends, where nothing waits for the process."""
    global _on
    assert _on is None, "a process has one tracing"
    _on = _Tracing(service, exporter, ratio, at_once=at_once)


def stop() -> None:
    """Begin no more spans, and send those that wait. Blocks until the collector has answered, or is given up."""
    global _on
    ending, _on = _on, None
    if ending is not None:
        ending.close()


def request(service: str, method: str, *, continues: bool) -> Span:
    """Return the span of an HTTP request in the current trace. `continues`: the caller named the trace."""
    parent = traceparent()
    if _on is None or parent is None or not _on.keeps(parent):
        return NOTHING
    attributes = {"http.request.method": method}
    return _on.begun(service, method, SpanKind.SERVER, parent if continues else None, attributes)


def processing(group: str, topic: str, batch: Sequence[Traced]) -> Span:
    """Continue the trace of a batch, and return its begun span, which stays current: the work after the commit is its.

    The trace is the first that is kept. The span links to the others that are, and each of them has a span with a link
    back, so every trace leads to the effects of the batch.
    """
    if _on is None:
        continue_trace(batch[0].traceparent)
        return NOTHING
    named = dict.fromkeys(each.traceparent for each in batch if each.traceparent is not None)
    first, *others = [parent for parent in named if _keeps(_on, parent)] or [batch[0].traceparent or ""]
    continues = continue_trace(first)
    parent = traceparent()
    if parent is None or not _on.keeps(parent):
        return NOTHING
    attributes: dict[str, Value] = {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.destination.name": topic,
        "messaging.consumer.group.name": group,
        "messaging.batch.message_count": len(batch),
    }
    service, name = group.partition(".")[0], f"process {topic}"
    parent, linked = parent if continues else None, others[:LINKS]
    span = _on.begun(service, name, SpanKind.CONSUMER, parent, attributes, linked)
    enter_span(span.context)
    if not linked:
        return span
    of_others = [_on.begun(service, name, SpanKind.CONSUMER, other, attributes, [span.context]) for other in linked]
    return _Several([span, *of_others])


def publications(service: str) -> Publications:
    """Return the publications of a turn of the relay."""
    return NO_PUBLICATIONS if _on is None else _KeptPublications(_on, service)


def accepted(service: str, message_ids: Iterable[UUID]) -> None:
    """Begin the trace of each message: its id is the message's, with a link to the trace that brought the message."""
    if _on is not None:
        for message_id in message_ids:
            _on.of_message(service, "message accepted", message_id)


def submitting(service: str, gateway: str, submits: Sequence[Referred]) -> Span:
    """Return the span of a submit in the trace of each message, and of the batch in the current trace."""
    if _on is None:
        return NOTHING
    attributes: dict[str, Value] = {"placet.gateway": gateway, "messaging.batch.message_count": len(submits)}
    spans, name, parent = list[_Kept](), f"submit {gateway}", traceparent()
    if parent is not None and _on.keeps(parent):
        spans.append(_on.begun(service, name, SpanKind.CLIENT, parent, attributes))
    links = [span.context for span in spans]
    for each in submits:
        root = _root_of(UUID(each.reference))
        if _on.keeps(root):
            told = {**attributes, "placet.message.id": each.reference}
            spans.append(_on.begun(service, name, SpanKind.CLIENT, root, told, links))
    return _Several(spans) if spans else NOTHING


def matched(service: str, name: str, message_ids: Iterable[UUID]) -> None:
    """Keep an instant in the trace of each message, with a link to the current trace."""
    if _on is not None:
        for message_id in message_ids:
            _on.of_message(service, name, message_id, is_root=False)


def mark(service: str, name: str, many: int) -> None:
    """Keep an instant of the current trace."""
    parent = traceparent()
    if _on is not None and parent is not None and _on.keeps(parent):
        _on.begun(service, name, SpanKind.INTERNAL, parent, {"messaging.batch.message_count": many}).end()


def transaction(service: str) -> Span:
    """Return the span of a transaction of the database, where the current trace has a span already.

    No event, log line or statement continues the trace below the span.
    """
    if _on is None:
        return NOTHING
    parent = traceparent()
    if parent is None or kept_trace() is None:
        return NOTHING
    return _Several([_on.begun(service, "transaction", SpanKind.CLIENT, parent, {"db.system.name": "postgresql"})])


def exemplar_of(message_id: UUID) -> dict[str, str] | None:
    """Return the exemplar that names a message's own trace, where the trace is kept."""
    if _on is None or not _on.keeps(_root_of(message_id)):
        return None
    return {EXEMPLAR: message_id.hex}


def _root_of(message_id: UUID) -> str:
    """Return the context of the first span in a message's trace."""
    return f"00-{message_id.hex}-{hashlib.sha256(message_id.bytes).hexdigest()[:16]}-01"
