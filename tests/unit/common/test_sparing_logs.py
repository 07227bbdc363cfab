"""A library that shouts while the broker is away does not drown our own lines."""

import logging

from common.telemetry import Sparingly


def test_a_client_that_shouts_is_heard_once_and_everybody_else_always() -> None:
    sparingly = Sparingly("aiokafka")
    shout = logging.makeLogRecord({"name": "aiokafka.conn", "pathname": "conn.py", "lineno": 7, "created": 100.0})
    ours = logging.makeLogRecord(
        {"name": "common.kafka.outbox", "pathname": "outbox.py", "lineno": 7, "created": 100.0}
    )
    later = logging.makeLogRecord({"name": "aiokafka.conn", "pathname": "conn.py", "lineno": 7, "created": 111.0})
    assert [sparingly.filter(r) for r in (shout, shout, ours, ours, later)] == [True, False, True, True, True]
