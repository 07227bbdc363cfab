"""Messages that went out after a STOP nobody had told us of: each is found, once, and no other is."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from common.contracts.dispatch import MessagesChanged
from common.db.database import Database
from common.kafka.subscription import Received
from consent.inbound.opt_out_receipts import Receipts
from consent.ledger.recorder import Statement, record
from consent.ledger.rules import Evidence
from consent.proof import retroactive, store
from consent.proof.retroactive import Looking, Retroactive
from consent.proof.store import HandedOff
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER
from tests.service.consent.test_consent_receipts import message as as_dispatch_tells
from tests.support.builders import called, field_keys, inner, shown, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.running import Surroundings, bearer, running
from tests.unit.consent.evidences import at, contact, on_page, opt_in, opt_out, slow_stop, stop

pytestmark = pytest.mark.brokerless

LATE = at(600)  # when we hear of it


def message(minutes: float, who: int = 1, **changes: Any) -> HandedOff:
    """Of acme's promotions, `minutes` after noon."""
    fields: dict[str, Any] = {
        "message_id": f"m-{who}-{minutes}",
        "subject_id": subject(who),
        "sender_id": "acme",
        "purpose": "promotions",
        "campaign_id": "c1",
        "handed_off_at": at(minutes),
        "status": "accepted",
        "version": 1,
    }
    return HandedOff(**(fields | changes))


async def left(database: Database, *messages: HandedOff) -> None:
    async with database.begin() as tx:
        await store.add_handed_off(tx, messages)


async def said(database: Database, *evidence: Evidence, known: datetime = LATE, who: int = 1) -> None:
    async with database.begin() as tx:
        await record(tx, inner, [Statement(subject(who), "sealed", each) for each in evidence], known)


async def found(database: Database) -> list[Retroactive]:
    async with database.begin() as tx:
        return [each.message for each in await retroactive.page(tx, None, 0, 100)]


async def looked_through(database: Database, looking: Looking) -> list[Retroactive]:
    """All that is committed has been looked at."""

    async def done() -> bool:
        while await looking.look():
            pass
        async with database.begin() as tx:
            behind = await tx.scalar(
                text(
                    "SELECT count(*) FROM retroactive_cursor WHERE ordinal < CASE of_table"
                    " WHEN 'evidence' THEN (SELECT max(ordinal) FROM evidence)"
                    " ELSE (SELECT max(ordinal) FROM handed_off) END"
                )
            )
        return bool(behind == 0)

    await eventually(done)
    return await found(database)


def counted() -> float:
    return REGISTRY.get_sample_value("sms_consent_retroactive_messages_total") or 0.0


@pytest.mark.parametrize("first", ["the STOP", "the message", "both at once"])
async def test_a_message_between_the_stop_and_our_knowledge_of_it_is_found_once_whichever_is_written_last(
    database: Database, first: str
) -> None:
    looking, before = Looking(database), counted()
    await said(database, opt_in(0), known=at(1))
    steps = [said(database, stop(10, received_at=LATE)), left(database, message(30), message(5))]
    for step in steps if first != "the message" else reversed(steps):
        await step
        if first != "both at once":
            await looked_through(database, looking)
    expected = Retroactive(
        message_id="m-1-30",
        subject_id=subject(1),
        sender_id="acme",
        purpose="promotions",
        campaign_id="c1",
        handed_off_at=at(30),
        evidence_id=stop(10).evidence_id,
        stopped_at=at(10),
        known_at=LATE,
        in_doubt=False,
    )
    assert await looked_through(database, looking) == [expected]
    await left(database, message(30))
    await said(database, stop(9, received_at=LATE), stop(10, received_at=LATE))
    assert await looked_through(database, Looking(database)) == [expected]
    assert counted() == before + 1


async def test_only_what_the_stop_forbids_counts(database: Database) -> None:
    """Nine people; of each, what they said, and which of the messages that left after it are found."""
    group = {"controller": "group"}
    cases: list[tuple[list[Evidence], set[str]]] = [
        ([stop(10, sender_id=None)], {"acme promotions", "acme loyalty", "globex promotions"}),
        ([stop(10)], {"acme promotions", "acme loyalty"}),
        ([opt_out(10, purpose="loyalty")], {"acme loyalty"}),
        ([stop(10, sender_id="globex", **group)], {"acme promotions", "acme loyalty", "globex promotions"}),
        ([stop(10), on_page(20, **group)], {"acme loyalty"}),  # back for one purpose before the message left
        ([stop(10), on_page(40, **group)], {"acme promotions", "acme loyalty"}),  # back too late for it
        ([stop(10), opt_in(20, **group)], {"acme promotions", "acme loyalty"}),  # asserted: not back
        ([contact(10)], set()),
        ([stop(31)], set()),
    ]
    messages = [("acme", "promotions"), ("acme", "loyalty"), ("globex", "promotions")]
    for who, (evidence, _) in enumerate(cases):
        given = [opt_in(0, sender_id=s, purpose=p, evidence_id=f"ev-{who}-{s}-{p}", **group) for s, p in messages]
        await said(database, *given, who=who, known=at(1))
        named = [replaced(each, f"ev-{who}-{n}") for n, each in enumerate(evidence)]
        await said(database, *named, who=who)
        await left(
            database,
            *(message(30, who, message_id=f"{who}-{s}-{p}", sender_id=s, purpose=p) for s, p in messages),
        )
    everything = await looked_through(database, Looking(database))
    for who, (_, expected) in enumerate(cases):
        of = {f"{each.sender_id} {each.purpose}" for each in everything if each.subject_id == subject(who)}
        assert of == expected, f"case {who}"


def replaced(evidence: Evidence, evidence_id: str) -> Evidence:
    fields = {name: getattr(evidence, name) for name in Evidence.__struct_fields__}
    return Evidence(**(fields | {"evidence_id": evidence_id}))


async def test_a_stop_that_the_operator_times_to_the_second_is_of_before_in_doubt_and_says_so(
    database: Database,
) -> None:
    await said(database, opt_in(0), known=at(1))
    await said(database, stop(10, received_at=LATE))
    seconds = (-0.1, 0.0, 0.4, 0.999, 1.0)
    await left(
        database,
        *(message(30, message_id=f"m{s}", handed_off_at=at(10) + timedelta(seconds=s)) for s in seconds),
    )
    everything = await looked_through(database, Looking(database))
    assert {each.message_id: each.in_doubt for each in everything} == {
        "m0.0": True,
        "m0.4": True,
        "m0.999": True,
        "m1.0": False,
    }
    assert {each.stopped_at for each in everything} == {at(10)}


async def test_a_stop_that_its_operators_clock_puts_before_the_opt_in_it_came_after_is_in_doubt(
    database: Database,
) -> None:
    await said(database, opt_in(9), known=at(9))
    await said(database, slow_stop(30, slow=25), known=at(30))
    await left(database, message(8, message_id="before"), message(10), message(31, message_id="since"))
    everything = await looked_through(database, Looking(database))
    assert {each.message_id: each.in_doubt for each in everything} == {"before": False, "m-1-10": True, "since": True}


async def test_a_transactional_message_after_a_stop_is_no_matter_of_consent(database: Database) -> None:
    await said(database, opt_in(0), known=at(1))
    await said(database, stop(10, received_at=LATE))
    told = [
        as_dispatch_tells(30, receipt=None, message_id="m-transactional", category="transactional", purpose=None),
        as_dispatch_tells(30, receipt=None, message_id="m-marketing", purpose="promotions", handed_off_at=at(30)),
    ]
    async with database.begin() as tx:
        event = MessagesChanged(changes=tuple(told))
        await Receipts(field_keys, subject_keys).apply(tx, [Received(event, event.key, 0, 0, at(60), None)])
    assert [each.message_id for each in await looked_through(database, Looking(database))] == ["m-marketing"]


async def test_what_is_committed_late_is_not_stepped_over(database: Database) -> None:
    """The STOP and the message each wait in a transaction of their own, while others overtake them."""
    looking = Looking(database)
    await said(database, opt_in(0), known=at(1))
    async with database.engine.connect() as message_tx, database.engine.connect() as stop_tx:
        await record(stop_tx, inner, [Statement(subject(1), "sealed", stop(10, received_at=LATE))], LATE)
        await store.add_handed_off(message_tx, [message(30)])
        await left(database, message(1, 2))
        await said(database, opt_in(2), who=2)
        for _ in range(3):
            await looking.look()
        await stop_tx.commit()
        for _ in range(3):
            await looking.look()
        await message_tx.commit()
    assert [each.message_id for each in await looked_through(database, looking)] == ["m-1-30"]


async def test_a_message_that_left_later_than_it_seemed_is_compared_again(database: Database) -> None:
    looking = Looking(database)
    await said(database, opt_in(0), known=at(1))
    await left(database, message(5, message_id="m", status="unknown"))
    await said(database, stop(10, received_at=LATE))
    assert await looked_through(database, looking) == []
    await left(database, message(30, message_id="m", version=2))
    assert [each.handed_off_at for each in await looked_through(database, looking)] == [at(30)]


async def test_two_that_look_at_the_same_time_find_each_message_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In many stretches."""
    monkeypatch.setattr(retroactive, "AT_ONCE", 3)
    before = counted()
    for who in range(12):
        await said(database, opt_in(0, evidence_id=f"ev-in-{who}"), known=at(1), who=who)
        await said(database, stop(10, evidence_id=f"ev-{who}"), who=who)
    await left(database, *(message(30, who) for who in range(12)))
    both = Looking(database), Looking(database)
    await asyncio.gather(*(looked_through(database, each) for each in both))
    assert sorted(each.message_id for each in await found(database)) == sorted(f"m-{who}-30" for who in range(12))
    assert counted() == before + 12


async def test_the_report_goes_by_pages_to_whoever_the_sender_is_for(surroundings: Surroundings) -> None:
    database = Database(await surroundings.database("consent"))
    for who, sender in enumerate(("acme", "globex", "acme")):
        given = opt_in(0, sender_id=sender, evidence_id=f"ev-in-{who}")
        await said(database, given, known=at(1), who=who)
        await said(database, stop(10, sender_id=sender, evidence_id=f"ev-{who}"), who=who)
    await left(database, message(30, 0), message(31, 1, sender_id="globex"), message(32, 2))
    await looked_through(database, Looking(database))
    await database.close()
    path = "/v1/retroactive-messages"
    async with running(build(Settings(**await surroundings.settings("consent", roles="api")))) as client:
        for body in (SENDER, called(SENDER, "globex")):
            assert (await client.post("/v1/senders", json=body)).status_code == 201
        first = (await client.get(path, params={"limit": 2})).json()
        rest = (await client.get(path, params={"limit": 2, "cursor": first["next"]})).json()
        assert sorted(item["message_id"] for item in first["items"] + rest["items"]) == ["m-0-30", "m-1-31", "m-2-32"]
        assert rest["next"] is None
        of_acme = (await client.get(path, params={"sender_id": "acme"})).json()["items"]
        assert {item["message_id"] for item in of_acme} == {"m-0-30", "m-2-32"}
        mine = (await client.get(path, headers=bearer(senders=["globex"]))).json()["items"]
        assert [(item["message_id"], item["subject_id"]) for item in mine] == [("m-1-31", shown(1, "globex"))]
        assert mine[0]["stopped_at"] == "2026-03-02T12:10:00Z"
        assert mine[0]["handed_off_at"] == "2026-03-02T12:31:00Z"
        assert mine[0]["known_at"] == "2026-03-02T22:00:00Z"
        assert "number" not in mine[0]
        refused = await client.get(path, params={"sender_id": "acme"}, headers=bearer(senders=["globex"]))
        assert refused.status_code == 403
        assert (await client.get(path, headers=bearer(scope="consent:write"))).status_code == 403
        for unsound in ({"cursor": "x"}, {"sender_id": "\0"}, {"sender_id": "x" * 201}):
            refused = await client.get(path, params=unsound)
            assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
