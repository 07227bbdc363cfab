"""Find the messages which went out after a STOP still unknown or not yet enforced.

Either row may be written last, the opt-out or the message. A timer therefore goes through both tables by ordinal, as
far as the rows are settled, and compares every pair at least once. A message whose time of hand-off changes takes a new
ordinal. The ledger's fold decides, over the events which had happened when the message left, as known now.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Identity, Index, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.db.timer import Timer, Worker
from common.telemetry import counter
from consent.ledger import rules as ledger
from consent.ledger import store as ledger_store
from consent.ledger.chain import Entry
from consent.proof import store
from consent.proof.settling import Settling
from consent.proof.store import HandedOff
from consent.schema import metadata

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
AT_ONCE = 5_000

FOUND = counter(
    "sms_consent_retroactive_messages_total",
    "Messages handed off after the person's STOP, before consent-svc had recorded the STOP.",
)

Table(
    "retroactive_message",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("campaign_id", Text, nullable=True),
    Column("handed_off_at", DateTime(timezone=True), nullable=False),
    Column("evidence_id", Text, nullable=False),  # of the STOP
    Column("stopped_at", DateTime(timezone=True), nullable=False),
    Column("known_at", DateTime(timezone=True), nullable=False),
    Column("in_doubt", Boolean, nullable=False),
    Column("found_at", DateTime(timezone=True), nullable=False),
    Index("retroactive_message_position_ix", "position", unique=True),
    Index("retroactive_message_at_ix", "handed_off_at"),
    Index("retroactive_message_sender_ix", "sender_id", "position"),
)

Table(
    "retroactive_cursor",
    metadata,
    Column("of_table", Text, primary_key=True),
    Column("ordinal", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retroactive:
    """A message, and the earlier STOP (`evidence_id`). `stopped_at`: time at source; `known_at`: time of recording.

    `in_doubt`: the message left within the second of the STOP; or the STOP, by the operator's clock, is older than the
    newest opt-in.
    """

    message_id: str
    subject_id: str
    sender_id: str
    purpose: str
    campaign_id: str | None
    handed_off_at: datetime
    evidence_id: str
    stopped_at: datetime
    known_at: datetime
    in_doubt: bool


def forbidden(message: HandedOff, entries: Iterable[Entry]) -> Retroactive | None:
    """Return the message with the STOP which forbids the message as known now, if any. `entries`: the whole record."""
    by_then = {e.evidence.evidence_id: e for e in entries if e.evidence.since <= message.handed_off_at}
    state = ledger.fold(entry.evidence for entry in by_then.values())
    consent = ledger.consent_of(state, message.sender_id, message.purpose)
    if consent is None or consent.state != "opted_out":
        return None
    stop = by_then[consent.evidence_id]
    given = ledger.newest_opt_in(state, message.sender_id, message.purpose)
    return Retroactive(
        message_id=message.message_id,
        subject_id=message.subject_id,
        sender_id=message.sender_id,
        purpose=message.purpose,
        campaign_id=message.campaign_id,
        handed_off_at=message.handed_off_at,
        evidence_id=stop.evidence.evidence_id,
        stopped_at=stop.evidence.since,
        known_at=stop.recorded_at,
        in_doubt=message.handed_off_at <= stop.evidence.at or (given is not None and given.at > stop.evidence.at),
    )


class Looking:
    """The timer. Of several processes, only one advances the cursors at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._evidence = Settling(database, "evidence")
        self._messages = Settling(database, "handed_off")

    def worker(self) -> Worker:
        timer = Timer("retroactive messages", self.look, LOOK_EVERY_S, self._database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        """Compare the next stretch of each table; return whether more rows are ready."""
        async with self._database.begin() as tx:
            seen = await _cursors(tx)
        evidence = await self._evidence.up_to(seen["evidence"])
        messages = await self._messages.up_to(seen["handed_off"])
        async with self._database.begin() as tx:
            locked = await _cursors(tx, lock=True)
            if locked != seen:
                return True  # by another process
            ends = {
                "evidence": min(evidence, seen["evidence"] + AT_ONCE),
                "handed_off": min(messages, seen["handed_off"] + AT_ONCE),
            }
            if ends == seen:
                return False
            found = await find(tx, seen, ends, datetime.now(UTC))
        FOUND.inc(len(found))
        for each in found:
            log.warning(
                "a message left after a STOP that was recorded later",
                extra={"message_id": each.message_id, "sender_id": each.sender_id, "evidence_id": each.evidence_id},
            )
        return ends != {"evidence": evidence, "handed_off": messages}


async def find(
    tx: AsyncConnection, after: dict[str, int], up_to: dict[str, int], now: datetime
) -> Sequence[Retroactive]:
    """Find messages between these ordinals, store the cursors, and return the new finds."""
    messages = await _candidates(tx, after, up_to)
    histories = await ledger_store.whole_histories(tx, {message.subject_id for message in messages})
    entries = {subject.subject_id: of for subject, of in histories}
    found = [each for message in messages if (each := forbidden(message, entries[message.subject_id]))]
    kept = await _keep(tx, found, now)
    await tx.execute(
        text(
            "UPDATE retroactive_cursor AS c SET ordinal = n.ordinal"
            " FROM unnest(CAST(:tables AS text[]), CAST(:ordinals AS bigint[])) AS n(of_table, ordinal)"
            " WHERE c.of_table = n.of_table"
        ),
        {"tables": list(up_to), "ordinals": list(up_to.values())},
    )
    return [each for each in found if each.message_id in kept]


class Found(NamedTuple):
    """A message at its place in the list. `of_all`: its STOP is to every sender."""

    position: int
    message: Retroactive
    found_at: datetime
    of_all: bool


async def page(tx: AsyncConnection, sender_ids: Sequence[str] | None, after: int, limit: int) -> list[Found]:
    """Return the messages of these senders, or of all, after `after`."""
    rows = await tx.execute(
        text(
            "SELECT r.*, EXISTS (SELECT FROM evidence AS e WHERE e.evidence_id = r.evidence_id"
            " AND e.sender_id IS NULL) AS of_all FROM retroactive_message AS r"
            " WHERE r.position > :after"
            + (" AND r.sender_id = ANY(CAST(:senders AS text[]))" if sender_ids is not None else "")
            + " ORDER BY r.position LIMIT :limit"
        ),
        {"after": after, "limit": limit} | ({"senders": list(sender_ids)} if sender_ids is not None else {}),
    )
    return [
        Found(
            row.position,
            Retroactive(**{name: getattr(row, name) for name in Retroactive.__slots__}),
            row.found_at,
            row.of_all,
        )
        for row in rows
    ]


async def _cursors(tx: AsyncConnection, *, lock: bool = False) -> dict[str, int]:
    rows = await tx.execute(
        text(f"SELECT of_table, ordinal FROM retroactive_cursor ORDER BY of_table{' FOR UPDATE' if lock else ''}")
    )
    return {row.of_table: row.ordinal for row in rows}


async def _candidates(tx: AsyncConnection, after: dict[str, int], up_to: dict[str, int]) -> list[HandedOff]:
    """Return messages which left after any opt-out, where the message or the opt-out is new."""
    columns = ", ".join(f"m.{name}" for name in HandedOff.__struct_fields__)
    stopped = "e.kind = 'opt_out' AND least(e.occurred_at, e.received_at) <= m.handed_off_at"
    rows = await tx.execute(
        text(
            f"SELECT {columns} FROM evidence AS e JOIN handed_off AS m ON {store.of_person('m', 'e.subject_id')}"
            f" WHERE {stopped} AND e.ordinal > :evidence AND e.ordinal <= :evidence_to"
            f" UNION SELECT {columns} FROM handed_off AS m"
            f" WHERE m.ordinal > :messages AND m.ordinal <= :messages_to"
            f" AND EXISTS (SELECT FROM evidence AS e WHERE e.subject_id = m.subject_id AND {stopped})"
        ),
        {
            "evidence": after["evidence"],
            "evidence_to": up_to["evidence"],
            "messages": after["handed_off"],
            "messages_to": up_to["handed_off"],
        },
    )
    return [HandedOff(**row._mapping) for row in rows]


async def _keep(tx: AsyncConnection, found: Sequence[Retroactive], now: datetime) -> set[str]:
    """Store the finds; return the message ids of the new."""
    kinds = dict.fromkeys(Retroactive.__slots__, "text")
    kinds |= dict.fromkeys(("handed_off_at", "stopped_at", "known_at"), "timestamptz") | {"in_doubt": "boolean"}
    rows = await tx.execute(
        text(
            f"INSERT INTO retroactive_message ({', '.join(kinds)}, found_at) SELECT f.*, :now FROM unnest("
            + ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in kinds.items())
            + ") AS f ON CONFLICT DO NOTHING RETURNING message_id"
        ),
        {name: [getattr(each, name) for each in found] for name in kinds} | {"now": now},
    )
    return {row.message_id for row in rows}
