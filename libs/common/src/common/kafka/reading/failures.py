"""Failures of a consumer's batches, and how long partitions rest."""

import random
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from aiokafka import TopicPartition

from common.telemetry import gauge

HOLD_S = (0.1, 1.0)
BACK_OFF_S = (0.1, 30.0)

FAILING = gauge(
    "sms_consumer_failing_seconds", "Seconds since the worst partition began to fail; 0 without a failure.", ["topic"]
)


@dataclass(slots=True)
class _Attempts:
    failing_since: float | None = None
    failures: int = 0
    holds: int = 0  # in a row


@dataclass(slots=True)
class Failures:
    """`failing_s`: of the worst partition."""

    topic: str
    failing_s: float = 0.0
    _partitions: dict[TopicPartition, _Attempts] = field(default_factory=dict)

    def failed(self, tp: TopicPartition, started: float) -> float:
        """Note a failure since `started`; return the seconds to rest."""
        attempts = self._partitions.setdefault(tp, _Attempts())
        attempts.failures += 1
        attempts.failing_since = attempts.failing_since or started
        self._show()
        back_off = min(BACK_OFF_S[0] * 2.0 ** min(attempts.failures, 10), BACK_OFF_S[1])
        return back_off * random.uniform(0.5, 1.0)  # noqa: S311 jitter

    def held(self, tp: TopicPartition) -> float:
        """Note a hold; return the seconds to rest."""
        attempts = self._partitions.setdefault(tp, _Attempts())
        rest = min(HOLD_S[0] * 2.0**attempts.holds, HOLD_S[1])
        attempts.holds = min(attempts.holds + 1, 10)
        return rest

    def count(self, tp: TopicPartition) -> int:
        """Return the failures in a row."""
        return self._partitions[tp].failures if tp in self._partitions else 0

    def ended(self, tp: TopicPartition) -> None:
        """Note a success."""
        self._partitions.pop(tp, None)
        self._show()

    def keep(self, ours: Collection[TopicPartition]) -> None:
        """Forget other partitions."""
        self._partitions = {tp: attempts for tp, attempts in self._partitions.items() if tp in ours}
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        since = [each.failing_since for each in self._partitions.values() if each.failing_since]
        self.failing_s = max((now - each for each in since), default=0.0)
        FAILING.labels(self.topic).set(self.failing_s)
