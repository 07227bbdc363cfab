"""What a provider's answer does to the ledger: who opted out with it, who is out of its reach, what was lost and is
found again. A real Postgres; the provider over real HTTP; no service around."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from sqlalchemy import text

from common.db.database import Database
from common.law import at_hand_off, load
from dispatch.gate import store as gate
from dispatch.gate.candidate import Permit, stored
from dispatch.gate.clearance import Clearance
from dispatch.gateways import HTTP_PROVIDERS, LOOK_UPS, HttpGateway, Result
from dispatch.gateways.pool import Traffic
from dispatch.lane import Lane
from dispatch.messages import store as messages
from dispatch.projection.limits import Limits
from dispatch.sending import outcomes
from dispatch.sending import timers as timers_module
from dispatch.sending.pipeline import Handoff
from dispatch.sending.receipts import settle_receipts
from dispatch.sending.timers import Timers, _LookUp
from tests.support.builders import field_keys, now, number, requested, subject, subject_keys
from tests.support.ledger import dlr, message
from tests.support.operators.accounts import ACCOUNTS, http
from tests.support.operators.faults import FaultServer, fault_server

pytestmark = pytest.mark.brokerless


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with fault_server() as listening:
        yield listening


UNUSED: Any = None  # what is looked up here was decided on before


def handoff_by(database: Database, *gateways: HttpGateway) -> Handoff:
    traffic = Traffic(gateways)
    clearance = Clearance(subject_keys, field_keys, traffic, at_hand_off(load("demonstration")), Limits(), 1.0)
    return Handoff(database, traffic, clearance, submits_in_flight=4)


def timers_of(database: Database, handoff: Handoff, batch: int = 10) -> Timers:
    return Timers(database, UNUSED, handoff, batch=batch, partitions=range(1), sending_timeout=timedelta(minutes=1))


def looked_before(timers: Timers, gateway: str) -> None:
    """Five minutes ago: what came due since is due now."""
    at = now() - timedelta(minutes=5)
    timers._looks[gateway] = _LookUp(at, [], (at, UUID(int=0)), done=True)


async def looked_up(timers: Timers) -> None:
    """All that is due for it, as its timer does."""
    while await timers.look_up():
        pass


class Ledger:
    """One message, and the gateway it goes by."""

    def __init__(self, database: Database, provider: str, server: FaultServer) -> None:
        self.database = database
        self.provider = provider
        account = ACCOUNTS[provider].at(server.url)
        self.gateway = HttpGateway(
            provider, HTTP_PROVIDERS[provider], account, timeout_s=60.0, looks_up=LOOK_UPS.get(provider)
        )
        self.handoff = handoff_by(database, self.gateway)
        self.wanted = requested(1)
        self.message_id = UUID(self.wanted.message_id)

    async def holds(self, status: str, *, decided_ago: timedelta = timedelta(0)) -> None:
        row = message(
            1,
            status,
            message_id=self.message_id,
            requested_at=self.wanted.requested_at,
            number=self.wanted.number,
            text=self.wanted.text,
            decided_at=now() - decided_ago,
            gateway=self.provider,
        )
        async with self.database.begin() as tx:
            await messages.insert_messages(tx, [row])
            await tx.execute(
                text("UPDATE message SET unknown_since = decided_at WHERE message_id = :id AND status = 'unknown'"),
                {"id": self.message_id},
            )

    async def send(self) -> None:
        await self.handoff.send([await self.permit()])

    async def permit(self) -> Permit:
        await self.holds("sending")
        row = await self.row()
        said = "Offre. STOP au 36111", "MAISONLUNE", "36111"
        return Permit(stored(row), number(1), *said, self.provider, float("inf"), row)

    async def row(self) -> Any:
        async with self.database.begin() as tx:
            return await messages.found(tx, self.message_id)

    async def blocks(self) -> dict[str, frozenset[str]]:
        async with self.database.begin() as tx:
            return (await gate.surroundings(tx, [], [subject(1)])).blocks

    async def published(self) -> list[bytes]:
        async with self.database.begin() as tx:
            rows = await tx.execute(text("SELECT payload FROM outbox ORDER BY id"))
            return [bytes(row.payload) for row in rows]

    async def look_up(self) -> None:
        await looked_up(timers_of(self.database, self.handoff))


LedgerOf = Callable[[str], Ledger]


@pytest.fixture
async def ledger_of(database: Database, server: FaultServer) -> AsyncIterator[LedgerOf]:
    made: list[Ledger] = []

    def make(provider: str) -> Ledger:
        made.append(Ledger(database, provider, server))
        return made[-1]

    yield make
    for each in made:
        await each.gateway.close()


async def test_who_opted_out_with_a_provider_is_refused_told_as_opted_out_and_out_of_reach_at_once(
    ledger_of: LedgerOf, server: FaultServer
) -> None:
    ledger = ledger_of("twilio")
    server.answer = http(400, {"code": 21610, "message": "unsubscribed"})
    await ledger.send()
    row = await ledger.row()
    assert (row.status, row.receipt, row.code) == ("rejected", "opted_out", "21610")
    assert await ledger.blocks() == {subject(1): frozenset({"twilio"})}
    newest = (await ledger.published())[-1]
    assert b'"receipt":"opted_out"' in newest
    assert ledger.wanted.number.encode() in newest, "sealed: consent-svc may never have seen this person"
    assert row.receipt_at is not None


@pytest.mark.parametrize("state", ["sent", "delivered", "failed", "expired"])
async def test_a_repeat_that_is_refused_leaves_the_first_to_its_receipt_and_the_opt_out_stands(
    ledger_of: LedgerOf, server: FaultServer, state: str
) -> None:
    ledger = ledger_of("telnyx")
    server.answer = http(403, {"errors": [{"code": "40300", "title": "Blocked due to STOP message"}]})
    await ledger.handoff.send([msgspec.structs.replace(await ledger.permit(), again=True)])
    refused = await ledger.row()
    assert (refused.status, refused.receipt) == ("unknown", "opted_out")
    told = dlr("T-1", refused.message_id, gateway="telnyx", receipt=state, code="40008")
    for receipts in ([told._replace(receipt="opted_out")], [told, told], [told]):
        async with ledger.database.begin() as tx:
            await settle_receipts(tx, receipts, keep_early=False)
        row = await ledger.row()
        assert (row.status == "accepted") == (told in receipts)
        assert (row.receipt, row.receipt_at) == ("opted_out", refused.receipt_at)
    assert (row.gateway_message_id, row.code, row.unknown_since) == ("T-1", None, None)
    assert row.version == refused.version + 1, "once"
    newest = (await ledger.published())[-1]
    assert b'"status":"accepted"' in newest
    assert b'"receipt":"opted_out"' in newest


async def test_a_refusal_that_does_not_say_whose_wish_it_is_closes_the_provider_and_is_no_opt_out(
    ledger_of: LedgerOf, server: FaultServer
) -> None:
    ledger = ledger_of("vonage")
    server.answer = http(200, {"messages": [{"status": "7"}]})
    await ledger.send()
    row = await ledger.row()
    assert (row.status, row.receipt, row.code) == ("rejected", None, "7")
    assert await ledger.blocks() == {subject(1): frozenset({"vonage"})}


async def test_our_own_trouble_rejects_nobody(ledger_of: LedgerOf, server: FaultServer) -> None:
    ledger = ledger_of("vonage")
    server.answer = http(200, {"messages": [{"status": "9"}]})
    await ledger.send()
    row = await ledger.row()
    assert (row.status, list(row.reasons)) == ("deferred", ["gateway_needs_somebody"])
    assert row.due_at is not None
    assert ledger.handoff.traffic.breaker("vonage") == "open"
    assert await ledger.blocks() == {}


@pytest.mark.parametrize(
    ("provider", "knows", "not_known"),
    [
        ("sinch", {"batches": [{"id": "01SINCH"}]}, {"batches": []}),
        ("infobip", {"results": [{"messageId": "{}", "status": {"groupId": 3, "name": "DELIVERED"}}]}, {"results": []}),
    ],
)
async def test_what_was_lost_is_looked_up_and_stays_unknown_where_the_provider_does_not_know(
    ledger_of: LedgerOf, server: FaultServer, provider: str, knows: Any, not_known: Any
) -> None:
    ledger = ledger_of(provider)
    await ledger.holds("unknown", decided_ago=timedelta(seconds=90))
    server.answer = http(200, not_known)
    await ledger.look_up()
    assert (await ledger.row()).status == "unknown"
    server.fault = "error"
    await ledger.look_up()
    assert (await ledger.row()).status == "unknown"
    server.fault = None
    if "results" in knows:
        knows["results"][0]["messageId"] = str(ledger.message_id)
    server.answer = http(200, knows)
    await ledger.look_up()
    row = await ledger.row()
    assert row.status == "accepted"
    assert row.gateway_message_id == {"sinch": f"01SINCH/{subject(1)}", "infobip": str(ledger.message_id)}[provider]
    asked = [request.split(b" ")[:2] for request in server.requests]
    assert all(method == b"GET" and str(ledger.message_id).encode() in path for method, path in asked)
    await ledger.look_up()
    assert len(server.requests) == 3, "what is known is not asked again"


async def test_a_provider_that_fails_keeps_no_other_from_being_asked(ledger_of: LedgerOf, server: FaultServer) -> None:
    failing, sound = ledger_of("infobip"), ledger_of("sinch")
    another = ledger_of("infobip")
    await failing.holds("unknown", decided_ago=timedelta(seconds=95))  # the older: asked for first
    await another.holds("unknown", decided_ago=timedelta(seconds=92))
    await sound.holds("unknown", decided_ago=timedelta(seconds=90))
    server.answer = http(200, {"batches": [{"id": "01SINCH"}]})
    async with fault_server() as wrong:
        wrong.fault = "error"
        failing.gateway._url = wrong.url
        handoff = handoff_by(sound.database, failing.gateway, sound.gateway)
        await looked_up(timers_of(sound.database, handoff, batch=1))
        assert len(wrong.requests) == 1
    assert ((await failing.row()).status, (await sound.row()).status) == ("unknown", "accepted")


async def test_what_came_due_while_the_last_looks_took_long_is_not_missed_and_the_oldest_is_first(
    ledger_of: LedgerOf, server: FaultServer
) -> None:
    younger, older = ledger_of("sinch"), ledger_of("sinch")
    await younger.holds("unknown", decided_ago=timedelta(minutes=3))
    await older.holds("unknown", decided_ago=timedelta(minutes=4))
    server.answer = http(200, {"batches": []})
    timers = timers_of(older.database, older.handoff, batch=1)
    looked_before(timers, "sinch")
    await looked_up(timers)
    first, second = server.requests
    assert str(older.message_id).encode() in first
    assert str(younger.message_id).encode() in second


async def test_of_many_that_were_lost_at_one_instant_each_is_asked_about_though_the_first_are_not_known(
    ledger_of: LedgerOf, server: FaultServer
) -> None:
    lost = sorted((ledger_of("infobip") for _ in range(3)), key=lambda each: each.message_id)
    for each in lost:
        await each.holds("unknown", decided_ago=timedelta(seconds=90))
    async with lost[0].database.begin() as tx:
        await tx.execute(text("UPDATE message SET unknown_since = (SELECT min(unknown_since) FROM message)"))
    known = {"messageId": str(lost[2].message_id), "status": {"groupId": 3, "name": "DELIVERED"}}
    server.answer = http(200, {"results": [known]})
    await looked_up(timers_of(lost[0].database, lost[0].handoff, batch=1))
    assert [(await each.row()).status for each in lost] == ["unknown", "unknown", "accepted"]
    assert len(server.requests) == 3


async def test_while_one_gateway_has_more_no_other_is_asked_about_the_same_again(
    ledger_of: LedgerOf, server: FaultServer
) -> None:
    many, one = [ledger_of("infobip") for _ in range(3)], ledger_of("sinch")
    for each in (*many, one):
        await each.holds("unknown", decided_ago=timedelta(seconds=90))
    server.answer = http(200, {"results": [], "batches": []})
    timers = timers_of(one.database, handoff_by(one.database, many[0].gateway, one.gateway), batch=1)
    await looked_up(timers)
    asked = [request for request in server.requests if str(one.message_id).encode() in request]
    assert (len(asked), len(server.requests)) == (1, 4)


async def test_a_look_that_failed_goes_on_where_it_failed_and_past_what_fails_twice(
    ledger_of: LedgerOf, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timers_module, "LOOK_UP_EVERY_S", 0.0)  # rests for no time
    lost = [ledger_of("infobip") for _ in range(3)]
    for seconds, each in zip((95, 93, 91), lost, strict=True):
        await each.holds("unknown", decided_ago=timedelta(seconds=seconds))
    timers = timers_of(lost[0].database, lost[0].handoff, batch=1)
    looked_before(timers, "infobip")

    async def asked_about() -> list[int]:
        before = len(server.requests)
        await timers.look_up()
        paths = [request.split(b" ")[1] for request in server.requests[before:]]
        return [n for path in paths for n, each in enumerate(lost) if str(each.message_id).encode() in path]

    server.answer = http(200, {"results": []})
    assert await asked_about() == [0]
    server.fault = "error"
    assert [await asked_about(), await asked_about()] == [[1], [1]]
    server.fault = None
    assert await asked_about() == [2]


async def test_an_outcome_that_cannot_be_stored_holds_up_no_other(ledger_of: LedgerOf) -> None:
    wrong, right = ledger_of("sinch"), ledger_of("sinch")
    await wrong.holds("unknown")
    await right.holds("unknown")
    lost = [outcomes.LostAnswer(each.message_id, subject(1), 0, "sinch", now()) for each in (wrong, right)]
    found = outcomes.looked_up(lost[0], Result("accepted", "op-0", None), echoes_reference=False)
    unstorable = msgspec.structs.replace(found, code="a\0")
    never = asyncio.create_task(right.handoff._settle([unstorable], Lane.MARKETING))
    await right.handoff.learn(lost[1], Result("accepted", "op-1", None))
    assert (await right.row()).status == "accepted"
    assert (await wrong.row()).status == "unknown"
    assert not never.done()
    for task in (never, *right.handoff._storing[Lane.MARKETING].stubborn):
        task.cancel()


@pytest.mark.parametrize("said", ["SM\0one", "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))], ids=["nul", "too-long"])
async def test_an_id_that_postgres_cannot_take_holds_up_nothing_and_its_message_is_accepted(
    ledger_of: LedgerOf, server: FaultServer, said: str
) -> None:
    odd, plain = ledger_of("simulator"), ledger_of("simulator")
    permits = [await odd.permit(), await plain.permit()]
    ids = {odd: said, plain: "sim-2"}
    results = [{"reference": str(of.message_id), "id": name, "status": "accepted"} for of, name in ids.items()]
    server.answer = http(200, {"results": results})
    async with asyncio.timeout(30.0):
        await plain.handoff.send(permits)
    assert len(server.requests) == 1
    for ledger, name in ((odd, None), (plain, "sim-2")):
        row = await ledger.row()
        assert (row.status, row.gateway_message_id) == ("accepted", name)


async def test_what_is_not_due_for_a_look_is_left_alone(ledger_of: LedgerOf, server: FaultServer) -> None:
    ledger = ledger_of("sinch")
    await ledger.holds("unknown", decided_ago=timedelta(seconds=5))
    await ledger.look_up()
    assert server.requests == []


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2)])
async def test_receipts_of_parts_in_any_order_twice_and_early_say_the_worst(
    ledger_of: LedgerOf, order: tuple[int, ...]
) -> None:
    """Two parts: the first is sent and delivered, the second sent and failed; each receipt comes twice."""
    ledger = ledger_of("vonage")
    await ledger.holds("sending")
    receipts = [("p-1", "sent"), ("p-1", "delivered"), ("p-2", "sent"), ("p-2", "failed")]
    for at in (*order, *order):
        name, state = receipts[at]
        told = dlr(name, ledger.message_id, gateway="vonage", receipt=state)
        async with ledger.database.begin() as tx:
            await settle_receipts(tx, [told], keep_early=True)
    assert (await ledger.row()).receipt == "failed"
