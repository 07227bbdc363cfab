"""SMPP 3.4 (`smpp34`): several binds as transmitter, a window each, long messages in parts.

A long message goes in parts under one header (UDH, 3GPP TS 23.040 9.2.3.24.1), or whole as `message_payload` by the
account's options. Only the last part asks for a DLR and gives the message its id, so each message has one DLR.

    no connection, bind or place in the window in time        Unreachable
    a place in the window, but the permit had lapsed          Late
    ESME_RTHROTTLED, ESME_RMSGQFUL                            Throttled
    ESME_RINVBNDSTS                                           Unreachable: the operator holds no bind of ours
    ESME_RINVSRCADR                                           Misconfigured, of the sender
    flags, credentials, service type, kinds of addresses      Misconfigured
    system, unknown and temporary application error           Unanswered, as are silence, an ended session and half a
                                                              message
    any other status                                          Refused

A bind opens a new session after ESME_RINVBNDSTS, and after a submit unanswered for more than half the timeout while no
other submit was answered either.

The library reports a refused bind (a wrong password) only as a timeout: `Unreachable`. The library also acknowledges a
`deliver_sm` before Placet has stored it, so Placet binds as transmitter: MOs and DLRs come by HTTP or Kafka.
"""

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import smpp34

from common.db.timer import uptime_s
from dispatch.gateways import gsm7
from dispatch.gateways.gateway import (
    Capabilities,
    Late,
    Misconfigured,
    Refused,
    Result,
    SendError,
    Submit,
    Throttled,
    Unanswered,
    Unreachable,
)
from dispatch.gateways.provider import Account

log = logging.getLogger(__name__)

URL = ""
NEEDS = ("url", "user", "secret")  # smpp://host:port or smpps://, system_id, password
OPTIONS: Mapping[str, bool] = {"system_type": False, "binds": False, "window": False, "long_messages": False}
capabilities = Capabilities()

BINDS, WINDOW, PORT = 2, 20, 2775
CONNECT_S = 2.0
# below the breaker's cool-down, or a probe would meet the old failure
RECONNECT_AFTER_S = 0.25
UNBIND_S = 1.0
ALPHANUMERIC, INTERNATIONAL = 5, 1  # type of number
ISDN = 1  # numbering plan
GSM, UCS2 = 0, 8  # data_coding
USER_DATA_HEADER = 0x40  # esm_class
MESSAGE_PAYLOAD = 0x0424  # an optional parameter
OCTETS, PART_OCTETS = {GSM: 160, UCS2: 140}, {GSM: 153, UCS2: 134}
THROTTLED = (0x14, 0x58)  # queue full, throttled
NOT_BOUND = 0x04
INVALID_SOURCE = 0x0A
# SMPP 3.4, 5.1.3
OURS = (0x07, 0x0D, 0x0E, 0x0F, 0x15, 0x48, 0x49, 0x50, 0x51, 0x53)
WHO_KNOWS = (0x08, 0x64, 0xFF)  # system, receiver's temporary, unknown error
PART_TRIES, PART_PAUSE_S = 5, 0.2


@dataclass(slots=True, eq=False)
class _Session:
    """A session with the operator.

    `of_no_use`: the operator holds no bind of ours, or answers no submit. Submits in flight may end, and no new submit
    begins.
    """

    client: smpp34.Client
    smsc: smpp34.Smsc
    in_flight: int = 0
    answers: int = 0
    of_no_use: bool = False

    async def give_back(self) -> None:
        with contextlib.suppress(smpp34.SmppError, TimeoutError, OSError, RuntimeError):  # the session may have ended
            async with asyncio.timeout(UNBIND_S):
                await self.smsc.unbind()  # or the operator goes on counting the bind, and refuses others
        await self.client.stop()


class SmppGateway:
    """A gateway over SMPP, for `submits` at once.

    The messages in flight fit the windows, so that no permit lapses in the wait for a place.
    """

    def __init__(
        self, name: str, account: Account, *, timeout_s: float, submits: int, capabilities: Capabilities = capabilities
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        binds = int(account.options.get("binds", BINDS))
        window = int(account.options.get("window", WINDOW))
        self.batch = max(1, binds * window // submits)
        self.timeout_s = timeout_s
        self._as_payload = account.options.get("long_messages") == "payload"
        self._binds = [_Bind(account, window) for _ in range(binds)]
        self._turn = itertools.cycle(self._binds)
        self._references = itertools.count(random.randrange(256))  # noqa: S311 the last process's parts may be under way

    async def submit(self, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        until = asyncio.get_running_loop().time() + self.timeout_s
        return await asyncio.gather(*(self._alone(message, until) for message in messages))

    async def look_up(self, reference: str, subject_id: str) -> Result | None:
        return None

    async def close(self) -> None:
        await asyncio.gather(*(bind.close() for bind in self._binds))

    def _next_bind(self) -> "_Bind":
        """Return the next bind in turn, passing over a useless session with messages in flight.

        A further session may exceed the operator's limit.
        """
        return next((bind for bind in itertools.islice(self._turn, len(self._binds)) if bind.is_ready), self._binds[0])

    async def _alone(self, m: Submit, until: float) -> Result | SendError:
        begun = False
        bind = self._next_bind()
        try:
            async with asyncio.timeout_at(until), bind.window, bind.session() as session:
                if uptime_s() > m.begin_by:
                    return Late("a place in a session took longer than the permit lasts")
                begun = True
                return await self._send(session, m)
        except SendError as error:
            return error
        except (smpp34.SmppError, TimeoutError, OSError, RuntimeError) as error:
            return (Unanswered if begun else Unreachable)(type(error).__name__)

    async def _send(self, session: _Session, m: Submit) -> Result:
        coding, parts = parts_of(m.text, next(self._references) % 256, as_payload=self._as_payload)
        answer = None
        for n, part in enumerate(parts, 1):
            answer = await self._part(session, m, coding, part, headed=len(parts) > 1, last=n == len(parts))
            for _ in range(PART_TRIES):
                if n == 1 or answer.command_status not in THROTTLED:
                    break
                await asyncio.sleep(PART_PAUSE_S)
                answer = await self._part(session, m, coding, part, headed=True, last=n == len(parts))
            if answer.command_status:
                raise _meaning(answer.command_status) if n == 1 else Unanswered("only some parts were taken")
        assert answer is not None
        return Result("accepted", answer.message_id, None)

    async def _part(
        self, session: _Session, m: Submit, coding: int, part: bytes, *, headed: bool, last: bool
    ) -> smpp34.SubmitSmResp:
        whole = self._as_payload and len(part) > OCTETS[coding]
        asked_at, answers = time.monotonic(), session.answers
        try:
            answer = await session.smsc.submit_sm(
                m.to.removeprefix("+"),
                b"" if whole else part,
                source_addr=m.sender,
                source_addr_ton=ALPHANUMERIC,
                dest_addr_ton=INTERNATIONAL,
                dest_addr_npi=ISDN,
                esm_class=USER_DATA_HEADER if headed else 0,
                registered_delivery=1 if last else 0,
                data_coding=coding,
                tlvs=[smpp34.Tlv(MESSAGE_PAYLOAD, part)] if whole else [],
            )
        except (asyncio.CancelledError, smpp34.SmppError, TimeoutError):
            if session.answers == answers and time.monotonic() - asked_at > self.timeout_s / 2:
                session.of_no_use = True
            raise
        session.answers += 1
        if answer.command_status == NOT_BOUND:
            session.of_no_use = True
        return answer


class _Bind:
    """A bind: its session is opened on demand, and reopened once ended or useless.

    `window` limits the messages in flight: the library's does not.
    """

    def __init__(self, account: Account, window: int) -> None:
        self._account = account
        self.window = asyncio.Semaphore(window)
        self._attempt: asyncio.Task[_Session | Unreachable] | None = None
        self._connect_after = 0.0
        self._open: _Session | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def is_ready(self) -> bool:
        return self._open is None or not (self._open.of_no_use and self._open.in_flight)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[_Session]:
        """Yield a session, or raise Unreachable. A cancelled caller leaves the attempt to the others."""
        while True:
            if self._attempt is None or (self._attempt.done() and time.monotonic() >= self._connect_after):
                self._attempt = asyncio.create_task(self._found())
            found = await asyncio.shield(self._attempt)
            if isinstance(found, Unreachable):
                raise found
            if found is self._open:  # else the session is being unbound
                break
        found.in_flight += 1
        try:
            yield found
        finally:
            found.in_flight -= 1
            if found is not self._open and not found.in_flight:
                leaving = asyncio.create_task(found.give_back())
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)

    async def _found(self) -> _Session | Unreachable:
        held = self._open
        if held is not None and (held.of_no_use or not await held.client.is_alive()):
            self._open = None
            if not held.in_flight:  # else the last message in flight unbinds
                await held.give_back()
        if self._open is None:
            at = urlsplit(self._account.url or "")
            client = smpp34.Client(
                at.hostname or "",
                at.port or PORT,
                self._account.user,
                self._account.secret,
                bind_type="TX",
                system_type=self._account.options.get("system_type", ""),
                tls=at.scheme == "smpps",
                connect_timeout_ms=int(CONNECT_S * 1000),
            )
            try:
                async with asyncio.timeout(CONNECT_S + 1):
                    self._open = _Session(client, await client.connect())
            except (smpp34.SmppError, TimeoutError, OSError, RuntimeError) as error:
                await client.stop()  # or an operator that accepts late holds an unused bind
                self._connect_after = time.monotonic() + RECONNECT_AFTER_S
                return Unreachable(type(error).__name__)
        return self._open

    async def close(self) -> None:
        if self._attempt is not None:
            await asyncio.wait([self._attempt])
        held, self._open = self._open, None
        if held is not None:
            await held.give_back()
        await asyncio.gather(*self._leaving)


def parts_of(text: str, reference: int, *, as_payload: bool = False) -> tuple[int, list[bytes]]:
    """Return (data_coding, octets of each part). No character is cut in two."""
    septets = gsm7.encode(text)
    coding = UCS2 if septets is None else GSM
    whole = text.encode("utf-16-be") if septets is None else septets
    if len(whole) <= OCTETS[coding] or as_payload:
        return coding, [whole]
    pieces = [b""]
    for character in text:
        octets = character.encode("utf-16-be") if septets is None else gsm7.encode(character) or b""
        if len(pieces[-1]) + len(octets) > PART_OCTETS[coding]:
            pieces.append(b"")
        pieces[-1] += octets
    return coding, [bytes((5, 0, 3, reference, len(pieces), number)) + piece for number, piece in enumerate(pieces, 1)]


def _meaning(status: int) -> SendError:
    code = f"smpp_0x{status:02x}"
    if status in THROTTLED:
        return Throttled(1.0)
    if status == INVALID_SOURCE:
        return Misconfigured(code, of_sender=True)
    if status in OURS:
        return Misconfigured(code)
    if status == NOT_BOUND:
        return Unreachable(code)
    if status in WHO_KNOWS:
        return Unanswered(code)
    return Refused(code)
