"""The example shop as a process, against the services over HTTP: its pages, its webhooks, and its way back."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from playwright.async_api import Browser, expect

from placet_client import AsyncPlacet
from tests.operators import signed
from tests.service.clients.running import served
from tests.service.rights.four import SECRET, knows_senders
from tests.support.browser import person, violations
from tests.support.builders import number
from tests.support.eventually import WITHIN_S, eventually, is_so
from tests.support.running import Surroundings
from tests.support.shop import STAFF, TOKEN, Point, Shop, opened

pytestmark = pytest.mark.any_broker

NEVER: dict[str, Any] = {
    "SHOP_CATCH_UP_EVERY_S": "86400"
}  # the feed is read at the start alone: the rest comes by webhooks
WORDING = "J'accepte de recevoir par SMS les offres de Maison Lune."


@dataclass
class World:
    surroundings: Surroundings
    environment: dict[str, str]
    placet: AsyncPlacet

    async def texted(self, n: int, text: str) -> None:
        """A person texts the sender's code; stored once this returns."""
        message = {
            "id": f"mo-{uuid4().hex}",
            "from": number(n),
            "to": "36111",
            "text": text,
            "sent_at": datetime.now(UTC).isoformat(),
        }
        raw = json.dumps(message).encode()
        url = f"{self.environment['PLACET_INBOUND_URL']}/v1/callbacks/simulator/main/messages"
        async with httpx.AsyncClient(timeout=30) as operator:
            answer = await operator.post(url, content=raw, headers=signed(raw, SECRET, datetime.now(UTC)))
        assert answer.status_code == 200, answer.text

    async def history(self, n: int) -> list[Any]:
        return list((await self.placet.subjects.lookup(number=number(n))).history)


@pytest.fixture
async def world(surroundings: Surroundings) -> AsyncIterator[World]:
    async with (
        served(surroundings) as environment,
        AsyncPlacet(
            environment["PLACET_TOKEN"],
            consent_url=environment["PLACET_CONSENT_URL"],
            campaign_url=environment["PLACET_CAMPAIGN_URL"],
        ) as placet,
    ):
        await placet.senders.create(
            sender_id="maison-lune",
            legal_name="Maison Lune SAS",
            brand="Maison Lune",
            contact="contact@maison-lune.example",
            country="FR",
            oadc="MAISONLUNE",
            stop_code="36111",
            purposes=[{"id": "promotions", "wording": "Nos offres"}],
        )
        for service in ("campaign", "inbound"):
            await eventually(knows_senders(surroundings, service, 1))
        yield World(surroundings, environment, placet)


async def test_a_ticked_box_is_a_consent_with_its_proof_and_a_stop_comes_back_by_webhook(
    world: World, tmp_path: Path
) -> None:
    with opened(tmp_path, world.environment, **NEVER) as shop:
        await shop.up()
        await shop.ordered(number(1), offers=True, key="a" * 32)
        await shop.ordered(number(1), offers=True, key="a" * 32)
        await shop.ordered(number(2), offers=False)
        await eventually(lambda: is_so(shop.untold() == 0))
        [line] = await world.history(1)
        assert (line.kind, line.source, line.form_id, line.form_version) == ("opt_in", "shop", "checkout", "1")
        assert line.text_shown.startswith(WORDING)
        assert line.actor.startswith("customer at 127.0.0.1, python-httpx/"), "the browser's address and name"
        assert line.sale_reference == "order-1", "a form sent twice is one order"
        assert await world.history(2) == []

        await world.texted(1, "STOP")
        await eventually(lambda: _lists(shop, 1))
        stop = [event.id async for event in _feed(world) if event.type == "consent.opted_out"]
        assert {shop.came_by()[event_id] for event_id in stop} == {"webhook"}

        await world.texted(1, "START")
        await eventually(lambda: _lists(shop))
        await eventually(lambda: _delivered(world, 3))  # what is under way is not sent again
        [webhook] = [each async for each in world.placet.webhooks.list()]
        replayed = await world.placet.webhooks.replay(
            webhook.webhook_id, since=datetime.now(UTC) - timedelta(hours=1), failed_only=False
        )
        assert replayed.deliveries == 3

        await eventually(lambda: is_so(shop.log.read_text().count('"POST /placet HTTP/1.1" 204') == 6))
        assert await shop.stopped() == set(), "a repeat of the STOP does nothing"
        async with httpx.AsyncClient(timeout=WITHIN_S) as stranger:
            forged = await stranger.post(f"{shop.url}/placet", content=b'{"type": "consent.opted_out"}')
        assert forged.status_code == 401


async def test_a_webhook_is_accepted_only_once_its_event_is_stored(world: World, tmp_path: Path) -> None:
    with opened(tmp_path, world.environment, **NEVER) as shop:
        await shop.up()
        await shop.ordered(number(1), offers=True)
        await eventually(lambda: is_so(shop.untold() == 0))
        await eventually(lambda: _delivered(world, 1))
        shop.kill()
        shop.start(Point("before", 3))  # two commits as the feed is read to its end, then the STOP's
        await shop.up()
        await world.texted(1, "STOP")
        await eventually(lambda: is_so(shop.is_dead))
        assert await _delivered(world, 1), "the shop died before it had stored the STOP, so it accepted nothing"
        shop.start()
        await eventually(lambda: _lists(shop, 1))


async def test_the_feeds_cursor_never_passes_an_event_that_is_not_stored(world: World, tmp_path: Path) -> None:
    with opened(tmp_path, world.environment, **NEVER) as shop:
        await shop.up()
        await shop.ordered(number(1), offers=True)
        await eventually(lambda: is_so(shop.untold() == 0 and len(shop.came_by()) == 1))
        [webhook] = [each async for each in world.placet.webhooks.list()]
        await world.placet.webhooks.update(webhook.webhook_id, status="paused")
        shop.kill()
        await world.texted(1, "STOP")

        async def told() -> bool:
            return len([event async for event in _feed(world)]) == 2

        await eventually(told)
        for when in ("before", "after"):
            shop.start(Point(when, 1))
            await eventually(lambda: is_so(shop.is_dead))
        shop.start()
        await eventually(lambda: _lists(shop, 1))


async def test_a_shop_that_was_away_for_too_long_reads_the_present_state(world: World, tmp_path: Path) -> None:
    with opened(tmp_path, world.environment, **NEVER) as shop:
        await shop.up()
        for n in (1, 2, 3):
            await shop.ordered(number(n), offers=True)
        await eventually(lambda: is_so(shop.untold() == 0))
        await world.texted(1, "STOP")
        await eventually(lambda: _lists(shop, 1))
        shop.kill()
        await world.texted(2, "STOP")
        await world.texted(1, "START")

        async def told() -> bool:
            return len([event async for event in _feed(world)]) == 6

        await eventually(told)
        async with world.surroundings.sql("campaign") as sql:
            await sql.execute("DELETE FROM webhook_delivery")
            await sql.execute("DELETE FROM event WHERE position < (SELECT max(position) FROM event)")
        shop.start()
        await eventually(lambda: _lists(shop, 2))
        await world.texted(3, "STOP")
        await eventually(lambda: _lists(shop, 2, 3))


async def test_the_pages_are_french_accessible_and_need_no_script(
    world: World, tmp_path: Path, browser: Browser
) -> None:
    with opened(tmp_path, world.environment, **NEVER) as shop:
        await shop.up()
        async with person(browser) as visit:
            page = visit.page
            await page.goto(shop.url)
            box = page.get_by_role("checkbox")
            await expect(box).not_to_be_checked()
            await expect(page.get_by_role("heading", level=1)).to_have_count(1)
            await page.get_by_role("button", name="Commander").click()
            await expect(page).to_have_title("Erreur : Commander la lampe Croissant – Maison Lune")
            await expect(page.get_by_label("Téléphone mobile")).to_have_attribute("aria-invalid", "true")

            await page.get_by_label("Nom").focus()  # from here on by the keyboard alone
            for keys in ("Zoé", "Tab", number(1), "Tab", "Space", "Tab", "Enter"):
                await (page.keyboard.press(keys) if keys in ("Tab", "Space", "Enter") else page.keyboard.type(keys))
            await expect(page.get_by_role("heading", level=1)).to_have_text("Merci, votre commande est passée")
            await page.get_by_role("link", name="mes préférences", exact=True).click()

            async def receives(yes: bool) -> bool:
                await page.reload()
                said = await page.get_by_role("status").inner_text()
                return said.startswith("Vous recevez nos offres" if yes else "Vous ne recevez pas nos offres")

            await eventually(lambda: receives(True))
            await page.get_by_role("button", name="Ne plus recevoir vos offres").click()
            await eventually(lambda: receives(False))
            await eventually(lambda: _lists(shop, 1))
            assert [line.kind for line in await world.history(1)] == ["opt_in", "opt_out"]
            assert all(url.startswith(shop.url) or url.startswith("data:") for url in visit.requests)
            assert [said for said in visit.complaints if "422" not in said] == [], "of the faulty form alone"
            cookies: Any = await visit.context.cookies()
        async with person(browser) as stranger:
            await stranger.page.goto(f"{shop.url}/preferences")
            await expect(stranger.page.get_by_role("button")).to_have_count(0)
            answer = await stranger.page.request.get(f"{shop.url}/clients")
            assert answer.status == 401
            await stranger.context.add_cookies([{"name": TOKEN, "value": "guessed", "url": shop.url}])
            answer = await stranger.page.request.post(f"{shop.url}/preferences", form={"cle": "b" * 32})
            assert answer.status == 403
        login: Any = {"username": STAFF[0], "password": STAFF[1]}
        for scheme in ("light", "dark"):
            async with person(browser, java_script_enabled=True, http_credentials=login, color_scheme=scheme) as eye:
                await eye.context.add_cookies(cookies)
                for name in ("", "merci", "preferences", "clients"):
                    await eye.page.goto(f"{shop.url}/{name}")
                    assert await violations(eye.page) == [], name
                    await eye.page.screenshot(path=tmp_path / f"{name or 'commande'}-{scheme}.png", full_page=True)
                await eye.page.goto(shop.url)
                await eye.page.get_by_role("button", name="Commander").click()
                await expect(eye.page.get_by_role("alert")).to_be_visible()
                assert await violations(eye.page) == [], "with faults"
                await eye.page.screenshot(path=tmp_path / f"faute-{scheme}.png", full_page=True)


async def _lists(shop: Shop, *people: int) -> bool:
    try:
        return await shop.stopped() == {number(n) for n in people}
    except httpx.TransportError:
        return False


async def _delivered(world: World, many: int) -> bool:
    """Return whether the shop has accepted so many events."""
    states = [
        each.state
        async for webhook in world.placet.webhooks.list()
        async for each in world.placet.webhooks.list_deliveries(webhook.webhook_id)
    ]
    return states.count("delivered") == many


async def _feed(world: World) -> AsyncIterator[Any]:
    async for page in world.placet.events.list(type=["consent.changed", "consent.opted_out"], wait_s=0).pages():
        for event in page.items:
            yield event
        if not page.items:
            return
