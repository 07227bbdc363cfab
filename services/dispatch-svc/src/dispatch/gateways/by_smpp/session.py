"""A bound session with an SMSC: our requests and their answers, and the requests of the SMSC.

A session whose octets wait in this process takes no submit (`is_blocked`): they would leave after their permit.
"""

import asyncio
import contextlib
import logging
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dispatch.gateways.by_smpp import pdu
from dispatch.gateways.by_smpp.pdu import Pdu

log = logging.getLogger(__name__)

CONNECT_S = 2.0
BIND_S = 3.0  # after the connection
UNBIND_S = 1.0
QUIET_S = 20.0  # without a word of the SMSC, then enquire_link
PROVE_S = 0.5  # after an acknowledgement, likewise: until it is proven, a STOP written again is taken for the first
ANSWER_S = 10.0  # to an enquire_link
FORGET_S = 60.0  # then a submit without an answer no longer counts in the window
BLOCKED_BYTES = 16 * 1024  # an event loop may hold less until its next turn

Answer = asyncio.Future[Pdu | None]  # None: the session ended first


class BindRefused(Exception):
    """The SMSC refused the bind with `status`."""

    def __init__(self, status: int) -> None:
        super().__init__(f"smpp_0x{status:02x}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Login:
    """The bind of an account: `command` is that of a receiver, transmitter or transceiver."""

    command: int
    body: bytes = field(repr=False)

    @property
    def transmits(self) -> bool:
        return self.command != pdu.BIND_RECEIVER


@dataclass(frozen=True, slots=True)
class Host:
    name: str
    port: int
    tls: bool


class Session:
    """A session. `taken`: places of its window in use. `in_hand`: messages whose senders wait for its answers.

    `of_no_use`: the SMSC holds no bind of ours, or answers no submit, or leaves. Submits in flight may end, and no new
    submit begins.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        login: Login,
        deliver: Callable[["Session", Pdu], None],
        proven: Callable[[object], None],
    ) -> None:
        self.transmits = login.transmits
        self.taken = 0
        self.in_hand = 0
        self.answers = 0  # to submits
        self.of_no_use = asyncio.Event()
        self.ended = asyncio.Event()
        self.idle = asyncio.Event()  # set as the last message in hand ends
        self.unproven: deque[tuple[int, object]] = deque()
        self._reader, self._writer = reader, writer
        self._deliver, self._proven = deliver, proven
        self._number = 0
        self._waiting: dict[int, Answer] = {}
        self._heard_at = time.monotonic()
        self._to_prove = asyncio.Event()
        self._tasks = [asyncio.create_task(self._read())]

    @classmethod
    async def bound(
        cls,
        host: Host,
        login: Login,
        deliver: Callable[["Session", Pdu], None],
        proven: Callable[[object], None],
    ) -> "Session":
        """Connect and bind. Raise BindRefused, OSError, TimeoutError, and then leave nothing open."""
        async with asyncio.timeout(CONNECT_S):
            context = ssl.create_default_context() if host.tls else None
            reader, writer = await asyncio.open_connection(host.name, host.port, ssl=context)
        session = cls(reader, writer, login, deliver, proven)
        try:
            async with asyncio.timeout(BIND_S):
                answer = await session.ask(login.command, login.body)
            if answer is None:
                raise ConnectionResetError
            if answer.status:
                raise BindRefused(answer.status)
        except BaseException:
            session.abort()
            raise
        session._tasks.append(asyncio.create_task(session._enquire()))
        return session

    @property
    def is_blocked(self) -> bool:
        return self._writer.transport.get_write_buffer_size() > BLOCKED_BYTES

    def ask(self, command: int, body: bytes = b"") -> Answer:
        number, answer = self._expect()
        self._writer.write(pdu.written(command, number, body))
        return answer

    def submit(self, parts: Sequence[Callable[[int], bytes]]) -> list[Answer]:
        """Write the parts at once, each made with its number."""
        expected = [self._expect() for _ in parts]
        self._writer.write(b"".join(part(number) for part, (number, _) in zip(parts, expected, strict=True)))
        answers = [answer for _, answer in expected]
        for answer in answers:
            answer.add_done_callback(self._count)
        return answers

    def give_back(self, places: int, unanswered: Sequence[Answer], changed: Callable[[], None]) -> None:
        """Give a message's places back, those of unanswered submits once they are answered, or forgotten."""

        def back(many: int) -> None:
            self.taken -= many
            changed()

        self.in_hand -= 1
        if not self.in_hand:
            self.idle.set()
        back(places - len(unanswered))
        for answer in unanswered:
            answer.add_done_callback(lambda _: back(1))
            asyncio.get_running_loop().call_later(FORGET_S, self._forget, answer)

    def respond(self, request: Pdu, status: int, token: object = None) -> None:
        """Answer a deliver_sm. `token` is proven once the SMSC has certainly read this answer."""
        if token is not None:
            self.unproven.append((self._number, token))
            self._to_prove.set()
        if not self.ended.is_set():
            self._writer.write(pdu.written(pdu.RESPONSE | request.command, request.number, b"\0", status))

    async def unbind(self) -> None:
        """End the session in good order, or the SMSC goes on counting the bind, and refuses others."""
        if not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(UNBIND_S):
                    await asyncio.shield(self.ask(pdu.UNBIND))
        self.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def abort(self) -> None:
        """End the session; what was not written yet never is."""
        self._writer.transport.abort()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._end()

    def _expect(self) -> tuple[int, Answer]:
        self._number = self._number % pdu.LAST_NUMBER + 1
        answer: Answer = asyncio.get_running_loop().create_future()
        if self.ended.is_set():
            answer.set_result(None)
        else:
            self._waiting[self._number] = answer
        return self._number, answer

    def _count(self, answer: Answer) -> None:
        if not answer.cancelled() and answer.result() is not None:
            self.answers += 1

    def _forget(self, answer: Answer) -> None:
        if not answer.done():
            self._waiting = {number: each for number, each in self._waiting.items() if each is not answer}
            answer.set_result(None)

    async def _read(self) -> None:
        try:
            while True:
                header = await self._reader.readexactly(pdu.HEADER.size)
                body = await self._reader.readexactly(pdu.body_length(header))
                self._heard_at = time.monotonic()
                self._take(pdu.received(header, body))
        except (asyncio.IncompleteReadError, OSError, pdu.Malformed):
            self._to_prove.set()
        except Exception:  # the SMSC delivers again
            log.exception("a session ends by an error of ours")
        finally:
            self.abort()

    def _take(self, heard: Pdu) -> None:
        if heard.command & pdu.RESPONSE:
            answer = self._waiting.pop(heard.number, None)
            if answer is None:
                return
            while self.unproven and self.unproven[0][0] < heard.number:
                self._proven(self.unproven.popleft()[1])
            if not answer.done():
                answer.set_result(heard)
        elif heard.command == pdu.DELIVER_SM:
            self._deliver(self, heard)
        elif heard.command in (pdu.ENQUIRE_LINK, pdu.UNBIND):
            self._writer.write(pdu.written(pdu.RESPONSE | heard.command, heard.number))
            if heard.command == pdu.UNBIND:
                self.of_no_use.set()
        elif heard.command not in (pdu.ALERT_NOTIFICATION, pdu.OUTBIND):
            self._writer.write(pdu.written(pdu.GENERIC_NACK, heard.number, status=pdu.INVALID_COMMAND))

    async def _enquire(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._heard_at + QUIET_S - time.monotonic()):
                    await self._to_prove.wait()
            if self._to_prove.is_set():
                self._to_prove.clear()
                await asyncio.sleep(PROVE_S)
                if not self.unproven:
                    continue
            elif time.monotonic() < self._heard_at + QUIET_S:
                continue
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self.ask(pdu.ENQUIRE_LINK)
            except TimeoutError:
                break
        self.abort()

    def _end(self) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        self.of_no_use.set()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_result(None)
