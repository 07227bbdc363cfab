"""SMPP against a real server in a process of its own: binds, windows, parts, refusals, and a session that ends."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.db.timer import uptime_s
from common.sms.sms_length import GSM7_BASIC, GSM7_EXTENSION, length
from dispatch.gateways import Account, Late, Misconfigured, Refused, Result, Throttled, Unanswered, Unreachable
from dispatch.gateways.by_kafka.publisher import Publisher
from dispatch.gateways.by_smpp import gateway as by_smpp
from dispatch.gateways.by_smpp.gateway import SmppGateway
from dispatch.gateways.by_smpp.texts import parts_of
from tests.support.eventually import eventually
from tests.support.operators import jasmin
from tests.support.operators import smpp as operator
from tests.support.operators.accounts import submit
from tests.support.operators.smsc import JASMINS, OURS, smsc

GENEROUS_S = 60.0  # an attempt takes two
UNUSED: Any = None  # the service's settings: nothing is delivered here
LONG = "Offre du jour : " + "deux articles pour le prix d'un. " * 6 + "STOP au 36111"
of_both = pytest.mark.parametrize("module", [OURS, JASMINS], ids=["ours", "jasmins"])


@asynccontextmanager
async def bound(port: int, timeout_s: float = GENEROUS_S, **options: str) -> AsyncIterator[SmppGateway]:
    secret = options.pop("secret", jasmin.PASSWORD)
    account = Account("smpp", user="shop", secret=secret, url=f"smpp://127.0.0.1:{port}", options=options)
    link = by_smpp.Shared().link("smpp", account, Publisher(UNUSED, "dispatch"))
    gateway = SmppGateway("smpp", account, link, timeout_s=timeout_s, submits=4)
    try:
        yield gateway
    finally:
        await gateway.close()


async def both_are_held(gateway: SmppGateway) -> None:
    gateway._link.binds.start()

    async def held() -> bool:
        return len(gateway._link.binds.sessions) == 2

    await eventually(held)


@of_both
async def test_a_bind_that_took_longer_than_the_permit_lasts_is_there_for_the_next(module: str) -> None:
    async with smsc(module) as server, bound(server.port, binds="1") as gateway:
        ends = uptime_s() - 0.001, uptime_s() + 60
        late, in_time = [(await gateway.submit([submit(operator.ACCEPTED, begin_by=end)]))[0] for end in ends]
        await server.heard(1)
    assert type(late) is Late
    assert isinstance(in_time, Result)
    assert len(server.submits) == 1
    assert [one["kind"] for one in server.facts].count("bind") == 1


@of_both
async def test_messages_go_over_several_binds_and_each_answer_means_one_thing(module: str) -> None:
    async with smsc(module) as server, bound(server.port, binds="2", window="8") as gateway:
        assert gateway.batch == 4
        await both_are_held(gateway)
        wanted = [operator.ACCEPTED, operator.THROTTLED, operator.BAD_SOURCE, operator.BAD_DESTINATION]
        answers = await gateway.submit([submit(n) for n in [*wanted, operator.SYSTEM_ERROR]])
        heard = await server.heard(5)
    accepted, throttled, source, destination, system = answers
    assert accepted == Result("accepted", "smsc-1", None)
    assert type(throttled) is Throttled
    assert isinstance(source, Misconfigured)
    assert (source.code, source.of_sender) == ("smpp_0x0a", True)
    assert isinstance(destination, Refused)
    assert destination.code == "smpp_0x0b"
    assert type(system) is Unanswered
    assert len({one["session"] for one in heard}) == 2
    assert {one["system_id"] for one in server.facts if one["kind"] == "bind"} == {"shop"}
    assert all(one["receives"] for one in server.facts if one["kind"] == "bind"), "transceiver: MOs come by it"
    first = next(one for one in heard if one["to"].endswith("01"))
    assert (first["to"], first["source"], first["source_ton"]) == ("33639980001", "MAISONLUNE", 5)
    assert (first["esm_class"], first["data_coding"], first["receipt"]) == (0, 0, 1)
    assert bytes.fromhex(first["text"]).decode() == submit(1).text


async def test_a_bind_that_is_gone_is_no_refusal_and_how_we_name_numbers_is_somebodys_to_mend() -> None:
    async with smsc() as server, bound(server.port) as gateway:
        gone, not_now, ton, npi, destination = await gateway.submit(
            [
                submit(n)
                for n in (
                    operator.NOT_BOUND,
                    operator.NOT_NOW,
                    operator.BAD_TON,
                    operator.BAD_NPI,
                    operator.BAD_DESTINATION_NPI,
                )
            ]
        )
    assert type(gone) is Unreachable
    assert type(not_now) is Unanswered, "whoever it was relayed to did not answer in time"
    for answer, code in ((ton, "smpp_0x48"), (npi, "smpp_0x49"), (destination, "smpp_0x51")):
        assert isinstance(answer, Misconfigured)
        assert (answer.code, answer.of_sender) == (code, False)


async def test_a_new_process_does_not_number_its_long_messages_as_the_last_did() -> None:
    """Else a handset puts parts of two messages together. Of six processes, all alike is one in 10 to the 12."""
    async with smsc() as server:
        for _ in range(6):
            async with bound(server.port, binds="1") as gateway:
                await gateway.submit([submit(1, text=LONG)])
        heard = await server.heard(12)
    assert len({bytes.fromhex(part["text"])[3] for part in heard}) > 1


@of_both
async def test_a_long_message_is_one_message_with_one_receipt(module: str) -> None:
    async with smsc(module) as server, bound(server.port) as gateway:
        [answer] = await gateway.submit([submit(operator.BUSY_AT_THE_SECOND, text=LONG)])
        heard = sorted(await server.heard(4), key=lambda one: one["text"][:12])  # a server may read both at once
    assert answer == Result("accepted", "smsc-2", None), "the second part was busy twice, and came at last"
    first, *_, last = heard
    assert [one["text"] for one in heard[1:]] == [last["text"]] * 3
    assert (first["esm_class"], first["receipt"], last["receipt"]) == (0x40, 1, 1)
    headers = [bytes.fromhex(one["text"])[:6] for one in (first, last)]
    assert [header[4:] for header in headers] == [b"\x02\x01", b"\x02\x02"]
    assert headers[0][:4] == headers[1][:4]
    assert b"".join(bytes.fromhex(one["text"])[6:] for one in (first, last)).decode() == LONG


@of_both
async def test_a_message_of_which_a_part_was_taken_is_never_called_refused(module: str) -> None:
    async with smsc(module) as server, bound(server.port) as gateway:
        [answer] = await gateway.submit([submit(operator.HALF, text=LONG)])
    assert type(answer) is Unanswered


@of_both
async def test_a_long_message_goes_whole_where_the_account_says_so(module: str) -> None:
    async with smsc(module) as server, bound(server.port, binds="1", long_messages="payload") as gateway:
        answers = await gateway.submit([submit(1, text=LONG), submit(1, text="Ça alors, fête ! STOP au 36111")])
        short, whole = sorted(await server.heard(2), key=lambda heard: heard["payload"])  # in no order
    assert all(isinstance(answer, Result) for answer in answers)
    assert bytes.fromhex(whole["payload"]).decode() == LONG
    assert (whole["text"], whole["esm_class"], short["payload"]) == ("", 0, "")
    assert short["data_coding"] == 8
    assert bytes.fromhex(short["text"]).decode("utf-16-be") == "Ça alors, fête ! STOP au 36111"


@of_both
async def test_silence_and_a_session_that_ends_are_unknown_and_the_next_message_binds_again(module: str) -> None:
    async with smsc(module) as server, bound(server.port, timeout_s=0.5, binds="1") as gateway:

        async def accepted() -> bool:  # not at once: a bind that failed is not tried again for a moment
            [answer] = await gateway.submit([submit(1)])
            return isinstance(answer, Result)

        await eventually(accepted)  # there is a session
        [silent] = await gateway.submit([submit(operator.SILENT)])
        assert type(silent) is Unanswered
        await eventually(accepted)  # another one: to give the old one back may take all the time that a message has
        [cut] = await gateway.submit([submit(operator.DIES)])
        assert type(cut) is Unanswered
        await server.stop()
        [nobody] = await gateway.submit([submit(1)])
        assert type(nobody) is Unreachable
        await server.start()
        await eventually(accepted)
        assert "33639980001" not in str(silent) + str(cut) + str(nobody)


@of_both
async def test_after_a_session_that_holds_no_bind_of_ours_there_is_another_and_what_is_in_flight_may_end(
    module: str,
) -> None:
    async with smsc(module) as server, bound(server.port, timeout_s=GENEROUS_S, binds="1") as gateway:
        late = asyncio.create_task(gateway.submit([submit(operator.ANSWERED_LATE)]))
        await server.heard(1)
        [gone] = await gateway.submit([submit(operator.NOT_BOUND_AT_FIRST)])
        assert type(gone) is Unreachable
        [again] = await gateway.submit([submit(operator.NOT_BOUND_AT_FIRST)])
        assert isinstance(again, Result)
        assert await late == [Result("accepted", "late", None)]
        [after] = await gateway.submit([submit(operator.ACCEPTED)])
        assert isinstance(after, Result)
        old, refused, *others = [one["session"] for one in await server.heard(4)]
        [given_back] = [one["session"] for one in await server.heard(1, "unbind")]
    assert old == refused == given_back
    assert others[0] == others[1] != old


async def test_after_silence_there_is_another_session_but_not_while_others_are_answered() -> None:
    async with smsc() as server, bound(server.port, timeout_s=GENEROUS_S, binds="1") as gateway:
        [there_is_a_session] = await gateway.submit([submit(operator.ACCEPTED)])
        assert isinstance(there_is_a_session, Result)
        gateway.timeout_s = 3.0
        going = asyncio.create_task(gateway.submit([submit(operator.SILENT)]))
        await server.heard(2)
        answered = [*await gateway.submit([submit(operator.ACCEPTED)])]
        [silent] = await going
        gateway.timeout_s = GENEROUS_S
        answered += await gateway.submit([submit(operator.ACCEPTED)])
        gateway.timeout_s = 1.0
        [again] = await gateway.submit([submit(operator.SILENT)])
        gateway.timeout_s = GENEROUS_S
        answered += await gateway.submit([submit(operator.ACCEPTED)])
        assert type(silent) is type(again) is Unanswered
        assert all(isinstance(answer, Result) for answer in answered)
        *sessions, last = [one["session"] for one in await server.heard(6)]
    assert len(set(sessions)) == 1
    assert last not in sessions


async def test_beside_a_session_of_no_use_that_has_messages_the_others_carry_what_is_new() -> None:
    async with smsc() as server, bound(server.port, timeout_s=GENEROUS_S, binds="2") as gateway:
        await both_are_held(gateway)
        await gateway.submit([submit(operator.ACCEPTED), submit(operator.ACCEPTED)])
        going = asyncio.create_task(gateway.submit([submit(operator.SILENT)]))
        await server.heard(3)
        [session] = [each for each in gateway._link.binds.sessions if each.taken]
        session.of_no_use.set()
        answers = [(await gateway.submit([submit(operator.ACCEPTED)]))[0] for _ in range(3)]
        assert all(isinstance(answer, Result) for answer in answers)
        first, second, silent, *used = [one["session"] for one in await server.heard(6)]
        assert first != second
        assert silent not in used
        going.cancel()


BIND, SUBMIT, UNBIND = 9, 4, 6  # command ids


@dataclass
class Doorkeeper:
    """An SMSC that answers a bind once the door is open. `commands`: the ids of all that it was told."""

    port: int = 0
    door: asyncio.Event = field(default_factory=asyncio.Event)
    commands: list[int] = field(default_factory=list)
    visits: list[asyncio.Task[Any]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.current_task()
        assert visit is not None
        self.visits.append(visit)
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            command = 0
            while command != UNBIND:
                length, command, _, number = struct.unpack(">4I", await reader.readexactly(16))
                await reader.readexactly(length - 16)
                self.commands.append(command)
                await self.door.wait()
                told = b"" if command == UNBIND else b"\0"
                writer.write(struct.pack(">4I", 16 + len(told), 0x80000000 | command, 0, number) + told)


@asynccontextmanager
async def doorkeeper() -> AsyncIterator[Doorkeeper]:
    keeper = Doorkeeper()
    server = await asyncio.start_server(keeper.serve, "127.0.0.1", 0)
    keeper.port = server.sockets[0].getsockname()[1]
    try:
        yield keeper
    finally:
        keeper.door.set()
        server.close()
        await asyncio.gather(*keeper.visits)


async def test_who_is_not_let_in_fails_for_all_who_wait_and_is_asked_once() -> None:
    """Each message knocking for itself, the last of them would leave long after the service reckons with it."""
    async with (
        doorkeeper() as server,
        bound(server.port, timeout_s=5.0, binds="2", window="20") as gateway,
        asyncio.timeout(GENEROUS_S),
    ):
        answers = await gateway.submit([submit(n) for n in range(20)])
        assert {type(answer) for answer in answers} == {Unreachable}
        assert server.commands == [BIND, BIND]
        server.door.set()
        await asyncio.gather(*server.visits[:2])  # an SMSC that lets it in late finds nobody there
    assert SUBMIT not in server.commands


async def test_a_bind_that_failed_is_not_tried_by_each_who_comes_to_the_window_after() -> None:
    async with doorkeeper() as server, bound(server.port, timeout_s=9.0, binds="1", window="1") as gateway:
        answers = await gateway.submit([submit(n) for n in range(20)])
    assert {type(answer) for answer in answers} == {Unreachable}
    assert len(server.commands) < 4, "an attempt takes 2 s: one after the other until nobody waits any more, five"


async def test_what_was_not_let_in_within_its_time_never_leaves() -> None:
    """The bind goes on for who comes after."""
    async with doorkeeper() as server, bound(server.port, timeout_s=0.5, binds="2") as gateway:
        answers = await gateway.submit([submit(n) for n in range(20)])
        assert {type(answer) for answer in answers} == {Unreachable}
        server.door.set()
        gateway.timeout_s = GENEROUS_S

        async def let_in() -> bool:  # unless the bind was given up meanwhile: then nothing left either
            [after] = await gateway.submit([submit(1)])
            return isinstance(after, Result)

        await eventually(let_in)
    assert server.commands.count(SUBMIT) == 1


async def test_what_finds_no_place_in_the_window_within_its_time_never_leaves() -> None:
    async with smsc() as server, bound(server.port, binds="1", window="1") as gateway:
        [there_is_a_session] = await gateway.submit([submit(operator.ACCEPTED)])
        assert isinstance(there_is_a_session, Result)
        gateway.timeout_s = 1.0
        silent, waited = await gateway.submit([submit(operator.SILENT), submit(operator.ACCEPTED)])
        assert (type(silent), type(waited)) == (Unanswered, Unreachable)
        gateway.timeout_s = GENEROUS_S
        [after] = await gateway.submit([submit(operator.ACCEPTED)])
        assert isinstance(after, Result)
        assert len(await server.heard(3)) == 3
        assert after.gateway_message_id == "smsc-2"


async def test_jasmins_server_reads_what_we_write() -> None:
    """Another's code at the other end: it takes short and long texts for what they are."""
    async with smsc(JASMINS) as server, bound(server.port, binds="1") as gateway:
        texts = {1: submit(1).text, 20: LONG, 21: "Ça alors, fête ! STOP au 36111"}
        answers = [(await gateway.submit([submit(n, text=text)]))[0] for n, text in texts.items()]
        short, first, last, wide = await server.heard(4)
    assert answers == [Result("accepted", f"smsc-{n}", None) for n in (1, 3, 4)], "a message of two parts is the last"
    assert bytes.fromhex(short["text"]).decode() == texts[1]
    assert [(part["esm_class"], part["receipt"]) for part in (first, last)] == [(0x40, True), (0x40, True)]
    assert b"".join(bytes.fromhex(part["text"])[6:] for part in (first, last)).decode() == LONG
    assert (wide["data_coding"], bytes.fromhex(wide["text"]).decode("utf-16-be")) == (8, texts[21])


async def test_a_bind_is_given_back_before_the_next_is_asked_for() -> None:
    """An operator that allows so many binds counts one until it is given back."""
    async with smsc(JASMINS) as server:
        for _ in range(jasmin.MAX_BINDS + 1):
            async with bound(server.port, binds="1", long_messages="payload") as gateway:
                [answer] = await gateway.submit([submit(1, text=LONG)])
                assert isinstance(answer, Result)
        *_, whole = await server.heard(jasmin.MAX_BINDS + 1)
        assert bytes.fromhex(whole["payload"]).decode() == LONG
        async with bound(server.port, secret="another", binds="1") as gateway:
            [nobody] = await gateway.submit([submit(1)])
        assert isinstance(nobody, Misconfigured), "a person has to mend the password"
        assert nobody.code == "smpp_0x0e"


letters = st.sampled_from((GSM7_BASIC + GSM7_EXTENSION, GSM7_BASIC + GSM7_EXTENSION + "êœ🥚中"))
texts = st.builds(
    lambda piece, times: (piece * times)[:700], letters.flatmap(lambda of: st.text(of, min_size=1)), st.integers(1, 60)
)


@given(texts, st.integers(0, 255))
def test_parts_are_as_many_as_the_text_costs_and_make_it_whole_again(text: str, reference: int) -> None:
    coding, parts = parts_of(text, reference)
    assert len(parts) == length(text).segments
    most = {8: (140, 140), 0: (160, 159)}[coding]  # a header of six octets takes seven septets
    assert all(len(part) <= most[len(parts) > 1] for part in parts)
    bodies = [part[6:] if len(parts) > 1 else part for part in parts]
    if len(parts) > 1:
        assert [part[:6] for part in parts] == [
            bytes((5, 0, 3, reference, len(parts), n + 1)) for n in range(len(parts))
        ]
    if coding == 8:
        assert "".join(body.decode("utf-16-be") for body in bodies) == text
    else:
        assert not any(body.endswith(b"\x1b") for body in bodies), "an escape is never parted from what it escapes"
        assert parts_of(text, reference, as_payload=True) == (0, [b"".join(bodies)])
