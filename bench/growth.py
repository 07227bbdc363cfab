"""What a million messages cost, by how many people are held: 100,000, 300,000, 1, 3, 10 million, as far as `subjects`
goes. Processor seconds of each process (all its threads; all of Postgres's together), and the memory of dispatch-svc,
as a table, and as a plot in `docs/growth.svg`. A step sends MESSAGES_A_ROUND x size messages through a batching
gateway, after as many that do not count.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import dispatch
from bench.dispatch import MESSAGES_A_ROUND, SUBMITS_AT_ONCE
from bench.ground import Ground
from bench.rounds import machine
from common.contracts import CAMPAIGN_REQUESTS

STEPS = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
PLOT = Path("docs/growth.svg")
PARTS = {"dispatch": b"-m\0dispatch", "Postgres": b"postgres: dispatch", "broker": b"tansu"}
COLOURS = {"dispatch": "#2563eb", "Postgres": "#b45309", "broker": "#6b7280"}
WIDTH, HEIGHT, EDGE = 640, 320, 56


@dataclass(frozen=True, slots=True)
class Step:
    """`cpu_s`: for a million messages, by part. `memory_mb`: resident, of dispatch-svc."""

    subjects: int
    rate: float
    cpu_s: dict[str, float]
    memory_mb: float


async def run(ground: Ground) -> None:
    many = MESSAGES_A_ROUND * ground.size
    print(f"### A million messages, by people held ({many:,} messages a step). {machine()}\n", flush=True)
    print(f"| people held | messages/s | {' | '.join(f'{part}, s' for part in PARTS)} | dispatch, MB |", flush=True)
    print(f"|---:|---:|{'---:|' * len(PARTS)}---:|", flush=True)
    steps: list[Step] = []
    async with dispatch.standing(ground, people=0) as bench:
        server = await dispatch.serving(bench, SUBMITS_AT_ONCE, 100)
        for subjects in (step for step in STEPS if step <= max(ground.subjects, STEPS[0])):
            await dispatch.hold(bench, (steps[-1].subjects if steps else 0), subjects)
            await bench.round(server, CAMPAIGN_REQUESTS.name, many, agreed=True, of=subjects)
            before = _cpu()
            done = await bench.round(server, CAMPAIGN_REQUESTS.name, many, agreed=True, of=subjects)
            after = _cpu()
            cpu = {part: (after[part] - before[part]) / many * 1e6 for part in PARTS}
            steps.append(Step(subjects, done.rate, cpu, _memory_mb(server.pid)))
            told = " | ".join(f"{seconds:.0f}" for seconds in cpu.values())
            print(f"| {subjects:,} | {done.rate:,.0f} | {told} | {steps[-1].memory_mb:.0f} |", flush=True)
    if len(steps) > 1:
        PLOT.write_text(plot(steps))  # noqa: ASYNC240  (nothing else is going on)
        print(f"\nThe plot is in {PLOT}.\n", flush=True)


def plot(steps: Sequence[Step]) -> str:
    """Seconds of processor time a million messages, over people held: a line for each part, both axes from the least to
    the most, the lower one by powers."""
    most = max(max(step.cpu_s.values()) for step in steps) * 1.1
    across = (WIDTH - 2 * EDGE) / (len(steps) - 1)

    def at(n: int, seconds: float) -> str:
        return f"{EDGE + n * across:.0f},{HEIGHT - EDGE - seconds / most * (HEIGHT - 2 * EDGE):.0f}"

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        'font-family="sans-serif" font-size="12">',
        "<title>Processor seconds for a million messages, by people held</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<path d="M{at(0, most)} L{at(0, 0)} L{at(len(steps) - 1, 0)}" fill="none" stroke="#9ca3af"/>',
        f'<text x="{EDGE}" y="{EDGE - 12}">seconds of processor time for a million messages</text>',
        f'<text x="{EDGE - 6}" y="{EDGE + 4}" text-anchor="end">{most:.0f}</text>',
    ]
    for n, step in enumerate(steps):
        x = EDGE + n * across
        lines.append(f'<text x="{x:.0f}" y="{HEIGHT - EDGE + 18}" text-anchor="middle">{step.subjects:,}</text>')
    lines.append(f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 12}" text-anchor="middle">people held</text>')
    for number, (part, colour) in enumerate(COLOURS.items()):
        points = " ".join(at(n, step.cpu_s[part]) for n, step in enumerate(steps))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(
            f'<text x="{WIDTH - EDGE - 72 * number}" y="{EDGE - 36}" text-anchor="end" fill="{colour}">{part}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _cpu() -> dict[str, float]:
    """Seconds so far, by part, of the processes that descend from this one."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            told = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(told[1])
        used[int(folder.name)] = (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
    found = dict.fromkeys(PARTS, 0.0)
    for pid, taken in used.items():
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() and (part := _part(pid)):
            found[part] += taken
    return found


def _part(pid: int) -> str | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    return next((part for part, mark in PARTS.items() if mark in command), None)


def _memory_mb(pid: int) -> float:
    told = Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()
    return int(told[0]) / 1024
