"""What an SMSC delivers, as events of the operator's topics. Pure.

A DLR has its bit in esm_class (5.2.12), or names the message in a TLV; its content is in TLVs, or in the text of
appendix B. A person may write such a text, so the text alone makes no DLR. The time in the text has no zone, and is
left out. A part of an MO says so in a user data header (3GPP TS 23.040 9.2.3.24), or in TLVs.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import smpp34

from common.contracts.inbound import ReceiptState
from common.contracts.operator import MessageDelivered, MessagePart, ReceiptDelivered
from common.sms import charsets
from dispatch.gateways.by_smpp.pdu import INTERNATIONAL, MESSAGE_PAYLOAD, USER_DATA_HEADER

KIND, RECEIPT, INTERMEDIATE = 0x3C, 0x04, 0x20  # bits of esm_class
RECEIPTED_ID, MESSAGE_STATE, NETWORK_ERROR = 0x001E, 0x0427, 0x0423
SAR_REFERENCE, SAR_TOTAL, SAR_NUMBER = 0x020C, 0x020E, 0x020F
CONCATENATED, CONCATENATED_16_BITS = 0x00, 0x08  # elements of a user data header
STATES: Mapping[int, ReceiptState] = {  # 5.2.28
    1: "sent",
    2: "delivered",
    3: "expired",
    4: "failed",
    5: "failed",
    6: "sent",
    7: "unknown",
    8: "failed",
}
STATE_WORDS: Mapping[str, ReceiptState] = {  # appendix B
    "ENROUTE": "sent",
    "ACCEPTD": "sent",
    "DELIVRD": "delivered",
    "EXPIRED": "expired",
    "DELETED": "failed",
    "UNDELIV": "failed",
    "REJECTD": "failed",
    "UNKNOWN": "unknown",
}
NUL = "\0"  # of an SMSC that ends its texts so; no event with one can be read
ENDED_BADLY = ("failed", "expired", "unknown")
NO_ERROR = re.compile(r"0*")
_FIELD = re.compile(rb"\b(id|stat|err):\s*([^\s\0]+)", re.IGNORECASE)


class Receipt(NamedTuple):
    """A DLR. `message_id` is the SMSC's."""

    message_id: str
    state: ReceiptState
    code: str | None


def is_receipt(delivered: smpp34.DeliverSm) -> bool:
    kind = delivered.esm_class & KIND
    return kind in (RECEIPT, INTERMEDIATE) or RECEIPTED_ID in _tlvs(delivered)


def receipt_of(delivered: smpp34.DeliverSm) -> Receipt | None:
    """Return the DLR, or None where no message is named."""
    tlvs = _tlvs(delivered)
    said = {name.lower().decode(): value.decode("latin-1") for name, value in _FIELD.findall(_octets(delivered, tlvs))}
    name = tlvs.get(RECEIPTED_ID, b"").partition(b"\0")[0].decode("latin-1") or said.get("id", "")
    if not name:
        return None
    word = said.get("stat", "").upper()
    state = STATES.get(tlvs.get(MESSAGE_STATE, b"\0")[-1]) if tlvs.get(MESSAGE_STATE) else None
    state = state or STATE_WORDS.get(word, "unknown")
    code = said.get("err", "")
    if NO_ERROR.fullmatch(code) and len(tlvs.get(NETWORK_ERROR, b"")) == 3:
        code = str(int.from_bytes(tlvs[NETWORK_ERROR][1:], "big"))
    code = (word or "") if NO_ERROR.fullmatch(code) else code
    return Receipt(name, state, (code or None) if state in ENDED_BADLY else None)


def receipt_event(receipt: Receipt, reference: str | None) -> ReceiptDelivered:
    return ReceiptDelivered(message_id=receipt.message_id, state=receipt.state, code=receipt.code, reference=reference)


def message_event(delivered: smpp34.DeliverSm, message_id: str, repeats: str | None = None) -> MessageDelivered:
    """Return the MO, under a name of ours: an SMSC names none. `repeats`: the MO that this may be once more.

    Without a time: that of our clock would let an old START, delivered again, outrank a STOP.
    """
    tlvs = _tlvs(delivered)
    octets, part = _octets(delivered, tlvs), _sar(tlvs)
    if delivered.esm_class & USER_DATA_HEADER and octets:
        header, octets = octets[1 : 1 + octets[0]], octets[1 + octets[0] :]
        part = _concatenated(header) or part
    return MessageDelivered(
        message_id=message_id,
        sender=_number(delivered),
        recipient=delivered.destination_addr,
        text=(charsets.smpp(octets, delivered.data_coding) or "").replace(NUL, ""),
        part=part,
        repeats=repeats,
    )


def digest(delivered: smpp34.DeliverSm) -> bytes:
    """Return what two deliveries of one message have in common, and hardly two messages."""
    said = [delivered.source_addr, delivered.destination_addr, str(delivered.esm_class), str(delivered.data_coding)]
    tlvs = sorted((tlv.tag, tlv.value) for tlv in delivered.tlvs)
    return hashlib.sha256(repr((said, delivered.short_message, tlvs)).encode()).digest()


def _number(delivered: smpp34.DeliverSm) -> str:
    number = delivered.source_addr
    return f"+{number}" if delivered.source_addr_ton == INTERNATIONAL and number.isdigit() else number


def _tlvs(delivered: smpp34.DeliverSm) -> dict[int, bytes]:
    return {tlv.tag: tlv.value for tlv in delivered.tlvs}


def _octets(delivered: smpp34.DeliverSm, tlvs: Mapping[int, bytes]) -> bytes:
    return delivered.short_message or tlvs.get(MESSAGE_PAYLOAD, b"")


def _sar(tlvs: Mapping[int, bytes]) -> MessagePart | None:
    reference, total, number = (tlvs.get(tag, b"") for tag in (SAR_REFERENCE, SAR_TOTAL, SAR_NUMBER))
    if not (reference and total and number):
        return None
    return MessagePart(reference=f"sar-{reference.hex()}", number=number[-1], total=total[-1])


def _concatenated(header: bytes) -> MessagePart | None:
    at = 0
    while at + 2 <= len(header):
        element, value = header[at], header[at + 2 : at + 2 + header[at + 1]]
        if (element, len(value)) in ((CONCATENATED, 3), (CONCATENATED_16_BITS, 4)):
            return MessagePart(reference=value[:-2].hex(), number=value[-1], total=value[-2])
        at += 2 + header[at + 1]
    return None
