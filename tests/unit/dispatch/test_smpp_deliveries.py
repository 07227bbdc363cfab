"""What an SMSC delivers, as it is on the wire: MOs in every coding and in parts, DLRs as texts and as TLVs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.operator import MessageDelivered, MessagePart
from dispatch.gateways.by_smpp import deliveries, pdu
from dispatch.gateways.by_smpp.deliveries import Receipt
from tests.support.operators.wire import delivered

APPENDIX_B = b"id:%s sub:001 dlvrd:001 submit date:2601061200 done date:2601061201 stat:%s err:%s text:Bonjour"


def _mo(body: bytes) -> MessageDelivered:
    found = pdu.delivery(pdu.Pdu(pdu.DELIVER_SM, 0, 1, body))
    assert not deliveries.is_receipt(found)
    return deliveries.message_event(found, "mo-1")


def _dlr(body: bytes) -> Receipt | None:
    found = pdu.delivery(pdu.Pdu(pdu.DELIVER_SM, 0, 1, body))
    assert deliveries.is_receipt(found)
    return deliveries.receipt_of(found)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (delivered(b"STOP"), "STOP"),
        (delivered(b"\x05v\x05nement \x1b\x65"), "événement €"),
        (delivered("Arrêtez ça".encode("latin-1"), coding=3), "Arrêtez ça"),
        (delivered("STOP œuf 🥚".encode("utf-16-be"), coding=8), "STOP œuf 🥚"),
        (delivered(b"STOP", coding=1), "STOP"),
        (delivered(b"STOP\0", coding=3), "STOP"),
        (delivered("STOP\0".encode("utf-16-be"), coding=8), "STOP"),
        (delivered(b"", tlvs={0x0424: "arrêt".encode("utf-16-be")}, coding=8), "arrêt"),
        (delivered(b"\x00\x01\x02", coding=4), ""),
        (delivered(b"STOP", tlvs={0x1401: b"of the vendor"}), "STOP"),
    ],
)
def test_an_mo_is_read_in_each_coding(body: bytes, text: str) -> None:
    found = _mo(body)
    assert (found.sender, found.recipient, found.text, found.part) == ("+33639980001", "36111", text, None)
    assert found.sent_at is None, "no clock of ours: an old START, delivered again, would outrank a STOP"


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (delivered(b"\x05\x00\x03\x2a\x02\x01STOP", esm_class=0x40), MessagePart(reference="2a", number=1, total=2)),
        (
            delivered(b"\x06\x08\x04\x01\x2a\x03\x02STOP", esm_class=0x40),
            MessagePart(reference="012a", number=2, total=3),
        ),
        (
            delivered(b"\x0b\x05\x04\x0b\x84\x23\xf0\x00\x03\x07\x02\x02STOP", esm_class=0x40),
            MessagePart(reference="07", number=2, total=2),
        ),
        (
            delivered(b"STOP", tlvs={0x020C: b"\x01\x2a", 0x020E: b"\x02", 0x020F: b"\x01"}),
            MessagePart(reference="sar-012a", number=1, total=2),
        ),
        (
            delivered(b"", tlvs={0x0424: b"\x05\x00\x03\x2a\x02\x01STOP"}, esm_class=0x40),
            MessagePart(reference="2a", number=1, total=2),
        ),
        (delivered(b"\x03\x24\x01\x01STOP", esm_class=0x40), None),
    ],
)
def test_a_part_of_an_mo_says_its_place(body: bytes, part: MessagePart | None) -> None:
    assert (_mo(body).part, _mo(body).text) == (part, "STOP")


@pytest.mark.parametrize(
    ("body", "receipt"),
    [
        (delivered(APPENDIX_B % (b"7a-1", b"DELIVRD", b"000"), esm_class=4), Receipt("7a-1", "delivered", None)),
        (delivered(APPENDIX_B % (b"7", b"UNDELIV", b"069"), esm_class=4), Receipt("7", "failed", "069")),
        (delivered(APPENDIX_B % (b"7", b"EXPIRED", b"000"), esm_class=4), Receipt("7", "expired", "EXPIRED")),
        (delivered(APPENDIX_B % (b"7", b"ACCEPTD", b"000"), esm_class=4), Receipt("7", "sent", None)),
        (delivered(b"ID:7 Stat:REJECTD Err:8", esm_class=4), Receipt("7", "failed", "8")),
        (delivered(b"", esm_class=4, tlvs={0x001E: b"7a\0", 0x0427: b"\x02"}), Receipt("7a", "delivered", None)),
        (delivered(b"", tlvs={0x001E: b"7a", 0x0427: b"\x05", 0x0423: b"\x03\x00\x45"}), Receipt("7a", "failed", "69")),
        (
            delivered(APPENDIX_B % (b"99", b"DELIVRD", b"000"), esm_class=4, tlvs={0x001E: b"63\0", 0x0427: b"\x08"}),
            Receipt("63", "failed", "DELIVRD"),
        ),
        (delivered(b"stat:NOVEL id:7", esm_class=4), Receipt("7", "unknown", "NOVEL")),
        (delivered(b"whatever", esm_class=4), None),
    ],
)
def test_a_dlr_is_read_from_its_text_and_from_its_tlvs(body: bytes, receipt: Receipt | None) -> None:
    assert _dlr(body) == receipt


def test_a_person_cannot_write_a_dlr() -> None:
    assert _mo(delivered(APPENDIX_B % (b"7", b"DELIVRD", b"000"))).text.startswith("id:7")


def test_a_delivery_that_comes_again_is_known_and_another_is_not() -> None:
    bodies = [delivered(), delivered(b"STOP "), delivered(source=b"33639980002"), delivered(to=b"36112")]
    digests = [deliveries.digest(pdu.delivery(pdu.Pdu(5, 0, n, body))) for n, body in enumerate(bodies)]
    assert len(set(digests)) == len(bodies)
    assert digests[0] == deliveries.digest(pdu.delivery(pdu.Pdu(5, 0, 99, delivered())))


@given(st.binary(max_size=300), st.binary(max_size=40), st.integers(0, 255), st.integers(0, 255))
def test_no_octets_of_an_smsc_end_the_reading(raw: bytes, tlvs: bytes, esm_class: int, coding: int) -> None:
    for body in (raw, delivered(raw[:254], esm_class=esm_class, coding=coding) + tlvs):
        try:
            found = pdu.delivery(pdu.Pdu(pdu.DELIVER_SM, 0, 1, body))
        except pdu.Malformed:
            continue
        if deliveries.is_receipt(found):
            deliveries.receipt_of(found)
        else:
            deliveries.message_event(found, "mo-1")
