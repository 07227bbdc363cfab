"""Messages in lists and sums over HTTP: of a sender by time, of a person, by day and by week."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from common.db.database import Database
from dispatch.messages import store as messages
from dispatch.messages.row import MessageRow
from dispatch.projection import store as projection
from dispatch.service import Settings, build
from tests.support.builders import SENDER, number, sender_changed, shown, subject
from tests.support.ledger import message, receipted
from tests.support.operators.http import TOKEN
from tests.support.running import ALL_SCOPES, Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

OTHER, STRANGERS = "atelier-lune", "beta"
TENANT = ALL_SCOPES.replace(" platform:admin", "")
STRANGER = bearer(organisation="strangers", scope=TENANT)
START = datetime(2026, 3, 2, 22, 30, tzinfo=UTC)  # a Monday; 23:30 in Paris
DAY = timedelta(days=1)
MARCH = {"since": "2026-03-01T00:00:00Z", "until": "2026-04-01T00:00:00Z"}


@pytest.fixture
async def client(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """The api role alone, with two senders of ours and one of the strangers'."""
    settings = await surroundings.settings(
        "dispatch", roles="api", gateway_url="http://127.0.0.1:1", gateway_token=TOKEN
    )
    database = Database(settings["database_url"])
    async with database.begin() as tx:
        for sender_id, more in ((SENDER, {}), (OTHER, {}), (STRANGERS, {"organisation_id": "strangers"})):
            await projection.put_sender(tx, sender_changed(sender_id=sender_id, controller_id=sender_id, **more))
    await database.close()
    async with running(build(Settings(**settings)), bearer(scope=TENANT)) as found:
        yield found


async def stored(surroundings: Surroundings, *rows: MessageRow) -> list[str]:
    database = Database(await surroundings.database("dispatch"))
    for row in rows:
        async with database.begin() as tx:
            await messages.insert_messages(tx, [row])
            if row.receipt is not None:
                told = [receipted(row.message_id, receipt=row.receipt, proves=False)]
                await messages.put_receipts(tx, told)
    await database.close()
    return [str(row.message_id) for row in rows]


def of(n: int, status: str = "accepted", at: datetime = START, **more: Any) -> MessageRow:
    due = at if status in ("pending", "deferred") else None
    return message(n, status, **{"message_id": uuid4(), "requested_at": at, "sender_id": SENDER, "due_at": due, **more})


async def pages(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **params: Any) -> list[Any]:
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await client.get("/v1/messages", params={**MARCH, **params, "limit": 2} | cursor, headers=headers)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        if answer.json()["next"] is None:
            return found
        cursor = {"cursor": answer.json()["next"]}


def ids(found: list[Any]) -> list[str]:
    return [each["message_id"] for each in found]


@pytest.mark.usefixtures("strangers")
async def test_a_sender_s_messages_are_listed_newest_first_and_narrowed_by_campaign_status_and_time(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    made = await stored(
        surroundings,
        of(1, campaign_id="cmp-1"),
        of(2, "rejected", START + DAY, campaign_id="cmp-1"),
        of(3, "pending", START + 2 * DAY, campaign_id=None),
        of(4, at=START + 3 * DAY, campaign_id=None, segments=2, cost=820, prices="p-1"),
        of(5, sender_id=OTHER),
        of(6, sender_id=STRANGERS),
        of(7, at=START - 30 * DAY),
    )
    found = await pages(client, sender_id=SENDER)
    assert ids(found) == [made[3], made[2], made[1], made[0]]
    assert await pages(client, sender_id=SENDER, sort="oldest") == found[::-1]
    assert (found[0]["subject_id"], found[0]["segments"], found[0]["cost"]) == (shown(4), 2, "0.0820")
    assert "3363998" not in str(found)
    assert ids(await pages(client, sender_id=SENDER, campaign_id="cmp-1")) == [made[1], made[0]]
    assert ids(await pages(client, sender_id=SENDER, status="rejected")) == [made[1]]
    within: dict[str, Any] = {"since": (START + DAY).isoformat(), "until": (START + 3 * DAY).isoformat()}
    assert ids(await pages(client, sender_id=SENDER, **within)) == [made[2], made[1]]
    for sender_id in (STRANGERS, "nobody"):
        assert (await client.get("/v1/messages", params={"sender_id": sender_id})).status_code == 404
    assert (await client.get("/v1/messages")).status_code == 422, "a list is one sender's"


async def test_messages_requested_at_one_instant_are_listed_once_each(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    made = await stored(surroundings, *(of(n) for n in range(1, 8)))
    found = ids(await pages(client, sender_id=SENDER))
    assert sorted(found) == sorted(made)
    assert ids(await pages(client, sender_id=SENDER, sort="oldest")) == found[::-1]
    async with surroundings.sql("dispatch") as sql:
        await sql.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        plan = await sql.fetch(
            "EXPLAIN SELECT * FROM message WHERE sender_id = 'a' AND requested_at >= now() ORDER BY requested_at DESC,"
            " message_id DESC LIMIT 9"
        )
    assert "message_sender_ix" in str(plan)


@pytest.mark.usefixtures("strangers")
async def test_a_person_s_messages_are_found_by_the_number_in_the_body(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    made = await stored(
        surroundings,
        of(1),
        of(1, at=START + DAY, sender_id=OTHER),
        of(1, at=START + 2 * DAY, sender_id=STRANGERS),
        of(2),
    )

    async def search(headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        return await client.post("/v1/messages/search", json={"number": number(1), **body}, headers=headers)

    first = (await search(limit=1)).json()
    assert ids(first["items"]) == [made[1]]
    second = (await search(limit=1, cursor=first["next"])).json()
    assert ids(second["items"]) == [made[0]]
    assert (await search(limit=1, cursor=second["next"])).json() == {"items": [], "next": None}
    told = {each["sender_id"]: each["subject_id"] for each in [*first["items"], *second["items"]]}
    assert told == {SENDER: shown(1), OTHER: shown(1, OTHER)}, "an id for each controller"
    assert ids((await search(sender_id=OTHER)).json()["items"]) == [made[1]]
    assert ids((await search(STRANGER)).json()["items"]) == [made[2]]
    assert (await search(sender_id=STRANGERS)).status_code == 404
    assert subject(1) not in (await search()).text
    assert (await search(number="12")).status_code == 422


async def test_a_list_tells_no_reason_that_another_controller_s_data_explains(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    await stored(surroundings, of(1, "denied", reasons=("no_consent", "other_controller")))
    [found] = await pages(client, sender_id=SENDER)
    assert found["reasons"] == ["no_consent"]
    [whole] = await pages(client, bearer(), sender_id=SENDER)
    assert whole["reasons"] == ["no_consent", "other_controller"], "the platform's operator sees each reason"


async def totals(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await client.get("/v1/reports/totals", params={**MARCH, **params})
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    for each in items:
        parts = ("pending", "denied", "deferred", "expired", "accepted", "rejected", "unknown")
        assert each["messages"] == sum(each[part] for part in parts)
    return items


async def test_totals_add_up_by_day_and_by_week_in_the_time_zone_asked_for(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    charged: dict[str, Any] = {"segments": 2, "cost": 820, "prices": "p-1"}
    await stored(
        surroundings,
        of(1, **charged),
        of(2, "rejected", **charged),
        of(3, "unknown", segments=1),
        of(4, "denied", at=START + timedelta(hours=1)),  # 00:30 on Tuesday in Paris
        of(5, at=START + 6 * DAY, receipt="delivered", **charged),  # Sunday
        of(6, at=START + 7 * DAY, receipt="failed", **charged),
        of(7, sender_id=OTHER, category="transactional"),
        of(8, sender_id=STRANGERS),
    )
    by_day = await totals(client, sender_id=SENDER)
    assert [
        (each["begins"], each["messages"], each["segments"], each["cost"], each["unpriced"]) for each in by_day
    ] == [
        ("2026-03-02", 4, 3, "0.0820", 1),
        ("2026-03-08", 1, 2, "0.0820", 0),
        ("2026-03-09", 1, 2, "0.0820", 0),
    ]
    in_paris = await totals(client, sender_id=SENDER, time_zone="Europe/Paris")
    assert [(each["begins"], each["messages"]) for each in in_paris][:2] == [("2026-03-02", 3), ("2026-03-03", 1)]
    by_week = await totals(client, by="week")
    assert [(each["begins"], each["sender_id"], each["category"], each["messages"]) for each in by_week] == [
        ("2026-03-02", OTHER, "transactional", 1),
        ("2026-03-02", SENDER, "marketing", 5),
        ("2026-03-09", SENDER, "marketing", 1),
    ]
    assert [(each["delivered"], each["undelivered"]) for each in by_week] == [(0, 0), (1, 0), (0, 1)]
    for wrong in ({"time_zone": "Lune/Base"}, {"since": "2025-03-01T00:00:00Z"}, {"by": "month"}):
        assert (await client.get("/v1/reports/totals", params={**MARCH, **wrong})).status_code == 422


async def test_a_person_s_timeline_has_messages_and_receipts_of_ones_own_senders(
    client: httpx.AsyncClient, surroundings: Surroundings
) -> None:
    [first, denied, _] = await stored(
        surroundings,
        of(1, receipt="delivered"),
        of(1, "denied", START + DAY, reasons=("no_consent", "other_controller"), sender_id=OTHER),
        of(1, sender_id=STRANGERS),
    )

    async def timeline(**more: Any) -> Any:
        answer = await client.post("/v1/timeline", json={"number": number(1), **more})
        assert answer.status_code == 200, answer.text
        return answer.json()

    found = await timeline()
    told = [(each["kind"], each["id"], each["status"], each["detail"]) for each in found["items"]]
    assert told == [
        ("receipt", first, "delivered", None),
        ("message", denied, "denied", "no_consent"),
        ("message", first, "accepted", None),
    ]
    assert [each["subject_id"] for each in found["items"]] == [shown(1), shown(1, OTHER), shown(1)]
    assert found["whole"]
    assert not (await timeline(limit=1))["whole"]
