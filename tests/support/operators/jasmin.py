"""Jasmin's SMPP server (`smpp.twisted3`) as a process: `python -m tests.support.operators.jasmin PORT`.

The server shares no line with our client, so it reads what is on the wire. It prints what `smpp` prints, and obeys the
last two digits of the recipient as `smpp` does, and some of its own (from 91 on). It refuses a wrong password, and a
bind beyond MAX_BINDS. A line of JSON on its input is an MO, or a DLR where it names a message (`receipt`): Jasmin
delivers it by a bind that receives, again and again until that is acknowledged, and prints each answer. A line with an
`order` throttles every submit for `s` seconds, or unbinds every session.
"""

import itertools
import json
import os
import sys
import time
from typing import Any

from smpp.pdu.constants import addr_ton_name_map
from smpp.pdu.operations import DeliverSM
from smpp.pdu.pdu_types import (
    AddrNpi,
    AddrTon,
    CommandId,
    CommandStatus,
    DataCoding,
    DataCodingDefault,
    EsmClass,
    EsmClassGsmFeatures,
    EsmClassMode,
    EsmClassType,
    MessageState,
)
from smpp.twisted.config import SMPPServerConfig
from smpp.twisted.protocol import DataHandlerResponse, SMPPServerProtocol
from smpp.twisted.server import SMPPServerFactory
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer, reactor, stdio
from twisted.protocols.basic import LineReceiver

from tests.support.operators import smpp as operator

USER, PASSWORD, MAX_BINDS = "shop", "a-secret", 2
AGAIN_S = 0.2  # until what was not acknowledged is delivered again
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
        session.cancelOutboundTransactions(ConnectionError())  # of itself it waits for these answers


class Deliveries(LineReceiver):
    delimiter = b"\n"

    def __init__(self, sessions: Sessions, io: Any) -> None:
        self._sessions, self._io = sessions, io
        self.throttled_until = 0.0

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        told = json.loads(line)
        if told.get("order") == "throttle":
            self.throttled_until = time.monotonic() + told["s"]
        elif told.get("order") == "unbind":
            for session in list(self._sessions.getBoundConnections(USER) or ()):
                session.shutdown()
        else:
            self._deliver(told)

    def connectionLost(self, reason: Any = None) -> None:  # noqa: N802 the other end has gone
        self._io.callFromThread(self._io.stop)

    def _deliver(self, told: dict[str, Any]) -> None:
        binds = self._sessions.getBoundConnections(USER)
        session = binds.getNextBindingForDelivery() if binds else None
        if session is None:
            self._io.callLater(AGAIN_S, self._deliver, told)
            return

        def answered(said: Any) -> None:
            response = getattr(said, "response", None) or getattr(getattr(said, "value", None), "response", None)
            status = None if response is None else response.status.name
            _say(kind="delivered", name=told["name"], status=status)
            if status != "ESME_ROK":
                self._io.callLater(AGAIN_S, self._deliver, told)

        session.sendDataRequest(_delivery(told)).addBoth(answered)


def _delivery(told: dict[str, Any]) -> Any:
    receipt = told.get("receipt")
    kind = EsmClassType.SMSC_DELIVERY_RECEIPT if receipt else EsmClassType.DEFAULT
    features = [EsmClassGsmFeatures.UDHI_INDICATOR_SET] if told.get("headed") else []
    tlvs = {"receipted_message_id": receipt.encode(), "message_state": MessageState.DELIVERED} if receipt else {}
    return DeliverSM(
        source_addr=told["source"].encode(),
        source_addr_ton=AddrTon.INTERNATIONAL,
        source_addr_npi=AddrNpi.ISDN,
        destination_addr=b"36111",
        esm_class=EsmClass(EsmClassMode.DEFAULT, kind, features),
        data_coding=DataCoding(schemeData=DataCodingDefault[told.get("coding", "SMSC_DEFAULT_ALPHABET")]),
        short_message=bytes.fromhex(told.get("text", "")),
        **tlvs,
    )


def serve(port: int) -> None:
    io: Any = reactor
    names = itertools.count(1)
    first: list[int] = []
    late: list[Any] = []
    busy = {operator.BUSY_AT_THE_SECOND: 2, BUSY_AT_FIRST: 2}  # so many times

    def heard(system_id: str, session: Session, pdu: Any) -> Any:
        told = pdu.params
        to, text = told["destination_addr"].decode(), told["short_message"]
        if time.monotonic() < deliveries.throttled_until:
            _say(kind="throttled", to=to)
            return CommandStatus.ESME_RTHROTTLED
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
    sessions = Sessions(config, Portal())
    deliveries = Deliveries(sessions, io)
    io.listenTCP(port, sessions, interface="127.0.0.1")
    stdio.StandardIO(deliveries)  # type: ignore[no-untyped-call]
    _say(kind="up")
    io.run()


def _taken(name: str) -> Any:
    return DataHandlerResponse(status=CommandStatus.ESME_ROK, message_id=name)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
