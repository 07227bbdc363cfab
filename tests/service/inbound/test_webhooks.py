"""Operators' callbacks on a real Postgres and a real broker: what is genuine is kept and published once, or refused."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode
from uuid import UUID, uuid4

import httpx
import pytest

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS
from common.contracts.inbound import MessageReceived, ReceiptReceived
from common.kafka.outbox import RELAYED
from inbound.service import Settings, build
from inbound.store import Origin, receipt_id
from stack.broker import Broker
from stack.kafka import Kafka
from stack.processes import free_port
from tests.operators import body, signed
from tests.service.inbound.published import published, watermarks
from tests.support.builders import field_keys, now, number, subject
from tests.support.each_of import each_of
from tests.support.eventually import eventually
from tests.support.infrastructure import as_told, own_broker
from tests.support.running import CALLED, Surroundings, running

Late = Broker | Kafka

SECRET = "the simulator's secret"
TOKEN = "a token of thirty-two characters"
PUBLIC_URL = "https://sms.example.org"
MESSAGES = "/v1/callbacks/simulator/main/messages"
RECEIPTS = "/v1/callbacks/simulator/main/receipts"
TWILIO = "/v1/callbacks/twilio/main"
MAIN = Origin("simulator", "main", "receipts")
ONE_MIB = 1024 * 1024
HOPELESS_S = 1.5  # how long to wait for a broker that is down; far more than the journal takes


class Inbound:
    """inbound-svc running, and an operator who signs what it posts."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings, surroundings: Surroundings) -> None:
        self.client = client
        self.settings = settings
        self.surroundings = surroundings

    async def post(self, path: str, raw: bytes, at: datetime | None = None) -> httpx.Response:
        return await self.client.post(path, content=raw, headers=signed(raw, SECRET, at or now()))

    async def text(self, text: str, **fields: Any) -> httpx.Response:
        return await self.post(MESSAGES, mo(text, **fields))

    async def messages(self) -> list[MessageReceived]:
        records = await published(self.settings, INBOUND_MESSAGES)
        return [record.event for record in records if isinstance(record.event, MessageReceived)]

    async def receipts(self) -> list[ReceiptReceived]:
        records = await published(self.settings, INBOUND_RECEIPTS)
        return [record.event for record in records if isinstance(record.event, ReceiptReceived)]

    async def journal(self) -> list[Any]:
        """Every row of the journal, of the items and of the outbox."""
        async with self.surroundings.sql("inbound") as connection:
            return [
                row
                for table in ("callback", "callback_item", "receipt", "outbox")
                for row in await connection.fetch(f"SELECT * FROM {table}")
            ]


def mo(text: str, **fields: Any) -> bytes:
    message = {"id": "mo-1", "from": number(1), "to": "36111", "text": text, "sent_at": now().isoformat()}
    return json.dumps({**message, **fields}).encode()


def receipts(*items: tuple[str, str]) -> bytes:
    batch = [
        {"id": gateway_id, "reference": str(uuid4()), "status": status, "code": None, "at": now().isoformat()}
        for gateway_id, status in items
    ]
    return json.dumps({"receipts": batch}).encode()


@asynccontextmanager
async def inbound(surroundings: Surroundings, **more: Any) -> AsyncIterator[Inbound]:
    accounts = [
        {"provider": "simulator", "account": "main", "secrets": [SECRET]},
        {"provider": "twilio", "account": "main", "secrets": [TOKEN], "public_url": PUBLIC_URL},
    ]
    given: dict[str, Any] = {"provider_accounts": accounts, "roles": CALLED} | more
    settings = Settings(**await surroundings.settings("inbound", **given))
    async with running(build(settings), headers={}) as client:
        yield Inbound(client, settings, surroundings)


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[Inbound]:
    async with inbound(surroundings, publish_timeout_s=60.0) as running_service:
        yield running_service


async def test_a_stop_is_published_sealed_before_it_is_acknowledged(service: Inbound) -> None:
    sent_at = now() - timedelta(seconds=7)

    answer = await service.text("Arrêtez vos SMS", sent_at=sent_at.isoformat())

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    (record,) = await published(service.settings, INBOUND_MESSAGES)
    event = record.event
    assert isinstance(event, MessageReceived)
    assert record.key == event.subject_id == subject(1)
    assert (event.intent, event.rule, event.score) == ("stop", "fr-3:stop_alone", 1.0)
    assert field_keys.unseal(event.number, f"number:{subject(1)}") == number(1)
    assert field_keys.unseal(event.text, f"text:{event.mo_id}") == "Arrêtez vos SMS"
    assert (event.reference, event.short_code) == ("simulator/main/mo-1", "36111")
    assert event.occurred_at == sent_at
    assert event.received_at > sent_at


@pytest.mark.any_broker
async def test_what_a_stop_names_travels_sealed_and_a_stop_to_all_says_so(service: Inbound) -> None:
    await service.text("STOP pub de Maison Lune", id="mo-named")
    await service.text("Stop tout", id="mo-all")
    await service.text("STOP", id="mo-plain")
    named, everyone, plain = await service.messages()
    assert "lune" not in named.named
    assert field_keys.unseal(named.named, f"named:{named.mo_id}") == "pub de maison lune"
    assert [event.everyone for event in (named, everyone, plain)] == [False, True, False]
    assert (everyone.named, plain.named) == ("", "")
    assert not any(event.answered for event in (named, everyone, plain)), "the simulator confirms nothing itself"


@pytest.mark.any_broker
async def test_the_journal_keeps_the_raw_body_and_nothing_personal_in_clear(service: Inbound) -> None:
    raw = mo("Stop à tout ça", id="mo-7").replace(b"\\u00e0", "à".encode())
    assert not raw.isascii()

    await service.post(MESSAGES, raw)

    rows = await service.journal()
    callback, item = rows
    unsealed = field_keys.unseal(callback["body"], f"callback:{callback['id']}")
    assert unsealed.encode("latin-1") == raw
    assert (item["provider_message_id"], item["intent"], item["subject_id"]) == ("mo-7", "stop", subject(1))
    assert not any(word in repr(rows) for word in ("639980001", "Stop", "tout"))


@pytest.mark.any_broker
async def test_an_mo_id_is_derived_from_its_name_alone(service: Inbound) -> None:
    await service.text("STOP", id="mo-1")
    await service.text("STOP", id="mo-2")

    first, second = await service.messages()
    assert first.mo_id != second.mo_id
    assert first.mo_id == "00000000-0000-8cb8-8454-07f40441b437"


@pytest.mark.any_broker
async def test_a_time_in_our_future_is_clamped(service: Inbound) -> None:
    await service.text("STOP", sent_at=(now() + timedelta(days=400)).isoformat())

    (event,) = await service.messages()
    assert event.occurred_at == event.received_at <= now()


@pytest.mark.any_broker
@pytest.mark.parametrize("sender", ["+33639980002", "33639980002", "0033639980002", "+33 (0)6 39 98 00 02"])
async def test_one_person_is_one_subject_however_the_operator_writes_the_number(service: Inbound, sender: str) -> None:
    assert (await service.text("STOP", **{"from": sender})).status_code == 200

    (event,) = await service.messages()
    assert event.subject_id == subject(2)


@pytest.mark.any_broker
@pytest.mark.parametrize("sender", ["+33123456789", "36111", "+15005550006", "ACME", "+262639000000"])
async def test_a_stop_counts_from_any_sender(service: Inbound, sender: str) -> None:
    assert (await service.text("STOP", **{"from": sender})).status_code == 200

    (event,) = await service.messages()
    assert event.intent == "stop"


async def test_a_text_longer_than_any_sms_is_taken_and_fits_the_log(service: Inbound) -> None:
    assert (await service.text("STOP " + "e" * 1_000_000)).status_code == 200

    (event,) = await service.messages()
    assert event.intent == "stop"
    assert len(field_keys.unseal(event.text, f"text:{event.mo_id}")) == 4_096


async def test_a_watermark_follows_in_every_partition(service: Inbound) -> None:
    before = now()
    await service.text("STOP")

    async def all_partitions_are_past_it() -> bool:
        found = await watermarks(service.settings, INBOUND_MESSAGES)
        return {mark.partition for mark in found if mark.as_of > before} == set(range(service.settings.partitions))

    await eventually(all_partitions_are_past_it)


# Genuine


@pytest.mark.any_broker
@pytest.mark.parametrize("kind", ["messages", "receipts"])
async def test_an_unsigned_callback_is_refused_and_not_journalled(service: Inbound, kind: str) -> None:
    answer = await service.client.post(f"/v1/callbacks/simulator/main/{kind}", content=mo("STOP"))

    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reasons"][0]["reason"] == "signature_missing"
    assert await service.journal() == []


@pytest.mark.any_broker
async def test_a_wrongly_signed_callback_is_refused_and_not_journalled(service: Inbound) -> None:
    raw = mo("STOP")

    answer = await service.client.post(MESSAGES, content=raw, headers=signed(raw, "another secret", now()))

    assert answer.status_code == 401
    assert answer.json()["reasons"][0]["reason"] == "signature_wrong"
    assert await service.journal() == []


@pytest.mark.any_broker
async def test_a_body_changed_after_it_was_signed_is_refused(service: Inbound) -> None:
    raw = mo("START")

    answer = await service.client.post(MESSAGES, content=mo("STOP"), headers=signed(raw, SECRET, now()))

    assert answer.status_code == 401
    assert await service.journal() == []


@pytest.mark.any_broker
@pytest.mark.parametrize("off_s", [-330, 330])
async def test_a_replay_outside_five_minutes_is_refused(service: Inbound, off_s: int) -> None:
    answer = await service.post(MESSAGES, mo("STOP"), now() + timedelta(seconds=off_s))

    assert answer.status_code == 401
    assert answer.json()["reasons"][0]["reason"] == "timestamp_outside_window"
    assert await service.journal() == []


@pytest.mark.any_broker
@pytest.mark.parametrize("kind", ["messages", "receipts"])
@each_of("path", ["nobody/main", "simulator/other", "simulator/MAIN", "twilio/other"])
async def test_an_unknown_provider_or_account_is_not_found(service: Inbound, path: str, kind: str) -> None:
    answer = await service.post(f"/v1/callbacks/{path}/{kind}", mo("STOP"))

    assert answer.status_code == 404
    assert await service.journal() == []


# Well-formed


@pytest.mark.any_broker
@each_of(
    ("path", "raw", "status", "field"),
    [
        (MESSAGES, b"{", 400, "body"),
        (MESSAGES, b"\xff\xfe", 400, "body"),
        (MESSAGES, b"[]", 422, "body"),
        (MESSAGES, b'{"id":"mo-1"}', 422, "from"),
        (MESSAGES, mo("STOP", id=1), 422, "id"),
        (MESSAGES, mo("STOP", sent_at="2026-11-24T10:00:00"), 422, "sent_at"),
        (RECEIPTS, b"{}", 422, "receipts"),
        (RECEIPTS, receipts(("op-1", "sent"), ("op-2", "lost")), 422, "receipts.1.status"),
    ],
)
async def test_a_malformed_body_is_refused_with_its_field_named(
    service: Inbound, path: str, raw: bytes, status: int, field: str
) -> None:
    answer = await service.post(path, raw)

    assert answer.status_code == status
    assert [reason["field"] for reason in answer.json()["reasons"]] == [field]
    assert "63998" not in answer.text
    assert await service.journal() == []


@pytest.mark.any_broker
async def test_one_mib_is_read_and_not_a_byte_more(service: Inbound) -> None:
    empty = len(mo("", padding=""))

    assert (await service.post(MESSAGES, mo("", padding="x" * (ONE_MIB - empty)))).status_code == 200
    assert (await service.post(MESSAGES, mo("", id="mo-2", padding="x" * (ONE_MIB - empty + 1)))).status_code == 413


@pytest.mark.any_broker
async def test_of_a_form_64_kib_are_read_and_not_a_byte_more(service: Inbound) -> None:
    form = body("twilio/mo.form").rstrip() + b"&padding="

    assert (await twilio(service, "messages", form + b"x" * (64 * 1024 - len(form)))).status_code == 200
    assert (await twilio(service, "messages", form + b"x" * (64 * 1024 - len(form) + 1))).status_code == 413


@pytest.mark.any_broker
async def test_a_body_without_a_length_is_cut_off_while_it_streams(service: Inbound) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 16 * ONE_MIB:
            read += 64 * 1024
            yield b"x" * 64 * 1024

    answer = await service.client.post(MESSAGES, content=endless(), headers=signed(b"", SECRET, now()))

    assert answer.status_code == 413
    assert read <= ONE_MIB + 64 * 1024
    assert await service.journal() == []


# Once


@pytest.mark.any_broker
async def test_a_duplicate_is_acknowledged_and_published_once(service: Inbound) -> None:
    raw = mo("STOP")

    answers = [(await service.post(MESSAGES, raw)).status_code for _ in range(3)]

    assert answers == [200, 200, 200]
    assert len(await service.messages()) == 1
    assert len(await service.journal()) == 2


async def test_duplicates_at_the_same_time_are_published_once(service: Inbound) -> None:
    raw = mo("STOP")

    answers = await asyncio.gather(*(service.post(MESSAGES, raw) for _ in range(8)))

    assert {answer.status_code for answer in answers} == {200}
    assert len(await service.messages()) == 1


@pytest.mark.any_broker
async def test_the_same_id_from_another_account_or_kind_is_another_thing(service: Inbound) -> None:
    assert (await service.text("STOP", id="SM00000000000000000000000000000001")).status_code == 200
    assert (await twilio(service, "messages", body("twilio/mo.form"))).status_code == 200
    assert await twilio(service, "receipts", b"MessageSid=SM00000000000000000000000000000001&MessageStatus=sent")
    assert (await service.post(RECEIPTS, receipts(("SM00000000000000000000000000000001", "sent")))).status_code == 200

    assert {event.provider for event in await service.messages()} == {"simulator", "twilio"}
    assert {event.provider for event in await service.receipts()} == {"simulator", "twilio"}


@pytest.mark.any_broker
async def test_a_batch_of_receipts_is_published_once_per_message_and_state(service: Inbound) -> None:
    first = await service.post(RECEIPTS, receipts(("op-1", "sent"), ("op-2", "sent"), ("op-1", "sent")))
    second = await service.post(RECEIPTS, receipts(("op-2", "sent"), ("op-1", "delivered"), ("op-3", "opted_out")))

    assert (first.status_code, second.status_code) == (200, 200)
    found = sorted((event.provider_message_id, event.state) for event in await service.receipts())
    assert found == [
        ("op-1", "delivered"),
        ("op-1", "sent"),
        ("op-2", "sent"),
        ("op-3", "opted_out"),
    ]


async def test_receipts_of_one_message_keep_the_operators_order(service: Inbound) -> None:
    await service.post(RECEIPTS, receipts(("op-1", "sent"), ("op-1", "delivered")))

    assert [event.state for event in await service.receipts()] == ["sent", "delivered"]


@pytest.mark.any_broker
async def test_overlapping_batches_at_the_same_time_are_published_once(service: Inbound) -> None:
    ids = [f"op-{n:02}" for n in range(100)]
    orders = (ids, ids[::-1], ids[50:] + ids[:50])
    batches = [receipts(*((gateway_id, "delivered") for gateway_id in order)) for order in orders]

    answers = await asyncio.gather(*(service.post(RECEIPTS, batch) for batch in batches * 2))

    assert {answer.status_code for answer in answers} == {200}
    assert sorted(event.provider_message_id for event in await service.receipts()) == ids


@pytest.mark.any_broker
async def test_batches_in_opposite_order_do_not_lock_each_other_out(service: Inbound) -> None:
    """Another request holds one DLR and then wants a second, while ours has the second before the first."""
    first, second = sorted(("op-1", "op-2"), key=lambda name: receipt_id(MAIN, (name, "sent")))
    item = "INSERT INTO receipt (id, callback_id) VALUES ($1, gen_random_uuid())"
    async with service.surroundings.sql("inbound") as other, service.surroundings.sql("inbound") as watching:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(item, UUID(bytes=receipt_id(MAIN, (first, "sent"))))
        ours = asyncio.create_task(service.post(RECEIPTS, receipts((second, "sent"), (first, "sent"))))

        async def ours_waits() -> bool:
            waiting = (
                "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
                " WHERE datname = current_database() AND NOT granted AND locktype = 'transactionid'"
            )
            return bool(await watching.fetchval(waiting))

        await eventually(ours_waits)
        await other.execute(item, UUID(bytes=receipt_id(MAIN, (second, "sent"))))
        await transaction.rollback()

    assert (await ours).status_code == 200
    assert len(await service.receipts()) == 2


# Not lost


@pytest.fixture
def late_broker(tmp_path: Path) -> Iterator[Late]:
    """A broker of the test's own, not started: to be down, and to come back."""
    broker = own_broker(tmp_path)
    yield broker
    broker.stop()


@asynccontextmanager
async def without_a_broker(surroundings: Surroundings, late_broker: Late, **more: Any) -> AsyncIterator[Inbound]:
    elsewhere = Surroundings(surroundings.postgres, as_told(late_broker), surroundings.unique)
    async with inbound(elsewhere, **more) as service:
        yield service


async def test_with_the_broker_down_the_operator_is_told_to_come_again_and_the_event_goes_out_once(
    surroundings: Surroundings, late_broker: Late
) -> None:
    raw = mo("STOP")
    async with without_a_broker(surroundings, late_broker, publish_timeout_s=HOPELESS_S) as service:
        down = await service.post(MESSAGES, raw)
        told = [down]

        async def kept() -> list[Any]:  # by one of the calls: a busy machine may keep nothing of the first in time
            told.append(await service.post(MESSAGES, raw))
            return await service.journal()

        journal_while_down = await eventually(kept)
        await asyncio.to_thread(late_broker.start)

        async def acknowledged() -> bool:
            return (await service.post(MESSAGES, raw)).status_code == 200

        await eventually(acknowledged, within_s=45)
        events = await service.messages()
        left = [row for row in await service.journal() if "topic" in dict(row)]

    assert {answer.status_code for answer in told} == {503}
    assert down.headers["content-type"] == "application/problem+json"
    assert int(down.headers["retry-after"]) > 0
    assert len(journal_while_down) == 3  # the callback, its item, its event
    assert [event.intent for event in events] == ["stop"]
    assert left == []


async def test_what_an_operator_never_sends_again_goes_out_too(surroundings: Surroundings, late_broker: Late) -> None:
    async with without_a_broker(surroundings, late_broker, publish_timeout_s=HOPELESS_S) as service:

        async def kept() -> list[Any]:
            assert (await service.text("STOP")).status_code == 503
            return await service.journal()

        await eventually(kept)
        await asyncio.to_thread(late_broker.start)

        async def swept() -> list[MessageReceived]:
            return await service.messages()

        assert len(await eventually(swept, within_s=45)) == 1


async def test_a_batch_that_repeats_an_unpublished_receipt_waits_for_it(
    surroundings: Surroundings, late_broker: Late
) -> None:
    async with without_a_broker(surroundings, late_broker, publish_timeout_s=HOPELESS_S, roles={"api"}) as service:

        async def kept() -> list[Any]:
            assert (await service.post(RECEIPTS, receipts(("op-1", "sent")))).status_code == 503
            return await service.journal()

        await eventually(kept)
        assert (await service.post(RECEIPTS, receipts(("op-1", "sent")))).status_code == 503

        async with service.surroundings.sql("inbound") as connection:  # as the relay does once Kafka has it
            await connection.execute("DELETE FROM outbox")

        async def acknowledged() -> bool:
            return (await service.post(RECEIPTS, receipts(("op-1", "sent")))).status_code == 200

        await eventually(acknowledged)


@pytest.mark.any_broker
async def test_a_stop_that_a_failover_has_lost_is_not_acknowledged(surroundings: Surroundings) -> None:
    """The database comes back without what was committed last, and uses the id of the lost row again: for another
    event, which the relay publishes. The operator's retry is kept as new."""
    async with inbound(surroundings, publish_timeout_s=HOPELESS_S, roles={"api"}) as service:
        delivery = asyncio.create_task(service.text("STOP"))

        async def kept() -> list[Any]:
            nonlocal delivery
            if delivery.done():  # a busy machine kept nothing in time
                delivery = asyncio.create_task(service.text("STOP"))
            return await service.journal()

        await eventually(kept)
        async with service.surroundings.sql("inbound") as connection, connection.transaction():
            [lost] = await connection.fetch("DELETE FROM outbox RETURNING id")
            await connection.execute("DELETE FROM callback")  # and so its item
            await connection.execute("SELECT pg_notify($1, $2)", RELAYED, f"{lost['id']}-{lost['id']}")
        assert (await delivery).status_code == 503
        assert await service.journal() == []

        assert (await service.text("STOP")).status_code == 503
        assert len(await service.journal()) == 3  # the callback, its item, its event


@pytest.mark.any_broker
@pytest.mark.parametrize("table", ["callback", "outbox"])
async def test_a_callback_kept_half_way_is_not_kept_at_all(service: Inbound, table: str) -> None:
    async with service.surroundings.sql("inbound") as connection:
        await connection.execute(f"ALTER TABLE {table} RENAME TO away")
        failed = await service.text("STOP")
        await connection.execute(f"ALTER TABLE away RENAME TO {table}")
    left = await service.journal()

    assert failed.status_code == 503
    assert left == []
    assert (await service.text("STOP")).status_code == 200
    assert len(await service.messages()) == 1


@pytest.mark.any_broker
async def test_with_the_database_down_the_operator_is_told_to_come_again(surroundings: Surroundings) -> None:
    nowhere = f"postgresql://nobody:nothing@127.0.0.1:{free_port()}/nothing"
    async with inbound(surroundings, database_url=nowhere, publish_timeout_s=2.0) as service:
        answer = await service.text("STOP")

    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.any_broker
async def test_nothing_personal_is_logged_whatever_happens(service: Inbound, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="inbound")

    await service.text("STOP à la pub")
    await service.text("STOP à la pub", sent_at=None)
    async with service.surroundings.sql("inbound") as connection:
        await connection.execute("ALTER TABLE callback RENAME TO away")
    assert (await service.text("STOP à la pub", id="mo-2")).status_code == 503

    lines = [record for record in caplog.records if record.name.startswith("inbound")]
    assert [getattr(line, "provider_message_id", None) for line in lines] == ["mo-1", "mo-2"]
    assert getattr(lines[0], "subject_id", None) == subject(1)
    everything = " ".join(repr(vars(line)) + caplog.text for line in lines)
    assert not any(word in everything for word in ("639980001", "à la pub", SECRET))


# Twilio


async def twilio(service: Inbound, kind: str, raw: bytes, query: str = "") -> httpx.Response:
    target = f"{TWILIO}/{kind}{query}"
    pairs = parse_qsl(raw.decode(), keep_blank_values=True)
    text = PUBLIC_URL + target + "".join(name + value for name, value in sorted(pairs))
    mac = hmac.new(TOKEN.encode(), text.encode(), hashlib.sha1).digest()
    headers = {
        "X-Twilio-Signature": base64.b64encode(mac).decode(),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return await service.client.post(target, content=raw, headers=headers)


@pytest.mark.any_broker
async def test_a_twilio_mo_is_answered_with_an_empty_twiml(service: Inbound) -> None:
    answer = await twilio(service, "messages", body("twilio/mo.form"), "?list=a%20b&x=")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/xml; charset=utf-8")
    assert answer.text.endswith("<Response/>")
    (event,) = await service.messages()
    assert (event.provider, event.intent, event.subject_id) == ("twilio", "stop", subject(1))
    assert event.answered, "Twilio confirms a STOP itself"
    assert event.occurred_at == event.received_at


@pytest.mark.any_broker
async def test_a_twilio_receipt_is_answered_with_nothing_and_says_who_opted_out(service: Inbound) -> None:
    answer = await twilio(service, "receipts", body("twilio/receipt-opted-out.form"))

    assert (answer.status_code, answer.content) == (204, b"")
    (record,) = await published(service.settings, INBOUND_RECEIPTS)
    event = record.event
    assert isinstance(event, ReceiptReceived)
    assert record.key == event.provider_message_id == "SM00000000000000000000000000000003"
    assert (event.state, event.code, event.reference) == ("opted_out", "21610", None)


@pytest.mark.any_broker
async def test_a_twilio_signature_for_another_host_is_refused(service: Inbound) -> None:
    raw = urlencode({"MessageSid": "SM9", "From": number(1), "To": "36111", "Body": "STOP"}).encode()
    genuine = await twilio(service, "messages", raw)
    headers = {"X-Twilio-Signature": "bm90IHR3aWxpbw==", "Host": "sms.example.org"}
    forged = await service.client.post(f"{TWILIO}/messages", content=raw, headers=headers)

    assert (genuine.status_code, forged.status_code) == (200, 401)
