"""Run `python -m bench [OPTION…] [NAME…]`; without a name, every benchmark."""

import argparse
import importlib
import tempfile
from pathlib import Path

import uvloop

from bench import history
from bench.ground import Asked, standing

NAMES = tuple(
    sorted(path.stem for path in Path(__file__).parent.glob("*.py") if "\nasync def run(ground" in path.read_text())
)


async def measure(names: list[str], asked: Asked) -> None:
    for name in names:  # each on its own ground: leftovers would slow the next benchmark
        bench = importlib.import_module(f"bench.{name}")
        settings: dict[str, str] = getattr(bench, "POSTGRES", {})
        with tempfile.TemporaryDirectory(prefix="placet-bench-") as folder:
            async with standing(Path(folder), asked, settings) as ground:
                await bench.run(ground)
    if asked.keep:
        history.draw()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure each figure beside its limit, in one run."
    )
    usual = Asked()
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all of them without one")
    parser.add_argument("--kafka", action="store_true", help="Apache Kafka itself instead of the local stack's broker")
    parser.add_argument("--rounds", type=int, default=usual.rounds, help="alternated rounds of each side (%(default)s)")
    parser.add_argument("--size", type=int, default=usual.size, help="operations in a round (%(default)s)")
    parser.add_argument("--subjects", type=int, default=usual.subjects, help="people held before the run (%(default)s)")
    parser.add_argument("--seconds", type=int, default=usual.seconds, help="of a steady pass (%(default)s)")
    parser.add_argument("--rate", type=int, default=usual.rate, help="messages a second of a steady pass (%(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="comparisons whose title holds this text")
    parser.add_argument("--keep", action="store_true", help=f"keep the pairs in {history.KEPT.name}, and draw the plot")
    told = vars(parser.parse_args())
    names = told.pop("names") or list(NAMES)
    if unknown := set(names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    uvloop.run(measure(names, Asked(**told)))


if __name__ == "__main__":
    main()
