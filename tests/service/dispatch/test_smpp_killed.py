"""Two processes of dispatch-svc on an SMPP account of two binds, of which one is killed by SIGKILL."""

import asyncio
import signal
from typing import Any

import pytest

from common.contracts import operator_topics
from common.contracts.operator import MessageDelivered
from common.service import Service
from dispatch.gateways.by_smpp import leases
from dispatch.gateways.by_smpp import session as sessions
from dispatch.service import Settings, build
from tests.support.eventually import eventually
from tests.support.failing import ended, start
from tests.support.operators.wire import PASSWORD, USER, Session, Wire, delivered, wire
from tests.support.reading import reading
from tests.support.running import Surroundings

pytestmark = pytest.mark.any_broker

PATIENT_S = 90.0
REFUSED = 0x0D  # ESME_RBINDFAIL


def with_short_leases(settings: Settings) -> Service[Settings]:
    leases.LEASE_S, leases.CLOSES_S = 6.0, 2.0
    return build(settings)


def that_proves_nothing(settings: Settings) -> Service[Settings]:
    """Likewise, and whatever its acknowledgements did is not known before it is killed."""
    sessions.PROVE_S = 3600.0
    return with_short_leases(settings)


def of(server: Wire, process: str) -> list[Session]:
    return [session for session in server.bound if session.system_type == process]


async def settings_of(surroundings: Surroundings, server: Wire, process: str) -> Settings:
    account: dict[str, Any] = {
        "provider": "smpp",
        "account": "orange",
        "user": USER,
        "secret": PASSWORD,
        "url": f"smpp://127.0.0.1:{server.port}",
        "options": {"binds_in_all": "2", "system_type": process},
    }
    roles = {"worker", "relay", "projection"}
    return Settings(**await surroundings.settings("dispatch", roles=roles, gateway_url=None, gateways=[account]))


async def test_the_binds_and_the_mos_of_a_killed_process_are_the_others(surroundings: Surroundings) -> None:
    messages, _ = operator_topics("orange")
    async with wire() as server, reading(surroundings, messages) as read:
        server.lets_in = lambda _: REFUSED if len(server.bound) >= 2 else 0
        killed = await start(that_proves_nothing, await settings_of(surroundings, server, "killed"))
        other = await start(with_short_leases, await settings_of(surroundings, server, "other"))
        try:
            await server.until(lambda: (len(of(server, "killed")), len(of(server, "other"))) == (1, 1), PATIENT_S)
            assert await of(server, "killed")[0].deliver(delivered(b"STOP")) == 0
            killed.kill()
            assert await ended(killed, PATIENT_S) == -signal.SIGKILL
            await server.until(lambda: len(of(server, "other")) == 2, PATIENT_S)
            assert await of(server, "other")[0].deliver(delivered(b"STOP")) == 0
        finally:
            for process in (killed, other):
                process.kill()
                await asyncio.to_thread(process.join)

        async def both() -> list[MessageDelivered]:
            found = [event for event in await read() if isinstance(event, MessageDelivered)]
            assert len(found) == 2
            return found

        first, again = await eventually(both)
    assert first.message_id == again.message_id
