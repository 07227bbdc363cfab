"""The preference page, as a person meets it: in a real Chromium, its scripts switched off."""

import asyncio
import csv
import json
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from playwright.async_api import Browser, Page, expect

from common.contracts.campaign import MessageRequested
from common.db.database import Database
from common.keyring import LinkKeys
from common.privacy import stop_link
from common.settings import KeyRingSettings
from common.sms.sms_length import length
from consent.ledger import store
from consent.ledger.recorder import Statement, record
from consent.page.link import Link, token
from consent.page.link import form as link_form
from consent.service import Settings, build
from tests.support.browser import person, violations
from tests.support.builders import field_keys, inner, link_keys, subject_keys
from tests.support.each_of import each_of
from tests.support.eventually import WITHIN_S, eventually
from tests.support.running import KEY_RING, Surroundings, bearer, serving
from tests.unit.consent.evidences import on_page, opt_in

pytestmark = pytest.mark.brokerless

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


def consent(**more: Any) -> dict[str, Any]:
    body = {
        "sender_id": "maison-lune",
        "purpose": "promotions",
        "number": NUMBER,
        "occurred_at": "2026-03-02T14:05:00+01:00",
        "evidence": {"source": "form", "form_id": "checkout", "form_version": "7", "text_shown": SHOWN},
    }
    return body | more


@dataclass(frozen=True)
class Service:
    """The api role alone, over real HTTP; `api` is an internal service that calls it."""

    url: str
    api: httpx.AsyncClient
    surroundings: Surroundings

    async def consent(self, purpose: str = "promotions", sender_id: str = "maison-lune") -> None:
        body = consent(purpose=purpose, sender_id=sender_id)
        assert (await self.api.post("/v1/consents", json=body)).status_code == 201

    async def comes_back(self) -> None:
        """The person opts in on the page, just now: a caller's word takes back no STOP of theirs."""
        who, now = (await self.held())["subject_id"], datetime.now(UTC)
        given = on_page(sender_id="maison-lune", evidence_id=f"ev-{now}", occurred_at=now, received_at=now)
        database = Database(await self.surroundings.database("consent"), pool_size=1)
        async with database.begin() as tx:
            await record(tx, inner, [Statement(who, None, given)], now)
        await database.close()

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
        async with (
            serving(build(settings), at),
            httpx.AsyncClient(base_url=url, headers=bearer(), timeout=WITHIN_S) as api,
        ):
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
    async with httpx.AsyncClient(timeout=WITHIN_S) as scanner:
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
        brands = visit.page.get_by_role("region", name="Vos choix").get_by_role("heading", level=3)
        assert await brands.all_text_contents() == ["Café Zinc", "Maison Lune"]
        await visit.page.get_by_role("button", name="Arrêter tous les SMS publicitaires").click()
        await expect(visit.page.get_by_role("status")).to_contain_text("Plus aucun SMS publicitaire")
    assert set((await service.states()).values()) == {"opted_out"}


async def test_a_stop_to_another_brand_of_the_same_house_shows_on_the_page_of_this_one(
    service: Service, browser: Browser
) -> None:
    sister = SENDER | {"sender_id": "lune-bebe", "brand": "Lune Bébé", "oadc": "LUNEBEBE", "controller": "maison-lune"}
    assert (await service.api.post("/v1/senders", json=sister)).status_code == 201
    await service.consent(sender_id="lune-bebe")
    await service.consent()
    async with person(browser) as visit:
        url = await service.link(sender_id="lune-bebe")
        await visit.page.goto(url)
        await expect(visit.page.get_by_text("L’arrêt vaut pour toutes les marques de Maison Lune SAS.")).to_be_visible()
        everything = {"sender_id": "maison-lune", "number": NUMBER, "evidence": {"source": "desk"}}
        assert (await service.api.post("/v1/opt-outs", json=everything)).status_code == 201
        await visit.page.reload()
        await expect(visit.page.get_by_role("status")).to_contain_text("Lune Bébé ne vous enverra plus")
        await visit.page.get_by_text("L’historique complet").click()
        await expect(visit.page.get_by_text("Stop à tous les SMS de Maison Lune")).to_be_visible()
        assert "Oui à « Nos offres" in (await visit.page.locator(".history").inner_text()).replace("\u00a0", " ")


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
        await visit.page.goto(url)
        await visit.page.locator(".act summary").last.click()
        await visit.page.locator("#sure").check()
        await visit.page.locator("form[action$='/erase'] button").click()
        await expect(visit.page.get_by_role("status")).to_be_visible()
        assert await violations(visit.page) == []


async def test_a_forged_or_altered_link_opens_nothing_and_tells_nothing(service: Service) -> None:
    await service.consent()
    url = await service.link()
    head, written = url.rsplit("/", 1)
    swapped = "A" if written[10] != "A" else "B"
    async with httpx.AsyncClient(timeout=WITHIN_S) as stranger:
        for forged in (
            "A" * 28,
            written[:10] + swapped + written[11:],
            written[:-1],
            written + "A",
            "%00" * 9,
            "é" * 28,
        ):
            for method, path in (("GET", ""), ("POST", "/stop")):
                answer = await stranger.request(method, f"{head}/{forged}{path}")
                assert answer.status_code == 404, forged
                assert "Maison Lune" not in answer.text
                if "%00" not in forged:  # which no page is called by
                    assert answer.headers["content-type"] == "text/html; charset=utf-8"
                    assert "STOP" in answer.text
    assert await service.states() == {("maison-lune", "promotions"): "opted_in"}


async def test_an_expired_link_opens_nothing_even_where_its_row_is_still_there(service: Service) -> None:
    await service.consent()
    url = await service.link()
    past = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)
    async with service.surroundings.sql("consent") as sql:
        link_id = await sql.fetchval("UPDATE preference_link SET expires_at = $1 RETURNING link_id", past)
    expired = token(Link(link_id, past), LinkKeys(KeyRingSettings.model_validate(KEY_RING), subject_keys))
    async with httpx.AsyncClient(timeout=WITHIN_S) as late:
        for written in (expired, url.rsplit("/", 1)[1]):  # the other one holds, and is not the one that was made
            for method, path in (("GET", ""), ("POST", "/stop")):
                answer = await late.request(method, f"{service.url}/p/{written}{path}")
                assert answer.status_code == 410
                assert "Maison Lune" not in answer.text
    assert await service.states() == {("maison-lune", "promotions"): "opted_in"}


async def test_a_second_stop_from_a_page_left_open_counts_as_much_as_the_first(service: Service) -> None:
    url = await service.link()
    async with httpx.AsyncClient(timeout=WITHIN_S) as tab:
        for _ in range(2):
            await service.comes_back()
            assert set((await service.states()).values()) == {"opted_in"}
            assert (await tab.post(url + "/stop", data={"lang": "fr"})).status_code == 303
            assert set((await service.states()).values()) == {"opted_out"}


async def test_a_stop_posted_from_another_site_is_refused(service: Service) -> None:
    await service.consent()
    url = await service.link()
    async with httpx.AsyncClient(timeout=WITHIN_S) as lured:
        for site in ("cross-site", "same-site"):
            answer = await lured.post(url + "/stop", headers={"Sec-Fetch-Site": site})
            assert answer.status_code == 403
        for headers in ({}, {"Sec-Fetch-Site": "same-origin"}):  # an old browser, and one that is lied to
            answer = await lured.post(url + "/stop", headers={**headers, "Origin": "https://evil.example"})
            assert answer.status_code == 403
    assert await service.states() == {("maison-lune", "promotions"): "opted_in"}
    ours = url.partition("/p/")[0]
    async with httpx.AsyncClient(timeout=WITHIN_S) as person_:
        for origin in (ours, "null"):  # `Referrer-Policy: no-referrer` makes `null` of ours
            assert (await person_.post(url + "/stop", headers={"Origin": origin})).status_code == 303


async def test_a_stop_counts_whatever_else_the_form_holds(service: Service) -> None:
    await service.consent()
    async with httpx.AsyncClient(timeout=WITHIN_S) as odd:
        answer = await odd.post(await service.link() + "/stop", content=b"lang=xx&lang=%ff%fe&=&a=b" + b"&c=d" * 200)
    assert answer.status_code == 303
    assert await service.states() == {("maison-lune", "promotions"): "opted_out"}


async def test_every_answer_forbids_scripts_frames_caches_and_referrers(service: Service) -> None:
    url = await service.link()
    async with httpx.AsyncClient(timeout=WITHIN_S) as client:
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
    body = {"sender_id": "maison-lune", "number": "06 39 98 12 35"}
    reused = await service.api.post("/v1/preference-links", json=body, headers=key)
    assert (reused.status_code, reused.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert await service.link() != await service.link()


async def test_a_person_has_everything_erased_and_the_link_then_opens_the_certificate(
    service: Service, browser: Browser
) -> None:
    await service.consent()
    await service.consent(sender_id="cafe-zinc")
    async with person(browser) as visit:
        page, url = visit.page, await service.link()
        await page.goto(url)
        await page.get_by_text("Tout effacer…").click()
        await page.get_by_role("button", name="Effacer mes données").click()  # the browser asks for the box first
        assert set((await service.states()).values()) == {"opted_in"}
        await page.get_by_label("Je comprends que c’est définitif.").check()
        await page.get_by_role("button", name="Effacer mes données").click()

        await expect(page.get_by_role("heading", level=1)).to_have_text("L’effacement est en cours")
        assert await page.get_by_text("En cours", exact=True).count() == 4
        assert set((await service.states()).values()) == {"opted_out"}
        [open_one] = (await service.api.get("/v1/erasures")).json()["items"]
        await expect(page.get_by_text(open_one["erasure_id"])).to_be_visible()
        assert open_one["source"] == "preference_page"
        async with service.surroundings.sql("consent") as sql:
            assert await sql.fetchval("SELECT count(*) FROM preference_link") == 0
            assert await sql.fetchval("SELECT count(*) FROM outbox WHERE topic = 'consent.erasures.v1'") == 1
            await sql.execute(
                "INSERT INTO erasure_ack SELECT $1, s, now(), now(), '{}'"
                " FROM unnest(ARRAY['campaign', 'consent', 'dispatch', 'inbound']) s",
                open_one["erasure_id"],
            )
            await sql.execute("UPDATE erasure SET completed_at = now()")
        await page.reload()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Vos données sont effacées")
        assert await page.get_by_text("Effacé le").count() == 4
        assert "Lune" not in await page.content()
        assert visit.complaints == []
        lines = await service.lines()
        again = await visit.context.request.post(url + "/erase", form={"sure": "yes"})
        assert "Vos données sont effacées" in await again.text()
        assert await service.lines() == lines


@pytest.mark.parametrize("left_out", ["sure", "form", "cookie"])
async def test_an_erasure_takes_the_person_s_word_their_browser_and_a_fresh_form(
    service: Service, browser: Browser, left_out: str
) -> None:
    await service.consent()
    async with person(browser) as visit:
        url = await service.link()
        await visit.page.goto(url)
        form = await fields(visit.page, "/erase")
        if left_out == "cookie":
            await visit.context.clear_cookies()
        form.pop(left_out, None)
        answer = await visit.context.request.post(url + "/erase", form=form, max_redirects=0)
        assert answer.status == 409
    assert await service.states() == {("maison-lune", "promotions"): "opted_in"}
    assert (await service.api.get("/v1/erasures")).json()["items"] == []


async def test_who_opts_in_while_they_ask_for_their_erasure_is_shown_that_first(
    service: Service, browser: Browser
) -> None:
    """A stranger: there was no row of theirs to wait for."""
    who = str((await service.held())["subject_id"])
    database = Database(await service.surroundings.database("consent"))
    async with person(browser) as visit:
        url = await service.link()
        await visit.page.goto(url)
        form = await fields(visit.page, "/erase") | {"sure": "yes"}
        async with asyncio.TaskGroup() as group, database.begin() as tx:
            await store.lock_subjects(tx, {who: None})
            asked = group.create_task(visit.context.request.post(url + "/erase", form=form, max_redirects=0))

            async def waits() -> bool:
                async with service.surroundings.sql("consent") as sql:
                    waiting = await sql.fetchval(
                        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                        " AND datname = current_database()"
                    )
                return asked.done() or bool(waiting)

            assert await eventually(waits)
            given = opt_in(evidence_id="ev-meanwhile", sender_id="maison-lune")
            await record(tx, inner, [Statement(who, None, given)], datetime.now(UTC))
        assert asked.result().status == 409
        await visit.page.goto(url)
        form = await fields(visit.page, "/erase") | {"sure": "yes"}
        assert (await visit.context.request.post(url + "/erase", form=form)).status == 200
    async with service.surroundings.sql("consent") as sql:
        [erasure] = await sql.fetch("SELECT requested_at FROM erasure")
        assert await sql.fetchval("SELECT max(recorded_at) FROM evidence") <= erasure["requested_at"]
    await database.close()


async def test_who_came_back_is_erased_again_by_a_link_made_with_the_same_key(
    service: Service, browser: Browser
) -> None:
    key = {"Idempotency-Key": "prefs-42"}
    erased = []
    for days_ago in (1, 0):
        await service.comes_back()
        assert await service.states() == {("maison-lune", "promotions"): "opted_in"}
        await service.link(headers=key)
        async with service.surroundings.sql("consent") as sql:
            await sql.execute("UPDATE preference_link SET expires_at = expires_at - $1 * interval '1 day'", days_ago)
            await sql.execute("DELETE FROM keyed_request")  # or the first answer would have the first expiry
        url = await service.link(headers=key)
        async with person(browser) as visit:
            await visit.page.goto(url)
            form = await fields(visit.page, "/erase") | {"sure": "yes"}
            certificate = await (await visit.context.request.post(url + "/erase", form=form)).text()
        assert await service.states() == {("maison-lune", "promotions"): "opted_out"}
        [asked] = (await service.api.get("/v1/erasures")).json()["items"]
        assert asked["erasure_id"] in certificate
        erased.append(asked["erasure_id"])
        async with service.surroundings.sql("consent") as sql:
            await sql.execute("UPDATE erasure SET completed_at = now()")
    assert len({*erased}) == 2


async def asked_of_dispatch(service: Service) -> list[MessageRequested]:
    async with service.surroundings.sql("consent") as sql:
        rows = await sql.fetch("SELECT payload FROM outbox WHERE topic = 'dispatch.requests.v1' ORDER BY id")
    return [msgspec.json.decode(row["payload"], type=MessageRequested) for row in rows]


async def test_a_link_that_is_texted_reaches_the_phone_and_not_the_caller(service: Service, browser: Browser) -> None:
    await service.consent()
    body = {"sender_id": "maison-lune", "number": NUMBER, "send": True}
    for _ in range(2):
        answer = await service.api.post("/v1/preference-links", json=body, headers={"Idempotency-Key": "once"})
        assert (answer.status_code, answer.json()["url"]) == (201, None)
    [message] = await asked_of_dispatch(service)
    assert (message.category, message.sender_id, message.campaign_id) == ("service", "maison-lune", None)
    text = field_keys.unseal(message.text, f"text:{message.message_id}")
    assert text.startswith("Maison Lune : vos choix pour nos SMS")
    assert length(text).segments == 1
    [url] = re.findall(r"http\S+", text)
    async with person(browser) as visit:
        await visit.page.goto(url)
        await expect(visit.page).to_have_title("Vos SMS de Maison Lune")


async def test_a_link_is_texted_to_nobody_unknown_and_only_so_often(service: Service) -> None:
    body = {"sender_id": "maison-lune", "number": NUMBER, "send": True}
    unknown = await service.api.post("/v1/preference-links", json=body)
    await service.consent(sender_id="cafe-zinc")
    elsewhere = await service.api.post("/v1/preference-links", json=body)
    assert await asked_of_dispatch(service) == []
    await service.consent()
    known = [await service.api.post("/v1/preference-links", json=body) for _ in range(6)]
    for answer in (unknown, elsewhere, *known):
        assert (answer.status_code, answer.json()["url"]) == (201, None), "who is known is not told"
    assert len(await asked_of_dispatch(service)) == 4, "of the five a day, the share of one organisation"
    answer = await service.api.post("/v1/preference-links", json=body | {"sender_id": None})
    assert (answer.status_code, answer.json()["reasons"][0]["reason"]) == (422, "sender_missing")


@pytest.mark.parametrize("want", ["on", "off"])
async def test_a_link_for_one_sender_changes_nothing_of_another(service: Service, browser: Browser, want: str) -> None:
    await service.consent()
    await service.consent(sender_id="cafe-zinc")
    before = await service.lines()
    async with person(browser) as visit:
        url = await service.link()
        await visit.page.goto(url)
        form = await fields(visit.page, "/purposes") | {"sender": "cafe-zinc", "purpose": "promotions", "want": want}
        answer = await visit.context.request.post(url + "/purposes", form=form, max_redirects=0)
    assert answer.status == 409
    assert await service.lines() == before


@each_of(
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
    body = consent(evidence={"source": "preference_page", "text_shown": SHOWN})
    answer = await service.api.post("/v1/consents", json=body)
    assert answer.status_code == 422
    assert answer.json()["reasons"][0]["field"] == "evidence.source"


OFFERS = "Nos offres et nos ventes privées"
AGREEMENT = (
    f"J’accepte de recevoir par SMS, de Maison Lune (Maison Lune SAS)\u00a0: «\u00a0{OFFERS}\u00a0»."
    " Je peux arrêter quand je veux, sur cette page ou en répondant STOP au 36111."
)


async def fields(page: Page, action: str) -> dict[str, str | float | bool]:
    """What the first form with this action would send."""
    form = page.locator(f"form[action$='{action}']").first
    inputs = await form.locator("input").all()
    return {str(await i.get_attribute("name")): str(await i.get_attribute("value")) for i in inputs}


async def test_a_person_turns_one_purpose_off_and_on_again_and_each_is_evidence(
    service: Service, browser: Browser
) -> None:
    await service.consent()
    await service.consent("loyalty")
    async with person(browser) as visit:
        page = visit.page
        await page.goto(await service.link())
        await page.get_by_role("button", name=f"Ne plus recevoir : {OFFERS}").click()
        await expect(page.get_by_role("status")).to_have_text(f"C’est noté : vous ne recevrez plus « {OFFERS} ».")
        assert await service.states() == {
            ("maison-lune", "loyalty"): "opted_in",
            ("maison-lune", "promotions"): "opted_out",
        }
        await page.get_by_text(f"Recevoir : {OFFERS}", exact=True).click()
        await expect(page.get_by_text(AGREEMENT)).to_be_visible()
        await page.get_by_role("button", name=f"Oui, j’accepte : {OFFERS}").click()
        await expect(page.get_by_role("status")).to_have_text(f"C’est noté : vous recevrez « {OFFERS} ».")
        assert visit.complaints == []
    assert set((await service.states()).values()) == {"opted_in"}
    given = (await service.held())["history"][-1]
    assert (given["source"], given["basis"], given["form_version"]) == ("preference_page", "opt_in", "1")
    assert given["text_shown"] == AGREEMENT
    assert re.fullmatch(r"holder of link [0-9a-f]{16}, given to tester", given["actor"])


async def test_who_says_no_to_one_purpose_here_was_in_touch_if_the_link_is_theirs(service: Service) -> None:
    await service.consent()
    await service.consent("loyalty")
    given, texted = await links_that_it_got(service)
    for url, lines in ((given, ["opt_out"]), (texted, ["contact", "opt_out"])):
        before = len((await service.held())["history"])
        async with httpx.AsyncClient(timeout=WITHIN_S) as tab:
            off = {"sender": "maison-lune", "purpose": "promotions", "want": "off"}
            assert (await tab.post(url + "/purposes", data=off)).status_code == 303
        assert [line["kind"] for line in (await service.held())["history"]][before:] == lines


async def test_a_form_that_loosens_counts_once_and_never_after_a_stop(service: Service, browser: Browser) -> None:
    async with person(browser) as visit:
        url = await service.link()
        await visit.page.goto(url)
        form = await fields(visit.page, "/purposes")
        assert form["want"] == "on"
        first = await visit.context.request.post(url + "/purposes", form=form, max_redirects=0)
        assert first.status == 303
        assert await service.states() == {("maison-lune", "promotions"): "opted_in"}
        everything = {"sender_id": None, "number": NUMBER, "evidence": {"source": "desk"}}
        assert (await service.api.post("/v1/opt-outs", json=everything)).status_code == 201
        again = await visit.context.request.post(url + "/purposes", form=form, max_redirects=0)
        assert again.status == 409
        assert "Rien n’a été fait" in await again.text()
    assert await service.states() == {("maison-lune", "promotions"): "opted_out"}


@pytest.mark.parametrize("left_out", ["form", "cookie", "sender", "purpose"])
async def test_an_opt_in_without_all_that_the_page_gave_is_refused_and_leaves_no_trace(
    service: Service, browser: Browser, left_out: str
) -> None:
    async with person(browser) as visit:
        url = await service.link()
        await visit.page.goto(url)
        form = await fields(visit.page, "/purposes")
        if left_out == "cookie":
            await visit.context.clear_cookies()
        form.pop(left_out, None)
        answer = await visit.context.request.post(url + "/purposes", form=form, max_redirects=0)
        assert answer.status == 409
    assert await service.lines() == 0
    async with service.surroundings.sql("consent") as sql:
        assert await sql.fetchval("SELECT count(*) FROM subject") == 0


@pytest.mark.parametrize("changed", ["purpose", "sender", "lang", "form", "link"])
async def test_a_form_made_for_one_thing_is_good_for_no_other(service: Service, browser: Browser, changed: str) -> None:
    async with person(browser) as visit:
        url, theirs = await service.link(sender_id=None), await service.link("06 39 98 12 99")
        await service.consent("loyalty")
        await visit.page.goto(theirs)
        await visit.page.goto(url)
        form = await fields(visit.page, "/purposes")
        form |= {"purpose": "promotions"} if form["purpose"] == "loyalty" else {"purpose": "loyalty"}
        other = {"sender": "cafe-zinc", "lang": "en", "form": "A" * 16}
        if changed in other:
            form = await fields(visit.page, "/purposes") | {"want": "on", changed: other[changed]}
        form["want"] = "on"
        answer = await visit.context.request.post(
            (theirs if changed == "link" else url) + "/purposes", form=form, max_redirects=0
        )
        assert answer.status == 409
    assert await service.states() == {("maison-lune", "loyalty"): "opted_in"}


ONE_SENDER = bearer(senders=["maison-lune"])


async def links_that_it_got(service: Service) -> tuple[str, str]:
    """Of a caller limited to one sender: the link that it was given, and the one that was texted for it."""
    given = await service.link(headers=ONE_SENDER)
    body = {"sender_id": "maison-lune", "number": NUMBER, "send": True}
    answer = await service.api.post("/v1/preference-links", json=body, headers=ONE_SENDER)
    assert (answer.status_code, answer.json()["url"]) == (201, None)
    text = field_keys.unseal((message := (await asked_of_dispatch(service))[-1]).text, f"text:{message.message_id}")
    return given, re.findall(r"http\S+", text)[0]


@pytest.mark.parametrize("act", ["erase", "purposes"])
async def test_a_link_given_to_a_caller_limited_to_one_sender_neither_erases_nor_opts_in(
    service: Service, browser: Browser, act: str
) -> None:
    """The first browser to use a link is whose it is, so the caller's own would do."""
    await service.consent("loyalty")
    await service.consent(sender_id="cafe-zinc")
    before = await service.lines()
    given, texted = await links_that_it_got(service)
    async with person(browser) as visit:
        page = visit.page
        await page.goto(given)
        await expect(page.get_by_text("demandez à Maison Lune un lien envoyé par SMS")).to_have_count(2)
        assert await page.locator("form[action$='/erase'], input[value='on']").count() == 0
        token_, cookie = given.rsplit("/", 1)[1], (await visit.context.cookies(given))[0]["value"]
        entries = len((await service.held())["history"])
        of = ("erase",) if act == "erase" else ("on", "maison-lune", "promotions", 1, "fr")
        keys = LinkKeys(KeyRingSettings.model_validate(KEY_RING), subject_keys)
        form: dict[str, str | float | bool] = {"lang": "fr", "sure": "yes", "want": "on"}
        form |= {
            "form": link_form(keys, token_, cookie, entries, *of),
            "sender": "maison-lune",
            "purpose": "promotions",
        }
        answer = await visit.context.request.post(f"{given}/{act}", form=form, max_redirects=0)
        assert answer.status == 403
        shown = await answer.text()
        assert "demandez à la marque un lien envoyé par SMS" in shown
        assert "STOP" in shown
        assert await service.lines() == before
        assert (await service.api.get("/v1/erasures")).json()["items"] == []

    async with person(browser) as visit:
        await visit.page.goto(texted)
        form = await fields(visit.page, f"/{act}") if act == "erase" else await opening(visit.page)
        answer = await visit.context.request.post(f"{texted}/{act}", form=form | {"sure": "yes"}, max_redirects=0)
        assert answer.status == 303
    assert await service.lines() == before + 1


async def opening(page: Page) -> dict[str, str | float | bool]:
    """What the first form for a yes would send."""
    inputs = await page.locator("form:has(input[value='on'])").first.locator("input").all()
    return {str(await i.get_attribute("name")): str(await i.get_attribute("value")) for i in inputs}


async def test_the_evidence_says_who_was_given_the_link(service: Service) -> None:
    await service.consent()
    given, texted = await links_that_it_got(service)
    async with httpx.AsyncClient(timeout=WITHIN_S) as anybody:
        for url in (given, texted):
            assert (await anybody.post(url + "/stop")).status_code == 303
    *_, by_given, by_texted = [line["actor"] for line in (await service.held())["history"]]
    assert re.fullmatch(r"holder of link [0-9a-f]{16}, given to tester", by_given)
    assert re.fullmatch(r"person, by link [0-9a-f]{16}", by_texted)


async def test_a_link_made_before_links_said_who_has_them_stops_and_no_more(service: Service, browser: Browser) -> None:
    """But the ones for every sender: only a token for every sender could make them."""
    await service.consent()
    one, every = await service.link(), await service.link(sender_id=None)
    async with service.surroundings.sql("consent") as sql:
        await sql.execute("UPDATE preference_link SET whole = DEFAULT, given_to = DEFAULT")
    async with person(browser) as visit:
        await visit.page.goto(one, wait_until="load")
        assert await visit.page.locator("form[action$='/erase']").count() == 0
        await visit.page.goto(every)
        assert await visit.page.locator("form[action$='/erase']").count() == 1
    async with httpx.AsyncClient(timeout=WITHIN_S) as anybody:
        assert (await anybody.post(one + "/stop")).status_code == 303
    assert re.fullmatch(r"holder of link [0-9a-f]{16}", (await service.held())["history"][-1]["actor"])


async def test_a_link_asked_for_again_by_a_token_for_less_may_less(service: Service) -> None:
    key = {"Idempotency-Key": "prefs-7"}
    url = await service.link(headers=key)
    async with httpx.AsyncClient(timeout=WITHIN_S) as tab:
        assert "/erase" in (await tab.get(url)).text
        assert await service.link(headers=key | ONE_SENDER) == url
        for language, said in (("fr", "un lien envoyé par SMS"), ("en", "a link by text message")):
            page = (await tab.get(url, params={"lang": language})).text
            assert "/erase" not in page
            assert said in page
        assert await service.link(headers=key) == url
        assert "/erase" not in (await tab.get(url)).text, "who had it then has it still"


async def test_a_link_used_in_one_browser_shows_another_nothing_and_lets_it_stop_only(
    service: Service, browser: Browser
) -> None:
    await service.consent()
    url = await service.link()
    async with person(browser) as owner, person(browser) as other:
        await other.page.goto(url)  # before the link is anybody's: a form is had
        theirs = await fields(other.page, "/copy")
        await owner.page.goto(url)
        async with owner.page.expect_download():
            await owner.page.get_by_role("button", name="JSON").click()

        refused = await other.context.request.post(url + "/copy", form={**theirs, "format": "json"})
        assert refused.status == 403
        assert "Maison Lune" not in await refused.text()
        answer = await other.page.goto(url)
        assert answer is not None
        assert answer.status == 403
        await expect(other.page.get_by_role("heading", level=1)).to_have_text("Ce lien sert déjà sur un autre appareil")
        assert "Maison Lune" not in await other.page.content()
        assert await service.states() == {("maison-lune", "promotions"): "opted_in"}

        await other.page.get_by_role("button", name="Arrêter les SMS publicitaires de la marque").click()
        await expect(other.page.get_by_role("heading", level=1)).to_have_text("C’est arrêté")
        assert await service.states() == {("maison-lune", "promotions"): "opted_out"}

        await owner.page.reload()
        await expect(owner.page.get_by_role("status")).to_contain_text("C’est arrêté")


async def test_on_another_device_the_button_says_exactly_what_it_stops(service: Service) -> None:
    """By the words of the button and of the page behind it: one brand, the brands of a house, or all."""
    sister = SENDER | {"sender_id": "lune-bebe", "brand": "Lune Bébé", "oadc": "LUNEBEBE", "controller": "maison-lune"}
    assert (await service.api.post("/v1/senders", json=sister)).status_code == 201
    everyone = {"cafe-zinc", "lune-bebe", "maison-lune"}
    the_brand = "Arrêter les SMS publicitaires de la marque qui a envoyé ce lien"
    said = {
        "cafe-zinc": (the_brand, False, {"cafe-zinc"}, "D’autres marques le peuvent"),
        "maison-lune": (the_brand, True, {"lune-bebe", "maison-lune"}, "et les autres marques de la même entreprise"),
        None: ("Arrêter tous les SMS publicitaires", False, everyone, "Plus aucun SMS publicitaire"),
    }
    async with httpx.AsyncClient(timeout=WITHIN_S) as elsewhere:
        for n, (sender_id, (button, house, stopped, after)) in enumerate(said.items(), start=60):
            number = f"06 39 98 12 {n}"
            for each in everyone:
                body = consent(sender_id=each, number=number)
                assert (await service.api.post("/v1/consents", json=body)).status_code == 201
            url = await service.link(number, sender_id)
            async with service.surroundings.sql("consent") as sql:
                await sql.execute("UPDATE preference_link SET browser = 'of another device'")
            shown = (await elsewhere.get(url)).text
            assert re.findall(r"<button[^>]*>(.*?)</button>", shown) == [button]
            assert ("autres marques de la même entreprise" in shown) is house
            assert not re.search("Lune|Zinc", shown)
            page = (await elsewhere.post(url + "/stop", data={"lang": "fr"})).text
            assert after in page
            assert not re.search("Lune|Zinc", page)
            states = {c["sender_id"]: c["state"] for c in (await service.held(number))["consents"]}
            assert {who for who, state in states.items() if state == "opted_out"} == stopped


async def test_on_another_device_a_refused_purpose_is_not_told_as_a_stop_of_all(service: Service) -> None:
    await service.consent()
    await service.consent("loyalty")
    url = await service.link()
    async with service.surroundings.sql("consent") as sql:
        await sql.execute("UPDATE preference_link SET browser = 'of another device'")
    async with httpx.AsyncClient(timeout=WITHIN_S) as elsewhere:
        off = {"sender": "maison-lune", "purpose": "promotions", "want": "off"}
        assert "Le reste peut continuer" in (await elsewhere.post(url + "/purposes", data=off)).text
    assert (await service.states())["maison-lune", "loyalty"] == "opted_in"


async def test_the_page_of_the_house_s_own_brand_says_that_its_stop_reaches_the_others(service: Service) -> None:
    async with httpx.AsyncClient(timeout=WITHIN_S) as reader:
        url = await service.link()
        assert "toutes les marques de Maison Lune SAS" not in (await reader.get(url)).text, "alone"
        sister = SENDER | {"sender_id": "lune-bebe", "oadc": "LUNEBEBE", "controller": "maison-lune"}
        assert (await service.api.post("/v1/senders", json=sister)).status_code == 201
        assert "toutes les marques de Maison Lune SAS" in (await reader.get(url)).text


def campaign_link(service: Service, sender_id: str = "maison-lune", days_ago: int = 0, number: str = NUMBER) -> str:
    """What campaign-svc writes for {preferences}."""
    sent_at = datetime.now(UTC) - timedelta(days=days_ago)
    who = subject_keys.subject_id("+33" + number.replace(" ", "")[1:])
    written = stop_link.token(link_keys, sender_id, who, sent_at, "preference link")
    return stop_link.preference_page(stop_link.stop_page(service.url, sender_id)) + written


async def test_the_link_of_a_campaign_s_text_opens_the_page_by_its_button_and_only_tightens(
    service: Service, browser: Browser
) -> None:
    await service.consent()
    await service.consent("loyalty")
    url = campaign_link(service)
    async with person(browser, java_script_enabled=True) as visit:
        page = visit.page
        await page.goto(url)
        await expect(page).to_have_title("Vos SMS de Maison Lune")
        assert await violations(page) == []
        async with service.surroundings.sql("consent") as sql:
            assert await sql.fetchval("SELECT count(*) FROM preference_link") == 0, "a GET stores nothing"
        await page.get_by_role("button", name="Voir mes choix").click()
        await expect(page.get_by_text("Numéro se terminant par 34")).to_be_visible()
        opened = page.url
        assert await page.locator("form[action$='/erase'], input[value='on']").count() == 0
        await page.get_by_role("button", name=f"Ne plus recevoir : {OFFERS}").click()
        await expect(page.get_by_role("status")).to_contain_text("vous ne recevrez plus")
        await page.goto(url)
        await page.get_by_role("button", name="Voir mes choix").click()
        assert page.url == opened, "the same link at each visit, so that it stays with its browser"
    assert (await service.states())["maison-lune", "promotions"] == "opted_out"
    assert re.fullmatch(r"holder of link [0-9a-f]{16}", (await service.held())["history"][-1]["actor"])


async def test_the_link_of_a_campaign_s_text_opens_nothing_forged_old_of_another_sender_or_after_an_erasure(
    service: Service,
) -> None:
    await service.consent()
    url = campaign_link(service)
    swapped = url.replace("/m/maison-lune/", "/m/cafe-zinc/")
    async with httpx.AsyncClient(timeout=WITHIN_S) as visitor:
        for forged, status in (
            (url[:-1] + ("A" if url[-1] != "A" else "B"), 404),
            (swapped, 404),
            (campaign_link(service, "nobody"), 404),
            (url.replace("/m/", "/s/"), 404),
            (campaign_link(service, days_ago=32), 410),
        ):
            for answer in (await visitor.get(forged), await visitor.post(forged)):
                assert answer.status_code == status, forged
                assert "Lune" not in answer.text
        stranger = campaign_link(service, number="06 39 98 12 99")
        assert (await visitor.post(stranger)).status_code == 410, "nothing is on record"
        body = {"number": NUMBER, "controller": "maison-lune", "evidence": {"source": "letter"}}
        assert (await service.api.post("/v1/erasures", json=body)).status_code == 202
        assert (await visitor.post(url)).status_code == 410


async def test_a_person_takes_a_copy_of_what_is_on_record_and_of_nobody_else_s(
    service: Service, browser: Browser
) -> None:
    await service.consent()
    await service.consent(sender_id="cafe-zinc")
    async with person(browser) as visit:
        await visit.page.goto(await service.link())
        async with visit.page.expect_download() as download:
            await visit.page.get_by_role("button", name="Copie pour un logiciel").click()
        taken = await download.value
        assert re.fullmatch(r"mes-sms-\d{4}-\d{2}-\d{2}\.json", taken.suggested_filename)
        text = (await taken.path()).read_text(encoding="utf-8")
        copy = json.loads(text)
        [line] = copy["evidence"]
        assert (copy["number_ends_in"], line["brand"], line["text_shown"]) == ("34", "Maison Lune", SHOWN)
        assert copy["senders"][0]["consents"][0]["state"] == "opted_in"
        assert "9812" not in text.replace(" ", "")

        async with visit.page.expect_download() as download:
            await visit.page.get_by_role("button", name="Copie pour un tableur").click()
        path = await (await download.value).path()
        [row] = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        assert (row["brand"], row["kind"], row["text_shown"]) == ("Maison Lune", "opt_in", SHOWN)


@pytest.mark.parametrize("size", [(320, 568), (640, 512)], ids=["320 px", "200 % of 1280 px"])
async def test_nothing_is_cut_or_scrolled_sideways_on_a_narrow_screen_or_at_twice_the_size(
    service: Service, browser: Browser, size: tuple[int, int]
) -> None:
    long = SENDER | {
        "brand": "Maison-Lune-Extraordinairement-Longue",
        "contact": "service.des.consommateurs.et.des.donnees@maison-lune.example",
    }
    assert (await service.api.put("/v1/senders/maison-lune", json=long)).status_code == 200
    await service.consent()
    viewport: Any = {"width": size[0], "height": size[1]}
    async with person(browser, viewport=viewport, java_script_enabled=True) as visit:
        await visit.page.goto(await service.link(sender_id=None))
        for summary in await visit.page.locator("summary").all():
            await summary.click()
        assert await visit.page.evaluate("document.documentElement.scrollWidth") <= size[0]
        targets = "[...document.querySelectorAll('button, summary, a')].map(e => e.getBoundingClientRect().height)"
        assert min(await visit.page.evaluate(targets)) >= 24  # WCAG 2.2, 2.5.8


async def test_all_of_it_is_done_by_keyboard_and_the_focus_is_seen(service: Service, browser: Browser) -> None:
    await service.consent()
    async with person(browser, java_script_enabled=True) as visit:
        page = visit.page
        await page.goto(await service.link())
        focused = "document.activeElement.innerText + ' | ' + getComputedStyle(document.activeElement).outlineStyle"
        met = []
        for _ in range(20):
            await page.keyboard.press("Tab")
            met.append(str(await page.evaluate(focused)).replace("\u00a0", " "))
            if met[-1].startswith("Tout effacer"):
                break
        order = [re.sub(r"\s*:.*| \|.*", "", one, flags=re.S) for one in met]
        assert order == [
            "English",
            "Arrêter tous les SMS de Maison Lune",
            "Ne plus recevoir",
            "D’où vient ce choix",
            "Recevoir",
            "contact@maison-lune.example",
            "L’historique complet",
            "Copie pour un logiciel (JSON)",
            "Copie pour un tableur (CSV)",
            "contact@maison-lune.example",
            "Tout effacer…",
        ]
        assert all(one.endswith("| solid") for one in met)
        await page.reload()
        for _ in range(2):
            await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_contain_text("C’est arrêté")


@each_of(
    ("accepts", "language"),
    [
        ("fr-FR,fr;q=0.9,en;q=0.8", "fr"),
        ("en-GB,en;q=0.9", "en"),
        ("de-DE,de;q=0.9,en;q=0.5", "en"),
        ("ar", "fr"),
        ("en;q=0.1,fr;q=0.2", "fr"),
        ("en;q=0", "fr"),
        ("en;q=9,fr", "fr"),
        ("", "fr"),
        (",;q=,en" + ",x" * 5000, "en"),
    ],
)
async def test_the_page_speaks_the_person_s_language_or_french(service: Service, accepts: str, language: str) -> None:
    async with httpx.AsyncClient(headers={"Accept-Language": accepts}, timeout=WITHIN_S) as reader:
        answer = await reader.get(await service.link())
    assert answer.headers["content-language"] == language
    assert f'<html lang="{language}">' in answer.text


async def test_what_a_sender_or_a_caller_wrote_is_shown_as_text_and_never_as_markup(
    service: Service, browser: Browser
) -> None:
    script = "<script>alert(1)</script><b>gras</b>{{ 7*7 }} {brand}"
    changed = SENDER | {"brand": script, "purposes": [{"id": "promotions", "wording": script}]}
    assert (await service.api.put("/v1/senders/maison-lune", json=changed)).status_code == 200
    await service.consent()
    async with person(browser, java_script_enabled=True) as visit:
        visit.page.on("dialog", lambda dialog: visit.complaints.append(dialog.message))
        await visit.page.goto(await service.link())
        await expect(visit.page.get_by_role("heading", level=1)).to_have_text(f"Vos SMS de {script}")
        assert await visit.page.locator("script, main b").count() == 0
        assert visit.complaints == []


@pytest.mark.parametrize(
    ("language", "how", "mended"),
    [
        ("fr", "Corriger une erreur", "Une erreur dans cet historique a été corrigée"),
        ("en", "Correct a mistake", "A mistake in this history was corrected"),
    ],
)
async def test_the_page_says_how_to_have_a_mistake_put_right_and_shows_what_was(
    service: Service, language: str, how: str, mended: str
) -> None:
    await service.consent()
    [line] = (await service.held())["history"]
    right = {"form_id": "checkout", "form_version": "8"}
    wrong = {"kind": "evidence", "evidence_id": line["evidence_id"], "wrong": ["form"], "right": right}
    body = {"number": NUMBER, "controller": "maison-lune", "asked": {"source": "desk"}, "correct": wrong}
    assert (await service.api.post("/v1/rectifications", json=body)).status_code == 202
    async with httpx.AsyncClient(timeout=WITHIN_S) as tab:
        page = (await tab.get(await service.link(), params={"lang": language})).text
    assert how in page
    assert page.count("mailto:") == 2, "who answers for the data, and who corrects it"
    assert mended in page


async def test_a_page_that_cannot_be_made_says_so_to_a_person_and_how_to_stop(service: Service) -> None:
    url = await service.link()
    async with service.surroundings.sql("consent") as sql:
        await sql.execute("ALTER TABLE preference_link RENAME TO away")
    async with httpx.AsyncClient(timeout=WITHIN_S) as reader:
        for answer in (await reader.get(url), await reader.post(url + "/stop")):
            assert answer.status_code == 503
            assert "STOP" in answer.text
            assert "preference_link" not in answer.text
            assert "retry-after" not in answer.headers, "a fault of ours does not pass by itself"


async def test_a_page_without_its_database_says_when_to_come_back_and_not_that_nothing_was_kept(
    service: Service,
) -> None:
    """The connection may have broken at the commit."""
    url = await service.link()
    async with service.surroundings.sql("consent") as sql:
        await sql.execute(
            "CREATE FUNCTION away() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '57P01'; END $$"
        )
        await sql.execute("ALTER TABLE preference_link RENAME TO kept")
        await sql.execute("CREATE VIEW preference_link AS SELECT * FROM kept WHERE away()")
    async with httpx.AsyncClient(timeout=WITHIN_S) as reader:
        for answer in (await reader.get(url), await reader.post(url + "/stop")):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "may not have been kept" in answer.text or "peut-être pas été enregistré" in answer.text


async def test_a_form_too_long_to_be_ours_is_refused_before_it_is_read(service: Service) -> None:
    async with httpx.AsyncClient(timeout=WITHIN_S) as flood:
        answer = await flood.post(await service.link() + "/stop", content=b"a" * 5000)
    assert answer.status_code == 413
