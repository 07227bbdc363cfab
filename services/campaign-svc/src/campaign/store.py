"""Own campaign-svc's tables and statements. Rows move as arrays or by COPY; the caller owns the transaction.

A transaction changing a campaign locks the campaign's row first. Recipients are inserted once, when the audience is
frozen; later only the planner and reports of dispatch-svc change a recipient. A campaign's tallies are counters in a
row of their own, so that counting never waits for the planner. The tallies change in the same transaction as the
recipient, and a constraint guards their sum.

Transactions lock in the order campaign, recipients, tallies (by id). The planner starting a campaign locks the tallies
first: no other transaction needs the tallies before the start.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

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
    LargeBinary,
    PrimaryKeyConstraint,
    Row,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import COUNTS, OUTCOMES, STANDINGS
from campaign.accounts import Standing as Reported
from campaign.audience import frequency
from campaign.audience import segment_language as segment
from campaign.audience.frequency import Limit
from campaign.audience.reach import Standing
from campaign.audience.segment_language import Condition
from campaign.message.variants import OWN, Choice, FirstGroups, Trial
from campaign.message.wording import Wording, wording
from campaign.schedule.lifecycle import KEPT, Status
from campaign.schedule.recurrence import Recurring
from campaign.schedule.timing import Timing
from common.contracts.consent import SenderChanged
from common.contracts.dispatch import HoldChanged, MessageChanged
from common.db.database import copy_lines, escaped, fetch_many, insert_many, may_idle, new_metadata
from common.kafka import consumer, dead_letters, outbox
from common.privacy import erasing
from common.version import at_least

CONTACTS = 0x636F6E74  # advisory lock ("cont"): shared to build requests, exclusive to rectify contacts
AUDIENCES = 0x61756469  # advisory lock class ("audi"): a lock per sender
MANY = 1_000  # audience size from which Postgres needs fresh statistics
LOOK_AHEAD = timedelta(minutes=1)  # longest sleep of a campaign with recipients left to request
LONGEST_PAUSE = timedelta(minutes=10)  # longest delay between attempts at a failing campaign
PASSING_FAILURES = 1  # consecutive failures not yet shown as failing: a lock conflict may explain them
FOR_WINNER = datetime(1970, 1, 1, tzinfo=UTC)  # `waits_until` while waiting for the winner, before any real hour
DUE = "campaign_due"  # NOTIFY channel: a campaign was scheduled

metadata = new_metadata()
outbox.define(metadata)
consumer.define(metadata)
dead_letters.define(metadata)
erasing.define(metadata)


def _instant(name: str, *, nullable: bool = False) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


sender = Table(
    "sender",
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("brand", Text, nullable=False),
    Column("oadc", Text, nullable=False, server_default=text("''")),
    Column("country", Text, nullable=False),
    Column("stop_code", Text, nullable=False),
    Column("purposes", ARRAY(Text), nullable=False),
)

sender_rule = Table(
    "sender_rule",
    metadata,
    Column("sender_id", Text, primary_key=True),
    Column("approval", Boolean, nullable=False),  # by another person, before scheduling
    Column("cap_messages", Integer, nullable=True),
    Column("cap_days", Integer, nullable=True),
    Column("link_host", Text, nullable=True),
    Column("stop_added", Text, nullable=True),  # mention the operator appends to each text
    Column("changed_by", Text, nullable=False),
    _instant("changed_at"),
)

hold = Table(
    "hold",  # the latest marketing hold published by dispatch-svc
    metadata,
    Column("category", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    _instant("since"),
    _instant("consents_as_of", nullable=True),
    _instant("ended_at", nullable=True),
)

standing = Table(
    "standing",  # the latest consents of a person, from consent-svc
    metadata,
    Column("subject_id", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("told", JSONB, nullable=False),  # reach.Standing
)

contact = Table(
    "contact",
    metadata,
    Column("sender_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("number", Text, nullable=False),  # encrypted, context "number:<subject_id>"
    Column("attributes", JSONB, nullable=False),
    Column("territory", Text, nullable=True),  # of the number; null until the contact is stored again
    # rectified attributes, null where removed: imports never overwrite these
    Column("corrected", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    _instant("created_at"),
    _instant("updated_at"),  # last import, API write, click or rectification
    PrimaryKeyConstraint("sender_id", "subject_id"),
    Index("contact_updated_ix", "updated_at"),
)

contact_import = Table(
    "contact_import",
    metadata,
    Column("import_id", Text, primary_key=True),
    Column("sender_id", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    _instant("created_at"),
    Column("fingerprint", Text, nullable=False),  # keyed hash of sender and file
    Column("lines", Integer, nullable=False),
    Column("created", Integer, nullable=False),
    Column("updated", Integer, nullable=False),
    Column("duplicates", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("reasons", JSONB, nullable=False),
    Column("read_as", JSONB, nullable=False, server_default=text("'null'::jsonb")),  # contacts_file.ReadAs
    Column("received_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("pieces", Integer, nullable=False, server_default=text("0")),
    Column("complete", Boolean, nullable=False, server_default=text("true")),  # the whole file is here and readable
    Column("line", Integer, nullable=False, server_default=text("0")),  # last line recorded
    Column("attempts", Integer, nullable=False, server_default=text("0")),  # attempts since the last line recorded
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("failed", Boolean, nullable=False, server_default=text("false")),  # given up; `finished` is true as well
    Column("finished", Boolean, nullable=False, server_default=text("true")),
    Index("contact_import_created_ix", "created_at"),
    Index("contact_import_waiting_ix", "import_id", postgresql_where=text("complete AND NOT finished")),
)

import_piece = Table(
    "import_piece",  # pieces of files not yet recorded in full, deleted afterwards
    metadata,
    Column("import_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),  # encrypted, context "import:<import_id>:<position>"
    PrimaryKeyConstraint("import_id", "position"),
)

import_refusal = Table(
    "import_refusal",
    metadata,
    Column("import_id", Text, nullable=False),
    Column("line", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("import_id", "line"),
)

campaign = Table(
    "campaign",
    metadata,
    Column("campaign_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("text", Text, nullable=False),  # the template, not a rendered message
    Column("language", Text, nullable=False, server_default=text("'fr'")),  # of `text`
    Column("translations", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # templates, by language
    Column("folding", Text, nullable=False, server_default=text("'none'")),
    Column("sectors", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # advertised, as the author declares
    Column("selection", JSONB, nullable=False),
    Column("rest_days", Integer, nullable=True),  # minimum gap in days since the sender's last message
    _instant("send_before", nullable=True),
    Column("timing", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # timing.Timing, without defaults
    Column("recurring", JSONB, nullable=True),  # recurrence.Recurring
    Column("trial", JSONB, nullable=True),  # variants.Trial
    Column("winner", Text, nullable=True),  # the winning variant, once known
    Column("choice", JSONB, nullable=True),  # variants.Choice
    Column("series_id", Text, nullable=True),  # the recurring campaign of this occurrence
    Column("missed", Integer, nullable=False, server_default=text("0")),  # never begun: planner down, or series paused
    Column("priority", Text, nullable=False, server_default=text("'normal'")),
    Column("created_by", Text, nullable=False),
    Column("edited_by", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # most recent editor last
    _instant("created_at"),
    Column("fingerprint", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("agreed", Text, nullable=True),  # approval.digest without a start, when scheduled
    _instant("agreed_start", nullable=True),  # start given when scheduling, as in the approval; null: at once
    Column("approval_needed", Boolean, nullable=False, server_default=text("false")),  # at the time of scheduling
    Column("acknowledged", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # findings, when scheduled
    Column("control_version", Integer, nullable=False, server_default=text("0")),
    _instant("at", nullable=True),  # the author's start; recipients' own clocks may show an earlier time
    _instant("starts_at", nullable=True),
    _instant("started_at", nullable=True),
    _instant("ended_at", nullable=True),
    # last recipient requested, in the order of subject ids
    Column("cursor", Text, nullable=False, server_default=text("''")),
    Column("expanded", Boolean, nullable=False, server_default=text("false")),  # no recipient left to request or deny
    Column("sent_back", Text, nullable=True),  # why a scheduled campaign became a draft again
    _instant("look_at", nullable=True),  # the planner sleeps until then
    _instant("next_slot", nullable=True),
    Column("turn", BigInteger, nullable=False, server_default=text("0")),  # planner turns used, weighted by priority
    Column("failures", Integer, nullable=False, server_default=text("0")),  # consecutive failures to start or go on
    _instant("retry_at", nullable=True),
    Index("campaign_position_ix", "position", unique=True),
    Index("campaign_series_ix", "series_id", "position", postgresql_where=text("series_id IS NOT NULL")),
    Index("campaign_scheduled_ix", "starts_at", postgresql_where=text("status = 'scheduled'")),
    Index("campaign_begun_ix", "sender_id", "ended_at", postgresql_where=text("started_at IS NOT NULL")),
    Index("campaign_ended_ix", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    Index("campaign_failing_ix", "retry_at", postgresql_where=text(f"failures > {PASSING_FAILURES}")),
    Index("campaign_expanding_ix", "turn", postgresql_where=text("status = 'running' AND NOT expanded")),
    Index("campaign_cancelled_ix", "sender_id", postgresql_where=text("status = 'cancelled' AND NOT expanded")),
    Index(
        "campaign_paused_ix",
        "sender_id",
        postgresql_where=text("status = 'paused' AND started_at IS NOT NULL AND NOT expanded"),
    ),
)

campaign_accounts = Table(
    "campaign_accounts",
    metadata,
    Column("campaign_id", Text, primary_key=True),
    *(Column(name, Integer, nullable=False, server_default=text("0")) for name in ("audience", *COUNTS)),
    CheckConstraint(f"audience = {' + '.join(STANDINGS)}", name="sum"),
    CheckConstraint(f"least({', '.join(COUNTS)}) >= 0", name="counts"),
)

campaign_reason = Table(
    "campaign_reason",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("kind", Text, nullable=False),  # excluded, denied (recipients); paused (the campaign)
    Column("reason", Text, nullable=False),
    Column("recipients", Integer, nullable=False),
    PrimaryKeyConstraint("campaign_id", "kind", "reason"),
)

campaign_approval = Table(
    "campaign_approval",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("approved_by", Text, nullable=False),
    _instant("approved_at"),
    PrimaryKeyConstraint("campaign_id", "digest", "approved_by"),
)

campaign_pre_flight = Table(
    "campaign_pre_flight",
    metadata,
    Column("campaign_id", Text, primary_key=True),
    Column("digest", Text, nullable=False),  # campaign's digest without a start
    _instant("at", nullable=True),  # start examined; null: at once
    Column("findings", ARRAY(Text), nullable=False),
    _instant("made_at"),
)

test_send = Table(
    "test_send",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("variant", Text, nullable=False),
    Column("asked_by", Text, nullable=False),
    _instant("asked_at"),
    Column("fingerprint", Text, nullable=True),  # keyed hash of the text
    PrimaryKeyConstraint("campaign_id", "message_id"),
    Index("test_send_asked_ix", "asked_at"),
)

recipient = Table(
    "recipient",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reasons", ARRAY(Text), nullable=False),
    Column("receipt", Text, nullable=True),
    Column("version", Integer, nullable=False),  # dispatch-svc's; 0 before the first report
    _instant("handed_off_at", nullable=True),
    _instant("receipt_at", nullable=True),
    Column("variant", Text, nullable=True),  # the text of the A/B test requested
    _instant("waits_until", nullable=True),  # set for recipients before the cursor and not yet due
    PrimaryKeyConstraint("campaign_id", "subject_id"),
    Index(
        "recipient_waiting_ix",
        "campaign_id",
        "waits_until",
        "subject_id",
        postgresql_where=text("waits_until IS NOT NULL"),
    ),
)

campaign_link = Table(
    "campaign_link",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("place", Integer, nullable=False),  # position of the target in the texts, from 1
    Column("target", Text, nullable=False),
    PrimaryKeyConstraint("campaign_id", "place"),
)

link = Table(
    "link",
    metadata,
    Column("campaign_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("place", Integer, nullable=False),
    Column("token", Text, nullable=False),
    Column("clicks", Integer, nullable=False, server_default=text("0")),
    _instant("first_clicked_at", nullable=True),
    _instant("last_clicked_at", nullable=True),
    PrimaryKeyConstraint("campaign_id", "subject_id", "place"),
    Index("link_token_ix", "token", unique=True),
)

opt_out = Table(
    "opt_out",  # an opt-out, a row per sender and purpose closed
    metadata,
    Column("subject_id", Text, nullable=False),
    Column("evidence_id", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    _instant("at"),  # time at source
    PrimaryKeyConstraint("subject_id", "evidence_id", "sender_id", "purpose"),
    Index("opt_out_at_ix", "at"),
)


# --- senders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sender:
    brand: str
    oadc: str
    country: str
    stop_code: str
    purposes: frozenset[str]
    link_host: str | None = None
    stop_added: str = ""


async def put_sender(tx: AsyncConnection, event: SenderChanged) -> None:
    """Store a sender, unless a newer version is stored.

    A repeated event overwrites its own version, so that a replay fills columns added since.
    """
    await tx.execute(
        text(
            "INSERT INTO sender (sender_id, version, brand, oadc, country, stop_code, purposes)"
            " VALUES (:id, :version, :brand, :oadc, :country, :stop_code, CAST(:purposes AS text[]))"
            " ON CONFLICT (sender_id) DO UPDATE SET version = excluded.version, brand = excluded.brand,"
            " oadc = excluded.oadc, country = excluded.country, stop_code = excluded.stop_code,"
            " purposes = excluded.purposes WHERE sender.version <= excluded.version"
        ),
        {
            "id": event.sender_id,
            "version": event.version,
            "brand": event.brand,
            "oadc": event.oadc,
            "country": event.country,
            "stop_code": event.stop_code,
            "purposes": [purpose.id for purpose in event.purposes],
        },
    )


async def find_sender(tx: AsyncConnection, sender_id: str) -> Sender | None:
    row = (
        await tx.execute(
            text(
                "SELECT s.brand, s.oadc, s.country, s.stop_code, s.purposes, r.link_host,"
                " coalesce(r.stop_added, '') AS stop_added FROM sender AS s"
                " LEFT JOIN sender_rule AS r ON r.sender_id = s.sender_id WHERE s.sender_id = :id"
            ),
            {"id": sender_id},
        )
    ).one_or_none()
    if row is None:
        return None
    return Sender(
        row.brand, row.oadc, row.country, row.stop_code, frozenset(row.purposes), row.link_host, row.stop_added
    )


async def needs_approval(tx: AsyncConnection, sender_id: str) -> bool:
    return bool(await tx.scalar(text("SELECT approval FROM sender_rule WHERE sender_id = :id"), {"id": sender_id}))


async def cap_of(tx: AsyncConnection, sender_id: str) -> tuple[int, int] | None:
    """Return the sender's frequency cap as (messages, days), or `None`."""
    row = (
        await tx.execute(
            text("SELECT cap_messages, cap_days FROM sender_rule WHERE sender_id = :id AND cap_days IS NOT NULL"),
            {"id": sender_id},
        )
    ).one_or_none()
    return (row.cap_messages, row.cap_days) if row else None


async def put_sender_rule(
    tx: AsyncConnection,
    sender_id: str,
    *,
    approval: bool,
    cap: tuple[int, int] | None,
    link_host: str | None,
    stop_added: str | None,
    changed_by: str,
    now: datetime,
) -> None:
    messages, days = cap or (None, None)
    await tx.execute(
        text(
            "INSERT INTO sender_rule"
            " (sender_id, approval, cap_messages, cap_days, link_host, stop_added, changed_by, changed_at)"
            " VALUES (:id, :approval, :messages, :days, :host, :added, :by, :now) ON CONFLICT (sender_id) DO UPDATE"
            " SET approval = excluded.approval, cap_messages = excluded.cap_messages, cap_days = excluded.cap_days,"
            " link_host = excluded.link_host, stop_added = excluded.stop_added,"
            " changed_by = excluded.changed_by, changed_at = excluded.changed_at"
        ),
        {
            "id": sender_id,
            "approval": approval,
            "messages": messages,
            "days": days,
            "host": link_host,
            "added": stop_added,
            "by": changed_by,
            "now": now,
        },
    )


# --- what holds everything up -----------------------------------------------------------------------------------------


async def put_hold(tx: AsyncConnection, event: HoldChanged) -> None:
    """Store a hold, unless the same or a newer version is stored."""
    await tx.execute(
        text(
            "INSERT INTO hold (category, version, since, consents_as_of, ended_at)"
            " VALUES (:category, :version, :since, :consents_as_of, :ended_at)"
            " ON CONFLICT (category) DO UPDATE SET version = excluded.version, since = excluded.since,"
            " consents_as_of = excluded.consents_as_of, ended_at = excluded.ended_at"
            " WHERE hold.version < excluded.version"
        ),
        msgspec.structs.asdict(event),
    )


async def hold_of_marketing(tx: AsyncConnection) -> Row[Any] | None:
    """Return `since` and `consents_as_of` of the marketing hold in force, or `None`."""
    rows = await tx.execute(text("SELECT since, consents_as_of FROM hold WHERE ended_at IS NULL"))
    return rows.one_or_none()


# --- consents, as consent-svc tells them ------------------------------------------------------------------------------


async def put_standings(tx: AsyncConnection, told: Mapping[str, tuple[int, Standing]]) -> None:
    """Store the consents of each subject with their version. An older or equal version changes nothing."""
    ids = sorted(told)
    await tx.execute(
        text(
            "INSERT INTO standing (subject_id, version, told) SELECT * FROM"
            " unnest(CAST(:ids AS text[]), CAST(:versions AS integer[]), CAST(:told AS jsonb[]))"
            " ON CONFLICT (subject_id) DO UPDATE SET version = excluded.version, told = excluded.told"
            " WHERE standing.version < excluded.version"
        ),
        {
            "ids": ids,
            "versions": [told[i][0] for i in ids],
            "told": [msgspec.json.encode(told[i][1]).decode() for i in ids],
        },
    )


async def mark_unreadable(tx: AsyncConnection, subject_id: str) -> None:
    """Mark a subject's consents unreadable, after an event no consumer can decode.

    The next readable event replaces the mark.
    """
    await tx.execute(
        text(
            "INSERT INTO standing (subject_id, version, told) VALUES (:id, -1, CAST(:told AS jsonb))"
            " ON CONFLICT (subject_id) DO UPDATE SET told = standing.told || excluded.told"
        ),
        {"id": subject_id, "told": '{"unreadable": true}'},
    )


# --- contacts --------------------------------------------------------------------------------------------------------

ImportedRow = tuple[int, str, str, str, str]  # line, subject_id, encrypted number, attributes as JSON, territory
RefusedRow = tuple[str, int, str]  # import_id, line, reason


# The ids travel as one text: for an array, the driver checks every member for being an array itself, which takes most
# of the time.
_AMONG = "subject_id = ANY(string_to_array($1, ' '))"
_ERASED = "(e.lifted_at IS NULL OR e.erased_at IS NULL)"  # erasure pending, or done and not lifted


async def erased_among(tx: AsyncConnection, subject_ids: Iterable[str]) -> set[str]:
    """Return the subjects with an erasure pending, or done and not lifted."""
    erased = f"SELECT subject_id FROM erasing AS e WHERE {_AMONG} AND {_ERASED}"
    return {row[0] for row in await fetch_many(tx, erased, " ".join(subject_ids))}


async def find_contact(tx: AsyncConnection, sender_id: str, subject_id: str) -> Row[Any] | None:
    rows = await tx.execute(
        text(
            "SELECT subject_id, territory, attributes::text AS attributes, created_at, updated_at FROM contact"
            " WHERE sender_id = :sender_id AND subject_id = :id"
        ),
        {"sender_id": sender_id, "id": subject_id},
    )
    return rows.one_or_none()


async def delete_of_sender(tx: AsyncConnection, sender_id: str, subject_ids: Sequence[str]) -> int:
    """Delete these contacts of one sender, locked in an import's order; return how many."""
    gone = await tx.execute(
        text(
            "WITH found AS (SELECT subject_id FROM contact WHERE sender_id = :sender_id"
            " AND subject_id = ANY(CAST(:ids AS text[])) ORDER BY subject_id FOR UPDATE)"
            " DELETE FROM contact AS c USING found AS f WHERE c.sender_id = :sender_id AND c.subject_id = f.subject_id"
        ),
        {"sender_id": sender_id, "ids": list(subject_ids)},
    )
    return int(gone.rowcount)


async def delete_contacts(tx: AsyncConnection, subject_ids: Sequence[str]) -> dict[str, int]:
    """Delete these subjects' contacts of every sender; return the number by subject id.

    The join with `sender` uses the primary key, sender by sender. Rows are locked in the order an import locks them.
    """
    rows = await tx.execute(
        text(
            "WITH found AS (SELECT c.sender_id, c.subject_id FROM sender AS s JOIN contact AS c"
            " ON c.sender_id = s.sender_id AND c.subject_id = ANY(CAST(:ids AS text[]))"
            " ORDER BY c.sender_id, c.subject_id FOR UPDATE OF c),"
            " gone AS (DELETE FROM contact AS c USING found AS f"
            " WHERE c.sender_id = f.sender_id AND c.subject_id = f.subject_id RETURNING c.subject_id)"
            " SELECT subject_id, count(*) AS contacts FROM gone GROUP BY subject_id"
        ),
        {"ids": list(subject_ids)},
    )
    return {row.subject_id: row.contacts for row in rows}


async def contacts_of(tx: AsyncConnection, subject_id: str) -> Sequence[Row[Any]]:
    """Return one person's contacts of every sender."""
    rows = await tx.execute(
        text(
            "SELECT c.sender_id, c.number, c.attributes::text AS attributes, c.corrected::text AS corrected,"
            " c.created_at, c.updated_at"
            " FROM sender AS s JOIN contact AS c ON c.sender_id = s.sender_id AND c.subject_id = :id"
            " ORDER BY c.sender_id"
        ),
        {"id": subject_id},
    )
    return rows.all()


async def heard_of(tx: AsyncConnection, sender_id: str, subject_id: str, now: datetime) -> None:
    """Renew the contact's retention, as an import would, because the person interacted with the sender."""
    await tx.execute(
        text(
            "UPDATE contact SET updated_at = :now"
            " WHERE sender_id = :sender_id AND subject_id = :id AND updated_at < :now"
        ),
        {"sender_id": sender_id, "id": subject_id, "now": now},
    )


async def audiences_of(tx: AsyncConnection, subject_id: str) -> Sequence[Row[Any]]:
    """Return one person's recipient rows with their campaigns, oldest campaign first.

    The join reads by the primary key, campaign by campaign.
    """
    rows = await tx.execute(
        text(
            "SELECT c.campaign_id, c.sender_id, c.name, c.purpose, r.status, r.reasons, r.receipt, r.handed_off_at"
            " FROM campaign AS c JOIN recipient AS r ON r.campaign_id = c.campaign_id AND r.subject_id = :id"
            " ORDER BY c.position"
        ),
        {"id": subject_id},
    )
    return rows.all()


async def wait_for_locks_within(tx: AsyncConnection, seconds: float) -> None:
    """Fail this transaction if any later lock takes longer than `seconds`."""
    await fetch_many(tx, f"SET LOCAL lock_timeout = {int(seconds * 1000)}")


async def reading_contacts(tx: AsyncConnection) -> None:
    """Take the shared contacts lock before building requests from contacts. A rectification waits meanwhile."""
    await tx.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": CONTACTS})


async def alone_with_contacts(tx: AsyncConnection) -> None:
    """Take the exclusive contacts lock: no transaction builds requests until this transaction ends."""
    await tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CONTACTS})


async def lock_contacts(tx: AsyncConnection, subject_id: str, sender_id: str | None) -> Sequence[str]:
    """Lock one person's contacts of one sender, or of all; return the sender ids."""
    found = await tx.execute(
        text(
            "SELECT c.sender_id FROM sender AS s JOIN contact AS c"
            " ON c.sender_id = s.sender_id AND c.subject_id = :id"
            " WHERE s.sender_id = coalesce(:sender_id, s.sender_id) ORDER BY c.sender_id FOR UPDATE OF c"
        ),
        {"id": subject_id, "sender_id": sender_id},
    )
    return found.scalars().all()


async def correct_contact(
    tx: AsyncConnection, sender_id: str, subject_id: str, fields: Mapping[str, str | None], now: datetime
) -> None:
    """Rectify a contact locked by the caller. A null value removes the attribute."""
    await tx.execute(
        text(
            "UPDATE contact AS c SET corrected = c.corrected || CAST(:fields AS jsonb),"
            " attributes = jsonb_strip_nulls(c.attributes || CAST(:fields AS jsonb)), updated_at = :now"
            " WHERE c.sender_id = :sender_id AND c.subject_id = :id"
        ),
        {"id": subject_id, "sender_id": sender_id, "fields": msgspec.json.encode(fields).decode(), "now": now},
    )


async def delete_contact(tx: AsyncConnection, subject_id: str, sender_id: str | None, until: datetime) -> int:
    """Delete one person's contacts created by `until`, of one sender or of all; return how many."""
    gone = await tx.execute(
        text(
            "WITH found AS (SELECT c.sender_id FROM sender AS s JOIN contact AS c"
            " ON c.sender_id = s.sender_id AND c.subject_id = :id"
            " WHERE s.sender_id = coalesce(:sender_id, s.sender_id) AND c.created_at <= :until"
            " ORDER BY c.sender_id FOR UPDATE OF c)"
            " DELETE FROM contact AS c USING found AS f WHERE c.sender_id = f.sender_id AND c.subject_id = :id"
        ),
        {"id": subject_id, "sender_id": sender_id, "until": until},
    )
    return int(gone.rowcount)


async def asked_for(tx: AsyncConnection, subject_id: str, sender_id: str | None) -> Sequence[Row[Any]]:
    """Return one person's requested messages not known to have left, with campaign and current attributes.

    The caller holds `alone_with_contacts`, so the planner requests no further message meanwhile.
    """
    rows = await tx.execute(
        text(
            "SELECT g.campaign_id, g.text, g.language, g.translations::text AS translations, g.folding, g.starts_at,"
            " g.trial::text AS trial, r.variant,"
            " s.country, s.stop_code, u.link_host, coalesce(u.stop_added, '') AS stop_added,"
            " c.attributes::text AS attributes"
            " FROM campaign AS g JOIN recipient AS r ON r.campaign_id = g.campaign_id AND r.subject_id = :id"
            " JOIN contact AS c ON c.sender_id = g.sender_id AND c.subject_id = :id"
            " JOIN sender AS s ON s.sender_id = g.sender_id"
            " LEFT JOIN sender_rule AS u ON u.sender_id = g.sender_id"
            " WHERE g.status IN ('running', 'paused') AND r.subject_id <= g.cursor AND r.waits_until IS NULL"
            " AND r.status IN ('pending', 'deferred') AND g.sender_id = coalesce(:sender_id, g.sender_id)"
            " ORDER BY g.campaign_id"
        ),
        {"id": subject_id, "sender_id": sender_id},
    )
    return rows.all()


# Rows are written in key order, so that two transactions writing the same people never deadlock. Ids are lower-case
# letters and digits: "C" gives the order of every collation, faster. Attributes absent from the input are kept, and
# rectified attributes win over the input.
_PUT = (
    "INSERT INTO contact AS c (sender_id, subject_id, number, attributes, territory, created_at, updated_at)"
    " SELECT $1, b.subject_id, b.number, b.attributes::jsonb, b.territory, $2, $2"
    " FROM unnest($3::text[], $4::text[], $5::text[], $6::text[]) AS b(subject_id, number, attributes, territory)"
    ' ORDER BY b.subject_id COLLATE "C" ON CONFLICT (sender_id, subject_id) DO UPDATE SET number = excluded.number,'
    " attributes = jsonb_strip_nulls(c.attributes || excluded.attributes || c.corrected),"
    " territory = excluded.territory, updated_at = excluded.updated_at RETURNING {returned}"
)
# All rows of a file share one `updated_at`, so a row already at $2 appeared earlier in the file. The old row is looked
# up only for contacts already there.
_BROUGHT = (
    "CASE WHEN c.xmax = 0 THEN 'created' WHEN (SELECT o.updated_at FROM contact AS o WHERE o.sender_id = c.sender_id"
    " AND o.subject_id = c.subject_id) = $2 THEN 'duplicates' ELSE 'updated' END AS became"
)


def copied(sender_id: str, rows: Iterable[ImportedRow], now: datetime) -> dict[str, str]:
    """Return a line of COPY for each subject, from the subject's last row."""
    begins, ends = f"{escaped(sender_id)}\t", f"\t{now.isoformat()}\t{now.isoformat()}\n"
    return {
        subject_id: f"{begins}{subject_id}\t{number}\t{escaped(attributes)}\t{territory}{ends}"
        for _, subject_id, number, attributes, territory in rows
    }


async def add_imported(tx: AsyncConnection, sender_id: str, lines: Mapping[str, str]) -> set[str]:
    """Insert the lines of `copied` whose subjects are new to the sender; return the inserted subject ids.

    The caller passes lines in the order of `_PUT`. COPY takes half the time of `_PUT`. Raises asyncpg's
    UniqueViolationError where another transaction inserts one of the subjects concurrently.
    """
    known = await fetch_many(
        tx, f"SELECT subject_id FROM contact WHERE {_AMONG} AND sender_id = $2", " ".join(lines), sender_id
    )
    if known:
        held = {row[0] for row in known}
        lines = {subject_id: line for subject_id, line in lines.items() if subject_id not in held}
    columns = ("sender_id", "subject_id", "number", "attributes", "territory", "created_at", "updated_at")
    await copy_lines(tx, "contact", columns, list(lines.values()))
    return set(lines)


async def put_imported(
    tx: AsyncConnection, sender_id: str, rows: Sequence[ImportedRow], now: datetime
) -> Mapping[str, int]:
    """Insert or update contacts; return how many were created, updated, or repeated in the file (duplicates).

    `rows`: at most one per subject. `now`: the same for the whole file.
    """
    put = _PUT.format(returned=_BROUGHT)
    counted = f"WITH put AS ({put}) SELECT became, count(*) FROM put GROUP BY became"
    return {row[0]: row[1] for row in await fetch_many(tx, counted, sender_id, now, *_columns_of(rows))}


async def put_contacts(
    tx: AsyncConnection, sender_id: str, rows: Sequence[ImportedRow], now: datetime
) -> dict[str, bool]:
    """Insert or update contacts, at most one row per subject; return by subject id whether the contact is new."""
    put = _PUT.format(returned="c.subject_id, c.xmax = 0")
    return {row[0]: row[1] for row in await fetch_many(tx, put, sender_id, now, *_columns_of(rows))}


def _columns_of(rows: Sequence[ImportedRow]) -> tuple[list[str], ...]:
    return [r[1] for r in rows], [r[2] for r in rows], [r[3] for r in rows], [r[4] for r in rows]


async def claim_import(tx: AsyncConnection, import_id: str) -> bool:
    """Lock an import for this transaction; return False where another transaction has the lock.

    No caller waits for the lock, and the lock ends with the connection: after a process dies, another continues at
    once. The transaction may idle while the file arrives and is recorded.
    """
    await may_idle(tx)
    return bool(await tx.scalar(text("SELECT pg_try_advisory_xact_lock(hashtextextended(:id, 0))"), {"id": import_id}))


async def claim_waiting(tx: AsyncConnection, now: datetime) -> str | None:
    """Claim the unclaimed import, arrived in full and due, that has been due longest; return its id."""
    found: str | None = await tx.scalar(
        text(
            "WITH waiting AS MATERIALIZED (SELECT import_id FROM contact_import"
            " WHERE complete AND NOT finished AND due_at <= :now ORDER BY due_at)"
            " SELECT import_id FROM waiting WHERE pg_try_advisory_xact_lock(hashtextextended(import_id, 0)) LIMIT 1"
        ),
        {"now": now},
    )
    if found is not None:
        await may_idle(tx)
    return found


async def put_attempt(tx: AsyncConnection, import_id: str, attempts: int, due_at: datetime) -> None:
    """Store the number of attempts since the last progress. The caller has locked the import.

    The next attempt is due at `due_at`, unless this attempt records lines.
    """
    await tx.execute(
        text("UPDATE contact_import SET attempts = :attempts, due_at = :due_at WHERE import_id = :id"),
        {"id": import_id, "attempts": attempts, "due_at": due_at},
    )


async def open_import(tx: AsyncConnection, import_id: str, sender_id: str, created_by: str, now: datetime) -> None:
    """Insert an import without a file. The caller holds the claim, and no such import exists."""
    await tx.execute(
        text(
            "INSERT INTO contact_import (import_id, sender_id, created_by, created_at, fingerprint, lines, created,"
            " updated, duplicates, refused, reasons, complete, finished)"
            " VALUES (:id, :sender_id, :created_by, :now, '', 0, 0, 0, 0, 0, '{}', false, false)"
        ),
        {"id": import_id, "sender_id": sender_id, "created_by": created_by, "now": now},
    )


async def add_piece(tx: AsyncConnection, import_id: str, position: int, sealed: bytes, size: int) -> None:
    """Append a piece to the file of a claimed import. `size`: bytes before encryption."""
    await tx.execute(
        text("INSERT INTO import_piece (import_id, position, body) VALUES (:id, :position, :body)"),
        {"id": import_id, "position": position, "body": sealed},
    )
    await tx.execute(
        text(
            "UPDATE contact_import SET received_bytes = received_bytes + :size, pieces = pieces + 1"
            " WHERE import_id = :id"
        ),
        {"id": import_id, "size": size},
    )


async def piece_of(tx: AsyncConnection, import_id: str, position: int) -> bytes:
    """Return an encrypted piece of the file."""
    found = await tx.execute(
        text("SELECT body FROM import_piece WHERE import_id = :id AND position = :position"),
        {"id": import_id, "position": position},
    )
    return bytes(found.scalar_one())


async def complete_import(tx: AsyncConnection, import_id: str, fingerprint: str) -> None:
    await tx.execute(
        text("UPDATE contact_import SET complete = true, fingerprint = :fingerprint WHERE import_id = :id"),
        {"id": import_id, "fingerprint": fingerprint},
    )


async def lock_import(tx: AsyncConnection, import_id: str) -> Mapping[str, Any] | None:
    return await _import(tx, import_id, " FOR UPDATE")


async def find_import(tx: AsyncConnection, import_id: str) -> Mapping[str, Any] | None:
    return await _import(tx, import_id)


async def _import(tx: AsyncConnection, import_id: str, locked: str = "") -> Mapping[str, Any] | None:
    row = (
        await tx.execute(
            text(
                "SELECT import_id, sender_id, created_at, fingerprint, lines, created, updated, duplicates, refused,"
                " reasons::text AS reasons, read_as::text AS read_as, received_bytes, pieces, complete, line, finished,"
                " attempts, failed"
                f" FROM contact_import WHERE import_id = :id{locked}"
            ),
            {"id": import_id},
        )
    ).one_or_none()
    if row is None:
        return None
    return {**row._mapping, "reasons": msgspec.json.decode(row.reasons), "read_as": msgspec.json.decode(row.read_as)}


async def put_recorded(
    tx: AsyncConnection, values: Mapping[str, Any], refused: Sequence[RefusedRow], now: datetime
) -> None:
    """Store progress, counts and newly refused lines of a locked import.

    Resets the attempts and makes the import due at once, so that a crash delays nothing.
    """
    await insert_many(tx, "import_refusal", {"import_id": "text", "line": "integer", "reason": "text"}, refused)
    await tx.execute(
        text(
            "UPDATE contact_import SET line = :line, lines = :lines, created = :created, updated = :updated,"
            " duplicates = :duplicates, refused = :refused, reasons = CAST(:reasons AS jsonb), attempts = 0,"
            " due_at = :now WHERE import_id = :import_id"
        ),
        {**values, "reasons": msgspec.json.encode(values["reasons"]).decode(), "now": now},
    )


async def finish_import(tx: AsyncConnection, import_id: str, read_as: Mapping[str, Any]) -> None:
    """Mark an import finished, with every line recorded, and delete the file."""
    await tx.execute(
        text("UPDATE contact_import SET finished = true, read_as = CAST(:read_as AS jsonb) WHERE import_id = :id"),
        {"id": import_id, "read_as": msgspec.json.encode(read_as).decode()},
    )
    await tx.execute(text("DELETE FROM import_piece WHERE import_id = :id"), {"id": import_id})


async def give_up_import(tx: AsyncConnection, import_id: str) -> None:
    """Mark an import failed and delete the file. Recorded lines stay."""
    await tx.execute(
        text("UPDATE contact_import SET finished = true, failed = true WHERE import_id = :id"), {"id": import_id}
    )
    await tx.execute(text("DELETE FROM import_piece WHERE import_id = :id"), {"id": import_id})


async def forget_import(tx: AsyncConnection, import_id: str) -> None:
    """Delete a claimed import of which no line is recorded."""
    for table in ("import_piece", "contact_import"):
        await tx.execute(text(f"DELETE FROM {table} WHERE import_id = :id"), {"id": import_id})


async def refusals_after(tx: AsyncConnection, import_id: str, line: int, limit: int) -> Sequence[Row[Any]]:
    rows = await tx.execute(
        text(
            "SELECT line, reason FROM import_refusal WHERE import_id = :id AND line > :line ORDER BY line LIMIT :limit"
        ),
        {"id": import_id, "line": line, "limit": limit},
    )
    return rows.all()


# --- campaigns -------------------------------------------------------------------------------------------------------

_CAMPAIGN = (
    "SELECT c.campaign_id, c.position, c.sender_id, c.name, c.purpose, c.text, c.language,"
    " c.translations::text AS translations, c.folding, c.sectors, c.selection::text AS selection, c.rest_days,"
    " c.send_before, c.timing::text AS timing, c.recurring::text AS recurring, c.series_id, c.missed,"
    " c.trial::text AS trial, c.winner, c.choice::text AS choice,"
    " c.priority, c.created_by, c.edited_by, c.agreed, c.agreed_start, c.approval_needed, c.acknowledged,"
    " c.created_at, c.fingerprint, c.status, c.at, c.starts_at, c.started_at, c.ended_at, c.cursor, c.next_slot,"
    " c.sent_back, c.failures, c.retry_at,"
    " CAST(c.xmin AS text) AS written,"  # transaction that wrote the row
    f" c.expanded, u.link_host, a.audience, {', '.join(f'a.{name}' for name in COUNTS)}"
    " FROM campaign AS c JOIN campaign_accounts AS a ON a.campaign_id = c.campaign_id"
    " LEFT JOIN sender_rule AS u ON u.sender_id = c.sender_id"
)


def wording_of(row: Row[Any], variant: str | None = None) -> Wording:
    """Return the campaign's wording, or a variant's.

    `row` needs `text`, `language`, `translations`, `folding` and the sender's `link_host`; a variant needs `trial` too.
    """
    source, translations = row.text, msgspec.json.decode(row.translations)
    if variant is not None and variant != OWN and (trial := trial_of(row)) is not None:
        other = next(each for each in trial.variants if each.name == variant)
        source, translations = other.text, other.translations
    return wording(source, row.language, translations, row.folding, row.link_host)


def wordings_of(row: Row[Any]) -> dict[str, Wording]:
    """Return every wording of the campaign, by variant; the campaign's own text comes first."""
    trial = trial_of(row)
    names = [OWN, *trial.names] if trial else [OWN]
    return {name: wording_of(row, name) for name in names}


def trial_of(row: Row[Any]) -> Trial | None:
    return None if row.trial is None else Trial.model_validate_json(row.trial)


def choice_of(row: Row[Any]) -> Choice | None:
    return None if row.choice is None else Choice.model_validate_json(row.choice)


def timing_of(row: Row[Any]) -> Timing:
    return Timing.model_validate_json(row.timing)


def recurring_of(row: Row[Any]) -> Recurring | None:
    return None if row.recurring is None else Recurring.model_validate_json(row.recurring)


async def insert_campaign(tx: AsyncConnection, values: Mapping[str, Any]) -> bool:
    """Insert a draft with tallies; return False where the campaign exists."""
    done = await tx.execute(
        text(
            "WITH added AS (INSERT INTO campaign (campaign_id, sender_id, name, purpose, text, language, translations,"
            " folding, sectors, selection, rest_days, send_before, timing, recurring, trial, priority, created_by,"
            " created_at, fingerprint, status) VALUES"
            " (:campaign_id, :sender_id, :name, :purpose, :text, :language, CAST(:translations AS jsonb), :folding,"
            " CAST(:sectors AS text[]),"
            " CAST(:selection AS jsonb), :rest_days, :send_before, CAST(:timing AS jsonb), CAST(:recurring AS jsonb),"
            " CAST(:trial AS jsonb), :priority, :created_by,"
            " :created_at, :fingerprint, 'draft')"
            " ON CONFLICT DO NOTHING RETURNING campaign_id)"
            " INSERT INTO campaign_accounts (campaign_id) SELECT campaign_id FROM added RETURNING 1"
        ),
        values,
    )
    return done.one_or_none() is not None


async def insert_occurrence(
    tx: AsyncConnection, series_id: str, campaign_id: str, send_before: datetime, now: datetime
) -> bool:
    """Insert a draft copied from a recurring campaign; return False where this occurrence exists."""
    added = await tx.execute(
        text(
            "WITH added AS (INSERT INTO campaign (campaign_id, series_id, sender_id, name, purpose, text, language,"
            " translations, folding, sectors, selection, rest_days, send_before, timing, trial, priority, created_by,"
            " edited_by, created_at, fingerprint, status)"
            " SELECT :campaign_id, campaign_id, sender_id, name, purpose, text, language, translations, folding,"
            " sectors, selection, rest_days, :send_before, timing, trial, priority, created_by, edited_by, :now,"
            " fingerprint, 'draft' FROM campaign WHERE campaign_id = :series_id"
            " ON CONFLICT DO NOTHING RETURNING campaign_id)"
            " INSERT INTO campaign_accounts (campaign_id) SELECT campaign_id FROM added RETURNING 1"
        ),
        {"campaign_id": campaign_id, "series_id": series_id, "send_before": send_before, "now": now},
    )
    return added.one_or_none() is not None


async def set_next(tx: AsyncConnection, campaign_id: str, at: datetime, starts_at: datetime, missed: int) -> None:
    """Set the next occurrence of a recurring campaign, and add to its missed occurrences."""
    await tx.execute(
        text(
            "UPDATE campaign SET at = :at, starts_at = :starts_at, missed = missed + :missed, failures = 0,"
            " retry_at = NULL WHERE campaign_id = :id"
        ),
        {"id": campaign_id, "at": at, "starts_at": starts_at, "missed": missed},
    )


async def find_campaign(tx: AsyncConnection, campaign_id: str, *, lock: bool = False) -> Row[Any] | None:
    rows = await tx.execute(
        text(f"{_CAMPAIGN} WHERE c.campaign_id = :id {'FOR UPDATE OF c' if lock else ''}"),
        {"id": campaign_id},
    )
    return rows.one_or_none()


async def lock_running(tx: AsyncConnection, campaign_ids: Sequence[str]) -> Sequence[Row[Any]]:
    """Lock and return the running ones among these campaigns, skipping rows locked by other transactions."""
    if not campaign_ids:
        return []
    rows = await tx.execute(
        text(
            f"{_CAMPAIGN} WHERE c.campaign_id = ANY(CAST(:ids AS text[])) AND c.status = 'running'"
            " ORDER BY c.campaign_id FOR UPDATE OF c SKIP LOCKED"
        ),
        {"ids": list(campaign_ids)},
    )
    return rows.all()


async def lock_occurrences(
    tx: AsyncConnection, series_id: str, *, paused_because: str | None = None
) -> Sequence[Row[Any]]:
    """Lock the occurrences of a recurring campaign.

    Without `paused_because`: scheduled and running occurrences. Otherwise: occurrences paused for this reason.
    """
    rows = await tx.execute(
        text(
            f"{_CAMPAIGN} WHERE c.series_id = :id AND (CASE WHEN CAST(:why AS text) IS NULL"
            " THEN c.status IN ('scheduled', 'running') ELSE c.status = 'paused' AND EXISTS (SELECT FROM"
            " campaign_reason AS p WHERE p.campaign_id = c.campaign_id AND p.kind = 'paused' AND p.reason = :why) END)"
            " ORDER BY c.position FOR UPDATE OF c"
        ),
        {"id": series_id, "why": paused_because},
    )
    return rows.all()


async def leave_occurrences(tx: AsyncConnection, series_id: str, paused_because: str) -> None:
    """Detach occurrences paused for this reason from their recurring campaign.

    An edited recurring campaign has new content, so resuming the campaign must not resume older occurrences.
    """
    await tx.execute(
        text(
            "DELETE FROM campaign_reason AS p USING campaign AS c WHERE c.series_id = :id"
            " AND p.campaign_id = c.campaign_id AND p.kind = 'paused' AND p.reason = :why"
        ),
        {"id": series_id, "why": paused_because},
    )


async def campaigns_before(
    tx: AsyncConnection, position: int | None, sender_ids: Sequence[str] | None, series_id: str | None, limit: int
) -> Sequence[Row[Any]]:
    """Return a page of campaigns, newest first.

    `sender_ids` `None`: of every sender. `series_id`: only occurrences of this recurring campaign.
    """
    rows = await tx.execute(
        text(
            f"{_CAMPAIGN} WHERE (CAST(:position AS bigint) IS NULL OR c.position < :position)"
            " AND (CAST(:senders AS text[]) IS NULL OR c.sender_id = ANY(CAST(:senders AS text[])))"
            " AND (CAST(:series_id AS text) IS NULL OR c.series_id = :series_id)"
            " ORDER BY c.position DESC LIMIT :limit"
        ),
        {
            "position": position,
            "senders": None if sender_ids is None else list(sender_ids),
            "series_id": series_id,
            "limit": limit,
        },
    )
    return rows.all()


async def reasons_of(tx: AsyncConnection, campaign_ids: Sequence[str]) -> dict[tuple[str, str], dict[str, int]]:
    """Return the number of recipients for each reason, by (campaign_id, kind)."""
    rows = await tx.execute(
        text(
            "SELECT campaign_id, kind, reason, recipients FROM campaign_reason"
            " WHERE campaign_id = ANY(CAST(:ids AS text[])) AND recipients > 0 ORDER BY recipients DESC, reason"
        ),
        {"ids": list(campaign_ids)},
    )
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in rows:
        found.setdefault((row.campaign_id, row.kind), {})[row.reason] = row.recipients
    return found


# Whether a delayed campaign may be tried. A `retry_at` beyond the longest pause means a clock set back since.
_MAY_BE_TRIED = (
    "(retry_at IS NULL OR retry_at <= :now OR"
    f" retry_at > CAST(:now AS timestamptz) + interval '{LONGEST_PAUSE.total_seconds():.0f} seconds')"
)
# Whether a running campaign may be expanded. A `look_at` beyond LOOK_AHEAD means a clock set back, likewise.
_AWAKE = f"(look_at IS NULL OR look_at <= :now OR look_at > :beyond) AND {_MAY_BE_TRIED}"
# The turns of the other campaigns: the least among awake campaigns, or the most where all sleep.
_TURN_OF_OTHERS = (
    f"(SELECT coalesce(min(o.turn) FILTER (WHERE {_AWAKE}), max(o.turn), 0)"
    " FROM campaign AS o WHERE status = 'running' AND NOT expanded AND o.campaign_id <> :id)"
)


async def set_status(tx: AsyncConnection, campaign_id: str, status: Status, *, controlled: bool, now: datetime) -> int:
    """Set the status of a campaign locked by the caller; return the control version.

    `controlled`: the caller publishes the change to the gate under this version.
    """
    version = await tx.scalar(
        text(
            "UPDATE campaign SET status = :status, control_version = CASE WHEN CAST(:told AS boolean)"
            " THEN greatest(control_version + 1, CAST(:at_least AS integer)) ELSE control_version END,"
            " started_at = CASE WHEN :status = 'running' THEN coalesce(started_at, :now) ELSE started_at END,"
            # a campaign joining or coming back has no missed turns to make up
            f" turn = CASE WHEN :status = 'running' THEN greatest(turn, {_TURN_OF_OTHERS}) ELSE turn END,"
            " failures = 0, retry_at = NULL,"
            " ended_at = CASE WHEN :status IN ('finished', 'cancelled') THEN CAST(:now AS timestamptz) END"
            " WHERE campaign_id = :id RETURNING control_version"
        ),
        {
            "id": campaign_id,
            "status": status.value,
            "told": controlled,
            "at_least": at_least(now),
            "now": now,
            "beyond": now + LOOK_AHEAD,
        },
    )
    assert version is not None
    return int(version)


async def set_start(
    tx: AsyncConnection,
    campaign_id: str,
    at: datetime,
    starts_at: datetime,
    agreed: str,
    acknowledged: Sequence[str],
    *,
    agreed_start: datetime | None,
    approval_needed: bool,
) -> None:
    await tx.execute(
        text(
            "UPDATE campaign SET at = :at, starts_at = :starts_at, agreed = :agreed,"
            " agreed_start = :agreed_start, approval_needed = :approval_needed,"
            " acknowledged = CAST(:acknowledged AS text[]), sent_back = NULL, failures = 0, retry_at = NULL"
            " WHERE campaign_id = :id"
        ),
        {
            "id": campaign_id,
            "at": at,
            "starts_at": starts_at,
            "agreed": agreed,
            "agreed_start": agreed_start,
            "approval_needed": approval_needed,
            "acknowledged": list(acknowledged),
        },
    )
    await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": DUE})


async def edit_campaign(tx: AsyncConnection, values: Mapping[str, Any]) -> None:
    """Replace the content of a campaign locked by the caller, and clear the start."""
    await tx.execute(
        text(
            "UPDATE campaign SET name = :name, purpose = :purpose, text = :text, language = :language,"
            " translations = CAST(:translations AS jsonb), folding = :folding, sectors = CAST(:sectors AS text[]),"
            " selection = CAST(:selection AS jsonb), rest_days = :rest_days, send_before = :send_before,"
            " timing = CAST(:timing AS jsonb), recurring = CAST(:recurring AS jsonb), trial = CAST(:trial AS jsonb),"
            " priority = :priority,"
            " at = NULL, starts_at = NULL, agreed = NULL,"
            " acknowledged = '{}', sent_back = NULL, edited_by ="
            " array_append(array_remove(edited_by, CAST(:by AS text)), CAST(:by AS text))"
            " WHERE campaign_id = :campaign_id"
        ),
        values,
    )


async def take_off_schedule(tx: AsyncConnection, campaign_id: str, why: str) -> None:
    await tx.execute(
        text(
            "UPDATE campaign SET at = NULL, starts_at = NULL, agreed = NULL, acknowledged = '{}', sent_back = :why"
            " WHERE campaign_id = :id"
        ),
        {"id": campaign_id, "why": why},
    )


async def add_approval(tx: AsyncConnection, campaign_id: str, digest: str, approved_by: str, now: datetime) -> None:
    await tx.execute(
        text(
            "INSERT INTO campaign_approval (campaign_id, digest, approved_by, approved_at)"
            " VALUES (:id, :digest, :by, :now) ON CONFLICT DO NOTHING"
        ),
        {"id": campaign_id, "digest": digest, "by": approved_by, "now": now},
    )


async def approvals_of(tx: AsyncConnection, campaign_id: str) -> Sequence[Row[Any]]:
    """Return a campaign's approvals, oldest first, including approvals given before an edit."""
    rows = await tx.execute(
        text(
            "SELECT digest, approved_by, approved_at FROM campaign_approval WHERE campaign_id = :id"
            " ORDER BY approved_at, approved_by"
        ),
        {"id": campaign_id},
    )
    return rows.all()


async def put_pre_flight(
    tx: AsyncConnection, campaign_id: str, digest: str, at: datetime | None, findings: Sequence[str], now: datetime
) -> None:
    await tx.execute(
        text(
            "INSERT INTO campaign_pre_flight (campaign_id, digest, at, findings, made_at)"
            " VALUES (:id, :digest, :at, CAST(:findings AS text[]), :now) ON CONFLICT (campaign_id) DO UPDATE"
            " SET digest = excluded.digest, at = excluded.at, findings = excluded.findings, made_at = excluded.made_at"
        ),
        {"id": campaign_id, "digest": digest, "at": at, "findings": list(findings), "now": now},
    )


async def last_pre_flight(tx: AsyncConnection, campaign_id: str, digest: str) -> Row[Any] | None:
    """Return start (`at`) and `findings` of the last pre-flight, if made for this digest."""
    found = await tx.execute(
        text("SELECT at, findings FROM campaign_pre_flight WHERE campaign_id = :id AND digest = :digest"),
        {"id": campaign_id, "digest": digest},
    )
    return found.one_or_none()


async def selected_after(
    tx: AsyncConnection,
    row: Row[Any],
    selected: Condition,
    limits: Sequence[tuple[Limit, Sequence[str]]],
    subject_id: str,
    limit: int,
) -> Sequence[Row[Any]]:
    """Return a page of the contacts the campaign would be for, by subject id.

    Each row has the consents, and the frequency limit excluding the contact, if any. `selected`: from
    `segments.of_campaign`.

    The statement keeps the cost in proportion to the page. LIMIT is a literal: Postgres plans a parameter as a tenth of
    the table. The joined table starts at the page too: otherwise Postgres may read the table from its beginning.
    """
    rows = await tx.execute(
        text(
            "SELECT c.subject_id, c.number, c.attributes::text AS attributes, k.told::text AS told,"
            f" {_LEFT_OUT if limits else 'CAST(NULL AS text)'} AS left_out"
            f" FROM {segment.FROM} AND k.subject_id > :after WHERE c.sender_id = :sender_id AND {selected.sql}"
            f" AND c.subject_id > :after ORDER BY c.subject_id LIMIT {limit:d}"
        ),
        {
            "sender_id": row.sender_id,
            "after": subject_id,
            **selected.values,
            **(_limited(limits) if limits else {}),
        },
    )
    return rows.all()


async def contacts_and_standings(
    tx: AsyncConnection, sender_id: str, subject_ids: Sequence[str]
) -> dict[str, tuple[str | None, str | None]]:
    """Return attributes and consents of each subject as JSON, `None` where absent, by subject id."""
    rows = await tx.execute(
        text(
            "SELECT s.id, c.attributes::text AS attributes, k.told::text AS told"
            " FROM unnest(CAST(:ids AS text[])) AS s(id)"
            " LEFT JOIN contact AS c ON c.sender_id = :sender_id AND c.subject_id = s.id"
            " LEFT JOIN standing AS k ON k.subject_id = s.id"
        ),
        {"ids": list(subject_ids), "sender_id": sender_id},
    )
    return {row.id: (row.attributes, row.told) for row in rows}


async def add_tests(tx: AsyncConnection, campaign_id: str, tests: Sequence[Mapping[str, Any]]) -> set[str]:
    """Insert test sends; return the message ids not seen before."""
    rows = await tx.execute(
        text(
            "INSERT INTO test_send (campaign_id, message_id, subject_id, variant, asked_by, asked_at, fingerprint)"
            " SELECT :campaign_id, t.message_id, t.subject_id, t.variant, :asked_by, :asked_at, t.fingerprint"
            " FROM unnest(CAST(:ids AS text[]), CAST(:subjects AS text[]), CAST(:variants AS text[]),"
            " CAST(:fingerprints AS text[])) AS t(message_id, subject_id, variant, fingerprint)"
            " ON CONFLICT DO NOTHING RETURNING message_id"
        ),
        {
            "campaign_id": campaign_id,
            "ids": [test["message_id"] for test in tests],
            "subjects": [test["subject_id"] for test in tests],
            "variants": [test["variant"] for test in tests],
            "fingerprints": [test["fingerprint"] for test in tests],
            "asked_by": tests[0]["asked_by"],
            "asked_at": tests[0]["asked_at"],
        },
    )
    return set(rows.scalars())


async def test_fingerprints(tx: AsyncConnection, campaign_id: str, message_ids: Sequence[str]) -> dict[str, str]:
    """Return the fingerprints of earlier test sends among these, by message id."""
    rows = await tx.execute(
        text(
            "SELECT message_id, fingerprint FROM test_send WHERE campaign_id = :id AND fingerprint IS NOT NULL"
            " AND message_id = ANY(CAST(:ids AS text[]))"
        ),
        {"id": campaign_id, "ids": list(message_ids)},
    )
    return {row.message_id: row.fingerprint for row in rows}


async def tests_since(tx: AsyncConnection, campaign_id: str, since: datetime) -> int:
    return int(
        await tx.scalar(
            text("SELECT count(*) FROM test_send WHERE campaign_id = :id AND asked_at > :since"),
            {"id": campaign_id, "since": since},
        )
        or 0
    )


async def tests_of(tx: AsyncConnection, campaign_id: str) -> Sequence[Row[Any]]:
    """Return a campaign's test sends, newest first."""
    rows = await tx.execute(
        text(
            "SELECT message_id, subject_id, variant, asked_by, asked_at FROM test_send WHERE campaign_id = :id"
            " ORDER BY asked_at DESC, message_id"
        ),
        {"id": campaign_id},
    )
    return rows.all()


async def tests_with(tx: AsyncConnection, subject_id: str) -> Sequence[Row[Any]]:
    """Return one person's test sends, oldest first.

    The query scans `test_send`, a small table because few campaigns are tested.
    """
    rows = await tx.execute(
        text(
            "SELECT t.campaign_id, c.sender_id, c.name, t.message_id, t.asked_at FROM test_send AS t"
            " JOIN campaign AS c ON c.campaign_id = t.campaign_id WHERE t.subject_id = :id ORDER BY t.asked_at"
        ),
        {"id": subject_id},
    )
    return rows.all()


# --- the planner's ---------------------------------------------------------------------------------------------------


# Campaigns that may have recipients never to be requested: cancelled, or paused past their end.
_GIVEN_UP = (
    "(status = 'cancelled' AND NOT expanded OR status = 'paused' AND started_at IS NOT NULL AND NOT expanded"
    f" AND coalesce(send_before, starts_at + interval '{KEPT.total_seconds():.0f} seconds') <= :now)"
)


# The campaigns of `_GIVEN_UP` for which the sender's next campaign waits, except campaigns failing repeatedly. Their
# recipients count as messaged until denied, so the next campaign reaches fewer people and never more.
_SETTLING = f"{_GIVEN_UP} AND failures <= {PASSING_FAILURES}"


async def lock_due(tx: AsyncConnection, now: datetime) -> Row[Any] | None:
    """Return one due campaign that no other planner has, with its tallies locked.

    The campaign's own row stays unlocked, so that a cancellation, edit or pause never waits for the audience to be
    frozen (`lock_unchanged`). While recipients of the sender's cancelled campaign, or campaign paused past its end, are
    still to be denied, the sender's next campaign waits some seconds: such recipients would count as messaged. A
    failing campaign delays no other (`_SETTLING`).
    """
    rows = await tx.execute(
        text(
            f"{_CAMPAIGN} WHERE c.status = 'scheduled' AND c.starts_at <= :now"
            f" AND NOT EXISTS (SELECT FROM campaign AS o WHERE o.sender_id = c.sender_id AND {_SETTLING})"
            f" AND {_MAY_BE_TRIED} ORDER BY c.starts_at LIMIT 1 FOR UPDATE OF a SKIP LOCKED"
        ),
        {"now": now},
    )
    return rows.one_or_none()


async def being_settled(tx: AsyncConnection, sender_ids: Sequence[str], now: datetime) -> dict[str, str]:
    """Return, by sender, a campaign the sender's next campaign waits for (`lock_due`)."""
    if not sender_ids:
        return {}
    rows = await tx.execute(
        text(
            "SELECT sender_id, min(campaign_id) AS campaign_id FROM campaign"
            f" WHERE sender_id = ANY(CAST(:ids AS text[])) AND {_SETTLING} GROUP BY sender_id"
        ),
        {"ids": list(sender_ids), "now": now},
    )
    return {row.sender_id: row.campaign_id for row in rows}


async def put_off(tx: AsyncConnection, campaign_id: str, status: Status, *, failures: int, retry_at: datetime) -> None:
    """Delay a campaign until `retry_at`, after `failures` consecutive failures of a step.

    A campaign no longer in `status` is left alone: the failed step is not the next step any more.
    """
    await tx.execute(
        text(
            "UPDATE campaign SET failures = :failures, retry_at = :retry_at"
            " WHERE campaign_id = :id AND status = :status"
        ),
        {"id": campaign_id, "status": status.value, "failures": failures, "retry_at": retry_at},
    )


async def count_failing(tx: AsyncConnection) -> int:
    """Count the campaigns whose next step has failed more often than a passing fault explains."""
    return int(await tx.scalar(text(f"SELECT count(*) FROM campaign WHERE failures > {PASSING_FAILURES}")) or 0)


async def lock_unchanged(tx: AsyncConnection, row: Row[Any]) -> bool:
    """Lock the campaign; return False, without a lock, if the row changed since being read."""
    found = await tx.execute(
        text("SELECT 1 FROM campaign WHERE campaign_id = :id AND CAST(xmin AS text) = :written FOR UPDATE"),
        {"id": row.campaign_id, "written": row.written},
    )
    return found.one_or_none() is not None


async def alone_with_audiences(tx: AsyncConnection, sender_id: str) -> None:
    """Lock the audiences of a sender until this transaction ends.

    Two campaigns frozen at once would not see each other's recipients when applying the frequency limits.
    """
    await tx.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:id, :key))"), {"id": sender_id, "key": AUDIENCES}
    )


async def limits_of(tx: AsyncConnection, row: Row[Any], now: datetime) -> list[tuple[Limit, list[str]]]:
    """Return the frequency limits of a campaign, each with the sender's campaigns counting for the limit."""
    limits = frequency.limits(await cap_of(tx, row.sender_id), row.rest_days)
    if not limits:
        return []
    rows = await tx.execute(
        text(
            "SELECT campaign_id, ended_at FROM campaign WHERE sender_id = :sender_id AND campaign_id <> :id"
            " AND started_at IS NOT NULL AND (ended_at IS NULL OR ended_at > :since)"
        ),
        {
            "sender_id": row.sender_id,
            "id": row.campaign_id,
            "since": now - timedelta(days=max(limit.days for limit in limits)),
        },
    )
    others = [frequency.Campaign(each.campaign_id, each.ended_at) for each in rows]
    return [(limit, frequency.counting(others, limit, now)) for limit in limits]


# Why a contact `c` is left out: the first frequency limit reached, in the order of the limits.
_LEFT_OUT = (
    "(SELECT l.reason FROM unnest(CAST(:limit_reasons AS text[]), CAST(:limit_messages AS integer[]),"
    " CAST(:limit_campaigns AS text[])) WITH ORDINALITY AS l(reason, messages, campaigns, place)"
    " WHERE (SELECT count(*) FROM recipient AS r WHERE r.campaign_id = ANY(string_to_array(l.campaigns, ' '))"
    " AND r.subject_id = c.subject_id AND r.status = ANY(CAST(:counted AS text[]))) >= l.messages"
    " ORDER BY l.place LIMIT 1)"
)


def _limited(limits: Sequence[tuple[Limit, Sequence[str]]]) -> dict[str, Any]:
    return {
        "limit_reasons": [limit.reason for limit, _ in limits],
        "limit_messages": [limit.messages for limit, _ in limits],
        "limit_campaigns": [" ".join(ids) for _, ids in limits],  # ids contain no blanks
        "counted": list(frequency.COUNTED),
    }


async def freeze_audience(
    tx: AsyncConnection, row: Row[Any], selected: Condition, required: Sequence[str], now: datetime
) -> int:
    """Insert the recipients of a campaign, selected once and in one statement; return how many.

    A contact lacking a `required` attribute, or beyond a frequency limit, is left out and counted under the reason.
    `selected`: from `segments.of_campaign`. The caller holds `alone_with_audiences`.
    """
    limits = await limits_of(tx, row, now)
    found = await tx.execute(
        text(
            "WITH chosen AS MATERIALIZED (SELECT c.subject_id, (SELECT f.name FROM"
            " unnest(CAST(:required AS text[])) WITH ORDINALITY AS f(name, place)"
            " WHERE coalesce(trim(c.attributes ->> f.name), '') = '' ORDER BY f.place LIMIT 1) AS missing,"
            f" {_LEFT_OUT if limits else 'CAST(NULL AS text)'} AS left_out"
            f" FROM {segment.FROM} WHERE c.sender_id = :sender_id AND {selected.sql}),"
            " frozen AS (INSERT INTO recipient (campaign_id, subject_id, status, reasons, version)"
            " SELECT :campaign_id, subject_id, 'pending', '{}', 0 FROM chosen"
            " WHERE missing IS NULL AND left_out IS NULL)"
            " SELECT coalesce('missing:' || missing, left_out) AS why, count(*) AS contacts FROM chosen GROUP BY why"
        ),
        {
            "campaign_id": row.campaign_id,
            "sender_id": row.sender_id,
            "required": list(required),
            **selected.values,
            **(_limited(limits) if limits else {}),
        },
    )
    counts = {each.why: each.contacts for each in found}
    audience = int(counts.pop(None, 0))
    await tx.execute(
        text("UPDATE campaign_accounts SET audience = :audience, pending = :audience WHERE campaign_id = :id"),
        {"id": row.campaign_id, "audience": audience},
    )
    await add_reasons(tx, "excluded", {row.campaign_id: Counter(counts)})
    if audience >= MANY:
        await tx.execute(text("ANALYZE (SKIP_LOCKED) recipient"))  # else batches scan everything until autovacuum
    return audience


async def lock_expanding(tx: AsyncConnection, now: datetime) -> Row[Any] | None:
    """Lock the unlocked running campaign to expand next: the fewest turns used, weighted by priority."""
    rows = await tx.execute(
        text(
            f"{_CAMPAIGN} WHERE c.status = 'running' AND NOT c.expanded AND {_AWAKE}"
            " ORDER BY c.turn, c.position LIMIT 1 FOR UPDATE OF c SKIP LOCKED"
        ),
        {"now": now, "beyond": now + LOOK_AHEAD},
    )
    return rows.one_or_none()


class Recipient(msgspec.Struct, frozen=True, gc=False):
    """A recipient and contact. `number` (encrypted) and `attributes` (JSON) are `None` without a contact."""

    subject_id: str
    number: str | None
    attributes: str | None


def _with_contacts(page: str, order: str) -> str:
    """Return the statement joining a page of recipients with their contacts. $1: the sender.

    The array makes Postgres look up all contacts by key in one index scan, whatever the table's statistics: Postgres
    expects ten elements of an array built at run time.
    """
    return (
        f"WITH page AS MATERIALIZED ({page}), held AS MATERIALIZED"
        " (SELECT subject_id, number, attributes::text AS attributes FROM contact"
        " WHERE sender_id = $1 AND subject_id = ANY(ARRAY(SELECT subject_id FROM page)))"
        " SELECT r.subject_id, c.number, c.attributes FROM page AS r"
        f" LEFT JOIN held AS c ON c.subject_id = r.subject_id ORDER BY {order}"
    )


async def next_recipients(tx: AsyncConnection, row: Row[Any], after: str, limit: int) -> list[Recipient]:
    """Return the recipients after `after`, by subject id."""
    page = (
        "SELECT subject_id FROM recipient WHERE campaign_id = $2 AND subject_id > $3"
        f" ORDER BY subject_id LIMIT {limit:d}"
    )
    rows = await fetch_many(tx, _with_contacts(page, "r.subject_id"), row.sender_id, row.campaign_id, after)
    return [Recipient(*each) for each in rows]


async def waiting_recipients(tx: AsyncConnection, row: Row[Any], now: datetime, limit: int) -> list[Recipient]:
    """Return waiting recipients before the cursor, due by `now`.

    Recipients waiting for the A/B test's winner are due once the winner is known.
    """
    page = (
        "SELECT subject_id, waits_until FROM recipient WHERE campaign_id = $2 AND waits_until BETWEEN $3 AND $4"
        " ORDER BY waits_until, subject_id LIMIT $5"
    )
    ordered = _with_contacts(page, "r.waits_until, r.subject_id")
    since = FOR_WINNER if row.winner is not None else FOR_WINNER + timedelta.resolution
    rows = await fetch_many(tx, ordered, row.sender_id, row.campaign_id, since, now, limit)
    return [Recipient(*each) for each in rows]


async def set_waiting(tx: AsyncConnection, campaign_id: str, until: Mapping[str, datetime | None]) -> None:
    """Store until when each recipient waits; `None` ends the wait. The caller has locked the campaign."""
    if not until:
        return
    await tx.execute(
        text(
            "UPDATE recipient AS r SET waits_until = w.until"
            " FROM unnest(CAST(:ids AS text[]), CAST(:until AS timestamptz[])) AS w(subject_id, until)"
            " WHERE r.campaign_id = :campaign_id AND r.subject_id = w.subject_id"
        ),
        {"campaign_id": campaign_id, "ids": list(until), "until": list(until.values())},
    )


async def set_variants(tx: AsyncConnection, campaign_id: str, variants: Mapping[str, str]) -> None:
    """Store the text each recipient was requested with, by subject id. The caller has locked the campaign."""
    if not variants:
        return
    await tx.execute(
        text(
            "UPDATE recipient AS r SET variant = v.variant"
            " FROM unnest(CAST(:ids AS text[]), CAST(:variants AS text[])) AS v(subject_id, variant)"
            " WHERE r.campaign_id = :campaign_id AND r.subject_id = v.subject_id"
        ),
        {"campaign_id": campaign_id, "ids": list(variants), "variants": list(variants.values())},
    )


async def first_groups(tx: AsyncConnection, row: Row[Any]) -> FirstGroups:
    """Return the progress of the recipients not waiting for the winner.

    The scan runs only once all are requested and no message is deferred.
    """
    found = await tx.execute(
        text(
            "SELECT s.asked AND g.going_on = 0 AS over, g.last_at"
            " FROM (SELECT NOT EXISTS (SELECT FROM recipient WHERE campaign_id = :id AND subject_id > :cursor)"
            " AND NOT EXISTS (SELECT FROM recipient WHERE campaign_id = :id AND waits_until > :for_winner)"
            " AND (SELECT deferred = 0 FROM campaign_accounts WHERE campaign_id = :id) AS asked) AS s"
            " CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE status IN ('pending', 'sending', 'deferred'))"
            " AS going_on, max(handed_off_at) AS last_at FROM recipient"
            " WHERE s.asked AND campaign_id = :id AND variant IS NOT NULL) AS g"
        ),
        {"id": row.campaign_id, "cursor": row.cursor, "for_winner": FOR_WINNER},
    )
    return FirstGroups(*found.one())


async def set_choice(tx: AsyncConnection, campaign_id: str, choice: Choice, winner: str | None) -> None:
    await tx.execute(
        text("UPDATE campaign SET choice = CAST(:choice AS jsonb), winner = :winner WHERE campaign_id = :id"),
        {"id": campaign_id, "choice": choice.model_dump_json(), "winner": winner},
    )


async def first_hours(tx: AsyncConnection, campaign_ids: Sequence[str]) -> dict[str, datetime]:
    """Return when the first recipient waiting for a local hour is due, by campaign with such a recipient."""
    if not campaign_ids:
        return {}
    rows = await tx.execute(
        text(
            "SELECT c.id, r.due FROM unnest(CAST(:ids AS text[])) AS c(id) CROSS JOIN LATERAL"
            " (SELECT min(waits_until) AS due FROM recipient WHERE campaign_id = c.id AND waits_until > :for_winner)"
            " AS r WHERE r.due IS NOT NULL"
        ),
        {"ids": list(campaign_ids), "for_winner": FOR_WINNER},
    )
    return {row.id: row.due for row in rows}


async def next_wait(tx: AsyncConnection, campaign_id: str, chosen_at: datetime | None) -> datetime | None:
    """Return when the first waiting recipient is due, or `None` without a waiting recipient.

    `chosen_at`: when recipients waiting for the winner are due.
    """
    found: datetime | None = await tx.scalar(
        text(
            "SELECT least((SELECT CAST(:chosen_at AS timestamptz) FROM recipient"
            " WHERE campaign_id = :id AND waits_until = :for_winner LIMIT 1),"
            " (SELECT min(waits_until) FROM recipient WHERE campaign_id = :id AND waits_until > :for_winner))"
        ),
        {"id": campaign_id, "chosen_at": chosen_at, "for_winner": FOR_WINNER},
    )
    return found


async def keep_place(
    tx: AsyncConnection,
    campaign_id: str,
    cursor: str,
    *,
    expanded: bool,
    look_at: datetime | None,
    next_slot: datetime | None,
    turn: int,
    now: datetime,
) -> None:
    """Store how far the planner has requested a campaign, when to return, and the turns used.

    A campaign that was asleep first moves up to the turns of the others, so as not to claim turns missed while asleep.
    """
    await tx.execute(
        text(
            "UPDATE campaign SET cursor = :cursor, expanded = :expanded, look_at = :look_at, next_slot = :next_slot,"
            " turn = :turn + CASE WHEN coalesce(look_at, retry_at) IS NULL THEN turn"
            f" ELSE greatest(turn, {_TURN_OF_OTHERS}) END, failures = 0, retry_at = NULL WHERE campaign_id = :id"
        ),
        {
            "id": campaign_id,
            "cursor": cursor,
            "expanded": expanded,
            "look_at": look_at,
            "next_slot": next_slot,
            "turn": turn,
            "now": now,
            "beyond": now + LOOK_AHEAD,
        },
    )


async def deny(tx: AsyncConnection, campaign_id: str, denied: Mapping[str, str]) -> None:
    """Deny recipients before any request, with a reason by subject id. The caller has locked the campaign."""
    if not denied:
        return
    await tx.execute(
        text(
            "UPDATE recipient AS r SET status = 'denied', reasons = ARRAY[d.reason]"
            " FROM unnest(CAST(:ids AS text[]), CAST(:reasons AS text[])) AS d(subject_id, reason)"
            " WHERE r.campaign_id = :campaign_id AND r.subject_id = d.subject_id"
        ),
        {"campaign_id": campaign_id, "ids": list(denied), "reasons": list(denied.values())},
    )
    await add_counts(tx, {campaign_id: Counter(pending=-len(denied), denied=len(denied))})
    await add_reasons(tx, "denied", {campaign_id: Counter(denied.values())})


async def lock_given_up(tx: AsyncConnection, now: datetime) -> Row[Any] | None:
    """Lock one unlocked campaign with recipients left to deny: cancelled, or paused past its end."""
    rows = await tx.execute(
        text(f"{_CAMPAIGN} WHERE {_GIVEN_UP} AND {_MAY_BE_TRIED} LIMIT 1 FOR UPDATE OF c SKIP LOCKED"), {"now": now}
    )
    return rows.one_or_none()


async def deny_unrequested(tx: AsyncConnection, row: Row[Any], reason: str, limit: int) -> int:
    """Deny up to `limit` recipients never requested; return how many.

    Recipients waiting before the cursor come first, then recipients beyond, which moves the cursor. The caller has
    locked the campaign.
    """

    async def denied(whom: str) -> Sequence[str]:
        rows = await tx.execute(
            text(
                "WITH page AS (SELECT subject_id FROM recipient WHERE campaign_id = :campaign_id"
                f" AND status = 'pending' AND {whom} LIMIT {limit:d})"
                " UPDATE recipient AS r SET status = 'denied', reasons = ARRAY[CAST(:reason AS text)],"
                " waits_until = NULL FROM page"
                " WHERE r.campaign_id = :campaign_id AND r.subject_id = page.subject_id RETURNING r.subject_id"
            ),
            {"campaign_id": row.campaign_id, "cursor": row.cursor, "reason": reason},
        )
        return rows.scalars().all()

    found = await denied("waits_until IS NOT NULL ORDER BY waits_until, subject_id")
    found = found or await denied("subject_id > :cursor ORDER BY subject_id")
    await add_counts(tx, {row.campaign_id: Counter(pending=-len(found), denied=len(found))})
    await add_reasons(tx, "denied", {row.campaign_id: Counter({reason: len(found)})})
    await tx.execute(
        text(
            "UPDATE campaign SET cursor = :cursor, expanded = :expanded, failures = 0, retry_at = NULL"
            " WHERE campaign_id = :id"
        ),
        {"id": row.campaign_id, "cursor": max([row.cursor, *found]), "expanded": not found},
    )
    return len(found)


# --- the accounts ----------------------------------------------------------------------------------------------------


async def lock_older(tx: AsyncConnection, events: Sequence[MessageChanged]) -> dict[tuple[str, str], Reported]:
    """Lock the recipients these events are newer for; return the stored state by (campaign_id, subject_id)."""
    rows = await tx.execute(
        text(
            "SELECT r.campaign_id, r.subject_id, r.status, r.reasons, r.receipt FROM recipient AS r"
            " JOIN unnest(CAST(:campaigns AS text[]), CAST(:subjects AS text[]), CAST(:versions AS integer[]))"
            " AS e(campaign_id, subject_id, version)"
            " ON r.campaign_id = e.campaign_id AND r.subject_id = e.subject_id AND r.version < e.version"
            " ORDER BY r.campaign_id, r.subject_id FOR UPDATE OF r"
        ),
        {
            "campaigns": [e.campaign_id for e in events],
            "subjects": [e.subject_id for e in events],
            "versions": [e.version for e in events],
        },
    )
    return {(r.campaign_id, r.subject_id): Reported(r.status, tuple(r.reasons), r.receipt) for r in rows}


async def update_recipients(tx: AsyncConnection, events: Sequence[MessageChanged]) -> None:
    """Store the reported state of each recipient, at most one event per recipient."""
    await tx.execute(
        text(
            "UPDATE recipient AS r SET status = e.status, reasons = string_to_array(e.reasons, ' '),"
            " receipt = e.receipt, version = e.version, handed_off_at = e.handed_off_at, receipt_at = e.receipt_at"
            " FROM unnest(CAST(:campaigns AS text[]), CAST(:subjects AS text[]), CAST(:versions AS integer[]),"
            " CAST(:statuses AS text[]), CAST(:reasons AS text[]), CAST(:receipts AS text[]),"
            " CAST(:left AS timestamptz[]), CAST(:receipts_at AS timestamptz[]))"
            " AS e(campaign_id, subject_id, version, status, reasons, receipt, handed_off_at, receipt_at)"
            " WHERE r.campaign_id = e.campaign_id AND r.subject_id = e.subject_id"
        ),
        {
            "campaigns": [e.campaign_id for e in events],
            "subjects": [e.subject_id for e in events],
            "versions": [e.version for e in events],
            "statuses": [e.status for e in events],
            "reasons": [" ".join(e.reasons) for e in events],  # slugs contain no blanks
            "receipts": [e.receipt for e in events],
            # A hand-off begins within permit_ttl of its decision: `decided_at` is close enough where a crash lost the
            # instant.
            "left": [(e.handed_off_at or e.decided_at) if e.status in OUTCOMES else None for e in events],
            "receipts_at": [e.receipt_at for e in events],
        },
    )


async def add_counts(tx: AsyncConnection, changes: Mapping[str, Counter[str]]) -> None:
    """Add to the tallies of each campaign. Rows are locked in id order, which prevents deadlocks."""
    ids = sorted(campaign_id for campaign_id, change in changes.items() if any(change.values()))
    if not ids:
        return
    await tx.execute(
        text(
            "SELECT 1 FROM campaign_accounts WHERE campaign_id = ANY(CAST(:ids AS text[]))"
            " ORDER BY campaign_id FOR UPDATE"
        ),
        {"ids": ids},
    )
    added = ", ".join(f"{name} = c.{name} + d.{name}" for name in COUNTS)
    arrays = ", ".join(f"CAST(:{name} AS integer[])" for name in COUNTS)
    await tx.execute(
        text(
            f"UPDATE campaign_accounts AS c SET {added} FROM unnest(CAST(:ids AS text[]), {arrays})"
            f" AS d(campaign_id, {', '.join(COUNTS)}) WHERE c.campaign_id = d.campaign_id"
        ),
        {"ids": ids, **{name: [changes[i][name] for i in ids] for name in COUNTS}},
    )


async def add_reasons(tx: AsyncConnection, kind: str, changes: Mapping[str, Counter[str]]) -> None:
    """Add to the counts by reason. The caller has locked the campaigns, or their tallies."""
    rows = sorted((i, reason, n) for i, counts in changes.items() for reason, n in counts.items() if n)
    if not rows:
        return
    await tx.execute(
        text(
            "INSERT INTO campaign_reason AS r (campaign_id, kind, reason, recipients)"
            " SELECT n.campaign_id, :kind, n.reason, n.recipients"
            " FROM unnest(CAST(:ids AS text[]), CAST(:reasons AS text[]), CAST(:recipients AS integer[]))"
            " AS n(campaign_id, reason, recipients)"
            " ON CONFLICT (campaign_id, kind, reason) DO UPDATE SET recipients = r.recipients + excluded.recipients"
        ),
        {
            "kind": kind,
            "ids": [row[0] for row in rows],
            "reasons": [row[1] for row in rows],
            "recipients": [row[2] for row in rows],
        },
    )


async def forget_reasons(tx: AsyncConnection, campaign_id: str, kind: str) -> None:
    await tx.execute(
        text("DELETE FROM campaign_reason WHERE campaign_id = :id AND kind = :kind"), {"id": campaign_id, "kind": kind}
    )


async def lock_done(tx: AsyncConnection, now: datetime) -> Row[Any] | None:
    """Lock one unlocked campaign with every recipient requested and decided."""
    rows = await tx.execute(
        text(
            f"{_CAMPAIGN} WHERE c.status IN ('running', 'paused') AND c.expanded AND a.pending = 0 AND a.deferred = 0"
            f" AND {_MAY_BE_TRIED} LIMIT 1 FOR UPDATE OF c SKIP LOCKED"
        ),
        {"now": now},
    )
    return rows.one_or_none()


async def recipients_after(
    tx: AsyncConnection, campaign_id: str, subject_id: str, status: str | None, limit: int
) -> Sequence[Row[Any]]:
    rows = await tx.execute(
        text(
            "SELECT subject_id, status, reasons, receipt FROM recipient WHERE campaign_id = :id"
            " AND subject_id > :after AND (CAST(:status AS text) IS NULL OR status = :status)"
            " ORDER BY subject_id LIMIT :limit"
        ),
        {"id": campaign_id, "after": subject_id, "status": status, "limit": limit},
    )
    return rows.all()
