"""The PDUs of SMPP 3.4 as octets (sections 4 and 5). Pure.

`smpp34` encodes and decodes the PDUs that hold a message; the others are a header and some C strings.
"""

import struct
from datetime import UTC, datetime
from typing import NamedTuple

import smpp34

SUBMIT_SM, DELIVER_SM, UNBIND, ENQUIRE_LINK = 0x04, 0x05, 0x06, 0x15
BIND_RECEIVER, BIND_TRANSMITTER, BIND_TRANSCEIVER = 0x01, 0x02, 0x09
ALERT_NOTIFICATION, OUTBIND = 0x102, 0x0B  # requests without a response
RESPONSE = 0x80000000  # bit of a command id
GENERIC_NACK = RESPONSE

OK, INVALID_COMMAND, TEMPORARY_ERROR = 0x00, 0x03, 0x64  # the last: ESME_RX_T_APPN, deliver again later
VERSION = 0x34
HEADER = struct.Struct(">4I")
MOST_BYTES = 128 * 1024  # of a PDU: a message_payload has 64 KiB at most
LAST_NUMBER = 0x7FFFFFFF

ALPHANUMERIC, INTERNATIONAL, ISDN = 5, 1, 1  # types of number, numbering plan
USER_DATA_HEADER = 0x40  # esm_class
MESSAGE_PAYLOAD = 0x0424
INSTANT = "%y%m%d%H%M%S000+"  # tenths of a second, and quarter hours ahead of UTC


class Pdu(NamedTuple):
    """A PDU as received. `number` is its sequence number."""

    command: int
    status: int
    number: int
    body: bytes

    def __repr__(self) -> str:  # omits numbers and texts
        return f"Pdu({self.command:#010x}, {self.status:#x}, {self.number})"


class Malformed(ValueError):
    """Octets that are no PDU of SMPP 3.4."""


def body_length(header: bytes) -> int:
    """Return the length of the body. Raise Malformed: the next PDU cannot be found."""
    (length,) = struct.unpack_from(">I", header)
    if not HEADER.size <= length <= MOST_BYTES:
        raise Malformed("the length of a PDU is impossible")
    return int(length) - HEADER.size


def received(header: bytes, body: bytes) -> Pdu:
    _, command, status, number = HEADER.unpack(header)
    return Pdu(command, status, number, body)


def written(command: int, number: int, body: bytes = b"", status: int = OK) -> bytes:
    return HEADER.pack(HEADER.size + len(body), command, status, number) + body


def bind(system_id: str, password: str, system_type: str, address_range: str) -> bytes:
    """Return the body of a bind; the lengths are the caller's to check (4.1.1)."""
    strings = [each.encode("ascii") + b"\0" for each in (system_id, password, system_type)]
    return b"".join(strings) + bytes((VERSION, 0, 0)) + address_range.encode("ascii") + b"\0"


def submit(
    number: int,
    *,
    to: str,
    sender: str,
    coding: int,
    part: bytes,
    headed: bool,
    as_payload: bool,
    deliver_by: datetime | None,
) -> bytes:
    """Return a submit_sm that asks for a DLR. `headed`: the part begins with a user data header.

    `deliver_by` becomes the validity period, an instant in UTC (7.1.1.1).
    """
    pdu = smpp34.SubmitSm(
        sender,
        to.removeprefix("+"),
        b"" if as_payload else part,
        source_addr_ton=ALPHANUMERIC,
        dest_addr_ton=INTERNATIONAL,
        dest_addr_npi=ISDN,
        esm_class=USER_DATA_HEADER if headed else 0,
        validity_period=deliver_by.astimezone(UTC).strftime(INSTANT) if deliver_by else "",
        registered_delivery=1,
        data_coding=coding,
        tlvs=[smpp34.Tlv(MESSAGE_PAYLOAD, part)] if as_payload else [],
        sequence_number=number,
    )
    return pdu.encode()


def message_id(answer: Pdu) -> str | None:
    """Return the id in a submit_sm_resp, None where the SMSC gave none."""
    return answer.body.partition(b"\0")[0].decode("ascii", "replace") or None


def delivery(pdu: Pdu) -> smpp34.DeliverSm:
    """Return the message of a deliver_sm. Raise Malformed."""
    try:
        found = smpp34.decode(written(DELIVER_SM, pdu.number, pdu.body))
    except smpp34.SmppError as error:
        raise Malformed(str(error)) from None
    if not isinstance(found, smpp34.DeliverSm):
        raise Malformed("no deliver_sm")
    return found
