"""Checks that kill the connector: what it had accepted or heard outlives its process."""

import asyncio

from placet_operator.checking import Check, NotSeen
from placet_operator.connector.placet import Placet, body_of
from placet_operator.connector.process import Connector
from placet_operator.connector.receiver import Call

LONG_ENOUGH = (503,) * 1000
BATCH = 20
KILLED_AFTER_S = (0.0, 0.005, 0.02, 0.05)


async def outlive(placet: Placet) -> str:
    process = _process(placet)
    message, number = placet.message("Avant l'arrêt"), next(placet.numbers)
    for key in (message["reference"], number):
        placet.receiver.plan(key, *LONG_ENOUGH)
    [result] = await placet.accepted(message)

    def dlrs() -> list[Call]:
        return placet.receiver.receipts((result.reference, result.id))

    await placet.receiver.until(dlrs, "no DLR came")
    try:
        await placet.texts(number, "STOP")
        await placet.receiver.until(lambda: placet.receiver.texts(number), "no MO came")
        texted = True
    except NotSeen:
        texted = False
    await process.kill()
    for key in (message["reference"], number):
        placet.receiver.forget_plans(key)
    await process.start()
    await placet.receiver.until(lambda: [each for each in dlrs() if each.safe], "a DLR was lost with the process")
    if texted:
        await placet.receiver.until(
            lambda: [each for each in placet.receiver.texts(number) if each.safe], "an MO was lost with the process"
        )
    await placet.accepted(message)
    await placet.is_sent_once(message["reference"])
    return "DLR and MO came after a SIGKILL, and a repeated reference is no second SMS"


async def in_the_middle(placet: Placet) -> str:
    process = _process(placet)
    for after_s in KILLED_AFTER_S:
        messages = [placet.message(f"Au milieu {n}") for n in range(BATCH)]
        submit = asyncio.create_task(placet.in_pieces(body_of(*messages), 1, 0.0))
        await asyncio.sleep(after_s)
        await process.kill()
        await asyncio.gather(submit, return_exceptions=True)
        await process.start()
        await placet.accepted(*messages)
        for message in (messages[0], messages[-1]):
            await placet.is_sent_once(message["reference"])
    return f"killed in {len(KILLED_AFTER_S)} submits of {BATCH}, submitted again: each SMS once"


def _process(placet: Placet) -> Connector:
    if placet.process is None:
        raise NotSeen("name the command that starts the connector: --start")
    return placet.process


CHECKS = (
    Check(
        "restart",
        "Every process is restarted one day, and STOPs wait in it.",
        "Keep callbacks in a database, not in memory.",
        outlive,
        turn=1,
    ),
    Check(
        "killed in a submit",
        "After an answer that never came Placet submits the reference again.",
        "Commit the reference together with the SMS.",
        in_the_middle,
        turn=2,
    ),
)
