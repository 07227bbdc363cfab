"""OVHcloud's MOs, fetched from a strict copy of its API: each once, whatever comes between."""

import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from common.contracts import INBOUND_MESSAGES
from common.contracts.inbound import MessageReceived
from inbound.service import Settings, build
from tests.service.inbound.published import published
from tests.support.builders import field_keys, number, subject
from tests.support.eventually import eventually
from tests.support.running import Surroundings, running

pytestmark = pytest.mark.any_broker  # the way to the log is of test_webhooks.py

KEYS = {"application_key": "ak", "application_secret": "the application's secret", "consumer_key": "the consumer's key"}


class Ovh:
    """The part of the API that is polled; refuses what is not signed as OVHcloud wants it."""

    def __init__(self) -> None:
        self.incoming: dict[int, Any] = {}
        self.fetched: list[int] = []
        self.refused = 0
        self.down = False
        self.gone: set[int] = set()  # in the list, and nowhere else

    def add(self, mo: int, text: str, **more: Any) -> None:
        fields = {"id": mo, "sender": number(1), "message": text, "creationDatetime": "2026-03-01T13:00:00+01:00"}
        self.incoming[mo] = {**fields, "tag": "", "credits": 0, **more}

    async def answer(self, request: web.Request) -> web.Response:
        stamp = request.headers["X-Ovh-Timestamp"]
        signed = "+".join(
            (*(KEYS[n] for n in ("application_secret", "consumer_key")), "GET", str(request.url), "", stamp)
        )
        digest = hashlib.sha1(signed.encode(), usedforsecurity=False).hexdigest()
        genuine = request.headers["X-Ovh-Signature"] == f"$1${digest}"
        late = abs(time.time() - int(stamp)) > 60
        if self.down or late or not genuine or request.headers["X-Ovh-Application"] != "ak":
            self.refused += 1
            return web.json_response({"message": "no"}, status=500 if self.down else 403)
        if "id" not in request.match_info:
            return web.json_response(list(self.incoming))
        mo = int(request.match_info["id"])
        self.fetched.append(mo)
        if mo in self.gone:
            return web.json_response({"message": "This MO does not exist"}, status=404)
        return web.json_response(self.incoming[mo])

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_get("/1.0/sms/sms-ab1-1/incoming", self.answer)
        app.router.add_get("/1.0/sms/sms-ab1-1/incoming/{id}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/1.0"
        finally:
            await runner.cleanup()


@pytest.fixture
async def ovh() -> Ovh:
    return Ovh()


@asynccontextmanager
async def polling(surroundings: Surroundings, ovh: Ovh, **more: Any) -> AsyncIterator[Settings]:
    async with ovh.serving() as url:
        service = {"account": "main", "service": "sms-ab1-1", "url": url, "short_code": "36111", **KEYS, **more}
        settings = Settings(**await surroundings.settings("inbound", ovh_services=[service], ovh_poll_every_s=0.05))
        async with running(build(settings)):
            yield settings


async def messages(settings: Settings) -> list[MessageReceived]:
    records = await published(settings, INBOUND_MESSAGES)
    return [record.event for record in records if isinstance(record.event, MessageReceived)]


async def test_each_mo_is_fetched_and_published_once(surroundings: Surroundings, ovh: Ovh) -> None:
    ovh.add(1, "bonjour")
    async with polling(surroundings, ovh) as settings:

        async def both() -> bool:
            return len(await messages(settings)) == 2

        async def first() -> bool:
            return len(await messages(settings)) == 1

        await eventually(first)
        ovh.add(2, "STOP")
        await eventually(both)
        events = await messages(settings)

    assert ovh.fetched == [1, 2]
    assert [event.intent for event in events] == ["none", "stop"]
    (_, stop) = events
    assert (stop.provider, stop.account, stop.provider_message_id) == ("ovh", "main", "2")
    assert (stop.subject_id, stop.short_code) == (subject(1), "36111")
    assert field_keys.unseal(stop.text, f"text:{stop.mo_id}") == "STOP"
    assert stop.occurred_at.isoformat() == "2026-03-01T12:00:00+00:00"


async def test_one_that_cannot_be_read_does_not_hold_up_the_others(surroundings: Surroundings, ovh: Ovh) -> None:
    ovh.add(1, "lost", message=None)
    ovh.add(2, "STOP")
    async with polling(surroundings, ovh) as settings:

        async def found() -> list[MessageReceived]:
            return await messages(settings)

        (event,) = await eventually(found)

    assert event.intent == "stop"


async def test_one_that_is_not_given_does_not_hold_up_the_others(surroundings: Surroundings, ovh: Ovh) -> None:
    ovh.add(1, "gone")
    ovh.add(2, "STOP")
    ovh.gone = {1}
    async with polling(surroundings, ovh) as settings:

        async def found() -> list[MessageReceived]:
            return await messages(settings)

        (event,) = await eventually(found)

    assert (event.provider_message_id, event.intent) == ("2", "stop")


async def test_when_the_api_is_down_it_is_asked_again(surroundings: Surroundings, ovh: Ovh) -> None:
    ovh.add(1, "STOP")
    ovh.down = True
    async with polling(surroundings, ovh) as settings:

        async def asked() -> bool:
            return ovh.refused > 1

        async def found() -> list[MessageReceived]:
            return await messages(settings)

        await eventually(asked)
        ovh.down = False
        assert len(await eventually(found)) == 1
