"""Make all checks of a connector."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import aiohttp

from placet_operator.checking import Check, Finding, findings
from placet_operator.connector import callbacks, restarts, submits
from placet_operator.connector.placet import Placet
from placet_operator.connector.process import Connector
from placet_operator.connector.receiver import Receiver, listening
from placet_operator.texts import numbers

CHECKS: Sequence[Check[Placet]] = (*submits.CHECKS, *callbacks.CHECKS, *restarts.CHECKS)
A_CHECK = 4  # times as long as a single wait


@dataclass(frozen=True, slots=True)
class Asked:
    """What to check. `within_s`: how long a callback may take, the connector's pause between attempts included."""

    at: str
    token: str = field(repr=False)
    secret: str = field(repr=False)
    host: str
    port: int
    start: str | None = None
    sender: str = "PLACET"
    code: str = "36111"
    within_s: float = 90.0
    only: frozenset[str] = frozenset()


async def check(asked: Asked, say: Callable[[str], None] = lambda _: None) -> list[Finding]:
    """Start the connector where a command is named, make the checks, stop the connector."""
    receiver = Receiver(asked.secret, asked.within_s)
    async with AsyncExitStack() as leaving:
        port = await leaving.enter_async_context(listening(asked.host, asked.port, receiver))
        say(f"callbacks are taken at http://{asked.host}:{port}")
        http = await leaving.enter_async_context(aiohttp.ClientSession())
        at = asked.at.rstrip("/")
        process = Connector(asked.start, at, http) if asked.start else None
        if process is not None:
            leaving.push_async_callback(process.stop)
            await process.start()
        placet = Placet(at, asked.token, http, receiver, numbers(), asked.sender, asked.code, asked.within_s, process)
        chosen = [each for each in CHECKS if not asked.only or each.name in asked.only]
        return await findings(chosen, placet, A_CHECK * asked.within_s)
