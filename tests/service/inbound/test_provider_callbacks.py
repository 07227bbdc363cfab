"""Providers over HTTP, on a real Postgres and a real broker: each in its own way, and the ways they share."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from common.contracts import INBOUND_MESSAGES, INBOUND_RECEIPTS
from common.contracts.inbound import MessageReceived, ReceiptReceived
from inbound.service import Settings, build
from tests.operators import body
from tests.service.inbound.published import published
from tests.support.builders import field_keys, now, number, subject, subject_keys
from tests.support.eventually import eventually
from tests.support.running import CALLED, Surroundings, running

pytestmark = pytest.mark.any_broker  # how callbacks are read and checked; the way to the log is of test_webhooks.py

PUBLIC_URL = "https://sms.example.org"
SECRET = "a secret of thirty-two characters"
WHSEC = "whsec_" + base64.b64encode(SECRET.encode()).decode()
PATH_SECRET = "2f1c9f3e5b7a4d60"
PASSWORD = "octopush:a password of sixteen"
HERE, ELSEWHERE = ["127.0.0.0/8"], ["192.0.2.0/24"]
ACCOUNTS: list[dict[str, Any]] = [
    {"provider": "vonage", "account": "main", "secrets": [SECRET], "capabilities": {"retries_for": "PT1H"}},
    {"provider": "plivo", "account": "main", "secrets": [SECRET], "public_url": PUBLIC_URL},
    {"provider": "plivo", "account": "older", "secrets": [SECRET], "public_url": PUBLIC_URL, "scheme": "v2"},
    {"provider": "standard", "account": "main", "secrets": [WHSEC]},
    {"provider": "kannel", "account": "main", "path_secrets": [PATH_SECRET], "addresses": HERE},
    {"provider": "kannel", "account": "far", "path_secrets": [PATH_SECRET], "addresses": ELSEWHERE},
    {"provider": "jasmin", "account": "main", "addresses": HERE},
    {"provider": "octopush", "account": "main", "basic": [PASSWORD]},
    {"provider": "smsfactor", "account": "main", "path_secrets": [PATH_SECRET], "short_code": "36111"},
    {"provider": "ovh", "account": "main", "path_secrets": [PATH_SECRET]},
    {"provider": "infobip", "account": "main", "path_secrets": [PATH_SECRET]},
]


class Operators:
    """inbound-svc running, and the operators who call it."""

    def __init__(self, client: httpx.AsyncClient, settings: Settings, surroundings: Surroundings) -> None:
        self.client = client
        self.settings = settings
        self.surroundings = surroundings

    async def messages(self) -> list[MessageReceived]:
        records = await published(self.settings, INBOUND_MESSAGES)
        return [record.event for record in records if isinstance(record.event, MessageReceived)]

    async def receipts(self) -> list[ReceiptReceived]:
        records = await published(self.settings, INBOUND_RECEIPTS)
        return [record.event for record in records if isinstance(record.event, ReceiptReceived)]

    async def vonage(self, text: str, nonce: str, **more: str) -> httpx.Response:
        fields = {
            "msisdn": number(1).removeprefix("+"),
            "to": "36111",
            "messageId": f"m-{nonce}",
            "text": text,
            "type": "text",
            "timestamp": str(int(now().timestamp())),
            "nonce": nonce,
            **more,
        }
        signed = "".join(f"&{name}={fields[name]}" for name in sorted(fields))
        mac = hmac.new(SECRET.encode(), signed.encode(), hashlib.sha256).hexdigest()
        return await self.client.get("/v1/callbacks/vonage/main/messages?" + urlencode({**fields, "sig": mac}))

    async def part(self, place: int, text: str, reference: str = "7", total: int = 3) -> httpx.Response:
        concat = {"concat": "true", "concat-ref": reference, "concat-part": str(place), "concat-total": str(total)}
        return await self.vonage(text, f"{reference}-{place}", **concat)

    async def standard(self, event: str, raw: bytes, kind: str = "messages") -> httpx.Response:
        stamp = str(int(now().timestamp()))
        mac = hmac.new(SECRET.encode(), f"{event}.{stamp}.".encode() + raw, hashlib.sha256).digest()
        headers = {
            "webhook-id": event,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
        }
        return await self.client.post(f"/v1/callbacks/standard/main/{kind}", content=raw, headers=headers)

    async def octopush(self, raw: bytes) -> httpx.Response:
        """It waits for a second, and a busy machine may need more: then it comes again."""
        credentials = (PASSWORD.partition(":")[0], PASSWORD.partition(":")[2])

        async def answered() -> httpx.Response | None:
            answer = await self.client.post("/v1/callbacks/octopush/main/receipts", content=raw, auth=credentials)
            return None if answer.status_code == 503 else answer

        answer = await eventually(answered)
        assert answer is not None
        return answer

    async def plivo_v2(self, nonce: str, fields: Mapping[str, str]) -> httpx.Response:
        target = "/v1/callbacks/plivo/older/messages"
        mac = hmac.new(SECRET.encode(), f"{PUBLIC_URL}{target}{nonce}".encode(), hashlib.sha256).digest()
        headers = {
            "X-Plivo-Signature-V2": base64.b64encode(mac).decode(),
            "X-Plivo-Signature-V2-Nonce": nonce,
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return await self.client.post(target, content=urlencode(fields), headers=headers)


@pytest.fixture
async def operators(surroundings: Surroundings) -> AsyncIterator[Operators]:
    given = await surroundings.settings("inbound", provider_accounts=ACCOUNTS, publish_timeout_s=60.0, roles=CALLED)
    settings = Settings(**given)
    async with running(build(settings), headers={}) as client:
        yield Operators(client, settings, surroundings)


def texts(events: list[MessageReceived]) -> list[tuple[str, str]]:
    return [(event.intent, field_keys.unseal(event.text, f"text:{event.mo_id}")) for event in events]


# Each in its own way


async def test_a_kannel_mo_comes_by_get_with_a_secret_in_its_path(operators: Operators) -> None:
    target = f"/v1/callbacks/kannel/main/{PATH_SECRET}/messages?" + body("kannel/mo.query").decode()

    answer = await operators.client.get(target.replace("Join", "Arr%EAt"))

    assert (answer.status_code, answer.content) == (200, b"")
    (event,) = await operators.messages()
    assert (event.subject_id, event.short_code, event.provider_message_id) == (subject(1), "24453", "asdf-asdf")
    assert texts([event]) == [("stop", "Arrêt")]
    async with operators.surroundings.sql("inbound") as connection:
        row = await connection.fetchrow("SELECT * FROM callback")
    kept = field_keys.unseal(row["body"], f"callback:{row['id']}")
    assert kept == body("kannel/mo.query").decode().replace("Join", "Arr%EAt")


async def test_a_jasmin_mo_is_read_in_the_gsm_alphabet_and_hears_its_acknowledgement(operators: Operators) -> None:
    raw = body("jasmin/mo.form").replace(b"%05v%05nement", b"D%05sinscription")

    answer = await operators.client.post("/v1/callbacks/jasmin/main/messages", content=raw)

    assert (answer.status_code, answer.text) == (200, "ACK/Jasmin")
    assert texts(await operators.messages()) == [("stop", "Désinscription")]


async def test_what_octopush_takes_for_an_opt_out_is_one_whatever_it_says(operators: Operators) -> None:
    raw = body("octopush/mo-stop.json").replace(b'"stop"', '"ça suffira comme ça"'.encode())

    answer = await operators.octopush(raw)

    assert (answer.status_code, answer.content) == (200, b"")
    (event,) = await operators.messages()
    assert (event.intent, event.rule, event.score) == ("stop", "provider:octopush", 1.0)


async def test_an_mo_without_an_id_is_named_by_us_and_one_who_answers_twice_is_heard_twice(
    operators: Operators,
) -> None:
    path = f"/v1/callbacks/smsfactor/main/{PATH_SECRET}/messages"
    first = body("smsfactor/mo.json")
    second = first.replace(b"Webhooks are awesome!", b"STOP")

    for raw in (first, second, first, second):
        assert (await operators.client.post(path, content=raw)).status_code == 200

    events = await operators.messages()
    assert [intent for intent, _ in texts(events)] == ["none", "stop"]
    assert {event.short_code for event in events} == {"36111"}  # the account's: the callback does not say
    names = {event.provider_message_id for event in events}
    assert len(names) == 2
    guess = hashlib.sha256(second).hexdigest()
    assert not any(name.removeprefix("derived-") in guess for name in names)  # keyed: not to be found by trying numbers


async def test_a_stop_in_the_words_of_an_earlier_one_is_no_repetition_of_it(operators: Operators) -> None:
    """STOP, START, STOP: by Kannel's post-url an MO has no id, and its time is in a header alone."""
    path = f"/v1/callbacks/kannel/main/{PATH_SECRET}/messages"
    said = [(b"STOP", "10:00:00"), (b"START", "10:01:00"), (b"STOP", "10:02:00")]

    for text, at in [*said, *said]:
        headers = {"X-Kannel-From": number(1), "X-Kannel-To": "36111", "X-Kannel-Time": f"2026-03-01 {at}"}
        assert (await operators.client.post(path, content=text, headers=headers)).status_code == 200

    assert [intent for intent, _ in texts(await operators.messages())] == ["stop", "start", "stop"]


async def test_a_receipt_of_a_submit_names_the_recipient_by_a_pseudonym(operators: Operators) -> None:
    for person in (1, 2):
        raw = body("octopush/receipt.json").replace(b"33639980001", number(person).removeprefix("+").encode())
        assert (await operators.octopush(raw)).status_code == 200

    receipts = await operators.receipts()
    submit = "sms_0000000000000000000000"
    names = {f"{submit}/{subject_keys.of_text(number(n))}" for n in (1, 2)}
    assert {r.provider_message_id for r in receipts} == names
    people = [who for n in (1, 2) for who in (subject(n), subject_keys.inner(subject(n)))]
    assert not [who for who in people if any(who in name for name in names)], "no id of a person, nor the inner one"


async def test_an_ambiguous_code_blocks_and_is_no_opt_out(operators: Operators) -> None:
    target = f"/v1/callbacks/ovh/main/{PATH_SECRET}/receipts?" + body("ovh/receipt.constructed.query").decode()

    answer = await operators.client.get(target.replace("ptt=4", "ptt=23"))

    assert (answer.status_code, answer.text) == (200, "OK")
    (receipt,) = await operators.receipts()
    assert (receipt.state, receipt.code, receipt.blocked) == ("failed", "23", True)


async def test_one_mo_that_cannot_be_read_takes_no_other_with_it(operators: Operators) -> None:
    """It is refused by its place, each time, and the others are kept once."""
    one = json.loads(body("infobip/mo.json"))["results"][0]
    stop = {**one, "messageId": "m-2", "text": "STOP"}
    raw = json.dumps({"results": [{**one, "from": None}, stop, "no object"]}).encode()

    answers = [
        await operators.client.post(f"/v1/callbacks/infobip/main/{PATH_SECRET}/messages", content=raw) for _ in range(2)
    ]

    assert [answer.status_code for answer in answers] == [422, 422]
    (reason,) = answers[0].json()["reasons"]
    assert (reason["field"], reason["reason"]) == ("results.0.from", "not_a_string")
    (event,) = await operators.messages()
    assert (event.provider_message_id, event.intent) == ("m-2", "stop")


async def test_a_receipt_that_cannot_be_read_takes_no_other_with_it(operators: Operators) -> None:
    good = json.loads(body("infobip/receipts.json"))["results"][0]
    raw = json.dumps({"results": [good, {**good, "status": None}]}).encode()

    answer = await operators.client.post(f"/v1/callbacks/infobip/main/{PATH_SECRET}/receipts", content=raw)

    assert answer.status_code == 422
    assert [event.state for event in await operators.receipts()] == ["delivered"]


async def test_a_callback_nobody_documents_is_refused_and_says_where_the_gap_is(operators: Operators) -> None:
    answer = await operators.client.get(f"/v1/callbacks/ovh/main/{PATH_SECRET}/messages?message=STOP")

    assert (answer.status_code, answer.json()["reasons"][0]["reason"]) == (404, "undocumented")
    assert "polled" in answer.json()["detail"]


# Who may call


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("kannel/main/messages", "path_secret_wrong"),
        ("kannel/main/0000000000000000/messages", "path_secret_wrong"),
        (f"kannel/far/{PATH_SECRET}/messages", "address_not_allowed"),
        (f"jasmin/main/{PATH_SECRET}/messages", "path_secret_wrong"),
        ("vonage/main/messages", "signature_missing"),
    ],
)
async def test_who_may_not_call_is_refused_and_nothing_is_kept(operators: Operators, path: str, reason: str) -> None:
    answer = await operators.client.get(f"/v1/callbacks/{path}?" + body("kannel/mo.query").decode())

    assert (answer.status_code, answer.json()["reasons"][0]["reason"]) == (401, reason)
    async with operators.surroundings.sql("inbound") as connection:
        assert await connection.fetchval("SELECT count(*) FROM callback") == 0


@pytest.mark.parametrize("kind", ["messages", "receipts"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_check_of_a_vonage_url_is_a_success_and_nothing_is_kept(
    operators: Operators, method: str, kind: str
) -> None:
    answer = await operators.client.request(method, f"/v1/callbacks/vonage/main/{kind}")

    assert (answer.status_code, answer.content) == (204, b"")
    async with operators.surroundings.sql("inbound") as connection:
        assert await connection.fetchval("SELECT count(*) FROM callback") == 0


async def test_a_wrong_password_is_asked_for_again(operators: Operators) -> None:
    answer = await operators.client.post(
        "/v1/callbacks/octopush/main/messages", content=body("octopush/mo.json"), auth=("octopush", "guessed")
    )

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="callbacks"')


async def test_a_provider_that_posts_is_not_heard_by_get(operators: Operators) -> None:
    answer = await operators.client.get("/v1/callbacks/standard/main/messages?text=STOP")

    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


# Used once


def event(text: str) -> bytes:
    data = {"id": "in-1", "from": number(1), "to": "36111", "text": text, "sent_at": now().isoformat()}
    return json.dumps({"type": "message.received", "data": data}).encode()


async def test_an_event_sent_again_is_answered_and_one_with_its_id_and_another_body_is_refused(
    operators: Operators,
) -> None:
    raw, forged = event("STOP"), event("START")

    first = await operators.standard("msg_1", raw)
    retry = await operators.standard("msg_1", raw, kind="receipts")
    replay = await operators.standard("msg_1", forged)

    assert (first.status_code, retry.status_code) == (204, 204)
    assert (replay.status_code, replay.json()["reasons"][0]["reason"]) == (401, "nonce_used_before")
    assert texts(await operators.messages()) == [("stop", "STOP")]


async def test_a_nonce_of_plivo_v2_is_good_for_one_body(operators: Operators) -> None:
    mo = {"MessageUUID": "p-1", "From": number(1), "To": "36111", "Text": "hello"}

    first = await operators.plivo_v2("05429567804466091622", mo)
    forged = await operators.plivo_v2("05429567804466091622", {**mo, "MessageUUID": "p-2", "Text": "START"})

    assert (first.status_code, forged.status_code) == (200, 401)
    assert texts(await operators.messages()) == [("none", "hello")]


async def test_of_two_uses_of_a_nonce_at_once_one_is_heard(operators: Operators) -> None:
    mo = {"From": number(1), "To": "36111", "Text": "STOP"}

    answers = await asyncio.gather(*(operators.plivo_v2("n", {**mo, "MessageUUID": f"p-{i}"}) for i in range(6)))

    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401, 401]
    assert len(await operators.messages()) == 1


async def test_a_nonce_is_forgotten_once_its_time_is_over(operators: Operators) -> None:
    await operators.standard("msg_1", event("STOP"))
    async with operators.surroundings.sql("inbound") as connection:
        await connection.execute("UPDATE nonce SET forget_after = now() - interval '1 second'")
        await operators.standard("msg_2", event("hello"))
        left = await connection.fetchval("SELECT count(*) FROM nonce")

    assert left == 1


async def test_a_callback_that_was_not_kept_has_not_used_its_nonce(operators: Operators) -> None:
    async with operators.surroundings.sql("inbound") as connection:
        await connection.execute("ALTER TABLE callback RENAME TO away")
        assert (await operators.standard("msg_1", event("STOP"))).status_code == 503
        await connection.execute("ALTER TABLE away RENAME TO callback")

    assert (await operators.standard("msg_1", event("STOP"))).status_code == 204


# Long MOs


async def test_the_parts_of_a_long_mo_are_joined_in_whatever_order_they_come(operators: Operators) -> None:
    for place, text in ((3, " service client ?"), (1, "Bonjour, quand ouvre"), (2, " donc le")):
        assert (await operators.part(place, text)).status_code == 204

    events = await operators.messages()
    assert texts(events)[-1] == ("none", "Bonjour, quand ouvre donc le service client ?")
    assert [event.intent for event in events] == ["none"] * 4  # each part at once, and the whole
    async with operators.surroundings.sql("inbound") as connection:
        assert await connection.fetchval("SELECT count(*) FROM part") == 0


async def test_a_stop_in_a_part_counts_though_the_others_never_come(operators: Operators) -> None:
    await operators.part(2, "STOP")

    assert texts(await operators.messages()) == [("stop", "STOP")]


async def test_a_name_in_a_part_narrows_nothing_who_else_is_named_may_be_in_the_next(operators: Operators) -> None:
    await operators.part(1, "STOP Acme", total=2)
    await operators.part(2, " et Lune", total=2)

    part, _, whole = await operators.messages()
    assert (part.intent, part.named) == ("stop", "")
    assert field_keys.unseal(whole.named, f"named:{whole.mo_id}") == "acme et lune"


async def test_a_stop_that_is_cut_in_two_is_found_in_the_whole(operators: Operators) -> None:
    await operators.part(1, "désins", total=2)
    await operators.part(2, "cription", total=2)

    assert texts(await operators.messages())[-1] == ("stop", "désinscription")


async def test_a_start_that_is_cut_in_two_is_as_old_as_a_callback_of_its_account_may_be(operators: Operators) -> None:
    await operators.part(1, "STA", total=2)
    await operators.part(2, "RT", total=2)

    *_, whole = await operators.messages()
    assert (whole.intent, whole.received_at - whole.occurred_at) == ("start", timedelta(hours=1))


async def test_a_part_alone_loosens_nothing(operators: Operators) -> None:
    await operators.part(2, "START")
    await operators.part(3, "OUI")

    assert [event.intent for event in await operators.messages()] == ["none", "none"]


async def test_parts_that_come_again_change_nothing(operators: Operators) -> None:
    await operators.part(1, "désins", total=2)
    await operators.part(2, "cription", total=2)
    await operators.part(2, "cription", total=2)
    await operators.part(1, "désins", total=2)

    assert len(await operators.messages()) == 3


async def test_last_parts_that_come_at_once_do_not_miss_each_other(operators: Operators) -> None:
    pieces = ["désin", "scrip", "tion"]
    answers = await asyncio.gather(*(operators.part(place, text) for place, text in enumerate(pieces, 1)))

    assert {answer.status_code for answer in answers} == {204}
    assert [text for _, text in texts(await operators.messages())].count("désinscription") == 1


async def test_a_waiting_part_is_sealed_and_does_not_wait_for_ever(operators: Operators) -> None:
    await operators.part(1, "désins", total=2)
    async with operators.surroundings.sql("inbound") as connection:
        (row,) = await connection.fetch("SELECT * FROM part")
        await connection.execute("UPDATE part SET received_at = received_at - interval '25 hours'")
        await operators.part(2, "cription", total=2)
        left = await connection.fetchval("SELECT count(*) FROM part")

    assert "désins" not in repr(row)
    assert left == 1
    assert [text for _, text in texts(await operators.messages())] == ["désins", "cription"]
