"""Measure each figure beside its own limit, in the same run.

`make bench B=inbound`, or `python -m bench [--kafka] [--rounds 5] [--size 10000] [--subjects 50000] NAME…`. A benchmark
is a module of this folder with

    async def run(ground: Ground) -> None

which gives `ground.compare` two sides: ours, and the least that could do the job (the limit). No test depends on a
time. docs/benchmarks.md has the figures and how to read them.

`bench.steady` offers a rate for minutes instead of rounds: `python -m bench --seconds 60 --rate 300 steady`, or
`make bench B=steady FOR=60 RATE=300`.
"""
