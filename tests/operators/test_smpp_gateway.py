"""The gateway alone under chaos, over SMPP, on each of three servers that nobody here wrote.

As in test_smpp_chaos, without Kafka, Postgres and the kills of dispatch-svc, so that 1,000 messages and 500 MOs take a
minute. What the gateway says of a text is compared with what the server took.
"""

import asyncio
import random
import sys
from collections import Counter

import msgspec
import pytest

from chaos.wire import wire_to
from dispatch.gateways import Account, Result, SendError, Unanswered
from dispatch.gateways.by_smpp import gateway as by_smpp
from dispatch.gateways.by_smpp.gateway import SmppGateway
from tests.operators.test_smpp_chaos import CALM_S, FAULTS, GOOD, MARK, MESSAGES, PEOPLE, ROUNDS, parts_at, text_of
from tests.operators.test_smpp_chaos import segments_of as parts_of
from tests.support.builders import number
from tests.support.eventually import eventually
from tests.support.operators import jasmin
from tests.support.operators.accounts import submit
from tests.support.operators.smsc import CLOUDHOPPERS, JASMINS, NPMS, Smsc, smsc
from tests.support.seed import seed
from tests.unit.dispatch.test_smpp_session import Log

AGAIN_S = 0.5  # dispatch-svc tries again later what was not handed off


async def sent(gateway: SmppGateway, n: int) -> Result | SendError:
    """Submit until the message is handed off, as dispatch-svc does."""
    message = msgspec.structs.replace(submit(1, text=text_of(n)), reference=f"m-{n}", to=number(n))
    while True:
        [said] = await gateway.submit([message])
        if isinstance(said, Result | Unanswered):
            return said
        await asyncio.sleep(AGAIN_S)


def acknowledged(server: Smsc) -> set[str]:
    return {fact["name"] for fact in server.facts if (fact["kind"], fact.get("status")) == GOOD}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", [JASMINS, NPMS, CLOUDHOPPERS], ids=["jasmin", "npm", "cloudhopper"])
async def test_the_gateway_loses_no_mo_and_halves_no_text_in_silence(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dice, log = random.Random(seed()), Log()
    people = PEOPLE[:MESSAGES]
    mos = {f"Bonjour {n} fois": number(n).removeprefix("+") for n in people[::2]}
    every_fault = [fault for fault in FAULTS if fault != "dispatch"]
    faults = [*every_fault, *dice.choices(every_fault, k=max(0, ROUNDS - len(every_fault)))]
    dice.shuffle(faults)
    async with smsc(module) as server, wire_to("127.0.0.1", server.port) as wire:
        account = Account(
            "smpp",
            "orange",
            user=jasmin.USER,
            secret=jasmin.PASSWORD,
            url=f"smpp://127.0.0.1:{wire.port}",
            options={"binds": "2", "window": "8"},
        )
        link = by_smpp.Shared().link("smpp.orange", account, log)
        gateway = SmppGateway("smpp.orange", account, link, timeout_s=20.0, submits=4)
        link.binds.start()
        listening = asyncio.create_task(server.listen())
        told: set[str] = set()
        sending: dict[int, asyncio.Task[Result | SendError]] = {}

        def tell(texts: set[str]) -> None:
            for text in texts:
                server.deliver(text, source=mos[text], text=text.encode().hex())

        for at, fault in enumerate(faults):
            sending |= {n: asyncio.create_task(sent(gateway, n)) for n in people[at :: len(faults)]}
            some = set(list(mos)[at :: len(faults)])
            told |= some
            tell(some)
            await asyncio.sleep(dice.uniform(0, 1.0))
            if fault == "server":
                server.kill()
                await listening
                await server.stop()
                await server.start()
                listening = asyncio.create_task(server.listen())
                tell(told - acknowledged(server))
            elif fault == "throttle":
                server.order("throttle", s=dice.uniform(0.3, 2.0))
            elif fault == "unbind":
                server.order("unbind")
            else:
                wire.become(fault, dice.uniform(0.1, 1.0))  # type: ignore[arg-type]
                await asyncio.sleep(dice.uniform(0.2, 4.0))
                wire.heal()

        async def all_acknowledged() -> bool:
            missing = len(told - acknowledged(server))
            assert not missing, f"{missing} of {len(told)} MOs are not acknowledged"
            return True

        await eventually(all_acknowledged, CALM_S)
        said = dict(zip(sending, await asyncio.gather(*sending.values()), strict=True))
        await gateway.close()
        server.kill()
        await listening
        await server.stop()
    names: dict[str, set[str]] = {}
    for event, name in zip(log.messages, log.names, strict=True):
        names.setdefault(event.text, set()).add(name)
    assert {text: len(found) for text, found in names.items()} == dict.fromkeys(mos, 1)
    taken, half = parts_at(server, MARK), 0
    for n, result in said.items():
        counts = [taken[number(n).removeprefix("+"), part] for part in range(1, parts_of(n) + 1)]
        assert max(counts) <= 1, f"a part was taken twice: {counts}, {result!r}"
        assert isinstance(result, Unanswered) or all(counts), f"an accepted text lacks parts: {counts}"
        half += any(counts) and not all(counts)
    with capsys.disabled():
        kinds = Counter(type(result).__name__ for result in said.values())
        sys.stdout.write(f"\n{module}: {dict(kinds)}, {half} half sent; {len(names)} MOs; {dict(Counter(faults))}\n")
