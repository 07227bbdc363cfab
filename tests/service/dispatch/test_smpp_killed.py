"""Two processes of dispatch-svc on an SMPP account of two binds, of which one is killed by SIGKILL."""

import asyncio
import signal
from datetime import timedelta
from typing import Any

import httpx
import pytest

from common.contracts import operator_topics
from common.contracts.operator import MessageDelivered
from common.service import Service
from consent.service import Settings as Consent
from consent.service import build as build_consent
from dispatch.gateways.by_smpp import leases
from dispatch.gateways.by_smpp import session as sessions
from dispatch.service import Settings, build
from inbound.service import Settings as Inbound
from inbound.service import build as build_inbound
from tests.support.builders import SENDER, STOP_CODE, now, number
from tests.support.eventually import eventually
from tests.support.failing import ended, start
from tests.support.operators.wire import PASSWORD, USER, Session, Wire, delivered, wire
from tests.support.reading import reading
from tests.support.running import Surroundings, running

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
            return sorted(found, key=lambda event: event.repeats is not None)  # each has a partition of its own

        first, again = await eventually(both)
    assert (first.repeats, again.repeats) == (None, first.message_id)


async def taken(server: Wire, process: str, body: bytes) -> None:
    """Deliver until the process has acknowledged: on a slow machine its lease may end meanwhile."""
    while True:
        await server.until(lambda: bool(of(server, process)), PATIENT_S)
        if await of(server, process)[0].deliver(body) == 0:
            return


async def stands(consent: httpx.AsyncClient, state: str) -> None:
    async def look() -> bool:
        found = (await consent.post("/v1/subjects/lookup", json={"number": number(1)})).json()
        assert [each["state"] for each in found["consents"]] == [state]
        return True

    await eventually(look)


async def test_a_stop_written_again_counts_after_an_opt_in_though_the_first_may_come_again(
    surroundings: Surroundings,
) -> None:
    """The SMSC had read the acknowledgement of the first; the process was killed before it knew."""
    source = number(1).removeprefix("+").encode()
    names = {"legal_name": "Maison Lune SAS", "brand": "Maison Lune", "contact": "contact@maison-lune.example"}
    more = {"country": "FR", "controller": "lune", "sender_id": SENDER, "oadc": "MAISONLUNE", "stop_code": STOP_CODE}
    purposes = [{"id": "promotions", "wording": "Nos offres"}]
    form = {"source": "shop", "form_id": "checkout", "form_version": "3", "text_shown": "Oui"}
    opt_in = {"number": number(1), "sender_id": SENDER, "purpose": "promotions", "evidence": form}
    whole = await surroundings.settings("consent", page_url="https://placet.example")
    inbound = await surroundings.settings("inbound", kafka_operators=("orange",))
    async with (
        running(build_consent(Consent(**whole))) as consent,
        running(build_inbound(Inbound(**inbound))),
        wire() as server,
    ):
        assert (await consent.post("/v1/senders", json={**names, **more, "purposes": purposes})).status_code == 201
        rule = {"purpose": "promotions", "reason": "Signed forms"}  # by which the person comes back
        assert (await consent.post(f"/v1/senders/{SENDER}/reopening-rules", json=rule)).status_code == 201
        before = (now() - timedelta(days=1)).isoformat()
        assert (await consent.post("/v1/consents", json={**opt_in, "occurred_at": before})).status_code == 201
        for _ in range(2):
            process = await start(that_proves_nothing, await settings_of(surroundings, server, "one"))
            try:
                await taken(server, "one", delivered(b"STOP", source=source, to=STOP_CODE.encode()))
                await stands(consent, "opted_out")
            finally:
                process.kill()
                await asyncio.to_thread(process.join)
            await server.until(lambda: not server.bound, PATIENT_S)
            again = await consent.post("/v1/consents", json={**opt_in, "occurred_at": now().isoformat()})
            assert again.json()["state"] == "opted_in", again.text
