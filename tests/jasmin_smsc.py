"""The SMPP server of Jasmin (`smpp.twisted3`), in a process of its own: `python -m tests.jasmin_smsc PORT`. It shares
no line with the client we use: what it reads is what is on the wire. It prints each `submit_sm` as a line of JSON,
names what it takes, and refuses a wrong password, and a bind more than MAX_BINDS."""

import itertools
import json
import sys
from typing import Any

from smpp.pdu.pdu_types import CommandStatus
from smpp.twisted.config import SMPPServerConfig
from smpp.twisted.protocol import DataHandlerResponse
from smpp.twisted.server import SMPPServerFactory
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer, reactor

USER, PASSWORD, MAX_BINDS = "shop", "a-secret", 2
THROTTLED, BAD_SOURCE = "33639980002", "33639980003"
REFUSALS = {THROTTLED: CommandStatus.ESME_RTHROTTLED, BAD_SOURCE: CommandStatus.ESME_RINVSRCADR}


class Portal:
    """Who may bind."""

    def login(self, credentials: Any, mind: object, interface: object) -> Any:
        if (credentials.username, credentials.password) == (USER, PASSWORD):
            return defer.succeed((interface, credentials.username, lambda: None))
        return defer.fail(UnauthorizedLogin())


def serve(port: int) -> None:
    names = itertools.count(1)

    def taken(system_id: str, session: Any, pdu: Any) -> Any:
        told = pdu.params
        to = told["destination_addr"].decode()
        fact = {
            "kind": "submit",
            "to": to,
            "source": told["source_addr"].decode(),
            "text": told["short_message"].hex(),
            "payload": (told.get("message_payload") or b"").hex(),
            "coding": str(told["data_coding"].schemeData),
            "headed": "UDHI_INDICATOR_SET" in str(told["esm_class"].gsmFeatures),
            "receipt": "NO_SMSC_DELIVERY_RECEIPT" not in str(told["registered_delivery"].receipt),
        }
        sys.stdout.write(json.dumps(fact) + "\n")
        sys.stdout.flush()
        if to in REFUSALS:
            return REFUSALS[to]
        return DataHandlerResponse(status=CommandStatus.ESME_ROK, message_id=f"jasmin-{next(names)}")

    config = SMPPServerConfig(systems={USER: {"max_bindings": MAX_BINDS}}, msgHandler=taken)
    io: Any = reactor
    io.listenTCP(port, SMPPServerFactory(config, Portal()), interface="127.0.0.1")
    sys.stdout.write(json.dumps({"kind": "up"}) + "\n")
    sys.stdout.flush()
    io.run()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
