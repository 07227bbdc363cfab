"""dispatch-svc by SMPP: its settings, its permits, its ledger, and at the other end Jasmin's own server (once also
npm's), in a process that is killed and comes back. What that server prints is what left, and how its deliveries were
answered."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from common.contracts import (
    CAMPAIGN_REQUESTS,
    CONTROLS,
    DISPATCH_MESSAGES,
    INBOUND_MESSAGES,
    INBOUND_RECEIPTS,
    SENDERS,
    STATES,
    operator_topics,
)
from common.contracts.dispatch import MessageChanged
from common.contracts.inbound import MessageReceived
from common.contracts.operator import MessageDelivered
from dispatch.service import Settings, build
from inbound.service import Settings as Inbound
from inbound.service import build as build_inbound
from tests.service.dispatch.test_dispatch import PATIENT_S, Dispatch, dispatch
from tests.support.builders import TEXT, controlled, number, opted_in, receipt, requested, sender_changed, subject
from tests.support.eventually import eventually
from tests.support.failing import TIME_PASSES, Point, Process, ended, start
from tests.support.infrastructure import Broker, Postgres
from tests.support.operators import jasmin, smpp
from tests.support.operators.http import operator
from tests.support.operators.smsc import JASMINS, NPMS, Smsc, smsc
from tests.support.publish import heartbeat, publish
from tests.support.reading import changes_in, reading
from tests.support.running import Surroundings, running

pytestmark = pytest.mark.any_broker

LONG = TEXT + "".join(f" Et l'article {n} pour le prix de deux." for n in range(9))
EUROS = TEXT + " Dès 9 € : ça, c'est la fête !"  # nothing that its own coding lacks
AFTERWARDS = 40  # a person of whom the server thinks nothing, as of those from 20 on


def by(server: Smsc, **more: Any) -> dict[str, Any]:
    """One bind, of both lanes: beside that of a process that was killed the server allows no more."""
    account = {
        "provider": "smpp",
        "account": "orange",
        "user": jasmin.USER,
        "secret": jasmin.PASSWORD,
        "url": f"smpp://127.0.0.1:{server.port}",
        "options": {"binds": "1", "window": "8"},
    }
    return {"gateway_url": None, "gateways": [{**account, **more}]}


@asynccontextmanager
async def over(surroundings: Surroundings, server: Smsc, people: Sequence[int], **more: Any) -> AsyncIterator[Dispatch]:
    async with operator() as nobody, dispatch(surroundings, nobody, **by(server, **more)) as d:
        await d.publish_states(*(opted_in(n) for n in people))
        yield d


def _to(n: int) -> str:
    return number(n).removeprefix("+")


async def test_what_the_smsc_answers_is_what_the_ledger_says(surroundings: Surroundings) -> None:
    await its_answers_are_what_the_ledger_says(surroundings, JASMINS)


async def its_answers_are_what_the_ledger_says(surroundings: Surroundings, module: str) -> None:
    """Taken under its name, in parts under the last one's; throttled, and tried again; by another session where it
    ended the last."""
    people = [20, 21, 22, 23, jasmin.BUSY_AT_FIRST, jasmin.UNBINDS]
    async with (
        smsc(module) as server,
        over(surroundings, server, people) as d,
        reading(surroundings, DISPATCH_MESSAGES) as read,
    ):
        plain, long, wide = requested(20), requested(21, text=LONG), requested(22, text=EUROS)
        for wanted, name in ((plain, "smsc-1"), (long, "smsc-4"), (wide, "smsc-6")):
            await d.request(wanted, wanted)
            found = await eventually(d.becomes(wanted.message_id, "accepted"))
            assert (found["gateway"], found["gateway_message_id"]) == ("smpp.orange", name)
        short, first, second, third, *in_two = await server.heard(6)
        assert (short["to"], short["source"], bytes.fromhex(short["text"]).decode()) == (_to(20), "MAISONLUNE", TEXT)
        parts = [bytes.fromhex(part["text"]) for part in (first, second, third)]
        assert b"".join(part[6:] for part in parts).decode() == LONG
        assert [(part[4], part[5]) for part in parts] == [(3, 1), (3, 2), (3, 3)]
        assert "".join(bytes.fromhex(part["text"])[6:].decode("utf-16-be") for part in in_two) == EUROS

        await d.request(busy := requested(jasmin.BUSY_AT_FIRST))
        await eventually(d.becomes(busy.message_id, "accepted"))

        async def told() -> bool:
            of_it = [e for e in changes_in(await read()) if e.message_id == busy.message_id]
            return ("deferred", ("gateway_throttled",)) in [(e.status, e.reasons) for e in of_it]

        await eventually(told)

        await d.request(last := requested(jasmin.UNBINDS))
        await eventually(d.becomes(last.message_id, "accepted"))
        [ended_by_it] = await server.heard(1, "gone")
        await d.request(next_one := requested(23))
        await eventually(d.becomes(next_one.message_id, "accepted"))
        *_, before, after = await server.heard(11)
        assert before["session"] == ended_by_it["session"] != after["session"]
    assert Counter(one["to"] for one in server.submits) == {
        _to(20): 1,
        _to(21): 3,
        _to(22): 2,
        _to(jasmin.BUSY_AT_FIRST): 3,
        _to(jasmin.UNBINDS): 1,
        _to(23): 1,
    }


async def test_the_receipts_of_one_account_are_of_one_gateway(surroundings: Surroundings) -> None:
    [smpp_account] = by(Smsc(2775))["gateways"]
    settings = await surroundings.settings("dispatch")
    on_kafka = {"provider": "kafka", "account": "orange"}
    for other in (on_kafka, {**smpp_account, "account": "another", "receipts": "kafka.orange"}):
        with pytest.raises(ValidationError, match="of one gateway"):
            Settings(**settings, gateways=(smpp_account, other))


async def test_a_receipt_that_the_smscs_operator_sends_another_way_finds_its_message(
    surroundings: Surroundings,
) -> None:
    """On its topic, by the id that the SMSC gave: our reference it never had. Before its answer, and after."""
    async with smsc(JASMINS) as server, over(surroundings, server, [20, 21, 22]) as d:
        early, late, other = (requested(n) for n in (20, 21, 22))
        told = [receipt("delivered", gateway_id=f"smsc-{n}", provider="kafka", account="orange") for n in (1, 2)]
        foreign = receipt("failed", gateway_id="smsc-3", provider="kafka", account="another")
        await publish(surroundings, INBOUND_RECEIPTS, [foreign, told[0]])

        async def kept() -> bool:
            async with surroundings.sql("dispatch") as sql:
                return bool(await sql.fetchval("SELECT count(*) FROM early_receipt") == 2)

        await eventually(kept)
        for wanted in (early, late, other):
            await d.request(wanted)
            await eventually(d.becomes(wanted.message_id, "accepted"))
        await publish(surroundings, INBOUND_RECEIPTS, told[1:])

        async def delivered() -> bool:
            return [(await d.message(each.message_id))["receipt"] for each in (early, late)] == ["delivered"] * 2

        await eventually(delivered)
        assert (await d.message(other.message_id))["receipt"] is None


async def test_a_sender_that_the_smsc_does_not_know_is_somebodys_to_mend(surroundings: Surroundings) -> None:
    """So its campaign is paused. It is tried again until somebody has."""
    async with (
        smsc(JASMINS) as server,
        over(surroundings, server, [smpp.BAD_SOURCE]) as d,
        reading(surroundings, DISPATCH_MESSAGES) as read,
    ):
        await d.request(wanted := requested(smpp.BAD_SOURCE))
        found = await eventually(d.becomes(wanted.message_id, "deferred", "gateway_needs_somebody"))
        assert found["code"] == "smpp_0x0a"

        async def told() -> list[MessageChanged]:
            return changes_in(await read())

        assert {event.reasons for event in await eventually(told)} == {("gateway_needs_somebody",)}
        await server.heard(2)


async def test_what_the_smsc_had_when_it_died_is_unknown_and_heard_once_and_the_others_go_on(
    surroundings: Surroundings,
) -> None:
    async with smsc(JASMINS) as server, over(surroundings, server, [smpp.SILENT, 20, 21, 22]) as d:
        await d.request(before := requested(20))
        await eventually(d.becomes(before.message_id, "accepted"))
        await d.request(held := requested(smpp.SILENT))
        await server.heard(2)
        assert (await d.message(held.message_id))["status"] == "sending"
        await server.stop()
        await eventually(d.becomes(held.message_id, "unknown"))
        await d.request(meanwhile := requested(21))
        await eventually(d.becomes(meanwhile.message_id, "deferred", "gateway_unreachable"))
        await server.start()
        await d.request(after := requested(22))
        for wanted in (meanwhile, after):
            await eventually(d.becomes(wanted.message_id, "accepted"), within_s=PATIENT_S)
        async with surroundings.sql("dispatch") as sql:
            ledger = dict(await sql.fetch("SELECT message_id::text, status FROM message"))
        assert ledger == {held.message_id: "unknown"} | dict.fromkeys(
            (before.message_id, meanwhile.message_id, after.message_id), "accepted"
        )
    assert Counter(one["to"] for one in server.submits) == dict.fromkeys(map(_to, (20, smpp.SILENT, 21, 22)), 1)


SUBMIT_WITHIN_S = 30.0


@asynccontextmanager
async def died_and_come_back(
    surroundings: Surroundings,
    people: Sequence[int],
    point: Point | None,
    has_them: Callable[[], Awaitable[Any]],
    **gateways: Any,
) -> AsyncIterator[list[str]]:
    """A message for each of these, which are one batch; its process dies there or, without a point, once the operator
    `has_them`. Another one takes over, and a last message leaves by it. While the block runs so does that one: the
    references of all are told, and all but the last are `unknown`."""
    settings = await surroundings.settings(
        "dispatch",
        roles={"worker", "relay", "projection"},
        hours="demonstration",
        submit_timeout_s=SUBMIT_WITHIN_S,
        drain_s=SUBMIT_WITHIN_S + 1,  # nobody is stopped: they are killed
        permit_ttl_s=20.0,  # on a machine that stands still a permit of five seconds lapses before its message leaves
        **gateways,
    )
    await publish(surroundings, SENDERS, [sender_changed()])
    await publish(surroundings, CONTROLS, [controlled("running")])
    await publish(surroundings, STATES, [opted_in(n) for n in (*people, AFTERWARDS)])
    asked = [requested(n) for n in people]
    async with heartbeat(surroundings, STATES):
        process = await _knowing(surroundings, settings, len(people) + 1, point)
        await publish(surroundings, CAMPAIGN_REQUESTS, asked)
        if point is None:
            await has_them()
            process.kill()
        assert await ended(process, PATIENT_S) == -signal.SIGKILL
        async with surroundings.sql("dispatch") as sql:
            await sql.execute(TIME_PASSES)
        process = await _knowing(surroundings, settings, len(people) + 1)
        try:
            asked.append(requested(AFTERWARDS))
            await publish(surroundings, CAMPAIGN_REQUESTS, asked[-1:])

            async def known() -> bool:
                async with surroundings.sql("dispatch") as sql:
                    ledger = dict(await sql.fetch("SELECT message_id::text, status FROM message"))
                assert ledger == {each.message_id: "unknown" for each in asked[:-1]} | {
                    asked[-1].message_id: "accepted"
                }
                return True

            await eventually(known)
            yield [each.message_id for each in asked]
        finally:
            process.kill()
            process.join()


async def _knowing(
    surroundings: Surroundings, settings: dict[str, Any], people: int, point: Point | None = None
) -> Process:
    """Once it knows the sender, the campaign and the people, and its clock of consent is running."""
    process = await start(build, Settings(**settings), point)

    async def knows() -> bool:
        async with surroundings.sql("dispatch") as sql:
            return bool(
                await sql.fetchval(
                    "SELECT (SELECT count(*) FROM subject WHERE version > 0) = $1 AND EXISTS (SELECT FROM sender)"
                    " AND EXISTS (SELECT FROM campaign) AND EXISTS (SELECT FROM consumer_offset"
                    " WHERE consumer_group = 'dispatch.consents' AND as_of IS NOT NULL)",
                    people,
                )
            )

    await eventually(knows)
    return process


async def test_what_a_killed_process_had_handed_off_is_unknown_and_never_leaves_again(
    postgres: Postgres, broker: Broker, unique: str
) -> None:
    """Before the answers, and between them and the ledger."""

    async def one(surroundings: Surroundings, people: Sequence[int], point: Point | None) -> None:
        async with smsc(JASMINS) as server:
            whole = by(server, options={"binds": "1", "window": "32"})
            async with died_and_come_back(surroundings, people, point, lambda: server.heard(len(people)), **whole):
                await server.heard(len(people) + 1)
        assert Counter(one["to"] for one in server.submits) == dict.fromkeys(map(_to, (*people, AFTERWARDS)), 1)

    silent = [smpp.SILENT, 100 + smpp.SILENT, 200 + smpp.SILENT]
    answered = Point("after", "dispatch.gateways.by_smpp.gateway:SmppGateway.submit")
    here, there = (Surroundings(postgres, broker, f"{unique}{name}", partitions=1) for name in "ab")
    for surroundings in (here, there):
        await surroundings.database("dispatch")
    async with asyncio.TaskGroup() as cases:
        cases.create_task(one(here, silent, None))
        cases.create_task(one(there, [21, 22, 23], answered))


MESSAGES, RECEIPTS = operator_topics("orange")
LONG_STOP = (
    "Bonjour, je ne veux plus rien recevoir de votre part, ni offres ni nouvelles. Merci d'avance. " * 2 + "STOP"
)


@pytest.mark.parametrize(("module", "name"), [(JASMINS, "smsc-1"), (NPMS, "npm-1")], ids=["jasmins", "npms"])
async def test_a_stop_and_a_receipt_that_come_by_the_bind_count_as_any_other(
    surroundings: Surroundings, module: str, name: str
) -> None:
    await a_stop_and_a_receipt_count(surroundings, module, name)


async def a_stop_and_a_receipt_count(surroundings: Surroundings, module: str, name: str) -> None:
    """From the SMSC to the topics, inbound-svc and the ledger: a STOP in two parts, and the DLR of the last message."""
    inbound = Inbound(**await surroundings.settings("inbound", kafka_operators=("orange",)))
    async with (
        smsc(module) as server,
        running(build_inbound(inbound)),
        over(surroundings, server, [20]) as d,
        reading(surroundings, INBOUND_MESSAGES) as read,
    ):
        await d.request(wanted := requested(20))
        await eventually(d.becomes(wanted.message_id, "accepted"))
        server.deliver("receipt", source=_to(20), receipt=name)
        for n, half in enumerate((LONG_STOP[:150], LONG_STOP[150:]), 1):
            server.deliver(
                f"part {n}", source=_to(20), text=(bytes((5, 0, 3, 7, 2, n)) + half.encode()).hex(), headed=True
            )
        answers = await server.heard(3, "delivered")
        assert {(one["name"], one["status"]) for one in answers} == {
            (told, "ESME_ROK") for told in ("receipt", "part 1", "part 2")
        }

        async def read_whole() -> list[MessageReceived]:
            found = [event for event in await read() if isinstance(event, MessageReceived)]
            return [event for event in found if "+" in event.provider_message_id]  # put together

        [whole] = await eventually(read_whole)
        assert (whole.intent, whole.provider, whole.account, whole.short_code) == ("stop", "kafka", "orange", "36111")
        assert whole.subject_id == subject(20)

        async def delivered() -> bool:
            return bool((await d.message(wanted.message_id))["receipt"] == "delivered")

        await eventually(delivered)


@pytest.mark.timeout(200)
async def test_no_mo_is_lost_by_a_process_that_is_killed(postgres: Postgres, broker: Broker, unique: str) -> None:
    await a_kill_loses_no_mo(postgres, broker, unique, JASMINS)


async def a_kill_loses_no_mo(postgres: Postgres, broker: Broker, unique: str, module: str) -> None:
    """Before the log has it, and between the log and the acknowledgement: the SMSC delivers it again."""

    async def one(surroundings: Surroundings, point: Point) -> None:
        await surroundings.database("dispatch")
        async with smsc(module) as server, reading(surroundings, MESSAGES) as read:
            settings = Settings(
                **await surroundings.settings("dispatch", roles={"worker", "relay", "projection"}, **by(server))
            )
            first = await start(build, settings, point)
            server.deliver("stop", source=_to(1), text=b"STOP".hex())
            assert await ended(first, PATIENT_S) == -signal.SIGKILL
            second = await start(build, settings)
            try:
                answers: list[str | None] = []
                while "ESME_ROK" not in answers:
                    answers = [fact["status"] for fact in await server.heard(len(answers) + 1, "delivered")]
                assert answers[0] is None, "the process died before it had acknowledged"
            finally:
                second.kill()
                second.join()

            async def kept() -> bool:
                texts = [event.text for event in await read() if isinstance(event, MessageDelivered)]
                return bool(texts) and set(texts) == {"STOP"}

            await eventually(kept)

    here, there = (Surroundings(postgres, broker, f"{unique}{name}", partitions=1) for name in "ab")
    publish_there = "dispatch.gateways.by_kafka.publisher:Publisher.publish"
    async with asyncio.TaskGroup() as cases:
        cases.create_task(one(here, Point("before", publish_there)))
        cases.create_task(one(there, Point("after", publish_there)))
