"""The gateway's side of SMPP against an SMSC that counts: parts, windows, binds, lanes, and what it delivers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from common.contracts import Event, Topic
from common.contracts.operator import MessageDelivered, ReceiptDelivered
from common.sms.sms_length import segments
from dispatch.gateways import Account, Misconfigured, Result, Throttled, Unanswered, Unreachable
from dispatch.gateways.by_kafka.publisher import Published
from dispatch.gateways.by_smpp import gateway as by_smpp
from dispatch.gateways.by_smpp import session as sessions
from dispatch.gateways.by_smpp.gateway import SmppGateway
from tests.support.eventually import eventually
from tests.support.operators.accounts import submit
from tests.support.operators.wire import PASSWORD, USER, Wire, delivered, udh_of, wire

OF_THREE = "Offre du jour : " + "deux articles pour le prix d'un. " * 10 + "STOP au 36111"
RETRY = 0x64  # ESME_RX_T_APPN


class Log:
    """Stands where Kafka is: what was kept, unless it keeps nothing. `door`: what it waits for."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []
        self.answer: Published = "logged"
        self.asked, self.door = asyncio.Event(), asyncio.Event()
        self.door.set()

    async def ready(self, topic: Topic, *, until: float) -> None:
        return None

    async def publish(self, topic: Topic, events: Sequence[Event], *, until: float, begin_by: float) -> list[Published]:
        self.asked.set()
        await self.door.wait()
        self.events += [(topic.name, event) for event in events]
        return [self.answer] * len(events)

    async def close(self) -> None:
        return None

    @property
    def messages(self) -> list[MessageDelivered]:
        return [event for _, event in self.events if isinstance(event, MessageDelivered)]

    @property
    def names(self) -> list[str]:
        """The MO that each delivery is, or may be."""
        return [event.repeats or event.message_id for event in self.messages]

    @property
    def receipts(self) -> list[ReceiptDelivered]:
        return [event for _, event in self.events if isinstance(event, ReceiptDelivered)]


@asynccontextmanager
async def bound(server: Wire, *, lanes: int = 1, timeout_s: float = 20.0, **options: str) -> AsyncIterator[Any]:
    """The gateways of so many lanes, their binds, and their log."""
    account = Account(
        "smpp", "orange", user=USER, secret=PASSWORD, url=f"smpp://127.0.0.1:{server.port}", options=options
    )
    shared = by_smpp.Shared()
    log = Log()
    links = [shared.link("smpp.orange", account, log) for _ in range(lanes)]
    gateways = [SmppGateway("smpp.orange", account, link, timeout_s=timeout_s, submits=4) for link in links]
    links[0].binds.start()
    try:
        yield gateways, log
    finally:
        for gateway in gateways:
            await gateway.close()


async def test_the_parts_of_a_text_leave_together() -> None:
    """Part after part within one timeout, a slow SMSC had the first ones, and never the one that holds the STOP."""
    async with wire(pause_s=0.4) as server, bound(server, timeout_s=4.0, binds="1") as ([gateway], _):
        [answer] = await gateway.submit([submit(1, text=OF_THREE)])
        assert answer == Result("accepted", f"id-{segments(OF_THREE) - 1}", None)
        assert server.writes[0] == segments(OF_THREE) == 3, "all were there before the first answer"


async def test_each_part_says_until_when_it_may_reach_the_person() -> None:
    ends = datetime(2026, 11, 28, 20, 0, tzinfo=timezone(timedelta(hours=1)))
    async with wire() as server, bound(server) as ([gateway], _):
        messages = [
            msgspec.structs.replace(submit(n, text=OF_THREE), deliver_by=end) for n, end in ((1, ends), (2, None))
        ]
        answers = await gateway.submit(messages)
        assert [type(answer) for answer in answers] == [Result, Result]
    assert Counter(body.count(b"\x00261128190000000+\x00") for body in server.submits) == {1: 3, 0: 3}


async def test_no_more_parts_are_unanswered_than_the_window_has_and_the_text_arrives_whole() -> None:
    async with wire(window=2) as server, bound(server, binds="1", window="2") as ([gateway], _):
        answers = await gateway.submit([submit(n, text=OF_THREE) for n in range(4)])
        assert {type(answer) for answer in answers} == {Result}
        texts: dict[int, list[int]] = {}
        for body in server.submits:
            texts.setdefault(udh_of(body)[3], []).append(udh_of(body)[5])
    assert sorted(map(sorted, texts.values())) == [[1, 2, 3]] * 4


async def test_a_text_that_a_slow_window_cannot_take_in_time_is_not_begun() -> None:
    async with wire(pause_s=0.5) as server, bound(server, binds="1", window="1", timeout_s=2.5) as ([gateway], _):
        for _ in range(20):  # the average knows what an answer takes
            gateway._link.answer_s = 0.5
        [answer] = await gateway.submit([submit(1, text=OF_THREE)])
        assert type(answer) is Unreachable
        assert server.submits == []
        [short] = await gateway.submit([submit(1)])
        assert isinstance(short, Result)


async def test_a_text_of_which_some_parts_only_were_taken_says_so() -> None:
    async with wire(status=lambda at: 0x0B if at == 1 else 0) as server, bound(server, binds="1") as ([gateway], _):
        [answer] = await gateway.submit([submit(1, text=OF_THREE)])
    assert isinstance(answer, Unanswered)
    assert answer.code == "smpp_parts_2_of_3"


async def test_throttled_parts_go_again_once_one_was_taken_and_the_text_is_throttled_where_none_was() -> None:
    async with (
        wire(status=lambda at: 0x58 if at in (1, 2, 3) else 0) as server,
        bound(server, binds="1") as (
            [gateway],
            _,
        ),
    ):
        [answer] = await gateway.submit([submit(1, text=OF_THREE)])
        assert isinstance(answer, Result)
        numbers = [udh_of(body)[5] for body in server.submits]
        assert numbers[:3] == [1, 2, 3]
        assert sorted(numbers[3:]) == [2, 2, 3]
    async with wire(status=lambda _: 0x58) as server, bound(server, binds="1") as ([gateway], _):
        [answer] = await gateway.submit([submit(1, text=OF_THREE)])
        assert type(answer) is Throttled
        assert len(server.submits) == 3


async def test_a_refused_bind_takes_no_message_while_another_is_held() -> None:
    """Of two binds one refused: half the submits failed."""
    async with (
        wire(lets_in=lambda asked: 0 if asked == 1 else 0x0D) as server,
        bound(server, binds="2") as ([gateway], _),
    ):
        await server.until(lambda: server.asked >= 2)
        answers = [(await gateway.submit([submit(n)]))[0] for n in range(8)]
        assert {type(answer) for answer in answers} == {Result}


@pytest.mark.parametrize(("status", "error"), [(0x0D, Unreachable), (0x0E, Misconfigured)])
async def test_a_bind_that_is_refused_says_why(status: int, error: type[Exception]) -> None:
    async with wire(lets_in=lambda _: status) as server, bound(server, binds="1") as ([gateway], _):
        [answer] = await gateway.submit([submit(1)])
    assert type(answer) is error
    assert f"smpp_0x{status:02x}" in str(answer)


async def test_another_host_takes_over() -> None:
    async with wire(lets_in=lambda _: 0x0D) as first, wire() as second:
        hosts = f"127.0.0.1:{second.port}"
        async with bound(first, binds="1", more_hosts=hosts) as ([gateway], _):
            await second.until(lambda: bool(second.bound))
            [answer] = await gateway.submit([submit(1)])
            assert isinstance(answer, Result)


async def test_both_lanes_share_the_binds_and_a_campaign_leaves_room_for_a_code() -> None:
    """Two binds are all that the operator allows: a campaign held both, and a STOP's answer waited 45 s."""
    async with wire(status=lambda at: None if at < 8 else 0, window=5) as server:
        async with bound(server, lanes=2, binds="2", window="5", timeout_s=1.0) as ([campaigns, codes], _):
            await server.until(lambda: len(server.bound) == 2)
            going = asyncio.create_task(campaigns.submit([submit(n, category="marketing") for n in range(30)]))
            await server.until(lambda: len(server.submits) == 8)
            codes.timeout_s = 20.0
            [answer] = await codes.submit([submit(1, category="transactional")])
            assert isinstance(answer, Result)
            assert {type(each) for each in await going} == {Unanswered, Unreachable}
            assert server.asked == 2
        assert server.unbinds == 2, "the last lane gives them back"


async def test_a_campaign_goes_on_by_the_one_bind_that_is_held() -> None:
    """The share of codes is one of the places that there are, not of those that there should be."""
    only_one = wire(lets_in=lambda asked: 0 if asked == 1 else 0x0D, window=1)
    async with only_one as server, bound(server, lanes=2, binds="2", window="1") as ([campaigns, codes], _):
        for gateway, message in (
            (campaigns, submit(1, text=OF_THREE, category="marketing")),
            (codes, submit(1, text=OF_THREE, category="transactional")),
            (campaigns, submit(1, text=OF_THREE, category="marketing")),
        ):
            [answer] = await gateway.submit([message])
            assert isinstance(answer, Result)


async def test_an_mo_is_acknowledged_once_it_is_safe_and_comes_again_where_it_is_not() -> None:
    async with wire() as server, bound(server, binds="1") as (_, log):
        await server.until(lambda: bool(server.bound))
        [session] = server.bound
        log.door.clear()
        answer = session.deliver(delivered(b"STOP"))
        refused = session.deliver(b"\0\0")  # unreadable: not acknowledged either
        assert await refused == RETRY
        assert not answer.done()
        log.door.set()
        assert await answer == 0
        log.answer = "unknown"
        assert await session.deliver(delivered(b"unknown")) == RETRY
        log.answer = "not begun"
        assert await session.deliver(delivered(b"not begun")) == RETRY
    assert [event.text for event in log.messages] == ["STOP", "unknown", "not begun"]
    assert {topic for topic, _ in log.events} == {"operator.orange.messages.v1"}


async def test_an_mo_that_comes_again_has_the_name_of_the_first_and_one_written_again_has_not() -> None:
    async with wire() as server, bound(server, binds="1") as ([gateway], log):
        await server.until(lambda: bool(server.bound))
        log.answer = "unknown"  # the log may have it
        assert await server.bound[0].deliver(delivered()) == RETRY
        log.answer = "logged"
        assert await server.bound[0].deliver(delivered()) == 0
        server.bound[0].drop()  # the acknowledgement may be lost
        await server.until(lambda: len(server.sessions) == 2 and bool(server.bound))
        assert await server.bound[0].deliver(delivered()) == 0
        await gateway.submit([submit(1)])  # its answer proves that the SMSC read what was written before
        assert await server.bound[0].deliver(delivered()) == 0
    first, again, once_more, another = log.names
    assert first == again == once_more != another
    assert len({event.message_id for event in log.messages}) == 4, "of two STOPs both count"


async def test_of_many_mos_none_is_lost_and_none_has_two_names_though_sessions_end_under_them() -> None:
    """The SMSC delivers each until it has read an acknowledgement. Two are of each person."""

    async def delivers(server: Wire, n: int, text: str) -> None:
        while True:
            await server.until(lambda: bool(server.bound))
            if await server.bound[0].deliver(delivered(text.encode(), source=b"336399800%02d" % (n // 2))) == 0:
                return

    async with wire() as server, bound(server, binds="2") as (_, log):
        texts = [f"STOP {n}" for n in range(60)]
        async with asyncio.TaskGroup() as smsc:
            for n, text in enumerate(texts):
                smsc.create_task(delivers(server, n, text))
                if n % 20 == 19:
                    await log.asked.wait()
                    for session in server.bound:
                        session.drop()  # some answers are on their way, some deliveries not read yet
    names: dict[str, set[str]] = {}
    for event, name in zip(log.messages, log.names, strict=True):
        names.setdefault(event.text, set()).add(name)
    assert {text: len(found) for text, found in names.items()} == dict.fromkeys(texts, 1)


async def test_a_stop_that_is_written_again_is_another_though_the_gateway_has_nothing_to_send(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In between the person may have come back on the page: the second STOP must not pass for the first."""
    monkeypatch.setattr(sessions, "QUIET_S", 3600.0)
    async with wire() as server, bound(server, binds="1") as (_, log):
        await server.until(lambda: bool(server.bound))
        for texts in (1, 2, 3):
            assert await server.bound[0].deliver(delivered()) == 0
            await server.until(lambda texts=texts: server.enquiries == texts)  # type: ignore[misc]
    assert len(set(log.names)) == len(log.names) == 3


async def test_the_same_words_again_in_a_session_are_another_mo_though_no_acknowledgement_is_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "PROVE_S", 3600.0)
    async with wire() as server, bound(server, binds="1") as (_, log):
        await server.until(lambda: bool(server.bound))
        for text in (b"Oui", b"Merci", b"Oui"):
            assert await server.bound[0].deliver(delivered(text)) == 0
    assert len(set(log.names)) == len(log.names) == 3


async def test_the_parts_of_an_mo_keep_their_names_whatever_comes_between() -> None:
    def part(n: int) -> bytes:
        return delivered(bytes((5, 0, 3, 7, 2, n)) + b"STOP", esm_class=0x40)

    async with wire() as server, bound(server, binds="1") as (_, log):
        for body in (part(1), delivered(b"Bonjour"), part(2), part(1)):
            await server.until(lambda: bool(server.bound))
            assert await server.bound[0].deliver(body) == 0
            server.bound[0].drop()
            await server.until(lambda: not server.bound)
    first, _, second, again = log.names
    assert first == again != second


async def test_an_answer_to_what_was_written_before_proves_no_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PROVE_S", 3600.0)
    async with wire(pause_s=0.3) as server, bound(server, binds="1") as ([gateway], log):
        going = asyncio.create_task(gateway.submit([submit(1)]))
        await server.until(lambda: len(server.submits) == 1)
        assert await server.bound[0].deliver(delivered()) == 0
        await going
        server.bound[0].drop()
        await server.until(lambda: len(server.sessions) == 2 and bool(server.bound))
        assert await server.bound[0].deliver(delivered()) == 0
    first, again = log.names
    assert first == again


async def test_a_dlr_of_a_part_names_the_message_where_it_failed_and_the_last_one_speaks_for_all() -> None:
    async with wire() as server, bound(server, binds="1") as ([gateway], log):
        [answer] = await gateway.submit([submit(1, text=OF_THREE)])
        assert answer.gateway_message_id == "id-2"
        [session] = server.bound
        for name, state in ((b"id-0", 2), (b"id-1", 5), (b"id-2", 2), (b"other", 2)):
            assert await session.deliver(delivered(b"", esm_class=4, tlvs={0x1E: name, 0x427: bytes((state,))})) == 0
    assert [(each.message_id, each.state, each.reference) for each in log.receipts] == [
        ("id-1", "failed", submit(1).reference),
        ("id-2", "delivered", None),
        ("other", "delivered", None),
    ]


async def test_what_was_delivered_before_the_end_is_answered_before_the_unbind() -> None:
    """A rolling restart loses no MO, and leaves none to come twice."""
    async with wire() as server:
        async with bound(server, binds="1") as (_, log):
            await server.until(lambda: bool(server.bound))
            log.door.clear()
            answers = [server.bound[0].deliver(delivered(f"STOP {n}".encode())) for n in range(3)]
            await log.asked.wait()
            asyncio.get_running_loop().call_soon(log.door.set)
        assert [await answer for answer in answers] == [0, 0, 0]
        assert server.unbinds == 1


async def test_a_session_that_is_silent_is_asked_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "QUIET_S", 0.05)
    monkeypatch.setattr(sessions, "ANSWER_S", 0.5)
    async with wire() as server, bound(server, binds="1") as _:
        await server.until(lambda: server.enquiries >= 2)
        assert len(server.sessions) == 1, "who answers is alive"
        server.bound[0].reads.clear()
        await server.until(lambda: len(server.sessions) >= 2)


async def test_binds_are_held_though_nothing_is_sent_and_a_pair_hears_by_its_receiver() -> None:
    async with wire() as server, bound(server, binds="1", bind="pair") as ([gateway], log):
        await server.until(lambda: len(server.bound) == 2)
        assert sorted(session.command for session in server.bound) == [1, 2]
        [receiver] = [session for session in server.bound if session.command == 1]
        assert await receiver.deliver(delivered()) == 0
        [answer] = await gateway.submit([submit(1)])
        assert isinstance(answer, Result)
    assert len(log.messages) == 1


@pytest.mark.parametrize(
    "octets",
    [
        b"\0\0\0\4....",  # a length that ends within the header
        b"\xff\xff\xff\xff" + b"\0" * 60,
        b"\0\0\0\x10\x80\0\0\4\0\0\0\0\0\0\xff\xff",  # an answer to nothing
        b"\0\0\0\x11\0\0\1\3\0\0\0\0\0\0\0\1\0",  # data_sm, which is refused
    ],
)
async def test_octets_that_are_no_answer_end_at_most_their_session(octets: bytes) -> None:
    async with wire() as server, bound(server, binds="1") as ([gateway], log):
        await server.until(lambda: bool(server.bound))
        server.bound[0].writer.write(octets)

        async def goes_on() -> bool:
            [answer] = await gateway.submit([submit(1)])
            return isinstance(answer, Result)

        await eventually(goes_on)
        await server.until(lambda: bool(server.bound))
        assert await server.bound[-1].deliver(delivered()) == 0
    assert len(log.messages) == 1
