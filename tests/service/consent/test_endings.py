"""Which consents end soon, over HTTP, as marketing meets it: in time to win people back, without a number."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from common.web.pagination import next_of
from consent.ledger.retention import after_months
from consent.service import Settings, build
from tests.service.consent.test_consent_api import NUMBER, SENDER, consent, reasons
from tests.support.builders import called, edge_ids, subject_keys
from tests.support.running import Surroundings, bearer, running

pytestmark = pytest.mark.brokerless

NOW = datetime.now(UTC).replace(day=1)  # not every month has a 29th
TEN = [f"06 39 98 10 {n:02}" for n in range(10)]


def last(months: int) -> str:
    """Said so long ago that of its six months so many are left."""
    return after_months(NOW, months - 6).isoformat()


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[httpx.AsyncClient]:
    """The api role alone. Acme keeps promotions for six months: ten end in one, one in three, one in a year (its
    neighbour's)."""
    settings = Settings(**await surroundings.settings("consent", roles="api"))
    async with running(build(settings)) as client:
        purposes = [{"id": "promotions", "wording": "Nos offres", "retention_months": 6}]
        for sender_id in ("acme", "globex"):
            sender = called(SENDER, sender_id) | {"purposes": purposes}
            assert (await client.post("/v1/senders", json=sender)).status_code == 201
        said = [consent(number=number, occurred_at=last(1)) for number in TEN]
        said += [consent(occurred_at=last(3)), consent(sender_id="globex", occurred_at=last(1))]
        answer = await client.post("/v1/consents/batch", json={"items": said})
        assert answer.json()["counts"]["recorded"] == 12
        yield client


async def get(service: httpx.AsyncClient, path: str = "", **more: Any) -> Any:
    answer = await service.get(f"/v1/senders/acme/endings{path}", **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_what_ends_is_counted_by_month_and_listed_page_by_page_without_a_number(
    service: httpx.AsyncClient,
) -> None:
    counts = {m["month"][:7]: m["consents"] for m in (await get(service, "/months", params={"months": 5}))["items"]}
    assert counts == {after_months(NOW, n).strftime("%Y-%m"): many for n, many in ((1, 10), (3, 1))}
    seen: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await get(service, params={"months": 2, "limit": 4} | cursor)
        seen += page["items"]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert len({item["subject_id"] for item in seen}) == len(seen) == 10
    assert [item["ends_at"] for item in seen] == sorted(item["ends_at"] for item in seen)
    assert "3363998" not in str(seen)
    assert len((await get(service, params={"months": 4}))["items"]) == 11
    await service.post("/v1/opt-outs", json={"sender_id": "acme", "number": TEN[0], "evidence": {"source": "shop"}})
    await service.post(
        "/v1/interactions",
        json={
            "items": [
                {
                    "sender_id": "acme",
                    "number": TEN[1],
                    "occurred_at": NOW.isoformat(),
                    "evidence": {"source": "shop", "sale_reference": "1"},
                }
            ]
        },
    )
    assert len((await get(service, params={"months": 2}))["items"]) == 8


async def test_people_of_one_end_have_another_rank_with_each_sender_on_every_page(service: httpx.AsyncClient) -> None:
    """By the rank two organisations could join the people that both know."""
    said = [consent(sender_id="globex", number=number, occurred_at=last(1)) for number in TEN]
    assert (await service.post("/v1/consents/batch", json={"items": said})).status_code == 200
    people = [subject_keys.subject_id("+33" + number.replace(" ", "")[1:]) for number in TEN]
    ranks: list[list[int]] = []
    for sender_id in ("acme", "globex"):
        controller = (await service.get(f"/v1/senders/{sender_id}")).json()["controller"]
        shown = [edge_ids.of(controller).shown(subject_id) for subject_id in people]
        seen, cursor = list[str](), dict[str, str]()
        while True:
            answer = await service.get(
                f"/v1/senders/{sender_id}/endings", params={"months": "2", "limit": "3"} | cursor
            )
            page = answer.json()
            seen += [item["subject_id"] for item in page["items"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        ranks.append([shown.index(one) for one in seen if one in shown])
    assert sorted(ranks[0]) == sorted(ranks[1]) == list(range(10))
    assert ranks[0] != ranks[1]
    assert sorted(people) not in [[people[place] for place in each] for each in ranks]


async def test_only_who_reads_consent_of_that_sender_is_told_and_a_cursor_is_ours(service: httpx.AsyncClient) -> None:
    path = "/v1/senders/acme/endings"
    for headers in (bearer(scope="consent:write"), bearer(scope="consent:read", senders=["globex"])):
        for what in ("", "/months"):
            assert (await service.get(path + what, headers=headers)).status_code == 403
    assert (await service.get("/v1/senders/nowhere/endings")).status_code == 404
    for key in (7, "x", ("2026-01-01T00:00:00Z", "b"), ("2026-01-01T00:00:00Z", "b\x00", "c")):
        cursor = next_of([key], 1, lambda each: each)
        wrong = await service.get(path, params={"cursor": cursor})
        assert (wrong.status_code, reasons(wrong)) == (422, [("cursor", "not_valid")])
    assert NUMBER not in (await service.get(path)).text
