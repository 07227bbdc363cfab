"""A GET of a page at a provider: bounded in time, size and tries.

A GET writes nothing at the provider, so a failed GET is tried again: after a 429 and its Retry-After, a 5xx, or a
network failure. The other statuses need a person.
"""

import asyncio
from collections.abc import Mapping

import aiohttp
from yarl import URL

REQUEST_TIMEOUT_S = 20.0
CONNECT_TIMEOUT_S = 5.0
MAX_BODY_BYTES = 16 * 1024 * 1024  # a thousand long MOs have less than 4 MiB
TRIES = 3
LONGEST_PAUSE_S = 30.0


class Refused(Exception):
    """The provider gave no page. The text holds no URL: a query may hold a number."""


def session() -> aiohttp.ClientSession:
    """Open a session for a pull; the caller closes it."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
        connector=aiohttp.TCPConnector(limit=1),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def get(client: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> bytes:
    """Return the body of a 200. Raises Refused."""
    why = ""
    for tried in range(TRIES):
        pause_s = float(2**tried)
        try:
            async with client.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as answer:
                if answer.status == 200:
                    return await _body(answer)
                why = f"status {answer.status}"
                if answer.status != 429 and answer.status < 500:
                    raise Refused(why)
                pause_s = _asked_pause_s(answer.headers.get("Retry-After", "")) or pause_s
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            why = type(error).__name__
        if tried < TRIES - 1:
            await asyncio.sleep(min(pause_s, LONGEST_PAUSE_S))
    raise Refused(why)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise Refused("a page is larger than we read")
    return bytes(body)


def _asked_pause_s(retry_after: str) -> float | None:
    """Return the seconds of a Retry-After; a date counts as none."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
