"""Measure the cost of a message by the number of messages that the ledger holds: none, then `subjects`.

MESSAGES_A_ROUND x size messages a round go through a batching gateway, as in `bench.growth`: after a round to warm up,
`rounds` rounds beside the empty ledger, then as many beside the full one. The cheapest round of each counts, in µs of
processor time a message, of dispatch-svc, PostgreSQL and the broker. Of dispatch-svc and PostgreSQL together, MOST is
wanted.

The rows held are copies of a message of the first round, over the DAYS days before today: each with a person of its
own, and an id that begins with its day. Content older than CONTENT_DAYS is gone, as after pruning. Old pages are full,
unlike those of a ledger that has been written to, which spares the disk and changes no index.
"""

import time

import asyncpg

from bench import dispatch
from bench.dispatch import MESSAGES_A_ROUND, SUBMITS_AT_ONCE, Bench
from bench.ground import Ground, Server
from bench.growth import PARTS, used
from bench.rounds import fixed_loop, machine, yes_or_no
from common.contracts import CAMPAIGN_REQUESTS
from dispatch.messages.row import COLUMNS

PEOPLE = 100_000
DAYS, CONTENT_DAYS = 60, 35
MOST = 1.1  # times the cost beside an empty ledger
POSTGRES = {"max_wal_size": "8GB"}  # filling the ledger leaves no checkpoint to the rounds
INDEXES = (
    "SELECT i.indexname::text, i.indexdef FROM pg_indexes AS i"
    " WHERE i.tablename = 'message' AND i.indexname <> 'message_pk'"
)
DRAWN = "md5($1::integer::text || '{}' || n)"
THEN = "date_trunc('day', now()) - $1::integer * interval '1 day' + n * interval '1 day' / $2::integer"
OLD = {
    "message_id": f"(lpad(to_hex((extract(epoch FROM {THEN}) * 1000)::bigint), 12, '0') || '8'"
    f" || substr({DRAWN.format('m')}, 1, 3) || '8' || substr({DRAWN.format('m')}, 4, 15))::uuid",
    "subject_id": f"left(m.subject_id, 3) || {DRAWN.format('p')}",
    "number": f"CASE WHEN $1::integer <= {CONTENT_DAYS} THEN m.number END",
    "text": f"CASE WHEN $1::integer <= {CONTENT_DAYS} THEN m.text END",
} | dict.fromkeys(("requested_at", "decided_at", "as_of", "handed_off_at"), THEN)
FILL = (
    f"INSERT INTO message ({', '.join(COLUMNS)}) SELECT {', '.join(OLD.get(name, f'm.{name}') for name in COLUMNS)}"
    " FROM (SELECT * FROM message WHERE status = 'accepted' LIMIT 1) AS m, generate_series(1, $2::integer) AS n"
)

Costs = dict[str, float]  # µs a message by part


async def run(ground: Ground) -> None:
    many = MESSAGES_A_ROUND * ground.asked.size
    print(
        f"### A message beside {ground.asked.subjects:,} others ({many:,} messages a round). {machine()}\n", flush=True
    )
    print(f"| rows held | messages/s | {' | '.join(f'{part}, µs' for part in PARTS)} | a fixed loop, s |", flush=True)
    print(f"|---:|---:|{'---:|' * (len(PARTS) + 1)}", flush=True)
    async with dispatch.standing(ground, people=0) as bench:
        server = await dispatch.serving(bench, SUBMITS_AT_ONCE, 100)
        await dispatch.hold(bench, 0, PEOPLE)
        await bench.round(server, CAMPAIGN_REQUESTS.name, many, agreed=True, of=PEOPLE)
        empty = await _measured(bench, server, many, 0)
        await fill(bench, ground.asked.subjects)
        await bench.round(server, CAMPAIGN_REQUESTS.name, many, agreed=True, of=PEOPLE)
        full = await _measured(bench, server, many, ground.asked.subjects)
    ratio = (full["dispatch"] + full["Postgres"]) / (empty["dispatch"] + empty["Postgres"])
    print(f"\ndispatch-svc and PostgreSQL: {ratio:.2f} times as much, {MOST} wanted: {yes_or_no(ratio <= MOST)}\n")


async def fill(bench: Bench, rows: int) -> None:
    """Store so many old messages, without the indexes, then build the indexes."""
    connection = await asyncpg.connect(await bench.ground.database("dispatch"))
    started = time.perf_counter()
    try:
        indexes = await connection.fetch(INDEXES)
        await connection.execute("ALTER TABLE message SET (fillfactor = 100)")
        for name, _ in indexes:
            await connection.execute(f"DROP INDEX {name}")
        for day in range(DAYS, 0, -1):
            await connection.execute(FILL, day, max(rows // DAYS, 1), timeout=600)
        for _, definition in indexes:
            await connection.execute(definition, timeout=600)
        await connection.execute("ALTER TABLE message SET (fillfactor = 30)")
        await connection.execute("VACUUM ANALYZE message", timeout=600)
    finally:
        await connection.close()
    admin = await asyncpg.connect(bench.ground.postgres.admin_dsn)
    await admin.execute("CHECKPOINT", timeout=600)
    await admin.close()
    print(f"| filled in {time.perf_counter() - started:.0f} s |" + " |" * (len(PARTS) + 2), flush=True)


async def _measured(bench: Bench, server: Server, many: int, held: int) -> Costs:
    """Print each round, and return the cheapest of each part."""
    found: list[Costs] = []
    for _ in range(bench.ground.asked.rounds):
        loop, before = fixed_loop(), used()
        done = await bench.round(server, CAMPAIGN_REQUESTS.name, many, agreed=True, of=PEOPLE)
        after = used()
        found.append({part: (after[part][0] - before[part][0]) / many * 1e6 for part in PARTS})
        told = " | ".join(f"{cost:.1f}" for cost in found[-1].values())
        print(f"| {held:,} | {done.rate:,.0f} | {told} | {loop:.4f} |", flush=True)
    return {part: min(costs[part] for costs in found) for part in PARTS}
