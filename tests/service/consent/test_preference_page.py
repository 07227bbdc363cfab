"""The preference page, as a person meets it: in a real Chromium, its scripts switched off."""

import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, expect

from consent.service import Settings, build
from tests.browser import person, violations
from tests.running import Surroundings, bearer, serving

NUMBER = "06 39 98 12 34"
SHOWN = "Oui, je veux recevoir les offres de Maison Lune par SMS. STOP au 36111 à tout moment."
SENDER: dict[str, Any] = {
    "sender_id": "maison-lune",
    "legal_name": "Maison Lune SAS",
    "brand": "Maison Lune",
    "contact": "contact@maison-lune.example",
    "country": "FR",
    "oadc": "MAISONLUNE",
    "stop_code": "36111",
    "purposes": [
        {"id": "promotions", "wording": "Nos offres et nos ventes privées"},
        {"id": "loyalty", "wording": "Votre carte de fidélité"},
    ],
}
OTHER = SENDER | {"sender_id": "cafe-zinc", "brand": "Café Zinc", "legal_name": "Zinc SARL", "oadc": "CAFEZINC"}


@dataclass(frozen=True)
class Service:
    """The api role alone, over real HTTP; `api` is an internal service that calls it."""

    url: str
    api: httpx.AsyncClient
    surroundings: Surroundings

    async def consent(self, purpose: str = "promotions", sender_id: str = "maison-lune") -> None:
        body = {
            "sender_id": sender_id,
            "purpose": purpose,
            "number": NUMBER,
            "occurred_at": "2026-03-02T14:05:00+01:00",
            "evidence": {"source": "form", "form_id": "checkout", "form_version": "7", "text_shown": SHOWN},
        }
        assert (await self.api.post("/v1/consents", json=body)).status_code == 201

    async def link(self, number: str = NUMBER, sender_id: str | None = "maison-lune", **more: Any) -> str:
        answer = await self.api.post(
            "/v1/preference-links", json={"sender_id": sender_id, "number": number, **more.pop("body", {})}, **more
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["url"])

    async def held(self, number: str = NUMBER) -> dict[str, Any]:
        answer = await self.api.post("/v1/subjects/lookup", json={"number": number})
        found: dict[str, Any] = answer.json()
        return found

    async def states(self) -> dict[tuple[str, str], str]:
        return {(c["sender_id"], c["purpose"]): c["state"] for c in (await self.held())["consents"]}

    async def lines(self) -> int:
        async with self.surroundings.sql("consent") as sql:
            return int(await sql.fetchval("SELECT count(*) FROM evidence"))


@pytest.fixture
async def service(surroundings: Surroundings) -> AsyncIterator[Service]:
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{at.getsockname()[1]}"
        settings = Settings(**await surroundings.settings("consent", roles="api", page_url=url))
        async with serving(build(settings), at), httpx.AsyncClient(base_url=url, headers=bearer()) as api:
            for sender in (SENDER, OTHER):
                assert (await api.post("/v1/senders", json=sender)).status_code == 201
            yield Service(url, api, surroundings)


async def test_a_person_reads_what_is_held_and_stops_everything_with_one_press(
    service: Service, browser: Browser
) -> None:
    await service.consent()
    async with person(browser) as visit:
        page = visit.page
        await page.goto(await service.link())
        await expect(page).to_have_title("Vos SMS de Maison Lune")
        await expect(page.get_by_text("Numéro se terminant par 34")).to_be_visible()
        await expect(page.get_by_text("Oui, depuis le 2 mars 2026")).to_be_visible()
        await page.get_by_text("D’où vient ce choix").first.click()
        await expect(page.get_by_text(SHOWN)).to_be_visible()
        assert "9812" not in re.sub(r"\W", "", await page.content())

        await page.get_by_role("button", name="Arrêter tous les SMS de Maison Lune").click()
        await expect(page.get_by_role("status")).to_contain_text("C’est arrêté")
        await expect(page.get_by_role("button", name=re.compile("Arrêter"))).to_have_count(0)
        assert visit.complaints == []
        assert {request.split("/")[2] for request in visit.requests if not request.startswith("data:")} == {
            service.url.removeprefix("http://")
        }
    assert await service.states() == {("maison-lune", "promotions"): "opted_out"}
    [_, stop] = (await service.held())["history"]
    assert (stop["source"], stop["sender_id"], stop["purpose"]) == ("preference_page", "maison-lune", None)


async def test_reading_the_page_changes_nothing_however_often_and_by_whom(service: Service) -> None:
    await service.consent()
    before = await service.lines()
    url = await service.link()
    async with httpx.AsyncClient() as scanner:
        for path in ("", "?lang=en", "/stop", "/purposes", "/copy", "/erase"):
            answer = await scanner.get(url + path)
            assert answer.status_code in (200, 404, 405)
    assert await service.lines() == before
    assert await service.states() == {("maison-lune", "promotions"): "opted_in"}


async def test_a_link_for_one_sender_shows_and_stops_no_other(service: Service, browser: Browser) -> None:
    await service.consent()
    await service.consent(sender_id="cafe-zinc")
    async with person(browser) as visit:
        await visit.page.goto(await service.link())
        assert "Zinc" not in await visit.page.content()
        await visit.page.get_by_role("button", name=re.compile("Arrêter")).click()
        await expect(visit.page.get_by_role("status")).to_be_visible()
    assert await service.states() == {
        ("cafe-zinc", "promotions"): "opted_in",
        ("maison-lune", "promotions"): "opted_out",
    }


async def test_a_link_for_every_sender_shows_each_and_stops_them_all(service: Service, browser: Browser) -> None:
    await service.consent()
    await service.consent(sender_id="cafe-zinc")
    async with person(browser) as visit:
        await visit.page.goto(await service.link(sender_id=None))
        assert await visit.page.get_by_role("heading", level=3).all_text_contents() == ["Café Zinc", "Maison Lune"]
        await visit.page.get_by_role("button", name="Arrêter tous les SMS publicitaires").click()
        await expect(visit.page.get_by_role("status")).to_contain_text("Plus aucun SMS publicitaire")
    assert set((await service.states()).values()) == {"opted_out"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("language", ["fr-FR", "en-GB"])
async def test_the_page_meets_wcag_2_2_aa_before_and_after_a_stop(
    service: Service, browser: Browser, scheme: Any, language: str
) -> None:
    await service.consent()
    url = await service.link(sender_id=None)
    async with person(browser, locale=language, color_scheme=scheme, java_script_enabled=True) as visit:
        await visit.page.goto(url)
        for summary in await visit.page.locator("summary").all():
            await summary.click()
        assert await violations(visit.page) == []
        await visit.page.locator("button.strong").click()
        await expect(visit.page.get_by_role("status")).to_be_visible()
        assert await violations(visit.page) == []
        await visit.page.goto(url[:-4] + "AAAA")
        assert await violations(visit.page) == []


async def test_a_forged_or_altered_link_opens_nothing_and_tells_nothing(service: Service) -> None:
    await service.consent()
    url = await service.link()
    head, token = url.rsplit("/", 1)
    swapped = "A" if token[10] != "A" else "B"
    async with httpx.AsyncClient() as stranger:
        for forged in ("A" * 28, token[:10] + swapped + token[11:], token[:-1], token + "A", "%00" * 9, "é" * 28):
            for method, path in (("GET", ""), ("POST", "/stop")):
                answer = await stranger.request(method, f"{head}/{forged}{path}")
                assert answer.status_code == 404, forged
                assert answer.headers["content-type"] == "text/html; charset=utf-8"
                assert "Maison Lune" not in answer.text
                assert "STOP" in answer.text
    assert await service.states() == {("maison-lune", "promotions"): "opted_in"}


async def test_an_expired_link_opens_nothing_even_where_its_row_is_still_there(service: Service) -> None:
    await service.consent()
    url = await service.link(body={"days": 1})
    past = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)
    async with service.surroundings.sql("consent") as sql:
        await sql.execute("UPDATE preference_link SET expires_at = $1", past)
    async with httpx.AsyncClient() as late:
        for method, path in (("GET", ""), ("POST", "/stop")):
            answer = await late.request(method, url + path)
            assert answer.status_code == 410
            assert "Maison Lune" not in answer.text
    assert await service.states() == {("maison-lune", "promotions"): "opted_in"}


async def test_a_stop_posted_from_another_site_is_refused(service: Service) -> None:
    await service.consent()
    url = await service.link()
    async with httpx.AsyncClient() as lured:
        for site in ("cross-site", "same-site"):
            answer = await lured.post(url + "/stop", headers={"Sec-Fetch-Site": site})
            assert answer.status_code == 403
    assert await service.states() == {("maison-lune", "promotions"): "opted_in"}


async def test_a_stop_counts_whatever_else_the_form_holds(service: Service) -> None:
    await service.consent()
    async with httpx.AsyncClient() as odd:
        answer = await odd.post(await service.link() + "/stop", content=b"lang=xx&lang=%ff%fe&=&a=b" + b"&c=d" * 200)
    assert answer.status_code == 303
    assert await service.states() == {("maison-lune", "promotions"): "opted_out"}


async def test_every_answer_forbids_scripts_frames_caches_and_referrers(service: Service) -> None:
    url = await service.link()
    async with httpx.AsyncClient() as client:
        for answer in (await client.get(url), await client.get(url[:-1]), await client.post(url + "/stop")):
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
            assert "unsafe" not in answer.headers["content-security-policy"]
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "<script" not in answer.text


async def test_the_same_request_with_its_key_gets_the_same_link(service: Service) -> None:
    key = {"Idempotency-Key": "link-1"}
    first, again = await service.link(headers=key), await service.link(headers=key)
    assert first == again
    assert await service.link(number="06 39 98 12 35", headers=key) != first
    assert await service.link() != await service.link()


@pytest.mark.parametrize(
    ("body", "claims", "status", "reason"),
    [
        ({"sender_id": "nobody"}, {}, 404, ("sender_id", "unknown_sender")),
        ({"number": "01 23 45 67 89"}, {}, 422, ("number", "not_mobile")),
        ({"days": 0}, {}, 422, ("days", "greater_than_equal")),
        ({"days": 91}, {}, 422, ("days", "less_than_equal")),
        ({}, {"senders": ["cafe-zinc"]}, 403, ("sender_id", "sender_not_granted")),
        ({"sender_id": None}, {"senders": ["maison-lune"]}, 403, ("sender_id", "sender_not_granted")),
        ({}, {"scope": "consent:read"}, 403, ("scope", "scope_missing")),
    ],
)
async def test_a_link_is_not_made_for(
    service: Service, body: dict[str, Any], claims: dict[str, Any], status: int, reason: tuple[str, str]
) -> None:
    wanted = {"sender_id": "maison-lune", "number": NUMBER} | body
    answer = await service.api.post("/v1/preference-links", json=wanted, headers=bearer(**claims))
    assert answer.status_code == status
    assert [(r["field"], r["reason"]) for r in answer.json()["reasons"]] == [reason]


async def test_no_caller_passes_evidence_off_as_the_page_s(service: Service) -> None:
    body = {
        "sender_id": "maison-lune",
        "purpose": "promotions",
        "number": NUMBER,
        "occurred_at": "2026-03-02T14:05:00+01:00",
        "evidence": {"source": "preference_page", "text_shown": SHOWN},
    }
    answer = await service.api.post("/v1/consents", json=body)
    assert answer.status_code == 422
    assert answer.json()["reasons"][0]["field"] == "evidence.source"
