"""What every provider sends: one table of cases.

A case is a request as it comes and what it must be read as, or how it must be refused. Bodies are those of
tests/operators, where the sources are named; what a case changes in one is beside it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from inbound.providers import Callback, Kind, Message, Part, Receipt, Undocumented, Unreadable
from tests.operators import body

PERSON, CODE = "33639980001", "33639989999"
OURS = "0199c5a0-0000-8000-8000-000000000001"
JSON: Mapping[str, str] = {"content-type": "application/json"}

Expected = Message | Receipt


@dataclass(frozen=True)
class Case:
    """`fixture`: of tests/operators; a `.query` comes as a GET. `change`: what is replaced in it, each found."""

    label: str
    provider: str
    kind: Kind
    fixture: str
    expected: tuple[Expected, ...] | type[Exception] | tuple[str, str]
    change: Mapping[str, str] = field(default_factory=dict)
    came_to: Kind | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    raw: bytes | None = None


def callback(case: Case) -> Callback:
    raw = body(case.fixture) if case.raw is None else case.raw
    for old, new in case.change.items():
        assert old.encode() in raw, f"{case.label}: no {old}"
        raw = raw.replace(old.encode(), new.encode())
    target = f"/v1/callbacks/{case.provider}/main/{case.came_to or case.kind}"
    if case.fixture.endswith(".query"):
        return Callback(f"{target}?{raw.decode()}", case.headers, b"", method="GET")
    if case.fixture.endswith(".txt"):  # a whole request
        head, _, raw = raw.partition(b"\n\n")
        lines = [line.partition(": ") for line in head.decode().split("\n")[1:]]
        return Callback(target, {name.lower(): value for name, _, value in lines} | dict(case.headers), raw)
    given = case.headers or (JSON if case.fixture.endswith(".json") else {})
    return Callback(target + case.query, given, raw)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def mo(name: str | None, text: str, at: datetime | None, **more: Any) -> Message:
    fields: dict[str, Any] = {"sender": PERSON, "short_code": CODE, **more}
    return Message(provider_message_id=name, text=text, sent_at=at, **fields)


def dlr(name: str, state: Any, code: str | None = None, at: datetime | None = None, **more: Any) -> Receipt:
    return Receipt(name, more.pop("reference", None), state, code, at, **more)


BREVO = "brevo/receipt.json"
CM = "cm/receipt.template.json"
INFOBIP = "infobip/receipts.json"
OVH = "ovh/receipt.constructed.query"
SINCH = "sinch/receipt.json"
OCTOPUSH = "octopush/receipt.json"
SMSFACTOR = "smsfactor/receipt.json"
TELNYX = "telnyx/receipt-sent.json"
PLIVO = "plivo/receipt.form"
JASMIN = "jasmin/receipt.form"
KANNEL = "kannel/receipt.query"
BIRD = "messagebird/receipt-opted-out.query"
VONAGE = "vonage/receipt.json"
MESSAGES = "vonage_messages/receipt.constructed.json"

SINCH_ID, BIRD_ID, TELNYX_ID = (
    "01FC66621XXXXX119Z8PMV1QPQ",
    "b6aae1b5dfb2427a8f7ea6a717ba31a9",
    "40385f64-5717-4562-b3fc-2c963f66afa6",
)
PLIVO_ID = "83876bdb-2033-4876-bfaf-0ff8693705af"
PLIVO_TIMES = "&".join(
    f"{name}=2026-11-30+18%3A30%3A00.000000" for name in ("MessageTime", "QueuedTime", "SentTime", "DeliveryReportTime")
)
UUID = "aaaaaaaa-bbbb-4ccc-8ddd-0123456789ab"
SINCH_AT, INFOBIP_AT = utc(2019, 8, 24, 14, 15, 22), utc(2019, 11, 9, 16)
TELNYX_AT = datetime(2019, 1, 23, 18, 10, 2, 574000, UTC)
VONAGE_AT, BIRD_AT = utc(2020, 1, 1, 12), utc(2023, 7, 28, 17, 57, 12)
FACTOR_AT, NOON = utc(2018, 1, 16, 10, 55, 12), utc(2026, 3, 1, 12)


def sinch(label: str, status: str, state: str, code: str = "401", **more: Any) -> Case:
    expected = dlr(SINCH_ID, state, code, SINCH_AT, recipient=f"+{PERSON}", **more)
    return Case(label, "sinch", "receipts", SINCH, (expected,), {"Dispatched": status})


def infobip(
    label: str,
    group: int,
    name: str,
    state: str,
    code: str | None,
    error: str = "NO_ERROR",
    number: int = 5,
    **more: Any,
) -> Case:
    change = {
        '"groupId": 3': f'"groupId": {group}',
        '"id": 5': f'"id": {number}',
        "DELIVERED_TO_HANDSET": name,
        "NO_ERROR": error,
    }
    expected = dlr("MESSAGE-ID-123-xyz", state, code, INFOBIP_AT, **more)
    return Case(label, "infobip", "receipts", INFOBIP, (expected,), change)


def ovh_case(ptt: str, state: str, **more: Any) -> Case:
    code = None if state == "delivered" else ptt
    return Case(f"ptt {ptt}", "ovh", "receipts", OVH, (dlr("123456", state, code, **more),), {"ptt=4": f"ptt={ptt}"})


def brevo(status: str, state: str, code: str | None) -> Case:
    change = {'"msg_status": "sent"': f'"msg_status": "{status}"'}
    return Case(status, "brevo", "receipts", BREVO, (dlr("123", state, code, recipient=PERSON),), change)


def octopush(status: str, state: str) -> Case:
    code = None if status in ("ACK", "DELIVERED") else status
    expected = dlr("sms_0000000000000000000000", state, code, recipient=f"+{PERSON}")
    return Case(status, "octopush", "receipts", OCTOPUSH, (expected,), {"DELIVERED": status})


def smsfactor(status: int, state: str, **more: Any) -> Case:
    code = None if status in (1, 3) else str(status)
    expected = dlr("621277", state, code, FACTOR_AT, **more)
    return Case(
        f"status {status}", "smsfactor", "receipts", SMSFACTOR, (expected,), {'"status": 3': f'"status": {status}'}
    )


def telnyx(event: str, status: str, state: str, *errors: tuple[str, str], code: str | None = None, **more: Any) -> Case:
    listed = json.dumps([{"code": error, **({"title": title} if title else {})} for error, title in errors])
    change = {"message.sent": event, '"queued"': f'"{status}"', '"errors": []': f'"errors": {listed}'}
    expected = dlr(TELNYX_ID, state, code or (errors[0][0] if errors else None), TELNYX_AT, **more)
    return Case(f"{event} {status} {errors}", "telnyx", "receipts", TELNYX, (expected,), change)


def plivo(status: str, error: str, state: str) -> Case:
    change = {"Status=delivered": f"Status={status}", "ErrorCode=": f"ErrorCode={error}"}
    return Case(f"{status} {error}", "plivo", "receipts", PLIVO, (dlr(PLIVO_ID, state, error or None),), change)


def jasmin(status: str, state: str, code: str | None) -> Case:
    change = {"DELIVRD": status, "dlvrd=001": "dlvrd=000"}
    return Case(status, "jasmin", "receipts", JASMIN, (dlr("external1", state, code),), change)


def kannel(status: str, state: str, code: str | None) -> Case:
    expected = dlr("12345", state, code, reference="12345")
    return Case(f"status {status}", "kannel", "receipts", KANNEL, (expected,), {"status=4": f"status={status}"})


def messagebird(status: str, state: str) -> Case:
    change = {"status=delivery_failed&statusErrorCode=103": f"status={status}"}
    expected = dlr(BIRD_ID, state, None, BIRD_AT, recipient=PERSON)
    return Case(status, "messagebird", "receipts", BIRD, (expected,), change)


def vonage(status: str, error: str, state: str) -> Case:
    change = {'"status": "delivered"': f'"status": "{status}"', '"err-code": "0"': f'"err-code": "{error}"'}
    expected = dlr("0A0000001234567B", state, None if error == "0" else error, VONAGE_AT)
    return Case(f"{status} {error}", "vonage", "receipts", VONAGE, (expected,), change)


def messages(status: str, state: str, code: str = "1360", **more: Any) -> Case:
    expected = dlr(UUID, state, code, NOON, reference=OURS, **more)
    change = {'"rejected"': f'"{status}"', "1360": code}
    return Case(f"{status} {code}", "vonage-messages", "receipts", MESSAGES, (expected,), change)


VONAGE_PART = mo("0A0000000123ABCD1", "Hello world", VONAGE_AT, part=Part("1", 2, 3))
SINCH_MO = mo(
    SINCH_ID, "Hello world", utc(2024, 6, 6, 9, 20), sender=f"+{PERSON}", short_code=f"+{CODE}"
)  # when the person sent it, not when Sinch had it
INFOBIP_MO = mo("817790313235066447", "QUIZ Correct answer is Paris", datetime(2016, 10, 6, 9, 28, 39, 220000, UTC))
TELNYX_MO = mo(
    "7ee4241c-f127-47e5-9c34-3aac291f8058", "Hello, World!", TELNYX_AT, sender=f"+{PERSON}", short_code=f"+{CODE}"
)
OCTOPUSH_MO = mo(None, "some reply", None, sender=f"+{PERSON}", short_code="12345")
OCTOPUSH_STOP = mo(None, "stop", None, sender=f"+{PERSON}", short_code="", opted_out=True)
CM_MO = mo(None, "STOP", NOON, sender=f"00{PERSON}", short_code=f"00{CODE}")
KANNEL_AT = "2026-03-01 12:00:00"  # of a clock that nobody names
KANNEL_MO = mo("asdf-asdf", "Join", utc(2017, 5, 2, 14, 31, 49), sender=f"+{PERSON}", short_code="24453")
JASMIN_MO = mo("1001", "événement", None)
ESENDEX_MO = mo("{inbound-message-id}", "Arrêtez & STOP", None)
BREVO_MO = mo(None, "STOP", None, short_code="")
FACTOR_MO = mo(None, "Webhooks are awesome!", None, short_code="")
FACTOR_STOP = mo(None, "Stop SMS", utc(2024, 11, 21, 8, 42, 27), short_code="")
STANDARD_MO = mo("in-1", "STOP", utc(2026, 11, 24, 9), sender=f"+{PERSON}", short_code="36111")
SWEEGO_UID = "03-1c9e3539-d499-4699-ae5d-fa50e6e8af2a"
SWEEGO_STOP = mo(
    "02bdd4e1-2683-4e5d-8811-e16cd10f9b74", "STOP", None, sender=f"00{PERSON}", short_code="36047", opted_out=True
)
SIMULATOR_MO = mo("mo-1", "STOP", utc(2026, 11, 24, 9), sender=f"+{PERSON}", short_code="36111")
TWILIO_MO = mo("SM00000000000000000000000000000001", "Arrêtez 🙏", None, sender=f"+{PERSON}", short_code="36111")
MESSAGES_MO = mo(UUID, "Arrêtez", NOON)

CASES = [
    # Twilio (more in test_twilio) and the simulator (more in test_simulator)
    Case("an MO", "twilio", "messages", "twilio/mo.form", (TWILIO_MO,)),
    Case(
        "an opt-out of theirs",
        "twilio",
        "messages",
        "twilio/mo.form",
        (replace(TWILIO_MO, opted_out=True),),
        {"MessageSid=": "OptOutType=STOP&MessageSid="},
    ),
    Case(
        "an MMS",
        "twilio",
        "messages",
        "twilio/mo-mms.form",
        (mo("MM00000000000000000000000000000002", "", None, sender="+33639980002", short_code="36111"),),
    ),
    Case(
        "sent", "twilio", "receipts", "twilio/receipt-sent.form", (dlr("SM00000000000000000000000000000003", "sent"),)
    ),
    Case(
        "opted out",
        "twilio",
        "receipts",
        "twilio/receipt-opted-out.form",
        (dlr("SM00000000000000000000000000000003", "opted_out", "21610"),),
    ),
    Case(
        "blocked, by whom is not said",
        "twilio",
        "receipts",
        "twilio/receipt-opted-out.form",
        (dlr("SM00000000000000000000000000000003", "failed", "30004", blocked=True),),
        {"21610": "30004"},
    ),
    Case("an MO", "simulator", "messages", "simulator/mo.json", (SIMULATOR_MO,)),
    Case(
        "receipts",
        "simulator",
        "receipts",
        "simulator/receipts.json",
        (
            dlr("op-1", "sent", None, utc(2026, 11, 24, 9), reference=OURS),
            dlr("op-1", "delivered", None, utc(2026, 11, 24, 9, 0, 2), reference=OURS),
            dlr("op-2", "failed", "absent", utc(2026, 11, 24, 9, 0, 3), reference=OURS[:-1] + "2"),
        ),
    ),
    # Vonage
    Case("a part, JSON", "vonage", "messages", "vonage/mo-part.json", (VONAGE_PART,)),
    Case(
        "a part that counts wrong is a text of its own",
        "vonage",
        "messages",
        "vonage/mo-part.json",
        (replace(VONAGE_PART, part=None),),
        {'"concat-part": "2"': '"concat-part": "4"'},
    ),
    Case(
        "a part, JSON of numbers",
        "vonage",
        "messages",
        "vonage/mo-part.json",
        (VONAGE_PART,),
        {'"concat": "true"': '"concat": true', '"concat-part": "2"': '"concat-part": 2'},
    ),
    Case(
        "a binary MO has no text",
        "vonage",
        "messages",
        "vonage/mo-part.json",
        (replace(VONAGE_PART, text=""),),
        {'"type": "text"': '"type": "binary"'},
    ),
    Case("by GET", "vonage", "messages", "vonage/mo.query", (mo("external1", "Join", None, short_code="2020"),)),
    Case(
        "by POST form",
        "vonage",
        "messages",
        "vonage/mo.form",
        (mo("external1", "Join", None, short_code="2020"),),
        raw=body("vonage/mo.query"),
    ),
    Case("no sender", "vonage", "messages", "vonage/mo.query", ("msisdn", "missing"), {"msisdn=": "other="}),
    Case("no text", "vonage", "messages", "vonage/mo.query", ("text", "missing"), {"text=": "other="}),
    Case("delivered", "vonage", "receipts", VONAGE, (dlr("0A0000001234567B", "delivered", None, VONAGE_AT),)),
    Case(
        "opted out",
        "vonage",
        "receipts",
        "vonage/receipt-opted-out.json",
        (dlr("aaaaaaaa-bbbb-cccc-dddd-0123456789ab", "opted_out", "9", VONAGE_AT),),
    ),
    vonage("rejected", "9", "opted_out"),
    vonage("failed", "1", "failed"),
    vonage("accepted", "0", "sent"),
    vonage("buffered", "0", "sent"),
    vonage("expired", "3", "expired"),
    vonage("unknown", "99", "unknown"),
    vonage("delivered", "9", "delivered"),
    # Vonage Messages
    Case("an MO", "vonage-messages", "messages", "vonage_messages/mo.constructed.json", (MESSAGES_MO,)),
    Case(
        "a picture has no text",
        "vonage-messages",
        "messages",
        "vonage_messages/mo.constructed.json",
        (replace(MESSAGES_MO, text=""),),
        {'"message_type": "text"': '"message_type": "image"', '"text": "Arrêtez"': '"image": {"url": "x"}'},
    ),
    Case(
        "not an SMS",
        "vonage-messages",
        "messages",
        "vonage_messages/mo.constructed.json",
        ("channel", "not_sms"),
        {'"channel": "sms"': '"channel": "whatsapp"'},
    ),
    messages("rejected", "failed"),
    messages("submitted", "sent"),
    messages("delivered", "delivered"),
    messages("read", "delivered"),
    messages("undeliverable", "failed"),
    messages("tomorrow", "unknown"),
    messages("rejected", "opted_out", "1240"),
    messages("undeliverable", "opted_out", "1240"),
    messages("delivered", "delivered", "1240"),
    messages("rejected", "failed", "1050", blocked=True),
    Case(
        "the code is the title",
        "vonage-messages",
        "receipts",
        MESSAGES,
        (dlr(UUID, "opted_out", "1240", NOON, reference=OURS),),
        {"#1360": "#rejected", '"title": "1360"': '"title": 1240'},
    ),
    Case(
        "an error in an error",
        "vonage-messages",
        "receipts",
        MESSAGES,
        (dlr(UUID, "opted_out", "1240", NOON, reference=OURS),),
        {'"error": {': '"error": {"error": {', "1360": "1240", '1a1ddf"': '1a1ddf"}'},
    ),
    # Sinch
    Case("an MO", "sinch", "messages", "sinch/mo.json", (SINCH_MO,)),
    Case("an MO at the other URL", "sinch", "messages", "sinch/mo.json", (SINCH_MO,), came_to="receipts"),
    Case(
        "a binary MO has no text",
        "sinch",
        "messages",
        "sinch/mo.json",
        (replace(SINCH_MO, text=""),),
        {"mo_text": "mo_binary"},
    ),
    Case(
        "the text of an MMS",
        "sinch",
        "messages",
        "sinch/mo.json",
        (replace(SINCH_MO, text="Re: soldes\nSTOP"),),
        {"mo_text": "mo_media", '"Hello world"': '{"subject": "Re: soldes", "message": "STOP", "media": []}'},
        came_to="receipts",
    ),
    Case(
        "an MMS whose body is a text",
        "sinch",
        "messages",
        "sinch/mo.json",
        (replace(SINCH_MO, text="STOP"),),
        {"mo_text": "mo_media", "Hello world": "STOP"},
    ),
    Case(
        "an MMS without a body",
        "sinch",
        "messages",
        "sinch/mo.json",
        (replace(SINCH_MO, text=""),),
        {"mo_text": "mo_media", '"Hello world"': "null"},
    ),
    Case(
        "an MMS without text",
        "sinch",
        "messages",
        "sinch/mo.json",
        (replace(SINCH_MO, text=""),),
        {"mo_text": "mo_media", '"Hello world"': '{"subject": null, "media": [{"url": "x"}]}'},
    ),
    sinch("dispatched", "Dispatched", "sent"),
    sinch("queued", "Queued", "queued"),
    sinch("delivered", "Delivered", "delivered"),
    sinch("aborted", "Aborted", "failed"),
    sinch("rejected", "Rejected", "failed"),
    sinch("failed", "Failed", "failed"),
    sinch("cancelled", "Cancelled", "failed"),
    sinch("expired", "Expired", "expired"),
    sinch("deleted is invalid or opted out", "Deleted", "failed", "Deleted", blocked=True),
    sinch("a status of tomorrow", "Tomorrow", "unknown"),
    Case("of a batch", "sinch", "receipts", SINCH, (), {"recipient_delivery_report_sms": "delivery_report_sms"}),
    Case(
        "of a type of tomorrow",
        "sinch",
        "receipts",
        SINCH,
        ("type", "not_known"),
        {"recipient_delivery_report_sms": "x"},
    ),
    # Infobip
    Case("an MO keeps its keyword", "infobip", "messages", "infobip/mo.json", (INFOBIP_MO,)),
    Case("no results", "infobip", "messages", "infobip/mo.json", ("results", "missing"), {'"results"': '"other"'}),
    Case("no sender", "infobip", "messages", "infobip/mo.json", ("results.0.from", "missing"), {'"from"': '"other"'}),
    Case("delivered", "infobip", "receipts", INFOBIP, (dlr("MESSAGE-ID-123-xyz", "delivered", None, INFOBIP_AT),)),
    infobip("pending", 1, "PENDING_ENROUTE", "sent", None),
    infobip(
        "undeliverable", 2, "UNDELIVERABLE_NOT_DELIVERED", "failed", "EC_ABSENT_SUBSCRIBER", "EC_ABSENT_SUBSCRIBER"
    ),
    infobip("expired", 4, "EXPIRED_EXPIRED", "expired", "EXPIRED_EXPIRED"),
    infobip("rejected", 5, "REJECTED_SOURCE", "failed", "REJECTED_SOURCE"),
    infobip("with the operator, not yet with the person", 3, "DELIVERED_TO_OPERATOR", "sent", None, number=2),
    infobip("blacklisted, once", 5, "REJECTED_DESTINATION", "opted_out", "REJECTED_DESTINATION", number=14),
    infobip("no number", 5, "REJECTED_DESTINATION", "failed", "REJECTED_DESTINATION", number=52),
    infobip("either", 5, "REJECTED_DESTINATION", "failed", "REJECTED_DESTINATION", number=0, blocked=True),
    infobip(
        "blacklisted",
        5,
        "REJECTED_DESTINATION_BLOCKLISTED",
        "opted_out",
        "REJECTED_DESTINATION_BLOCKLISTED",
        number=14,
    ),
    *(
        infobip(error, 2, "UNDELIVERABLE_REJECTED_OPERATOR", "opted_out", error, error, number=4)
        for error in (
            "EC_BLACKLISTED_DESTINATIONADDRESS",
            "EC_DEST_ADDRESS_BLACKLISTED",
            "EC_CONTENT_BLOCKED",
            "EC_SC_BLOCKED_BY_END_USER",
        )
    ),
    infobip("on the list of those not to disturb", 5, "REJECTED_DND", "opted_out", "REJECTED_DND"),
    infobip("a group of tomorrow", 9, "NEW", "unknown", "NEW"),
    # MessageBird
    Case(
        "two texts under one name are both the text",
        "messagebird",
        "messages",
        "messagebird/mo.form",
        (mo("3b53c137369242138120d6b0b2122607", "Test again\nTest 3", utc(2023, 7, 27, 0, 49, 29)),),
    ),
    Case(
        "a short code",
        "messagebird",
        "messages",
        "messagebird/mo-shortcode.form",
        (mo("3b53c137369242138120d6b0b2122607", "Test again", utc(2023, 7, 27, 0, 49, 29), short_code="51515"),),
    ),
    Case(
        "no text",
        "messagebird",
        "messages",
        "messagebird/mo-shortcode.form",
        ("body", "missing"),
        {"message=": "other="},
    ),
    Case("opted out", "messagebird", "receipts", BIRD, (dlr(BIRD_ID, "opted_out", "103", BIRD_AT, recipient=PERSON),)),
    Case(
        "delivered",
        "messagebird",
        "receipts",
        "messagebird/receipt.constructed.query",
        (dlr(BIRD_ID, "delivered", None, BIRD_AT, recipient=PERSON),),
    ),
    messagebird("scheduled", "queued"),
    messagebird("sent", "sent"),
    messagebird("buffered", "sent"),
    messagebird("expired", "expired"),
    messagebird("delivery_failed", "failed"),
    messagebird("tomorrow", "unknown"),
    # OVHcloud
    ovh_case("4", "delivered"),
    ovh_case("3", "sent"),
    ovh_case("5", "failed"),
    ovh_case("8", "expired"),
    ovh_case("1", "sent"),
    ovh_case("26", "sent"),
    ovh_case("20", "failed"),
    ovh_case("28", "failed"),
    ovh_case("23", "failed", blocked=True),
    Case("as it comes", "ovh", "receipts", OVH, (dlr("123456", "delivered"),)),
    Case("no ptt", "ovh", "receipts", OVH, (dlr("123456", "failed"),), {"ptt=4": "ptt=", "tion=1": "tion=2"}),
    Case(
        "nothing known",
        "ovh",
        "receipts",
        OVH,
        (dlr("123456", "unknown", "99"),),
        {"ptt=4": "ptt=99", "tion=1": "tion=x"},
    ),
    Case("an MO", "ovh", "messages", OVH, Undocumented),
    # Brevo
    Case("a reply", "brevo", "messages", "brevo/mo.constructed.json", (BREVO_MO,)),
    Case("a reply at the other URL", "brevo", "messages", "brevo/mo.constructed.json", (BREVO_MO,), came_to="receipts"),
    Case(
        "a reply without text",
        "brevo",
        "messages",
        "brevo/mo.constructed.json",
        ("reply", "missing"),
        {'"reply"': '"x"'},
    ),
    Case(
        "unsubscribed",
        "brevo",
        "receipts",
        "brevo/receipt-unsubscribe.constructed.json",
        (dlr("123", "opted_out", "unsubscribe", recipient=PERSON),),
        came_to="messages",
    ),
    Case("as it comes", "brevo", "receipts", BREVO, (dlr("123", "sent", recipient=PERSON),)),
    brevo("accepted", "sent", None),
    brevo("delivered", "delivered", None),
    brevo("softBounce", "failed", "softBounce"),
    brevo("hard_bounce", "failed", "hard_bounce"),
    brevo("rejected", "failed", "rejected"),
    brevo("skip", "failed", "skip"),
    brevo("tomorrow", "unknown", "tomorrow"),
    # CM.com
    Case("an MO", "cm", "messages", "cm/mo.constructed.json", (CM_MO,)),
    Case(
        "plain texts",
        "cm",
        "messages",
        "cm/mo.json",
        (CM_MO,),
        raw=json.dumps(
            {"from": f"00{PERSON}", "to": f"00{CODE}", "body": "STOP", "timeUtc": "2026-03-01T12:00:00"}
        ).encode(),
    ),
    Case("no sender", "cm", "messages", "cm/mo.constructed.json", ("from", "missing"), {'"from"': '"other"'}),
    Case("failed", "cm", "receipts", CM, (dlr(OURS, "failed", "5", reference=OURS),)),
    Case("delivered", "cm", "receipts", CM, (dlr(OURS, "delivered", reference=OURS),), {'"code":"3"': '"code":2'}),
    Case("accepted", "cm", "receipts", CM, (dlr(OURS, "sent", "5", reference=OURS),), {'"code":"3"': '"code":"0"'}),
    Case("no status", "cm", "receipts", CM, ("messages.msg.status", "missing"), {'"status"': '"other"'}),
    Case("XML", "cm", "receipts", "cm/receipt.xml", Unreadable, raw=b"<messages/>"),
    # Plivo
    Case("an MO", "plivo", "messages", "plivo/mo.form", (mo("7a242edc-2f57-11e7-98c9-06ab0bf64327", "Msg", None),)),
    Case(
        "an opt-out of theirs",
        "plivo",
        "messages",
        "plivo/mo.form",
        (mo("7a242edc-2f57-11e7-98c9-06ab0bf64327", "Msg", None, opted_out=True),),
        {"Type=sms": "Type=sms&MessageIntent=optout"},
    ),
    Case(
        "an opt-in of theirs is a text",
        "plivo",
        "messages",
        "plivo/mo.form",
        (mo("7a242edc-2f57-11e7-98c9-06ab0bf64327", "Msg", None),),
        {"Type=sms": "Type=sms&MessageIntent=optin"},
    ),
    Case(
        "the text of an MMS",
        "plivo",
        "messages",
        "plivo/mo.form",
        (mo("7a242edc-2f57-11e7-98c9-06ab0bf64327", "STOP", None),),
        {"Type=sms": "Type=mms", "Text=Msg": "Body=STOP&MediaCount=0"},
    ),
    Case(
        "an MMS without text",
        "plivo",
        "messages",
        "plivo/mo.form",
        (mo("7a242edc-2f57-11e7-98c9-06ab0bf64327", "", None),),
        {"Type=sms": "Type=mms", "Text=Msg": "MediaCount=1"},
    ),
    Case("no text", "plivo", "messages", "plivo/mo.form", ("Text", "missing"), {"Text=": "other="}),
    Case("delivered", "plivo", "receipts", PLIVO, (dlr(PLIVO_ID, "delivered"),)),
    Case(
        "its times without a zone and its parent are left out",
        "plivo",
        "receipts",
        PLIVO,
        (dlr(PLIVO_ID, "delivered"),),
        {f"ParentMessageUUID={PLIVO_ID}": f"ParentMessageUUID={UUID}&{PLIVO_TIMES}"},
    ),
    plivo("queued", "", "queued"),
    plivo("sent", "", "sent"),
    plivo("undelivered", "50", "failed"),
    plivo("rejected", "30", "failed"),
    plivo("failed", "200", "opted_out"),
    plivo("tomorrow", "", "unknown"),
    # Telnyx
    Case("an MO", "telnyx", "messages", "telnyx/mo.json", (TELNYX_MO,)),
    Case("an MO at the other URL", "telnyx", "messages", "telnyx/mo.json", (TELNYX_MO,), came_to="receipts"),
    Case(
        "an MMS has no text",
        "telnyx",
        "messages",
        "telnyx/mo.json",
        (replace(TELNYX_MO, text=""),),
        {'"text": "Hello, World!"': '"text": null'},
    ),
    Case(
        "an opt-out of theirs",
        "telnyx",
        "messages",
        "telnyx/mo.json",
        (replace(TELNYX_MO, opted_out=True),),
        {'"parts": 1': '"autoresponse_type": "STOP", "parts": 1'},
    ),
    Case(
        "an opt-in of theirs is a text",
        "telnyx",
        "messages",
        "telnyx/mo.json",
        (TELNYX_MO,),
        {'"parts": 1': '"autoresponse_type": "START", "parts": 1'},
    ),
    Case("nobody", "telnyx", "messages", "telnyx/mo.json", ("data.payload.from", "missing"), {'"from"': '"x"'}),
    Case("sent", "telnyx", "receipts", TELNYX, (dlr(TELNYX_ID, "sent", None, TELNYX_AT),)),
    telnyx("message.sent", "delivered", "sent"),
    telnyx("message.finalized", "delivered", "delivered"),
    telnyx("message.finalized", "sending_failed", "failed", ("40001", "")),
    telnyx("message.finalized", "delivery_failed", "failed", ("40008", "Undeliverable")),
    telnyx("message.finalized", "sending_failed", "opted_out", ("40300", "Blocked due to STOP message")),
    telnyx(
        "message.finalized",
        "sending_failed",
        "opted_out",
        ("40008", "Undeliverable"),
        ("40300", "Blocked due to STOP message"),
        code="40300",
    ),
    telnyx("message.finalized", "sending_failed", "failed", ("40300", "Not assigned to a messaging profile")),
    telnyx("message.finalized", "sending_failed", "failed", ("40300", ""), blocked=True),
    telnyx("message.finalized", "delivery_unconfirmed", "unknown"),
    Case("another event", "telnyx", "receipts", TELNYX, (), {"message.sent": "10dlc.brand.update"}),
    # Esendex
    Case("an MO", "esendex", "messages", "esendex/mo.xml", (ESENDEX_MO,)),
    Case(
        "an MO in a namespace",
        "esendex",
        "messages",
        "esendex/mo.xml",
        (ESENDEX_MO,),
        {"<InboundMessage>": '<InboundMessage xmlns="https://api.example/ns">'},
        came_to="receipts",
    ),
    Case(
        "delivered",
        "esendex",
        "receipts",
        "esendex/receipt-delivered.xml",
        (dlr("{outbound-message-id}", "delivered"),),
    ),
    Case("failed", "esendex", "receipts", "esendex/receipt-failed.xml", (dlr("{outbound-message-id}", "failed"),)),
    Case(
        "another notification",
        "esendex",
        "receipts",
        "esendex/receipt-failed.xml",
        Undocumented,
        {"MessageFailed": "SubscriptionEvent"},
    ),
    # Octopush
    Case("an MO", "octopush", "messages", "octopush/mo.json", (OCTOPUSH_MO,)),
    Case("an opt-out of theirs", "octopush", "messages", "octopush/mo-stop.json", (OCTOPUSH_STOP,), came_to="receipts"),
    Case(
        "an MO by the other name of its date",
        "octopush",
        "messages",
        "octopush/mo.json",
        (OCTOPUSH_MO,),
        {"reception_date": "answer_date"},
        came_to="receipts",
    ),
    octopush("DELIVERED", "delivered"),
    octopush("ACK", "sent"),
    octopush("NOT_DELIVERED", "failed"),
    octopush("BAD_DESTINATION", "failed"),
    octopush("NOT_ALLOWED", "failed"),
    octopush("BLACKLISTED_NUMBER", "opted_out"),
    octopush("UNKNOWN_DELIVERY", "unknown"),
    octopush("UNDEFINED", "unknown"),
    # SMSFactor
    Case("an MO without a zone", "smsfactor", "messages", "smsfactor/mo.json", (FACTOR_MO,)),
    Case("STOP among the MOs", "smsfactor", "messages", "smsfactor/mo-stop.json", (FACTOR_STOP,)),
    Case(
        "the STOP webhook",
        "smsfactor",
        "messages",
        "smsfactor/mo-stop.json",
        (replace(FACTOR_STOP, opted_out=True),),
        query="?webhook=stop",
    ),
    smsfactor(0, "unknown"),
    smsfactor(1, "sent"),
    smsfactor(2, "failed"),
    smsfactor(3, "delivered"),
    smsfactor(4, "failed", blocked=True),
    smsfactor(5, "failed"),
    smsfactor(11, "failed"),
    smsfactor(12, "expired"),
    # Kannel
    Case("by get-url", "kannel", "messages", "kannel/mo.query", (KANNEL_MO,)),
    Case(
        "in UTF-16",
        "kannel",
        "messages",
        "kannel/mo.query",
        (replace(KANNEL_MO, text="é€"),),
        {"message=Join": "message=%00%E9%20%AC&charset=UTF-16BE"},
    ),
    Case(
        "in Latin-1 that nobody named",
        "kannel",
        "messages",
        "kannel/mo.query",
        (replace(KANNEL_MO, text="Arrêt"),),
        {"message=Join": "message=Arr%EAt"},
    ),
    Case(
        "by post-url",
        "kannel",
        "messages",
        "kannel/mo-headers.constructed.txt",
        (mo(None, "STOP", None, sender=f"+{PERSON}", short_code="36111", written_at=KANNEL_AT),),
    ),
    Case(
        "by post-url in the GSM alphabet",
        "kannel",
        "messages",
        "kannel/mo-headers.constructed.txt",
        (mo(None, "@é", None, sender=f"+{PERSON}", short_code="36111", written_at=KANNEL_AT),),
        {"charset=UTF-8": "charset=gsm", "\nSTOP": "\n\x00\x05"},
    ),
    Case("no text", "kannel", "messages", "kannel/mo.query", ("message", "missing"), {"message=": "other="}),
    kannel("1", "delivered", None),
    kannel("2", "failed", "2"),
    kannel("4", "sent", None),
    kannel("8", "sent", None),
    kannel("16", "failed", "16"),
    kannel("31", "unknown", "31"),
    # Jasmin
    Case("in the GSM alphabet", "jasmin", "messages", "jasmin/mo.form", (JASMIN_MO,)),
    Case("its coding an octet", "jasmin", "messages", "jasmin/mo.form", (JASMIN_MO,), {"ing=0": "ing=%00"}),
    Case("in small letters", "jasmin", "messages", "jasmin/mo.form", (JASMIN_MO,), {"From=": "from=", "To=": "to="}),
    Case(
        "in UCS-2",
        "jasmin",
        "messages",
        "jasmin/mo.form",
        (replace(JASMIN_MO, text="à 🙏"),),
        {"%05v%05nement&coding=0": "%00%E0%00%20%D8%3D%DE%4F&coding=8"},
    ),
    Case(
        "in Latin-1",
        "jasmin",
        "messages",
        "jasmin/mo.form",
        (replace(JASMIN_MO, text="Arrêt"),),
        {"%05v%05nement&coding=0": "Arr%EAt&coding=3"},
    ),
    Case(
        "binary has no text", "jasmin", "messages", "jasmin/mo.form", (replace(JASMIN_MO, text=""),), {"ing=0": "ing=4"}
    ),
    Case(
        "a coding that is none", "jasmin", "messages", "jasmin/mo.form", ("coding", "not_a_number"), {"ing=0": "ing=-1"}
    ),
    Case("as it comes", "jasmin", "receipts", JASMIN, (dlr("external1", "delivered"),)),
    jasmin("ACCEPTD", "sent", None),
    jasmin("UNDELIV", "failed", "UNDELIV"),
    jasmin("REJECTD", "failed", "REJECTD"),
    jasmin("DELETED", "failed", "DELETED"),
    jasmin("EXPIRED", "expired", "EXPIRED"),
    jasmin("UNKNOWN", "unknown", "UNKNOWN"),
    jasmin("ESME_ROK", "sent", None),
    jasmin("ESME_RINVDSTADR", "failed", "ESME_RINVDSTADR"),
    Case(
        "older, delivered",
        "jasmin",
        "receipts",
        JASMIN,
        (dlr("external1", "delivered"),),
        {"&message_status=DELIVRD": ""},
    ),
    Case(
        "older, failed",
        "jasmin",
        "receipts",
        JASMIN,
        (dlr("external1", "failed", "1"),),
        {"dlvrd=001&message_status=DELIVRD": "err=1"},
    ),
    # Standard Webhooks
    Case("an MO", "standard", "messages", "standard/mo.json", (STANDARD_MO,), came_to="receipts"),
    Case("no sender", "standard", "messages", "standard/mo.json", ("data.from", "missing"), {'"from"': '"other"'}),
    Case(
        "a receipt",
        "standard",
        "receipts",
        "standard/receipt.json",
        (dlr("out-1", "opted_out", "42", utc(2026, 11, 24, 9), reference=OURS),),
        came_to="messages",
    ),
    Case(
        "no status",
        "standard",
        "receipts",
        "standard/receipt.json",
        ("data.status", "not_a_status"),
        {"opted_out": "lost"},
    ),
    Case(
        "another event",
        "standard",
        "receipts",
        "standard/receipt.json",
        ("type", "not_known"),
        {"message.receipt": "x"},
    ),
    # Sweego: one URL for all
    Case("a STOP without its text", "sweego", "messages", "sweego/stop.json", (SWEEGO_STOP,), came_to="receipts"),
    Case("no event's id", "sweego", "messages", "sweego/stop.json", ("event_id", "missing"), {'"event_id"': '"other"'}),
    Case("no STOP", "sweego", "messages", "sweego/stop.json", ("event_type", "not_known"), {"sms_stop": "sms_mo"}),
    Case("sent", "sweego", "receipts", "sweego/sent.json", (dlr(SWEEGO_UID, "sent", reference=OURS),)),
    Case(
        "undelivered",
        "sweego",
        "receipts",
        "sweego/undelivered.json",
        (dlr(SWEEGO_UID, "failed", "sms_undelivered", reference=OURS),),
        came_to="messages",
    ),
    Case("of no campaign", "sweego", "receipts", "sweego/sent.json", (dlr(SWEEGO_UID, "sent"),), {f'"{OURS}"': "null"}),
    Case("a click", "sweego", "receipts", "sweego/clicked.json", ()),
    Case(
        "another event",
        "sweego",
        "receipts",
        "sweego/sent.json",
        ("event_type", "not_known"),
        {"sms_sent": "sms_read"},
    ),
]
