"""dispatch-svc's tables, and the statements over them. Everything moves by arrays; the caller owns the transaction.

The locks of a partition are what orders decisions and opt-outs. There is one for each lane: whoever decides on messages
holds their lane's shared (`lock_partition`), the projection of consent holds both exclusive (`lock_decisions_out`). So
an opt-out being applied either precedes a decision or waits until the decided messages are marked `sending`, where the
enforcement sees them; and a code waits for neither a campaign nor an opt-out that waits for one. Outcomes take no such
lock: they only end a `sending`, and who stores them looks for opt-outs afterwards.

A campaign's lock orders decisions and controls, in a queue: a decision holds it shared, a control exclusive. It comes
after the partition's lock and those of rows of `message` that are claimed; who has several takes them in the order of
ids.

What is `sending` is in the hand of whoever made its last decision, and `decided_at` tells which that was: an owner who
comes late, after the sweep has taken the message for a dead one's, finds another there and leaves it alone (ADR 0054).
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from operator import itemgetter
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Row,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from common.contracts import DISPATCH_HOLDS, DISPATCH_MESSAGES, STATES
from common.contracts.campaign import CampaignControlled, Control, MessageReworded
from common.contracts.consent import (
    DIGEST_BYTES,
    SLICE,
    Consent,
    ConsentStateChanged,
    SenderChanged,
    StatesSummed,
    Suppression,
)
from common.contracts.dispatch import HoldChanged, MessageChanged, OptOutEnforced
from common.db.database import PLANNED_NOW, fetch_many, new_metadata, once_committed, plan_now
from common.kafka import consumer, dead_letters, outbox
from common.kafka.completeness import Seen
from common.privacy import erasing
from common.telemetry import counter, histogram
from dispatch.gate.rules import Subject
from dispatch.messages.reasons import Reason
from dispatch.projection.hold import Hold
from dispatch.projection.loosening import NO_STOPS, Stops, believed

ENFORCED = histogram(
    "sms_dispatch_enforcement_seconds",
    "From the webhook (or the API call) to the opt-out being enforced.",
    buckets=(0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0),
)

VIOLATIONS = counter("sms_dispatch_violations_total", "Rows of the ledger that no promise of ours allows.", ["rule"])

Generation = Literal["subject", "subject_next"]

CONSENTS_GROUP = "dispatch.consents"
DUE = "dispatch_due"  # NOTIFY channel: marketing is due at once
CODES_DUE = "dispatch_codes_due"  # likewise what is no marketing, in the partition that is told
_OF_LANE = {True: "category = 'marketing'", False: "category <> 'marketing'"}  # marketing, or not

metadata = new_metadata()
outbox.define(metadata)
consumer.define(metadata)
dead_letters.define(metadata)
erasing.define(metadata)


def _instant(name: str, *, nullable: bool = True) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


message = Table(
    "message",
    metadata,
    Column("message_id", Uuid, primary_key=True),
    Column("campaign_id", Text),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text),
    Column("category", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("number", Text),  # sealed; gone once the person is erased, or weeks after it ended (`pruning.py`)
    Column("text", Text),  # sealed; as the number
    _instant("requested_at", nullable=False),
    _instant("send_before", nullable=False),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    _instant("due_at"),  # pending and deferred, and they alone: when it is decided next
    Column("policy_version", Text, nullable=False),
    Column("consent_version", Integer),
    _instant("as_of"),
    _instant("decided_at"),
    Column("region", Text),  # of an address, where one was known
    Column("facts", Text),  # what the decision stood on (`record.py`); null: none was made
    _instant("handed_off_at"),  # its submit began
    Column("gateway", Text),
    Column("gateway_message_id", Text),
    Column("known_as", Text),  # the same, where the gateway's receipts do not name ours
    Column("receipt", Text),
    Column("code", Text),
    _instant("receipt_at"),  # its time at source
    _instant("unknown_since"),  # `unknown`, and it alone
    CheckConstraint("due_at IS NOT NULL OR status NOT IN ('pending', 'deferred')", name="waiting_is_due"),
    # none names a column that an outcome of the happy path changes: its update stays within the page (ADR 0044)
    # the version's before, which goes with the next one's migration
    Index("message_due_ix", "partition", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    # of each lane, so that a code that is due is found without passing over all marketing that is
    *(
        Index(f"message_due_{lane}_ix", "partition", "due_at", postgresql_where=text(f"due_at IS NOT NULL AND {of}"))
        for lane, of in (("marketing", _OF_LANE[True]), ("codes", _OF_LANE[False]))
    ),
    Index("message_unknown_ix", "unknown_since", postgresql_where=text("unknown_since IS NOT NULL")),
    Index("message_subject_ix", "subject_id"),  # what is held of one person
    Index("message_known_as_ix", "gateway", "known_as", postgresql_where=text("known_as IS NOT NULL")),
    Index("message_handed_off_ix", "handed_off_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    Index("message_decided_ix", "decided_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}),
    Index("message_waiting_ix", "campaign_id", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    # how `pruning.py` finds what is past its time: each message is in one of them
    Index("message_content_ix", "requested_at", postgresql_where=text("number IS NOT NULL OR text IS NOT NULL")),
    Index("message_bare_ix", "requested_at", postgresql_where=text("number IS NULL AND text IS NULL")),
)

sending = Table(
    # where to look for what is `sending`: all that one transaction made so. Not all of it still is; what is none of
    # these is not. An index of the messages' status would be written twice for each
    "sending",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("partition", SmallInteger, nullable=False),
    Column("since", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("message_ids", ARRAY(Uuid), nullable=False),
    Column("subject_ids", ARRAY(Text), nullable=False),  # of each
)


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
        _instant("held_since"),
        _instant("published_at"),  # this version; null: before anybody noted it
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
    _instant("begun_at", nullable=False),
    Column("last_number", BigInteger, nullable=False, server_default=text("0")),  # as `common.kafka.completeness.Seen`
    Column("unseen", BigInteger, nullable=False, server_default=text("0")),
)

hold = Table(
    "hold",  # one row: what was told of marketing being held (`hold.py`)
    metadata,
    Column("category", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    _instant("since"),
    _instant("ended_at"),
    _instant("otherwise_since"),
)

comparison = Table(
    "comparison",  # one row: the newest sums of consent-svc, and how our own compare
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("sums", Text, nullable=False),  # StatesSummed, JSON
    _instant("begun_at", nullable=False),
    _instant("seen_until", nullable=False),
    _instant("compared_at"),  # null: not yet
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

enforcement = Table(
    "enforcement",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("subject_id", Text, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("consent_version", Integer, nullable=False),
    Column("source", Text, nullable=False),
    Column("reference", Text),
    _instant("received_at", nullable=False),
    _instant("applied_at", nullable=False),
    _instant("enforced_at"),
    Index("enforcement_subject_ix", "subject_id"),
    Index("enforcement_open_ix", "subject_id", postgresql_where=text("enforced_at IS NULL")),
    Index("enforcement_enforced_ix", "enforced_at", postgresql_where=text("enforced_at IS NOT NULL")),
)

early_receipt = Table(
    "early_receipt",
    metadata,
    Column("gateway", Text, nullable=False),
    Column("gateway_message_id", Text, nullable=False),
    Column("receipt", Text, nullable=False),
    Column("code", Text),
    _instant("received_at", nullable=False),
    _instant("occurred_at"),
    Column("blocked", Boolean, nullable=False, server_default=text("false")),
    PrimaryKeyConstraint("gateway", "gateway_message_id", "receipt"),
    Index("early_receipt_received_ix", "received_at"),
)

provider_block = Table(
    "provider_block",  # a provider will not deliver to this number; whether the person asked for it nobody knows
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("gateway", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("code", Text),
    _instant("since", nullable=False),
    UniqueConstraint("gateway", "subject_id"),
    Index("provider_block_subject_ix", "subject_id"),
)


LANES = {True: "placet.partition", False: "placet.partition.codes"}  # marketing, or not
_A_CAMPAIGN = "hashtext('placet.campaign'), hashtext({})"


async def lock_partition(tx: AsyncConnection, partition: int, *, marketing: bool, planned_now: bool = False) -> None:
    """To decide on messages of this lane, or of both: either keeps opt-outs out. Until the transaction ends; take it
    before any row lock. `planned_now`: see `PLANNED_NOW`."""
    lock = f"pg_advisory_xact_lock_shared(hashtext('{LANES[marketing]}'), $1)"
    await fetch_many(tx, f"SELECT {f'{PLANNED_NOW}, ' if planned_now else ''}{lock}", partition)


async def try_lock_partition(tx: AsyncConnection, partition: int, *, marketing: bool) -> bool:
    """Likewise, where that waits for nobody: who holds it may stand still, and others wait for us. With `plan_now`."""
    lock = f"pg_try_advisory_xact_lock_shared(hashtext('{LANES[marketing]}'), $1)"
    [(_, locked)] = await fetch_many(tx, f"SELECT {PLANNED_NOW}, {lock}", partition)
    return bool(locked)


async def lock_decisions_out(tx: AsyncConnection, partition: int) -> None:
    """To apply opt-outs. Likewise. The campaigns' lock first, which is waited for: codes go on meanwhile."""
    locks = (f"pg_advisory_xact_lock(hashtext('{LANES[lane]}'), $1)" for lane in (True, False))  # in this order
    await fetch_many(tx, f"SELECT {', '.join(locks)}", partition)


# --- what a decision stands on -------------------------------------------------------------------------------------


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


async def subjects(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, Subject]:
    rows = await fetch_many(
        tx,
        "SELECT subject_id, version, consents::text, suppressions::text, erased, unreadable, held_since FROM subject"
        " WHERE subject_id = ANY(string_to_array($1, ' '))",
        " ".join(subject_ids),
    )
    return {
        subject_id: Subject(version, _consents.decode(consents), _suppressions.decode(suppressions), *more)
        for subject_id, version, consents, suppressions, *more in rows
    }


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


async def controls(tx: AsyncConnection, campaign_ids: Collection[str]) -> dict[str, Control]:
    """Of campaigns that an earlier statement has locked (`watermark`): one that waits for a lock still sees what was
    before. A resume that is being applied waits, and whoever then wakes what waited finds what was deferred here."""
    if not campaign_ids:
        return {}
    rows = await fetch_many(
        tx, "SELECT campaign_id, control FROM campaign WHERE campaign_id = ANY($1::text[])", list(campaign_ids)
    )
    return {row[0]: row[1] for row in rows}


async def blocks(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, frozenset[str]]:
    """The gateways whose provider does not deliver to them, of those to whom one does not."""
    rows = await fetch_many(
        tx,
        "SELECT subject_id, gateway FROM provider_block WHERE subject_id = ANY(string_to_array($1, ' '))",
        " ".join(subject_ids),
    )
    closed: dict[str, frozenset[str]] = {}
    for subject_id, gateway in rows:
        closed[subject_id] = closed.get(subject_id, frozenset()) | {gateway}
    return closed


async def lock_counts(tx: AsyncConnection, partition: int) -> None:
    """Until the transaction ends: who counts what people had waits for who is deciding on more of it."""
    await tx.execute(
        text("SELECT pg_advisory_xact_lock(hashtext('placet.counts'), :partition)"), {"partition": partition}
    )


async def recent_marketing(
    tx: AsyncConnection, subject_ids: Sequence[str], but: Sequence[UUID], since: datetime
) -> Counter[tuple[str, str]]:
    """How many marketing messages these people had by (subject_id, sender_id), or are about to have, since `since`;
    those of `but` not counted."""
    rows = await tx.execute(
        text(
            "SELECT subject_id, sender_id, count(*) AS had FROM message WHERE subject_id = ANY(CAST(:ids AS text[]))"
            " AND category = 'marketing' AND status IN ('sending', 'accepted', 'unknown')"
            " AND coalesce(handed_off_at, decided_at) >= :since AND message_id <> ALL(CAST(:but AS uuid[]))"
            " GROUP BY subject_id, sender_id"
        ),
        {"ids": list(subject_ids), "but": list(but), "since": since},
    )
    return Counter({(row.subject_id, row.sender_id): row.had for row in rows})


# --- the projections -----------------------------------------------------------------------------------------------


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


async def wake_held(tx: AsyncConnection, subject_ids: Sequence[str]) -> None:
    """What was waiting for a person to read a text of these subjects is decided again at once."""
    await tx.execute(
        text(
            "UPDATE message SET due_at = now() WHERE subject_id = ANY(CAST(:ids AS text[]))"
            " AND status = 'deferred' AND 'under_review' = ANY(reasons)"
        ),
        {"ids": list(subject_ids)},
    )
    await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": DUE})


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


_FOR_A_CONTROL = (
    "m.campaign_id = $1 AND m.status = 'deferred' AND m.due_at > now()"
    f" AND ($2 OR m.reasons && ARRAY['{Reason.CAMPAIGN_PAUSED}', '{Reason.CAMPAIGN_UNKNOWN}'])"
)


async def campaigns_to_wake(tx: AsyncConnection) -> Sequence[tuple[str, int, bool]]:
    """(campaign_id, version of its control, whether it is cancelled) of those that are paused no more and of which not
    all that waited has been woken."""
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "SELECT campaign_id, version, control = 'cancelled' FROM campaign WHERE woken < version AND control <> $1"
        " ORDER BY campaign_id",
        "paused",  # what has no parameter is planned once, whatever it is told
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def wake_controlled(tx: AsyncConnection, campaign_id: str, limit: int, *, cancelled: bool) -> int:
    """Of what waits until it is known that this campaign may go on, so many are due now; of one that is cancelled, of
    all that waits. Waits for nobody: what somebody has locked comes with a later page. How many that were."""
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "UPDATE message SET due_at = now() WHERE message_id = ANY(ARRAY(SELECT m.message_id FROM message AS m WHERE"
        f" {_FOR_A_CONTROL} LIMIT $3 FOR UPDATE SKIP LOCKED)) RETURNING 1",
        campaign_id,
        cancelled,
        limit,
    )
    await fetch_many(tx, "SELECT pg_notify($1, '')", DUE)
    return len(rows)


async def note_woken(tx: AsyncConnection, campaign_id: str, version: int, *, cancelled: bool) -> None:
    """Unless something still waits. Nobody defers for a control that is no more: it has waited for who did."""
    await plan_now(tx)
    await fetch_many(
        tx,
        "UPDATE campaign SET woken = $3 WHERE campaign_id = $1 AND woken < $3"
        f" AND NOT EXISTS (SELECT FROM message AS m WHERE {_FOR_A_CONTROL})",
        campaign_id,
        cancelled,
        version,
    )


# --- messages ------------------------------------------------------------------------------------------------------

OWN = {  # of each message
    "message_id": "uuid",
    "subject_id": "text",
    "number": "text",
    "text": "text",
    "consent_version": "integer",
}
ALIKE = {  # of many of those that are inserted together: told once for all that are alike
    "campaign_id": "text",
    "sender_id": "text",
    "purpose": "text",
    "category": "text",
    "requested_at": "timestamptz",
    "send_before": "timestamptz",
    "region": "text",
    "status": "text",
    "reasons": "text",
    "due_at": "timestamptz",
    "gateway": "text",
}
OF_ALL = {  # that are decided together
    "partition": "smallint",
    "policy_version": "text",
    "as_of": "timestamptz",
    "decided_at": "timestamptz",
}
DECIDED = {
    "message_id": "uuid",
    "status": "text",
    "reasons": "text",
    "due_at": "timestamptz",
    "consent_version": "integer",
    "gateway": "text",
    "facts": "text",
}
_AS_ARRAY = "string_to_array({}, ',')"  # unnest flattens text[][]: reasons travel as "one,other"


class Changed(NamedTuple):
    """A message as it now stands, and the partition of its subject."""

    partition: int
    event: MessageChanged


# what `_changed` reads of a row, in this order
_OF_A_CHANGE = ", ".join(
    f"m.{column}"
    for column in (
        *("partition", "message_id", "campaign_id", "sender_id", "subject_id", "category", "version", "status"),
        *("reasons", "due_at", "policy_version", "consent_version", "as_of", "decided_at", "gateway"),
        *("gateway_message_id", "receipt", "code", "receipt_at", "purpose", "handed_off_at"),
    )
)
_OF_A_CHANGE += ", CASE WHEN m.receipt = 'opted_out' THEN m.number END"


def _changed(row: Sequence[Any]) -> Changed:
    return Changed(
        row[0],
        MessageChanged(
            message_id=str(row[1]),
            campaign_id=row[2],
            sender_id=row[3],
            subject_id=row[4],
            category=row[5],
            version=row[6],
            status=row[7],
            reasons=tuple(row[8]),
            until=row[9],
            policy_version=row[10],
            consent_version=row[11],
            as_of=row[12],
            decided_at=row[13],
            gateway=row[14],
            gateway_message_id=row[15],
            receipt=row[16],
            code=row[17],
            receipt_at=row[18],
            purpose=row[19],
            handed_off_at=row[20],
            number=row[21],
        ),
    )


def inserted(row: Mapping[str, Any]) -> Changed:
    """What `insert_messages` has made of this row, of one that was new."""
    return Changed(row["partition"], _as_decided(row, 1, row))


def _as_decided(row: Mapping[str, Any], version: int, state: Mapping[str, Any]) -> MessageChanged:
    """`row`: the decision; `state`: what became of it."""
    return MessageChanged(
        message_id=str(row["message_id"]),
        campaign_id=row["campaign_id"],
        sender_id=row["sender_id"],
        subject_id=row["subject_id"],
        category=row["category"],
        version=version,
        status=state["status"],
        reasons=state["reasons"],
        until=state["due_at"],
        policy_version=row["policy_version"],
        consent_version=row["consent_version"],
        as_of=row["as_of"],
        decided_at=row["decided_at"],
        gateway=row["gateway"],
        gateway_message_id=state.get("gateway_message_id"),
        receipt=None,
        code=None,
        purpose=row["purpose"],
        handed_off_at=state.get("handed_off_at"),
    )


async def append_changes(tx: AsyncConnection, changes: Sequence[Changed]) -> None:
    """Publish each of these messages as it now stands: in this order, and those of a partition in rows that they share
    (ADR 0034)."""
    together: dict[int, list[MessageChanged]] = defaultdict(list)
    for partition, event in changes:
        together[partition].append(event)
    await outbox.append_together(tx, DISPATCH_MESSAGES, *together.values())


async def insert_messages(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> set[UUID]:
    """Insert with their verdicts, which were made at once (`OF_ALL`); returns those that were new. A message_id seen
    before changes nothing."""
    if not rows:
        return set()
    await _note_sending(tx, rows)
    kinds: dict[tuple[Any, ...], int] = {}
    places = [kinds.setdefault(kind, len(kinds) + 1) for kind in map(_kind_of, rows)]
    alike = [dict(zip(ALIKE, kind, strict=True)) for kind in kinds]
    facts = "\n".join(row["facts"] or "" for row in rows)
    new = await fetch_many(tx, _INSERT, *_columns(rows, OWN), places, facts, *_columns(alike, ALIKE), *_of_all(rows))
    return {row[0] for row in new}


async def update_decisions(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> list[Changed]:
    """Store new verdicts, made at once (`OF_ALL`), of messages whose rows the caller has locked. What is denied because
    its person was erased loses number and text with it; what goes, the code of an earlier refusal."""
    if not rows:
        return []
    await _note_sending(tx, rows)
    erased = f"CASE WHEN v.status = 'denied' AND '{Reason.ERASED}' = ANY({_AS_ARRAY.format('v.reasons')})"
    kept = ", ".join(f"{c} = {erased} THEN NULL ELSE m.{c} END" for c in ("number", "text"))
    sets = ", ".join(
        f"{c} = {_AS_ARRAY.format('v.reasons') if c == 'reasons' else f'v.{c}'}" for c in list(DECIDED)[1:]
    )
    updated = await fetch_many(
        tx,
        f"UPDATE message AS m SET {sets}, ({', '.join(OF_ALL)}) = ROW({_one_for_all(len(DECIDED))}),"
        f" version = m.version + 1, unknown_since = NULL, {kept},"
        f" code = CASE WHEN v.status = 'sending' THEN NULL ELSE m.code END FROM {_unnest(DECIDED)}"
        " WHERE m.message_id = v.message_id AND m.status IN ('pending', 'deferred', 'sending', 'unknown')"
        f" RETURNING {_OF_A_CHANGE}",
        *_columns(rows, DECIDED),
        *_of_all(rows),
    )
    return [_changed(row) for row in updated]


async def _note_sending(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Those of one transaction that become `sending`, so that they are found. A row for each partition."""
    begun: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "sending":
            begun[row["partition"]].append(row)
    for partition, some in begun.items():
        await fetch_many(
            tx,
            "INSERT INTO sending (partition, message_ids, subject_ids) VALUES ($1, $2, $3)",
            partition,
            [row["message_id"] for row in some],
            [row["subject_id"] for row in some],
        )


async def forget_sending(tx: AsyncConnection, begun_before: datetime) -> None:
    """Of batches that were begun before, those of which nothing is `sending` any more. Each is asked by itself, as
    elsewhere: NOT EXISTS is a join, for which a planner that knows little of the ledger reads the whole of it."""
    await tx.execute(
        text(
            "DELETE FROM sending AS s WHERE s.since < :before AND (SELECT true FROM message AS m"
            " WHERE m.message_id = ANY(s.message_ids) AND m.status = 'sending' LIMIT 1) IS NULL"
        ),
        {"before": begun_before},
    )


async def tell_due(tx: AsyncConnection, partition: int, *, marketing: bool) -> None:
    """Something is due at once, as of the commit."""
    await fetch_many(tx, "SELECT pg_notify($1, $2)", DUE if marketing else CODES_DUE, str(partition))


async def due_partitions(tx: AsyncConnection, partitions: int, now: datetime, *, marketing: bool) -> list[int]:
    """Of so many, those with due messages of that lane, first where one has waited longest: who takes no more than
    leaves soon takes of each. What is in a partition beyond is not found. One by one: asked for all at once, a planner
    that knows little of the ledger reads the whole of it, four times a second."""
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "SELECT p.partition FROM generate_series(0, $1 - 1) AS p(partition) CROSS JOIN LATERAL"
        f" (SELECT m.due_at FROM message AS m WHERE m.partition = p.partition AND {_OF_LANE[marketing]}"
        " AND m.status IN ('pending', 'deferred') AND m.due_at <= $2 ORDER BY m.due_at LIMIT 1) AS due"
        " ORDER BY due.due_at",
        partitions,
        now,
    )
    return [partition for (partition,) in rows]


async def claim_due(
    tx: AsyncConnection,
    partition: int,
    now: datetime,
    limit: int,
    *,
    marketing: bool,
    waited_for: Collection[str] = (),
) -> list[Row[Any]]:
    """Due messages of one partition and lane, oldest first, locked. In a transaction that is `planned_now`.
    `waited_for`: gateways of which what waits for a slot waits still."""
    rows = await tx.execute(
        text(
            f"SELECT * FROM message WHERE partition = :partition AND {_OF_LANE[marketing]}"
            " AND status IN ('pending', 'deferred') AND due_at <= :now"
            " AND NOT (status = 'pending' AND coalesce(gateway, '') = ANY(CAST(:waited_for AS text[])))"
            " ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED"
        ),
        {"partition": partition, "now": now, "limit": limit, "waited_for": list(waited_for)},
    )
    return list(rows)


# what the sweep took for a dead one's, of whose hand-off nobody but its owner can know: there was none
_NOT_BEGUN = "m.receipt IS NULL AND m.handed_off_at IS NULL"


async def still_ours(
    tx: AsyncConnection, message_ids: Sequence[UUID], decisions: Collection[datetime], *, again: bool
) -> list[Row[Any]]:
    """Those of `message_ids` that are still ours to hand off, locked: of which one of these `decisions` (`decided_at`)
    is the last, and nobody has a receipt. Those too that were made `unknown` meanwhile, as we have not begun; unless
    they were to go `again`."""
    rows = await tx.execute(
        text(
            "SELECT * FROM message AS m WHERE message_id = ANY(CAST(:ids AS uuid[]))"
            f" AND decided_at = ANY(CAST(:decisions AS timestamptz[])) AND {_NOT_BEGUN}"
            " AND (status = 'sending' OR (status = 'unknown' AND NOT :again)) ORDER BY message_id FOR UPDATE"
        ),
        {"ids": list(message_ids), "decisions": list(decisions), "again": again},
    )
    return list(rows)


async def partitions_left_sending(tx: AsyncConnection, decided_before: datetime) -> list[int]:
    """Partitions with messages that a process left `sending` when it died."""
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "SELECT DISTINCT s.partition FROM sending AS s CROSS JOIN LATERAL (SELECT FROM message WHERE"
            " message_id = ANY(s.message_ids) AND status = 'sending' AND decided_at < :before LIMIT 1) AS m"
            " WHERE s.since < :before ORDER BY s.partition"
        ),
        {"before": decided_before},
    )
    return [row.partition for row in rows]


async def claim_left_sending(
    tx: AsyncConnection, partition: int, decided_before: datetime, limit: int
) -> list[Row[Any]]:
    """Those messages, locked: a live owner renews its decision or settles, and then they are not among these.
    `sending_since`: no submit of it began earlier. Its `decided_at` is of the last decision, which a crash may have
    been before already; what first made it `sending` is kept for as long as it is."""
    rows = await tx.execute(
        text(
            "SELECT m.*, (SELECT min(s.since) FROM sending AS s"
            " WHERE s.partition = :partition AND m.message_id = ANY(s.message_ids)) AS sending_since"
            " FROM message AS m WHERE m.status = 'sending' AND m.decided_at < :before AND m.message_id IN"
            " (SELECT unnest(s.message_ids) FROM sending AS s WHERE s.partition = :partition AND s.since < :before)"
            " ORDER BY m.message_id LIMIT :limit FOR UPDATE OF m SKIP LOCKED"
        ),
        {"before": decided_before, "partition": partition, "limit": limit},
    )
    return list(rows)


async def unknown_of(
    tx: AsyncConnection,
    gateway: str,
    spans: Sequence[tuple[datetime, datetime]],
    after: tuple[datetime, UUID],
    limit: int,
) -> list[Row[Any]]:
    """Messages of a gateway whose outcome nobody knows since an instant between two of these, oldest first: a page
    of those `after` the last one of the page before (`unknown_since`, `message_id`)."""
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "SELECT m.* FROM unnest(CAST(:since AS timestamptz[]), CAST(:before AS timestamptz[])) AS d(since, before)"
            " CROSS JOIN LATERAL (SELECT message_id, subject_id, partition, gateway, unknown_since FROM message"
            " WHERE unknown_since >= d.since AND unknown_since < d.before AND status = 'unknown'"
            " AND (unknown_since, message_id) > (CAST(:after AS timestamptz), CAST(:after_id AS uuid))"
            " AND gateway = :gateway ORDER BY unknown_since, message_id LIMIT :limit) AS m"
            " ORDER BY m.unknown_since, m.message_id LIMIT :limit"
        ),
        {
            "gateway": gateway,
            "since": [since for since, _ in spans],
            "before": [before for _, before in spans],
            "after": after[0],
            "after_id": after[1],
            "limit": limit,
        },
    )
    return list(rows)


async def reword(tx: AsyncConnection, reworded: Mapping[UUID, MessageReworded]) -> bool:
    """What waits of these messages says the new text, none at all where there is none: then the gate denies it; and is
    of the region that is told, if one is. False, and nothing done, while one of them is being handed off."""
    if not reworded:
        return True
    rows = await tx.execute(
        text(
            "SELECT message_id, subject_id, status FROM message WHERE message_id = ANY(CAST(:ids AS uuid[]))"
            " ORDER BY message_id FOR UPDATE"
        ),
        {"ids": list(reworded)},
    )
    theirs = [row for row in rows if reworded[row.message_id].subject_id == row.subject_id]
    if any(row.status == "sending" for row in theirs):
        return False
    waiting = [row.message_id for row in theirs if row.status in ("pending", "deferred")]
    await tx.execute(
        text(
            "UPDATE message AS m SET text = v.text, region = nullif(coalesce(v.region, m.region), '')"
            " FROM unnest(CAST(:ids AS uuid[]), CAST(:texts AS text[]), CAST(:regions AS text[]))"
            " AS v(message_id, text, region) WHERE m.message_id = v.message_id"
        ),
        {
            "ids": waiting,
            "texts": [reworded[identity].text or "" for identity in waiting],
            "regions": [reworded[identity].region for identity in waiting],
        },
    )
    return True


SETTLED = {
    "message_id": "uuid",
    "decided_at": "timestamptz",
    "status": "text",
    "reasons": "text",
    "due_at": "timestamptz",
    "gateway": "text",
    "gateway_message_id": "text",
    "known_as": "text",
    "code": "text",
    "handed_off_at": "timestamptz",
}


ACCEPTED = {"message_id": "uuid", "gateway_message_id": "text", "known_as": "text"}
_SUBMITTED = {"version": "integer", "submit": "integer"}  # `submit`: the place of the instant that theirs began


async def accept(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> set[UUID]:
    """`settle`, for what went as it should: accepted, by the gateway that was decided on. Only of rows that nobody has
    touched since (`version` is of that decision); returns which those were. The others are for `settle`."""
    if not rows:
        return set()
    began: dict[datetime, int] = {}
    await _by_primary_key(tx)
    done = await fetch_many(
        tx,
        "UPDATE message AS m SET status = 'accepted', version = m.version + 1,"
        " gateway_message_id = coalesce(v.gateway_message_id, m.gateway_message_id),"
        f" known_as = coalesce(v.known_as, m.known_as), handed_off_at = (${len(ACCEPTED) + 3}::timestamptz[])[v.submit]"
        f" FROM (SELECT * FROM {_unnest(ACCEPTED | _SUBMITTED)} ORDER BY message_id) AS v"
        " WHERE m.message_id = v.message_id AND m.version = v.version AND m.status = 'sending'"
        " RETURNING m.message_id",
        *_columns(rows, ACCEPTED),
        [row["permit"].row["version"] for row in rows],
        [began.setdefault(row["handed_off_at"], len(began) + 1) for row in rows],
        list(began),
    )
    return {row[0] for row in done}


def accepted(row: Mapping[str, Any], outcome: Mapping[str, Any]) -> Changed:
    """What `accept` has made of this row (as it was decided)."""
    return Changed(row["partition"], _as_decided(row, row["version"] + 1, outcome))


async def lock_messages(tx: AsyncConnection, message_ids: Sequence[UUID]) -> None:
    """In the order of ids, as receipts do, before more than one statement changes them."""
    await fetch_many(
        tx, "SELECT FROM message WHERE message_id = ANY($1::uuid[]) ORDER BY message_id FOR UPDATE", message_ids
    )


async def _by_primary_key(tx: AsyncConnection) -> None:
    """One after the other, in the order of ids, as receipts lock them; and no plan reads the whole ledger."""
    await fetch_many(
        tx, "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
    )


async def settle(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> list[Changed]:
    """Outcomes, each of one decision (`decided_at`). A message recovered as `unknown` meanwhile learns its true
    outcome, or that nothing had begun: then it is `deferred`. A final one never changes; one whose receipt came first
    was accepted, whatever became of the answer. What another has in hand by now is the other's to end, unless it was
    accepted: then what goes out again is the same SMS."""
    if not rows:
        return []
    await _by_primary_key(tx)
    updated = await fetch_many(
        tx,
        "UPDATE message AS m SET version = m.version + 1, due_at = v.due_at, status ="
        " CASE WHEN v.status = 'unknown' AND m.receipt IS NOT NULL THEN 'accepted' ELSE v.status END,"
        " unknown_since = CASE WHEN v.status = 'unknown' AND m.receipt IS NULL THEN now() END,"
        f" reasons = {_AS_ARRAY.format('v.reasons')}, gateway = v.gateway,"
        " gateway_message_id = coalesce(v.gateway_message_id, m.gateway_message_id),"
        " known_as = coalesce(v.known_as, m.known_as),"
        " code = coalesce(v.code, m.code), handed_off_at = coalesce(v.handed_off_at, m.handed_off_at)"
        f" FROM (SELECT * FROM {_unnest(SETTLED)} ORDER BY message_id) AS v WHERE m.message_id = v.message_id"
        " AND CASE v.status WHEN 'accepted' THEN m.status IN ('sending', 'unknown')"
        " WHEN 'rejected' THEN m.status = 'unknown' OR (m.status = 'sending' AND m.decided_at = v.decided_at)"
        " WHEN 'deferred' THEN m.status IN ('sending', 'unknown') AND m.decided_at = v.decided_at"
        f" AND {_NOT_BEGUN} ELSE m.status = 'sending' AND m.decided_at = v.decided_at END"
        f" RETURNING {_OF_A_CHANGE}",
        *_columns(rows, SETTLED),
    )
    return [_changed(row) for row in updated]


async def left_already(tx: AsyncConnection, message_ids: Sequence[UUID]) -> dict[UUID, Row[Any]]:
    """Of those that have an outcome of a hand-off: when it began, and what is known of it."""
    rows = await tx.execute(
        text(
            "SELECT message_id, status, gateway, gateway_message_id, handed_off_at FROM message"
            " WHERE message_id = ANY(CAST(:ids AS uuid[])) AND handed_off_at IS NOT NULL"
        ),
        {"ids": list(message_ids)},
    )
    return {row.message_id: row for row in rows}


# --- enforcement ---------------------------------------------------------------------------------------------------


async def open_enforcements(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Opt-outs just applied: not enforced until `enforce` finds nothing of theirs in flight."""
    columns = {
        "subject_id": "text",
        "partition": "smallint",
        "consent_version": "integer",
        "source": "text",
        "reference": "text",
        "received_at": "timestamptz",
        "applied_at": "timestamptz",
    }
    arrays = ", ".join(f"CAST(:{c} AS {kind}[])" for c, kind in columns.items())
    await tx.execute(
        text(f"INSERT INTO enforcement ({', '.join(columns)}) SELECT * FROM unnest({arrays})"),
        _by_column(rows, columns),
    )


async def enforce(tx: AsyncConnection, subject_ids: Sequence[str]) -> list[OptOutEnforced]:
    """Opt-outs of these subjects that are enforced from now on, as no marketing of theirs is `sending`, and no question
    of a double opt-in (service, with a purpose); published, and measured once that is committed. A code, or the answer
    that confirms this very STOP, is nothing that it forbids.

    Nothing can be decided that such an opt-out forbids: it is committed, or the caller holds the partition's lock
    exclusive and has just applied it. That holds for the opt-outs that the first statement has read, and for no others:
    an opt-out that is applied after it may have seen a message `sending` that was decided after the second statement.
    The clock is read after both: every hand-off that is over by now began earlier.
    """
    waiting = await fetch_many(
        tx,
        "SELECT id, partition, subject_id FROM enforcement"
        " WHERE enforced_at IS NULL AND subject_id = ANY(string_to_array($1, ' '))",
        " ".join(subject_ids),
    )
    if not waiting:
        return []
    held_back = await fetch_many(
        tx,
        "SELECT m.subject_id FROM sending AS s CROSS JOIN unnest(s.message_ids, s.subject_ids) AS b(message_id, who)"
        " JOIN message AS m ON m.message_id = b.message_id AND m.status = 'sending'"
        " AND (m.category = 'marketing' OR (m.category = 'service' AND m.purpose IS NOT NULL))"
        " WHERE s.partition = ANY($1::smallint[]) AND b.who = ANY($2::text[])",
        list({partition for _, partition, _ in waiting}),
        list({subject_id for _, _, subject_id in waiting}),
    )
    now, kept = datetime.now(UTC), {who for (who,) in held_back}
    rows = await tx.execute(
        text(
            "UPDATE enforcement AS e SET enforced_at = :now FROM (SELECT id FROM enforcement WHERE enforced_at IS NULL"
            " AND id = ANY(CAST(:ids AS bigint[])) ORDER BY id FOR UPDATE) AS f"
            " WHERE e.id = f.id RETURNING e.*"
        ),
        {"ids": [id_ for id_, _, subject_id in waiting if subject_id not in kept], "now": now},
    )
    events = [
        OptOutEnforced(
            subject_id=row.subject_id,
            consent_version=row.consent_version,
            source=row.source,
            reference=row.reference,
            received_at=row.received_at,
            enforced_at=row.enforced_at,
        )
        for row in rows
    ]
    await outbox.append(tx, DISPATCH_MESSAGES, events)
    for event in events:
        once_committed(tx, partial(ENFORCED.observe, (event.enforced_at - event.received_at).total_seconds()))
    return events


async def open_enforcements_of(tx: AsyncConnection, applied_before: datetime) -> dict[str, datetime]:
    """Subjects whose opt-out still waits to be enforced, and when the first of each was received."""
    await plan_now(tx)
    rows = await fetch_many(
        tx,
        "SELECT subject_id, min(received_at) FROM enforcement WHERE enforced_at IS NULL AND applied_at < $1"
        " GROUP BY subject_id",
        applied_before,
    )
    return {row[0]: row[1] for row in rows}


# --- replay --------------------------------------------------------------------------------------------------------

_OF_A_DECISION = (
    "message_id, campaign_id, sender_id, purpose, category, requested_at, send_before, decided_at, as_of,"
    " policy_version, facts, status, reasons"
)


async def decided(
    tx: AsyncConnection, message_ids: Sequence[UUID], campaign_id: str | None, sample: int | None
) -> AsyncIterator[Row[Any]]:
    """Decisions with their records: of these messages, of a campaign, or so many at random. A campaign and a sample
    read the whole ledger."""
    wanted = "message_id = ANY(CAST(:ids AS uuid[]))"
    if campaign_id is not None:
        wanted = "campaign_id = :campaign_id"
    elif sample is not None:
        wanted = "decided_at IS NOT NULL ORDER BY random() LIMIT :sample"
    given: dict[str, Any] = {"ids": list(message_ids), "campaign_id": campaign_id, "sample": sample}
    statement = text(f"SELECT {_OF_A_DECISION} FROM message WHERE {wanted}")
    rows = await tx.stream(statement, {name: given[name] for name in statement.compile().params})
    async for row in rows:
        yield row


# --- copies --------------------------------------------------------------------------------------------------------


async def messages_of(tx: AsyncConnection, subject_id: str) -> list[Row[Any]]:
    """One person's, oldest first."""
    rows = await tx.execute(
        text("SELECT * FROM message WHERE subject_id = :id ORDER BY requested_at, message_id"), {"id": subject_id}
    )
    return list(rows)


async def enforcements_of(tx: AsyncConnection, subject_id: str) -> list[Row[Any]]:
    rows = await tx.execute(text("SELECT * FROM enforcement WHERE subject_id = :id ORDER BY id"), {"id": subject_id})
    return list(rows)


async def blocks_of(tx: AsyncConnection, subject_id: str) -> list[Row[Any]]:
    rows = await tx.execute(text("SELECT * FROM provider_block WHERE subject_id = :id ORDER BY id"), {"id": subject_id})
    return list(rows)


# --- erasure -------------------------------------------------------------------------------------------------------


async def lock_what_goes(tx: AsyncConnection, subject_ids: Sequence[str]) -> set[str]:
    """All of these people's that has not ended, or has a number or a text, is as it is from now on; returns those to
    whom something is being handed off. At once and in the order of ids, as receipts and outcomes lock: an outcome that
    takes back what was `sending` is before this or after."""
    rows = await fetch_many(
        tx,
        "SELECT subject_id, status FROM message WHERE subject_id = ANY($1::text[]) AND (number IS NOT NULL"
        " OR text IS NOT NULL OR status IN ('pending', 'deferred', 'sending')) ORDER BY message_id FOR UPDATE",
        list(subject_ids),
    )
    return {subject_id for subject_id, status in rows if status == "sending"}


async def deny_waiting(tx: AsyncConnection, asked: Mapping[str, datetime]) -> list[Changed]:
    """What is pending or deferred of these people never leaves: all marketing, and what else was requested before they
    asked for their erasure. The caller holds the partition's lock, and the rows (`lock_what_goes`)."""
    rows = await fetch_many(
        tx,
        "WITH waiting AS (SELECT m.message_id FROM message AS m"
        " JOIN unnest($1::text[], $2::timestamptz[]) AS a(subject_id, at) USING (subject_id)"
        " WHERE m.status IN ('pending', 'deferred') AND (m.category = 'marketing' OR m.requested_at <= a.at)"
        " ORDER BY m.message_id FOR UPDATE OF m)"
        " UPDATE message AS m SET status = 'denied', reasons = ARRAY[$3::text], due_at = NULL,"
        " decided_at = coalesce(m.decided_at, now()), version = m.version + 1"
        f" FROM waiting AS w WHERE m.message_id = w.message_id RETURNING {_OF_A_CHANGE}",
        list(asked),
        list(asked.values()),
        Reason.ERASED.value,
    )
    return [_changed(row) for row in rows]


async def empty_messages(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, int]:
    """Numbers and texts of these people's messages are gone, but of what has not ended, which was asked for since; how
    many by subject_id."""
    rows = await tx.execute(
        text(
            "WITH found AS (SELECT message_id FROM message WHERE subject_id = ANY(CAST(:ids AS text[]))"
            " AND (number IS NOT NULL OR text IS NOT NULL) AND status NOT IN ('pending', 'deferred', 'sending')"
            " ORDER BY message_id FOR UPDATE),"
            " emptied AS (UPDATE message AS m SET number = NULL, text = NULL FROM found AS f"
            " WHERE m.message_id = f.message_id RETURNING m.subject_id)"
            " SELECT subject_id, count(*) AS messages FROM emptied GROUP BY subject_id"
        ),
        {"ids": list(subject_ids)},
    )
    return {row.subject_id: row.messages for row in rows}


async def empty_enforcements(tx: AsyncConnection, subject_ids: Sequence[str]) -> None:
    """When each opt-out was enforced stays; by which text it was said does not."""
    await tx.execute(
        text(
            "UPDATE enforcement SET reference = NULL"
            " WHERE subject_id = ANY(CAST(:ids AS text[])) AND reference IS NOT NULL"
        ),
        {"ids": list(subject_ids)},
    )


# --- receipts ------------------------------------------------------------------------------------------------------


async def messages_of_receipts(
    tx: AsyncConnection, references: Sequence[UUID], gateway_ids: Sequence[str], gateways: Sequence[str]
) -> list[Row[Any]]:
    """Messages that receipts speak of, by our id or by the gateway's, locked. Those of the gateway are looked up first:
    for one or the other Postgres reads the whole ledger."""
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "SELECT * FROM message WHERE message_id = ANY(CAST(:references AS uuid[]) || ARRAY(SELECT m.message_id"
            " FROM unnest(CAST(:gateways AS text[]), CAST(:gateway_ids AS text[])) AS r(gateway, known_as)"
            " CROSS JOIN LATERAL (SELECT message_id FROM message WHERE gateway = r.gateway AND known_as = r.known_as"
            " OFFSET 0) AS m)) ORDER BY message_id FOR UPDATE"
        ),
        {"references": list(references), "gateways": list(gateways), "gateway_ids": list(gateway_ids)},
    )
    return list(rows)


RECEIVED = {
    "message_id": "uuid",
    "status": "text",
    "receipt": "text",
    "gateway": "text",
    "gateway_message_id": "text",
    "code": "text",
    "receipt_at": "timestamptz",
}


async def put_receipts(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> list[Changed]:
    """Of messages that the caller has locked. No `status`: it stays as it is."""
    updated = await fetch_many(
        tx,
        "UPDATE message AS m SET status = coalesce(v.status, m.status), unknown_since = CASE WHEN"
        " coalesce(v.status, m.status) = 'unknown' THEN m.unknown_since END, receipt = v.receipt,"
        " receipt_at = v.receipt_at,"
        " version = m.version + 1, gateway = coalesce(m.gateway, v.gateway),"
        " gateway_message_id = coalesce(m.gateway_message_id, v.gateway_message_id), code = coalesce(v.code, m.code)"
        f" FROM {_unnest(RECEIVED)} WHERE m.message_id = v.message_id RETURNING {_OF_A_CHANGE}",
        *_columns(rows, RECEIVED),
    )
    return [_changed(row) for row in updated]


async def block(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """These subjects are out of reach by these gateways from now on; the first reason is kept."""
    columns = {"gateway": "text", "subject_id": "text", "code": "text", "since": "timestamptz"}
    arrays = ", ".join(f"CAST(:{c} AS {kind}[])" for c, kind in columns.items())
    await tx.execute(
        text(
            f"INSERT INTO provider_block ({', '.join(columns)}) SELECT v.* FROM unnest({arrays})"
            f" AS v({', '.join(columns)}) ORDER BY gateway, subject_id ON CONFLICT DO NOTHING"
        ),
        _by_column(rows, columns),
    )


async def keep_early_receipts(tx: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Receipts of messages whose submit has not been answered yet, or that are not ours."""
    columns = {
        "gateway": "text",
        "gateway_message_id": "text",
        "receipt": "text",
        "code": "text",
        "received_at": "timestamptz",
        "occurred_at": "timestamptz",
        "blocked": "boolean",
    }
    arrays = ", ".join(f"CAST(:{c} AS {kind}[])" for c, kind in columns.items())
    await tx.execute(
        text(f"INSERT INTO early_receipt ({', '.join(columns)}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"),
        _by_column(rows, columns),
    )


async def take_matching_early_receipts(tx: AsyncConnection, limit: int) -> list[Row[Any]]:
    """Early receipts whose message has become known, removed from the waiting room."""
    await plan_now(tx)
    rows = await tx.execute(
        text(
            "DELETE FROM early_receipt e USING (SELECT e.gateway, e.gateway_message_id FROM early_receipt e"
            " JOIN message m ON (m.gateway, m.known_as) = (e.gateway, e.gateway_message_id) LIMIT :limit) found"
            " WHERE (e.gateway, e.gateway_message_id) = (found.gateway, found.gateway_message_id) RETURNING e.*"
        ),
        {"limit": limit},
    )
    return list(rows)


def _by_column(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> dict[str, list[Any]]:
    return {column: [row[column] for row in rows] for column in columns}


def _unnest(columns: Mapping[str, str], name: str = "v", first: int = 1, more: str = "") -> str:
    """These columns (with their types) as rows `v`, from the parameters that `_columns` makes."""
    arrays = ", ".join(
        f"string_to_array(${place}, E'\\n', '')" if kind == "lines" else f"${place}::{kind}[]"
        for place, kind in enumerate(columns.values(), first)
    )
    return f"unnest({arrays}) {more} AS {name}({', '.join(columns)}{', place' if more else ''})"


def _columns(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> list[list[Any] | None]:
    """An array of each; none where there is nothing in it (`unnest` takes it for as many NULLs)."""
    found = {column: [row[column] for row in rows] for column in columns}
    if "reasons" in found:
        found["reasons"] = [",".join(reasons) for reasons in found["reasons"]]
    return [values if any(value is not None for value in values) else None for values in found.values()]


def _one_for_all(after: int) -> str:
    """The parameters of `_of_all`, after so many others."""
    return ", ".join(f"${place}::{kind}" for place, kind in enumerate(OF_ALL.values(), after + 1))


def _of_all(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What these rows have in common. Raises ValueError where they do not."""
    first = _of_all_of(rows[0])
    if any(_of_all_of(row) != first for row in rows):
        raise ValueError("not decided together")
    return list(first)


_of_all_of = itemgetter(*OF_ALL)
_kind_of = itemgetter(*ALIKE)

_INSERT = (  # the facts as lines, which no JSON has within: of an array the driver looks at each element three times
    f"INSERT INTO message ({', '.join((*OWN, 'facts', *ALIKE, *OF_ALL))}, version)"
    f" SELECT {', '.join(f'v.{column}' for column in OWN)}, v.facts,"
    f" {', '.join(_AS_ARRAY.format('k.reasons') if column == 'reasons' else f'k.{column}' for column in ALIKE)},"
    f" {_one_for_all(len(OWN) + 2 + len(ALIKE))}, 1"
    f" FROM {_unnest({**OWN, 'kind': 'integer', 'facts': 'lines'})}"
    f" JOIN {_unnest(ALIKE, 'k', len(OWN) + 3, 'WITH ORDINALITY')} ON k.place = v.kind"
    " ON CONFLICT (message_id) DO NOTHING RETURNING message_id"
)
