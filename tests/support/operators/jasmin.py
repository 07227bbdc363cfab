"""Jasmin's SMPP server (`smpp.twisted3`) as a process: `python -m tests.support.operators.jasmin PORT`.

The server shares no line with our client, so it reads what is on the wire. It prints what `smpp` prints, and obeys the
last two digits of the recipient as `smpp` does, and some of its own (from 91 on). It refuses a wrong password, and a
bind beyond MAX_BINDS.
"""

import itertools
import json
import os
import sys
from typing import Any

from smpp.pdu.constants import addr_ton_name_map
from smpp.pdu.pdu_types import CommandId, CommandStatus
from smpp.twisted.config import SMPPServerConfig
from smpp.twisted.protocol import DataHandlerResponse, SMPPServerProtocol
from smpp.twisted.server import SMPPServerFactory
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer, reactor

from tests.support.operators import smpp as operator

USER, PASSWORD, MAX_BINDS = "shop", "a-secret", 2
BUSY_AT_FIRST, UNBINDS = 91, 92  # throttled twice; taken, and then the session is ended from here
REFUSALS = {
    operator.THROTTLED: CommandStatus.ESME_RTHROTTLED,
    operator.BAD_SOURCE: CommandStatus.ESME_RINVSRCADR,
    operator.BAD_DESTINATION: CommandStatus.ESME_RINVDSTADR,
    operator.SYSTEM_ERROR: CommandStatus.ESME_RSYSERR,
}


def _say(**fact: Any) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


class Portal:
    """Who may bind."""

    def login(self, credentials: Any, mind: object, interface: object) -> Any:
        if (credentials.username, credentials.password) == (USER, PASSWORD):
            return defer.succeed((interface, credentials.username, lambda: None))
        return defer.fail(UnauthorizedLogin())


class Session(SMPPServerProtocol):  # type: ignore[misc]  # of no known type
    numbers = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        self.number = next(self.numbers)

    def onPDURequest_unbind(self, asked: Any) -> None:  # noqa: N802 its name
        _say(kind="unbind", session=self.number)
        super().onPDURequest_unbind(asked)


class Sessions(SMPPServerFactory):  # type: ignore[misc]
    protocol = Session

    def addBoundConnection(self, session: Session) -> None:  # noqa: N802
        super().addBoundConnection(session)
        _say(kind="bind", system_id=session.system_id, receives=session.bind_type != CommandId.bind_transmitter)

    def removeConnection(self, session: Session) -> None:  # noqa: N802
        super().removeConnection(session)
        _say(kind="gone", session=session.number)


def serve(port: int) -> None:
    io: Any = reactor
    names = itertools.count(1)
    first: list[int] = []
    late: list[Any] = []
    busy = {operator.BUSY_AT_THE_SECOND: 2, BUSY_AT_FIRST: 2}  # so many times

    def heard(system_id: str, session: Session, pdu: Any) -> Any:
        told = pdu.params
        to, text = told["destination_addr"].decode(), told["short_message"]
        headed = "UDHI_INDICATOR_SET" in str(told["esm_class"].gsmFeatures)
        _say(
            kind="submit",
            session=session.number,
            to=to,
            source=told["source_addr"].decode(),
            source_ton=addr_ton_name_map[told["source_addr_ton"].name],
            esm_class=0x40 if headed else 0,
            data_coding={"SMSC_DEFAULT_ALPHABET": 0, "UCS2": 8}[told["data_coding"].schemeData.name],
            receipt="NO_SMSC_DELIVERY_RECEIPT" not in str(told["registered_delivery"].receipt),
            text=text.hex(),
            payload=(told.get("message_payload") or b"").hex(),
        )
        first.append(session.number)
        while late and session.number != first[0]:
            late.pop().callback(_taken("late"))
        return answer(session, int(to[-2:]), second=headed and text[5] == 2)

    def answer(session: Session, wanted: int, *, second: bool) -> Any:
        if wanted in REFUSALS:
            return REFUSALS[wanted]
        if wanted == operator.NOT_BOUND_AT_FIRST and session.number == first[0]:
            return CommandStatus.ESME_RINVBNDSTS
        if wanted == operator.SILENT:
            return defer.Deferred()
        if wanted == operator.ANSWERED_LATE:
            late.append(defer.Deferred())
            return late[-1]
        if wanted == operator.DIES:
            os._exit(1)
        if second and wanted == operator.HALF:
            return CommandStatus.ESME_RINVDSTADR
        if busy.get(wanted) and (second or wanted == BUSY_AT_FIRST):
            busy[wanted] -= 1
            return CommandStatus.ESME_RTHROTTLED
        if wanted == UNBINDS:
            io.callLater(0, session.shutdown)
        return _taken(f"smsc-{next(names)}")

    config = SMPPServerConfig(systems={USER: {"max_bindings": MAX_BINDS}}, msgHandler=heard)
    io.listenTCP(port, Sessions(config, Portal()), interface="127.0.0.1")
    _say(kind="up")
    io.run()


def _taken(name: str) -> Any:
    return DataHandlerResponse(status=CommandStatus.ESME_ROK, message_id=name)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
