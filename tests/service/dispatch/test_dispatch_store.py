"""What dispatch's statements keep, whatever order things come in: real Postgres, no service around."""

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace
from sqlalchemy import text

from common.contracts import STATES
from common.contracts.consent import ConsentStateChanged
from common.contracts.rights import ErasureRequested
from common.db.database import COPIED_MESSAGES, Database, fetch_many
from common.kafka import broker as kafka
from common.kafka import outbox, packing
from common.kafka.broker import partition_of
from common.kafka.subscription import Received, home_offset
from common.privacy import erasing
from common.privacy.erasing import Whom
from dispatch.accepting import store as accepting
from dispatch.gate import store as gate
from dispatch.gateways.pool import Traffic
from dispatch.lane import Due, Lane
from dispatch.messages import enforcement, events
from dispatch.messages import store as messages
from dispatch.messages.row import MessageRow, shared_id, shortened
from dispatch.messages.status import Status
from dispatch.privacy.erasure import eraser
from dispatch.projection import apply as projection
from dispatch.projection import store as projection_store
from dispatch.sending import store as sending
from dispatch.sending.pipeline import Handoff
from dispatch.sending.receipts import settle_receipts
from tests.support.builders import SENDER, controlled, now, opted_in, opted_out, sender_changed, subject
from tests.support.eventually import eventually
from tests.support.infrastructure import Postgres
from tests.support.ledger import accepted, decided_at, deferred, dlr, message, opt_out, receipted
from tests.support.reading import changes_in

pytestmark = pytest.mark.brokerless

MANY_LIKE_IT = (
    "INSERT INTO message SELECT (jsonb_populate_record(m, jsonb_build_object('message_id', gen_random_uuid()))).*"
    " FROM message AS m, generate_series(1, :many) WHERE m.message_id = :id"
)
READ = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'message'"


async def test_an_older_sender_never_replaces_a_newer_one(database: Database) -> None:
    async with database.begin() as tx:
        await projection_store.put_sender(tx, sender_changed(version=2, oadc="LUNE2"))
        await projection_store.put_sender(tx, sender_changed(version=1, oadc="LUNE1"))
        held = await projection_store.senders(tx, ["maison-lune"])
    assert held["maison-lune"].oadc == "LUNE2"


async def test_an_older_control_never_replaces_a_newer_one(database: Database) -> None:
    async with database.begin() as tx:
        await projection_store.put_control(tx, controlled("cancelled", version=3))
        await projection_store.put_control(tx, controlled("running", version=2))
        assert (await gate.knowledge(tx, 0, [], ["c1"])).controls == {"c1": "cancelled"}


async def test_a_subject_is_unreadable_until_a_newer_state_is_read(database: Database) -> None:
    async with database.begin() as tx:
        await projection_store.put_subjects(tx, [opted_in(1, version=3)])
        await projection_store.mark_unreadable(tx, subject(1), 7)
        await projection_store.put_subjects(tx, [opted_in(1, version=3)])
        assert (await gate.knowledge(tx, 0, [subject(1)], [])).subjects[subject(1)].unreadable
        await projection_store.put_subjects(tx, [opted_in(1, version=4)])
        assert not (await gate.knowledge(tx, 0, [subject(1)], [])).subjects[subject(1)].unreadable


async def test_no_two_idempotency_keys_share_a_lock(database: Database) -> None:
    async with database.begin() as tx:
        for place in range(200):
            await accepting.lock_key(tx, "tests\x1fshop", f"order-{place}")
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        assert await tx.scalar(text(held)) == 200


def received(state: ConsentStateChanged, offset: int) -> list[Received]:
    return [Received(state, state.subject_id, 0, offset, now(), None)]


@pytest.mark.parametrize("order", [(10, 12), (12, 10)])
async def test_of_two_states_that_could_not_be_read_the_older_one_handled_again_makes_nobody_readable(
    database: Database, order: tuple[int, int]
) -> None:
    """The other may be a STOP. A record that is handled again may be found unreadable after a later one."""
    async with database.begin() as tx:
        await projection.apply_states(tx, received(opted_in(1, version=5), 4))
        for offset in order:
            await projection.mark_unreadable(tx, subject(1), 0, offset)
        await projection.apply_states(tx, received(opted_in(1, version=6), 10))
        held = (await gate.knowledge(tx, 0, [subject(1)], [])).subjects[subject(1)]
        assert (held.version, held.unreadable) == (6, True)
        await projection.apply_states(tx, received(opted_out(1, version=7), 12))
        held = (await gate.knowledge(tx, 0, [subject(1)], [])).subjects[subject(1)]
        assert (held.version, held.unreadable) == (7, False)


async def test_what_the_version_before_marked_is_readable_by_the_next_state(database: Database) -> None:
    async with database.begin() as tx:
        await projection.apply_states(tx, received(opted_in(1, version=5), 4))
        await tx.execute(text("UPDATE subject SET unreadable = true, log_offset = NULL"))
        await projection.apply_states(tx, received(opted_in(1, version=6), 3))
        assert not (await gate.knowledge(tx, 0, [subject(1)], [])).subjects[subject(1)].unreadable


async def test_what_stands_under_an_older_id_came_before_all_under_the_id_of_now(database: Database) -> None:
    """By the offsets of two partitions, an older state would make a person readable, or a newer one never."""

    async def unreadable() -> bool:
        return (await gate.knowledge(tx, 0, [subject(1)], [])).subjects[subject(1)].unreadable

    async with database.begin() as tx:
        await projection.apply_states(tx, received(opted_in(1, version=5), 4))
        await projection.mark_unreadable(tx, subject(1), 2, home_offset(1_000_000, moved=True))
        await projection.apply_states(tx, received(opted_in(1, version=6), 5))
        assert not await unreadable()
        await projection.mark_unreadable(tx, subject(1), 2, 10)
        before = opted_in(1, version=7)
        await projection.apply_states(tx, [Received(before, before.subject_id, 0, 2_000_000, now(), None, 2)])
        assert await unreadable()
        await projection.apply_states(tx, received(opted_out(1, version=8), 10))
        assert not await unreadable()


async def test_a_stop_under_an_older_id_locks_decisions_of_the_persons_own_partition_out(database: Database) -> None:
    stop = opted_out(1, version=7)
    async with database.begin() as applying, database.begin() as deciding:
        await projection.apply_states(applying, [Received(stop, stop.subject_id, 0, 4, now(), None, 2)])
        for place, free in ((0, False), (1, True), (2, False)):
            assert await messages.try_lock_partition(deciding, place, Lane.MARKETING) is free
        assert await applying.scalar(text("SELECT partition FROM enforcement")) == 2


async def test_while_ids_are_moved_the_oldest_watermark_of_all_partitions_counts(database: Database) -> None:
    early, late = now() - timedelta(seconds=9), now()
    mark = (
        "INSERT INTO consumer_offset (consumer_group, topic, partition, next_offset, as_of)"
        f" VALUES ('{projection_store.CONSENTS_GROUP}', '{STATES.name}', :place, 1, :as_of)"
    )
    async with database.begin() as tx:
        await tx.execute(text(mark), {"place": 0, "as_of": late})
        assert await projection_store.watermark(tx, 0, oldest_of=2) is None, "a partition that nothing was read of"
        await tx.execute(text(mark), {"place": 1, "as_of": early})
        assert await projection_store.watermark(tx, 0) == late
        assert await projection_store.watermark(tx, 0, oldest_of=2) == early


@pytest.mark.parametrize("of", ["this decision", "an earlier one"])
@pytest.mark.parametrize(
    ("was", "told", "becomes", "of_an_earlier_one"),
    [
        ("sending", "accepted", "accepted", "accepted"),
        ("sending", "rejected", "rejected", "sending"),
        ("sending", "unknown", "unknown", "sending"),
        ("sending", "deferred", "deferred", "sending"),
        ("unknown", "accepted", "accepted", "accepted"),
        ("unknown", "rejected", "rejected", "rejected"),
        ("unknown", "unknown", "unknown", "unknown"),
        ("unknown", "deferred", "deferred", "unknown"),
        ("accepted", "rejected", "accepted", "accepted"),
        ("accepted", "unknown", "accepted", "accepted"),
        ("accepted", "deferred", "accepted", "accepted"),
        ("rejected", "accepted", "rejected", "rejected"),
        ("denied", "accepted", "denied", "denied"),
        ("expired", "accepted", "expired", "expired"),
    ],
)
async def test_an_outcome_settles_what_is_open_and_in_its_hand_and_never_what_is_final(
    database: Database, was: str, told: str, becomes: str, of_an_earlier_one: str, of: str
) -> None:
    row = message(1, was)
    earlier = of == "an earlier one"
    becomes = of_an_earlier_one if earlier else becomes
    outcome = accepted(
        row,
        decided_at=decided_at(row) - timedelta(seconds=15 if earlier else 0),
        status=Status(told),
        due_at=now() if told == "deferred" else None,
        handed_off_at=None,
    )
    async with database.begin() as tx:
        await messages.insert_messages(tx, [row])
        changed = await messages.settle(tx, [outcome])
        (found,) = await sending.messages_of_receipts(tx, [row.message_id], [], [])
    assert found.status == becomes
    assert [c.state.status for c in changed] == ([becomes] if found.version == 2 else [])
    assert (found.version == 2) == (was != becomes)


async def test_what_is_due_is_found_by_an_index_of_its_kind_and_there_is_no_other(database: Database) -> None:
    async with database.begin() as tx:
        await tx.execute(text("SET LOCAL enable_seqscan = off"))
        by_kind = (
            "SELECT indexname FROM pg_indexes WHERE indexdef LIKE '%ON public.message USING btree (partition, due_at)%'"
        )
        indexes = set((await tx.execute(text(by_kind))).scalars())
        for kind in Due:
            await sending.due_partitions(tx, range(3), now(), kind)
            await sending.claim_due(tx, 0, now(), 10, kind)
        scanned = "SELECT relname FROM pg_class WHERE relname LIKE 'message%ix' AND pg_stat_get_xact_numscans(oid) > 0"
        used = set((await tx.execute(text(scanned))).scalars())
    assert indexes == used == {f"message_due_{kind}_ix" for kind in Due}


async def test_what_waits_for_a_slot_is_passed_over_and_what_has_been_refused_is_not(database: Database) -> None:
    """Both name the gateway: one is to go by it, the other did not."""
    code: dict[str, Any] = {"category": "transactional", "due_at": now()}
    waits, refused = message(1, "pending", **code), message(1, "deferred", **code)
    async with database.begin() as tx:
        await messages.insert_messages(tx, [waits])
        await messages.insert_messages(tx, [refused])

    async def claimed(partition: int, *waited_for: str) -> set[Any]:
        async with database.begin() as tx:
            rows = await sending.claim_due(tx, partition, now(), 10, Due.CODES, waited_for=waited_for)
            return {row.message_id for row in rows}

    for row, still in ((waits, set()), (refused, {refused.message_id})):
        assert row.message_id in await claimed(row.partition)
        assert await claimed(row.partition, "simulator") & {row.message_id} == still


async def test_evidence_of_an_opt_out_leaves_the_status_as_it_is(database: Database) -> None:
    """A late refusal of a repeat: the first was taken, and stays so; the opt-out counts."""
    row = message()
    async with database.begin() as tx:
        await messages.insert_messages(tx, [row])
        await tx.execute(text("UPDATE message SET status = 'accepted'"))
        told = receipted(row.message_id, proves=False, receipt="opted_out")
        [changed] = await messages.put_receipts(tx, [told])
    assert (changed.state.status, changed.state.receipt) == ("accepted", "opted_out")


@pytest.mark.parametrize("begun", ["handed_off_at = now()", "receipt = 'sent'"])
@pytest.mark.parametrize("was", ["sending", "unknown"])
async def test_what_somebody_knows_to_have_begun_does_not_wait_again(database: Database, was: str, begun: str) -> None:
    row = message(1, was)
    ours = [decided_at(row)]
    async with database.begin() as tx:
        await messages.insert_messages(tx, [row])
        assert len(await sending.still_ours(tx, [row.message_id], ours, again=False)) == 1
        assert len(await sending.still_ours(tx, [row.message_id], ours, again=True)) == (was == "sending")
        assert not await sending.still_ours(tx, [row.message_id], [now()], again=False)
        await tx.execute(text(f"UPDATE message SET {begun}"))
        assert not await sending.still_ours(tx, [row.message_id], ours, again=False)
        assert not await messages.settle(tx, [deferred(row)])


async def test_what_is_due_is_found_without_reading_what_is_settled_or_of_another_kind(
    postgres: Postgres, unique: str
) -> None:
    """It is looked at four times a second, by connections that did so when the ledger was known to be empty."""
    dsn = await postgres.clone("dispatch", f"dispatch_{unique}")
    connection = await asyncpg.connect(dsn)
    await connection.execute("VACUUM ANALYZE message")
    await connection.close()
    database = Database(dsn, pool_size=1)

    async def look(kind: Due) -> tuple[list[int], int, int]:
        async with database.begin() as tx:
            before = await tx.scalar(text(READ))  # what this connection did just now may not have been told yet
            partitions = await sending.due_partitions(tx, range(3), now(), kind)
            claimed = [
                row
                for partition in partitions or range(3)
                for row in await sending.claim_due(tx, partition, now(), 10, kind)
            ]
            return partitions, len(claimed), await tx.scalar(text(READ)) - before

    for _ in range(10):  # by then a plan is kept
        assert [await look(kind) for kind in Due] == [([], 0, 0)] * 3
    settled, waiting = message(1, "accepted"), message(2, "deferred", due_at=now() - timedelta(seconds=9))
    code = message(3, "deferred", category="transactional", due_at=now())
    question = message(4, "deferred", category="service", due_at=now())
    async with database.begin() as tx:
        for row in (settled, waiting, code, question):
            await messages.insert_messages(tx, [row])
        for like, many in ((settled, 20_000), (waiting, 2_000)):
            await tx.execute(text(MANY_LIKE_IT), {"id": like.message_id, "many": many})

    async def is_found_at_once(kind: Due, some: MessageRow, found: int) -> None:
        partitions, claimed, read = await look(kind)
        assert (partitions, claimed) == ([some.partition], found)
        assert 2 <= read <= 50, (kind, read)

    await is_found_at_once(Due.CODES, code, 1)
    await is_found_at_once(Due.MARKETING, waiting, 10)
    async with database.begin() as tx:
        await tx.execute(text(MANY_LIKE_IT), {"id": code.message_id, "many": 2_000})
    await is_found_at_once(Due.QUESTIONS, question, 1)
    await database.engine.dispose()


async def test_what_a_receipt_speaks_of_is_found_without_reading_the_ledger(postgres: Postgres, unique: str) -> None:
    """By our id or by the gateway's, by a connection that looked when the ledger was known to be empty."""
    dsn = await postgres.clone("dispatch", f"dispatch_{unique}")
    connection = await asyncpg.connect(dsn)
    await connection.execute("VACUUM ANALYZE message")
    await connection.close()
    database = Database(dsn, pool_size=1)
    ours, theirs, other = message(1, "accepted"), message(2), message(3, "accepted")

    async def look() -> tuple[set[UUID], int]:
        async with database.begin() as tx:
            before = await tx.scalar(text(READ))
            ids = [ours.message_id]
            rows = await sending.messages_of_receipts(tx, ids, ["op-1", "op-2"], ["simulator", "simulator"])
            return {row.message_id for row in rows}, await tx.scalar(text(READ)) - before

    for _ in range(10):
        assert await look() == (set(), 0)
    async with database.begin() as tx:
        for row in (ours, theirs, other):
            await messages.insert_messages(tx, [row])
        await messages.accept(tx, [(accepted(theirs, gateway_message_id="op-2", known_as="op-2"), theirs)])
        await tx.execute(text(MANY_LIKE_IT), {"id": other.message_id, "many": 20_000})
    found, read = await look()
    assert found == {ours.message_id, theirs.message_id}
    assert read <= 10
    await database.engine.dispose()


async def test_what_nobody_has_touched_is_accepted_at_once_and_what_a_receipt_overtook_is_settled(
    database: Database,
) -> None:
    plain, overtaken = message(1), message(2)
    outcomes = [(accepted(row), row) for row in (plain, overtaken)]
    async with database.begin() as tx:
        await messages.insert_messages(tx, [plain])
        await messages.insert_messages(tx, [overtaken])
        await messages.put_receipts(tx, [receipted(overtaken.message_id)])
        assert await messages.accept(tx, outcomes) == {plain.message_id}
        [told] = await messages.settle(tx, [outcomes[1][0]])
        rows = await sending.messages_of_receipts(tx, [plain.message_id, overtaken.message_id], [], [])
    assert {(row.status, row.version, row.receipt) for row in rows} == {
        ("accepted", 2, None),
        ("accepted", 3, "delivered"),
    }
    assert (told.state.version, told.state.receipt) == (3, "delivered")


@pytest.mark.parametrize("kept", [True, False])
async def test_a_receipt_that_waited_for_another_one_applies_to_the_message_as_it_is_then(
    database: Database, *, kept: bool
) -> None:
    """A receipt reads the message without a lock."""
    row, other = message(1), message(2)
    async with database.begin() as tx:
        for each in (row, other):
            await messages.insert_messages(tx, [each])
        await messages.settle(tx, [accepted(row), accepted(other)])

    async def receive() -> None:
        async with database.begin() as tx:
            told = [dlr(f"op-{each.message_id}", each.message_id) for each in (row, other)]
            await settle_receipts(tx, told, keep_early=True)

    async with database.begin() as storing:
        await messages.put_receipts(storing, [receipted(row.message_id, receipt="opted_out")])
        receiving = asyncio.create_task(receive())
        await eventually(lambda: _somebody_waits(database))
        if not kept:
            await storing.rollback()
    await receiving
    async with database.begin() as tx:
        rows = await sending.messages_of_receipts(tx, [row.message_id, other.message_id], [], [])
    assert {each.message_id: (each.version, each.receipt) for each in rows} == {
        row.message_id: (3, "opted_out" if kept else "delivered"),
        other.message_id: (3, "delivered"),
    }


@pytest.mark.parametrize("together", [True, False])
async def test_receipts_of_a_message_leave_the_same_whether_they_come_together_or_not(
    database: Database, *, together: bool
) -> None:
    row = message(1)
    async with database.begin() as tx:
        await messages.insert_messages(tx, [row])
        await messages.settle(tx, [accepted(row)])
    first, second = dlr("op-1", row.message_id, receipt="sent", code="1101"), dlr("op-1", row.message_id)
    for told in [[first, second]] if together else [[first], [second]]:
        async with database.begin() as tx:
            await settle_receipts(tx, told, keep_early=True)
    async with database.begin() as tx:
        found = await messages.found(tx, row.message_id)
    assert found is not None
    assert (found.receipt, found.code) == ("delivered", "1101")


@pytest.mark.parametrize("many", [3, COPIED_MESSAGES])
@pytest.mark.parametrize("decided", [True, False])
async def test_a_message_is_inserted_once_and_a_repeat_changes_no_row(
    database: Database, many: int, decided: bool
) -> None:
    like = message(1) if decided else message(1, "pending", decided_at=None, due_at=now())
    rows = [replace(like, message_id=uuid4()) for _ in range(many)]
    async with database.begin() as tx:
        assert await messages.insert_messages(tx, rows[1:]) == {row.message_id for row in rows[1:]}
    async with database.begin() as tx:
        again = [replace(row, sender_id="another") for row in [*rows, rows[0]]]
        assert await messages.insert_messages(tx, again) == {rows[0].message_id}
        kept = await fetch_many(tx, "SELECT message_id, sender_id FROM message")
    assert dict(map(tuple, kept)) == {row.message_id: like.sender_id for row in rows} | {rows[0].message_id: "another"}


VARIED: dict[str, tuple[object, ...]] = {
    "status": (Status.DEFERRED, Status.EXPIRED),
    "reasons": ((), ("no_consent",), ("quiet_hours", "consent_stale")),
    "campaign_id": (None, "c\t\\é"),
    "sender_id": ("b",),
    "purpose": (None, "offers"),
    "category": ("transactional", "service"),
    "subject_id": ("o1-" + "0" * 32,),
    "number": (None, "", "k1.-_="),
    "text": (None, "😀\n"),
    "requested_at": (now() - timedelta(microseconds=1),),
    "send_before": (now() + timedelta(days=3650, microseconds=999_999),),
    "version": (2**31 - 1,),
    "due_at": (now(),),
    "consent_version": (0, 7, -(2**31)),
    "region": ("MQ",),
    "facts": (None, '{"to":"FR"}'),
    "handed_off_at": (now(),),
    "gateway": ("simulator",),
    "gateway_message_id": ("g-1",),
    "known_as": ("g-1",),
    "receipt": ("delivered",),
    "code": ("1",),
    "receipt_at": (now(),),
    "unknown_since": (now(),),
    "template": ("t@1",),
    "segments": (0, 2**15 - 1),
    "cost": (0, 500),
    "prices": ("2026",),
    "charged": (True, False),
}


async def test_a_copied_message_is_read_as_it_was_inserted(database: Database) -> None:
    like = message(1)
    rows = [replace(like, message_id=uuid4())]
    for name, values in VARIED.items():
        usual = {"status": Status.DENIED, "due_at": None, "facts": None, "gateway": None}
        rows += [replace(like, message_id=uuid4(), **(usual | {"due_at": now()} | {name: each})) for each in values]
    rows += [replace(like, message_id=uuid4()) for _ in range(COPIED_MESSAGES - len(rows))]
    async with database.begin() as tx:
        await messages.insert_messages(tx, rows)
        for row in rows:
            assert await messages.found(tx, row.message_id) == row


async def test_what_decision_records_share_is_kept_once_and_read_with_each(database: Database) -> None:
    part, other = '{"limits":[2.0],"countries":["FR"]}', '{"limits":[3.0]}'
    since, until = '"state":"opted_in","at":"2026-03-02T12:00:00Z"', '"until":"2029-03-02T12:00:00Z"'
    usual = f'{{"to":"FR","person":{{"consent":{{{since},"basis":"opt_in","proven":true,{until}}}}}}}'
    shared = {shared_id(part): part}
    own = ['{"to":"FR","person":{"erased":true}}', '{"to":"MQ"}', usual, '{"to":"FR"}', None]
    rows = [replace(message(n), facts=facts and shortened(facts)) for n, facts in enumerate(own, 1)]
    rows[:3] = [replace(row, shared_id=shared_id(part)) for row in rows[:3]]
    async with database.begin() as tx:
        for row in rows:
            await messages.insert_messages(tx, [row], shared if row.shared_id else {})
        kept = await fetch_many(tx, "SELECT content FROM shared_record")
        facts = [(await messages.found(tx, row.message_id) or row).facts for row in rows]
        alone = await fetch_many(tx, "SELECT facts FROM message WHERE subject_id = $1", rows[2].subject_id)
        changed = replace(rows[0], facts=own[1], status=Status.DENIED)
        with pytest.raises(ValueError, match="shared part"):
            await messages.update_decisions(tx, [changed], {shared_id(other): other})
        await messages.update_decisions(tx, [changed], shared)
        found = await messages.found(tx, rows[0].message_id)
        again = await fetch_many(tx, "SELECT content FROM shared_record")
    whole = [f"{part[:-1]},{(each or '')[1:]}" for each in own[:3]]
    assert facts == [*whole, *own[3:]]
    assert [each for (each,) in alone] == ['{"to":"FR",\x012026-03-02T12:00:00\x02\x032029-03-02T12:00:00Z"}}}']
    assert kept == again == [(part,)]
    assert found is not None
    assert found.facts == facts[1]


async def test_an_outcome_is_published_as_the_ledger_has_it(database: Database) -> None:
    row = message()
    outcome = accepted(row)
    async with database.begin() as tx:
        await messages.insert_messages(tx, [row])
        await messages.accept(tx, [(outcome, row)])
        read = await messages.found(tx, row.message_id)
    assert read is not None
    assert events.accepted(row, outcome) == events.changed(read)


@pytest.mark.parametrize(("status", "enforced"), [("sending", 0), ("accepted", 1)])
async def test_an_opt_out_is_enforced_once_nothing_of_the_person_is_being_handed_off(
    database: Database, status: str, enforced: int
) -> None:
    mine, others = message(1), message(2)
    opened = opt_out(mine)
    async with database.begin() as tx:
        await messages.insert_messages(tx, [mine])
        await messages.insert_messages(tx, [others])
        await enforcement.open_enforcements(tx, [opened])
        if status == "accepted":
            await messages.accept(tx, [(accepted(mine), mine)])
        await messages.forget_sending(tx, -timedelta(minutes=1))
        assert len(await enforcement.enforce(tx, [mine.subject_id])) == enforced
        kept = await fetch_many(tx, "SELECT message_ids FROM sending")
    assert [ids for (ids,) in kept] == [[m.message_id] for m in (mine, others) if m is others or status == "sending"]


async def test_the_clock_of_an_enforcement_is_read_after_what_is_being_handed_off(database: Database) -> None:
    """It may wait in between. A hand-off that is over by then did not begin after the opt-out was enforced."""
    row = message(1, "accepted")
    opened = opt_out(row)
    async with database.begin() as tx:
        await enforcement.open_enforcements(tx, [opened])

    async def enforces() -> datetime:
        async with database.begin() as tx:
            [enforced] = await enforcement.enforce(tx, [row.subject_id])
            return enforced.enforced_at

    async with database.begin() as holding:
        await holding.execute(text("LOCK TABLE sending IN ACCESS EXCLUSIVE MODE"))
        enforcing = asyncio.create_task(enforces())
        await eventually(lambda: _somebody_waits(database))
        waited_at = now()
    assert await enforcing >= waited_at


async def test_an_outcome_waits_for_no_opt_out_and_enforces_the_one_that_had_waited_for_it(database: Database) -> None:
    """While one is being applied, and has seen the message on its way: as soon as that is known, its end says so."""
    row = message()
    outcome = accepted(row)
    opened = opt_out(row)
    nobody: Any = None  # an outcome asks no gateway and no gate
    handoff = Handoff(database, Traffic([]), nobody, 1)
    async with database.begin() as tx:
        await messages.insert_messages(tx, [row])
    async with database.begin() as applying:
        await messages.lock_decisions_out(applying, row.partition)
        await enforcement.open_enforcements(applying, [opened])
        assert not await enforcement.enforce(applying, [row.subject_id])
        async with asyncio.timeout(30):
            await handoff._store_outcomes([outcome])
    async with database.begin() as tx:
        [status] = await fetch_many(tx, "SELECT status FROM message")
    assert status == ("accepted",)
    await handoff._store_outcomes([outcome])  # as of any of theirs that ends from now on
    async with database.begin() as tx:
        [(enforced_at,)] = await fetch_many(tx, "SELECT enforced_at FROM enforcement")
        told = await fetch_many(tx, "SELECT FROM outbox WHERE type = 'dispatch.opt_out_enforced.v1'")
    assert enforced_at is not None
    assert len(told) == 1


@pytest.mark.parametrize(
    ("many", "id_chars", "shared"),
    [(1, 10, [1]), (events.MOST + 1, 10, [events.MOST, 1]), (7, 200_000, [3, 3, 1]), (2, 900_000, [1, 1])],
)
async def test_changes_of_a_partition_share_events_that_fit_a_record(
    database: Database, many: int, id_chars: int, shared: list[int]
) -> None:
    """In their order, however long a gateway's ids are."""
    changes = [
        replace(events.changed(message()).state, version=n, gateway_message_id="x" * id_chars)
        for n in range(1, many + 1)
    ]
    beside = events.changed(message())
    async with database.begin() as tx:
        apart = [events.Changed(beside.partition + 1, change) for change in changes]
        await events.append_changes(tx, [*apart[:1], beside, *apart[1:]])
        rows = await fetch_many(tx, "SELECT key, type, payload FROM outbox ORDER BY id")
    records = [(key, *packing.unpacked(kind, payload)) for key, kind, payload in rows]
    assert all(len(key) + len(payload or b"") <= outbox.MAX_RECORD_BYTES for key, _, payload in records)
    told = [kafka.decode(payload, [("ce_type", kind.encode())]) for _, kind, payload in records]
    assert [event and event.key.encode() for event in told] == [key for key, *_ in rows]
    assert [len(changes_in([event])) for event in told] == [*shared, 1]
    assert changes_in(told) == [*changes, beside.state]


async def test_a_change_larger_than_a_record_is_refused(database: Database) -> None:
    change = events.changed(message())
    async with database.begin() as tx:
        with pytest.raises(outbox.TooLarge):
            await events.append_changes(
                tx, [change._replace(state=replace(change.state, code="x" * outbox.MAX_RECORD_BYTES))]
            )


async def test_an_erasure_waits_for_an_outcome_that_takes_its_message_back(database: Database) -> None:
    """It has looked for what waits, and waits itself for a row; by then what was `sending` is deferred."""
    in_hand, waiting = sorted((message(), message()), key=attrgetter("message_id"))[::-1]
    waiting = replace(waiting, status=Status.DEFERRED, due_at=now() + timedelta(hours=1))
    async with database.begin() as tx:
        for row in (waiting, in_hand):
            await messages.insert_messages(tx, [replace(row, number="sealed", text="sealed")])

    whom = Whom(in_hand.subject_id, None)

    async def erase() -> Mapping[Whom, Mapping[str, int]]:
        async with database.begin() as tx:
            return await eraser(database, 3).erase(tx, {whom: now()})

    async with database.begin() as somebody:
        await sending.lock_messages(somebody, [waiting.message_id])
        erasing = asyncio.create_task(erase())
        await eventually(lambda: _somebody_waits(database))
        async with database.begin() as tx, asyncio.timeout(30):
            await messages.settle(tx, [deferred(in_hand)])
    assert await erasing == {whom: {"messages": 2}}
    async with database.begin() as tx:
        left = await fetch_many(tx, "SELECT status, number, text FROM message")
    assert left == [("denied", None, None)] * 2


async def test_an_erasure_by_one_controller_neither_takes_nor_waits_for_the_messages_of_another(
    database: Database,
) -> None:
    sealed = {"number": "sealed", "text": "sealed"}
    later = now() + timedelta(hours=1)
    async with database.begin() as tx:
        await projection_store.put_sender(tx, sender_changed(sender_id="sister", controller_id="lune"))
        await projection_store.put_sender(tx, sender_changed(controller_id="lune"))
        await projection_store.put_sender(tx, sender_changed(sender_id="beta", controller_id="beta"))
        for sender_id in ("sister", SENDER, "beta"):
            some = (
                message(1, "deferred", sender_id=sender_id, due_at=later),
                message(1, "accepted", sender_id=sender_id),
            )
            for row in some:
                await messages.insert_messages(tx, [replace(row, **sealed)])
        await messages.insert_messages(tx, [message(1, sender_id="beta", **sealed)])
    whom = Whom(subject(1), "lune")
    async with database.begin() as tx:
        assert await eraser(database, 3).erase(tx, {whom: now()}) == {whom: {"messages": 4}}
        left = await fetch_many(tx, "SELECT sender_id, status, number, text FROM message ORDER BY 1, 2")
    assert left == [
        ("beta", "accepted", "sealed", "sealed"),
        ("beta", "deferred", "sealed", "sealed"),
        ("beta", "sending", "sealed", "sealed"),
        *((sender_id, status, None, None) for sender_id in (SENDER, "sister") for status in ("accepted", "denied")),
    ]


async def test_an_erasure_that_waits_for_an_opt_out_keeps_no_others_of_another_partition_waiting(
    database: Database,
) -> None:
    people: dict[int, str] = {partition_of(subject(n), 3): subject(n) for n in range(50)}
    async with database.begin() as tx:
        asked = [
            ErasureRequested(erasure_id=who, subject_id=who, controller_id=None, requested_at=now())
            for who in people.values()
        ]
        await erasing.put(tx, *asked)
    async with database.begin() as applying, database.begin() as another:
        await messages.lock_decisions_out(applying, 2)
        erases = asyncio.create_task(eraser(database, 3).erase_kept())
        await eventually(lambda: _somebody_waits(database))
        async with asyncio.timeout(30):
            for partition in (0, 1):
                await messages.lock_decisions_out(another, partition)
    assert await erases
    async with database.begin() as tx:
        assert await fetch_many(tx, "SELECT count(*) FROM erasing WHERE erased_at IS NULL") == [(0,)]


async def _somebody_waits(database: Database) -> bool:
    async with database.begin() as tx:
        waits = await fetch_many(
            tx,
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
    return bool(waits)


async def test_no_list_of_what_is_being_handed_off_is_compressed(database: Database) -> None:
    """Ids are as random as can be: to try takes time of each submit, for nothing."""
    async with database.begin() as tx:
        rows = await fetch_many(
            tx,
            "SELECT attrelid::regclass::text, attname, attstorage FROM pg_attribute"
            " WHERE attrelid IN ('sending'::regclass, 'begun'::regclass) AND attnum > 0 AND attndims > 0 ORDER BY 1, 2",
        )
    assert [tuple(row) for row in rows] == [
        ("begun", "message_ids", b"e"),
        ("sending", "message_ids", b"e"),
        ("sending", "people", b"e"),
    ]
