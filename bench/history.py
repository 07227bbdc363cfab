"""Keep each comparison as JSON, and draw the ratios by commit.

`make bench` adds a line for each comparison to `.placet/bench.jsonl`: the raw pairs, the machine and the commit. With
KEEP=1 the lines go to `bench/history.jsonl` as well, and `docs/history.svg` is drawn anew: for each figure the median
ratio of a commit, with the span of its pairs.
"""

import re
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from html import escape
from pathlib import Path
from statistics import median

import msgspec

from bench.rounds import Comparison, Sample, machine

RAW = Path(".placet/bench.jsonl")
KEPT = Path(__file__).with_name("history.jsonl")
PLOT = Path("docs/history.svg")
WIDTH, ROW, EDGE, LEFT = 900, 46, 28, 500
SHOWN = 80  # characters of a figure
COUNT = re.compile(r"\b\d{1,3}(,\d{3})+\b")


class Kept(msgspec.Struct, frozen=True):
    """A comparison on record. `machine`: with its load; `loop_s`: of a fixed loop before each pair."""

    at: datetime
    commit: str
    machine: str
    figure: str
    unit: str
    ours: list[Sample]
    limit: list[Sample]
    loop_s: list[float] = []
    wanted: float | None = None

    @property
    def ratios(self) -> list[float]:
        return Comparison(self.ours, self.limit, self.loop_s).ratios


def kept(title: str, unit: str, found: Comparison, wanted: float | None) -> Kept:
    """Return what is kept of a comparison. Its figure has the same name whatever was counted."""
    figure = COUNT.sub("n", title)
    samples = list(found.ours), list(found.limit), list(found.machine)
    return Kept(datetime.now(UTC), _commit(), machine(), figure, unit, *samples, wanted)


def add(path: Path, one: Kept) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as lines:
        lines.write(msgspec.json.encode(one) + b"\n")


def read(path: Path) -> list[Kept]:
    return [msgspec.json.decode(line, type=Kept) for line in path.read_bytes().splitlines()]


def draw() -> None:
    """Draw the kept comparisons into PLOT, if there are any."""
    if KEPT.exists():
        PLOT.write_text(plot(read(KEPT)))


def plot(all_kept: Iterable[Kept]) -> str:
    """Return the ratios by commit as SVG: a row a figure, from 0 to 1 of the limit; the goal is a line of dashes.

    Of several runs of a commit all pairs count.
    """
    figures: dict[str, list[Kept]] = {}
    commits: dict[str, None] = {}
    for one in sorted(all_kept, key=lambda each: each.at):
        figures.setdefault(one.figure, []).append(one)
        commits.setdefault(one.commit)
    order = list(commits)
    height = 2 * EDGE + ROW * len(figures)
    step = (WIDTH - LEFT - EDGE) / max(1, len(order))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        'font-family="sans-serif" font-size="11">',
        "<title>Ratio to the limit, by figure and commit</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for row, (figure, comparisons) in enumerate(figures.items()):
        lines += _row(figure, comparisons, order, EDGE + ROW * (row + 1) - 8, step)
    for place, commit in enumerate(order):
        x = LEFT + step * (place + 0.5)
        lines.append(f'<text x="{x:.0f}" y="{height - 10}" text-anchor="middle">{commit}</text>')
    return "\n".join([*lines, "</svg>", ""])


def _row(figure: str, comparisons: Sequence[Kept], order: Sequence[str], base: float, step: float) -> list[str]:
    """Draw a figure. `base`: the y of the ratio 0."""
    tall = ROW - 14

    def y(ratio: float) -> str:
        return f"{base - tall * min(1.0, ratio):.1f}"

    lines = [
        f'<text x="8" y="{base - tall / 2:.0f}">{escape(figure[:SHOWN])}</text>',
        f'<path d="M{LEFT} {base}H{WIDTH - EDGE}" stroke="#9ca3af"/>',
    ]
    if (wanted := comparisons[-1].wanted) is not None:
        lines.append(f'<path d="M{LEFT} {y(wanted)}H{WIDTH - EDGE}" stroke="#b45309" stroke-dasharray="3 4"/>')
    for place, commit in enumerate(order):
        ratios = [ratio for one in comparisons if one.commit == commit for ratio in one.ratios]
        if not ratios:
            continue
        x = LEFT + step * (place + 0.5)
        lines.append(f'<path d="M{x:.0f} {y(min(ratios))}V{y(max(ratios))}" stroke="#2563eb" stroke-width="2"/>')
        lines.append(f'<circle cx="{x:.0f}" cy="{y(median(ratios))}" r="3" fill="#2563eb"/>')
        lines.append(f'<text x="{x + 6:.0f}" y="{y(median(ratios))}">{median(ratios):.2f}</text>')
    return lines


@cache  # before a run writes to the history
def _commit() -> str:
    """Return the short id of the commit, with "+" where files differ from it; "unknown" outside a repository."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=8", "--dirty=+"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()
