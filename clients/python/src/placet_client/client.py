"""`Placet` and `AsyncPlacet`: the two clients."""

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeAlias, get_args

import httpx

from placet_client.problem import NotConfigured
from placet_client.request import Service
from placet_client.resources import Resources
from placet_client.retrying import Retrying
from placet_client.session import TIMEOUT, AsyncSession, Options, SyncSession

Token: TypeAlias = str | Callable[[], str]


def options(
    token: Token | None, urls: Mapping[str, str | None], timeout: httpx.Timeout | float, retrying: Retrying
) -> Options:
    """Return the options of a client; the environment fills in a token and URLs that are None. Raises NotConfigured."""
    token = token or os.environ.get("PLACET_TOKEN")
    if not token:
        raise NotConfigured("no token: pass `token` or set PLACET_TOKEN")
    found = {
        service: urls.get(service) or os.environ.get(f"PLACET_{service.upper()}_URL") for service in get_args(Service)
    }
    known = {service: url for service, url in found.items() if url}
    return Options(known, token, timeout if isinstance(timeout, httpx.Timeout) else httpx.Timeout(timeout), retrying)


class Placet(Resources[SyncSession]):
    """The client. Use it as a context manager, or call `close()`; share one between threads.

    `token`: a bearer token, or a function that returns the present one. The URLs are those of the four services; a
    service never called needs none. Default of each: PLACET_TOKEN, PLACET_CONSENT_URL, … of the environment.
    `timeout`: seconds, or httpx's own. `http`: a client of your own, for proxies and certificates; closing stays yours.
    """

    def __init__(
        self,
        token: Token | None = None,
        *,
        consent_url: str | None = None,
        campaign_url: str | None = None,
        dispatch_url: str | None = None,
        inbound_url: str | None = None,
        timeout: httpx.Timeout | float = TIMEOUT,
        retrying: Retrying = Retrying(),  # noqa: B008 (frozen)
        http: httpx.Client | None = None,
    ) -> None:
        urls = {"consent": consent_url, "campaign": campaign_url, "dispatch": dispatch_url, "inbound": inbound_url}
        self._owned = http is None
        self._take(SyncSession(options(token, urls, timeout, retrying), http or httpx.Client()))

    def _take(self, session: SyncSession) -> None:
        self._session = session
        super().__init__(session)

    def with_options(self, *, timeout_s: float | None = None, retries: int | None = None) -> "Placet":
        """Return the same client with another timeout or number of retries; connections are shared."""
        other = object.__new__(Placet)
        other._owned = False
        other._take(SyncSession(self._session.options.changed(timeout_s, retries), self._session.http))
        return other

    def close(self) -> None:
        if self._owned:
            self._session.http.close()

    def __enter__(self) -> "Placet":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Placet({', '.join(f'{service}_url={url!r}' for service, url in self._session.options.urls.items())})"


class AsyncPlacet(Resources[AsyncSession]):
    """The client for asyncio: the same as `Placet`, with `await`, `async for` and `async with`."""

    def __init__(
        self,
        token: Token | None = None,
        *,
        consent_url: str | None = None,
        campaign_url: str | None = None,
        dispatch_url: str | None = None,
        inbound_url: str | None = None,
        timeout: httpx.Timeout | float = TIMEOUT,
        retrying: Retrying = Retrying(),  # noqa: B008 (frozen)
        http: httpx.AsyncClient | None = None,
    ) -> None:
        urls = {"consent": consent_url, "campaign": campaign_url, "dispatch": dispatch_url, "inbound": inbound_url}
        self._owned = http is None
        self._take(AsyncSession(options(token, urls, timeout, retrying), http or httpx.AsyncClient()))

    def _take(self, session: AsyncSession) -> None:
        self._session = session
        super().__init__(session)

    def with_options(self, *, timeout_s: float | None = None, retries: int | None = None) -> "AsyncPlacet":
        """Return the same client with another timeout or number of retries; connections are shared."""
        other = object.__new__(AsyncPlacet)
        other._owned = False
        other._take(AsyncSession(self._session.options.changed(timeout_s, retries), self._session.http))
        return other

    async def aclose(self) -> None:
        if self._owned:
            await self._session.http.aclose()

    async def __aenter__(self) -> "AsyncPlacet":
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        urls = self._session.options.urls
        return f"AsyncPlacet({', '.join(f'{service}_url={url!r}' for service, url in urls.items())})"
