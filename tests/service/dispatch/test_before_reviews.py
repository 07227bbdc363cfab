"""What a person was sent before a text in review: by a ticket of inbound-svc alone, for the platform's reviewers."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from msgspec.structs import replace

from common.db.database import Database
from common.privacy.sent_before import GOOD_FOR, Before, ticket
from dispatch.messages import store as messages
from dispatch.messages.row import MessageRow
from dispatch.projection import store as projection
from dispatch.service import Settings, build
from tests.support.builders import (
    CODES_SENDER,
    CODES_STOP_CODE,
    SENDER,
    STOP_CODE,
    codes_sender_changed,
    field_keys,
    number,
    sender_changed,
    shown,
    subject,
)
from tests.support.ledger import message
from tests.support.operators.http import TOKEN
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

OTHER = "atelier-lune"
REPLIED = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def client(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """The api role alone, with three senders, each with a code of its own."""
    settings = await surroundings.settings(
        "dispatch", roles="api", gateway_url="http://127.0.0.1:1", gateway_token=TOKEN
    )
    database = Database(settings["database_url"])
    async with database.begin() as tx:
        await projection.put_sender(tx, sender_changed())
        await projection.put_sender(tx, codes_sender_changed())
        other = {"sender_id": OTHER, "controller_id": OTHER, "organisation_id": "others", "stop_code": "36222"}
        await projection.put_sender(tx, sender_changed(**other))
    await database.close()
    async with running(build(Settings(**settings)), bearer()) as found:
        yield found


def left(text: str | None, before: timedelta = HOUR, n: int = 1, status: str = "accepted", **more: Any) -> MessageRow:
    """Return a message decided so long before the reply. The start of its hand-off is lost, as after a crash."""
    row = message(n, status, message_id=uuid4(), decided_at=REPLIED - before, **more)
    return replace(row, text=text and field_keys.seal(text, f"text:{row.message_id}"))


async def stored(surroundings: Surroundings, *rows: MessageRow) -> None:
    database = Database(await surroundings.database("dispatch"))
    for row in rows:
        async with database.begin() as tx:
            await messages.insert_messages(tx, [row])
    await database.close()


def named(n: int = 1, code: str = STOP_CODE, good_for: timedelta = GOOD_FOR, mo_id: str = "mo-1") -> str:
    until = datetime.now(UTC) + good_for
    return ticket(field_keys, Before(mo_id, subject(n), code, REPLIED, until))


async def asked(client: httpx.AsyncClient, *tickets: str, **more: Any) -> httpx.Response:
    return await client.post("/v1/messages/before-reviews", json={"sent_before": tickets}, **more)


async def texts(client: httpx.AsyncClient, *tickets: str) -> list[list[str | None]]:
    answer = await asked(client, *tickets)
    assert answer.status_code == 200, answer.text
    return [[each["text"] for each in item["messages"]] for item in answer.json()["items"]]


async def test_the_last_three_messages_before_the_text_are_shown_of_the_senders_of_its_code(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    await stored(
        surroundings,
        left("the fourth last", 4 * HOUR),
        left("the third last", 3 * HOUR, status="unknown"),
        left("the last", HOUR),
        left("the one before", 2 * HOUR),
        left("after the reply", -HOUR),
        left("never left", HOUR, status="denied"),
        left("another sender's", HOUR, sender_id=OTHER),
        left("another person's", HOUR, n=2),
    )
    assert await texts(client, named(), named(code="36222"), named(2), named(3)) == [
        ["the last", "the one before", "the third last"],
        ["another sender's"],
        ["another person's"],
        [],
    ]


async def test_a_message_that_was_decided_before_the_text_and_left_after_is_not_shown(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    waited, went = left("waited for its turn"), left("went at once", 2 * HOUR)
    await stored(surroundings, waited, went)
    async with surroundings.sql("dispatch") as sql:
        for row, at in ((waited, REPLIED + HOUR), (went, REPLIED - HOUR)):
            await sql.execute("UPDATE message SET handed_off_at = $1 WHERE message_id = $2", at, row.message_id)
    [item] = (await asked(client, named())).json()["items"]
    [shown_one] = item["messages"]
    assert shown_one["text"] == "went at once"
    assert datetime.fromisoformat(shown_one["sent_at"]) == REPLIED - HOUR


async def test_before_a_text_to_a_code_of_no_sender_the_messages_of_every_sender_are_shown(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    await stored(surroundings, left("ours", HOUR), left("another's", 2 * HOUR, sender_id=OTHER))
    answer = (await asked(client, named(code="36999"))).json()
    [item] = answer["items"]
    assert item["mo_id"] == "mo-1"
    assert [(each["sender_id"], each["subject_id"], each["text"]) for each in item["messages"]] == [
        (SENDER, shown(1), "ours"),
        (OTHER, shown(1, OTHER), "another's"),
    ]
    assert number(1) not in str(answer)
    assert subject(1) not in str(answer)


async def test_no_code_that_may_be_valid_and_no_erased_text_is_shown(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    code = left("Votre code : 482 913", sender_id=CODES_SENDER, category="transactional", purpose=None)
    await stored(surroundings, code, left("-20 % samedi"), left(None, 2 * HOUR))
    [[masked], [whole, erased]] = await texts(client, named(code=CODES_STOP_CODE), named())
    assert (masked, whole, erased) == ("Votre code : ••• •••", "-20 % samedi", None)


async def test_a_ticket_of_another_key_or_purpose_and_an_old_one_show_nothing(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    await stored(surroundings, left("ours"))
    elsewhere = field_keys.seal('{"mo_id":"mo-1"}', f"text:{UUID(int=1)}")
    for wrong in ("forged", named()[:-3] + "AAA", named(good_for=timedelta(seconds=-1)), elsewhere):
        answer = await asked(client, named(), wrong)
        assert (answer.status_code, answer.json()["reasons"][0]) == (
            422,
            {"field": "sent_before[1]", "reason": "no_ticket", "detail": None},
        ), answer.text
        assert "ours" not in answer.text


async def test_only_a_reviewer_of_the_platform_asks_and_the_audit_log_has_the_person(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    await stored(surroundings, left("ours"))
    tenant = bearer(scope=ALL_SCOPES.replace(" platform:admin", ""))
    limited = bearer(senders=[SENDER])
    other_scope = bearer(scope=ALL_SCOPES.replace(" review:read", ""))
    for token in (tenant, limited, other_scope):
        assert (await asked(client, named(), headers=token)).status_code == 403
    assert await texts(client, named()) == [["ours"]]
    lines = (await client.get("/v1/audit?limit=1000")).json()["items"]
    found = [line for line in lines if line["route"].endswith("/before-reviews") and line["verdict"] == "allowed"]
    assert [(line["kind"], line["people"], line["subject_id"]) for line in found] == [("read", 1, shown(1))]
