"""Logs, metrics and the trace context. Nothing personal passes: what looks like a phone number is masked on its way to
the log, whoever wrote it, and metrics have no label that could hold one."""

import json
import logging
import re
import secrets
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import UTC, datetime

from prometheus_client import Counter, Gauge, Histogram

METRIC_NAME = re.compile(r"sms_[a-z]+_[a-z_]+$")
NUMBER_LIKE = re.compile(r"(?<![\w-])(?:\+|00)?\d(?:[\s.\-/()]{0,2}\d){8,14}(?![\w-])")
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$")

_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)


def traceparent() -> str | None:
    """The W3C trace context of the request or event being handled."""
    return _traceparent.get()


def continue_trace(parent: str | None) -> None:
    """Go on with the caller's trace, or start one."""
    if parent is None or not TRACEPARENT.match(parent):
        parent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    _traceparent.set(parent)


def trace_id() -> str | None:
    parent = _traceparent.get()
    return parent.split("-")[1] if parent else None


def masked(text: str) -> str:
    """`text` without anything that looks like a phone number (nine digits or more, however spaced)."""
    return NUMBER_LIKE.sub("[number]", text)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, trace_id, and the `extra` fields given to the call."""

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
                line[name] = value if isinstance(value, int | float | bool | None) else masked(str(value))
        if record.exc_info:
            line["error"] = masked(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def log_to_stderr(service: str, level: int = logging.INFO) -> None:
    """All loggers of the process write JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # it warns at each retry; ours say it once


def counter(name: str, what: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(_named(name), what, labels)


def gauge(name: str, what: str, labels: Sequence[str] = ()) -> Gauge:
    return Gauge(_named(name), what, labels)


def histogram(name: str, what: str, labels: Sequence[str] = (), buckets: Sequence[float] = ()) -> Histogram:
    return Histogram(_named(name), what, labels, buckets=tuple(buckets) or Histogram.DEFAULT_BUCKETS)


def _named(name: str) -> str:
    if not METRIC_NAME.match(name):
        raise ValueError(f"{name!r} is not sms_<service>_<noun>_<unit>")
    return name
