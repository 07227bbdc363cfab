"""The examples of docs/operators as they are on the wire, made by the code that writes and reads them.

A page has `<!-- wire: NAME -->` before each. `python -m tests.contract.wire` (`make schemas`) writes the blocks anew.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec
import smpp34

from common.contracts import Event, Topic, operator_submits, operator_topics
from common.contracts.operator import MessageDelivered, MessageSubmitted, ReceiptDelivered
from common.kafka.broker import cloud_event_headers, encode
from dispatch.gateways.by_smpp import pdu
from dispatch.gateways.by_smpp.texts import parts_of
from inbound.providers import Callback
from tests.contract.golden import EXAMPLES
from tests.contract.schemas import ROOT
from tests.operators import FOLDER
from tests.operators.signing import standard

PAGES = ROOT / "docs" / "operators"
BLOCK = re.compile(r"(?<=<!-- wire: )(?P<name>[a-z-]+)(?P<before> -->\n```\w*\n)(?P<text>.*?)(?=```)", re.DOTALL)
AT = datetime(2026, 1, 6, 8, 30, 5, tzinfo=UTC)
SECRET = "an-example-of-32-bytes-for-docs!"
MESSAGES, RECEIPTS = operator_topics("orange")
SUBMITS = operator_submits("orange")
LONG = "Notre boutique ferme à 19 h. " * 6 + "STOP au 36111"


def example(name: str, event: type[Event]) -> Event:
    return msgspec.json.decode(EXAMPLES[f"{event.type}/{name}"].read_bytes(), type=event)


MO, DLR = example("stop", MessageDelivered), example("delivered", ReceiptDelivered)
SUBMIT = example("marketing", MessageSubmitted)
SAID = {"ce_specversion": "1.0", "ce_source": "/orange/smsc-1", "content-type": "application/json"}
STRUCTURED = {"content-type": "application/cloudevents+json"}
ENVELOPE = {
    "specversion": "1.0",
    "id": "5f0c1a52",
    "source": "/orange/smsc-1",
    "type": MO.type,
    "datacontenttype": "application/json",
    "data": msgspec.to_builtins(MO),
}

Record = tuple[str, Mapping[str, str], bytes]  # key, headers, value
OPERATORS: Mapping[str, tuple[Topic, Event, Record]] = {
    "kafka-mo-binary": (MESSAGES, MO, (MO.key, SAID | {"ce_id": "5f0c1a52", "ce_type": MO.type}, encode(MO))),
    "kafka-mo-structured": (MESSAGES, MO, (MO.key, STRUCTURED, json.dumps(ENVELOPE).encode())),
    "kafka-mo-bare": (MESSAGES, MO, (MO.key, {}, encode(MO))),
    "kafka-dlr-binary": (
        RECEIPTS,
        DLR,
        (DLR.key, SAID | {"ce_id": "5f0c1a53", "ce_type": DLR.type}, encode(DLR)),
    ),
}
OURS: Mapping[str, Record] = {
    "kafka-submit": (
        SUBMIT.key,
        {
            name: value.decode()
            for name, value in cloud_event_headers(
                SUBMIT.type,
                UUID("0b6f3c0e-6a53-4a1e-9d0b-8c6f0a1b2c3d"),
                "dispatch",
                AT,
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            )
        },
        encode(SUBMIT),
    ),
}


def callbacks() -> Mapping[str, Callback]:
    """Return the signed requests of an operator with the format `standard`."""
    path = "/v1/callbacks/standard/orange/messages"
    bodies = {"webhook-mo": "mo.json", "webhook-dlr": "receipt.json"}
    return {
        name: standard(
            SECRET, (FOLDER / "standard" / file).read_bytes().strip(), AT, f"{file.partition('.')[0]}-1", path
        )
        for name, file in bodies.items()
    }


def deliver(text: bytes, number: int, esm_class: int = 0) -> bytes:
    """Return a deliver_sm of an SMSC."""
    ton = pdu.INTERNATIONAL
    made = smpp34.DeliverSm(
        "33639980001", "36111", text, source_addr_ton=ton, esm_class=esm_class, sequence_number=number
    )
    return bytes(made.encode())


ENDS = datetime(2026, 1, 6, 19, 0, tzinfo=UTC)


def pdus() -> Mapping[str, bytes]:
    """Return each PDU by its name."""
    coding, parts = parts_of(LONG, 0x2A)
    said = {"to": "+33639980001", "sender": "MAISONLUNE"}
    short_coding, [short] = parts_of("Offre du jour. STOP au 36111", 0)
    dlr = b"id:7c01 sub:001 dlvrd:001 submit date:2601060930 done date:2601060931 stat:DELIVRD err:000 text:"
    return {
        "smpp-bind": pdu.written(pdu.BIND_TRANSCEIVER, 1, pdu.bind("placet", "secret08", "", "")),
        "smpp-submit": pdu.submit(
            2, **said, coding=short_coding, part=short, headed=False, as_payload=False, deliver_by=ENDS
        ),
        "smpp-part": pdu.submit(
            3, **said, coding=coding, part=parts[0], headed=True, as_payload=False, deliver_by=None
        ),
        "smpp-mo": deliver(b"STOP", 71),
        "smpp-dlr": deliver(dlr, 72, esm_class=4),
        "smpp-kept": pdu.written(pdu.RESPONSE | pdu.DELIVER_SM, 71, b"\0"),
        "smpp-again": pdu.written(pdu.RESPONSE | pdu.DELIVER_SM, 71, b"\0", pdu.TEMPORARY_ERROR),
    }


def acls() -> str:
    """Return the ACLs of an operator, and of the services on its topics."""
    told: list[str] = []

    def add(who: str, operations: str, *on: str) -> None:
        allowed = " ".join(f"--operation {each}" for each in operations.split())
        told.extend(f"{line}" for line in (f"$acls User:{who} {allowed} {each}" for each in on))

    ours = [f"--topic {topic.name}" for topic in (MESSAGES, RECEIPTS)]
    dead = [f"--topic {topic.dead_letters}" for topic in (MESSAGES, RECEIPTS)]
    submits = [f"--topic {name}" for name in (SUBMITS.name, SUBMITS.dead_letters)]
    told.append("# the operator")
    add("orange", "Write Describe", *ours)
    add("orange", "Read Describe", submits[0])
    add("orange", "Read", "--group orange. --resource-pattern-type prefixed")
    told.append("# inbound-svc")
    add("inbound", "Read Describe DescribeConfigs Create", *ours)
    add("inbound", "Write Describe DescribeConfigs Create", *dead)
    add("inbound", "Read", "--group inbound. --resource-pattern-type prefixed")
    told.append("# dispatch-svc, where messages leave by this operator")
    add("dispatch", "Write Describe DescribeConfigs Create", *submits)
    return "\n".join(['acls="kafka-acls.sh --bootstrap-server $BOOTSTRAP --add --allow-principal"', *told]) + "\n"


def blocks() -> dict[str, str]:
    """Return the text of each example, by name."""
    found = {name: record(each) for name, each in OURS.items()}
    found |= {name: record(each) for name, (*_, each) in OPERATORS.items()}
    found |= {name: request(each) for name, each in callbacks().items()}
    return found | {name: dump(each) for name, each in pdus().items()} | {"kafka-acls": acls()}


def record(made: Record) -> str:
    key, headers, value = made
    lines = [f"{name}: {said}" for name, said in headers.items()]
    said = [("key", [key]), ("headers", lines), ("value", [value.decode()])]
    return "".join(
        f"{label if not place else '':9}{line}\n" for label, lines in said for place, line in enumerate(lines)
    )


def request(made: Callback) -> str:
    headers = {"host": "sms.example.com", "content-type": "application/json", **made.headers}
    head = [f"POST {made.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\n".join([*head, f"content-length: {len(made.body)}", "", made.body.decode()]) + "\n"


def dump(octets: bytes) -> str:
    """Return lines of sixteen octets, in hexadecimal and as ASCII. Colons: spaces would make telephone numbers."""
    lines = []
    for at in range(0, len(octets), 16):
        row = octets[at : at + 16]
        text = "".join(chr(each) if 32 <= each < 127 else "." for each in row)
        lines.append(f"{at:04x}  {row.hex(':'):47}  {text}\n")
    return "".join(lines)


def pages() -> Iterator[Path]:
    yield from sorted(PAGES.glob("*.md"))


def examples_of(page: str) -> dict[str, str]:
    return {found["name"]: found["text"] for found in BLOCK.finditer(page)}


def renewed(page: str) -> str:
    made = blocks()
    return BLOCK.sub(lambda found: found["name"] + found["before"] + made[found["name"]], page)


if __name__ == "__main__":
    for path in pages():
        path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
