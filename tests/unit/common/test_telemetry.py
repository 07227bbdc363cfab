"""No phone number reaches the log, however it is spelled and whoever wrote it; ids, times and addresses do."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.telemetry import (
    JsonLines,
    continue_trace,
    counter,
    gauge,
    histogram,
    log_to_stderr,
    masked,
    trace_id,
    traceparent,
)

NATIONAL = "0639980001"
BETWEEN = [
    *("", " ", ".", "-", "/", "_", "+", "  ", " - ", ") ", " (", "\n"),
    *("\u00a0", "\u202f", "\u2009", "\u2011", "\u2013", "\u00b7", "\u200b"),  # typography, and what nobody sees
    *("%20", "%C2%A0", "\\xa0", "\\u202f"),  # in a URL, in the repr of a string
]
BEFORE = ["", " ", "to ", "=", "'", '"', "(", ":", "From=", "From=%2B", "tel:", "+", "\\n", "x", "_", "[", "{", "€"]
AFTER = ["", " ", ".", ",", "'", "\\n", "x", "_", ")", "&To=36111", "!"]


@st.composite
def spelled(draw: st.DrawFn) -> str:
    """The number with marks between its digits as people, forms, URLs and tracebacks write them."""
    digits = draw(st.sampled_from([NATIONAL, "33639980001", "0033639980001", "330639980001"]))
    mark = draw(st.sampled_from(BETWEEN))
    at = draw(st.sets(st.integers(1, len(digits) - 1)))
    return "".join(mark + digit if place in at else digit for place, digit in enumerate(digits))


def line(message: str, *args: object, exc: BaseException | None = None, **extra: object) -> dict[str, object]:
    record = logging.LogRecord("test", logging.INFO, "path", 1, message, args, None)
    if exc is not None:
        record.exc_info = (type(exc), exc, exc.__traceback__)
    vars(record).update(extra)
    text = JsonLines("consent").format(record)
    assert "\n" not in text
    found: dict[str, object] = json.loads(text)
    return found


def _tail_of_a_number(found: object) -> bool:
    """Enough of it to find somebody: its last six digits, whatever is between them."""
    digits = "".join(c for c in json.dumps(found).replace("\\\\xa0", "").replace("\\\\u202f", "") if c.isdigit())
    return "980001" in digits


@given(spelled(), st.sampled_from(BEFORE), st.sampled_from(AFTER))
def test_a_number_is_masked_however_it_is_spelled(number: str, before: str, after: str) -> None:
    assert not _tail_of_a_number(masked(f"{before}{number}{after}"))


@given(spelled())
def test_no_number_passes_by_message_argument_extra_or_exception(number: str) -> None:
    try:
        try:
            raise KeyError(number)
        except KeyError as cause:
            raise ValueError(f"refused {number!r}") from cause
    except ValueError as error:
        found = line(
            "a message for %s",
            number,
            exc=error,
            to=number,
            deep={"a": [number]},
            error_object=error,
            raw=number.encode(),
        )
    found.pop("time")
    assert not _tail_of_a_number({name: value for name, value in found.items() if name != "error"})
    assert "980001" not in str(found["error"])
    assert "[number]" in str(found["message"])


@pytest.mark.parametrize("number", [639980001, 33639980001, 33639980001.0])
def test_a_number_that_somebody_made_an_integer_is_masked(number: float) -> None:
    assert line("n", subject=number)["subject"] == "[number]"


@pytest.mark.parametrize(
    "kept",
    [
        "019b8f1a-7c00-8abc-9def-0123456789ab",
        "12345678-1234-8234-8234-123456789012",
        "s1-12345678901234567890123456789a12",
        "mo-019b8f1a-7c00-8abc-9def-0123456789ab",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "SM00000000000000000000000000000001",
        "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567",
        "2026-01-06",
        "2026-01-06T09:30:00.123456+00:00",
        "2026-01-06 09:30:00.123456+00:00",
        "2026-01-06T09:30:00Z",
        "from 2026-01-06 09:30 to 2026-01-06 10:30",
        "10.244.123.118",
        "('10.244.123.118', 59092)",
        "127.0.0.1:59092",
        "36111",
        "partition 3 of consent.states.v1 at 12345678",
    ],
)
def test_what_names_no_person_stays_as_it_is(kept: str) -> None:
    assert masked(kept) == kept
    assert masked(f"x {kept} y") == f"x {kept} y"


@given(st.uuids(), st.datetimes(datetime(2000, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_ids_and_times_survive(identity: UUID, at: datetime) -> None:
    found = line(
        f"{identity} {at.isoformat()} {at}", message_id=identity, at=at, count=3, share=0.25, ok=True, none=None
    )
    assert found["message"] == f"{identity} {at.isoformat()} {at}"
    assert found["message_id"] == str(identity)
    assert found["at"] == str(at)
    assert (found["count"], found["share"], found["ok"], found["none"]) == (3, 0.25, True, None)


def test_an_offset_may_grow_as_long_as_a_number() -> None:
    assert line("poison", offset=12_345_678_901)["offset"] == 12_345_678_901


def test_a_line_says_when_what_where_and_in_which_trace() -> None:
    continue_trace("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    found = line("rows: %d", 3, topic="consent.states.v1")
    assert datetime.fromisoformat(str(found.pop("time"))).tzinfo is not None
    assert found == {
        "level": "info",
        "service": "consent",
        "logger": "test",
        "message": "rows: 3",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "topic": "consent.states.v1",
    }


@pytest.fixture
def root_as_it_was() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.usefixtures("root_as_it_was")
def test_every_logger_of_the_process_writes_such_lines(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("inbound")
    logging.getLogger("uvicorn.error").error("from %s", NATIONAL)
    logging.getLogger("somebody.elses").warning("to %s", NATIONAL)
    lines = [json.loads(text) for text in capsys.readouterr().err.splitlines()]
    assert [found["message"] for found in lines] == ["from [number]", "to [number]"]
    assert {found["service"] for found in lines} == {"inbound"}


@pytest.mark.parametrize("parent", [None, "", "nonsense", "00-" + "g" * 32 + "-" + "0" * 16 + "-01", "00-12-34-01\n"])
def test_a_trace_that_cannot_be_continued_is_begun_anew(parent: str | None) -> None:
    continue_trace(parent)
    assert traceparent() != parent
    assert len(trace_id() or "") == 32


@pytest.mark.parametrize("make", [counter, gauge, histogram])
@pytest.mark.parametrize("name", ["requests_total", "sms_Requests_total", "sms_requests", "http_sms_total"])
def test_a_metric_of_another_name_is_refused(make: object, name: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="sms_<service>_<noun>_<unit>"):
        make(name, "What it counts.")
