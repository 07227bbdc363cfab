"""SMPP 3.4 both ways: binds as transceiver, a window each, long texts in parts; MOs and DLRs to the operator's topics.

A long text goes in parts under one header (UDH, 3GPP TS 23.040 9.2.3.24.1), or whole as `message_payload` by the
account's options. All parts leave in one write, once the window has places for all. Where the window is smaller than
the text, the first parts leave only if the SMSC's last answers say that the others can follow in time. The id of the
last part is the message's; each part asks for a DLR.

    no connection, bind or place in the window in time        Unreachable
    a window too slow for the parts                           Unreachable
    a place in the window, but the permit had lapsed          Late
    ESME_RTHROTTLED, ESME_RMSGQFUL                            Throttled; of some parts: these again, within the timeout
    ESME_RINVBNDSTS                                           Unreachable: the operator holds no bind of ours
    ESME_RINVSRCADR                                           Misconfigured, of the sender
    flags, credentials, service type, kinds of addresses      Misconfigured, as is a bind refused for credentials
    system, unknown and temporary application error           Unanswered, as are silence and an ended session
    some parts taken and others not                           Unanswered, with the code smpp_parts_1_of_2
    any other status                                          Refused

A bind opens a new session after ESME_RINVBNDSTS, and after a submit unanswered for more than half the timeout while no
other submit was answered either.
"""

import asyncio
import hashlib
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

from common.db.database import Database
from common.db.timer import uptime_s
from dispatch.gateways.by_smpp import pdu
from dispatch.gateways.by_smpp.binds import Binds
from dispatch.gateways.by_smpp.leases import Lease
from dispatch.gateways.by_smpp.names import Names
from dispatch.gateways.by_smpp.session import Answer, Host, Login, Session
from dispatch.gateways.by_smpp.texts import OCTETS, parts_of
from dispatch.gateways.by_smpp.upstream import Log, Upstream
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
from dispatch.lane import Lane, lane_of

URL = ""
NEEDS = ("url", "user", "secret")  # smpp://host:port or smpps://, system_id, password
OPTIONS: Mapping[str, bool] = {
    "address_range": False,
    "bind": False,
    "binds": False,
    "binds_in_all": False,
    "long_messages": False,
    "more_hosts": False,
    "system_type": False,
    "window": False,
}
capabilities = Capabilities()

BINDS, WINDOW, PORT = 2, 20, 2775
MOST_BINDS, MOST_WINDOW = 100, 1000
KINDS: Mapping[str, tuple[int, ...]] = {
    "transceiver": (pdu.BIND_TRANSCEIVER,),
    "pair": (pdu.BIND_TRANSMITTER, pdu.BIND_RECEIVER),
    "transmitter": (pdu.BIND_TRANSMITTER,),  # MOs and DLRs come another way
}
LENGTHS: Mapping[str, int] = {"user": 15, "secret": 8, "system_type": 12, "address_range": 40}  # octets, 5.2
THROTTLED = (0x14, 0x58)  # queue full, throttled
NOT_BOUND = 0x04
INVALID_SOURCE = 0x0A
# SMPP 3.4, 5.1.3
OURS = (0x07, 0x0D, 0x0E, 0x0F, 0x15, 0x48, 0x49, 0x50, 0x51, 0x53)
WHO_KNOWS = (0x08, 0x64, 0xFF)  # system, receiver's temporary, unknown error
PART_PAUSE_S = 0.2  # before throttled parts go again; twice as long each time
IN_TIME = 2.0  # rounds of parts must take this many times less than there is time
WEIGHT = 0.2  # of the latest answer in the average


def wrong(account: Account) -> str | None:
    """Return what is wrong with an account, with the remedy, or None. No secret is repeated."""
    given = {"user": account.user, "secret": account.secret, **account.options}
    for name, most in LENGTHS.items():
        said = given.get(name, "")
        if not said.isascii() or len(said) > most or "\0" in said:
            return f"SMPP takes at most {most} ASCII characters as {name}: ask the operator for a shorter one"
    if given.get("bind", "transceiver") not in KINDS:
        return f"`bind` is one of {', '.join(KINDS)}"
    if given.get("long_messages", "parts") not in ("parts", "payload"):
        return "`long_messages` is parts or payload"
    for name, limit in (("binds", MOST_BINDS), ("binds_in_all", MOST_BINDS), ("window", MOST_WINDOW)):
        said = given.get(name, "1")
        if not (said.isascii() and said.isdigit() and 1 <= int(said) <= limit):
            return f"`{name}` is a number from 1 to {limit}"
    try:
        _hosts(account)
    except ValueError:
        return "`more_hosts` are host:port, separated by commas"
    return None


def receives(options: Mapping[str, str]) -> bool:
    """Return whether MOs and DLRs come by the binds of such an account."""
    return options.get("bind", "transceiver") != "transmitter"


class Shared:
    """The binds of this process, one set for each account: the gateways of both lanes share them."""

    def __init__(self) -> None:
        self._links: dict[str, Link] = {}
        self._database: Database | None = None
        self._keyed: Callable[[str], str] = _hash
        self._codes = False

    def serve(self, lane: Lane, database: Database, keyed: Callable[[str], str]) -> None:
        """Note a lane of this process, before its gateways open.

        `database`: of the leases, and of the names of MOs. `keyed`: makes a keyed hash, the same in each process.
        """
        self._database, self._keyed = database, keyed
        self._codes = self._codes or lane is Lane.TRANSACTIONAL
        for link in self._links.values():
            if link.lease is not None:
                link.lease.codes = self._codes

    def link(self, name: str, account: Account, log: Log) -> "Link":
        """Return the binds, opened by the first to ask. `log`: of the first."""
        if name not in self._links:
            names = Names(name, self._keyed, self._database)
            self._links[name] = Link(name, account, log, names, self._leased(name, account))
        self._links[name].binds.users += 1
        return self._links[name]

    def _leased(self, name: str, account: Account) -> Lease | None:
        if (in_all := account.options.get("binds_in_all")) is None or self._database is None:
            return None
        allowed = int(in_all)
        wants = int(account.options.get("binds", min(BINDS, allowed)))
        return Lease(self._database, name, allowed, min(wants, allowed), self._codes)


class Link:
    """The binds of an account with what comes by them, and what all its gateways learn of the SMSC."""

    def __init__(self, name: str, account: Account, log: Log, names: Names, lease: Lease | None = None) -> None:
        self.lease = lease
        self.upstream = Upstream(name, account.account, log, names)
        options = account.options
        window = int(options.get("window", WINDOW))
        body = pdu.bind(account.user, account.secret, options.get("system_type", ""), options.get("address_range", ""))
        kinds = KINDS[options.get("bind", "transceiver")]
        binds = lease.wants if lease is not None else int(options.get("binds", BINDS))
        self.binds = Binds(
            name,
            _hosts(account),
            [Login(kind, body) for kind in kinds * binds],
            window,
            self.upstream.deliver,
            self.upstream.proven,
            together=len(kinds),
            lease=lease,
        )
        self.references = itertools.count(random.randrange(256))  # noqa: S311 the last process's parts may be under way
        self.answer_s = 0.0  # of the last submits, on average

    async def close(self) -> None:
        """Close for one gateway; the last one unbinds, once all that was delivered is answered."""
        self.binds.users -= 1
        if self.binds.users == 0:
            await self.upstream.close()
            await self.binds.close()
            await self.upstream.end()


class SmppGateway:
    """A gateway over SMPP, for `submits` at once.

    The messages in flight fit the windows, so that no permit lapses in the wait for a place.
    """

    def __init__(
        self,
        name: str,
        account: Account,
        link: Link,
        *,
        timeout_s: float,
        submits: int,
        capabilities: Capabilities = capabilities,
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self.batch = max(1, link.binds.total // submits)
        self.timeout_s = timeout_s
        self._as_payload = account.options.get("long_messages") == "payload"
        self._link = link

    async def run(self, stop: asyncio.Event) -> None:
        """Hold the binds also while nothing is sent: MOs come by them."""
        self._link.binds.start()
        await stop.wait()

    async def submit(self, messages: Sequence[Submit]) -> Sequence[Result | SendError]:
        until = asyncio.get_running_loop().time() + self.timeout_s
        return await asyncio.gather(*(self._alone(message, until) for message in messages))

    async def look_up(self, reference: str, subject_id: str) -> Result | None:
        return None

    async def close(self) -> None:
        await self._link.close()

    async def _alone(self, m: Submit, until: float) -> Result | SendError:
        coding, parts = parts_of(m.text, next(self._link.references) % 256, as_payload=self._as_payload)
        lane = lane_of(m.category)
        try:
            session, places = await self._link.binds.place(len(parts), until, lane)
        except SendError as error:
            return error
        except TimeoutError:
            return Unreachable("no place in a window")
        sending = _Sending(session, places, self._made(m, coding, parts))
        try:
            if session.of_no_use.is_set():
                return Unreachable("the session ended")
            if uptime_s() > m.begin_by:
                return Late("a place in a session took longer than the permit lasts")
            left_s = until - asyncio.get_running_loop().time()
            rounds = -(-len(parts) // places)
            if rounds > 1 and rounds * self._link.answer_s * IN_TIME > left_s:
                return Unreachable("the window is too slow for a text of so many parts")
            return await self._sent(m, sending, until)
        finally:
            unanswered = [answer for answer in sending.begun if not answer.done()]
            session.give_back(places, unanswered, self._link.binds.assign)

    def _made(self, m: Submit, coding: int, parts: Sequence[bytes]) -> Sequence["partial[bytes]"]:
        return [
            partial(
                pdu.submit,
                to=m.to,
                sender=m.sender,
                coding=coding,
                part=part,
                headed=len(parts) > 1,
                as_payload=self._as_payload and len(part) > OCTETS[coding],
                deliver_by=m.deliver_by,
            )
            for part in parts
        ]

    async def _sent(self, m: Submit, sending: "_Sending", until: float) -> Result | SendError:
        started, answers_before = time.monotonic(), sending.session.answers
        try:
            async with asyncio.timeout_at(until):
                await sending.all_parts()
                took_s = (time.monotonic() - started) / sending.rounds
                self._link.answer_s += WEIGHT * (took_s - self._link.answer_s) if self._link.answer_s else took_s
                await sending.throttled_parts()
        except TimeoutError:
            silent_s = time.monotonic() - started
            if sending.session.answers == answers_before and silent_s > self.timeout_s / 2:
                sending.session.of_no_use.set()
        found = sending.answers
        if any(answer is not None and answer.status == NOT_BOUND for answer in found):
            sending.session.of_no_use.set()
        result = meaning(found, len(sending.parts))
        ids = [pdu.message_id(answer) for answer in found if answer is not None and not answer.status]
        self._link.upstream.submitted(m.reference, ids[:-1] if isinstance(result, Result) else ids)
        return result


class _Sending:
    """The parts of one text in a session, with `places` of its window. `begun`: every submit_sm written."""

    def __init__(self, session: Session, places: int, parts: Sequence["partial[bytes]"]) -> None:
        self.session = session
        self.begun: list[Answer] = []
        self.rounds = -(-len(parts) // places)
        self._places = places
        self.parts = parts
        self._latest: dict[int, Answer] = {}

    @property
    def answers(self) -> list[pdu.Pdu | None]:
        """Return the last answer about each part that was written, None for no answer."""
        return [answer.result() if answer.done() else None for _, answer in sorted(self._latest.items())]

    async def all_parts(self) -> None:
        """Write the parts, as many at once as there are places, and await the answers.

        A refused part ends the text, as does a throttled part before one is taken: the parts after it stay here.
        """
        self._write(range(self._places))
        for at in range(self._places, len(self.parts)):
            await asyncio.wait({self.begun[at - self._places]})
            answer = self.begun[at - self._places].result()
            taken = any(each is not None and not each.status for each in self.answers)
            if answer is None or (answer.status and not (taken and answer.status in THROTTLED)):
                break
            self._write([at])
        await asyncio.wait(self.begun)

    async def throttled_parts(self) -> None:
        """Write throttled parts again until they are taken, unless no part was taken at all."""
        pause_s = PART_PAUSE_S
        while True:
            answers = self.answers
            again = [at for at, answer in enumerate(answers) if answer is not None and answer.status in THROTTLED]
            taken = sum(answer is not None and not answer.status for answer in answers)
            if not again or not taken or taken + len(again) < len(self.parts) or self.session.of_no_use.is_set():
                return
            await asyncio.sleep(pause_s)
            pause_s *= 2
            for at in again:
                self._write([at])
                await asyncio.wait({self.begun[-1]})

    def _write(self, places: Sequence[int]) -> None:
        written = self.session.submit([self.parts[at] for at in places])
        self.begun += written
        self._latest |= zip(places, written, strict=True)


def meaning(answers: Sequence[pdu.Pdu | None], parts: int) -> Result | SendError:
    """Return the result of a text of so many parts from the last answer about each part that was written. Pure."""
    taken = [answer for answer in answers if answer is not None and not answer.status]
    if len(taken) == parts:
        return Result("accepted", pdu.message_id(taken[-1]), None)
    statuses = [answer.status for answer in answers if answer is not None and answer.status]
    if taken or None in answers or any(status in WHO_KNOWS for status in statuses):
        code = f"smpp_parts_{len(taken)}_of_{parts}" if taken else None
        return Unanswered("not all parts were answered, or some only were taken", code=code)
    refused = next((status for status in statuses if status not in THROTTLED), statuses[0])
    return _meaning(refused)


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
    return Refused(code)


def _hosts(account: Account) -> list[Host]:
    """Return the hosts in their order. Raise ValueError."""
    url = urlsplit(account.url or "")
    more = [each.strip() for each in account.options.get("more_hosts", "").split(",") if each.strip()]
    found = [urlsplit(f"{url.scheme}://{each}") for each in more]
    if any(not each.hostname for each in found):
        raise ValueError
    return [Host(each.hostname or "", each.port or PORT, url.scheme == "smpps") for each in (url, *found)]


def _hash(said: str) -> str:
    return hashlib.sha256(said.encode()).hexdigest()
