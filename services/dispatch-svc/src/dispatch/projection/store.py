"""The tables of the projection, and their statements.

A campaign's lock orders decisions and controls: a decision holds the lock shared, a control exclusive. A transaction
locks the partition first, if it does, then claimed rows of `message`, then campaigns in the order of ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec
from sqlalchemy import ARRAY, BigInteger, Boolean, Column, Index, Integer, SmallInteger, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_HOLDS, STATES
from common.contracts.campaign import CampaignControlled
from common.contracts.consent import (
    Consent,
    ConsentStateChanged,
    SenderChanged,
    Suppression,
)
from common.contracts.dispatch import HoldChanged
from common.contracts.loosening import NO_STOPS, Stops, believed, stops
from common.db.database import fetch_many, plan_now
from common.kafka import outbox
from common.kafka.reading.completeness import Seen
from dispatch.messages import waking_store
from dispatch.projection.hold import Hold
from dispatch.schema import instant, metadata

Generation = Literal["subject", "subject_next"]
CONSENTS_GROUP = "dispatch.consents"


def _subjects(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("subject_id", Text, primary_key=True),
        Column("version", Integer, nullable=False),
        Column("consents", JSONB, nullable=False),
        Column("suppressions", JSONB, nullable=False),
        Column("erased", Boolean, nullable=False),
        Column("unreadable", Boolean, nullable=False, server_default=text("false")),
        instant("held_since"),
        instant("published_at"),  # of this version; null: not recorded
        # of this version's record; while unreadable, of the record that made the subject unreadable; null: not recorded
        Column("log_offset", BigInteger),
    )


subject = _subjects("subject")
_subjects("subject_next")  # empty but for a rebuild

rebuild = Table(
    "rebuild",
    metadata,
    Column("partition", SmallInteger, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),  # the projection's at the last poll
    instant("begun_at", nullable=False),
    Column(
        "last_number", BigInteger, nullable=False, server_default=text("0")
    ),  # as `common.kafka.reading.completeness.Seen`
    Column("unseen", BigInteger, nullable=False, server_default=text("0")),
)

hold = Table(
    "hold",  # a single row
    metadata,
    Column("category", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    instant("since"),
    instant("ended_at"),
    instant("otherwise_since"),
)

sender = Table(
    "sender",
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("organisation_id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("oadc", Text, nullable=False),
    Column("stop_code", Text, nullable=False),
    Column("purposes", ARRAY(Text), nullable=False),
    Column("countries", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("reachable_in", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("stop_page", Text, nullable=True),
    Column("controller", Text, nullable=False),
    Column("stop_scope", Text, nullable=False, server_default=text("'controller'::text")),
    Index("sender_organisation_ix", "organisation_id"),
)

campaign = Table(
    "campaign",
    metadata,
    Column("campaign_id", Text, primary_key=True),
    Column("control", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("woken", Integer, nullable=False, server_default=text("0")),  # no message waits for a version up to this
    Index("campaign_to_wake_ix", "campaign_id", postgresql_where=text("woken < version AND control <> 'paused'")),
)

A_CAMPAIGN = "hashtext('placet.campaign'), hashtext({})"


def watermark_of(group: str, topic: str, partition: str, *, oldest: bool) -> str:
    """Return the SQL of the watermark of a partition's consents, or of the oldest of as many partitions."""
    of_topic = f"consumer_group = {group} AND topic = {topic} AND partition"
    if oldest:
        return (
            f"(SELECT CASE WHEN count(as_of) = {partition} THEN min(as_of) END FROM consumer_offset"
            f" WHERE {of_topic} < {partition})"
        )
    return f"(SELECT as_of FROM consumer_offset WHERE {of_topic} = {partition})"


async def watermark(tx: AsyncConnection, partition: int, *, oldest_of: int | None = None) -> datetime | None:
    """Return the watermark of the partition's consents.

    `oldest_of`: the number of partitions, where a STOP of the partition's people may stand in any of them. Return the
    oldest watermark then.
    """
    rows = await fetch_many(
        tx,
        f"SELECT {watermark_of('$1', '$2', '$3', oldest=oldest_of is not None)}",
        CONSENTS_GROUP,
        STATES.name,
        partition if oldest_of is None else oldest_of,
    )
    as_of: datetime | None = rows[0][0]
    return as_of


_consents = msgspec.json.Decoder(tuple[Consent, ...])
_suppressions = msgspec.json.Decoder(tuple[Suppression, ...])
_STOPPED = "({0}.suppressions <> '[]' OR {0}.consents @> '[{{\"state\": \"opted_out\"}}]')"


@dataclass(frozen=True, slots=True)
class Sender:
    oadc: str
    stop_code: str
    purposes: frozenset[str]
    countries: frozenset[str]
    reachable_in: frozenset[str]
    stop_page: str | None
    controller: str
    organisation_id: str


async def senders(tx: AsyncConnection, sender_ids: Iterable[str]) -> dict[str, Sender]:
    rows = await fetch_many(
        tx,
        "SELECT sender_id, oadc, stop_code, purposes, countries, reachable_in, stop_page, controller, organisation_id"
        " FROM sender WHERE sender_id = ANY($1::text[])",
        list(sender_ids),
    )
    return {sender_id: sender_of(*values) for sender_id, *values in rows}


def sender_of(
    oadc: str,
    stop_code: str,
    purposes: Sequence[str],
    countries: Sequence[str],
    reachable_in: Sequence[str],
    stop_page: str | None,
    controller: str,
    organisation_id: str,
) -> Sender:
    """Return the sender of these columns of its row."""
    sets = frozenset(purposes), frozenset(countries), frozenset(reachable_in)
    return Sender(oadc, stop_code, *sets, stop_page, controller, organisation_id)


class Published(NamedTuple):
    """The publication of a state, with its offset."""

    at: datetime
    offset: int


async def put_subjects(
    tx: AsyncConnection,
    states: Sequence[ConsentStateChanged],
    published: Mapping[tuple[str, int], Published] | None = None,
    *,
    generation: Generation = "subject",
) -> set[str]:
    """Store the states newer than the stored ones, at most one per subject; return the changed subjects.

    An unreadable subject stays unreadable after a state with an offset before the unreadable record: a replay of the
    older of two dead letters proves nothing of the newer, perhaps a STOP.
    """
    when = published or {}
    still = "(subject.unreadable AND coalesce(excluded.log_offset < subject.log_offset, false))"
    found = [when.get((s.subject_id, s.version)) for s in states]
    rows = await tx.execute(
        text(
            f"INSERT INTO {generation} AS subject"
            " (subject_id, version, consents, suppressions, erased, held_since, published_at, log_offset)"
            " SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:versions AS integer[]), CAST(:consents AS jsonb[]),"
            " CAST(:suppressions AS jsonb[]), CAST(:erased AS boolean[]), CAST(:held AS timestamptz[]),"
            " CAST(:published AS timestamptz[]), CAST(:offsets AS bigint[]))"
            " ON CONFLICT (subject_id) DO UPDATE SET version = excluded.version, consents = excluded.consents,"
            f" suppressions = excluded.suppressions, erased = excluded.erased, unreadable = {still},"
            " held_since = excluded.held_since, published_at = excluded.published_at,"
            f" log_offset = CASE WHEN {still} THEN subject.log_offset ELSE excluded.log_offset END"
            " WHERE subject.version < excluded.version"
            " RETURNING subject_id"
        ),
        {
            "ids": [s.subject_id for s in states],
            "versions": [s.version for s in states],
            "consents": [msgspec.json.encode(s.consents).decode() for s in states],
            "suppressions": [msgspec.json.encode(s.suppressions).decode() for s in states],
            "erased": [s.erased for s in states],
            "held": [s.held_since for s in states],
            "published": [at.at if at else None for at in found],
            "offsets": [at.offset if at else None for at in found],
        },
    )
    return {row.subject_id for row in rows}


class Known(NamedTuple):
    """The stored state of a subject, as far as compared."""

    version: int
    held_since: datetime | None
    stops: Stops


async def known_subjects(
    tx: AsyncConnection, subject_ids: Sequence[str], *, generation: Generation = "subject"
) -> dict[str, Known]:
    """Return the stored subjects among these."""
    rows = await fetch_many(
        tx,
        f"SELECT subject_id, version, held_since, {_STOPPED.format('s')}, s.consents::text,"
        f" s.suppressions::text FROM {generation} AS s WHERE subject_id = ANY($1::text[])",
        list(subject_ids),
    )
    return {
        subject_id: Known(version, held_since, _stops(consents, suppressions) if stopped else NO_STOPS)
        for subject_id, version, held_since, stopped, consents, suppressions in rows
    }


def _stops(consents: str, suppressions: str) -> Stops:
    return stops(_consents.decode(consents), _suppressions.decode(suppressions))


async def mark_unreadable(
    tx: AsyncConnection, subject_id: str, offset: int, *, generation: Generation = "subject"
) -> None:
    """Mark a subject unreadable by the record at this offset.

    The gate denies the subject until a readable state of a newer version arrives at this offset or later.
    """
    await tx.execute(
        text(
            f"INSERT INTO {generation} (subject_id, version, consents, suppressions, erased, unreadable, log_offset)"
            " VALUES (:id, 0, '[]', '[]', false, true, :offset)"
            " ON CONFLICT (subject_id) DO UPDATE SET unreadable = true,"
            f" log_offset = greatest({generation}.log_offset, excluded.log_offset)"
        ),
        {"id": subject_id, "offset": offset},
    )


# The offsets of a rebuild are of partitions, and its rows would be of two keys.
REBUILDING = {"a rebuild of the projection is under way: let it end": "SELECT 1 FROM rebuild LIMIT 1"}


# An id of another key is of another partition, whose offsets cannot be compared with those of before.
WITHOUT_OFFSETS = ("UPDATE subject SET log_offset = NULL WHERE log_offset IS NOT NULL",)


async def begin_rebuild(tx: AsyncConnection, now: datetime) -> tuple[datetime, dict[int, Seen]]:
    """Resume the unfinished rebuild, or start a rebuild with an empty table.

    Return the start, which identifies the rebuild, and each partition's position.
    """
    rows = list(await tx.execute(text("SELECT partition, next_offset, last_number, unseen, begun_at FROM rebuild")))
    begun_at: datetime = rows[0].begun_at if rows else now
    if not rows:
        await tx.execute(text("SELECT empty_subject_next()"))
    added = await tx.execute(
        text(
            "INSERT INTO rebuild (partition, next_offset, until, begun_at) SELECT partition, 0, next_offset, :begun_at"
            " FROM consumer_offset WHERE consumer_group = :group AND topic = :topic"
            " ON CONFLICT DO NOTHING RETURNING partition, next_offset, last_number, unseen"
        ),
        {"begun_at": begun_at, "group": CONSENTS_GROUP, "topic": STATES.name},
    )
    return begun_at, {r.partition: Seen(r.next_offset, r.last_number, r.unseen) for r in (*rows, *added)}


async def rebuild_until(tx: AsyncConnection) -> dict[int, int]:
    """Store and return the position of the projection, the goal of the rebuild."""
    until = await projected_up_to(tx)
    await tx.execute(
        text(
            "UPDATE rebuild AS r SET until = v.until"
            " FROM unnest(CAST(:partitions AS smallint[]), CAST(:until AS bigint[])) AS v(partition, until)"
            " WHERE r.partition = v.partition"
        ),
        {"partitions": list(until), "until": list(until.values())},
    )
    return until


async def step_rebuild(tx: AsyncConnection, begun_at: datetime, partition: int, since: Seen, reached: Seen) -> bool:
    """Advance the rebuild of a partition. Return False when another process has."""
    stepped = await tx.execute(
        text(
            "UPDATE rebuild SET next_offset = :next_offset, last_number = :last_number, unseen = :unseen"
            " WHERE partition = :partition AND begun_at = :begun_at AND next_offset = :since"
        ),
        {**reached._asdict(), "partition": partition, "begun_at": begun_at, "since": since.next_offset},
    )
    return stepped.rowcount == 1


async def rebuild_progress(tx: AsyncConnection) -> tuple[int, int, datetime | None]:
    """Return (records read, records to read, start); without a rebuild (0, 0, None)."""
    row = (
        await tx.execute(
            text(
                "SELECT coalesce(sum(next_offset), 0)::bigint AS read, coalesce(sum(until), 0)::bigint AS until,"
                " min(begun_at) AS begun_at FROM rebuild"
            )
        )
    ).one()
    return row.read, row.until, row.begun_at


async def change_generations(tx: AsyncConnection, begun_at: datetime, reached: Mapping[int, Seen]) -> bool:
    """Swap the tables: from the commit on, the rebuilt table serves, and the old one is emptied.

    The caller has locked `subject` exclusive (`lock_generation`). Return False when another process has advanced the
    rebuild since `reached`: the caller then rolls back, because `subject_next` may be almost empty.
    """
    rows = await tx.execute(
        text("DELETE FROM rebuild WHERE begun_at = :begun_at RETURNING partition, next_offset"), {"begun_at": begun_at}
    )
    if {row.partition: row.next_offset for row in rows} != {p: seen.next_offset for p, seen in reached.items()}:
        return False
    for statement in (
        "SELECT swap_subject()",
        "SELECT empty_subject_next()",
        "UPDATE comparison SET compared_at = NULL",
    ):
        await tx.execute(text(statement))
    return True


async def lock_generation(tx: AsyncConnection, within_s: float) -> None:
    """Lock `subject` against every reader and writer until the transaction ends.

    Raise after `within_s`, because every later transaction queues behind this wait. The wait for
    `checksum_store.sums` comes first and has no limit.
    """
    await tx.execute(text("SELECT pg_advisory_xact_lock(hashtext('placet.generation'))"))
    await tx.execute(text(f"SET LOCAL lock_timeout = {int(within_s * 1000)}"))
    await tx.execute(text("LOCK TABLE subject IN ACCESS EXCLUSIVE MODE"))


async def keep_newer(tx: AsyncConnection) -> int:
    """Copy the newer rows of the serving table into `subject_next`; return how many.

    No state missing from the log is lost, nor a STOP.
    """
    await _keep_stops(tx)
    kept = await tx.execute(
        text(
            "INSERT INTO subject_next AS n SELECT s.* FROM subject AS s LEFT JOIN subject_next AS n USING (subject_id)"
            " WHERE n.version IS NULL OR n.version < s.version"
            " ON CONFLICT (subject_id) DO UPDATE SET version = excluded.version, consents = excluded.consents,"
            " suppressions = excluded.suppressions, erased = excluded.erased, unreadable = excluded.unreadable,"
            " held_since = excluded.held_since, published_at = excluded.published_at, log_offset = excluded.log_offset"
            " WHERE n.version < excluded.version"
        )
    )
    return kept.rowcount


async def _keep_stops(tx: AsyncConnection) -> None:
    """Restore each STOP that a rebuilt state forgets, perhaps by compaction, and mark its subject unreadable."""
    rows = await fetch_many(
        tx,
        "SELECT n.subject_id, n.version, n.consents::text, n.suppressions::text, n.erased, s.consents::text,"
        " s.suppressions::text FROM subject AS s JOIN subject_next AS n USING (subject_id)"
        " WHERE s.version <= n.version AND (s.consents <> n.consents OR s.suppressions <> n.suppressions)"
        f" AND {_STOPPED.format('s')}",
    )
    for subject_id, version, consents, suppressions, erased, *stored in rows:
        state = ConsentStateChanged(
            subject_id=subject_id,
            version=version,
            consents=_consents.decode(consents),
            suppressions=_suppressions.decode(suppressions),
            erased=erased,
            causes=(),
        )
        state, forgets = believed(_stops(*stored), [state])
        if forgets:
            await fetch_many(
                tx,
                "UPDATE subject_next SET unreadable = true, consents = $2::text::jsonb, suppressions = $3::text::jsonb"
                " WHERE subject_id = $1",
                subject_id,
                msgspec.json.encode(state.consents).decode(),
                msgspec.json.encode(state.suppressions).decode(),
            )


async def projected_up_to(tx: AsyncConnection) -> dict[int, int]:
    """Return the projection's next offset in consent.states.v1, by partition."""
    rows = await tx.execute(
        text("SELECT partition, next_offset FROM consumer_offset WHERE consumer_group = :group AND topic = :topic"),
        {"group": CONSENTS_GROUP, "topic": STATES.name},
    )
    return {row.partition: row.next_offset for row in rows}


async def watermarks(tx: AsyncConnection) -> dict[int, datetime | None]:
    """Return the watermark of each partition."""
    rows = await tx.execute(
        text("SELECT partition, as_of FROM consumer_offset WHERE consumer_group = :group AND topic = :topic"),
        {"group": CONSENTS_GROUP, "topic": STATES.name},
    )
    return {row.partition: row.as_of for row in rows}


async def lock_hold(tx: AsyncConnection) -> Hold:
    """Return the last announcement of the marketing hold, and lock its row."""
    rows = await fetch_many(tx, "SELECT version, since, ended_at, otherwise_since FROM hold FOR UPDATE")
    return Hold(*rows[0]) if rows else Hold()


async def put_hold(tx: AsyncConnection, known: Hold, tell: HoldChanged | None) -> None:
    """Store the marketing hold, and publish `tell`."""
    await tx.execute(
        text(
            "INSERT INTO hold (category, version, since, ended_at, otherwise_since)"
            " VALUES ('marketing', :version, :since, :ended_at, :otherwise_since)"
            " ON CONFLICT (category) DO UPDATE SET version = excluded.version, since = excluded.since,"
            " ended_at = excluded.ended_at, otherwise_since = excluded.otherwise_since"
        ),
        msgspec.structs.asdict(known),
    )
    await outbox.append(tx, DISPATCH_HOLDS, [tell] if tell else [])


async def put_sender(tx: AsyncConnection, event: SenderChanged) -> None:
    await tx.execute(
        text(
            "INSERT INTO sender (sender_id, organisation_id, version, oadc, stop_code, purposes, countries,"
            " reachable_in, stop_page, controller, stop_scope)"
            " VALUES (:id, :organisation_id, :version, :oadc, :stop_code, CAST(:purposes AS text[]),"
            " CAST(:countries AS text[]), CAST(:reachable_in AS text[]), :stop_page, :controller, :stop_scope)"
            " ON CONFLICT (sender_id) DO UPDATE SET version = excluded.version, oadc = excluded.oadc,"
            " stop_code = excluded.stop_code, purposes = excluded.purposes, countries = excluded.countries,"
            " reachable_in = excluded.reachable_in, stop_page = excluded.stop_page,"
            " controller = excluded.controller, stop_scope = excluded.stop_scope"
            " WHERE sender.version < excluded.version"
        ),
        {
            "id": event.sender_id,
            "organisation_id": event.organisation_id,
            "version": event.version,
            "oadc": event.oadc,
            "stop_code": event.stop_code,
            "purposes": [p.id for p in event.purposes],
            "countries": [event.country, *event.abroad],
            "reachable_in": list(event.reachable_in),
            "stop_page": event.stop_page,
            "controller": event.controller_id,
            "stop_scope": event.stop_scope,
        },
    )


async def put_control(tx: AsyncConnection, event: CampaignControlled) -> None:
    """Store the control unless the stored one is newer.

    The lock waits for running decisions. A later decision waits for this transaction while holding the locks of its
    partition and due rows, so `wake_controlled` wakes waiting messages afterwards, in pages.
    """
    await fetch_many(tx, f"SELECT pg_advisory_xact_lock({A_CAMPAIGN.format('$1')})", event.campaign_id)
    await tx.execute(
        text(
            "INSERT INTO campaign (campaign_id, control, version) VALUES (:id, :control, :version)"
            " ON CONFLICT (campaign_id) DO UPDATE SET control = excluded.control, version = excluded.version"
            " WHERE campaign.version < excluded.version"
        ),
        {"id": event.campaign_id, "control": event.control, "version": event.version},
    )


async def note_woken(tx: AsyncConnection, campaign_id: str, version: int, *, cancelled: bool) -> None:
    """Record this control version as woken, unless a message still waits.

    No decision defers for an older control: `put_control` has waited.
    """
    await plan_now(tx)
    await fetch_many(
        tx,
        "UPDATE campaign SET woken = $3 WHERE campaign_id = $1 AND woken < $3"
        f" AND NOT EXISTS (SELECT FROM message AS m WHERE {waking_store.FOR_A_CONTROL})",
        campaign_id,
        cancelled,
        version,
    )
