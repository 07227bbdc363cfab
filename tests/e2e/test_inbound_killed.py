"""kill -9 of inbound-svc at the worst of moments: what had a 2xx is in the log once by meaning; what had none comes
again, and then is too."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import cramjam
import httpx
import pytest

from common.contracts.inbound import MessageReceived
from stack.processes import Supervisor, free_port
from tests.service.inbound.calling import ACCOUNT, Operator, Wires, wires
from tests.support.eventually import eventually
from tests.support.running import Surroundings, environment

INBOUND = "inbound"
PATIENT_S = 60.0  # neither the service nor the operator gives up before the kill
WITHIN_S = 45.0
ZSTD = b"\x28\xb5\x2f\xfd"  # a frame begins so
LENGTH, RECORDS = slice(8, 12), 61  # where a batch says how long it is, and where its records begin


@dataclass
class Killable:
    """inbound-svc as a process, on wires, and an operator who calls it."""

    supervisor: Supervisor
    operator: Operator
    wires: Wires
    surroundings: Surroundings

    async def restart(self) -> None:
        """Start the killed process again. The wires keep a connection which its client reset: Postgres would keep the
        dead relay's session, and with it the lock."""
        for wire in (self.wires.postgres, self.wires.broker):
            wire.cut()
            wire.heal()
        await self.supervisor.restart(INBOUND)

    async def count(self, table: str) -> int:
        async with self.surroundings.sql(INBOUND) as connection:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))


@asynccontextmanager
async def killable(surroundings: Surroundings, folder: Path) -> AsyncIterator[Killable]:
    given = await surroundings.settings(INBOUND, provider_accounts=[ACCOUNT], publish_timeout_s=PATIENT_S)
    port = free_port()
    async with wires(surroundings, **given) as wired, Supervisor(folder) as supervisor:
        told = given | {"database_url": wired.database_url, "kafka_bootstrap": wired.kafka_bootstrap, "port": port}
        url = f"http://127.0.0.1:{port}"
        await supervisor.start(
            INBOUND, [sys.executable, "-m", INBOUND], env=environment(told), ready=f"{url}/readyz", within_s=WITHIN_S
        )
        async with httpx.AsyncClient(base_url=url, timeout=PATIENT_S) as client:
            yield Killable(supervisor, Operator(client, wired.direct), wired, surroundings)
            wired.postgres.heal()
            wired.broker.heal()


async def before_the_commit(service: Killable) -> Callable[[], Awaitable[bool]]:
    """Postgres is asked to journal, and says no more."""
    asked = asyncio.Event()

    def hold(request: bytes) -> None:
        if b"SELECT journal_" in request or b"INTO outbox (" in request:  # the shortcut's statement, or the journal's
            service.wires.postgres.hold()
            asked.set()

    service.wires.postgres.asked = hold

    async def there() -> bool:
        return asked.is_set()

    return there


async def before_it_is_published(service: Killable) -> Callable[[], Awaitable[bool]]:
    """Journalled, and there is no broker."""
    service.wires.broker.cut()

    async def there() -> bool:
        return await service.count("outbox") == 3

    return there


async def before_kafka_has_said_so(service: Killable) -> Callable[[], Awaitable[bool]]:
    """Published, and nobody knows: it will be published again."""
    known = service.operator.new(1)
    await eventually(lambda: service.operator.acknowledged(known), within_s=WITHIN_S)
    nothing = service.wires.broker.asked

    def hold(request: bytes) -> None:
        if _publishes(request, MessageReceived.type):  # not an earlier request, whose answer the relay would wait for
            service.wires.broker.hold()
            service.wires.broker.asked = nothing

    service.wires.broker.asked = hold

    async def there() -> bool:
        published = await service.operator.meanings()
        return len(published) > len(known) and await service.count("outbox") == 3

    return there


def _publishes(request: bytes, type_: str) -> bool:
    """Whether a request to Kafka has an event of the type: in each of its batches, the records are one frame."""
    at = request.find(ZSTD)
    while at >= 0:
        begins = at - RECORDS
        ends = begins + LENGTH.stop + int.from_bytes(request[begins:][LENGTH], "big")
        if type_.encode() in bytes(cramjam.zstd.decompress(request[at:ends])):
            return True
        at = request.find(ZSTD, ends)
    return False


Moment = Callable[[Killable], Awaitable[Callable[[], Awaitable[bool]]]]


@pytest.mark.parametrize(
    ("moment", "journalled"),
    [
        pytest.param(before_the_commit, False, marks=pytest.mark.any_broker),  # no broker has been asked yet
        (before_it_is_published, True),
        (before_kafka_has_said_so, True),
    ],
)
async def test_a_callback_survives_a_kill(
    surroundings: Surroundings, tmp_path: Path, moment: Moment, journalled: bool
) -> None:
    async with killable(surroundings, tmp_path) as service:
        operator, there = service.operator, await moment(service)
        names = operator.new(3)
        calls = [asyncio.ensure_future(operator.call(name)) for name in names]
        await eventually(there, within_s=WITHIN_S)
        service.supervisor.kill(INBOUND)
        answers = await asyncio.gather(*calls)
        service.wires.postgres.asked = lambda _: None

        assert answers == [None, None, None], "acknowledged too early, or too late: nothing was tested"

        async def left() -> bool:  # Postgres has heard of it
            return await service.count("callback") == (len(operator.sent) if journalled else 0)

        await eventually(left)
        await service.restart()
        if journalled:  # though no operator ever comes again

            async def published() -> bool:
                return set(await operator.meanings()) == set(operator.sent) and await service.count("outbox") == 0

            await eventually(published, within_s=WITHIN_S)
        assert await operator.acknowledged(names)
        await operator.everything_is_in_the_log_once()


async def test_a_storm_of_callbacks_survives_three_kills(surroundings: Surroundings, tmp_path: Path) -> None:
    """Operators that send until they hear a 2xx; at each kill, what had one is in the log."""
    async with killable(surroundings, tmp_path) as service:
        operator = service.operator
        good: set[str] = set()

        async def until_acknowledged(names: list[str]) -> None:
            for name in names:

                async def acknowledged(name: str = name) -> bool:
                    answer = await operator.call(name)
                    assert answer is None or answer.status_code in (200, 503)
                    return answer is not None and answer.is_success

                await eventually(acknowledged, within_s=WITHIN_S)
                good.add(name)

        names = operator.new(400)
        operators = [asyncio.ensure_future(until_acknowledged(names[n::10])) for n in range(10)]
        for enough in (50, 150, 250):

            async def so_many(enough: int = enough) -> bool:
                return len(good) >= enough

            await eventually(so_many, within_s=WITHIN_S)
            service.supervisor.kill(INBOUND)
            had_one = set(good)
            assert had_one <= set(await operator.meanings())
            await service.restart()
        await asyncio.gather(*operators)

        assert good == set(names)
        await operator.everything_is_in_the_log_once()
