"""Run `python -m chaos [--seconds N] [--seed N] [--brokers 0|1|3] …`: exit status 1 after a broken promise.

`python -m chaos --campaign N`: a campaign of N messages on three brokers; each phase kills a broker.
"""

import argparse
import random
import sys
from functools import partial
from pathlib import Path

import uvloop

from chaos import campaign, run

FOLDER = Path(".placet/chaos")


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m chaos", description="Check the promises while faults are injected.")
    asked.add_argument(
        "--seconds", type=float, default=600, help="seconds of faults; the system settles afterwards (600)"
    )
    asked.add_argument("--seed", type=int, default=None, help="seed of the schedule (default: a new seed)")
    asked.add_argument(
        "--brokers",
        type=int,
        choices=(0, 1, 3),
        default=3,
        help="brokers of Apache Kafka; 0: the local stack's broker (3)",
    )
    asked.add_argument("--rate", type=float, default=100, help="messages per second that the operator accepts (100)")
    asked.add_argument("--only", default="", help="inject only faults that match: 'kill', 'to the broker', 'kill|cut'")
    asked.add_argument("--earlier", type=Path, default=None, help="a checkout of an earlier commit to be upgraded from")
    asked.add_argument(
        "--campaign",
        type=int,
        default=None,
        metavar="MESSAGES",
        help="send a campaign of so many messages instead of running a schedule",
    )
    told = asked.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if told.seed is None else told.seed
    say = partial(print, flush=True)
    report = uvloop.run(
        run.run(
            FOLDER,
            seed=seed,
            seconds=told.seconds,
            brokers=told.brokers,
            rate=told.rate,
            clocks=True,
            earlier=told.earlier,
            only=told.only,
            say=say,
        )
        if told.campaign is None
        else campaign.run(FOLDER, seed=seed, messages=told.campaign, say=say)
    )
    print(f"\n{report.text()}\n\n{FOLDER / 'report.txt'}, {FOLDER / 'report.json'}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
