"""PDUs that no SMSC should send, to a session that lives: halves, wrong lengths, wrong order, hostile TLVs, any octets.

Nothing crashes, and nothing is skipped in silence: whatever asks for an answer gets one or its session ends, what is
acknowledged is in the log or is a DLR of no message, and what is not is counted as refused or unreadable. The gateway
goes on. In the suite always the same few seconds; `make fuzz T=tests/unit/dispatch/test_smpp_fuzz.py` draws others.
"""

import asyncio
import logging
import os
import struct
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random
from uuid import uuid4

import pytest

from common.contracts import Event, Topic
from common.contracts.operator import MessageDelivered, ReceiptDelivered
from common.kafka.broker import cloud_event_headers, decode, encode
from dispatch.gateways import Result
from dispatch.gateways.by_kafka.publisher import Published
from dispatch.gateways.by_smpp import binds, deliveries, pdu
from dispatch.gateways.by_smpp import session as sessions
from dispatch.gateways.by_smpp.upstream import DELIVERED
from tests.support.eventually import eventually
from tests.support.operators.accounts import submit
from tests.support.operators.wire import DELIVER, ENQUIRE, NACK, RESPONSE, Session, Wire, delivered, wire
from tests.unit.dispatch.test_smpp_session import Log, bound

FUZZ_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
FEW = 25  # rounds in the suite
CODEC = 40  # bodies read beside the session in a round
GOOD, AGAIN = 0, 0x64
ANSWERS_S = 60.0
TAGS = (0x1E, 0x427, 0x423, 0x424, 0x20C, 0x20E, 0x20F, 0x1401, 0, 0xFFFF)
NO_ANSWER = (pdu.ALERT_NOTIFICATION, pdu.OUTBIND)
DLR = b"id:%d sub:001 dlvrd:001 submit date:2601061200 done date:2601061201 stat:DELIVRD err:000 text:"


class Strict(Log):
    """A log that writes as Kafka's does: an event that cannot be written or read again fails its batch."""

    async def publish(self, topic: Topic, events: Sequence[Event], *, until: float, begin_by: float) -> list[Published]:
        for event in events:
            assert _as_read(event) == event
        return await super().publish(topic, events, until=until, begin_by=begin_by)


def _as_read(event: Event) -> Event | None:
    return decode(encode(event), cloud_event_headers(event.type, uuid4(), "operator", datetime.now(UTC), None))


def _octets(dice: Random, most: int) -> bytes:
    return dice.randbytes(dice.randrange(most + 1))


def _tlvs(dice: Random) -> bytes:
    """TLVs, of which some say a length that is not theirs."""
    told = b""
    for _ in range(dice.randrange(5)):
        value = dice.choice((b"", b"\0", b"id-1\0", _octets(dice, 8), _octets(dice, 300)))
        length = len(value) if dice.random() < 0.8 else dice.choice((0, 1, len(value) + 1, 0xFFFF))
        told += struct.pack(">2H", dice.choice((*TAGS, dice.randrange(0x10000))), length) + value
    return told


def hostile(dice: Random) -> bytes:
    """The body of a deliver_sm that is one, nearly one, or none."""
    kind = dice.randrange(5)
    if kind == 0:
        return _octets(dice, 400)
    text = dice.choice((b"STOP", b"", b"\0", DLR % 7, _octets(dice, 160), b"\x05\0\3\1\2\1STOP", b"\x06\x08\4\0\1\0\0"))
    body = delivered(
        text,
        source=dice.choice((b"33639980001", b"", b"+", b"\xff\xfe", b"ACME", b"9" * 20, b"9" * 300)),
        to=dice.choice((b"36111", b"", b"\x80", b"9" * 200)),
        esm_class=dice.choice((0, 4, 0x20, 0x40, 0x44, 0x3C, dice.randrange(256))),
        coding=dice.choice((0, 1, 2, 3, 4, 5, 8, 0xF0, dice.randrange(256))),
    )
    body += _tlvs(dice)
    if kind == 1:
        return body[: dice.randrange(len(body) + 1)]
    if kind == 2:
        at = dice.randrange(len(body))
        return body[:at] + bytes((dice.randrange(256),)) + body[at + 1 :]
    return body


def test_no_body_is_read_as_what_cannot_be_written() -> None:
    """Read, or Malformed: no other error, and every event can be written to Kafka and read again."""
    dice = Random(34)
    read = Counter(_read(hostile(dice)) for _ in range(3000))
    assert min(read["message"], read["receipt"], read["malformed"], read["no message"]) > 20, read


def _read(body: bytes) -> str:
    try:
        found = pdu.delivery(pdu.Pdu(pdu.DELIVER_SM, 0, 1, body))
    except pdu.Malformed:
        return "malformed"
    deliveries.digest(found)
    if not deliveries.is_receipt(found):
        event: Event = deliveries.message_event(found, "mo-1")
    elif (receipt := deliveries.receipt_of(found)) is None:
        return "no message"
    else:
        event = deliveries.receipt_event(receipt, None)
    assert _as_read(event) == event
    return "message" if isinstance(event, MessageDelivered) else "receipt"


def test_an_answer_to_a_submit_of_any_octets_names_a_message_or_none() -> None:
    dice = Random(35)
    for _ in range(1000):
        name = pdu.message_id(pdu.Pdu(RESPONSE | pdu.SUBMIT_SM, 0, 1, _octets(dice, 80)))
        event = ReceiptDelivered(message_id=name or "none", state="delivered")
        assert _as_read(event) == event


async def _play(dice: Random, session: Session, asked: "list[asyncio.Future[int | None]]") -> str:
    """Say something to the gateway; return what."""
    writer = session.writer
    kind = dice.choices(
        ("mo", "hostile", "enquire", "odd", "no answer", "answer to nothing", "slow half", "length", "cut"),
        (6, 8, 1, 2, 1, 2, 2, 1, 1),
    )[0]
    if kind == "hostile":
        asked.append(session.deliver(hostile(dice)))
    elif kind == "enquire":
        asked.append(session.request(ENQUIRE, _octets(dice, 20)))
    elif kind == "odd":
        asked.append(session.request(dice.choice((0x01, 0x03, 0x04, 0x09, 0x21, 0x103, 0x7FFFFFFF)), _octets(dice, 90)))
    elif kind == "no answer":
        session.request(dice.choice(NO_ANSWER), _octets(dice, 40))
    elif kind == "answer to nothing":
        command = dice.choice((NACK, *(RESPONSE | each for each in (0x04, 0x05, 0x06, 0x15, 0x999))))
        number = dice.randrange(0x10000000, 0xFFFFFFFF)
        body = _octets(dice, 40)
        writer.write(struct.pack(">4I", 16 + len(body), command, dice.randrange(256), number) + body)
    elif kind == "slow half":
        body = hostile(dice)
        session.number += 1
        answer = asyncio.get_running_loop().create_future()
        session.answers[session.number] = answer
        whole = struct.pack(">4I", 16 + len(body), DELIVER, 0, session.number) + body
        at = dice.randrange(len(whole))
        writer.write(whole[:at])
        await asyncio.sleep(0)
        writer.write(whole[at:])
        asked.append(answer)
    elif kind == "length":
        length = dice.choice((0, 1, 15, 128 * 1024 + 1, 0x7FFFFFFF, 0xFFFFFFFF))
        writer.write(struct.pack(">4I", length, DELIVER, 0, 1) + _octets(dice, 60))
    elif kind == "cut":
        writer.write(struct.pack(">4I", 200, DELIVER, 0, 1) + _octets(dice, 60))
        writer.close()
    return kind


def _counts() -> Counter[str]:
    names = ("kept", "refused", "unreadable", "no message")
    return Counter({name: int(DELIVERED.labels("smpp.orange", name)._value.get()) for name in names})


@pytest.mark.timeout(60 + int(2 * FUZZ_SECONDS))
async def test_no_pdu_crashes_the_gateway_or_is_skipped_in_silence(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.unit.dispatch.test_smpp_session.Log", Strict)
    monkeypatch.setattr(sessions, "PROVE_S", 0.01)
    monkeypatch.setattr(binds, "BACK_OFF_S", 0.02)
    caplog.set_level(logging.ERROR)
    dice = Random(time.time_ns() if FUZZ_SECONDS else 36)
    ends_at = time.monotonic() + FUZZ_SECONDS
    said: Counter[str] = Counter()
    answers: Counter[int | None] = Counter()
    rounds = ended = 0
    async with wire() as server, bound(server, binds="1") as ([gateway], log):
        while rounds < FEW or time.monotonic() < ends_at:
            rounds += 1
            for _ in range(CODEC):
                _read(hostile(dice))
            session = await _bound(server)
            before, told = _counts(), len(log.events)
            asked: list[asyncio.Future[int | None]] = []
            mos: dict[str, asyncio.Future[int | None]] = {}
            for at in range(dice.randrange(1, 30)):
                kind = await _play(dice, session, asked)
                said[kind] += 1
                if kind == "mo":
                    text = f"STOP {rounds} {at}"
                    mos[text] = session.deliver(delivered(text.encode()))
                elif kind in ("length", "cut"):
                    break
            await _answered(session, [*asked, *mos.values()])
            statuses = [each.result() for each in (*asked, *mos.values())]
            answers.update(statuses)
            texts = {event.text for event in log.messages[-told - 1000 :]}
            assert {text for text, answer in mos.items() if answer.result() == GOOD} <= texts
            if session.ended.is_set():
                ended += 1
            else:
                assert None not in statuses, "a request without an answer"
                assert all(answer.result() == GOOD for answer in mos.values()), "an MO that is one is kept"
            new = _counts() - before
            assert new["kept"] == len(log.events) - told
            del log.events[:-1000]
        session = await _bound(server)

        async def goes_on() -> bool:
            [answer] = await gateway.submit([submit(1)])
            return isinstance(answer, Result)

        await eventually(goes_on)
    crashes = [record for record in caplog.records if record.exc_info]
    assert crashes == []
    assert len(caplog.records) >= 1
    assert {"mo", "hostile", "odd", "length", "cut"} <= said.keys()
    if FUZZ_SECONDS:
        with capsys.disabled():
            os.write(1, f"\n{rounds} rounds, {dict(said)}, answers {dict(answers)}, {ended} ended\n".encode())


async def _bound(server: Wire) -> Session:
    await server.until(lambda: bool(server.bound), ANSWERS_S)
    return server.bound[-1]


async def _answered(session: Session, asked: "Sequence[asyncio.Future[int | None]]") -> None:
    """Return once all are answered, and an enquiry after them, or the session has ended."""
    all_of_them = asyncio.gather(*asked, session.request(ENQUIRE))
    ending = asyncio.create_task(session.ended.wait())
    all_of_them.add_done_callback(lambda _: ending.cancel())
    async with asyncio.timeout(ANSWERS_S):
        await asyncio.wait({ending})
    if session.ended.is_set():
        session.end()  # what was asked after its end has no answer
    await all_of_them
