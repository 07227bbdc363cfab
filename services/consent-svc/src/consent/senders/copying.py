"""Keep the sender registry the same in every shard: the shard of partition 0 owns the registry, the others hold copies.

A change is decided in the first shard, whose transaction holds the locks and the event. The copies commit before that
transaction does: no event speaks of a STOP code or a purpose that a shard does not know. A new reopening rule loosens,
so the copies follow its decision; the end of a rule waits for no shard that is away. A copy ahead of a change that
failed, and the copy of a shard that was restored, are mended from the first shard by a timer.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.shards import Shard, Shards
from common.db.timer import Timer, Worker
from common.kafka.subscription import After, Hold, Received, Subscription
from common.telemetry import counter, gauge
from common.web.problems import DATABASE_DOWN, Unavailable
from consent.ledger import term_store
from consent.ledger.retention import Rule
from consent.senders import copy_store, store
from consent.senders.copy_store import Copied
from consent.senders.store import ReopeningRule, Sender

log = logging.getLogger(__name__)

LOOK_EVERY_S = 30.0
ANSWERS_WITHIN_S = 5.0  # of the other shards, together
BEGINS_WITHIN_S = 2.0
RETRY_AFTER_S = 5

MENDED = counter("sms_consent_registry_mended_rows_total", "Rows of a shard's copy of the registry put right.")
AHEAD = gauge(
    "sms_consent_registry_lost_rows", "Senders of a shard's copy that the first shard, once restored, has lost."
)


@asynccontextmanager
async def changing(shards: Shards, sender_ids: Collection[str]) -> AsyncIterator[AsyncConnection]:
    """Open a transaction of the first shard that may change these senders, and commit the copies of each before it.

    `sender_ids` is read at the end: the block may add to it. Raises Unavailable where a shard does not answer: then
    nothing has changed.
    """
    async with shards.first.database.begin() as tx:
        if not shards.divided:
            yield tx
            return
        await copy_store.lock(tx)
        yield tx
        if not sender_ids:
            return
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                await _copy_ahead(shards, tx, sender_ids)
        except DATABASE_DOWN as error:
            log.warning("a change of the registry waits for a shard", extra={"why": type(error).__name__})
            raise Unavailable(
                "a shard does not answer, and each has to know a sender: nothing was changed, so send the same again",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            ) from error


async def _copy_ahead(shards: Shards, tx: AsyncConnection, sender_ids: Collection[str]) -> None:
    """Commit the copies once every shard has taken them."""
    async with AsyncExitStack() as opened:
        for shard in _others(shards):
            await copy(tx, await opened.enter_async_context(shard.database.begin()), sender_ids)


async def copy_behind(shards: Shards, sender_id: str) -> None:
    """Copy what is decided in the first shard to each shard that answers. The timer of another shard does so later."""
    for shard in _others(shards):
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S), shards.first.database.begin() as tx:
                await copy_store.lock(tx)
                await store.lock_sender(tx, sender_id)  # no change of the sender is ahead in the copy meanwhile
                async with shard.database.begin() as own:
                    await copy(tx, own, [sender_id])
        except Exception as error:  # the decision stands
            _waits(shard, error)


async def end_ahead(shards: Shards, rule: ReopeningRule) -> None:
    """End a rule, ended in the open transaction of the first shard, in each other shard that answers."""
    assert rule.ended_at is not None, "just ended"
    assert rule.ended_by is not None
    assert rule.end_reason is not None
    for shard in _others(shards):
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S), shard.database.begin() as own:
                await store.end_rule(own, rule.sender_id, rule.rule_id, rule.ended_by, rule.end_reason, rule.ended_at)
        except Exception as error:  # the people of the others wait for none
            _waits(shard, error)


def _others(shards: Shards) -> list[Shard]:
    return [shard for shard in shards.each if shard is not shards.first]


def _waits(shard: Shard, error: Exception) -> None:
    log.warning("a rule waits for the timer of a shard", extra={"shard": shard.name, "why": type(error).__name__})


async def copy(first: AsyncConnection, own: AsyncConnection, sender_ids: Collection[str] | None) -> Copied:
    """Make the rows of these senders, or every row, as the first shard has them.

    `first`: a transaction of the first shard. A consent under a changed retention rule is counted again.
    """
    known = sender_ids if sender_ids is not None else await copy_store.sender_ids(own)
    before = {each.sender_id: rules_of(each) for each in await store.senders_of(own, known)}
    copied = await copy_store.copy(first, own, sender_ids)
    for each in await store.senders_of(own, before):
        if before[each.sender_id] != rules_of(each):
            await term_store.ask_recount(own, each.sender_id)
    return copied


def rules_of(sender: Sender) -> dict[str, Rule]:
    """Return the retention rules of a sender, by purpose."""
    return {purpose.id: Rule(purpose.retention_months, sender.renewal_days) for purpose in sender.purposes}


@dataclass(slots=True)
class Compared:
    """The comparison of a shard's copy by a process. `ahead`: senders that the first shard has lost."""

    once: bool = False
    ahead: frozenset[str] = frozenset()

    def told(self) -> str | None:
        """Return what to do about lost senders, for /readyz."""
        if not self.ahead:
            return None
        return (
            f"the first shard has lost senders that this shard has: {', '.join(sorted(self.ahead))}. Register them"
            " again with the same content (docs/runbook.md, A database was restored)"
        )


@dataclass(frozen=True, slots=True)
class Mending:
    """The timer of each shard with a copy."""

    shards: Shards
    compared: Compared = field(default_factory=Compared)

    def behind(self, subscription: Subscription) -> Subscription:
        """Return a subscription that waits for a first comparison: a restored copy lacks the newest STOP codes."""

        async def handle(tx: AsyncConnection, batch: list[Received]) -> After | None:
            if not self.compared.once:
                raise Hold("the sender registry is not compared with the first shard's yet")
            return await subscription.handle(tx, batch)

        return subscription if self._own is self.shards.first else replace(subscription, handle=handle)

    def workers(self) -> list[Worker]:
        """Return the timer, in a shard with a copy."""
        if self._own is self.shards.first:
            return []
        timer = Timer("registry copies", self.look, LOOK_EVERY_S, self._own.database)
        return [Worker(timer.name, timer.run)]

    @property
    def _own(self) -> Shard:
        return self.shards.own

    async def begin(self) -> None:
        """Mend the copy before any worker of the process runs, if the first shard answers soon.

        The copy of a restored database knows no STOP code of since then.
        """
        try:
            async with asyncio.timeout(BEGINS_WITHIN_S):
                await self.look()
        except Exception as error:  # the people of the shard wait for no other
            log.warning("the registry could not be compared yet", extra={"why": type(error).__name__})

    async def look(self) -> bool:
        """Compare the copy with the first shard's rows, and copy what differs."""
        if self._own is self.shards.first:
            return False
        if await self._is_the_same():
            self._is_compared(frozenset())
            return False
        async with self.shards.first.database.begin() as first:
            await copy_store.lock(first, alone=True)  # a change under way is ahead in the copies
            async with self._own.database.begin() as own:
                copied = await copy(first, own, None)
        MENDED.inc(copied.rows)
        if copied.rows:
            log.warning("the copy of the sender registry is mended", extra={"rows": copied.rows})
        self._is_compared(copied.ahead)
        for sender_id in sorted(copied.ahead):
            log.error(
                "the first shard has lost a sender that this shard has: register it there again with the same content",
                extra={"sender_id": sender_id},
            )
        return False

    def _is_compared(self, ahead: frozenset[str]) -> None:
        self.compared.once, self.compared.ahead = True, ahead
        AHEAD.set(len(ahead))

    async def _is_the_same(self) -> bool:
        async with self.shards.first.database.begin() as first, self._own.database.begin() as own:
            return await copy_store.digest(first) == await copy_store.digest(own)
