"""The keys of the issuer of tokens: fetched in the background, so that a slow issuer stops no call.

A call never waits for a refresh. While the issuer does not answer, the last keys count for a grace; then calls are
refused at once. Only a call whose key is unknown waits, for WAIT_S from the begin of a fetch.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import jwt

from common.web.problems import Unavailable

log = logging.getLogger(__name__)

FETCHED_WITHIN_S = 5.0
WAIT_S = 1.0
RETRY_S = 1.0  # while there are no keys at all
MAX_BYTES = 1024 * 1024


class UnknownKey(jwt.PyJWTError):
    """The issuer has no key with the id that the token names."""


class Issuer:
    """The issuer's key set.

    `keys_kept_s`: until a refresh. `grace_s`: how much longer the last keys count without one. `look_again_s`: how soon
    after a fetch an unknown key, or a failed refresh, causes another.
    """

    def __init__(self, url: str, *, keys_kept_s: float, grace_s: float, look_again_s: float) -> None:
        self._url = url
        self._kept_s, self._grace_s, self._look_again_s = keys_kept_s, grace_s, look_again_s
        self._keys: Mapping[str, Any] = {}
        self._fetched_at: float | None = None  # the last success
        self._asked_at: float | None = None  # the begin of the last fetch
        self._fetching: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Keep the keys fresh until cancelled."""
        while True:
            self._ask_if_due()
            if self._fetching is not None:
                await asyncio.wait([self._fetching])
            await asyncio.sleep(self._look_again_s if self._fetched_at is not None else RETRY_S)

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def key(self, token: str) -> Any:
        """Return the public key that signed the token. Raises PyJWTError, and Unavailable where no keys count."""
        named = str(jwt.get_unverified_header(token).get("kid"))
        self._ask_if_due(unknown=named not in self._keys)
        if not (self._count() and named in self._keys):
            await self._wait()
        if not self._count():
            raise Unavailable("the issuer of tokens does not answer", headers={"Retry-After": "1"})
        if named not in self._keys:
            raise UnknownKey("the issuer has no such key")
        return self._keys[named].key

    def _age_s(self) -> float:
        return float("inf") if self._fetched_at is None else time.monotonic() - self._fetched_at

    def _count(self) -> bool:
        return self._age_s() < self._kept_s + self._grace_s

    def _ask_if_due(self, *, unknown: bool = False) -> None:
        """Begin a fetch, unless one is under way, or the last one was a moment ago."""
        if self._fetching is not None and not self._fetching.done():
            return
        if not unknown and self._age_s() < self._kept_s:
            return
        rest_s = self._look_again_s if self._count() else min(RETRY_S, self._look_again_s)
        failed = self._asked_at is not None and (self._fetched_at is None or self._fetched_at < self._asked_at)
        if self._asked_at is not None and (unknown or failed) and time.monotonic() - self._asked_at < rest_s:
            return
        self._asked_at = time.monotonic()
        self._fetching = asyncio.create_task(self._fetch(), name="issuer")

    async def _wait(self) -> None:
        if self._fetching is None or self._fetching.done() or self._asked_at is None:
            return
        left_s = self._asked_at + WAIT_S - time.monotonic()
        if left_s > 0:
            await asyncio.wait([self._fetching], timeout=left_s)

    async def _fetch(self) -> None:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FETCHED_WITHIN_S)) as http,
                http.get(self._url, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    raise ValueError(f"the issuer answers {answer.status}")
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > MAX_BYTES:
                        raise ValueError("the key set is too large")
            keys = jwt.PyJWKSet.from_json(body.decode()).keys
        except Exception as error:
            log.warning("the keys of the issuer of tokens could not be fetched", extra={"why": type(error).__name__})
            return
        self._keys = {each.key_id: each for each in keys if each.key_id and each.public_key_use in ("sig", None)}
        self._fetched_at = time.monotonic()
