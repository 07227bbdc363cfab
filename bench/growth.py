"""Measure the cost of a million messages by the number of subjects: 100,000 to 10 million, up to `subjects`.

A table, and a plot in `docs/growth.svg`, of processor seconds and memory of each part (all threads, and all processes
of Postgres, its writers and cleaners too). Shared memory is shared out. A step sends MESSAGES_A_ROUND x size messages
through a batching gateway, after as many for warming up.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import dispatch
from bench.dispatch import MESSAGES_A_ROUND, SUBMITS_AT_ONCE
from bench.ground import Ground
from bench.rounds import machine, started_cpu_s
from common.contracts import CAMPAIGN_REQUESTS

STEPS = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
PLOT = Path("docs/growth.svg")
PARTS = {
    "dispatch": rb"-m\0dispatch\0",
    "Postgres": rb"^postgres:|^\S*postgres\0",
    "broker": rb"tansu|\0kafka\.Kafka\0",
}
COLOURS = {"dispatch": "#2563eb", "Postgres": "#b45309", "broker": "#6b7280"}
WIDTH, HEIGHT, EDGE = 640, 320, 56


@dataclass(frozen=True, slots=True)
class Step:
    """A step. `cpu_s`: for a million messages, by part. `memory_mb`: at the end, by part."""

    subjects: int
    rate: float
    cpu_s: dict[str, float]
    memory_mb: dict[str, float]


async def run(ground: Ground) -> None:
    many = MESSAGES_A_ROUND * ground.asked.size
    print(f"### A million messages, by people held ({many:,} messages a step). {machine()}\n", flush=True)
    columns = [f"{part}, {unit}" for unit in ("s", "MB") for part in PARTS]
    print(f"| people held | messages/s | {' | '.join(columns)} |", flush=True)
    print(f"|---:|---:|{'---:|' * len(columns)}", flush=True)
    steps: list[Step] = []
    async with dispatch.standing(ground, people=0) as bench:
        server = await dispatch.serving(bench, SUBMITS_AT_ONCE, 100)
        for subjects in (step for step in STEPS if step <= max(ground.asked.subjects, STEPS[0])):
            await dispatch.hold(bench, (steps[-1].subjects if steps else 0), subjects)
            await bench.round(server, CAMPAIGN_REQUESTS.name, many, agreed=True, of=subjects)
            before = used()
            done = await bench.round(server, CAMPAIGN_REQUESTS.name, many, agreed=True, of=subjects)
            after = used()
            cpu = {part: (after[part][0] - before[part][0]) / many * 1e6 for part in PARTS}
            steps.append(Step(subjects, done.rate, cpu, {part: after[part][1] for part in PARTS}))
            told = " | ".join(f"{value:.0f}" for of in (cpu, steps[-1].memory_mb) for value in of.values())
            print(f"| {subjects:,} | {done.rate:,.0f} | {told} |", flush=True)
    if len(steps) > 1:
        PLOT.write_text(plot(steps))  # noqa: ASYNC240  (nothing else is going on)
        print(f"\nThe plot is in {PLOT}.\n", flush=True)
    else:
        print("\nOne step makes no plot: SUBJECTS=10000000 for all of them.\n", flush=True)


def plot(steps: Sequence[Step]) -> str:
    """Return the plot as SVG: processor seconds (lines, left scale) and memory (dashes, right scale) of each part."""
    most_s = max(max(step.cpu_s.values()) for step in steps) * 1.1
    most_mb = max(max(step.memory_mb.values()) for step in steps) * 1.1
    across = (WIDTH - 2 * EDGE) / (len(steps) - 1)

    def at(n: int, share: float) -> str:
        return f"{EDGE + n * across:.0f},{HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE):.0f}"

    right = WIDTH - EDGE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        'font-family="sans-serif" font-size="12">',
        "<title>Processor seconds for a million messages, and memory, by people held</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{at(0, 1)} L{at(0, 0)} L{at(len(steps) - 1, 0)} L{at(len(steps) - 1, 1)}" fill="none"'
        ' stroke="#9ca3af"/>',
        f'<text x="{EDGE}" y="{EDGE - 12}">seconds of processor time for a million messages</text>',
        f'<text x="{right}" y="{EDGE - 12}" text-anchor="end">memory, MB (dashes)</text>',
        f'<text x="{EDGE - 6}" y="{EDGE + 4}" text-anchor="end">{most_s:.0f}</text>',
        f'<text x="{right + 6}" y="{EDGE + 4}">{most_mb:,.0f}</text>',
    ]
    for n, step in enumerate(steps):
        x = EDGE + n * across
        lines.append(f'<text x="{x:.0f}" y="{HEIGHT - EDGE + 18}" text-anchor="middle">{step.subjects:,}</text>')
    lines.append(f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">people held</text>')
    for number, (part, colour) in enumerate(COLOURS.items()):
        seconds = " ".join(at(n, step.cpu_s[part] / most_s) for n, step in enumerate(steps))
        memory = " ".join(at(n, step.memory_mb[part] / most_mb) for n, step in enumerate(steps))
        line = f'fill="none" stroke="{colour}" stroke-width="2"'
        lines.append(f'<polyline points="{seconds}" {line}/>')
        lines.append(f'<polyline points="{memory}" {line} stroke-dasharray="3 5"/>')
        lines.append(f'<text x="{right - 72 * number}" y="{EDGE - 36}" text-anchor="end" fill="{colour}">{part}</text>')
    return "\n".join([*lines, "</svg>", ""])


def used() -> dict[str, tuple[float, float]]:
    """Return processor seconds so far and MB of memory, by part, of this process's descendants."""
    found = dict.fromkeys(PARTS, (0.0, 0.0))
    for pid, taken in started_cpu_s().items():
        if part := _part(pid):
            cpu_s, memory_mb = found[part]
            found[part] = cpu_s + taken, memory_mb + _memory_mb(pid)
    return found


def _part(pid: int) -> str | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    return next((part for part, mark in PARTS.items() if re.search(mark, command)), None)


def _memory_mb(pid: int) -> float:
    """Return the process's share of memory (Pss); 0 for a process that has gone."""
    try:
        told = Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()
    except OSError:
        return 0.0
    return int(told[0]) / 1024 if told else 0.0
