"""Messages that went out after the person's STOP, which we learned of only then: the operator was late, the shop told
it days later, a list came at the end of the month. Nobody is to blame for what they did not know, and somebody may ask.

Each opt-out meets the messages that had left by then, and each message the opt-outs that were on record by then,
whichever of the two is written last: one timer goes through both tables in the order of their ordinals, as far as they
are settled, and meets every pair at least once. What a message stands on is the ledger's own fold, of what had happened
when it left, as far as we know now: scope, controller and a newer opt-in count as they always do. A message is found
once, with the STOP that forbade it as it was known then.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Identity, Index, Row, Table, Text, text
from sqlalchemy.ext.asyncio import AsyncConnection

from common.db.database import Database
from common.db.timer import Timer
from common.service import Worker
from common.telemetry import counter
from consent import store
from consent.ledger import rules as ledger
from consent.ledger.chain import Entry
from consent.proof.settling import Settling
from consent.store import HandedOff

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
AT_ONCE = 5_000  # ordinals of a table, in one transaction

FOUND = counter("sms_consent_retroactive_messages_total", "Messages that went out after a STOP learned of later.")

Table(
    "retroactive_message",
    store.metadata,
    Column("message_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),  # the order of lists
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
    "retroactive_cursor",  # how far each of the two tables was gone through
    store.metadata,
    Column("of_table", Text, primary_key=True),
    Column("ordinal", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retroactive:
    """A message, and the STOP (`evidence_id`) of before it. `stopped_at` is when at source, `known_at` when it was on
    record: a message that left later than that was on its way until the STOP was enforced. `in_doubt`: the operator
    timed the STOP to the second, and the message left within that second; or its clock puts the STOP before the opt-in
    that the message stood on, which the STOP came after."""

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
    """The message with the STOP that would have forbidden it, had we known; None where nothing did. `entries`: all
    that is on record of its subject."""
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
    """The timer that goes through both tables. Several processes may run it; one at a time does it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._evidence = Settling(database, "evidence")
        self._messages = Settling(database, "handed_off")

    def worker(self) -> Worker:
        timer = Timer("retroactive messages", self.look, LOOK_EVERY_S, self._database)
        return Worker(timer.name, timer.run)

    async def look(self) -> bool:
        """One stretch of each table. Is there more to be looked at, at once?"""
        async with self._database.begin() as tx:
            seen = await _cursors(tx)
        evidence = await self._evidence.up_to(seen["evidence"])
        messages = await self._messages.up_to(seen["handed_off"])
        async with self._database.begin() as tx:
            locked = await _cursors(tx, lock=True)
            if locked != seen:
                return True  # somebody else has been at it meanwhile
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
                "a message went out after a STOP that we learned of later",
                extra={"message_id": each.message_id, "sender_id": each.sender_id, "evidence_id": each.evidence_id},
            )
        return ends != {"evidence": evidence, "handed_off": messages}


async def find(
    tx: AsyncConnection, after: dict[str, int], up_to: dict[str, int], now: datetime
) -> Sequence[Retroactive]:
    """Of the opt-outs and of the messages between these ordinals; those that were not found before are kept."""
    messages = await _candidates(tx, after, up_to)
    histories = await store.whole_histories(tx, {message.subject_id for message in messages})
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


async def page(
    tx: AsyncConnection, sender_ids: Sequence[str] | None, after: int, limit: int
) -> list[tuple[int, Retroactive, datetime]]:
    """(position, message, when it was found) of these senders, None for all of them, in the order they were found, from
    the position after `after` on."""
    rows = await tx.execute(
        text(
            "SELECT * FROM retroactive_message WHERE position > :after"
            + (" AND sender_id = ANY(CAST(:senders AS text[]))" if sender_ids is not None else "")
            + " ORDER BY position LIMIT :limit"
        ),
        {"after": after, "limit": limit} | ({"senders": list(sender_ids)} if sender_ids is not None else {}),
    )
    return [(row.position, _retroactive(row), row.found_at) for row in rows]


async def _cursors(tx: AsyncConnection, *, lock: bool = False) -> dict[str, int]:
    rows = await tx.execute(
        text(f"SELECT of_table, ordinal FROM retroactive_cursor ORDER BY of_table{' FOR UPDATE' if lock else ''}")
    )
    return {row.of_table: row.ordinal for row in rows}


async def _candidates(tx: AsyncConnection, after: dict[str, int], up_to: dict[str, int]) -> list[HandedOff]:
    """Messages that left after some opt-out of their subject, whatever it was of, where one of the two is new."""
    columns = ", ".join(f"m.{name}" for name in HandedOff.__slots__)
    stopped = "e.kind = 'opt_out' AND least(e.occurred_at, e.received_at) <= m.handed_off_at"
    rows = await tx.execute(
        text(
            f"SELECT {columns} FROM evidence AS e JOIN handed_off AS m ON m.subject_id = e.subject_id"
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
    """The message ids of those that are new."""
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


def _retroactive(row: Row[tuple[object, ...]]) -> Retroactive:
    return Retroactive(**{name: getattr(row, name) for name in Retroactive.__slots__})
