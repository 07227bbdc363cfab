"""`python -m consent republish --partition N…`: publish partitions' states again, after their logs have lost records.

`republish --moved` publishes every state, and tombstones under the person's ids of the former outer keys, once
`keys --subjects` has moved the rows.

The runbook says when. All partitions named together take one pass over the people. After a crash the operator starts
again: a reader skips a version already seen.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import STATES
from common.db.database import Database
from common.kafka import broker as kafka
from common.kafka import outbox, tombstones
from common.keyring import SubjectKeys
from common.privacy.moving import NotYet, marked
from common.settings.shards import ShardedSettings
from consent.ledger import recorder, store

PAGE = 1_000
BACKLOG = 2_000  # waiting events: a STOP would wait behind the page
LOOK_EVERY_S = 0.2
CAUSES_OF = timedelta(days=7)  # operators notice a lost record within this time


@dataclass(frozen=True, slots=True)
class Republishing:
    database: Database
    partitions: int
    tell: Callable[[str], None]
    former_ids: Callable[[str], Sequence[str]] | None = None  # of a person, to be forgotten by the topic

    async def run(self, wanted: Collection[int]) -> int:
        """Publish all states of the wanted partitions, wait for Kafka, and return their number."""
        many, after, newest = 0, "", 0
        since = datetime.now(UTC) - CAUSES_OF
        while True:
            await self._until(self._short)
            async with self.database.begin() as tx:
                page = await store.told_after(tx, after, PAGE)
                of = kafka.partitions_of([subject_id.encode() for subject_id in page], self.partitions) if page else []
                ours = [subject_id for subject_id, place in zip(page, of, strict=True) if place in wanted]
                ids = await recorder.publish_again(tx, ours, since, datetime.now(UTC)) if ours else []
                many += len(ids)
                if self.former_ids is not None:
                    former = [each for subject_id in ours for each in self.former_ids(subject_id)]
                    ids += await tombstones.append(tx, STATES, former)
            newest = max([newest, *ids])
            if len(page) < PAGE:
                break
            after = page[-1]
            self.tell(f"{many} states")

        async def relayed(tx: AsyncConnection) -> bool:
            return not await tx.scalar(
                text("SELECT EXISTS (SELECT FROM outbox WHERE id <= :newest)"), {"newest": newest}
            )

        await self._until(relayed)
        return many

    async def _short(self, tx: AsyncConnection) -> bool:
        return await outbox.backlog_of_events(tx) <= BACKLOG

    async def _until(self, look: Callable[[AsyncConnection], Awaitable[bool]]) -> None:
        """Poll until `look` returns true."""
        while True:
            async with self.database.begin() as tx:
                if await look(tx):
                    return
            await asyncio.sleep(LOOK_EVERY_S)


async def former_ids(database: Database, keys: SubjectKeys) -> Callable[[str], Sequence[str]]:
    """Return the function from a person's id to the ids of the former outer keys. Raises NotYet.

    Under any other key a tombstone would take a state of now out of the topic.
    """
    async with database.begin() as tx:
        mark = await marked(tx)
    if mark is None or not mark.has_ended or mark.to != keys.outer_key_id:
        raise NotYet(f"the rows have not moved to the outer key {keys.outer_key_id}: run `keys --subjects` to its end")
    if gone := set(mark.of) - keys.older:
        raise NotYet(f"put the former outer key {', '.join(sorted(gone))} back into the ring")

    def of_person(subject_id: str) -> Sequence[str]:
        return [keys.under(subject_id, key_id) for key_id in mark.of] if keys.is_subject_id(subject_id) else []

    return of_person


def run(settings: ShardedSettings, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m consent republish", description="Publish the consent states of partitions again."
    )
    numbers = range(settings.partitions)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--partition", type=int, nargs="+", choices=numbers, metavar="N")
    which.add_argument("--moved", action="store_true", help="all, and forget the ids of the former outer key")
    told = parser.parse_args(arguments)
    return asyncio.run(_run(settings, frozenset(numbers if told.moved else told.partition), moved=told.moved))


async def _run(settings: ShardedSettings, wanted: frozenset[int], *, moved: bool) -> int:
    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    many = 0
    undivided = [("", range(settings.partitions), settings.database_url)]
    for _, partitions, url in settings.divided or undivided:
        if not (held := wanted & {*partitions}):
            continue
        database = Database(url, pool_size=1, name="consent-republish")
        try:
            former = await former_ids(database, SubjectKeys(settings.subject_keys)) if moved else None
            many += await Republishing(database, settings.partitions, tell, former).run(held)
        except NotYet as error:
            tell(f"nothing was published: {error}")
            return 1
        finally:
            await database.close()
    named = f"partition{'s' * (len(wanted) > 1)} {', '.join(map(str, sorted(wanted)))}"
    tell(f"{many} states of {named} are published again")
    return 0
