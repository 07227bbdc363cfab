"""An SMSC within the test, by the octets of SMPP 3.4: strict about what it reads, and as faulty as it is asked to be.
Its code is neither the gateway's nor that of the library that the gateway encodes by."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

BINDS = (1, 2, 9)
SUBMIT, DELIVER, UNBIND, ENQUIRE, RESPONSE = 0x04, 0x05, 0x06, 0x15, 0x80000000
NACK = RESPONSE
USER, PASSWORD = "shop", "a-secret"
Pdu = tuple[int, int, int, bytes]  # command, status, number, body


def delivered(
    text: bytes = b"STOP",
    *,
    source: bytes = b"33639980001",
    to: bytes = b"36111",
    esm_class: int = 0,
    coding: int = 0,
    tlvs: Mapping[int, bytes] | None = None,
) -> bytes:
    """The body of a deliver_sm (SMPP 3.4, 4.6.1)."""
    mandatory = b"\0\x01\x01" + source + b"\0\x00\x01" + to + b"\0"
    mandatory += bytes((esm_class, 0, 0)) + b"\0\0" + bytes((0, 0, coding, 0, len(text))) + text
    return mandatory + b"".join(struct.pack(">2H", tag, len(value)) + value for tag, value in (tlvs or {}).items())


@dataclass(eq=False)
class Session:
    writer: asyncio.StreamWriter
    command: int
    answers: dict[int, asyncio.Future[int | None]] = field(default_factory=dict)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    reads: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = 0
    system_type: str = ""

    def request(self, command: int, body: bytes = b"") -> "asyncio.Future[int | None]":
        """The status of the answer; None where the session ended without one."""
        self.number += 1
        answer = asyncio.get_running_loop().create_future()
        self.answers[self.number] = answer
        self.writer.write(struct.pack(">4I", 16 + len(body), command, 0, self.number) + body)
        return answer

    def deliver(self, body: bytes) -> "asyncio.Future[int | None]":
        return self.request(DELIVER, body)

    def drop(self) -> None:
        self.writer.transport.abort()

    def end(self) -> None:
        self.ended.set()
        for answer in self.answers.values():
            if not answer.done():
                answer.set_result(None)


@dataclass(eq=False)
class Wire:
    """`status`: what a submit_sm is answered, by its place among all; None: never. `lets_in`: the status of a bind."""

    status: Callable[[int], int | None] = lambda _: 0
    lets_in: Callable[[int], int] = lambda _: 0
    window: int = 1000
    pause_s: float = 0.0  # before each answer: one after the other
    port: int = 0
    sessions: list[Session] = field(default_factory=list)
    asked: int = 0  # binds
    submits: list[bytes] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)  # how many submits had come when each was answered
    unbinds: int = 0
    enquiries: int = 0
    faults: list[str] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    visits: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def bound(self) -> list[Session]:
        return [session for session in self.sessions if not session.ended.is_set()]

    async def until(self, holds: Callable[[], bool], within_s: float = 20.0) -> None:
        async with asyncio.timeout(within_s), self.changed:
            await self.changed.wait_for(holds)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.current_task()
        assert visit is not None
        self.visits.add(visit)
        session: Session | None = None
        open_submits: list[int] = []
        answering: asyncio.Queue[int] = asyncio.Queue()
        answerer = asyncio.create_task(self._answer(writer, answering, open_submits))
        try:
            while True:
                if session is not None:
                    await session.reads.wait()
                command, status, number, body = await _read(reader)
                if command in BINDS:
                    self.asked += 1
                    system_id, password, system_type, *_ = body.split(b"\0")
                    good = (system_id.decode(), password.decode()) == (USER, PASSWORD)
                    told = self.lets_in(self.asked) if good else 0x0E
                    writer.write(_pdu(RESPONSE | command, told, number, b"smsc\0" if not told else b""))
                    if told:
                        continue
                    session = Session(writer, command, system_type=system_type.decode())
                    session.reads.set()
                    self.sessions.append(session)
                elif session is None:
                    self.faults.append(f"{command:#x} before a bind")
                elif command == SUBMIT:
                    open_submits.append(number)
                    if len(open_submits) > self.window:
                        self.faults.append("more than the window")
                    self.submits.append(body)
                    answering.put_nowait(number)
                elif command == UNBIND:
                    self.unbinds += 1
                    writer.write(_pdu(RESPONSE | UNBIND, 0, number))
                    break
                elif command == ENQUIRE:
                    self.enquiries += 1
                    writer.write(_pdu(RESPONSE | ENQUIRE, 0, number))
                elif command & RESPONSE:
                    answer = session.answers.pop(number, None)
                    if answer is None and command != NACK:
                        self.faults.append(f"an answer to nothing: {command:#x}")
                    elif answer is not None and not answer.done():
                        answer.set_result(status)
                else:
                    self.faults.append(f"{command:#x} is no request of an ESME")
                await self._tell()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            answerer.cancel()
            writer.transport.abort()
            if session is not None:
                session.end()
            await self._tell()
            self.visits.discard(visit)

    async def _answer(
        self, writer: asyncio.StreamWriter, numbers: "asyncio.Queue[int]", open_submits: list[int]
    ) -> None:
        while True:
            number = await numbers.get()
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
            place = len(self.writes)
            self.writes.append(len(self.submits))
            status = self.status(place)
            if status is not None:
                open_submits.remove(number)
                writer.write(
                    _pdu(RESPONSE | SUBMIT, status, number, f"id-{place}".encode() + b"\0" if not status else b"")
                )
            await self._tell()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


def _pdu(command: int, status: int, number: int, body: bytes = b"") -> bytes:
    return struct.pack(">4I", 16 + len(body), command, status, number) + body


async def _read(reader: asyncio.StreamReader) -> Pdu:
    length, command, status, number = struct.unpack(">4I", await reader.readexactly(16))
    return command, status, number, await reader.readexactly(length - 16)


def udh_of(body: bytes) -> Sequence[int]:
    """The header of a submit_sm's text."""
    return body[body.index(b"\x05\x00\x03") :][:6]


@asynccontextmanager
async def wire(**more: object) -> AsyncIterator[Wire]:
    """A server, which must have found no fault in the end."""
    smsc = Wire(**more)  # type: ignore[arg-type]  # as its fields say
    server = await asyncio.start_server(smsc.serve, "127.0.0.1", 0)
    smsc.port = server.sockets[0].getsockname()[1]
    try:
        yield smsc
    finally:
        server.close()
        for session in smsc.sessions:
            session.drop()
            session.reads.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*smsc.visits)
    assert smsc.faults == [], smsc.faults
