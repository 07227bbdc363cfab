"""Run `python -m bench [OPTION…] [NAME…]`; without a name, every benchmark."""

import argparse
import importlib
import tempfile
from pathlib import Path

import uvloop

from bench import history
from bench.ground import standing

NAMES = tuple(
    sorted(path.stem for path in Path(__file__).parent.glob("*.py") if "\nasync def run(ground" in path.read_text())
)


async def measure(names: list[str], *, kafka: bool, rounds: int, size: int, subjects: int, keep: bool) -> None:
    for name in names:  # each on its own ground: leftovers would slow the next benchmark
        bench = importlib.import_module(f"bench.{name}")
        settings: dict[str, str] = getattr(bench, "POSTGRES", {})
        with tempfile.TemporaryDirectory(prefix="placet-bench-") as folder:
            async with standing(
                Path(folder),
                kafka=kafka,
                rounds=rounds,
                size=size,
                subjects=subjects,
                settings=settings,
                keep=keep,
            ) as ground:
                await bench.run(ground)
    if keep:
        history.draw()


def main() -> None:
    asked = argparse.ArgumentParser(
        prog="python -m bench", description="Measure each figure beside its limit, in one run."
    )
    asked.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; all of them without one")
    asked.add_argument("--kafka", action="store_true", help="Apache Kafka itself instead of the local stack's broker")
    asked.add_argument("--rounds", type=int, default=7, help="alternated rounds of each side (7)")
    asked.add_argument("--size", type=int, default=10_000, help="operations in a round (10,000)")
    asked.add_argument("--subjects", type=int, default=50_000, help="subjects in consent-svc before the run (50,000)")
    asked.add_argument(
        "--keep", action="store_true", help="keep the pairs in bench/history.jsonl, and draw docs/history.svg"
    )
    told = asked.parse_args()
    if unknown := set(told.names) - set(NAMES):
        asked.error(f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(NAMES)}")
    names = told.names or list(NAMES)
    uvloop.run(
        measure(names, kafka=told.kafka, rounds=told.rounds, size=told.size, subjects=told.subjects, keep=told.keep)
    )


if __name__ == "__main__":
    main()
