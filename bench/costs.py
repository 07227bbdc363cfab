"""Hold the costs of a message at `costs.json`: what hardly depends on the machine. `make costs`, and `.ci/run`.

A campaign of `size` people goes through all four services, as in `bench.whole`, DLRS_A_CALLBACK DLRs a callback: once
to warm up, then `rounds` times. Both DLRs of a message come in a callback: apart, they meet in a batch or not, as the
machine has time. Counted are the WAL of each service, in records (a row or an index entry each) and bytes, the
statements of all, and the bytes in Kafka.

Two things follow the clock and do not count: calls of statements that also run while nothing happens, as long as they
are fewer than one for two messages, and images of whole pages, which PostgreSQL writes after a checkpoint. A cost
beyond TOLERANCE fails, and the report names its service and the statements that write the most. Raise a figure of
`costs.json` only with the reason in the commit; lower the figure with the change that earned it.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from bench import whole
from bench.ground import Ground

FOUND = Path(__file__).with_name("costs.json")
TOLERANCE = 0.05
REST_S = 5.0
BY_MESSAGE = "by_message"
SHOWN = 20  # statements
POSTGRES = whole.POSTGRES | {"full_page_writes": "off", "checkpoint_timeout": "1h", "max_wal_size": "8GB"}
STATEMENTS = (
    "SELECT d.datname, s.query, sum(s.calls)::bigint, sum(s.wal_records)::bigint, sum(s.wal_bytes)::bigint"
    " FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid"
    " WHERE s.toplevel AND d.datname = ANY($1) GROUP BY 1, 2"
)

Statement = tuple[str, str]  # service, text


@dataclass(frozen=True, slots=True)
class Used:
    """What all statements have used up to a moment."""

    calls: Counter[Statement]
    records: Counter[Statement]
    wal: Counter[Statement]
    in_kafka: int

    @classmethod
    async def by_now(cls, standing: whole.Whole) -> "Used":
        calls, records, wal = Counter[Statement](), Counter[Statement](), Counter[Statement]()
        for service, query, called, written, weight in await standing.admin.fetch(STATEMENTS, list(standing.databases)):
            calls[service, query], records[service, query], wal[service, query] = called, written, weight
        return cls(calls, records, wal, (await whole.in_kafka(standing.ground.bootstrap))[1])

    def since(self, before: "Used") -> "Used":
        return Used(
            self.calls - before.calls,
            self.records - before.records,
            self.wal - before.wal,
            self.in_kafka - before.in_kafka,
        )


async def run(ground: Ground) -> None:
    async with (
        whole.standing(ground, ground.asked.size) as standing,
        whole.operator(standing, whole.DLRS_A_CALLBACK, BY_MESSAGE),
    ):
        at_rest = set((await _rest(standing)).calls)
        await standing.round(ground.asked.size)
        before = await Used.by_now(standing)
        for _ in range(ground.asked.rounds):
            await standing.round(ground.asked.size)
        used = (await Used.by_now(standing)).since(before)
    messages = ground.asked.rounds * ground.asked.size
    found = costs(used, at_rest, list(standing.databases), messages)
    allowed = kept()
    print("| a message | found | kept | |\n|---|---:|---:|---:|")
    for name, cost in found.items():
        print(f"| {name} | {cost:,.3f} | {allowed[name]:,.3f} | {cost / allowed[name] - 1:+.1%} |")
    if dearer := beyond(found, allowed):
        for (service, query), weight in used.wal.most_common(SHOWN):
            print(f"{service}: {weight / messages:,.1f} bytes of WAL: {' '.join(query.split())[:120]}")
        for (service, query), calls in used.calls.most_common(SHOWN):
            print(f"{service}: {calls / messages:,.3f} calls: {' '.join(query.split())[:120]}")
        sys.exit(f"a message costs more than {FOUND.name} keeps: {', '.join(dearer)}")


def kept() -> dict[str, float]:
    found: dict[str, float] = json.loads(FOUND.read_text())
    return found


def beyond(found: Mapping[str, float], allowed: Mapping[str, float]) -> list[str]:
    """Return the names of the costs beyond TOLERANCE."""
    return [name for name, cost in found.items() if cost > allowed[name] * (1 + TOLERANCE)]


def costs(used: Used, at_rest: Set[Statement], services: Sequence[str], messages: int) -> dict[str, float]:
    """Return the costs of a message by name. `at_rest`: statements that run while nothing happens."""
    calls = sum(many for statement, many in used.calls.items() if statement not in at_rest or 2 * many > messages)
    found = {"statements": calls}
    found |= {f"WAL records of {one}": _of(used.records, one) for one in services}
    found |= {f"bytes of WAL of {one}": _of(used.wal, one) for one in services}
    found["bytes in Kafka"] = used.in_kafka
    return {name: many / messages for name, many in found.items()}


def _of(written: Counter[Statement], service: str) -> int:
    return sum(many for (of, _), many in written.items() if of == service)


async def _rest(standing: whole.Whole) -> Used:
    """Return what is used while nothing happens, the looks of a round among it."""
    before = await Used.by_now(standing)
    await standing.databases["campaign"].fetchval(whole.DONE, "")
    for database in standing.databases.values():
        await database.fetchval(whole.WAITING)
    await standing.cost()
    await asyncio.sleep(REST_S)
    return (await Used.by_now(standing)).since(before)
