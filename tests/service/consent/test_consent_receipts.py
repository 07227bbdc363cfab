"""Receipts that tell of an opt-out: evidence, once, whoever the person is to us."""

import random
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from common.contracts import DISPATCH_MESSAGES
from common.contracts.dispatch import MessageChanged, MessagesChanged
from common.db.database import Database
from common.kafka.subscription import Hold, Received
from consent.inbound.opt_out_receipts import Receipts
from consent.inbound.recent import Recent
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.recorder import Statement, record
from consent.proof import store as proof_store
from consent.proof.store import HandedOff
from consent.service import Settings, build
from tests.service.consent.test_consent_api import SENDER
from tests.support.builders import field_keys, inner, number, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.publish import publish
from tests.support.running import Surroundings, running
from tests.unit.consent.evidences import NOW, at, on_page, opt_in

WHO = subject(1)
OTHERS = """
INSERT INTO handed_off (message_id, subject_id, sender_id, purpose, campaign_id, handed_off_at, status, version)
SELECT gen_random_uuid(), 't1-' || md5(n::text), 'acme', 'promotions', 'c' || (2 + n % 5), now(), 'accepted', 1
FROM generate_series(1, 20000) AS n
"""
READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'handed_off'"


def message(minutes: float | None, **changes: Any) -> MessageChanged:
    """A message of acme to a person who turned out to be opted out, as dispatch tells it."""
    fields: dict[str, Any] = {
        "message_id": "01a2106a-b86f-824b-bc66-626b85015e26",
        "campaign_id": "c1",
        "sender_id": "acme",
        "subject_id": WHO,
        "category": "marketing",
        "version": 3,
        "status": "accepted",
        "reasons": (),
        "until": None,
        "policy_version": "france-3",
        "consent_version": 1,
        "as_of": NOW,
        "decided_at": NOW,
        "gateway": "twilio",
        "gateway_message_id": "SM1",
        "receipt": "opted_out",
        "code": "21610",
        "receipt_at": None if minutes is None else at(minutes),
        "number": field_keys.seal(number(1), f"number:{WHO}"),
    }
    return MessageChanged(**(fields | changes))


async def give(database: Database, evidence: ledger.Evidence) -> None:
    async with database.begin() as tx:
        await record(tx, inner, [Statement(WHO, "sealed", evidence)], NOW)


async def tell(
    database: Database,
    *messages: MessageChanged,
    published_at: datetime | None = None,
    by: Receipts | None = None,
    fails: bool = False,
) -> None:
    """In one record. `by`: a process that reads further; else one that has just begun."""
    event = MessagesChanged(changes=messages)
    batch = [Received(event, event.key, 0, 0, published_at or at(60), None)]
    with pytest.raises(Hold) if fails else nullcontext():
        async with database.begin() as tx:
            assert await (by or process()).apply(tx, batch) is None
            if fails:
                raise Hold


def process(most: int = 50) -> Receipts:
    return Receipts(field_keys, subject_keys, recent=Recent(most))


async def standing(database: Database, sender_id: str = "acme") -> str:
    async with database.begin() as tx:
        found = await ledger_store.find_subject(tx, WHO)
    return ledger.standing(found.state, sender_id, "promotions") if found else "unknown"


async def test_a_receipt_that_says_opted_out_closes_its_sender_and_no_other(database: Database) -> None:
    await give(database, opt_in(0))
    await give(database, opt_in(0, sender_id="globex"))
    await tell(database, message(10))
    assert (await standing(database), await standing(database, "globex")) == ("opted_out", "opted_in")
    async with database.begin() as tx:
        proof = (await ledger_store.history(tx, WHO))[-1].evidence
    assert (proof.source, proof.reference, proof.purpose) == ("receipt", "twilio/SM1", None)
    assert (proof.occurred_at, proof.received_at) == (at(10), at(60))


async def test_it_counts_once_however_often_the_message_changes(database: Database) -> None:
    await tell(database, message(10), message(10))
    await tell(database, message(10, version=4), published_at=at(90))
    async with database.begin() as tx:
        assert len(await ledger_store.history(tx, WHO)) == 1


@pytest.mark.parametrize("receipt", [None, "queued", "sent", "delivered", "failed", "expired", "unknown"])
async def test_no_other_receipt_is_an_opt_out(database: Database, receipt: str | None) -> None:
    await give(database, opt_in(0))
    await tell(database, message(10, receipt=receipt, number=None))
    assert await standing(database) == "opted_in"


async def test_only_the_persons_own_opt_in_after_the_receipt_stands(database: Database) -> None:
    await give(database, opt_in(20))
    await tell(database, message(10))
    assert await standing(database) == "opted_out"
    await give(database, on_page(15))
    assert await standing(database) == "opted_in"


async def test_without_a_time_of_its_own_it_counts_from_when_it_was_told(database: Database) -> None:
    await give(database, opt_in(20))
    await tell(database, message(None), published_at=at(30))
    assert await standing(database) == "opted_out"


async def test_a_stranger_who_is_opted_out_at_the_operator_is_remembered(database: Database) -> None:
    await tell(database, message(10, category="transactional"))
    await give(database, opt_in(5))
    assert await standing(database) == "opted_out"


async def test_it_travels_from_dispatchs_topic_to_the_ledger(surroundings: Surroundings) -> None:
    async with running(build(Settings(**await surroundings.settings("consent")))) as client:
        assert (await client.post("/v1/senders", json=SENDER)).status_code == 201
        await publish(
            surroundings, DISPATCH_MESSAGES, [MessagesChanged(changes=(message(-10), message(-10, version=4)))]
        )

        async def known() -> list[dict[str, Any]]:
            answer = await client.post("/v1/subjects/lookup", json={"number": number(1)})
            found: list[dict[str, Any]] = answer.json()["history"]
            assert found
            return found

        [line] = await eventually(known)
    assert (line["source"], line["reference"], line["sender_id"]) == ("receipt", "twilio/SM1", "acme")
    assert datetime.fromisoformat(line["received_at"]) - at(-10) > timedelta(0)


async def left(database: Database, people: int = 10) -> list[HandedOff]:
    async with database.begin() as tx:
        found = await proof_store.handed_off_of(tx, "c1", "", people)
    return [one for messages in found.values() for one in messages]


def sent(**changes: Any) -> MessageChanged:
    return message(None, **({"receipt": None, "purpose": "promotions", "handed_off_at": at(1)} | changes))


async def test_a_message_that_left_is_kept_once(database: Database) -> None:
    await tell(database, sent())
    await tell(database, sent(version=4, receipt="delivered"))
    (one,) = await left(database)
    assert (one.subject_id, one.sender_id, one.purpose, one.campaign_id) == (WHO, "acme", "promotions", "c1")
    assert (one.handed_off_at, one.status) == (at(1), "accepted")


async def test_the_messages_of_a_campaign_are_read_in_pages_each_person_once(database: Database) -> None:
    people = [subject(n) for n in range(7)]
    told = [
        sent(message_id=f"{campaign}-{n}-{k}", subject_id=who, campaign_id=campaign, number=None)
        for n, who in enumerate(people)
        for campaign in ("c1", "c2")
        for k in range(2)
    ]
    await tell(database, *told)
    pages, after = [], ""
    async with database.begin() as tx:
        while page := await proof_store.handed_off_of(tx, "c1", after, 3):
            pages.append({who: [each.message_id for each in messages] for who, messages in page.items()})
            *_, after = page
    assert [len(page) for page in pages] == [3, 3, 1]
    read = {who: messages for page in pages for who, messages in page.items()}
    assert read == {who: [f"c1-{n}-0", f"c1-{n}-1"] for n, who in enumerate(people)}


async def test_what_left_is_looked_up_without_reading_the_rest(database: Database) -> None:
    """Postgres has no statistics of the table yet."""
    await tell(database, sent())
    async with database.begin() as tx:
        await tx.exec_driver_sql("ALTER TABLE handed_off SET (autovacuum_enabled = off)")
        await tx.exec_driver_sql(OTHERS)

    async def read() -> int:
        async with database.begin() as tx:
            await tx.execute(text("SELECT pg_stat_force_next_flush()"))
        async with database.begin() as tx:
            return int(await tx.scalar(text(READ)) or 0)

    before = await read()
    await tell(database, sent(version=4, status="unknown"))
    [known] = await left(database)
    async with database.begin() as tx:
        found = await proof_store.handed_off_of(tx, "c1", subject(2), 10)
    assert (known.status, known.version) == ("unknown", 4)
    assert set(found) <= {WHO}
    assert 0 < await read() - before <= 20


async def test_a_dlr_that_changes_nothing_here_writes_no_row(database: Database) -> None:
    async def written() -> list[tuple[str, int]]:
        async with database.begin() as tx:
            rows = await tx.execute(text("SELECT CAST(xmin AS text), version FROM handed_off"))
            return [tuple(row) for row in rows]

    reader = process()
    await tell(database, sent(version=2), by=reader)
    before = await written()
    await tell(database, sent(version=3, receipt="delivered"))
    assert await written() == before
    await tell(database, sent(version=3, receipt="delivered"), by=reader)
    assert await written() == before
    await tell(database, sent(version=4, receipt="failed"), by=reader)
    assert [version for _, version in await written()] == [4]
    assert [one.status for one in await left(database)] == ["unknown"]


async def test_a_record_of_several_messages_and_senders_says_as_much_as_a_record_of_each(database: Database) -> None:
    await give(database, opt_in(0))
    await give(database, opt_in(0, sender_id="globex"))
    await give(database, opt_in(0, sender_id="initech"))
    await tell(
        database,
        sent(message_id="m-1", version=2, status="unknown", handed_off_at=None),
        sent(message_id="m-2", sender_id="globex", status="denied", handed_off_at=None),
        sent(message_id="m-1"),
        sent(message_id="m-3", sender_id="initech", receipt="opted_out", receipt_at=at(20)),
        sent(message_id="m-4", sender_id="globex", campaign_id=None, category="transactional", receipt="opted_out"),
    )
    kept = {one.message_id: (one.sender_id, one.handed_off_at, one.status) for one in await left(database)}
    assert kept == {"m-1": ("acme", at(1), "accepted"), "m-3": ("initech", at(1), "accepted")}
    assert [await standing(database, who) for who in ("acme", "globex", "initech")] == [
        "opted_in",
        "opted_out",
        "opted_out",
    ]


# Marked as begun and lost by a process, decided again the next day; the DLR of a part is followed by that of another.
LIFE = (
    sent(version=2, status="unknown", handed_off_at=None),
    sent(version=5, handed_off_at=at(2000)),
    sent(version=6, handed_off_at=at(2000), receipt="delivered"),
    sent(version=7, handed_off_at=at(2000), receipt="failed"),
    sent(version=8, handed_off_at=at(2000), receipt="opted_out"),
)
KEPT = {
    2: ("unknown", NOW),
    5: ("accepted", at(2000)),
    6: ("accepted", at(2000)),
    7: ("unknown", at(2000)),
    8: ("accepted", at(2000)),
}


@pytest.mark.parametrize("seed", range(6))
async def test_the_newest_state_is_kept_in_whatever_order_and_however_often_the_states_arrive(
    database: Database, seed: int
) -> None:
    """Whichever of two processes reads, or one that has just begun; a transaction may fail, and comes again or not."""
    chance = random.Random(seed)
    known: dict[str, int] = {}
    readers = [process(), process(6), None]
    for _ in range(90):
        batch = [(f"m-{chance.randrange(12)}", chance.choice(LIFE)) for _ in range(chance.randint(1, 6))]
        told, by, fails = [replace(event, message_id=each) for each, event in batch], chance.choice(readers), False
        if chance.random() < 0.2:
            await tell(database, *told, by=by, fails=True)
            fails = chance.random() < 0.5
        if not fails:
            await tell(database, *told, by=by)
            for message_id, event in batch:
                known[message_id] = max(event.version, known.get(message_id, 0))
        found = {one.message_id: (one.status, one.handed_off_at) for one in await left(database)}
        assert found == {message_id: KEPT[version] for message_id, version in known.items()}


async def test_what_did_not_leave_or_stands_on_no_consent_is_not_kept(database: Database) -> None:
    waiting = [sent(message_id=s, status=s) for s in ("pending", "denied", "deferred", "sending", "expired")]
    await tell(database, *waiting, sent(category="service"), sent(category="transactional"))
    assert await left(database) == []


async def test_where_nobody_lived_to_tell_when_it_left_the_decision_says_it(database: Database) -> None:
    await tell(database, sent(status="unknown", handed_off_at=None))
    assert [one.handed_off_at for one in await left(database)] == [NOW]


async def test_a_receipt_under_another_subject_id_counts_for_the_person_of_its_number(database: Database) -> None:
    await give(database, opt_in(0))
    other = "t1-" + "f" * 32
    await tell(database, message(1, subject_id=other, number=field_keys.seal(number(1), f"number:{other}")))
    assert await standing(database) == "opted_out"


def many(people: range, **changes: Any) -> list[MessageChanged]:
    return [sent(message_id=f"m-{n}", subject_id=subject(n), number=None, **changes) for n in people]


async def test_of_many_hand_offs_one_that_is_stored_already_is_no_obstacle(database: Database) -> None:
    """A process that has just begun adds the rows without a look."""
    await tell(database, *many(range(70, 71)), *many(range(71, 72), status="unknown"))
    batch = many(range(100))
    batch[71] = replace(batch[71], version=5)
    await tell(database, *batch)
    await tell(database, *batch)
    async with database.begin() as tx:
        found = await proof_store.handed_off_of(tx, "c1", "", 200)
    kept = sorted((one.message_id, one.status, one.version) for messages in found.values() for one in messages)
    assert kept == sorted((f"m-{n}", "accepted", 5 if n == 71 else 3) for n in range(100))


async def test_what_a_failed_transaction_did_not_store_is_not_remembered(database: Database) -> None:
    """The partition goes to another process before the batch comes again, and comes back."""
    reader = process()
    await tell(database, *many(range(3), status="unknown"), by=reader, fails=True)
    await tell(database, *many(range(3), version=2, handed_off_at=at(-5)))
    await tell(database, *many(range(3), version=4, status="unknown"), by=reader)
    assert {(one.status, one.version) for one in await left(database)} == {("unknown", 4)}


async def test_rows_that_a_failover_has_lost_are_stored_again(database: Database) -> None:
    """The consumer reads the records again whose commits are lost."""
    reader = process()
    told = many(range(60)), many(range(60), version=4, receipt="delivered")
    for batch in told:
        await tell(database, *batch, by=reader)
    async with database.begin() as tx:
        await tx.execute(text("DELETE FROM handed_off"))
    for batch in told:
        await tell(database, *batch, by=reader)
    assert sorted(one.message_id for one in await left(database, 100)) == sorted(f"m-{n}" for n in range(60))


async def test_a_batch_of_messages_reads_itself_and_no_others(surroundings: Surroundings) -> None:
    """Hand-offs first, then their DLRs, of which nothing is stored: beside a list of what left long ago."""
    database = Database(await surroundings.database("consent"), pool_size=1)
    within = READ.replace("pg_stat_user_tables", "pg_stat_xact_user_tables")
    async with database.begin() as tx:
        await tx.execute(text(OTHERS))
        await tx.execute(text("ANALYZE handed_off"))
    reader, restarted, read = process(200), process(200), []
    for version, receipt, by in (
        (3, None, reader),
        (4, "delivered", reader),
        (4, "delivered", restarted),
        (5, "delivered", restarted),
    ):
        event = MessagesChanged(changes=tuple(many(range(200), version=version, receipt=receipt)))
        async with database.begin() as tx:
            before = await tx.scalar(text(within))
            await by.apply(tx, [Received(event, event.key, 0, 0, at(60), None)])
            read.append(await tx.scalar(text(within)) - before)
    async with database.begin() as tx:
        stored = await tx.scalar(text("SELECT count(*) FROM handed_off WHERE message_id LIKE 'm-%'"))
    await database.close()

    assert stored == 200
    assert read == [0, 0, 200, 0]
