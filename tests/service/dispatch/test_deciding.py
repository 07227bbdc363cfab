"""How long marketing may keep an opt-out of its partition waiting, and by what a long text goes: real Postgres, no
service around."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import AnyUrl, SecretStr
from sqlalchemy import text

from common.contracts import STATES
from common.db.database import Database, fetch_many
from common.kafka.broker import partition_of
from common.kafka.subscription import Hold, Poison, Received
from common.law import at_hand_off, load
from dispatch.gate.candidate import requested as candidate
from dispatch.gate.clearance import Clearance
from dispatch.gateways import HTTP_PROVIDERS, HttpGateway
from dispatch.gateways.pool import Traffic
from dispatch.gateways.routing import Route
from dispatch.gateways.settings import GatewaySettings
from dispatch.lane import Due
from dispatch.messages import store as messages
from dispatch.projection import store as projection
from dispatch.projection.limits import Limits
from dispatch.sending import store as sending
from dispatch.sending.pipeline import Handoff, Intake
from dispatch.sending.timers import Timers
from tests.support.builders import field_keys, now, requested, sender_changed, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.support.operators.accounts import ACCOUNTS

pytestmark = pytest.mark.brokerless

STATE = "SELECT state || coalesce(' ' || wait_event_type, '') FROM pg_stat_activity WHERE pid = :pid"
LOCKED = (  # partitions, by anybody
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = hashtext('placet.partition') &"
    " 4294967295 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
LOOKS = 50


async def test_campaigns_are_decided_one_partition_at_a_time(postgres: Postgres, unique: str) -> None:
    """Whoever decides holds the lock of a partition: two at once would hold theirs for twice as long each. What is new
    waits for what is new, and so does what is due."""
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"), pool_size=5)
    account = ACCOUNTS["twilio"].at("http://127.0.0.1:9")  # nothing is handed off
    gateway = HttpGateway("twilio", HTTP_PROVIDERS["twilio"], account, timeout_s=5.0)
    traffic = Traffic([gateway])
    policy = at_hand_off(load("france"))
    clearance = Clearance(subject_keys, field_keys, traffic, policy, Limits(max_staleness=timedelta(seconds=30)), 5.0)
    handoff = Handoff(database, traffic, clearance, 4)
    intake = Intake(clearance, handoff, batch=100, partitions=3)
    timers = Timers(database, clearance, handoff, batch=100, partitions=range(3), sending_timeout=timedelta(minutes=1))
    async with database.begin() as tx:
        await fetch_many(
            tx,
            "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
            " SELECT $1, $2, each, 0, now() FROM generate_series(0, 2) AS each RETURNING partition",
            projection.CONSENTS_GROUP,
            STATES.name,
        )
    people = {partition_of(subject(n), 3): n for n in range(12)}
    async with database.begin() as blocking, database.begin() as one, database.begin() as other:
        pids = [await tx.scalar(text("SELECT pg_backend_pid()")) for tx in (one, other)]

        async def seen(statement: str, **values: object) -> str:
            async with database.begin() as tx:
                return str(await tx.scalar(text(statement), values))

        async def waits() -> bool:
            return await seen(STATE, pid=pids[0]) == "active Lock"

        await messages.lock_decisions_out(blocking, 0)
        batches = [[Received(requested(people[n]), "", n, 0, now(), None)] for n in range(2)]
        first = asyncio.ensure_future(intake.take_marketing(one, batches[0]))
        await eventually(waits)
        second = asyncio.ensure_future(intake.take_marketing(other, batches[1]))
        due = asyncio.ensure_future(timers._wake_marketing_of(2))
        for _ in range(LOOKS):
            assert not (await seen(STATE, pid=pids[1])).endswith("Lock")
            assert await seen(LOCKED) == "2", "the opt-out has the lock, and the first waits for it"
        await blocking.rollback()
        assert [await each for each in (first, second)] == [None, None], "without a sender, both wait in the ledger"
        assert not await due
    await gateway.close()
    await database.close()


async def test_marketing_whose_consents_grow_too_old_while_it_waits_for_the_lock_gets_no_verdict(
    postgres: Postgres, unique: str
) -> None:
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"), pool_size=4)
    account = ACCOUNTS["twilio"].at("http://127.0.0.1:9")  # nothing is handed off
    gateway = HttpGateway("twilio", HTTP_PROVIDERS["twilio"], account, timeout_s=5.0)
    traffic = Traffic([gateway])
    limits = Limits(max_staleness=timedelta(seconds=60))
    clearance = Clearance(subject_keys, field_keys, traffic, at_hand_off(load("france")), limits, 5.0)
    intake = Intake(clearance, Handoff(database, traffic, clearance, 4), batch=100, partitions=1)
    watermark = (
        "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
        " VALUES ($1, $2, 0, 0, now() - $3::interval)"
        " ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET as_of = excluded.as_of RETURNING partition"
    )
    of_consents = projection.CONSENTS_GROUP, STATES.name
    async with database.begin() as tx:
        await fetch_many(tx, watermark, *of_consents, timedelta(0))
    async with database.begin() as deciding:
        pid = await deciding.scalar(text("SELECT pg_backend_pid()"))

        async def waits() -> bool:
            async with database.begin() as tx:
                return str(await tx.scalar(text(STATE), {"pid": pid})) == "active Lock"

        async with database.begin() as blocking:
            await messages.lock_decisions_out(blocking, 0)
            taken = asyncio.ensure_future(
                intake.take_marketing(deciding, [Received(requested(1), "", 0, 0, now(), None)])
            )
            await eventually(waits)
            await fetch_many(blocking, watermark, *of_consents, timedelta(hours=1))
        with pytest.raises(Hold):
            await taken
        assert await deciding.scalar(text("SELECT count(*) FROM message")) == 0
    await gateway.close()
    await database.close()


async def test_a_code_that_kafka_brings_waits_for_no_opt_out(postgres: Postgres, unique: str) -> None:
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"), pool_size=2)
    account = ACCOUNTS["twilio"].at("http://127.0.0.1:9")  # nothing is handed off
    gateway = HttpGateway("twilio", HTTP_PROVIDERS["twilio"], account, timeout_s=5.0)
    clearance = Clearance(subject_keys, field_keys, Traffic([gateway]), at_hand_off(load("france")), Limits(), 5.0)
    intake = Intake(clearance, Handoff(database, clearance.traffic, clearance, 1), batch=100, partitions=1)
    code = requested(1, campaign_id=None, category="transactional")
    async with database.begin() as applying, database.begin() as tx:
        await messages.lock_decisions_out(applying, 0)
        async with asyncio.timeout(30):
            await intake.take(tx, [Received(code, "", 0, 0, now(), None)])
        assert await tx.scalar(text("SELECT decided_at IS NOT NULL FROM message"))
    await gateway.close()
    await database.close()


async def test_a_request_under_an_older_id_waits_in_the_ledger_for_a_decision_in_its_persons_partition(
    postgres: Postgres, unique: str
) -> None:
    """The lock and the watermark of the partition that it came in are not the person's."""
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"), pool_size=2)
    account = ACCOUNTS["twilio"].at("http://127.0.0.1:9")  # nothing is handed off
    gateway = HttpGateway("twilio", HTTP_PROVIDERS["twilio"], account, timeout_s=5.0)
    clearance = Clearance(subject_keys, field_keys, Traffic([gateway]), at_hand_off(load("france")), Limits(), 5.0)
    intake = Intake(clearance, Handoff(database, clearance.traffic, clearance, 1), batch=100, partitions=3)
    homes = {n: partition_of(subject(n), 3) for n in range(12)}
    assert set(homes.values()) == {0, 1, 2}

    def came(n: int, moved_to: int | None) -> Received:
        event = requested(n, campaign_id=None, category="transactional")
        moved = frozenset([event.key]) if moved_to is not None else frozenset[str]()
        return Received(event, event.key, 0, n, now(), None, moved_to, moved)

    batch = [came(n, home if home else None) for n, home in homes.items()]
    async with database.begin() as tx:
        assert await intake.take(tx, batch) is None, "without a sender, those that are decided wait as well"
        assert await intake.take(tx, batch) is None, "of a repeated record"
        rows = await fetch_many(tx, "SELECT subject_id, partition, decided_at IS NULL, status FROM message")
        assert await sending.due_partitions(tx, range(3), now(), Due.CODES) == [1, 2]
    assert {(who, place, waits) for who, place, waits, _ in rows} == {
        (subject(n), home, home != 0) for n, home in homes.items()
    }
    assert {status for _, _, waits, status in rows if waits} == {"pending"}
    astray = next(n for n, home in homes.items() if home)
    async with database.begin() as tx:
        with pytest.raises(Poison, match="in another partition than its subject's"):
            await intake.take(tx, [came(astray, None)])
    await gateway.close()
    await database.close()


async def test_a_text_goes_by_a_gateway_that_takes_so_many_sms_and_its_alphabet_or_waits_for_one(
    postgres: Postgres, unique: str
) -> None:
    database = Database(await postgres.clone("dispatch", f"dispatch_{unique}"), pool_size=3)
    gateways = [
        HttpGateway(name, HTTP_PROVIDERS[name], ACCOUNTS[name].at("http://127.0.0.1:9"), timeout_s=5.0)
        for name in ("ovh", "octopush", "twilio")
    ]
    by_price = [Route(each.name, price=Decimal(n)) for n, each in enumerate(gateways)]
    told = GatewaySettings(
        provider="kannel", url=AnyUrl("http://127.0.0.1:9"), user="lune", secret=SecretStr("s"), unicode=False
    )
    any_settings: Any = None  # which no gateway over HTTP looks at
    kannel = told.gateway_with_secrets(any_settings, timeout_s=5.0, submits=1)
    everyone = [*gateways, kannel]

    async def goes(text: str, *routes: Route) -> str | None:
        traffic = Traffic(everyone, routes)
        policy = at_hand_off(load("france"))
        clearance = Clearance(subject_keys, field_keys, traffic, policy, Limits(max_staleness=timedelta(0)), 5.0)
        wanted = candidate(requested(1, campaign_id=None, category="transactional", text=text), 0)
        async with database.begin() as tx:
            await projection.put_sender(tx, sender_changed())
            [decision] = await clearance.decide(tx, 0, [wanted])
        return decision.permit.gateway if decision.permit else decision.row.reasons[0]

    def of(segments: int, letter: str) -> str:
        return letter * (segments * (67 if letter == "ж" else 153))

    for letter in "eж":
        assert [await goes(of(n, letter), *by_price) for n in (6, 7, 8, 9, 10)] == [
            *("ovh", "octopush", "octopush", "twilio", "twilio")
        ]
        assert await goes(of(9, letter), *by_price[:2]) == "no_route"
    assert await goes("Votre code : 4821", *by_price) == "ovh"
    cheaper = Route("kannel", price=Decimal(-1))
    assert await goes("Votre code est prêt : 4821", cheaper, *by_price) == "ovh"
    assert await goes("Votre code est prêt : 4821", cheaper) == "no_route"
    assert await goes("Votre code : 4821 (à garder)", cheaper, *by_price) == "kannel"
    for each in everyone:
        await each.close()
    await database.close()
