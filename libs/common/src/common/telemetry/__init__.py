"""Write logs and metrics, and carry the trace context.

The log formatter masks every apparent phone number, whichever code wrote the line, and no metric has a label for
personal data.
"""

import json
import logging
import re
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Metric, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

METRIC_NAME = re.compile(r"sms_[a-z]+_[a-z_]+$")
# Nine digits or more, with up to three separators between two digits: spaces, dots, dashes, invisible characters, also
# as in a URL (%20) or in the repr of a string (\\xa0).
NUMBER_LIKE = (
    r"\+?\d(?:(?:[\s.\-/()+_·'’\u00ad\u200b-\u200f\u2010-\u2015\u2060\u202a-\u202e\u2066-\u2069\u2212\ufeff]"
    r"|%[0-9A-Fa-f]{2}|\\{1,4}(?:x[0-9a-f]{2}|u[0-9a-f]{4}|[nrt])){0,3}\d){8,}"
)
# similar to a number: UUIDs, hashes, subject and trace ids, operators' ids, times, addresses
NO_NUMBER = (
    r"(?<![0-9A-Za-z])(?:"
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?:[A-Za-z]\w{0,15}-)?(?=[0-9]*[a-f])(?:[0-9a-f]{64}|[0-9a-f]{40}|[0-9a-f]{32}|[0-9a-f]{24}|[0-9a-f]{16})"
    r"|[A-Z]{2}[0-9a-f]{32}"
    r"|(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    r"(?:[T ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d{1,6})?)?(?:Z|[+-][01]\d:?[0-5]\d)?)?"
    r"|(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?!\.?\d)"
    r")(?![0-9A-Za-z])"
)
MASKED = re.compile(f"(?P<kept>{NO_NUMBER})|{NUMBER_LIKE}")
DIGIT = re.compile(r"\d")
COUNTED = frozenset(("offset",))  # integer fields that reach nine digits without being a number
OPENMETRICS, OF_VERSION_1 = "application/openmetrics-text", frozenset(("", "version=1.0.0"))
EXEMPLAR = "trace_id"  # the label of an exemplar
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which no alert and no chart reads

_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
_kept: ContextVar[str | None] = ContextVar("kept", default=None)  # the trace of the last span, if its spans are kept


def traceparent() -> str | None:
    """Return the current W3C trace context."""
    return _traceparent.get()


def continue_trace(parent: str | None) -> bool:
    """Continue the caller's trace, or start a trace. Return whether the caller's trace goes on."""
    _kept.set(None)
    if parent is not None and is_traceparent(parent):
        _traceparent.set(parent)
        return True
    drawn = secrets.token_hex(24)
    _traceparent.set(f"00-{drawn[:32]}-{drawn[32:]}-01")
    return False


def enter_span(parent: str) -> Token[str | None]:
    """Make a kept span of the trace the current one, until `leave_span` gets the token back."""
    _kept.set(parent.split("-")[1])
    return _traceparent.set(parent)


def leave_span(token: Token[str | None]) -> None:
    _traceparent.reset(token)


class Trace(NamedTuple):
    """A trace to go on with. `parent`: the trace context; `kept`: the trace, if its spans are kept."""

    parent: str | None
    kept: str | None


def current_trace() -> Trace:
    """Return the trace of the current work, for a task that does the work together with others."""
    return Trace(_traceparent.get(), _kept.get())


def resume_trace(trace: Trace) -> None:
    """Go on with a trace in this task, which has gone on with another's before."""
    _traceparent.set(trace.parent)
    _kept.set(trace.kept)


def kept_trace() -> str | None:
    """Return the trace of the last span, also once the span has ended; None where no span is kept."""
    return _kept.get()


def forget_span() -> None:
    """Give the following work no span and no exemplar, until the next span: the last was of other work."""
    _kept.set(None)


def is_traceparent(parent: str) -> bool:
    return TRACEPARENT.match(parent) is not None


def trace_id() -> str | None:
    parent = _traceparent.get()
    return parent.split("-")[1] if parent else None


def masked(text: str) -> str:
    """Return `text` with every apparent phone number masked."""
    if DIGIT.search(text) is None:  # true of most log lines
        return text
    return MASKED.sub(lambda found: found["kept"] or "[number]", text)


def _shown(name: str, value: object) -> object:
    """Return an `extra` field as logged."""
    if value is None or isinstance(value, bool) or (name in COUNTED and isinstance(value, int)):
        return value
    shown = masked(str(value))
    return value if isinstance(value, int | float) and shown == str(value) else shown


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object per line."""

    standard = frozenset(vars(logging.makeLogRecord({}))) | {
        "message",
        "asctime",
        "taskName",
        "color_message",
    }

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "service": self.service,
            "logger": record.name,
            "message": masked(record.getMessage()),
        }
        if trace := trace_id():
            line["trace_id"] = trace
        for name, value in vars(record).items():
            if name not in self.standard:
                line[name] = _shown(name, value)
        if record.exc_info:
            line["error"] = masked(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class Sparingly(logging.Filter):
    """Passes a line per place in the code every ten seconds, for one library.

    Without the broker, the Kafka client logs a thousand times a second.
    """

    every_s = 10.0

    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = logging.Filter(library)
        self._next: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not self._library.filter(record):
            return True
        place = (record.pathname, record.lineno)
        if record.created < self._next.get(place, 0.0):
            return False
        self._next[place] = record.created + self.every_s
        return True


def log_to_stderr(service: str, level: int = logging.INFO) -> None:
    """Write all logs as JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    handler.addFilter(Sparingly("aiokafka"))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # aiokafka warns at each retry


class _Labelled(MetricWrapperBase):
    """A metric that finds a series it has by one look: the library takes a lock, and writes each label anew."""

    def labels(self, *labelvalues: Any, **labelkwargs: Any) -> Self:
        found: Any = self._metrics.get(labelvalues)
        return found or super().labels(*labelvalues, **labelkwargs)


class _Counter(_Labelled, Counter):
    pass


class _Gauge(_Labelled, Gauge):
    pass


class _WithExemplars(_Labelled, Histogram):
    """A histogram whose buckets name the trace of their last observation, where the spans of the trace are kept."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        if exemplar is None and (trace := _kept.get()) is not None:
            exemplar = {EXEMPLAR: trace}
        super().observe(amount, exemplar)


def counter(name: str, what: str, labels: Sequence[str] = ()) -> Counter:
    return _Counter(_named(name), what, labels)


def gauge(name: str, what: str, labels: Sequence[str] = ()) -> Gauge:
    return _Gauge(_named(name), what, labels)


def histogram(name: str, what: str, labels: Sequence[str] = (), buckets: Sequence[float] = ()) -> Histogram:
    return _WithExemplars(_named(name), what, labels, buckets=tuple(buckets) or Histogram.DEFAULT_BUCKETS)


class _Strict(Collector):
    """The registry as OpenMetrics takes it: a histogram without a sum, whose buckets begin below 0, has no count."""

    def collect(self) -> Iterator[Metric]:
        for family in REGISTRY.collect():
            if family.type == "histogram" and not any(sample.name.endswith("_sum") for sample in family.samples):
                family.samples = [sample for sample in family.samples if not sample.name.endswith("_count")]
            yield family


def exposed(accept: str) -> tuple[bytes, str]:
    """Return the metrics of the process and their type: OpenMetrics, with exemplars, where `accept` names version 1."""
    for name, *more in ([part.strip() for part in each.split(";")] for each in accept.split(",")):
        version = next((part for part in more if part.startswith("version=")), "")
        if name == OPENMETRICS and version in OF_VERSION_1:
            content: bytes = openmetrics.generate_latest(_Strict())  # type: ignore[no-untyped-call]
            return content, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(_Strict()), CONTENT_TYPE_PLAIN_0_0_4


def _named(name: str) -> str:
    if not METRIC_NAME.match(name):
        raise ValueError(f"{name!r} is not sms_<service>_<noun>_<unit>")
    return name
