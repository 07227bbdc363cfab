"""Own campaigns. The caller owns the transaction.

A transaction changing a campaign locks the campaign's row first.

Transactions lock in the order campaign, recipients, tallies (by id). The planner starting a campaign locks its own row
of the tallies first: before the start no other transaction needs that row.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from campaign.accounts import COUNTS, Tallies
from campaign.audience.selection import Selection
from campaign.campaigns.campaign import Campaign, Content, Owner, Progress, Texts
from campaign.campaigns.tallies import PLANNER, SUMS, UNDECIDED
from campaign.message.folding import Folding
from campaign.message.variants import Choice, Trial
from campaign.schedule.lifecycle import Priority, Status
from campaign.schedule.recurrence import Recurring
from campaign.schedule.timing import Timing
from campaign.schema import instant, metadata
from common.db.database import NEWEST_FIRST, Direction
from common.version import at_least

log = logging.getLogger(__name__)

UNREADABLE = (ValueError, msgspec.MsgspecError)  # errors of decoding stored content, TextRefused among them
LOOK_AHEAD = timedelta(minutes=1)  # longest sleep of a campaign not yet expanded
LONGEST_PAUSE = timedelta(minutes=10)  # between attempts at a failing campaign
PASSING_FAILURES = 1  # not yet shown as failing: perhaps a lock conflict
DUE = "campaign_due"  # NOTIFY channel


campaign = Table(
    "campaign",
    metadata,
    Column("campaign_id", Text, primary_key=True),
    Column("position", BigInteger, Identity(always=True), nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("text", Text, nullable=False),  # a template
    Column("language", Text, nullable=False, server_default=text("'fr'")),
    Column("translations", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # templates, by language
    Column("folding", Text, nullable=False, server_default=text("'none'")),
    Column("sectors", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    Column("selection", JSONB, nullable=False),
    Column("rest_days", Integer, nullable=True),  # since the sender's last message
    instant("send_before", nullable=True),
    Column("timing", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # timing.Timing, without defaults
    Column("recurring", JSONB, nullable=True),  # recurrence.Recurring
    Column("trial", JSONB, nullable=True),  # variants.Trial
    Column("winner", Text, nullable=True),
    Column("choice", JSONB, nullable=True),  # variants.Choice
    Column("series_id", Text, nullable=True),  # the recurring campaign
    Column("missed", Integer, nullable=False, server_default=text("0")),  # never begun: planner down, or series paused
    Column("priority", Text, nullable=False, server_default=text("'normal'")),
    Column("created_by", Text, nullable=False),
    Column("edited_by", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # most recent editor last
    instant("created_at"),
    Column("fingerprint", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("agreed", Text, nullable=True),  # approval.digest without a start
    instant("agreed_start", nullable=True),  # null: at once
    Column("approval_needed", Boolean, nullable=False, server_default=text("false")),  # when scheduled
    Column("acknowledged", ARRAY(Text), nullable=False, server_default=text("'{}'")),  # findings, when scheduled
    Column("control_version", Integer, nullable=False, server_default=text("0")),
    instant("at", nullable=True),  # the author's start; recipients' own clocks may show an earlier time
    instant("starts_at", nullable=True),
    instant("started_at", nullable=True),
    instant("ended_at", nullable=True),
    instant("archived_at", nullable=True),
    # last recipient requested
    Column("cursor", Text, nullable=False, server_default=text("''")),
    Column("expanded", Boolean, nullable=False, server_default=text("false")),  # no recipient left to request or deny
    Column("sent_back", Text, nullable=True),  # why the campaign became a draft again
    instant("look_at", nullable=True),  # the planner sleeps until then
    instant("next_slot", nullable=True),
    Column("turn", BigInteger, nullable=False, server_default=text("0")),  # used, weighted by priority
    instant("repeat_at", nullable=True),  # requests without a report are repeated then
    Column("repeats", Integer, nullable=False, server_default=text("0")),  # in a row, the last page mostly unanswered
    instant("page_at", nullable=True),  # begin of the newest page of repeats, unless no request is left for a next page
    Column("page_size", Integer, nullable=False, server_default=text("0")),  # repeats since `page_at`
    Column("failures", Integer, nullable=False, server_default=text("0")),  # consecutive, of a step
    instant("retry_at", nullable=True),
    Index("campaign_position_ix", "position", unique=True),
    Index("campaign_sender_ix", "sender_id", "position"),
    Index("campaign_series_ix", "series_id", "position", postgresql_where=text("series_id IS NOT NULL")),
    Index("campaign_scheduled_ix", "starts_at", postgresql_where=text("status = 'scheduled'")),
    Index("campaign_begun_ix", "sender_id", "ended_at", postgresql_where=text("started_at IS NOT NULL")),
    Index("campaign_ended_ix", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
    Index("campaign_failing_ix", "retry_at", postgresql_where=text(f"failures > {PASSING_FAILURES}")),
    Index("campaign_expanding_ix", "turn", postgresql_where=text("status = 'running' AND NOT expanded")),
    Index("campaign_repeat_ix", "repeat_at", postgresql_where=text("repeat_at IS NOT NULL AND status <> 'finished'")),
    Index("campaign_cancelled_ix", "sender_id", postgresql_where=text("status = 'cancelled' AND NOT expanded")),
    Index(
        "campaign_paused_ix",
        "sender_id",
        postgresql_where=text("status = 'paused' AND started_at IS NOT NULL AND NOT expanded"),
    ),
)


_PROGRESS = (
    "SELECT c.campaign_id, c.sender_id, c.status, c.starts_at, c.started_at, c.send_before, c.ended_at, c.cursor,"
    " c.expanded, c.repeats, c.repeat_at, c.page_at, c.page_size, c.failures, CAST(c.xmin AS text) AS written"
    f" FROM campaign AS c JOIN campaign_accounts AS a ON a.campaign_id = c.campaign_id AND a.partition = {PLANNER}"
)
_TALLIES = ("audience", *COUNTS)
_CAMPAIGN = (
    "SELECT c.campaign_id, c.position, c.sender_id, c.name, c.purpose, c.text, c.language,"
    " c.translations::text AS translations, c.folding, c.sectors, c.selection::text AS selection, c.rest_days,"
    " c.send_before, c.timing::text AS timing, c.recurring::text AS recurring, c.series_id, c.missed,"
    " c.trial::text AS trial, c.winner, c.choice::text AS choice,"
    " c.priority, c.created_by, c.edited_by, c.agreed, c.agreed_start, c.approval_needed, c.acknowledged,"
    " c.created_at, c.fingerprint, c.status, c.at, c.starts_at, c.started_at, c.ended_at, c.archived_at, c.cursor,"
    " c.next_slot, c.sent_back, c.repeats, c.repeat_at, c.page_at, c.page_size, c.failures, c.retry_at,"
    " CAST(c.xmin AS text) AS written,"
    f" c.expanded, u.link_host, s.stop_page, {', '.join(f'a.{name}' for name in _TALLIES)}"
    f" FROM campaign AS c CROSS JOIN LATERAL {SUMS} AS a"
    " LEFT JOIN sender_rule AS u ON u.sender_id = c.sender_id"
    " LEFT JOIN sender AS s ON s.sender_id = c.sender_id"
)
_JSON = ("translations", "selection", "timing", "recurring", "trial")
_translations = msgspec.json.Decoder(dict[str, str])
_selection = msgspec.json.Decoder(Selection)


def decoded_texts(columns: Mapping[str, Any]) -> Texts:
    """Decode the columns of Texts; the JSON columns are text."""
    return Texts(
        text=columns["text"],
        language=columns["language"],
        translations=_translations.decode(columns["translations"]),
        folding=Folding(columns["folding"]),
        trial=_trial(columns["trial"]),
    )


def _trial(stored: str | None) -> Trial | None:
    return None if stored is None else Trial.model_validate_json(stored)


def _decoded(columns: Mapping[str, Any]) -> Campaign:
    """Decode a row of _CAMPAIGN."""
    choice, recurring = columns["choice"], columns["recurring"]
    decoded = {
        "translations": _translations.decode(columns["translations"]),
        "folding": Folding(columns["folding"]),
        "sectors": tuple(columns["sectors"]),
        "selection": _selection.decode(columns["selection"]),
        "timing": Timing.model_validate_json(columns["timing"]),
        "recurring": None if recurring is None else Recurring.model_validate_json(recurring),
        "trial": _trial(columns["trial"]),
        "choice": None if choice is None else Choice.model_validate_json(choice),
        "priority": Priority(columns["priority"]),
        "status": Status(columns["status"]),
        "edited_by": tuple(columns["edited_by"]),
        "acknowledged": tuple(columns["acknowledged"]),
        "tallies": Tallies(**{name: columns[name] for name in _TALLIES}),
    }
    found = Campaign(**{name: value for name, value in columns.items() if name not in _TALLIES} | decoded)
    _ = found.wordings  # parses the texts
    return found


async def _campaigns(tx: AsyncConnection, clauses: str, values: Mapping[str, object]) -> list[Campaign]:
    rows = await tx.execute(text(f"{_CAMPAIGN} {clauses}"), values)
    return [_decoded(row._asdict()) for row in rows]


async def progress_of(tx: AsyncConnection, clauses: str, values: Mapping[str, object]) -> list[Progress]:
    """Return the progress of the campaigns found by `clauses`, on the campaign `c` and the planner's tallies `a`."""
    rows = await tx.execute(text(f"{_PROGRESS} {clauses}"), values)
    return [Progress(**row._asdict() | {"status": Status(row.status)}) for row in rows]


def _stored(content: Content) -> dict[str, object]:
    """Return the content as columns, JSON as text."""
    parts = content.parts
    encoded = {name: msgspec.json.encode(parts[name]).decode() for name in _JSON if parts[name] is not None}
    return parts | encoded


async def insert_campaign(
    tx: AsyncConnection,
    campaign_id: str,
    sender_id: str,
    content: Content,
    *,
    created_by: str,
    created_at: datetime,
    fingerprint: str,
) -> None:
    """Insert a draft with tallies, unless the campaign exists."""
    await tx.execute(
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
            " INSERT INTO campaign_accounts (campaign_id) SELECT campaign_id FROM added"
        ),
        {
            **_stored(content),
            "campaign_id": campaign_id,
            "sender_id": sender_id,
            "created_by": created_by,
            "created_at": created_at,
            "fingerprint": fingerprint,
        },
    )


async def insert_occurrence(
    tx: AsyncConnection, series_id: str, campaign_id: str, send_before: datetime, now: datetime
) -> bool:
    """Insert a draft copied from a recurring campaign; return False if it exists."""
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
    """Set a series' next occurrence, and add to its missed occurrences."""
    await tx.execute(
        text(
            "UPDATE campaign SET at = :at, starts_at = :starts_at, missed = missed + :missed, failures = 0,"
            " retry_at = NULL WHERE campaign_id = :id"
        ),
        {"id": campaign_id, "at": at, "starts_at": starts_at, "missed": missed},
    )


async def find_owner(tx: AsyncConnection, campaign_id: str) -> Owner | None:
    rows = await tx.execute(text("SELECT sender_id FROM campaign WHERE campaign_id = :id"), {"id": campaign_id})
    sender_id = rows.scalar_one_or_none()
    return None if sender_id is None else Owner(sender_id)


async def lock_progress(tx: AsyncConnection, campaign_id: str) -> Progress | None:
    """Lock a campaign, and return its progress."""
    found = await progress_of(tx, "WHERE c.campaign_id = :id FOR UPDATE OF c", {"id": campaign_id})
    return found[0] if found else None


async def read_campaign(tx: AsyncConnection, campaign_id: str, *, lock: bool = False) -> Campaign:
    """Return a campaign known to exist: campaigns are never deleted."""
    [found] = await _campaigns(
        tx, f"WHERE c.campaign_id = :id {'FOR UPDATE OF c' if lock else ''}", {"id": campaign_id}
    )
    return found


async def leave_occurrences(tx: AsyncConnection, series_id: str, paused_because: str) -> None:
    """Detach occurrences paused for this reason from their series.

    An edited series has new content: its resumption must not resume older occurrences.
    """
    await tx.execute(
        text(
            "DELETE FROM campaign_reason AS p USING campaign AS c WHERE c.series_id = :id"
            " AND p.campaign_id = c.campaign_id AND p.kind = 'paused' AND p.reason = :why"
        ),
        {"id": series_id, "why": paused_because},
    )


class Listed(NamedTuple):
    """The campaigns wanted. `series_id`: only occurrences of this recurring campaign. `archived`: only archived ones,
    else none of these."""

    sender_ids: Sequence[str]
    series_id: str | None = None
    status: Status | None = None
    archived: bool = False


async def campaigns_behind(
    tx: AsyncConnection, position: int | None, listed: Listed, limit: int, direction: Direction = NEWEST_FIRST
) -> tuple[list[Campaign], list[int]]:
    """Return a page of campaigns by position, and the position of each row of the page.

    A campaign with unreadable content is logged, and only its position is returned.
    """
    rows = await tx.execute(
        text(
            f"{_CAMPAIGN} WHERE (CAST(:position AS bigint) IS NULL OR c.position {direction.beyond} :position)"
            " AND c.sender_id = ANY(CAST(:sender_ids AS text[])) AND (c.archived_at IS NOT NULL) = :archived"
            " AND (CAST(:series_id AS text) IS NULL OR c.series_id = :series_id)"
            " AND (CAST(:status AS text) IS NULL OR c.status = :status)"
            f" ORDER BY c.position {direction.order} LIMIT :limit"
        ),
        {
            **listed._asdict(),
            "sender_ids": list(listed.sender_ids),
            "status": listed.status.value if listed.status else None,
            "position": position,
            "limit": limit,
        },
    )
    found: list[Campaign] = []
    positions: list[int] = []
    for row in rows:
        positions.append(row.position)
        try:
            found.append(_decoded(row._asdict()))
        except UNREADABLE:
            log.exception("a campaign cannot be read", extra={"campaign_id": row.campaign_id})
    return found, positions


# Whether a delayed campaign may be tried; a `retry_at` beyond the longest pause means a clock set back since.
MAY_BE_TRIED = (
    "(retry_at IS NULL OR retry_at <= :now OR"
    f" retry_at > CAST(:now AS timestamptz) + interval '{LONGEST_PAUSE.total_seconds():.0f} seconds')"
)
# Whether a running campaign may be expanded; a `look_at` beyond LOOK_AHEAD means a clock set back.
AWAKE = f"(look_at IS NULL OR look_at <= :now OR look_at > :beyond) AND {MAY_BE_TRIED}"
# the least turn of the other awake campaigns, or the most where all sleep
_TURN_OF_OTHERS = (
    f"(SELECT coalesce(min(o.turn) FILTER (WHERE {AWAKE}), max(o.turn), 0)"
    " FROM campaign AS o WHERE status = 'running' AND NOT expanded AND o.campaign_id <> :id)"
)


async def set_status(tx: AsyncConnection, campaign_id: str, status: Status, *, controlled: bool, now: datetime) -> int:
    """Set the status of a locked campaign; return the control version.

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


async def set_archived(tx: AsyncConnection, campaign_id: str, at: datetime | None) -> None:
    """Archive a campaign at `at`, or bring the campaign back to the lists. The first time of archiving stays."""
    await tx.execute(
        text(
            "UPDATE campaign SET archived_at = CASE WHEN CAST(:at AS timestamptz) IS NOT NULL"
            " THEN coalesce(archived_at, :at) END WHERE campaign_id = :id"
        ),
        {"id": campaign_id, "at": at},
    )


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
            " agreed_start = :agreed_start, approval_needed = :approval_needed, archived_at = NULL,"
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


async def edit_campaign(tx: AsyncConnection, campaign_id: str, content: Content, by: str) -> None:
    """Replace a locked campaign's content, and clear the start."""
    await tx.execute(
        text(
            "UPDATE campaign SET name = :name, purpose = :purpose, text = :text, language = :language,"
            " translations = CAST(:translations AS jsonb), folding = :folding, sectors = CAST(:sectors AS text[]),"
            " selection = CAST(:selection AS jsonb), rest_days = :rest_days, send_before = :send_before,"
            " timing = CAST(:timing AS jsonb), recurring = CAST(:recurring AS jsonb), trial = CAST(:trial AS jsonb),"
            " priority = :priority, at = NULL, starts_at = NULL, agreed = NULL, archived_at = NULL,"
            " acknowledged = '{}', sent_back = NULL, edited_by ="
            " array_append(array_remove(edited_by, CAST(:by AS text)), CAST(:by AS text))"
            " WHERE campaign_id = :campaign_id"
        ),
        {**_stored(content), "campaign_id": campaign_id, "by": by},
    )


async def take_off_schedule(tx: AsyncConnection, campaign_id: str, why: str) -> None:
    await tx.execute(
        text(
            "UPDATE campaign SET at = NULL, starts_at = NULL, agreed = NULL, acknowledged = '{}', sent_back = :why"
            " WHERE campaign_id = :id"
        ),
        {"id": campaign_id, "why": why},
    )


async def put_off(tx: AsyncConnection, campaign_id: str, status: Status, *, failures: int, retry_at: datetime) -> None:
    """Delay a campaign until `retry_at`.

    A campaign no longer in `status` is left alone: its next step is another.
    """
    await tx.execute(
        text(
            "UPDATE campaign SET failures = :failures, retry_at = :retry_at"
            " WHERE campaign_id = :id AND status = :status"
        ),
        {"id": campaign_id, "status": status.value, "failures": failures, "retry_at": retry_at},
    )


async def set_choice(tx: AsyncConnection, campaign_id: str, choice: Choice, winner: str | None) -> None:
    await tx.execute(
        text("UPDATE campaign SET choice = CAST(:choice AS jsonb), winner = :winner WHERE campaign_id = :id"),
        {"id": campaign_id, "choice": choice.model_dump_json(), "winner": winner},
    )


async def keep_place(
    tx: AsyncConnection,
    campaign_id: str,
    cursor: str,
    *,
    expanded: bool,
    look_at: datetime | None,
    next_slot: datetime | None,
    repeat_at: datetime | None,
    turn: int,
    now: datetime,
) -> None:
    """Store how far a campaign is requested, when to return or to repeat requests, and the turns used.

    A campaign that was asleep first moves up to the turns of the others, so as not to claim missed turns.
    """
    await tx.execute(
        text(
            "UPDATE campaign SET cursor = :cursor, expanded = :expanded, look_at = :look_at, next_slot = :next_slot,"
            " repeat_at = CASE WHEN repeats > 0 THEN repeat_at"
            " ELSE least(repeat_at, CAST(:repeat_at AS timestamptz)) END,"
            " turn = :turn + CASE WHEN coalesce(look_at, retry_at) IS NULL THEN turn"
            f" ELSE greatest(turn, {_TURN_OF_OTHERS}) END, failures = 0, retry_at = NULL WHERE campaign_id = :id"
        ),
        {
            "id": campaign_id,
            "cursor": cursor,
            "expanded": expanded,
            "look_at": look_at,
            "next_slot": next_slot,
            "repeat_at": repeat_at,
            "turn": turn,
            "now": now,
            "beyond": now + LOOK_AHEAD,
        },
    )


async def set_repeats(
    tx: AsyncConnection,
    campaign_id: str,
    repeats: int,
    repeat_at: datetime,
    next_slot: datetime | None,
    *,
    page_at: datetime | None,
    page_size: int,
) -> None:
    """Store the repeats of a locked campaign's requests; `next_slot` `None`: unchanged.

    Without an undecided recipient no request is left to repeat.
    """
    await tx.execute(
        text(
            "UPDATE campaign AS c SET repeats = :repeats, page_at = :page_at, page_size = :page_size,"
            f" repeat_at = CASE WHEN {UNDECIDED} > 0 THEN CAST(:repeat_at AS timestamptz) END,"
            " next_slot = coalesce(:next_slot, next_slot),"
            # the next chunk shows whether a step that requests recipients still fails
            " failures = CASE WHEN expanded THEN 0 ELSE failures END,"
            " retry_at = CASE WHEN NOT expanded THEN retry_at END WHERE c.campaign_id = :id"
        ),
        {
            "id": campaign_id,
            "repeats": repeats,
            "repeat_at": repeat_at,
            "next_slot": next_slot,
            "page_at": page_at,
            "page_size": page_size,
        },
    )
