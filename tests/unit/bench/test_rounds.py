"""What a benchmark says, from figures that are given."""

import subprocess
import sys

from bench.rounds import Comparison, Sample, Side, alternate, report, started_cpu_s


def _side(name: str, order: list[str], *rates: int) -> Side:
    left = list(rates)

    async def measure() -> Sample:
        order.append(name)
        return Sample(left.pop(0), 1.0, p50_ms=1.5, p99_ms=9.0)

    return Side(name, measure, "off")


async def test_the_sides_take_turns_and_who_begins_too_and_the_first_of_each_does_not_count() -> None:
    order: list[str] = []
    found = await alternate(
        _side("ours", order, 1, 60, 50, 70), _side("limit", order, 1, 100, 100, 100), 3, loop=lambda: 0.01
    )
    assert order == ["limit", "ours", "limit", "ours", "ours", "limit", "limit", "ours"]
    assert [sample.done for sample in found.ours] == [60, 50, 70]
    assert len(found.machine) == 3


def test_the_ratio_is_the_median_of_pairs_not_of_what_the_machine_made_of_them() -> None:
    """The machine halves its speed while we measure: each pair still says a half."""
    ours, limit = [50, 25, 10], [100, 50, 20]
    found = Comparison([Sample(n, 1.0) for n in ours], [Sample(n, 1.0) for n in limit], [0.01, 0.02, 0.05])
    assert found.ratio == 0.5


def test_the_report_says_when_less_than_was_wanted_was_reached() -> None:
    side = _side("ours", [], 1)
    low = Comparison([Sample(59, 1.0, 2.0, 8.5, 0.0059, 0.0118)], [Sample(100, 1.0)], [0.01])
    text = report("Callbacks", "per s", side, side, low, 0.6)
    assert "wanted at least 0.60: NO" in text
    assert "| ours | 59 | 59 … 59 | 2.0 | 8.5 | 100 | 200 |" in text
    assert "wanted" not in report("Callbacks", "per s", side, side, low, None)
    high = Comparison([Sample(60, 1.0)], [Sample(100, 1.0)], [0.01])
    assert "wanted at least 0.60: yes" in report("Callbacks", "per s", side, side, high, 0.6)
    assert "60/s, wanted at least 60: yes" in report("Callbacks", "per s", side, side, high, 0.6, 60)
    assert "59/s, wanted at least 60: NO" in report("Callbacks", "per s", side, side, low, 0.6, 60)


def test_the_processor_time_of_all_is_of_what_the_benchmark_started_and_of_what_that_started() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()  # the child's child runs
        known = started_cpu_s()
        assert parent.pid in known
        assert len(known) >= 2
        assert 1 not in known
        parent.communicate(b"\n")
    assert parent.pid not in started_cpu_s()
