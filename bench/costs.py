"""Hold the costs of a message below their limits, `costs.json`: what hardly depends on the machine.

A campaign of `size` people through all four services, as `bench.whole`, DLRS_A_CALLBACK DLRs a callback. The limits
come from runs beside other work, and leave room for batches that fill less. Raise a limit only with the reason in the
commit; lower it with the change that earned it.
"""

import json
import sys
from pathlib import Path

from bench import whole
from bench.ground import Ground

LIMITS = Path(__file__).with_name("costs.json")
POSTGRES = whole.POSTGRES


async def run(ground: Ground) -> None:
    limits: dict[str, float] = json.loads(LIMITS.read_text())
    async with whole.standing(ground, ground.size) as standing, whole.operator(standing, whole.DLRS_A_CALLBACK):
        cost, _ = await standing.round(ground.size)
    found = cost.each(ground.size)
    print("| a message | found | at most |\n|---|---:|---:|")
    for name, most in limits.items():
        print(f"| {name} | {found[name]:,.2f} | {most:,.2f} |")
    if beyond := [name for name, most in limits.items() if found[name] > most]:
        sys.exit(f"a message costs more than {LIMITS.name} allows: {', '.join(beyond)}")
