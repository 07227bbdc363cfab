"""What befalls inbound-svc while operators call: what got a 2xx is in the log, exactly once by meaning; all else got an
error, in time."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Literal

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inbound.providers import PROVIDERS
from inbound.service import build
from tests.operators import body
from tests.service.common.wire import Wire
from tests.service.inbound.calling import ACCOUNT, Operator, Wires, refused, wires
from tests.support.builders import now
from tests.support.eventually import eventually
from tests.support.running import CALLED, Surroundings, running

TELNYX = Ed25519PrivateKey.generate()
PASSWORD = ("octopush", "a password of sixteen")
ACCOUNTS = [
    ACCOUNT,
    {"provider": "octopush", "account": "main", "basic": [":".join(PASSWORD)]},
    {"provider": "telnyx", "account": "main", "secrets": [b64encode(TELNYX.public_key().public_bytes_raw()).decode()]},
]
IMPATIENT_S, PATIENT_S = 1.5, 60.0  # how long we wait for what is down; longer than any test does
SLOW_MACHINE_S = 30.0  # with it, who gives up early still hears long before who has patience
HEALS_WITHIN_S = 45.0  # the relay and aiokafka back off meanwhile

Fault = Literal["gone", "silent"]  # nobody listens any more; or they do what they are asked, and no answer comes


@asynccontextmanager
async def faulty(
    surroundings: Surroundings, publish_timeout_s: float = IMPATIENT_S
) -> AsyncIterator[tuple[Operator, Wires]]:
    """inbound-svc in process, warm, on wires."""
    given = await surroundings.settings(
        "inbound", provider_accounts=ACCOUNTS, publish_timeout_s=publish_timeout_s, roles=CALLED
    )
    async with wires(surroundings, **given) as wired:
        settings = wired.direct.model_copy(
            update={"database_url": wired.database_url, "kafka_bootstrap": wired.kafka_bootstrap}
        )
        async with running(build(settings), headers={}) as client:
            operator = Operator(client, wired.direct)
            first = operator.new(1)
            await eventually(lambda: operator.acknowledged(first), within_s=HEALS_WITHIN_S)
            yield operator, wired
            for wire in (wired.postgres, wired.broker):  # or it could not be drained
                wire.heal()


def strike(wire: Wire, fault: Fault) -> None:
    if fault == "gone":
        wire.cut()
    else:
        wire.hold()


@pytest.mark.parametrize("fault", ["gone", "silent"])
@pytest.mark.parametrize(
    "struck",
    [("broker",), pytest.param(("postgres",), marks=pytest.mark.any_broker), ("broker", "postgres")],
    ids="+".join,
)
async def test_whatever_is_acknowledged_is_in_the_log_once_and_all_else_hears_an_error(
    surroundings: Surroundings, struck: tuple[str, ...], fault: Fault
) -> None:
    """The fault strikes while callbacks are in flight, and stays until a whole wave was refused."""
    async with faulty(surroundings) as (operator, wired):
        victims: list[Wire] = [getattr(wired, name) for name in struck]
        numbers = count()

        async def struck_in_the_middle(name: str) -> httpx.Response | None:
            if next(numbers) == 20:
                for wire in victims:
                    strike(wire, fault)
            return await operator.call(name)

        caught, hopeless = operator.new(40), operator.new(10)
        answers = dict(zip(caught, await asyncio.gather(*map(struck_in_the_middle, caught)), strict=True))
        answers |= await operator.wave(hopeless)
        no = refused(answers)
        at_once = await operator.meanings()

        assert set(answers) - set(no) <= set(at_once)
        assert set(hopeless) <= set(no), "the fault was none: nothing was tested"

        for wire in victims:
            wire.heal()
        await eventually(lambda: operator.acknowledged(no), within_s=HEALS_WITHIN_S)
        await operator.everything_is_in_the_log_once()


async def hurried(operator: Operator, provider: str) -> httpx.Response:
    """A callback of one who gives up early."""
    if provider == "octopush":
        raw = body("octopush/mo.json")
        return await operator.client.post("/v1/callbacks/octopush/main/messages", content=raw, auth=PASSWORD)
    raw, stamp = body("telnyx/mo.json"), str(int(now().timestamp()))
    signature = b64encode(TELNYX.sign(stamp.encode() + b"|" + raw)).decode()
    headers = {"telnyx-signature-ed25519": signature, "telnyx-timestamp": stamp}
    return await operator.client.post("/v1/callbacks/telnyx/main/messages", content=raw, headers=headers)


@pytest.mark.parametrize("slow", ["broker", pytest.param("postgres", marks=pytest.mark.any_broker)])
@pytest.mark.parametrize("provider", ["octopush", "telnyx"])
async def test_who_gives_up_early_hears_an_error_before_it_does(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch, provider: str, slow: str
) -> None:
    """While one who has more patience, and called before, is still waiting for a good answer, and gets it."""
    monkeypatch.setattr(PROVIDERS["simulator"], "answer_within_s", 2 * PATIENT_S)
    async with faulty(surroundings, publish_timeout_s=PATIENT_S) as (operator, wired):
        wire: Wire = getattr(wired, slow)
        wire.hold()
        patient = asyncio.ensure_future(operator.call(*operator.new(1)))
        within_s = PROVIDERS[provider].answer_within_s + SLOW_MACHINE_S
        answer = await asyncio.wait_for(hurried(operator, provider), within_s)
        still_waiting = not patient.done()
        wire.heal()

        assert still_waiting
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        good = await patient
        assert good is not None
        assert good.status_code == 200

        async def acknowledged() -> bool:
            return (await hurried(operator, provider)).status_code == 200

        await eventually(acknowledged, within_s=HEALS_WITHIN_S)
        assert [len(meant) for meant in (await operator.meanings()).values()] == [1, 1, 1]
