"""Measure two sides in turns, and report their ratio.

A shared machine drifts by 20 % within the hour; a ratio to a limit measured in the same minute holds. So the sides
alternate, the first side alternates too, and the ratio is of pairs. A fixed loop before each pair shows the machine's
own drift.
"""

import os
import platform
import resource
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import cpu_count, getloadavg
from pathlib import Path
from statistics import median

LOOP = 2_000_000  # some 50 ms
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Sample:
    """A round of a side: `done` operations in `seconds`, with latencies and processor time where known.

    `cpu_s`: of the main thread under test. `all_cpu_s`: of all processes that the benchmark has started.
    """

    done: int
    seconds: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_s: float | None = None
    all_cpu_s: float | None = None

    @property
    def rate(self) -> float:
        return self.done / self.seconds


@dataclass(frozen=True, slots=True)
class Side:
    """A side of a comparison. `gc`: the collector's settings in the process under test.

    `here`: the benchmark's own process does the work.
    """

    name: str
    measure: Callable[[], Awaitable[Sample]]
    gc: str
    here: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """The pairs `ours[n]`, `limit[n]`, each after `machine[n]`: seconds of a fixed loop."""

    ours: Sequence[Sample]
    limit: Sequence[Sample]
    machine: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        return [mine.rate / most.rate for mine, most in zip(self.ours, self.limit, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)


async def alternate(ours: Side, limit: Side, rounds: int, loop: Callable[[], float] | None = None) -> Comparison:
    """Measure an uncounted round of each side, then `rounds` pairs."""
    await limit.measure()
    await ours.measure()
    mine: list[Sample] = []
    most: list[Sample] = []
    machine: list[float] = []
    for number in range(rounds):
        machine.append((loop or fixed_loop)())
        for side, samples in ((ours, mine), (limit, most))[:: 1 if number % 2 else -1]:
            samples.append(await _measured(side))
    return Comparison(mine, most, machine)


async def _measured(side: Side) -> Sample:
    """Measure a round, and the processor time of all processes; a round's preparation counts too."""
    before, ours = all_cpu_s(), time.process_time()
    sample = await side.measure()
    if before is None or (after := all_cpu_s()) is None:
        return sample
    return replace(sample, all_cpu_s=after - before + (time.process_time() - ours if side.here else 0.0))


def all_cpu_s() -> float | None:
    """Return the processor time of all processes that this one has started, ended ones too; `None` without /proc."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = started_cpu_s()
    return sum(running.values()) + ended.ru_utime + ended.ru_stime if running else None


def fixed_loop() -> float:
    """Return the seconds of a fixed amount of work."""
    started, total = time.perf_counter(), 0
    for number in range(LOOP):
        total += number
    return time.perf_counter() - started


def report(
    title: str,
    unit: str,
    ours: Side,
    limit: Side,
    found: Comparison,
    wanted: float | None,
    at_least: float | None = None,
) -> str:
    """Return some lines of Markdown. `wanted`: a share of the limit. `at_least`: a rate per second."""
    rate = median(sample.rate for sample in found.ours)
    lines = [
        f"### {title}",
        "",
        f"| {unit} | median /s | min … max | p50 ms | p99 ms | own CPU µs | of all µs |",
        "|---|---:|---|---:|---:|---:|---:|",
        _row(ours.name, found.ours),
        _row(f"limit: {limit.name}", found.limit),
        "",
        f"Ratio {found.ratio:.2f} ({_span(found.ratios, '.2f')}, {len(found.ratios)} pairs)"
        + ("" if wanted is None else f"; wanted at least {wanted:.2f}: {yes_or_no(found.ratio >= wanted)}")
        + ("" if at_least is None else f"; {rate:,.0f}/s, wanted at least {at_least:,}: {yes_or_no(rate >= at_least)}"),
        f"GC: ours {ours.gc}; limit {limit.gc}. {machine()}; a fixed loop took {_span(found.machine, '.4f')} s.",
        "",
    ]
    return "\n".join(lines)


def yes_or_no(reached: bool) -> str:
    return "yes" if reached else "NO"


def machine() -> str:
    """Return the machine, and its load."""
    named = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = named[0] if named else platform.processor()
    return f"{name}, {cpu_count()} cores, load {getloadavg()[0]:.1f}, Python {platform.python_version()}"


def cpu_seconds(pid: int) -> float | None:
    """Return the processor time of a process's main thread, of its event loop; `None` without /proc."""
    for line in _lines(f"/proc/{pid}/schedstat"):
        return int(line.split()[0]) / 1e9  # of the main thread
    return None


def started_cpu_s() -> dict[int, float]:
    """Return the processor time of each process below this one, with that of its ended children; {} without /proc."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        if told := _lines(f"{folder}/stat"):
            fields = " ".join(told).rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
            seconds[int(folder.name)] = sum(map(int, fields[11:15])) / TICKS
    us = os.getpid()
    return {pid: taken for pid, taken in seconds.items() if pid != us and us in _above(pid, parents)}


def _above(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    while pid in parents:
        yield (pid := parents[pid])


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _row(name: str, samples: Sequence[Sample]) -> str:
    rates = [sample.rate for sample in samples]
    cpu = [sample.cpu_s / sample.done * 1e6 for sample in samples if sample.cpu_s is not None]
    all_cpu = [sample.all_cpu_s / sample.done * 1e6 for sample in samples if sample.all_cpu_s is not None]
    p50 = [sample.p50_ms for sample in samples if sample.p50_ms is not None]
    p99 = [sample.p99_ms for sample in samples if sample.p99_ms is not None]
    cells = [f"{median(rates):,.0f}", _span(rates, ",.0f"), _median(p50, ".1f"), _median(p99, ".1f")]
    return f"| {name} | {' | '.join([*cells, _median(cpu, '.0f'), _median(all_cpu, '.0f')])} |"


def _span(values: Sequence[float], shape: str) -> str:
    return f"{min(values):{shape}} … {max(values):{shape}}"


def _median(values: Sequence[float], shape: str) -> str:
    return f"{median(values):{shape}}" if values else ""
