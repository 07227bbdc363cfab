"""Erase again what a backup brought back: `python -m consent erase-again --since INSTANT [--lost FILE]`.

A database restored from a backup holds people again who were erased since the backup. Kafka's log has their erasures
for seven days at most; this command asks for them whatever the age of the backup.

`--since`: every erasure completed since then is open again. Each service erases once more and acknowledges anew, so
that the certificate has new times. A person who has returned to a controller keeps what the controller holds.

`--lost`: consent-svc itself was restored, and has lost erasures. The other services have them: `python -m dispatch
erasures --since INSTANT` prints a line for each. Each lost erasure begins anew, behind opt-outs of its senders.

Of several shards, run the command in each: a run takes the people of its shard.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import ERASURES
from common.contracts.rights import ErasureRequested
from common.db.database import Database
from common.kafka import outbox
from common.kafka.broker import partition_of
from common.keyring import SubjectKeys
from common.privacy import erasing
from common.privacy.erasing import Kept
from common.settings.shards import ShardedSettings
from common.sms.subject_id import Inner
from consent.ledger import recorder
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import evidence_id
from consent.ledger.recorder import Statement
from consent.ledger.rules import Evidence
from consent.rights import erasures
from consent.senders import store as senders_store

SOURCE = "restore"
PAGE = 100


async def ask_again(tx: AsyncConnection, since: datetime, began: datetime) -> int:
    """Open a page of the erasures completed since `since` again, and return their number.

    `began`: the start of the command, which opens each erasure once.
    """
    rows = await tx.execute(
        text(
            """
            UPDATE erasure SET completed_at = NULL, asked_again_at = :now
            WHERE erasure_id IN (
                SELECT erasure_id FROM erasure AS e
                WHERE e.completed_at >= :since AND (e.asked_again_at IS NULL OR e.asked_again_at < :began)
                    AND NOT EXISTS (
                        SELECT FROM erasing AS g
                        WHERE g.subject_id = e.subject_id AND g.lifted_for <> '{}'
                            AND g.controller_id IS NOT DISTINCT FROM e.controller_id
                    )
                ORDER BY position
                LIMIT :page
                FOR UPDATE
            )
            RETURNING erasure_id, subject_id, controller_id, requested_at
            """
        ),
        {"since": since, "began": began, "now": datetime.now(UTC), "page": PAGE},
    )
    asked = [ErasureRequested(**row._mapping) for row in rows]
    if asked:
        await tx.execute(
            text("DELETE FROM erasure_ack WHERE erasure_id = ANY(CAST(:ids AS text[]))"),
            {"ids": [each.erasure_id for each in asked]},
        )
        await erasing.put(tx, *asked)
        await outbox.append(tx, ERASURES, asked)
    return len(asked)


async def begin_lost(tx: AsyncConnection, inner: Inner, lost: Kept) -> bool:
    """Begin a lost erasure anew, with the opt-outs it stood on; return False where the erasure is on record.

    A repeat of the command finds the erasure on record.
    """
    identity = evidence_id(SOURCE, lost.erasure_id)
    if await erasures.find(tx, [lost.erasure_id, erasures.named(identity)]):
        return False
    subject = (await ledger_store.lock_subjects(tx, {lost.subject_id: None}))[lost.subject_id]
    now = datetime.now(UTC)
    scopes: list[tuple[str | None, str | None]] = [(None, None)]
    if lost.controller_id is not None:
        senders = await senders_store.senders_of_controller(tx, lost.controller_id)
        scopes = [*ledger.closing(subject.state, senders, lost.controller_id)]
    names = [*(evidence_id(identity, *scope) for scope in scopes[:-1]), identity]
    statements = [
        Statement(
            lost.subject_id,
            None,
            Evidence(
                evidence_id=name,
                kind="opt_out",
                sender_id=sender_id,
                purpose=purpose,
                source=SOURCE,
                occurred_at=now,
                received_at=now,
            ),
            erases=name == identity,
        )
        for (sender_id, purpose), name in zip(scopes, names, strict=True)
    ]
    await erasures.begin(tx, await recorder.record(tx, inner, statements, now), now, lost.controller_id)
    return True


async def erase_again(database: Database, inner: Inner, since: datetime, lost: Sequence[Kept]) -> tuple[int, int]:
    """Return how many erasures are open again, and how many lost ones have begun."""
    began = datetime.now(UTC)
    opened = begun = 0
    while True:
        async with database.begin() as tx:
            many = await ask_again(tx, since, began)
        opened += many
        if many < PAGE:
            break
    for each in lost:
        async with database.begin() as tx:
            begun += await begin_lost(tx, inner, each)
    return opened, begun


def run(settings: ShardedSettings, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m consent erase-again", description="Erase again what a restored backup brought back."
    )
    parser.add_argument("--since", required=True, type=erasing.instant, help="the backup's time, as 2026-11-29T00:00Z")
    parser.add_argument(
        "--lost", type=Path, metavar="FILE", help="erasures that another service prints, where consent-svc was restored"
    )
    told = parser.parse_args(arguments)
    lost = [] if told.lost is None else msgspec.json.Decoder(Kept).decode_lines(told.lost.read_bytes())
    return asyncio.run(_run(settings, told.since, lost))


async def _run(settings: ShardedSettings, since: datetime, lost: Sequence[Kept]) -> int:
    database = Database(settings.database_url, pool_size=1, name="consent-erase-again")
    keys = SubjectKeys(settings.subject_keys)
    lost = [msgspec.structs.replace(each, subject_id=keys.current(each.subject_id)) for each in lost]
    own, of = set(settings.own_partitions), settings.partitions
    lost = [each for each in lost if partition_of(each.subject_id, of) in own]
    try:
        opened, begun = await erase_again(database, keys.inner, since, lost)
    finally:
        await database.close()
    sys.stdout.write(
        f"{opened} erasures are open again, {begun} lost erasures have begun: GET /v1/erasures tells them\n"
    )
    return 0
