"""Every provider against what it sends: the table of tests/operators/cases.py, one harness."""

import pytest

from inbound.providers import (
    PROVIDERS,
    UNDOCUMENTED,
    Account,
    Callback,
    Capabilities,
    Kind,
    Receipt,
    Unreadable,
    WrongField,
    ambiguous,
    capabilities,
    ovh,
)
from tests.operators import FOLDER
from tests.operators.cases import CASES, NOON, PERSON, Case, callback, mo

IDS = [f"{case.provider}: {case.kind}, {case.label}" for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_callback_is_read_or_refused_as_documented(case: Case) -> None:
    provider, request = PROVIDERS[case.provider], callback(case)
    parse = provider.parse_messages if case.kind == "messages" else provider.parse_receipts

    match case.expected:
        case type() as refusal:
            with pytest.raises(refusal):
                parse(request)
        case (str(name), str(reason)):
            with pytest.raises(WrongField) as wrong:
                parse(request)
            assert (wrong.value.field, wrong.value.reason) == (name, reason)
        case expected:
            assert provider.kind_of(request, case.came_to or case.kind) == case.kind
            assert tuple(parse(request)) == expected


def test_every_body_we_have_is_in_a_case() -> None:
    bodies = {
        str(path.relative_to(FOLDER))
        for path in FOLDER.glob("*/*")
        if path.is_file() and path.suffix != ".pyc" and "signature-vectors" not in path.name
    }

    assert bodies - {case.fixture for case in CASES} == set()


def test_every_provider_has_messages_and_receipts_in_the_table() -> None:
    assert {(case.provider, case.kind) for case in CASES} == {
        (name, kind) for name in PROVIDERS for kind in ("messages", "receipts")
    }


TWIML = b'<?xml version="1.0" encoding="UTF-8"?><Response/>'
ANSWERS: list[tuple[str, Kind, int, str | None, bytes]] = [  # DOMAIN 3.1
    ("twilio", "messages", 200, "text/xml", TWIML),
    ("twilio", "receipts", 204, None, b""),
    ("vonage", "messages", 204, None, b""),
    ("vonage", "receipts", 204, None, b""),
    ("vonage-messages", "messages", 204, None, b""),
    ("sinch", "messages", 200, None, b""),
    ("infobip", "receipts", 200, None, b""),
    ("messagebird", "messages", 200, "text/plain", b"OK"),
    ("messagebird", "receipts", 200, "text/plain", b"OK"),
    ("ovh", "receipts", 200, "text/plain", b"OK"),
    ("brevo", "receipts", 200, None, b""),
    ("cm", "messages", 200, None, b""),
    ("cm", "receipts", 200, None, b""),
    ("plivo", "messages", 200, None, b""),
    ("telnyx", "messages", 200, None, b""),
    ("esendex", "messages", 200, None, b""),
    ("octopush", "messages", 200, None, b""),
    ("octopush", "receipts", 200, None, b""),
    ("smsfactor", "messages", 200, None, b""),
    ("kannel", "messages", 200, None, b""),
    ("jasmin", "messages", 200, "text/plain", b"ACK/Jasmin"),
    ("jasmin", "receipts", 200, "text/plain", b"ACK/Jasmin"),
    ("standard", "messages", 204, None, b""),
    ("sweego", "messages", 200, None, b""),
    ("simulator", "messages", 200, "application/json", b'{"status":"ok"}'),
]


@pytest.mark.parametrize(("name", "kind", "status", "media_type", "content"), ANSWERS)
def test_each_hears_what_it_expects(name: str, kind: Kind, status: int, media_type: str | None, content: bytes) -> None:
    answer = PROVIDERS[name].answer(kind)

    assert (answer.status, answer.media_type, answer.body) == (status, media_type, content)


def test_every_provider_has_an_answer_in_the_table() -> None:
    assert {name for name, *_ in ANSWERS} == set(PROVIDERS)


def test_who_says_how_long_it_waits_is_known_for_it() -> None:
    hurried = {name: provider.answer_within_s for name, provider in PROVIDERS.items()}

    assert {name: limit for name, limit in hurried.items() if limit < 15} == {"octopush": 1.0, "telnyx": 2.0}


def test_what_is_ambiguous_is_a_failure_that_blocks_and_no_opt_out() -> None:
    receipts = [
        r for case in CASES if isinstance(case.expected, tuple) for r in case.expected if isinstance(r, Receipt)
    ]
    blocking = [receipt for receipt in receipts if ambiguous(receipt)]

    assert sorted(receipt.code or "" for receipt in blocking) == [
        "1050",
        "23",
        "30004",
        "4",
        "40300",
        "Deleted",
        "REJECTED_DESTINATION",
    ]
    assert {receipt.state for receipt in blocking} == {"failed"}


def test_a_number_or_a_text_is_in_no_representation() -> None:
    everything = [repr(callback(case)) + repr(case.expected) for case in CASES if isinstance(case.expected, tuple)]

    assert not [text for text in everything if "3998000" in text or "Arrêt" in text]


def test_what_nobody_documents_is_no_provider_and_says_where_the_gap_is() -> None:
    assert set(UNDOCUMENTED) == {"bird", "smsmode"}
    assert not set(UNDOCUMENTED) & set(PROVIDERS)


def test_a_polled_mo_is_read() -> None:
    polled = ovh.polled(
        {"id": 7, "sender": f"+{PERSON}", "message": "STOP", "creationDatetime": "2026-03-01T13:00:00+01:00", "tag": ""}
    )

    assert polled == mo("7", "STOP", NOON, sender=f"+{PERSON}", short_code="")


def test_an_account_may_do_otherwise_than_its_provider() -> None:
    assert capabilities(Account("octopush", "main")).adds_stop_clause
    assert not capabilities(Account("octopush", "main", capabilities=Capabilities())).adds_stop_clause
    assert {name for name, provider in PROVIDERS.items() if provider.capabilities.signs} == {
        name for name, provider in PROVIDERS.items() if provider.signing == "always"
    }


DTD = b'<!DOCTYPE InboundMessage [<!ENTITY a "STOP">]><InboundMessage><MessageText>&a;</MessageText></InboundMessage>'


@pytest.mark.parametrize(
    "raw",
    [
        DTD,
        DTD.replace(b'"STOP"', b'SYSTEM "file:///etc/hostname"'),
        b'<!DOCTYPE x SYSTEM "http://example.org/x.dtd"><x/>',
        b"\xff\xfe" + DTD.decode().encode("utf-16-le"),
        b"<InboundMessage>",
        b"",
        b"\x00",
    ],
)
def test_xml_with_a_document_type_or_none_at_all_is_unreadable(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        PROVIDERS["esendex"].parse_messages(Callback("/", {}, raw))
