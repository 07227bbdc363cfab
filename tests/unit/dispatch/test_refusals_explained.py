"""A refusal that does not say why, and the provider's list that does: a STOP at OVHcloud is an opt-out here."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from dispatch.gateways import EXPLAINING, HTTP_PROVIDERS, HttpGateway, Result
from tests.support.operators.accounts import ACCOUNTS, submit

LISTED = {"number": "+33639980001", "dateCreation": "2026-11-01T10:00:00+01:00", "smsOutgoingID": 7}
BLOCKED = Result("rejected", None, "invalid_receiver", blocked=True)


@dataclass
class Ovh:
    """OVHcloud's jobs and blacklist; refuses what is not signed. `job`: what it says to a job."""

    status: int = 200
    listed: object = field(default_factory=lambda: dict(LISTED))
    job: object = field(default_factory=lambda: {"ids": [], "invalidReceivers": ["+33639980001"], "validReceivers": []})
    asked: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        url = f"http://{request.host}{request.raw_path}"
        stamp, body = request.headers["X-Ovh-Timestamp"], await request.text()
        signed = "+".join(("as", "ck", request.method, url, body, stamp))
        mac = hashlib.sha1(signed.encode(), usedforsecurity=False).hexdigest()
        if request.headers["X-Ovh-Signature"] != f"$1${mac}":
            return web.json_response({"errorCode": "INVALID_SIGNATURE"}, status=400)
        self.asked.append(f"{request.method} {request.raw_path}")
        if request.method == "POST":
            return web.json_response(self.job)
        return web.json_response(self.listed, status=self.status)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def refused_by(ovh: Ovh) -> Result:
    async with ovh.serving() as url:
        account = ACCOUNTS["ovh"].at(url)
        gateway = HttpGateway("ovh", HTTP_PROVIDERS["ovh"], account, timeout_s=60.0, explains=EXPLAINING["ovh"])
        [result] = await gateway.submit([submit(1)])
        await gateway.close()
    assert isinstance(result, Result)
    return result


async def test_a_number_on_the_blacklist_is_an_opt_out() -> None:
    ovh = Ovh()
    assert await refused_by(ovh) == Result("rejected", None, "blacklisted", opted_out=True)
    assert ovh.asked == ["POST /sms/sms-ab123-1/jobs", "GET /sms/sms-ab123-1/blacklists/+33639980001"]


@pytest.mark.parametrize(("status", "listed"), [(404, {"message": "no"}), (500, {}), (200, {}), (200, []), (429, {})])
async def test_a_refusal_without_a_reason_stays_a_block(status: int, listed: object) -> None:
    assert await refused_by(Ovh(status, listed)) == BLOCKED


async def test_a_message_that_is_taken_asks_nothing() -> None:
    ovh = Ovh(job={"ids": [7001], "invalidReceivers": [], "validReceivers": ["+33639980001"]})
    assert await refused_by(ovh) == Result("accepted", "7001", None)
    assert len(ovh.asked) == 1
