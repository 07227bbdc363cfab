"""Ask every shard of a service, and put the answers together. A call about one person asks that person's shard."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from datetime import datetime
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import NamedTuple, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.shards import Shard, Shards

R = TypeVar("R")
N = TypeVar("N", bound=NamedTuple)
T = TypeVar("T")

# Of a counted table: a place in a list is the shard's place in the settings, times this, and the row's id.
IDS = 1 << 48


async def of_each(shards: Shards, ask: Callable[[AsyncConnection], Awaitable[T]]) -> list[T]:
    """Return the answer of each shard, each of a transaction of its own. A shard without an answer fails the call."""

    async def answer(place: int) -> T:
        async with shards.each[place].database.begin() as tx:
            return await ask(tx)

    return list(await asyncio.gather(*map(answer, range(len(shards.each)))))


async def found(shards: Shards, ask: Callable[[AsyncConnection], Awaitable[T | None]]) -> tuple[Shard, T | None]:
    """Return the answer of the shard that has one, and the shard; of the own shard, and None, where no shard has one.

    A shard that does not answer fails the call only where no other has an answer.
    """

    async def answer(shard: Shard) -> T | None:
        async with shard.database.begin() as tx:
            return await ask(tx)

    if not shards.divided:
        return shards.own, await answer(shards.own)
    answers = await asyncio.gather(*map(answer, shards.each), return_exceptions=True)
    for shard, one in zip(shards.each, answers, strict=True):
        if one is not None and not isinstance(one, BaseException):
            return shard, one
    for one in answers:
        if isinstance(one, BaseException):
            raise one
    return shards.own, None


async def page(
    shards: Shards,
    after: int,
    limit: int,
    read: Callable[[AsyncConnection, int, int], Awaitable[Sequence[R]]],
    key: Callable[[R], int],
) -> tuple[list[R], int | None]:
    """Return a page of a counted table behind `after`, shard by shard, and the place behind it, unless it is the last.

    `read`: a shard's rows behind an id, so many at most.
    """
    found: list[R] = []
    place, behind = divmod(after, IDS)
    while place < len(shards.each):
        async with shards.each[place].database.begin() as tx:
            rows = await read(tx, behind, limit - len(found))
        found += rows
        if len(found) >= limit:
            return found, place * IDS + key(rows[-1])
        place, behind = place + 1, 0
    return found, None


async def merged(
    shards: Shards,
    after: Sequence[int],
    limit: int,
    read: Callable[[AsyncConnection, int, int], Awaitable[Sequence[R]]],
    key: Callable[[R], int],
    order: Callable[[R], datetime],
) -> tuple[list[R], Sequence[int] | None]:
    """Return a page of a counted table, the shards' rows merged by `order`, and the place behind it in each shard.

    The place is `None` behind the last page. `after`: the place in each shard; `read`: as of `page`, and no row may
    appear later before one that is returned. Within a shard the order is that of the ids.
    """

    async def answer(place: int) -> list[tuple[datetime, int, R]]:
        async with shards.each[place].database.begin() as tx:
            return [(order(row), place, row) for row in await read(tx, after[place], limit)]

    of_each = await asyncio.gather(*map(answer, range(len(shards.each))))
    found = list(islice(merge(*of_each, key=itemgetter(0)), limit))
    behind = list(after)
    for _, place, row in found:
        behind[place] = key(row)
    return [row for *_, row in found], behind if len(found) >= limit else None


def added(answers: Iterable[Sequence[N]], keyed_by: int) -> list[N]:
    """Add rows of counts with the same first `keyed_by` columns, in the order of these. A `None` counts as nothing."""
    sums: dict[Hashable, N] = {}
    for rows in answers:
        for row in rows:
            before = sums.get(row[:keyed_by])
            sums[row[:keyed_by]] = row if before is None else _added(before, row, keyed_by)
    return list(sums.values())


def _added(one: N, other: N, keyed_by: int) -> N:
    counts = (
        left if right is None else right if left is None else left + right
        for left, right in zip(one[keyed_by:], other[keyed_by:], strict=True)
    )
    return type(one)(*one[:keyed_by], *counts)
