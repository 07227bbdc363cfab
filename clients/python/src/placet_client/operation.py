"""The parts of a resource: operations, lists and files, each written once, for the sync and the async client.

A resource's method builds a `Request`; the decorator sends the request by the client that the resource belongs to. Type
checkers see `client.senders.get(...)` return the answer on `Placet`, and a coroutine of the answer on `AsyncPlacet`.
"""

import inspect
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import wraps
from os import PathLike
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import httpx

from placet_client.answer import Page
from placet_client.flow import Flow, answered, opened
from placet_client.problem import Unreachable
from placet_client.request import Request
from placet_client.session import AsyncSession, Options, SyncSession

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=SyncSession | AsyncSession)


class Resource(Generic[S]):
    """The operations on one kind of thing."""

    def __init__(self, session: S) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of Placet>"


class operation(Generic[P, T]):  # noqa: N801
    """A call with one answer."""

    def __init__(self, build: Callable[Concatenate[Any, P], Request[T]]) -> None:
        self.build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, of: Resource[SyncSession], owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, of: Resource[AsyncSession], owner: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, of: Resource[Any], owner: Any = None) -> Any:
        @wraps(self.build)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            options = of._session.options
            return of._session.run(answered(self.build(of, *args, **kwargs), options.build, options.retrying))

        return _bound(call)


class flow(Generic[P, T]):  # noqa: N801
    """Several calls with one result."""

    def __init__(self, steps: Callable[Concatenate[Any, Options, P], Flow[T]]) -> None:
        self.steps = steps
        self.__doc__ = steps.__doc__

    @overload
    def __get__(self, of: Resource[SyncSession], owner: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, of: Resource[AsyncSession], owner: Any = None) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, of: Resource[Any], owner: Any = None) -> Any:
        @wraps(self.steps)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return of._session.run(self.steps(of, of._session.options, *args, **kwargs))

        return _bound(call)


class listing(Generic[P, T]):  # noqa: N801
    """A list that comes in pages."""

    def __init__(self, build: Callable[Concatenate[Any, P], Request[Page[T]]]) -> None:
        self.build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, of: Resource[SyncSession], owner: Any = None) -> Callable[P, "Pages[T]"]: ...
    @overload
    def __get__(self, of: Resource[AsyncSession], owner: Any = None) -> Callable[P, "AsyncPages[T]"]: ...
    def __get__(self, of: Resource[Any], owner: Any = None) -> Any:
        @wraps(self.build)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            kind: Any = Pages if isinstance(of._session, SyncSession) else AsyncPages
            return kind(of._session, self.build(of, *args, **kwargs))

        return _bound(call)


class download(Generic[P]):  # noqa: N801
    """A file, of any length."""

    def __init__(self, build: Callable[Concatenate[Any, P], Request[bytes]]) -> None:
        self.build = build
        self.__doc__ = build.__doc__

    @overload
    def __get__(self, of: Resource[SyncSession], owner: Any = None) -> Callable[P, "Download"]: ...
    @overload
    def __get__(self, of: Resource[AsyncSession], owner: Any = None) -> Callable[P, "AsyncDownload"]: ...
    def __get__(self, of: Resource[Any], owner: Any = None) -> Any:
        @wraps(self.build)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            kind: Any = Download if isinstance(of._session, SyncSession) else AsyncDownload
            return kind(of._session, self.build(of, *args, **kwargs))

        return _bound(call)


def _bound(call: Any) -> Any:
    """Return the call with the signature that a user writes: without the resource and without a flow's options."""
    told = inspect.signature(call)
    rest = [p for name, p in told.parameters.items() if name not in ("self", "options")]
    call.__signature__ = told.replace(parameters=rest)
    return call


class Pages(Generic[T]):
    """A list: iterate over its items, page by page as needed. `pages()` yields the pages, `first()` calls once."""

    def __init__(self, session: SyncSession, request: Request[Page[T]]) -> None:
        self._session = session
        self._request = request

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page.items

    def pages(self) -> Iterator[Page[T]]:
        request: Request[Page[T]] | None = self._request
        while request is not None:
            page = self._page(request)
            yield page
            request = _next(request, page)

    def first(self) -> Page[T]:
        return self._page(self._request)

    def _page(self, request: Request[Page[T]]) -> Page[T]:
        options = self._session.options
        return self._session.run(answered(request, options.build, options.retrying))


class AsyncPages(Generic[T]):
    """A list: iterate over its items by `async for`. `pages()` yields the pages, `await first()` calls once."""

    def __init__(self, session: AsyncSession, request: Request[Page[T]]) -> None:
        self._session = session
        self._request = request

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page.items:
                yield item

    async def pages(self) -> AsyncIterator[Page[T]]:
        request: Request[Page[T]] | None = self._request
        while request is not None:
            page = await self._page(request)
            yield page
            request = _next(request, page)

    async def first(self) -> Page[T]:
        return await self._page(self._request)

    async def _page(self, request: Request[Page[T]]) -> Page[T]:
        options = self._session.options
        return await self._session.run(answered(request, options.build, options.retrying))


def _next(request: Request[Page[T]], page: Page[T]) -> Request[Page[T]] | None:
    return None if page.next is None else replace(request, query={**request.query, "cursor": page.next})


class Download:
    """A file of a service: `read()` it, `save(path)`, or iterate over its parts within `with file.open() as parts`."""

    def __init__(self, session: SyncSession, request: Request[bytes]) -> None:
        self._session = session
        self._request = request

    @contextmanager
    def open(self) -> Iterator[Iterator[bytes]]:
        options = self._session.options
        response = self._session.run(opened(self._request, options.build, options.retrying, stream=True))
        try:
            yield response.iter_bytes()
        except httpx.TransportError as error:
            raise _broken_off(self._request, error) from error
        finally:
            response.close()

    def read(self) -> bytes:
        with self.open() as parts:
            return b"".join(parts)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the file; a file cut off half-way leaves nothing at `path`."""
        to, part_of = Path(path), Path(f"{path}.part")
        with self.open() as parts, part_of.open("wb") as file:
            for part in parts:
                file.write(part)
        part_of.replace(to)


class AsyncDownload:
    """A file of a service: `await read()`, `await save(path)`, or iterate within `async with file.open() as parts`."""

    def __init__(self, session: AsyncSession, request: Request[bytes]) -> None:
        self._session = session
        self._request = request

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[bytes]]:
        options = self._session.options
        response = await self._session.run(opened(self._request, options.build, options.retrying, stream=True))
        try:
            yield response.aiter_bytes()
        except httpx.TransportError as error:
            raise _broken_off(self._request, error) from error
        finally:
            await response.aclose()

    async def read(self) -> bytes:
        async with self.open() as parts:
            return b"".join([part async for part in parts])

    async def save(self, path: str | PathLike[str]) -> None:
        """Write the file; a file cut off half-way leaves nothing at `path`."""
        part_of = f"{path}.part"
        with open(part_of, "wb") as file:  # noqa: ASYNC230 (short writes)
            async with self.open() as parts:
                async for part in parts:
                    file.write(part)
        os.replace(part_of, path)


def _broken_off(request: Request[bytes], error: httpx.TransportError) -> Unreachable:
    return Unreachable(f"{request.method} {request.path}", f"the file broke off: {type(error).__name__}", None)
