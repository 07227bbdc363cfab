"""What each provider is asked, and what its answers mean: over real local HTTP, from one table."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

import pytest
from msgspec.structs import replace

from dispatch.gateways import (
    HTTP_PROVIDERS,
    LOOK_UPS,
    Gateway,
    HttpGateway,
    Misconfigured,
    Refused,
    Result,
    SendError,
    Submit,
    Throttled,
    Unanswered,
)
from dispatch.gateways.pool import Traffic
from dispatch.gateways.provider import Answer
from dispatch.gateways.settings import GatewaySettings
from tests.support.operators.accounts import ACCOUNTS, BLOCKED, EXCHANGES, OPTED_OUT, Exchange, http, submit
from tests.support.operators.faults import fault_server

NOW = datetime(2026, 1, 7, 9, 0, tzinfo=UTC)
UNUSED: Any = None  # the service's settings: only Kafka's gateway looks at them

each_provider = pytest.mark.parametrize("provider", sorted(HTTP_PROVIDERS))


async def _exchange(provider: str, said: bytes, *messages: Submit) -> tuple[list[Result | SendError], list[bytes]]:
    async with fault_server() as server:
        server.answer = said
        account = ACCOUNTS[provider].at(server.url)
        gateway = HttpGateway(provider, HTTP_PROVIDERS[provider], account, timeout_s=60.0)
        try:
            return list(await gateway.submit(messages)), server.requests
        except SendError as error:
            return [error] * len(messages), server.requests
        finally:
            await gateway.close()


@each_provider
async def test_a_message_is_asked_for_as_the_provider_wants_it_and_its_id_is_the_one_its_receipts_bear(
    provider: str,
) -> None:
    case, message = ACCOUNTS[provider], submit(1)
    [result], [request] = await _exchange(provider, case.accepted(message), message)
    assert result == Result("accepted", case.accepted_as(message), None)
    head, _, body = request.partition(b"\r\n\r\n")
    method, path, _ = head.split(b"\r\n")[0].decode().split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head.decode().split("\r\n")[1:])}
    assert (method, path) == ("POST", case.path)
    assert "33639980001" not in path
    assert case.headers.items() <= headers.items()
    assert _read(headers["content-type"], body) == case.body


def _read(kind: str, body: bytes) -> Any:
    if kind == "application/json":
        return json.loads(body)
    if kind == "application/x-www-form-urlencoded":
        return dict(parse_qsl(body.decode(), strict_parsing=True))
    return body.decode()


@pytest.mark.parametrize("exchange", EXCHANGES, ids=str)
async def test_an_answer_means_one_thing(exchange: Exchange) -> None:
    said = http(exchange.status, exchange.answer, exchange.headers)
    [answer], _ = await _exchange(exchange.provider, said, submit(1))
    if isinstance(exchange.means, str):
        assert isinstance(answer, Result), repr(answer)
        assert (answer.outcome, answer.code) == ("rejected", exchange.code)
        assert (answer.opted_out, answer.blocked) == (exchange.means == OPTED_OUT, exchange.means == BLOCKED)
        return
    assert type(answer) is exchange.means, repr(answer)
    assert getattr(answer, "code", None) == exchange.code
    if isinstance(answer, Misconfigured):
        assert answer.of_sender == exchange.of_sender
    if isinstance(answer, Throttled):
        assert answer.after_s == exchange.after_s


@each_provider
async def test_a_text_that_gsm_cannot_write_is_asked_for_in_unicode(provider: str) -> None:
    """ê is in no GSM alphabet, œ neither; and nothing is lost on the way."""
    message = submit(1, text="Fête de l'œuf 🥚. STOP au 36111")
    _, [request] = await _exchange(provider, ACCOUNTS[provider].accepted(message), message)
    body = request.partition(b"\r\n\r\n")[2]
    said = _texts(provider, body)
    assert message.text in said


def _texts(provider: str, body: bytes) -> list[str]:
    if provider == "jasmin":
        return [bytes.fromhex(dict(parse_qsl(body.decode()))["hex-content"]).decode("utf-16-be")]
    if body.startswith(b"{"):
        return _leaves(json.loads(body))
    return [body.decode(), *dict(parse_qsl(body.decode())).values(), *re.findall(r">([^<]+)</", body.decode())]


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    if isinstance(value, list):
        return [leaf for each in value for leaf in _leaves(each)]
    return [str(value)]


async def test_a_batch_has_a_result_for_each_in_the_order_asked() -> None:
    messages = [submit(n) for n in (1, 2, 3)]
    said = {
        "messages": [
            {"messageId": messages[2].reference, "status": {"groupId": 5, "name": "REJECTED_DND"}},
            {"messageId": messages[0].reference, "status": {"groupId": 1, "name": "PENDING_ACCEPTED"}},
            {"messageId": messages[1].reference, "status": {"groupId": 5, "name": "REJECTED_SENDER"}},
        ]
    }
    [first, second, third], requests = await _exchange("infobip", http(200, said), *messages)
    assert len(requests) == 1
    assert first == Result("accepted", messages[0].reference, None)
    assert isinstance(second, Misconfigured)
    assert third == Result("rejected", messages[2].reference, "REJECTED_DND", opted_out=True)


TAKEN: dict[str, Callable[[Submit], dict[str, Any]]] = {  # of a batch's answer
    "infobip": lambda m: {"messageId": m.reference, "status": {"groupId": 1, "name": "PENDING_ACCEPTED"}},
    "cm": lambda m: {"reference": m.reference.replace("-", ""), "messageErrorCode": 0},
    "simulator": lambda m: {"reference": m.reference, "id": "sim-1", "status": "accepted"},
    "standard": lambda m: {"reference": m.reference, "id": "st-1", "status": "accepted"},
}
REFUSED: dict[str, dict[str, Any]] = {
    "infobip": {"status": {"groupId": 5, "name": "REJECTED_DND"}},
    "cm": {"messageErrorCode": 402},
    "simulator": {"status": "rejected", "code": "no"},
    "standard": {"status": "rejected", "code": "no"},
}


@pytest.mark.parametrize("garbled", [[], [7], [None], ["mine"]], ids=str)
@pytest.mark.parametrize("provider", sorted(TAKEN))
async def test_of_a_batch_only_what_the_answer_lacks_or_garbles_is_unknown(provider: str, garbled: list[Any]) -> None:
    """The others keep their results: an opt-out among them is evidence that nobody else will bring."""
    messages = [submit(n) for n in (1, 2, 3)]
    taken, refused = TAKEN[provider](messages[0]), TAKEN[provider](messages[2]) | REFUSED[provider]
    if garbled == ["mine"]:  # it is the second's, and says nothing that can be read
        garbled = [dict.fromkeys(taken) | {k: v for k, v in TAKEN[provider](messages[1]).items() if "ref" in k.lower()}]
    name = "results" if provider in ("simulator", "standard") else "messages"
    [first, second, third], _ = await _exchange(
        provider, http(200, {"errorCode": 0, name: [refused, *garbled, taken]}), *messages
    )
    assert isinstance(first, Result)
    assert first.outcome == "accepted"
    assert isinstance(second, Unanswered)
    assert isinstance(third, Result)
    assert third.outcome == "rejected"


async def test_what_smsfactor_moderates_is_taken_where_it_names_its_ticket() -> None:
    [answer], _ = await _exchange("smsfactor", http(200, {"status": -8, "message": "no", "ticket": "9"}), submit(1))
    assert answer == Result("accepted", "9", None)


def test_smsfactor_is_told_that_a_text_is_unicode() -> None:
    request = HTTP_PROVIDERS["smsfactor"].request([submit(1, text="Fête")], ACCOUNTS["smsfactor"].account, NOW)
    assert json.loads(request.body)["sms"]["message"]["unicode"] == 1


@pytest.mark.parametrize(("number", "region"), [("+33639980001", "FR"), ("+0639980001", "OTHER")])
def test_sweego_is_told_the_region_of_a_number(number: str, region: str) -> None:
    message = replace(submit(1), to=number)
    request = HTTP_PROVIDERS["sweego"].request([message], ACCOUNTS["sweego"].account, NOW)
    assert json.loads(request.body)["recipients"] == [{"num": number, "region": region}]


@pytest.mark.parametrize(
    ("sender", "path"),
    [
        ("MAISONLUNE", "/v2/messages/alphanumeric_sender_id"),
        ("36111", "/v2/messages"),
        ("+33639980009", "/v2/messages"),
    ],
)
def test_telnyx_has_a_path_for_names_and_one_for_numbers(sender: str, path: str) -> None:
    message = replace(submit(1), sender=sender)
    assert HTTP_PROVIDERS["telnyx"].request([message], ACCOUNTS["telnyx"].account, NOW).path == path


async def test_contact_everyone_takes_no_message_of_another_sender_than_the_account_shows() -> None:
    message = replace(submit(1), sender="AUTRE")
    [answer], requests = await _exchange("contact-everyone", http(200, "b7f4e1c0-7a31"), message)
    assert isinstance(answer, Misconfigured)
    assert (answer.code, answer.of_sender, requests) == ("another_sender", True, [])


async def test_a_text_that_xml_cannot_write_never_leaves_by_esendex() -> None:
    [answer], requests = await _exchange("esendex", http(200, "<messageheaders/>"), submit(1, text="Offre\x0b du jour"))
    assert isinstance(answer, Refused)
    assert (answer.code, requests) == ("text_no_xml", [])


async def test_esendex_writes_what_xml_reads_otherwise() -> None:
    message = submit(1, text="Lune & Cie <3")
    _, [request] = await _exchange("esendex", ACCOUNTS["esendex"].accepted(message), message)
    assert b"<body>Lune &amp; Cie &lt;3</body>" in request


LOGGED: dict[tuple[int, str], Result | None] = {
    (0, "MESSAGE_ACCEPTED"): Result("accepted", submit(1).reference, None),
    (1, "PENDING_ENROUTE"): Result("accepted", submit(1).reference, None),
    (2, "UNDELIVERABLE_NOT_DELIVERED"): Result("accepted", submit(1).reference, None),
    (4, "EXPIRED_EXPIRED"): Result("accepted", submit(1).reference, None),
    (5, "REJECTED_DND"): Result("rejected", submit(1).reference, "REJECTED_DND", opted_out=True),
    (5, "REJECTED_SENDER"): Result("rejected", submit(1).reference, "REJECTED_SENDER"),
    (5, "REJECTED_SYSTEM_ERROR"): None,
    (6, "A_GROUP_OF_TOMORROW"): None,
}


@pytest.mark.parametrize(("logged", "means"), LOGGED.items(), ids=str)
def test_what_infobip_logged_as_undeliverable_or_expired_it_had_taken(
    logged: tuple[int, str], means: Result | None
) -> None:
    group, name = logged
    status = {"groupId": group, "name": name}
    said = json.dumps({"results": [{"messageId": submit(1).reference, "status": status}]}).encode()
    assert LOOK_UPS["infobip"].found(Answer(200, {}, said), submit(1).reference, submit(1).subject_id) == means


async def test_an_account_may_say_what_its_provider_does_not() -> None:
    """Telnyx does not say of this endpoint that it knows a repetition; Jasmin cuts what is more than 5 SMS, Kannel what
    is more than one."""

    async def gateway(provider: str, **more: Any) -> Gateway:
        account = ACCOUNTS[provider].account
        given = {"user": account.user, "secret": account.secret, "options": account.options, "url": account.url}
        settings = GatewaySettings(provider=provider, **given, **more)
        opened = settings.gateway_with_secrets(UNUSED, timeout_s=1.0, submits=1)
        await opened.close()
        return opened

    assert not (await gateway("telnyx")).capabilities.idempotent
    assert (await gateway("telnyx", idempotent=True)).capabilities.idempotent
    six = "e" * (6 * 153)
    assert Traffic([await gateway("jasmin")]).unfit(six) == {"jasmin"}
    assert Traffic([await gateway("jasmin", segments=8)]).unfit(six) == set()
    assert Traffic([await gateway("kannel")]).unfit("e" * 161) == {"kannel"}
    assert Traffic([await gateway("kannel", segments=2)]).unfit("e" * 161) == set()


async def test_a_message_id_that_infobip_has_had_before_was_accepted() -> None:
    said = {
        "messages": [
            {"messageId": submit(1).reference, "status": {"groupId": 5, "name": "REJECTED_DUPLICATE_MESSAGE_ID"}}
        ]
    }
    [answer], _ = await _exchange("infobip", http(200, said), submit(1))
    assert answer == Result("accepted", submit(1).reference, None)


async def test_one_message_a_request_is_asked_for_all_at_once() -> None:
    messages = [submit(n) for n in (1, 2, 3)]
    answers, requests = await _exchange("twilio", ACCOUNTS["twilio"].accepted(messages[0]), *messages)
    assert len(requests) == 3
    assert answers == [Result("accepted", "SM0a", None)] * 3


def test_a_job_of_ovh_is_signed_over_its_url_and_body() -> None:
    """The recipe of ovh/python-ovh, with its own inputs joined by hand."""
    request = HTTP_PROVIDERS["ovh"].request([submit(1)], ACCOUNTS["ovh"].account, NOW)
    url = "https://eu.api.ovh.com/1.0/sms/sms-ab123-1/jobs"
    at = str(int(NOW.timestamp()))
    signed = "+".join(("as", "ck", "POST", url, request.body.decode(), at))
    assert request.headers["X-Ovh-Timestamp"] == at
    assert (
        request.headers["X-Ovh-Signature"] == "$1$" + hashlib.sha1(signed.encode(), usedforsecurity=False).hexdigest()
    )


@pytest.mark.parametrize("provider", ["ovh", "octopush", "smsfactor", "brevo", "sweego"])
def test_only_marketing_is_declared_as_marketing(provider: str) -> None:
    """OVH's clause, Octopush's purpose, SMSFactor's push type, the types of Brevo and Sweego: it decides on STOP
    mention and hours."""
    bodies = [
        HTTP_PROVIDERS[provider].request([submit(1, category=category)], ACCOUNTS[provider].account, NOW).body
        for category in ("marketing", "transactional", "service")
    ]
    assert bodies[0] != bodies[1] == bodies[2]


@each_provider
def test_no_answer_however_odd_is_anything_but_a_result_or_an_error_of_ours(provider: str) -> None:
    for body in (
        b"[]",
        b"null",
        b'""',
        b"{}",
        b'{"messages": {}}',
        b'{"messages": [1]}',
        b'{"data": 1}',
        b'{"ids": [{}]}',
    ):
        with pytest.raises((SendError, KeyError, ValueError, TypeError, IndexError)):
            _only(HTTP_PROVIDERS[provider].read(Answer(200, {}, body), [submit(1)]))


def _only(answers: Sequence[Result | SendError]) -> Result:
    [answer] = answers
    if isinstance(answer, SendError):
        raise answer
    return answer
