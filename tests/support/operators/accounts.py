"""Accounts and exchanges of every HTTP gateway, for the tests that all of them share.

The shapes are those of DOMAIN 4.1 and 4.3 and of the documentation that each module names; words and ids are our own,
numbers fictional. An exchange is what a provider answers to one message, and what that means.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from common.contracts.campaign import Category
from dispatch.gateways import (
    Account,
    Misconfigured,
    NotNow,
    Refused,
    SendError,
    Submit,
    Throttled,
    ThrottledUntil,
    Unanswered,
    Unreachable,
)


def submit(
    n: int,
    text: str = "Offre du jour. STOP au 36111",
    category: Category = "marketing",
    begin_by: float = math.inf,
    deliver_by: datetime | None = None,
) -> Submit:
    return Submit(
        reference=str(UUID(int=0x01A21522C89F8DE0A0EE000000000000 + n)),
        subject_id=f"t1-{n:032x}",
        to="+3363998" + f"{n:04d}",
        sender="MAISONLUNE",
        short_code="36111",
        category=category,
        text=text,
        begin_by=begin_by,
        deliver_by=deliver_by,
    )


@dataclass(frozen=True)
class Case:
    """One provider's account, how it accepts a message, and what the request for `submit(1)` must be."""

    account: Account
    accepts: Callable[[Submit], object]
    accepted_as: Callable[[Submit], str]  # the id in the ledger, which its receipts bear (see inbound's module)
    path: str
    body: dict[str, Any] | str  # JSON, a form, or a text
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def at(self, url: str) -> Account:
        return replace(self.account, url=url)

    def accepted(self, message: Submit) -> bytes:
        return http(self.status, self.accepts(message))


def http(status: int, body: object, headers: str = "") -> bytes:
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return b"HTTP/1.1 %d Said\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers.encode(), len(raw), raw)


REFERENCE = submit(1).reference
TEXT = submit(1).text
CALLBACK = "https://sms.example.com/v1/callbacks/main/receipts"

ACCOUNTS: dict[str, Case] = {
    "standard": Case(
        Account("standard", secret="a-token"),
        lambda m: {"results": [{"reference": m.reference, "id": "st-1", "status": "accepted"}]},
        lambda m: "st-1",
        "/v1/submits",
        {
            "messages": [
                {
                    "reference": REFERENCE,
                    "to": "+33639980001",
                    "from": "MAISONLUNE",
                    "short_code": "36111",
                    "category": "marketing",
                    "text": TEXT,
                    "deliver_by": None,
                }
            ]
        },
        headers={"authorization": "Bearer a-token"},
    ),
    "simulator": Case(
        Account("simulator", secret="a-token"),
        lambda m: {"results": [{"reference": m.reference, "id": "sim-1", "status": "accepted"}]},
        lambda m: "sim-1",
        "/v1/submits",
        {
            "messages": [
                {
                    "reference": REFERENCE,
                    "to": "+33639980001",
                    "from": "MAISONLUNE",
                    "short_code": "36111",
                    "category": "marketing",
                    "text": TEXT,
                    "deliver_by": None,
                }
            ]
        },
        headers={"authorization": "Bearer a-token"},
    ),
    "twilio": Case(
        Account("twilio", user="AC01", secret="a-token", callback_url=CALLBACK),
        lambda m: {"sid": "SM0a", "status": "queued", "to": m.to, "error_code": None},
        lambda m: "SM0a",
        "/2010-04-01/Accounts/AC01/Messages.json",
        {"To": "+33639980001", "From": "MAISONLUNE", "Body": TEXT, "StatusCallback": CALLBACK},
        status=201,
        headers={"authorization": "Basic QUMwMTphLXRva2Vu"},
    ),
    "vonage": Case(
        Account("vonage", user="a-key", secret="a-secret", callback_url=CALLBACK),
        lambda m: {"message-count": "1", "messages": [{"to": "33", "message-id": "0C01", "status": "0"}]},
        lambda m: "0C01",
        "/sms/json",
        {
            "api_key": "a-key",
            "api_secret": "a-secret",
            "from": "MAISONLUNE",
            "to": "33639980001",
            "text": TEXT,
            "type": "text",
            "client-ref": REFERENCE,
            "status-report-req": "1",
            "callback": CALLBACK,
        },
    ),
    "sinch": Case(
        Account("sinch", user="plan-1", secret="a-token", callback_url=CALLBACK),
        lambda m: {"id": "01SINCH", "to": ["33639980001"], "canceled": False},
        lambda m: f"01SINCH/{m.subject_id}",
        "/xms/v1/plan-1/batches",
        {
            "from": "MAISONLUNE",
            "to": ["33639980001"],
            "body": TEXT,
            "client_reference": REFERENCE,
            "delivery_report": "per_recipient",
            "callback_url": CALLBACK,
        },
        status=201,
        headers={"authorization": "Bearer a-token"},
    ),
    "infobip": Case(
        Account("infobip", secret="a-key", url="https://x.example.com", callback_url=CALLBACK),
        lambda m: {
            "bulkId": "b1",
            "messages": [{"messageId": m.reference, "status": {"groupId": 1, "name": "PENDING_ACCEPTED"}}],
        },
        lambda m: m.reference,
        "/sms/3/messages",
        {
            "messages": [
                {
                    "sender": "MAISONLUNE",
                    "destinations": [{"to": "33639980001", "messageId": REFERENCE}],
                    "content": {"text": TEXT},
                    "webhooks": {"delivery": {"url": CALLBACK}},
                }
            ]
        },
        headers={"authorization": "App a-key"},
    ),
    "ovh": Case(
        Account("ovh", user="ak", secret="as", options={"consumer_key": "ck", "service": "sms-ab123-1"}),
        lambda m: {"ids": [7001], "invalidReceivers": [], "validReceivers": [m.to], "totalCreditsRemoved": 1},
        lambda m: "7001",
        "/sms/sms-ab123-1/jobs",
        {
            "receivers": ["+33639980001"],
            "message": TEXT,
            "sender": "MAISONLUNE",
            "senderForResponse": False,
            "noStopClause": False,
            "priority": "medium",
            "charset": "UTF-8",
            "coding": "7bit",
        },
        headers={"x-ovh-application": "ak", "x-ovh-consumer": "ck"},
    ),
    "messagebird": Case(
        Account("messagebird", secret="a-key"),
        lambda m: {"id": "e8077d803532c0b5937c639b60216938", "recipients": {"totalSentCount": 1}},
        lambda m: f"e8077d803532c0b5937c639b60216938/{m.subject_id}",
        "/messages",
        {
            "originator": "MAISONLUNE",
            "recipients": ["33639980001"],
            "body": TEXT,
            "reference": REFERENCE,
            "datacoding": "plain",
        },
        status=201,
        headers={"authorization": "AccessKey a-key"},
    ),
    "brevo": Case(
        Account("brevo", secret="a-key", callback_url=CALLBACK),
        lambda m: {"reference": "r1", "messageId": 1511882900176220, "smsCount": 1},
        lambda m: f"1511882900176220/{m.subject_id}",
        "/v3/transactionalSMS/send",
        {
            "sender": "MAISONLUNE",
            "recipient": "33639980001",
            "content": TEXT,
            "type": "marketing",
            "unicodeEnabled": False,
            "tag": REFERENCE,
            "webUrl": CALLBACK,
        },
        status=201,
        headers={"api-key": "a-key"},
    ),
    "plivo": Case(
        Account("plivo", user="MA01", secret="a-token", callback_url=CALLBACK),
        lambda m: {"message": "queued", "message_uuid": ["u-1"], "api_id": "a"},
        lambda m: "u-1",
        "/v1/Account/MA01/Message/",
        {"src": "MAISONLUNE", "dst": "33639980001", "text": TEXT, "url": CALLBACK, "method": "POST"},
        status=202,
        headers={"authorization": "Basic TUEwMTphLXRva2Vu"},
    ),
    "telnyx": Case(
        Account("telnyx", secret="KEY", callback_url=CALLBACK, options={"messaging_profile_id": "p-1"}),
        lambda m: {"data": {"id": "4031", "record_type": "message", "to": [{"status": "queued"}]}},
        lambda m: "4031",
        "/v2/messages/alphanumeric_sender_id",
        {
            "from": "MAISONLUNE",
            "to": "+33639980001",
            "text": TEXT,
            "messaging_profile_id": "p-1",
            "webhook_url": CALLBACK,
        },
        headers={"authorization": "Bearer KEY", "idempotency-key": REFERENCE},
    ),
    "octopush": Case(
        Account("octopush", user="shop@example.com", secret="a-key"),
        lambda m: {"sms_ticket": "sms_5f", "number_of_contacts": 1, "total_cost": 0.06},
        lambda m: f"sms_5f/{m.subject_id}",
        "/v1/public/sms-campaign/send",
        {
            "recipients": [{"phone_number": "+33639980001"}],
            "text": TEXT,
            "type": "sms_premium",
            "purpose": "wholesale",
            "sender": "MAISONLUNE",
            "with_replies": False,
            "auto_optimize_text": False,
            "request_id": REFERENCE,
        },
        headers={"api-login": "shop@example.com", "api-key": "a-key"},
    ),
    "smsfactor": Case(
        Account("smsfactor", secret="a-token"),
        lambda m: {"status": 1, "message": "OK", "ticket": "14672468", "sent": 1, "blacklisted": 0, "invalid": 0},
        lambda m: "14672468",
        "/send",
        {
            "sms": {
                "message": {"text": TEXT, "sender": "MAISONLUNE", "pushtype": "marketing", "unicode": 0},
                "recipients": {"gsm": [{"gsmsmsid": REFERENCE, "value": "33639980001"}]},
            }
        },
        headers={"authorization": "Bearer a-token"},
    ),
    "cm": Case(
        Account("cm", secret="a-product-token"),
        lambda m: {
            "errorCode": 0,
            "messages": [
                {"to": "0033", "status": "Accepted", "reference": m.reference.replace("-", ""), "messageErrorCode": 0}
            ],
        },
        lambda m: m.reference.replace("-", ""),
        "/v1.0/message",
        {
            "messages": {
                "msg": [
                    {
                        "from": "MAISONLUNE",
                        "to": [{"number": "0033639980001"}],
                        "body": {"type": "auto", "content": TEXT},
                        "minimumNumberOfMessageParts": 1,
                        "maximumNumberOfMessageParts": 10,
                        "reference": REFERENCE.replace("-", ""),
                    }
                ]
            }
        },
        headers={"x-cm-producttoken": "a-product-token"},
    ),
    "kannel": Case(
        Account("kannel", user="shop", secret="a-password", url="http://kannel.internal", callback_url=CALLBACK),
        lambda m: "0: Accepted for delivery",
        lambda m: m.reference,
        "/cgi-bin/sendsms",
        TEXT,
        status=202,
        headers={
            "x-kannel-username": "shop",
            "x-kannel-password": "a-password",
            "x-kannel-from": "MAISONLUNE",
            "x-kannel-to": "+33639980001",
            "x-kannel-coding": "0",
            "x-kannel-dlr-mask": "31",
            "x-kannel-dlr-url": f"{CALLBACK}?id={REFERENCE}&status=%d",
        },
    ),
    "jasmin": Case(
        Account("jasmin", user="shop", secret="a-password", url="http://jasmin.internal", callback_url=CALLBACK),
        lambda m: 'Success "07033084-5cfd"',
        lambda m: "07033084-5cfd",
        "/send",
        {
            "username": "shop",
            "password": "a-password",
            "to": "+33639980001",
            "from": "MAISONLUNE",
            "coding": "0",
            "hex-content": TEXT.encode("ascii").hex(),
            "dlr": "yes",
            "dlr-url": CALLBACK,
            "dlr-level": "3",
            "dlr-method": "POST",
        },
    ),
    "esendex": Case(
        Account("esendex", user="shop@example.com", secret="a-password", options={"account_reference": "EX000&1"}),
        lambda m: (
            '<?xml version="1.0" encoding="utf-8"?><messageheaders batchid="f8bf" xmlns="http://api.esendex.com/ns/">'
            '<messageheader uri="https://api.esendex.com/v1.0/messageheaders/1183c73d" id="1183c73d-2e62" />'
            "</messageheaders>"
        ),
        lambda m: "1183c73d-2e62",
        "/v1.0/messagedispatcher",
        '<?xml version="1.0" encoding="utf-8"?><messages xmlns="http://api.esendex.com/ns/">'
        "<accountreference>EX000&amp;1</accountreference><message><from>MAISONLUNE</from><to>33639980001</to>"
        f"<body>{TEXT}</body><type>SMS</type><characterset>GSM</characterset></message></messages>",
        headers={"authorization": "Basic c2hvcEBleGFtcGxlLmNvbTphLXBhc3N3b3Jk"},
    ),
    "smsmode": Case(
        Account("smsmode", secret="a-key"),
        lambda m: {"messageId": "nKPmRcY1", "refClient": m.reference, "body": {"messagePartCount": 1}},
        lambda m: "nKPmRcY1",
        "/sms/v1/messages",
        {"recipient": {"to": "33639980001"}, "body": {"text": TEXT}, "from": "MAISONLUNE", "refClient": REFERENCE},
        status=201,
        headers={"x-api-key": "a-key"},
    ),
    "allmysms": Case(
        Account("allmysms", user="lune", secret="a-key"),
        lambda m: {"code": 100, "description": "OK", "smsId": "5f-1", "nbSms": 1, "cost": 15, "balance": 900},
        lambda m: "5f-1",
        "/sms/send/",
        {"from": "MAISONLUNE", "to": "33639980001", "text": TEXT, "cliMsgId": REFERENCE},
        status=201,
        headers={"authorization": "Basic bHVuZTphLWtleQ=="},
    ),
    "mailjet": Case(
        Account("mailjet", secret="a-token"),
        lambda m: {"MessageId": "2034075536371630429", "Status": {"Code": 2, "Name": "sent"}, "SmsCount": 1},
        lambda m: "2034075536371630429",
        "/v4/sms-send",
        {"From": "MAISONLUNE", "To": "+33639980001", "Text": TEXT},
        headers={"authorization": "Bearer a-token"},
    ),
    "sweego": Case(
        Account("sweego", secret="a-key"),
        lambda m: {"channel": "sms", "provider": "sweego", "swg_uids": {m.to: "03-1c9e"}, "transaction_id": "t-1"},
        lambda m: "03-1c9e",
        "/send",
        {
            "channel": "sms",
            "provider": "sweego",
            "campaign-type": "market",
            "campaign-id": REFERENCE,
            "sender-id": "MAISONLUNE",
            "recipients": [{"num": "+33639980001", "region": "FR"}],
            "message-txt": TEXT,
            "shorten-urls": False,
        },
        headers={"api-key": "a-key"},
    ),
    "contact-everyone": Case(
        Account("contact-everyone", secret="a-token", options={"sender": "MAISONLUNE"}),
        lambda m: "b7f4e1c0-7a31",
        lambda m: "b7f4e1c0-7a31",
        "/api/light/diffusions/sms",
        {"token": "a-token", "to": "+33639980001", "msg": TEXT, "xcharset": "true"},
    ),
}

OPTED_OUT, BLOCKED = "opted_out", "blocked"


@dataclass(frozen=True)
class Exchange:
    """`means`: an error's type, or what a rejection says of the person. `code` as it is stored; `after_s`, `of_sender`
    where the error has one."""

    provider: str
    status: int
    answer: object
    means: type[SendError] | str
    code: str | None = None
    of_sender: bool = False
    after_s: float | None = None
    headers: str = ""

    def __str__(self) -> str:
        means = self.means if isinstance(self.means, str) else self.means.__name__
        return f"{self.provider}-{self.status}-{self.code or ''}-{means}"


def _twilio(status: int, code: int, means: type[SendError] | str, **more: Any) -> Exchange:
    named = str(code) if means not in (Throttled, NotNow) else None
    return Exchange("twilio", status, {"code": code, "message": "no", "status": status}, means, named, **more)


def _vonage(code: str, means: type[SendError] | str, **more: Any) -> Exchange:
    named = None if means in (Throttled, Unanswered) else code
    answer = {"message-count": "1", "messages": [{"status": code, "error-text": "no"}]}
    return Exchange("vonage", 200, answer, means, named, **more)


def _infobip(group: int, name: str, means: type[SendError] | str, number: int | None = None, **more: Any) -> Exchange:
    status = {"groupId": group, "name": name} | ({} if number is None else {"id": number})
    answer = {"messages": [{"messageId": REFERENCE, "status": status}]}
    named = None if means is Unanswered else name
    return Exchange("infobip", 200, answer, means, named, **more)


def _telnyx(status: int, code: str, means: type[SendError] | str, title: str | None = "no", **more: Any) -> Exchange:
    named = None if means in (Throttled, ThrottledUntil) else code
    error = {"code": code} | ({} if title is None else {"title": title})
    return Exchange("telnyx", status, {"errors": [error]}, means, named, **more)


def _cm(code: int, means: type[SendError] | str, **more: Any) -> Exchange:
    message = {"reference": REFERENCE.replace("-", ""), "status": "Rejected", "messageErrorCode": code}
    named = None if means is Unanswered else str(code)
    return Exchange("cm", 400, {"errorCode": 201, "messages": [message]}, means, named, **more)


def _smsfactor(answer: dict[str, object], means: type[SendError] | str, code: str | None = None) -> Exchange:
    return Exchange("smsfactor", 200, answer, means, code)


def _smsfactor_sent_none(counter: str) -> dict[str, object]:
    return {"status": 1, "ticket": "1", "total": 1, "sent": 0, "blacklisted": 0, "invalid": 0, counter: 1}


def _ovh(code: str, means: type[SendError] | str, named: str) -> Exchange:
    answer = {"errorCode": code, "httpCode": "400 Bad Request", "message": "no"}
    return Exchange("ovh", 400, answer, means, named)


def _allmysms(code: int, means: type[SendError] | str, status: int = 400) -> Exchange:
    answer = {"code": code, "description": "no"}
    return Exchange("allmysms", status, answer, means, None if means is Unanswered else str(code))


def _mailjet(code: int, means: type[SendError] | str, **more: Any) -> Exchange:
    answer = {"MessageId": "2034", "Status": {"Code": code, "Name": "some"}}
    return Exchange("mailjet", 200, answer, means, None if means is Unanswered else str(code), **more)


def _mailjet_refuses(code: str, means: type[SendError]) -> Exchange:
    return Exchange("mailjet", 400, {"ErrorCode": code, "StatusCode": 400, "ErrorMessage": "no"}, means, code)


DENIED_BY_KANNEL = "Number(s) has/have been denied by white- and/or black-lists."


def _jasmin(why: str, means: type[SendError] | str, code: str) -> Exchange:
    return Exchange("jasmin", 400, f'Error "{why}"', means, code, of_sender=code == "source_address")


EXCHANGES = [
    _twilio(400, 21610, OPTED_OUT),
    _twilio(400, 21211, Refused),
    _twilio(400, 21614, Refused),
    _twilio(400, 21606, Misconfigured, of_sender=True),
    _twilio(400, 21212, Misconfigured, of_sender=True),
    _twilio(400, 21603, Misconfigured, of_sender=True),
    _twilio(400, 21659, Misconfigured, of_sender=True),
    _twilio(400, 21660, Misconfigured, of_sender=True),
    _twilio(400, 21661, Misconfigured, of_sender=True),
    _twilio(400, 21608, Misconfigured),
    _twilio(400, 21609, Misconfigured),
    _twilio(400, 21701, Misconfigured),
    _twilio(400, 21705, Misconfigured),
    _twilio(400, 21408, Refused),
    _twilio(429, 20429, Throttled, after_s=5.0),
    _twilio(400, 63018, Throttled, after_s=5.0),
    _twilio(400, 21611, Throttled, after_s=5.0),
    _twilio(400, 30610, NotNow, after_s=300.0),
    Exchange("twilio", 401, {"code": 20003, "message": "no"}, Misconfigured, "http_401"),
    _vonage("1", Throttled, after_s=1.0),
    _vonage("10", Throttled, after_s=1.0),
    _vonage("5", Unanswered),
    _vonage("9", Misconfigured),
    _vonage("4", Misconfigured),
    _vonage("15", Misconfigured, of_sender=True),
    _vonage("29", Misconfigured),
    _vonage("23", Misconfigured),
    _vonage("32", Misconfigured),
    _vonage("33", Refused),
    _vonage("7", BLOCKED),
    _vonage("6", Refused),
    Exchange("vonage", 200, {"messages": [{"status": "0", "message-id": "1"}, {"status": "1"}]}, Unanswered),
    Exchange("vonage", 200, {"messages": []}, Unanswered),
    Exchange("messagebird", 401, {"errors": [{"code": 2}]}, Misconfigured, "http_401"),
    Exchange("messagebird", 422, {"errors": [{"code": 10}]}, Refused, "http_422"),
    Exchange("sinch", 400, {"code": "syntax_invalid_parameter_format", "text": "no"}, Refused, "http_400"),
    Exchange("sinch", 403, {"code": "unknown_service_plan"}, Misconfigured, "http_403"),
    Exchange("sinch", 403, {"code": "illegal_number_type", "text": "no"}, Refused, "illegal_number_type"),
    _infobip(5, "REJECTED_NOT_ENOUGH_CREDITS", Misconfigured),
    _infobip(5, "REJECTED_PREPAID_PACKAGE_EXPIRED", Misconfigured),
    _infobip(5, "REJECTED_ROUTE_NOT_AVAILABLE", Misconfigured),
    _infobip(5, "REJECTED_DESTINATION_NOT_REGISTERED", Misconfigured),
    _infobip(5, "REJECTED_SYSTEM_ERROR", Unanswered),
    _infobip(4, "EXPIRED_EXPIRED", Unanswered),
    _infobip(6, "A_GROUP_OF_TOMORROW", Unanswered),
    _infobip(5, "REJECTED_SENDER", Misconfigured, of_sender=True),
    _infobip(5, "REJECTED_DESTINATION", OPTED_OUT, 14),
    _infobip(5, "REJECTED_DESTINATION", Refused, 52),
    _infobip(5, "REJECTED_DESTINATION", BLOCKED),
    _infobip(5, "REJECTED_DESTINATION_BLOCKLISTED", OPTED_OUT, 14),
    _infobip(5, "REJECTED_DND", OPTED_OUT),
    _infobip(5, "REJECTED_INVALID_DESTINATION", Refused),
    _infobip(2, "UNDELIVERABLE_NOT_SENT", Refused),
    Exchange("infobip", 200, {"messages": [{"messageId": "another", "status": {}}]}, Unanswered),
    Exchange("ovh", 200, {"ids": [], "invalidReceivers": ["x"], "validReceivers": []}, BLOCKED, "invalid_receiver"),
    Exchange("ovh", 200, {"ids": [], "invalidReceivers": []}, Misconfigured, "no_job"),
    Exchange("ovh", 403, {"class": "Client::Forbidden", "message": "no credit"}, Misconfigured, "http_403"),
    _ovh("INVALID_SIGNATURE", Misconfigured, "INVALID_SIGNATURE"),
    _ovh("INVALID_CREDENTIAL", Misconfigured, "INVALID_CREDENTIAL"),
    _ovh("QUERY_TIME_OUT", Misconfigured, "QUERY_TIME_OUT"),
    _ovh("BAD_PARAMETER", Refused, "http_400"),
    Exchange("ovh", 400, "no", Refused, "http_400"),
    Exchange("brevo", 400, {"code": "not_enough_credits", "message": "no"}, Misconfigured, "not_enough_credits"),
    Exchange("brevo", 402, {"code": "not_enough_credits", "message": "no"}, Misconfigured, "http_402"),
    Exchange("brevo", 400, {"code": "invalid_parameter", "message": "no"}, Refused, "http_400"),
    Exchange("plivo", 400, {"error": "dst is not valid", "api_id": "a"}, Refused, "http_400"),
    Exchange("plivo", 400, {"error": "Insufficient Credit", "api_id": "a"}, Misconfigured, "insufficient_credit"),
    Exchange("plivo", 202, {"message_uuid": []}, Unanswered),
    _telnyx(403, "40300", OPTED_OUT, "Blocked due to STOP message"),
    _telnyx(403, "40300", BLOCKED, None),
    _telnyx(403, "40300", Misconfigured, "No messaging profile"),
    _telnyx(429, "10011", ThrottledUntil, after_s=3.0, headers="Retry-After: 3\r\n"),
    _telnyx(429, "10011", Throttled, after_s=1.0, headers="Retry-After: 0\r\n"),
    _telnyx(400, "40002", Throttled, after_s=1.0),
    _telnyx(403, "40318", Throttled, after_s=1.0),
    _telnyx(400, "40001", Refused),
    _telnyx(400, "40310", Refused),
    _telnyx(403, "40309", Refused),
    _telnyx(400, "40003", Misconfigured, of_sender=True),
    _telnyx(400, "40305", Misconfigured, of_sender=True),
    _telnyx(409, "40306", Misconfigured, of_sender=True),
    _telnyx(422, "40307", Misconfigured, of_sender=True),
    _telnyx(400, "40312", Misconfigured),
    _telnyx(422, "10003", Misconfigured),
    _telnyx(403, "40314", Misconfigured),
    _telnyx(403, "20100", Misconfigured),
    Exchange("telnyx", 403, {"errors": [{"code": "10010", "title": "no"}]}, Misconfigured, "http_403"),
    Exchange("octopush", 400, {"code": 1, "message": "no"}, Refused, "http_400"),
    _smsfactor({"status": -1, "message": "no"}, Misconfigured, "-1"),
    _smsfactor({"status": -3, "message": "no"}, Misconfigured, "-3"),
    *(_smsfactor({"status": status, "message": "no"}, Refused, str(status)) for status in (-2, -4, -5, -6, -7)),
    _smsfactor({"status": -8, "message": "moderated"}, Unanswered),
    _smsfactor({"status": -99, "message": "unknown"}, Unanswered),
    _smsfactor({"status": -12, "message": "of tomorrow"}, Unanswered),
    _smsfactor({"status": 1, "ticket": "1", "sent": 0, "blacklisted": 1}, BLOCKED, "blacklisted"),
    _smsfactor({"status": 1, "ticket": "1", "sent": 0, "invalid": 1}, Refused, "invalid"),
    *(_smsfactor(_smsfactor_sent_none(name), Refused, name) for name in ("flood", "not_allowed", "country_limit")),
    _smsfactor(_smsfactor_sent_none("of_tomorrow"), Refused, "sent_0"),
    _cm(301, Misconfigured, of_sender=True),
    _cm(303, Refused),
    _cm(402, BLOCKED),
    _cm(500, Unanswered),
    Exchange("cm", 401, {"errorCode": 103, "messages": []}, Misconfigured, "103"),
    Exchange("cm", 402, {"errorCode": 102, "messages": []}, Misconfigured, "102"),
    Exchange("cm", 429, {"errorCode": 500}, ThrottledUntil, after_s=4.0, headers="Retry-After: 4\r\n"),
    Exchange("cm", 400, {"errorCode": 201}, Refused, "http_400"),
    Exchange("cm", 200, {"errorCode": 0}, Unanswered),
    Exchange("kannel", 503, "Temporal failure, try again later.", Throttled, after_s=5.0),
    Exchange("kannel", 403, "Authorization failed for sendsms", Misconfigured, "http_403"),
    Exchange("kannel", 403, "Not routable. Do not try again.", Refused, "not_routable"),
    Exchange("kannel", 400, DENIED_BY_KANNEL, BLOCKED, "denied_by_list"),
    Exchange("kannel", 400, "Sender missing and no global set, rejected", Refused, "http_400"),
    Exchange("kannel", 202, "Queued, perhaps", Unanswered),
    Exchange("jasmin", 403, 'Error "User throughput exceeded"', Throttled, after_s=1.0),
    Exchange("jasmin", 403, 'Error "Authentication failure"', Misconfigured, "http_403"),
    Exchange("jasmin", 412, 'Error "No route found"', Misconfigured, "http_412"),
    Exchange("jasmin", 412, 'Error "Failover route has no bound connectors"', Unreachable),
    _jasmin("Authorization failed for user [shop] (Cannot send MT messages).", Misconfigured, "authorization"),
    _jasmin("Authorization failed for user [shop] (Setting dlr level not authorized).", Misconfigured, "authorization"),
    _jasmin("Argument [password] has an invalid value: [x].", Misconfigured, "argument"),
    _jasmin("Value filter failed for user [shop] (source_address filter mismatch).", Misconfigured, "source_address"),
    _jasmin("Value filter failed for user [shop] (destination_address filter mismatch).", Refused, "http_400"),
    _jasmin("Argument [to] has an invalid value: [x].", Refused, "http_400"),
    Exchange("jasmin", 500, 'Error "Cannot send submit_sm"', Unanswered),
    Exchange("jasmin", 200, 'Error "odd"', Unanswered),
    Exchange("esendex", 401, "no", Misconfigured, "http_401"),
    Exchange("esendex", 402, "no", Misconfigured, "http_402"),
    Exchange("esendex", 400, "no", Refused, "http_400"),
    Exchange("esendex", 500, "no", Unanswered),
    Exchange("esendex", 200, "<messageheaders/>", Unanswered),
    Exchange("smsmode", 400, {"title": "Bad Request", "errorCode": "x", "detail": "no"}, Refused, "http_400"),
    Exchange("smsmode", 403, {"message": "Channel type mismatch"}, Misconfigured, "http_403"),
    Exchange("smsmode", 201, {"messageId": ""}, Unanswered),
    *(_allmysms(code, Misconfigured) for code in (102, 103, 104, 108, 118)),
    *(_allmysms(code, Refused, 200) for code in (105, 111, 114)),
    _allmysms(119, Unanswered, 201),
    Exchange("allmysms", 400, {"code": 119}, Refused, "http_400"),
    Exchange("allmysms", 401, "no", Misconfigured, "http_401"),
    Exchange("allmysms", 201, {"code": 100}, Unanswered),
    *(_mailjet(code, Refused) for code in (4, 5, 6, 8, 12, 14)),
    *(_mailjet(code, BLOCKED) for code in (9, 11)),
    *(_mailjet(code, Misconfigured) for code in (15, 16)),
    _mailjet(10, Misconfigured, of_sender=True),
    _mailjet(13, Unanswered),
    _mailjet(17, Unanswered),
    *(_mailjet_refuses(code, Misconfigured) for code in ("sms-0001", "sms-0003", "sms-0004")),
    *(_mailjet_refuses(code, Refused) for code in ("sms-0002", "mj-0003")),
    Exchange("mailjet", 400, "no", Refused, "http_400"),
    Exchange("mailjet", 401, {"ErrorCode": "mj-0015"}, Misconfigured, "http_401"),
    Exchange("sweego", 422, {"detail": [{"loc": ["body"], "msg": "no", "type": "value_error"}]}, Refused, "http_422"),
    Exchange("sweego", 403, {"detail": "restricted account"}, Misconfigured, "http_403"),
    Exchange("sweego", 500, {"detail": "Unable to send message"}, Unanswered),
    Exchange("sweego", 200, {"swg_uids": {}, "transaction_id": "t-1"}, Unanswered),
    Exchange("sweego", 200, {"swg_uids": {"a": 7}, "transaction_id": "t-1"}, Unanswered),
    Exchange("contact-everyone", 400, {"message": "no", "logId": "l"}, Refused, "http_400"),
    Exchange("contact-everyone", 401, {"message": "no", "logId": "l"}, Misconfigured, "http_401"),
    Exchange("contact-everyone", 200, "", Unanswered),
]
