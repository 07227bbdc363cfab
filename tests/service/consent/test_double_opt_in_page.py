"""The link of a double opt-in: read by anybody, answered once, by the button, by whom it was sent to."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from playwright.async_api import Browser, expect

from common.contracts.campaign import MessageRequested
from common.keyring import LinkKeys
from common.settings import KeyRingSettings
from common.sms.sms_length import length
from consent.page.confirm import CONFIRM
from consent.page.link import Link, read, token
from consent.service import Settings, build
from tests.service.consent.test_consent_api import outbox
from tests.service.consent.test_preference_page import OTHER, SENDER
from tests.support.browser import person, violations
from tests.support.builders import field_keys, subject_keys
from tests.support.eventually import WITHIN_S
from tests.support.running import KEY_RING, Surroundings, bearer, running, serving

pytestmark = pytest.mark.brokerless

NUMBER = "06 39 98 12 34"
SHOWN = "Oui, je veux recevoir les offres de Maison Lune par SMS."
KEYS = LinkKeys(KeyRingSettings.model_validate(KEY_RING), subject_keys)
FORM = re.compile(r'name="form" value="([^"]+)"')


def form(**changes: Any) -> dict[str, Any]:
    evidence = {"source": "site", "form_id": "newsletter", "form_version": "3", "text_shown": SHOWN}
    body = {"sender_id": "maison-lune", "purpose": "promotions", "number": NUMBER, "link": True, "evidence": evidence}
    return body | {"occurred_at": datetime.now(UTC).isoformat()} | changes


@dataclass(frozen=True)
class Service:
    url: str
    api: httpx.AsyncClient
    surroundings: Surroundings

    async def texts(self) -> list[str]:
        found = [
            msgspec.json.decode(payload, type=MessageRequested)
            for payload in await outbox(self.surroundings, "dispatch.requests.v1")
        ]
        return [field_keys.unseal(m.text, f"text:{m.message_id}") for m in found]

    async def link(self, **changes: Any) -> str:
        """Asks, and reads the SMS as its person does."""
        assert (await self.api.post("/v1/double-opt-ins", json=form(**changes))).status_code == 202
        found = re.search(rf"{self.url}/c/\S+", (await self.texts())[-1])
        assert found
        return found[0]

    async def history(self) -> list[tuple[str, str]]:
        held = (await self.api.post("/v1/subjects/lookup", json={"number": NUMBER})).json()
        return [(e["kind"], e["source"]) for e in held["history"]]

    async def get(self, url: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=WITHIN_S) as browser:
            return await browser.get(url)

    async def press(self, link: str, **more: Any) -> httpx.Response:
        """The button, as a browser sends it."""
        async with httpx.AsyncClient(timeout=WITHIN_S) as browser:
            found = FORM.search((await browser.get(link)).text)
            sent = {"form": found[1] if found else "", "lang": "fr"}
            return await browser.post(link, **({"data": sent, "headers": {"Sec-Fetch-Site": "same-origin"}} | more))


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


ASKED = [("request", "site")]
CONFIRMED = [*ASKED, ("opt_in", "double_opt_in")]


async def test_a_person_reads_what_they_would_agree_to_and_says_yes_with_one_press(
    service: Service, browser: Browser
) -> None:
    link = await service.link()
    (said,) = await service.texts()
    assert "répondez OUI ou confirmez ici : " in said
    assert length(said).segments <= 2
    async with person(browser, java_script_enabled=True) as visit:  # axe is a script; the page has none
        page = visit.page
        await page.goto(link)
        assert visit.complaints == []
        assert "<script" not in await page.content()
        await expect(page).to_have_title("Recevoir les SMS de Maison Lune\u00a0?")
        await expect(page.get_by_text(SHOWN)).to_be_visible()
        await expect(page.get_by_text("Maison Lune SAS")).to_be_visible()
        assert await violations(page) == []
        await page.get_by_role("link", name="Read this page in English").click()
        await expect(page).to_have_title("Texts from Maison Lune?")
        assert await violations(page) == []
        await page.get_by_role("button", name="Yes, I agree").click()
        await expect(page.get_by_role("status")).to_contain_text("Maison Lune may send you texts")
        assert await violations(page) == []
        await page.reload()
        await expect(page.get_by_role("button")).to_have_count(0)
    assert await service.history() == CONFIRMED
    held = (await service.api.post("/v1/subjects/lookup", json={"number": NUMBER})).json()
    asked, yes = held["history"]
    assert (yes["answers"], yes["text_shown"], yes["form_version"]) == (asked["evidence_id"], SHOWN, "3")
    assert [consent["state"] for consent in held["consents"]] == ["opted_in"]


async def test_who_only_follows_links_or_posts_without_the_page_confirms_nothing(service: Service) -> None:
    link = await service.link()
    async with httpx.AsyncClient(timeout=WITHIN_S) as scanner:
        for method in ("GET", "HEAD", "OPTIONS", "PUT"):
            await scanner.request(method, link)
        assert (await scanner.post(link)).status_code == 409
        assert (await scanner.post(link, data={"form": "A" * 16})).status_code == 409
    assert (await service.press(link, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert await service.history() == ASKED


async def test_a_link_is_used_once_however_many_press_at_the_same_time(service: Service) -> None:
    link = await service.link()
    pressed = await asyncio.gather(*(service.press(link) for _ in range(6)))
    assert {answer.status_code for answer in pressed} == {303}
    assert await service.history() == CONFIRMED
    stop = {"sender_id": "maison-lune", "number": NUMBER, "evidence": {"source": "call-centre"}}
    assert (await service.api.post("/v1/opt-outs", json=stop)).status_code == 201
    assert (await service.press(link)).status_code == 303
    assert await service.history() == [*CONFIRMED, ("opt_out", "call-centre")], "a used link takes no STOP back"


async def test_a_link_forged_expired_of_another_page_or_of_nobody_opens_nothing(service: Service) -> None:
    link = await service.link()
    written = link.rsplit("/", 1)[1]
    named = read(written, KEYS, CONFIRM)
    assert named is not None
    soon = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    other = {"sender_id": "maison-lune", "number": NUMBER}
    preference = (await service.api.post("/v1/preference-links", json=other)).json()["url"].rsplit("/", 1)[1]
    wrong = {
        written[:-1] + ("A" if written[-1] != "A" else "B"): 404,
        written[:-1]: 404,
        token(Link(named.link_id, named.expires_at), KEYS): 404,  # signed by us, as a link to the preference page
        preference: 404,
        token(Link(named.link_id, datetime.now(UTC) - timedelta(seconds=2)), KEYS, CONFIRM): 410,
        token(Link("0" * 16, soon), KEYS, CONFIRM): 410,
    }
    for each, status in wrong.items():
        there = f"{service.url}/c/{each}"
        shown = await service.get(there)
        pressed = await service.press(there)
        assert (shown.status_code, pressed.status_code) == (status, status), each
        assert "Maison Lune" not in shown.text + pressed.text, "of whose link it is it says nothing"
    assert (await service.get(f"{service.url}/p/{written}")).status_code == 404
    assert await service.history() == ASKED


async def test_a_stop_or_a_newer_question_closes_the_link(service: Service) -> None:
    link = await service.link()
    stop = {"sender_id": None, "number": NUMBER, "evidence": {"source": "call-centre"}}
    assert (await service.api.post("/v1/opt-outs", json=stop)).status_code == 201
    assert (await service.press(link)).status_code == 410
    again = await service.link(purpose="loyalty")
    assert again != link, "a form newer than the STOP is asked about"
    assert (await service.api.post("/v1/opt-outs", json=stop)).status_code == 201
    assert await service.link() == again, "asked once after a STOP, however often that is said: no third SMS left"
    assert [kind for kind, _ in await service.history()] == ["request", "opt_out", "request", "opt_out"]


async def test_a_second_brand_on_the_same_code_asks_by_link_alone(service: Service) -> None:
    await service.api.post("/v1/double-opt-ins", json=form(link=False))
    link = await service.link(sender_id="cafe-zinc", link=False)
    first, second = await service.texts()
    assert ("OUI" in first, "/c/" in first) == (True, False)
    assert ("OUI" in second, "/c/" in second) == (False, True)
    assert (await service.press(link)).status_code == 303
    held = (await service.api.post("/v1/subjects/lookup", json={"number": NUMBER})).json()
    assert {c["sender_id"]: c["state"] for c in held["consents"]} == {"maison-lune": "pending", "cafe-zinc": "opted_in"}


async def test_without_a_page_no_link_is_promised(surroundings: Surroundings) -> None:
    async with running(build(Settings(**await surroundings.settings("consent", roles="api")))) as client:
        await client.post("/v1/senders", json=SENDER)
        answer = await client.post("/v1/double-opt-ins", json=form())
        assert (answer.status_code, answer.json()["type"]) == (409, "/problems/no-page")
        assert (await client.post("/v1/double-opt-ins", json=form(link=False))).status_code == 202
