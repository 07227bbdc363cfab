"""Whether the partitions of a consumer are read on. Pure but for its memory; `now` is an argument, in seconds of a
clock that only goes forward.

A partition is read on when its position moves, or when the broker answers that nothing follows. Nothing is asked of a
partition whose batch is being handled, or has to wait: its time begins anew after that. Everything else is a stall,
whatever the error is called, and whether there is one at all.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

CAREFUL_S = 10.0  # after an error of no known partition, each partition is read by itself for so long
RENEW_S = 30.0  # without an answer for any partition: the client itself may have died
RETRY_S = 10.0  # at most between two attempts at a partition that cannot be read


@dataclass(slots=True)
class _Reading:
    since: float  # when the partition was last read on
    position: int = -1
    answer: int | None = None  # which of the broker's answers was the last: when it came, in ms
    why: str | None = None  # class of the error that the last attempt ended with
    failures: int = 0


@dataclass(slots=True)
class Progress:
    _readings: dict[int, _Reading] = field(default_factory=dict)
    _dealing_since: float | None = None  # the group forms
    _heard: float = 0.0  # when a partition was last read on, or needed nothing
    _why: str | None = None
    _careful_until: float = 0.0

    def dealing(self, now: float) -> None:
        """A new client, or the group forms anew. What stands still stands on."""
        self._heard = now
        if self._dealing_since is None:
            self._dealing_since = now

    def dealt(self, partitions: Collection[int], now: float) -> None:
        """From now on these are ours to read."""
        self._dealing_since, self._heard = None, now
        self._readings = {partition: r for partition, r in self._readings.items() if partition in partitions}
        for partition in partitions:
            self.expect(partition, now)
            self._readings[partition].answer = None

    def expect(self, partition: int, now: float) -> None:
        """From now on the partition has to be read on."""
        self._readings.setdefault(partition, _Reading(now))

    def busy(self, partition: int, now: float) -> None:
        """Nothing is asked of the partition."""
        reading = self._readings.setdefault(partition, _Reading(now))
        if reading.why is None:
            reading.since = self._heard = now

    def seen(self, partition: int, position: int, end: int | None, answer: int | None, now: float) -> None:
        """After an attempt without an error."""
        reading = self._readings.setdefault(partition, _Reading(now))
        answered = answer is not None and answer != reading.answer
        if position > reading.position or (answered and end is not None and position >= end):
            reading.since, reading.why, reading.failures = now, None, 0
        if position > reading.position or answered:
            self._heard, self._why = now, None
        reading.position, reading.answer = position, answer

    def failed(self, partition: int, why: str, position: int, now: float) -> float:
        """The attempt at this partition ended with an error at this position. Returns how long to wait before the next:
        at first not at all, since what precedes the bad record is read one by one then."""
        reading = self._readings.setdefault(partition, _Reading(now))
        reading.why, reading.position = why, position
        reading.failures += 1
        return 0.0 if reading.failures == 1 else min(2.0 ** min(reading.failures - 2, 10), RETRY_S)

    def failures(self, partition: int) -> int:
        return self._readings[partition].failures if partition in self._readings else 0

    def trouble(self, why: str, now: float) -> None:
        """An error that tells of no partition."""
        self._why, self._careful_until = why, now + CAREFUL_S

    def is_careful(self, now: float) -> bool:
        """Whether each partition is to be read by itself, so that an error has a partition and takes nothing along."""
        return now < self._careful_until or any(reading.why for reading in self._readings.values())

    def is_silent(self, now: float) -> bool:
        return now - self._heard > RENEW_S

    def stalled_s(self, now: float) -> float:
        """How long the worst partition has stood still."""
        since = [reading.since for reading in self._readings.values()]
        if self._dealing_since is not None:
            since.append(self._dealing_since)
        return max(0.0, now - min(since, default=now))

    def stalls(self, longer_than_s: float, now: float) -> list[str]:
        """A line for each partition that has stood still for longer, with the offset it stands at and the error."""
        said = []
        if self._dealing_since is not None and now - self._dealing_since > longer_than_s:
            why = f" ({self._why})" if self._why else ""
            said.append(f"no partitions have been dealt out for {now - self._dealing_since:.0f} s{why}")
        for partition, reading in sorted(self._readings.items()):
            if now - reading.since > longer_than_s:
                at = f"stands at offset {reading.position}" if reading.position >= 0 else "has not been read"
                why = reading.why or self._why or "no error"
                said.append(f"partition {partition} {at} since {now - reading.since:.0f} s ({why})")
        return said
