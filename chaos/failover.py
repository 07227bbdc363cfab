"""Inject a database that loses commits while its service runs, and a relay that loses Kafka beside a standby."""

import asyncio
import random
import time
from datetime import UTC, datetime

import asyncpg

from chaos.checks import Loss, Violation, stood_still
from chaos.system import System, wires_to

TAKES_OVER_WITHIN_S = 20.0
CUT_AT_LEAST_S = 25.0
LEADS_AFTER_S = 2.0  # a relay takes the lock at its next turn
OLD_S = 5.0  # rows of a moving outbox are younger
FRESH_S = 3.0  # age of consent data while both relays move
LOOK_EVERY_S = 0.25
OLDEST_ROW = "SELECT extract(epoch FROM clock_timestamp() - min(created_at))::float8 FROM outbox"
# repair of dispatch's database: docs/runbook.md
MARK_ALL = (
    "INSERT INTO begun (partition, decided_at, message_ids) SELECT partition, decided_at, message_ids FROM sending"
)
WATERMARKED = ("consent", "inbound")


async def failover(system: System, target: str, lasts_s: float, chance: random.Random) -> list[Violation]:
    """Replace a database by a copy `lasts_s` old: connections end, and later commits are gone.

    Then a person follows docs/runbook.md: the callers of consent-svc repeat their requests; for dispatch-svc all
    `sending` messages are marked as begun, and running campaigns cancelled. campaign-svc cannot be told again: its
    callers give up a forgotten campaign.
    """
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
    """Cut the leading relay, with the lock, from Kafka; a standby must take over before the cut ends.

    The records of the former leader come late.
    """
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
    """Return the seconds until the outbox has no old row, and this relay's watermarks are fresh."""
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
