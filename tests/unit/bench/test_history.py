"""The comparisons on record, and their plot."""

from datetime import UTC, datetime
from pathlib import Path

from bench.history import Kept, add, kept, plot, read
from bench.rounds import Comparison, Sample

AT = datetime(2026, 11, 30, tzinfo=UTC)


def _kept(commit: str, figure: str, *ours: int, wanted: float | None = None, day: int = 1) -> Kept:
    pairs = [Sample(rate, 1.0) for rate in ours], [Sample(100, 1.0) for _ in ours]
    return Kept(AT.replace(day=day), commit, "a machine", figure, "messages", *pairs, [0.07] * len(ours), wanted)


def test_what_is_kept_comes_back_whole_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bench.jsonl"
    both = [_kept("aaaa", "All denied", 40, 50), _kept("bbbb", "All denied", 60, wanted=0.5)]
    for one in both:
        add(path, one)
    assert read(path) == both


def test_a_figure_has_one_name_whatever_was_counted() -> None:
    found = Comparison([Sample(1, 1.0)], [Sample(2, 1.0)], [0.01])
    few, many = (
        kept(f"Handed off, 100 messages a submit, {held:,} subjects held", "messages", found, 0.5)
        for held in (100_000, 5_000_000)
    )
    assert few.figure == many.figure == "Handed off, 100 messages a submit, n subjects held"
    assert few.ratios == [0.5]


def test_the_plot_has_a_row_a_figure_with_its_goal_and_a_column_a_commit_in_the_order_of_time() -> None:
    drawn = plot(
        [
            _kept("newer", "All denied", 60, 70, 80, wanted=0.45, day=2),
            _kept("older", "All denied", 10, 20, 30, wanted=0.45, day=1),
            _kept("older", "Callbacks: journalled", 50, day=1),
        ]
    )
    assert drawn.count("stroke-dasharray") == 1  # the goal of one figure
    assert drawn.index(">older<") < drawn.index(">newer<")
    assert [drawn.count(f">{ratio}<") for ratio in ("0.70", "0.20", "0.50")] == [1, 1, 1]
    assert ">Callbacks: journalled<" in drawn
