"""The tables of the projection, and the statements that write them: consents, senders, controls of campaigns, the
marketing hold, the comparison and the rebuild.

A campaign's lock orders decisions and controls, in a queue: a decision holds it shared, a control exclusive. It comes
after the partition's lock and those of rows of `message` that are claimed; who has several takes them in the order of
ids.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec
from sqlalchemy import ARRAY, BigInteger, Boolean, Column, Index, Integer, Row, SmallInteger, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_HOLDS, STATES
from common.contracts.campaign import CampaignControlled
from common.contracts.consent import (
    DIGEST_BYTES,
    SLICE,
    Consent,
    ConsentStateChanged,
    SenderChanged,
    StatesSummed,
    Suppression,
)
from common.contracts.dispatch import HoldChanged
from common.db.database import fetch_many, plan_now
from common.kafka import outbox
from common.kafka.completeness import Seen
from dispatch.messages import store as messages
from dispatch.projection.hold import Hold
from dispatch.projection.loosening import NO_STOPS, Stops, believed
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
        instant("published_at"),  # this version; null: before anybody noted it
        # of the record that it stands on; while unreadable, of the newest one that could not be read. Null: likewise
        Column("log_offset", BigInteger),
    )


subject = _subjects("subject")
_subjects("subject_next")  # the generation that `rebuilding.py` makes beside the one that serves; else empty

rebuild = Table(
    "rebuild",
    metadata,
    Column("partition", SmallInteger, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),  # what the projection has read, when it was last looked at
    instant("begun_at", nullable=False),
    Column("last_number", BigInteger, nullable=False, server_default=text("0")),  # as `common.kafka.completeness.Seen`
    Column("unseen", BigInteger, nullable=False, server_default=text("0")),
)

hold = Table(
    "hold",  # one row: what was told of marketing being held (`hold.py`)
    metadata,
    Column("category", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    instant("since"),
    instant("ended_at"),
    instant("otherwise_since"),
)

comparison = Table(
    "comparison",  # one row: the newest sums of consent-svc, and how our own compare
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("sums", Text, nullable=False),  # StatesSummed, JSON
    instant("begun_at", nullable=False),
    instant("seen_until", nullable=False),
    instant("compared_at"),  # null: not yet
    Column("compared", Integer, nullable=False, server_default=text("0")),  # slices
    Column("moving", Integer, nullable=False, server_default=text("0")),  # slices that have changed since
    Column("differing", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
)

sender = Table(
    "sender",
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("oadc", Text, nullable=False),
    Column("stop_code", Text, nullable=False),
    Column("purposes", ARRAY(Text), nullable=False),
    Column("countries", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
)

campaign = Table(
    "campaign",
    metadata,
    Column("campaign_id", Text, primary_key=True),
    Column("control", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("woken", Integer, nullable=False, server_default=text("0")),  # the version for which all that waited is
    Index("campaign_to_wake_ix", "campaign_id", postgresql_where=text("woken < version AND control <> 'paused'")),
)

_A_CAMPAIGN = "hashtext('placet.campaign'), hashtext({})"


async def watermark(tx: AsyncConnection, partition: int, campaign_ids: Collection[str] = ()) -> datetime | None:
    """`as_of` of this partition's consent projection. `campaign_ids`: locked on the way, for `controls`."""
    rows = await fetch_many(
        tx,
        "SELECT (SELECT as_of FROM consumer_offset WHERE consumer_group = $1 AND topic = $2 AND partition = $3),"
        f" (SELECT count(pg_advisory_xact_lock_shared({_A_CAMPAIGN.format('c')})) FROM unnest($4::text[]) AS c)",
        CONSENTS_GROUP,
        STATES.name,
        partition,
        sorted(campaign_ids),
    )
    as_of: datetime | None = rows[0][0]
    return as_of


_sums = msgspec.json.Decoder(StatesSummed)
_consents = msgspec.json.Decoder(tuple[Consent, ...])
_suppressions = msgspec.json.Decoder(tuple[Suppression, ...])
_STOPPED = "({0}.suppressions <> '[]' OR {0}.consents @> '[{{\"state\": \"opted_out\"}}]')"


@dataclass(frozen=True, slots=True)
class Sender:
    oadc: str
    stop_code: str
    purposes: frozenset[str]
    countries: frozenset[str]


async def senders(tx: AsyncConnection, sender_ids: Iterable[str]) -> dict[str, Sender]:
    rows = await fetch_many(
        tx,
        "SELECT sender_id, oadc, stop_code, purposes, countries FROM sender WHERE sender_id = ANY($1::text[])",
        list(sender_ids),
    )
    return {
        sender_id: Sender(oadc, stop_code, frozenset(purposes), frozenset(countries))
        for sender_id, oadc, stop_code, purposes, countries in rows
    }


class Published(NamedTuple):
    """When a state was, and where in the log of its partition."""

    at: datetime
    offset: int


async def put_subjects(
    tx: AsyncConnection,
    states: Sequence[ConsentStateChanged],
    published: Mapping[tuple[str, int], Published] | None = None,
    *,
    generation: Generation = "subject",
) -> set[str]:
    """Keep the newest version of each; returns the subjects that changed. At most one state per subject. `published`:
    when and where each (subject_id, version) was. Who is unreadable stays so by a state that lies before what could not
    be read: of two dead letters the older one was handled again, and the other may be a STOP."""
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
    """What a newer state of a subject is compared with."""

    version: int
    held: bool
    stops: Stops


async def known_subjects(
    tx: AsyncConnection, subject_ids: Sequence[str], *, generation: Generation = "subject"
) -> dict[str, Known]:
    """Those subjects that are known. Only of a subject with a STOP are the consents read."""
    rows = await fetch_many(
        tx,
        f"SELECT subject_id, version, held_since IS NOT NULL, {_STOPPED.format('s')}, s.consents::text,"
        f" s.suppressions::text FROM {generation} AS s WHERE subject_id = ANY($1::text[])",
        list(subject_ids),
    )
    return {
        subject_id: Known(version, held, _stops(consents, suppressions) if stopped else NO_STOPS)
        for subject_id, version, held, stopped, consents, suppressions in rows
    }


def _stops(consents: str, suppressions: str) -> Stops:
    shut = tuple(consent for consent in _consents.decode(consents) if consent.state == "opted_out")
    return Stops(shut, _suppressions.decode(suppressions))


async def mark_unreadable(
    tx: AsyncConnection, subject_id: str, offset: int, *, generation: Generation = "subject"
) -> None:
    """A consent we could not read, at this offset: the gate denies this subject until a readable, newer state arrives
    that lies there or behind."""
    await tx.execute(
        text(
            f"INSERT INTO {generation} (subject_id, version, consents, suppressions, erased, unreadable, log_offset)"
            " VALUES (:id, 0, '[]', '[]', false, true, :offset)"
            " ON CONFLICT (subject_id) DO UPDATE SET unreadable = true, log_offset = excluded.log_offset"
        ),
        {"id": subject_id, "offset": offset},
    )


async def put_sums(tx: AsyncConnection, told: StatesSummed, encoded: str) -> None:
    """To be compared, where they are newer than those that are kept; until then the last comparison stands."""
    await tx.execute(
        text(
            "INSERT INTO comparison (id, sums, begun_at, seen_until) VALUES (1, :sums, :begun_at, :seen_until)"
            " ON CONFLICT (id) DO UPDATE SET sums = excluded.sums, begun_at = excluded.begun_at,"
            " seen_until = excluded.seen_until, compared_at = NULL WHERE comparison.begun_at < excluded.begun_at"
        ),
        {"sums": encoded, "begun_at": told.begun_at, "seen_until": told.seen_until},
    )


async def sums_to_compare(tx: AsyncConnection) -> StatesSummed | None:
    """Locked: one process compares. None while another does."""
    encoded: str | None = await tx.scalar(
        text("SELECT sums FROM comparison WHERE compared_at IS NULL FOR UPDATE SKIP LOCKED")
    )
    return _sums.decode(encoded) if encoded else None


async def put_comparison(
    tx: AsyncConnection, now: datetime, compared: int, moving: int, differing: Sequence[str]
) -> None:
    await tx.execute(
        text(
            "UPDATE comparison SET compared_at = :now, compared = :compared, moving = :moving,"
            " differing = CAST(:differing AS text[])"
        ),
        {"now": now, "compared": compared, "moving": moving, "differing": list(differing)},
    )


async def compared(tx: AsyncConnection) -> Row[Any] | None:
    """The last comparison: begun_at, compared_at, compared, moving, differing."""
    rows = await tx.execute(text("SELECT begun_at, compared_at, compared, moving, differing FROM comparison"))
    return rows.one_or_none()


async def begin_rebuild(tx: AsyncConnection, now: datetime) -> tuple[datetime, dict[int, Seen]]:
    """When it was begun, which is its name, and how far each partition is read: of a rebuild that was not finished,
    else of one that begins, on an empty table."""
    rows = list(await tx.execute(text("SELECT partition, next_offset, last_number, unseen, begun_at FROM rebuild")))
    begun_at: datetime = rows[0].begun_at if rows else now
    if not rows:
        await tx.execute(text("TRUNCATE subject_next"))
    added = await tx.execute(  # all partitions, or those that there are since
        text(
            "INSERT INTO rebuild (partition, next_offset, until, begun_at) SELECT partition, 0, next_offset, :begun_at"
            " FROM consumer_offset WHERE consumer_group = :group AND topic = :topic"
            " ON CONFLICT DO NOTHING RETURNING partition, next_offset, last_number, unseen"
        ),
        {"begun_at": begun_at, "group": CONSENTS_GROUP, "topic": STATES.name},
    )
    return begun_at, {r.partition: Seen(r.next_offset, r.last_number, r.unseen) for r in (*rows, *added)}


async def rebuild_until(tx: AsyncConnection) -> dict[int, int]:
    """Where the projection has come, noted as what is to be read."""
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
    """From `since` to `reached`. False where another has gone on with it, or finished it: then nothing counts."""
    stepped = await tx.execute(
        text(
            "UPDATE rebuild SET next_offset = :next_offset, last_number = :last_number, unseen = :unseen"
            " WHERE partition = :partition AND begun_at = :begun_at AND next_offset = :since"
        ),
        {**reached._asdict(), "partition": partition, "begun_at": begun_at, "since": since.next_offset},
    )
    return stepped.rowcount == 1


async def rebuild_progress(tx: AsyncConnection) -> tuple[int, int, datetime | None]:
    """(records read, records to be read, when it began); None where none is going on."""
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
    """`subject_next` serves from the commit on, and what served is emptied. The caller has locked `subject` against
    everybody (`lock_generation`): who waits for it finds the other. False, and to be rolled back, where the rebuild is
    no longer the caller's, as far as it has `reached`: what is in `subject_next` then may be next to nothing."""
    rows = await tx.execute(
        text("DELETE FROM rebuild WHERE begun_at = :begun_at RETURNING partition, next_offset"), {"begun_at": begun_at}
    )
    if {row.partition: row.next_offset for row in rows} != {p: seen.next_offset for p, seen in reached.items()}:
        return False
    for statement in (
        "ALTER TABLE subject RENAME TO subject_was",
        "ALTER INDEX subject_pk RENAME TO subject_was_pk",
        "ALTER TABLE subject_next RENAME TO subject",
        "ALTER INDEX subject_next_pk RENAME TO subject_pk",
        "ALTER TABLE subject_was RENAME TO subject_next",
        "ALTER INDEX subject_was_pk RENAME TO subject_next_pk",
        "TRUNCATE subject_next",
        "UPDATE comparison SET compared_at = NULL",
    ):
        await tx.execute(text(statement))
    return True


async def lock_generation(tx: AsyncConnection, within_s: float) -> None:
    """Nobody reads or writes `subject` until the transaction ends. Raises after `within_s`, as whoever comes next waits
    behind us; who reads all of it (`sums`) is waited for before that."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(hashtext('placet.generation'))"))
    await tx.execute(text(f"SET LOCAL lock_timeout = {int(within_s * 1000)}"))
    await tx.execute(text("LOCK TABLE subject IN ACCESS EXCLUSIVE MODE"))


async def keep_newer(tx: AsyncConnection) -> int:
    """What the generation that serves has newer than the next goes over to it; how many that are. What was known is not
    forgotten because the log does not hold it any more. Nor is a STOP that the next generation's state forgets."""
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
    """A state of the next generation that forgets a STOP of the one that serves gets it back and is unreadable: the log
    may have been compacted, so that the state that had the STOP is gone."""
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
    """The next offset of consent.states.v1 by partition, as the projection has committed it."""
    rows = await tx.execute(
        text("SELECT partition, next_offset FROM consumer_offset WHERE consumer_group = :group AND topic = :topic"),
        {"group": CONSENTS_GROUP, "topic": STATES.name},
    )
    return {row.partition: row.next_offset for row in rows}


async def watermarks(tx: AsyncConnection) -> dict[int, datetime | None]:
    """`as_of` of each partition of the consent projection; None where it has none yet."""
    rows = await tx.execute(
        text("SELECT partition, as_of FROM consumer_offset WHERE consumer_group = :group AND topic = :topic"),
        {"group": CONSENTS_GROUP, "topic": STATES.name},
    )
    return {row.partition: row.as_of for row in rows}


async def lock_hold(tx: AsyncConnection) -> Hold:
    """What was told of marketing being held. The row is locked, once there is one: of several processes one tells."""
    rows = await fetch_many(tx, "SELECT version, since, ended_at, otherwise_since FROM hold FOR UPDATE")
    return Hold(*rows[0]) if rows else Hold()


async def put_hold(tx: AsyncConnection, known: Hold, tell: HoldChanged | None) -> None:
    """`tell`: what is to be published of it."""
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


_DIGEST = (
    f"('x' || encode(substring(sha256(convert_to(concat(s.subject_id, '|', s.version, lines.line), 'UTF8'))"
    f" FOR {DIGEST_BYTES}), 'hex'))::bit({8 * DIGEST_BYTES})::bigint"
)

_LINES = (
    "SELECT '|||' || CASE WHEN s.erased THEN 'erased' ELSE 'known' END AS line"
    " UNION ALL SELECT concat('|', c->>'sender_id', '|', c->>'purpose', '|', c->>'state')"
    " FROM jsonb_array_elements(s.consents) AS c WHERE c->>'state' <> 'opted_out' OR NOT EXISTS"
    " (SELECT FROM jsonb_array_elements(s.suppressions) AS p WHERE coalesce(p->>'sender_id', c->>'sender_id')"
    " = c->>'sender_id')"
    " UNION ALL SELECT concat('|', c->>'sender_id', '||suppressed') FROM jsonb_array_elements(s.suppressions) AS c"
)


async def sums(tx: AsyncConnection, since: datetime) -> dict[str, tuple[int, int, bool]]:
    """What `StatesSummed` says of our own rows, by slice: how many subjects, their digests added up, and whether one of
    them was published `since` then. Reads the whole table."""
    await tx.execute(text("SELECT pg_advisory_xact_lock_shared(hashtext('placet.generation'))"))
    rows = await tx.execute(
        text(
            f"SELECT right(s.subject_id, {SLICE}) AS slice, count(*) AS many, sum(d.digest)::bigint AS digest,"
            " bool_or(coalesce(s.published_at >= :since, false)) AS moving FROM subject AS s CROSS JOIN LATERAL"
            f" (SELECT sum({_DIGEST}) AS digest"
            f" FROM ({_LINES}) AS lines) AS d GROUP BY slice"
        ),
        {"since": since},
    )
    return {row.slice: (row.many, row.digest, row.moving) for row in rows}


async def put_sender(tx: AsyncConnection, event: SenderChanged) -> None:
    await tx.execute(
        text(
            "INSERT INTO sender (sender_id, version, oadc, stop_code, purposes, countries)"
            " VALUES (:id, :version, :oadc, :stop_code, CAST(:purposes AS text[]), CAST(:countries AS text[]))"
            " ON CONFLICT (sender_id) DO UPDATE SET version = excluded.version, oadc = excluded.oadc,"
            " stop_code = excluded.stop_code, purposes = excluded.purposes, countries = excluded.countries"
            " WHERE sender.version < excluded.version"
        ),
        {
            "id": event.sender_id,
            "version": event.version,
            "oadc": event.oadc,
            "stop_code": event.stop_code,
            "purposes": [p.id for p in event.purposes],
            "countries": [event.country, *event.abroad],
        },
    )


async def put_control(tx: AsyncConnection, event: CampaignControlled) -> None:
    """Newest control wins. Who is deciding is waited for, and who decides next waits for us, with what is due and its
    partition locked: what waits for a control is woken afterwards, in pages (`wake_controlled`)."""
    await fetch_many(tx, f"SELECT pg_advisory_xact_lock({_A_CAMPAIGN.format('$1')})", event.campaign_id)
    await tx.execute(
        text(
            "INSERT INTO campaign (campaign_id, control, version) VALUES (:id, :control, :version)"
            " ON CONFLICT (campaign_id) DO UPDATE SET control = excluded.control, version = excluded.version"
            " WHERE campaign.version < excluded.version"
        ),
        {"id": event.campaign_id, "control": event.control, "version": event.version},
    )


async def note_woken(tx: AsyncConnection, campaign_id: str, version: int, *, cancelled: bool) -> None:
    """Unless something still waits. Nobody defers for a control that is no more: it has waited for who did."""
    await plan_now(tx)
    await fetch_many(
        tx,
        "UPDATE campaign SET woken = $3 WHERE campaign_id = $1 AND woken < $3"
        f" AND NOT EXISTS (SELECT FROM message AS m WHERE {messages.FOR_A_CONTROL})",
        campaign_id,
        cancelled,
        version,
    )
