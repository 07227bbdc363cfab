"""HTTP: follow a short link. Public; GET and HEAD; no cookie; the answer never names the link's owner.

Every visitor is redirected, or messengers could draw no preview; only a person's visit counts. Unknown, expired and
erased links answer alike.
"""

import asyncio
import logging
from datetime import UTC, datetime
from importlib import resources as files
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Request, Response

from campaign.links import links, visitors
from campaign.message import short_link
from common.db.database import Database
from common.service import Resources, resources
from common.telemetry import counter
from common.web.problems import DATABASE_DOWN

log = logging.getLogger(__name__)

VISITS = counter("sms_campaign_link_visits_total", "Visits of short links, by kind of visitor.", ["result"])

GONE = files.files(__package__).joinpath("gone.html").read_bytes()
DOWN = "Un instant : réessayez dans une minute.\nOne moment: please try again in a minute.\n"
HEADERS = {
    "Cache-Control": "no-store",  # a cached answer hides the next visit
    "Referrer-Policy": "no-referrer",  # the token is in the URL
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

WITHIN_S = 3.0  # one of several shards answers
_asking: set[asyncio.Task[Any]] = set()  # asyncio itself may forget a task

pages = APIRouter(include_in_schema=False)


@pages.api_route(f"{short_link.PATH}{{token:path}}", methods=["GET", "HEAD"])
async def follow_link(token: str, request: Request, held: Annotated[Resources[Any], Depends(resources)]) -> Response:
    person = visitors.is_person(request.method, request.headers)
    try:
        target = await _target(token, held, person)
    except DATABASE_DOWN as error:
        log.error("a dependency is down", exc_info=error)
        return Response(DOWN, 503, {**HEADERS, "Retry-After": "60"}, "text/plain; charset=utf-8")
    VISITS.labels("gone" if target is None else "person" if person else "machine").inc()
    if target is None:
        return Response(GONE, 404, HEADERS, "text/html; charset=utf-8")
    return Response(status_code=302, headers={**HEADERS, "Location": target})


class _Led(NamedTuple):
    """Where a link of a shard leads: nowhere once the link is over."""

    target: str | None


async def _target(token: str, held: Resources[Any], person: bool) -> str | None:
    """Return where the link leads. A token does not say which shard has the link: all are asked at once.

    A shard without an answer fails the call only where no other has the link, an expired one too.
    """
    if not held.shards.divided:
        found = await _led_by(held.database, token, held, person)
        return found.target if found else None
    waiting = {asyncio.create_task(_soon(each.database, token, held, person)) for each in held.shards.each}
    for task in waiting:
        _asking.add(task)
        task.add_done_callback(_answered)
    away: BaseException | None = None
    ends = asyncio.get_running_loop().time() + WITHIN_S
    while waiting:
        left = ends - asyncio.get_running_loop().time()
        done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if not done:  # the end of a connection to a frozen database may take longer
            raise TimeoutError("a shard does not answer")
        for task in done:
            if (error := task.exception()) is not None:
                away = error
            elif (led := task.result()) is not None:
                return led.target
    if away is not None:
        raise away
    return None


def _answered(task: asyncio.Task[_Led | None]) -> None:
    _asking.discard(task)
    if not task.cancelled():
        task.exception()  # asyncio logs an error that is read nowhere


async def _soon(database: Database, token: str, held: Resources[Any], person: bool) -> _Led | None:
    async with asyncio.timeout(WITHIN_S):
        return await _led_by(database, token, held, person)


async def _led_by(database: Database, token: str, held: Resources[Any], person: bool) -> _Led | None:
    now = datetime.now(UTC)
    async with database.begin() as tx:
        link = await links.find(tx, token, held.link_keys, held.settings.link_days, lock=person)
        if link is None:
            return None
        if link.expires_at <= now:
            return _Led(None)
        if person:
            await links.click(tx, link, now)
    return _Led(link.target)
