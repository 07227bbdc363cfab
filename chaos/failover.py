"""A database that loses commits while its service runs, and two relays of which one loses Kafka."""

import asyncio
import random
import time
from datetime import UTC, datetime

import asyncpg

from chaos.checks import Loss, Violation, stood_still
from chaos.system import System, wires_to

TAKES_OVER_WITHIN_S = 20.0
CUT_AT_LEAST_S = 25.0
LEADS_AFTER_S = 2.0  # a relay that is alone takes the lock at its next turn
OLD_S = 5.0  # a row of an outbox that moves is younger
FRESH_S = 3.0  # knowledge of consent, while both relays of it move
LOOK_EVERY_S = 0.25
OLDEST_ROW = "SELECT extract(epoch FROM clock_timestamp() - min(created_at))::float8 FROM outbox"
# what a restored database has `sending` may have left: docs/runbook.md
MARK_ALL = (
    "INSERT INTO begun (partition, decided_at, message_ids) SELECT partition, decided_at, message_ids FROM sending"
)
WATERMARKED = ("consent", "inbound")


async def failover(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """To a copy that is `lasts_s` old, under all processes of the service: their connections end, and what they had
    committed since is gone.

    docs/runbook.md says what a person does then. The callers of consent-svc repeat what they told it; for dispatch-
    svc all that is `sending` is marked as begun, and the campaigns that run are cancelled. Of campaign-svc nothing
    can be told again by us: a campaign that its database has forgotten is given up by who asked for it."""
    service = target.removesuffix("'s database")
    copy = f"{service}-before"
    loss = Loss(service, datetime.now(UTC))
    system.losses.append(loss)
    await system.postgres.copy(service, copy)
    await asyncio.sleep(lasts_s)
    await system.postgres.put_back(service, copy)
    loss.until = datetime.now(UTC)
    if service == "dispatch":
        await _mark_all(system)
    if service == "consent" and system.callers is not None:
        await system.callers.repeat()
    if service == "dispatch" and system.callers is not None:
        await system.callers.cancel()
    return []


async def _mark_all(system: System) -> None:
    sql = await asyncpg.connect(system.databases["dispatch"])
    try:
        await sql.execute(MARK_ALL)
    finally:
        await sql.close()


async def two_relays(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """The relay that leads loses Kafka, silently, and holds the lock; a second one stands by. The second one has to
    take over before the first one is heard again, and what the first one still had to say comes late."""
    service, leader, standby = target, f"{target}-relay-cut", f"{target}-relay"
    way = f"{leader} to the broker"
    async with wires_to(system.broker) as wires:
        system.wires[way] = wires
        await system.retire(standby)
        await system.start(leader, service, "relay", way)
        await asyncio.sleep(LEADS_AFTER_S)
        for wire in wires:
            wire.become("silent")
        cut_at = time.monotonic()
        try:
            await system.start(standby, service, "relay")
            waited_s = await _moves_again(system, service)
            await asyncio.sleep(max(0.0, CUT_AT_LEAST_S - (time.monotonic() - cut_at)))
        finally:
            for wire in wires:
                wire.heal()
        await asyncio.sleep(lasts_s)
        await system.retire(leader)
        del system.wires[way]
    return stood_still(service, waited_s, TAKES_OVER_WITHIN_S)


async def _moves_again(system: System, service: str) -> float | None:
    """How long until the outbox has no old row, and what rests on this relay's watermarks is fresh."""
    began = time.monotonic()
    while (waited := time.monotonic() - began) < CUT_AT_LEAST_S:
        oldest = await _oldest_row_s(system, service)
        age = await system.consent_age_s() if service in WATERMARKED else 0.0
        if (oldest is None or oldest < OLD_S) and age is not None and age < FRESH_S and waited > OLD_S:
            return waited
        await asyncio.sleep(LOOK_EVERY_S)
    return None


async def _oldest_row_s(system: System, service: str) -> float | None:
    sql = await asyncpg.connect(system.databases[service])
    try:
        found: float | None = await sql.fetchval(OLDEST_ROW)
        return found
    finally:
        await sql.close()
