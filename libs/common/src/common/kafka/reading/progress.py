"""Progress of a consumer: whether it reads its partitions on. Pure but for its memory.

`now`: seconds of a monotonic clock. A partition makes progress when its position moves, or when the broker answers that
no record follows. A partition that is busy owes no progress. Every other standstill is a stall, even without an error.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

CAREFUL_S = 10.0  # after an error of no known partition, to read each by itself
RENEW_S = 30.0  # without any answer: the client may have died
OPEN_TRANSACTION = "a producer has not ended its transaction"
RETRY_S = 10.0  # between attempts at an unreadable partition


@dataclass(slots=True)
class _Reading:
    since: float  # last progress
    position: int = -1
    answer: int | None = None  # its arrival, in ms
    why: str | None = None  # class of the last attempt's error
    waits: bool = False  # for the end of a producer's transaction
    failures: int = 0


@dataclass(slots=True)
class Progress:
    _readings: dict[int, _Reading] = field(default_factory=dict)
    _dealing_since: float | None = None  # rebalancing since
    _heard: float = 0.0  # last progress, answer or busy partition
    _why: str | None = None
    _careful_until: float = 0.0

    def dealing(self, now: float) -> None:
        """Note a new client, or a rebalance; stalls go on."""
        self._heard = now
        if self._dealing_since is None:
            self._dealing_since = now

    def dealt(self, partitions: Collection[int], now: float) -> None:
        """Note the partitions assigned to this process."""
        self._dealing_since, self._heard = None, now
        self._readings = {partition: r for partition, r in self._readings.items() if partition in partitions}
        for partition in partitions:
            self.expect(partition, now)
            self._readings[partition].answer = None

    def expect(self, partition: int, now: float) -> None:
        """Expect progress from now on."""
        self._readings.setdefault(partition, _Reading(now))

    def busy(self, partition: int, now: float) -> None:
        """Expect no progress at present."""
        reading = self._readings.setdefault(partition, _Reading(now))
        if reading.why is None:
            reading.since = self._heard = now

    def seen(
        self, partition: int, position: int, end: int | None, answer: int | None, now: float, *, waits: bool = False
    ) -> None:
        """Note the position after a read without an error, unless a rebalance took the partition.

        `waits`: a producer's open transaction keeps the next record back. That is a standstill: a STOP may wait too.
        """
        reading = self._readings.get(partition)
        if reading is None:
            return
        answered = answer is not None and answer != reading.answer
        if position > reading.position or (answered and end is not None and position >= end):
            reading.since, reading.why, reading.failures = now, None, 0
        if position > reading.position or answered:
            self._heard, self._why = now, None
        reading.position, reading.answer, reading.waits = position, answer, waits

    def failed(self, partition: int, why: str, position: int, now: float) -> float:
        """Note an error; return the seconds until the next attempt.

        0 after the first error: the next attempt reads up to the bad record.
        """
        reading = self._readings.setdefault(partition, _Reading(now))
        reading.why, reading.position = why, position
        reading.failures += 1
        return 0.0 if reading.failures == 1 else min(2.0 ** min(reading.failures - 2, 10), RETRY_S)

    def failures(self, partition: int) -> int:
        return self._readings[partition].failures if partition in self._readings else 0

    def trouble(self, why: str, now: float) -> None:
        """Note an error that names no partition."""
        self._why, self._careful_until = why, now + CAREFUL_S

    def is_careful(self, now: float) -> bool:
        """Return whether to read partitions by themselves: an error then costs no other its records."""
        return now < self._careful_until or any(reading.why for reading in self._readings.values())

    def is_silent(self, now: float) -> bool:
        return now - self._heard > RENEW_S

    def stalled_s(self, now: float) -> float:
        """Return the worst stall, in seconds."""
        since = [reading.since for reading in self._readings.values()]
        if self._dealing_since is not None:
            since.append(self._dealing_since)
        return max(0.0, now - min(since, default=now))

    def stalls(self, longer_than_s: float, now: float) -> list[str]:
        """Return a line for each longer stall."""
        said = []
        if self._dealing_since is not None and now - self._dealing_since > longer_than_s:
            why = f" ({self._why})" if self._why else ""
            said.append(f"no partitions have been dealt out for {now - self._dealing_since:.0f} s{why}")
        for partition, reading in sorted(self._readings.items()):
            if now - reading.since > longer_than_s:
                at = f"stands at offset {reading.position}" if reading.position >= 0 else "has not been read"
                why = reading.why or self._why or (OPEN_TRANSACTION if reading.waits else "no error")
                said.append(f"partition {partition} {at} since {now - reading.since:.0f} s ({why})")
        return said
