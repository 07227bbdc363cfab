"""HTTP: follow a short link. Public; GET and HEAD; no cookie; the answer never names the link's owner.

Every visitor is redirected, or messengers could draw no preview; only a person's visit counts. Unknown, expired and
erased links answer alike.
"""

import logging
from datetime import UTC, datetime
from importlib import resources as files
from typing import Annotated, Any

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


async def _target(token: str, held: Resources[Any], person: bool) -> str | None:
    """Return where the link leads, if some shard has the link, the own first. A token does not say which."""
    away: BaseException | None = None
    for shard in sorted(held.shards.each, key=lambda each: each is not held.shards.own):
        try:
            found = await _target_of(shard.database, token, held, person)
        except DATABASE_DOWN as error:
            away = error
            continue
        if found is not None:
            return found
    if away is not None:
        raise away
    return None


async def _target_of(database: Database, token: str, held: Resources[Any], person: bool) -> str | None:
    now = datetime.now(UTC)
    async with database.begin() as tx:
        link = await links.find(tx, token, held.link_keys, held.settings.link_days, lock=person)
        if link is None or link.expires_at <= now:
            return None
        if person:
            await links.click(tx, link, now)
    return link.target
