"""A real browser for the pages: Chromium of this machine, driven by Playwright, and the rules of WCAG by axe.

    PLACET_TEST_CHROMIUM   the executable, else the first of `NAMES` on the path

Never skipped: without a browser the run fails.
"""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.support.eventually import WITHIN_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

expect.set_options(timeout=1000 * WITHIN_S)  # a test that expects something of a page waits as `eventually` does


def executable() -> str:
    found = os.environ.get("PLACET_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise RuntimeError("the pages are tested in Chromium: install it, or name it in PLACET_TEST_CHROMIUM")
    return found


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def person(browser: Browser, **more: Any) -> AsyncIterator["Person"]:
    """Somebody with a browser of their own: its cookies, its language, its screen. Scripts do not run unless told."""
    context = await browser.new_context(**{"java_script_enabled": False, "locale": "fr-FR", **more})
    try:
        page = await context.new_page()
        visit = Person(context, page)
        page.on("request", lambda request: visit.requests.append(request.url))
        page.on("console", lambda message: visit.complaints.append(message.text))
        yield visit
    finally:
        await context.close()


class Person:
    """`requests`: all the browser fetched. `complaints`: all it had to say of the page, as of a broken policy."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.context, self.page = context, page
        self.requests: list[str] = []
        self.complaints: list[str] = []


async def violations(page: Page) -> list[str]:
    """What axe finds wrong with the page as it is, by rule and place."""
    found = await Axe().run(page, options={"runOnly": WCAG})
    return [f"{v['id']}: {node['target']}" for v in found.response["violations"] for node in v["nodes"]]
