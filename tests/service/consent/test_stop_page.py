"""The page behind a stop link: a look changes nothing, one press stops, and a link stops what it says and no more."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, expect

from common.privacy.stop_link import VALID_FOR, token
from consent.service import Settings, build
from tests.service.consent.test_consent_api import outbox
from tests.service.consent.test_preference_page import NUMBER, OTHER, SENDER, Service, consent
from tests.support.browser import person, violations
from tests.support.builders import link_keys, now, subject_keys
from tests.support.eventually import WITHIN_S
from tests.support.running import Surroundings, bearer, serving

pytestmark = pytest.mark.brokerless

PERSON = subject_keys.subject_id("+33639981234")
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


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


def link(service: Service, sender_id: str = "maison-lune", days_ago: int = 0) -> str:
    made = token(link_keys, sender_id, PERSON, now() - timedelta(days=days_ago))
    return f"{service.url}/s/{sender_id}/{made}"


async def asked(method: str, url: str, **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(timeout=WITHIN_S) as client:
        return await client.request(method, url, **more)


async def test_a_person_without_an_account_stops_a_sender_with_one_press(service: Service, browser: Browser) -> None:
    for sender_id in ("maison-lune", "cafe-zinc"):
        await service.consent(sender_id=sender_id)
    async with person(browser) as visit:
        page = visit.page
        await page.goto(link(service))
        await expect(page).to_have_title("Arrêter les SMS de Maison Lune\u00a0?")
        await page.get_by_role("link", name="Read this page in English").click()
        await expect(page).to_have_title("Stop the texts from Maison Lune?")
        assert "1234" not in re.sub(r"\W", "", await page.inner_text("main")), "no number is shown"
        assert set((await service.states()).values()) == {"opted_in"}, "a look changes nothing"
        await page.get_by_role("button", name="Stop all texts from Maison Lune").click()
        await expect(page.get_by_role("status")).to_contain_text("Maison Lune will send you no more marketing texts")
        assert visit.complaints == []
    assert await service.states() == {
        ("maison-lune", "promotions"): "opted_out",
        ("cafe-zinc", "promotions"): "opted_in",
    }
    stop = (await service.held())["history"][-1]
    assert (stop["kind"], stop["sender_id"], stop["purpose"], stop["source"]) == (
        "opt_out",
        "maison-lune",
        None,
        "stop_link",
    )
    states = await outbox(service.surroundings, "consent.states.v1")
    assert b'"opted_out"' in states[-1], "and dispatch-svc is told at once"


async def test_the_page_has_no_violation_in_any_of_its_states(service: Service, browser: Browser) -> None:
    async with person(browser, java_script_enabled=True) as visit:  # axe is a script; the page has none
        page = visit.page
        for url in (link(service), link(service)[:-1], link(service, days_ago=VALID_FOR.days + 1)):
            await page.goto(url)
            assert await violations(page) == []
            assert "<script" not in await page.content()


async def test_scanners_that_follow_links_stop_nothing_and_a_program_s_post_stops(service: Service) -> None:
    await service.consent()
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "GET"):
        await asked(method, link(service), headers={"User-Agent": "SafeLinks"})
    assert await service.states() == {("maison-lune", "promotions"): "opted_in"}
    assert await service.lines() == 1
    one = await asked("POST", link(service), data=ONE_CLICK)
    assert one.status_code == 200, "no redirect, no cookie, no form of the page"
    assert "set-cookie" not in one.headers
    assert await service.states() == {("maison-lune", "promotions"): "opted_out"}
    later = consent(occurred_at=now().isoformat(), evidence={"source": "crm", "text_shown": "Oui"})
    answer = (await service.api.post("/v1/consents", json=later)).json()
    assert (answer["effective"], answer["held_by"]["reach"]) == (False, "controller"), (
        "a link's STOP is the person's own"
    )
    assert await service.states() == {("maison-lune", "promotions"): "opted_out"}


async def test_a_press_again_is_an_entry_only_after_an_opt_in(service: Service) -> None:
    """A link can be posted without end, and each entry is kept for years."""
    await service.consent()
    for _ in range(2):
        answers = await asyncio.gather(*(asked("POST", link(service)) for _ in range(3)))
        assert [answer.status_code for answer in answers] == [200] * 3
    assert await service.lines() == 2
    await service.consent(sender_id="cafe-zinc")
    await asked("POST", link(service))
    assert await service.lines() == 3, "the opt-in to another sender"
    given = consent(occurred_at=now().isoformat(), evidence={"source": "crm", "text_shown": "Oui"})
    assert (await service.api.post("/v1/consents", json=given)).status_code == 201
    for _ in range(2):
        await asked("POST", link(service))
    assert await service.lines() == 5, "the opt-in, and a STOP that is newer"


async def test_a_wrong_an_altered_and_an_expired_link_stop_nothing_and_say_what_to_do(service: Service) -> None:
    await service.consent()
    good, other = link(service), link(service, "cafe-zinc")
    swapped = other.replace("/cafe-zinc/", "/maison-lune/")
    altered = good[:-1] + ("1" if good[-1] == "0" else "0")
    nobody = f"{service.url}/s/globex/{token(link_keys, 'globex', PERSON, now())}"
    for wrong in (swapped, altered, good + "x", good[:-1], nobody, f"{service.url}/s/maison-lune/x"):
        for method in ("GET", "POST"):
            answer = await asked(method, wrong, headers={"Accept-Language": "en"})
            assert answer.status_code == 404, wrong
            assert "open the link in the newest one, reply STOP to it, or write to the brand" in answer.text
            assert "maison-lune.example" not in answer.text, "nobody learns whose contact it is"
    expired = link(service, days_ago=VALID_FOR.days + 1)
    for method in ("GET", "POST"):
        answer = await asked(method, expired, headers={"Accept-Language": "en"})
        assert answer.status_code == 410
        assert "Open the link in the newest text from Maison Lune, or write to the brand" in answer.text
        assert "contact@maison-lune.example" in answer.text
        assert "<button" not in answer.text
    assert await service.lines() == 1
    assert (await asked("POST", link(service, days_ago=VALID_FOR.days))).status_code == 200, "on its last day"


async def test_a_link_says_how_far_its_stop_reaches_and_reaches_so_far(service: Service) -> None:
    """The brands of one legal entity stop together, as by any STOP, unless the sender has another `stop_scope`."""
    group = {"controller": "groupe-lune", "legal_name": "Groupe Lune SAS"}
    for n, (name, scope) in enumerate((("lune-jour", "controller"), ("lune-soir", "sender"))):
        sender = SENDER | group | {"sender_id": name, "brand": name, "oadc": f"LUNE{n}", "stop_scope": scope}
        assert (await service.api.post("/v1/senders", json=sender)).status_code == 201
        await service.consent(sender_id=name)
    narrow, wide = link(service, "lune-soir"), link(service, "lune-jour")
    reach = "L’arrêt vaut pour toutes les marques de Groupe Lune SAS."
    assert reach in (await asked("GET", wide)).text
    assert reach not in (await asked("GET", narrow)).text
    await asked("POST", narrow)
    assert await service.states() == {("lune-jour", "promotions"): "opted_in", ("lune-soir", "promotions"): "opted_out"}
    assert reach in (await asked("POST", wide)).text


async def test_who_was_never_heard_of_is_opted_out_all_the_same(service: Service) -> None:
    assert (await asked("POST", link(service))).status_code == 200
    held = await service.held(NUMBER)
    assert held["suppressions"], "a text may be on its way to them"
    del held["subject_ids"]  # of every controller of the token
    assert OTHER["sender_id"] not in str(held)
