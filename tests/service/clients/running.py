"""The four services over HTTP on sockets, as a client reaches them."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

from campaign import service as campaign
from consent import service as consent
from dispatch import service as dispatch
from inbound import service as inbound
from tests.service.rights.four import SERVICES, settings_of
from tests.support.eventually import WITHIN_S, eventually
from tests.support.operators.http import operator
from tests.support.running import Surroundings, serving, token

BUILDS: dict[str, Any] = {
    "consent": consent.build,
    "campaign": campaign.build,
    "dispatch": dispatch.build,
    "inbound": inbound.build,
}


@asynccontextmanager
async def served(surroundings: Surroundings) -> AsyncIterator[dict[str, str]]:
    """The services with an operator, all ready; yields the environment of a client."""
    told = {"PLACET_TOKEN": token()}
    async with operator() as op, AsyncExitStack() as stack:
        for service in SERVICES:
            at = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            settings = await settings_of(surroundings, service, op.url)
            await stack.enter_async_context(serving(BUILDS[service](settings), at))
            told[f"PLACET_{service.upper()}_URL"] = f"http://127.0.0.1:{at.getsockname()[1]}"
        async with httpx.AsyncClient(timeout=WITHIN_S) as http:

            async def ready(service: str) -> bool:
                answer = await http.get(f"{told[f'PLACET_{service.upper()}_URL']}/readyz")
                return answer.status_code == 200

            await asyncio.gather(*(eventually(lambda each=service: ready(each)) for service in SERVICES))  # type: ignore[misc]
        yield told
